//! What `doctor` says of certificates: the gateway's own, those of tenants' hosts, and what judges their clients.

use std::time::SystemTime;

use super::{Finding, Subject};
use crate::{
    id::TenantName,
    site::{Site, diagnostic::with_causes},
    tls::{self, Hosts, Needed, OwnPair, TlsError, Validity},
};

/// Everything that ends, judged as `serve` would: it takes no chain without its key.
pub(super) fn findings(site: &Site, now: SystemTime) -> Vec<Finding> {
    let mut findings = vec![own(site, now)];
    for (name, tenant) in &site.tenants {
        if tenant.raw.is_none() {
            let advice =
                format!("`policies/{name}/tenant.toml` cannot be read: `sandgate check` tells what is wrong");
            findings.push(Finding::new("hosts", format!("of {name}: unknown")).should_if(true, advice));
            continue;
        }
        let hosts = Hosts { site, tenant, before: &[], development: false, now };
        findings.extend(hosts.validity().into_iter().map(|one| of_tenant(name, one, now)));
    }
    findings
}

fn own(site: &Site, now: SystemTime) -> Finding {
    match OwnPair::of(&site.dir, &site.platform.config).served_until(now) {
        Ok(end) => ends("certificate", None, end, now),
        Err(error) => unusable("certificate", None, &error, "`serve` does not start without it"),
    }
}

fn of_tenant(tenant: &TenantName, Validity { needed, until }: Validity, now: SystemTime) -> Finding {
    let subject = |name: &str| Some(Subject { tenant: tenant.clone(), name: name.to_owned() });
    match (needed, until) {
        (Needed::Host(host), Ok(end)) => ends("host", subject(host.as_str()), end, now),
        (Needed::Host(host), Err(error)) => {
            unusable("host", subject(host.as_str()), &error, "by that name nobody is served")
        }
        (Needed::Authorities(file) | Needed::LeftOut(file), Ok(end)) => {
            ends("client-ca", subject(&file), end, now)
        }
        (Needed::Authorities(file), Err(error)) => {
            unusable("client-ca", subject(&file), &error, "the tenant's hosts are not served without it")
        }
        (Needed::LeftOut(file), Err(error)) => {
            Finding::about("client-ca", subject(&file), format!("one of it {}", state(&error)))
                .should_if(true, "take it out of the file: it vouches for nobody")
        }
        (Needed::Revocations(file), Ok(end)) => {
            let left = end.duration_since(now).unwrap_or_default();
            // Lists are made anew every few days or hours; that one is close to its end says little.
            Finding::about(
                "client-crl",
                subject(&file),
                format!("out of date in {} h", left.as_secs() / 3600),
            )
            .until(end)
            .should_if(left.as_secs() < 86_400, "have the next one ready: without it no client is let in")
        }
        (Needed::Revocations(file), Err(error)) => {
            unusable("client-crl", subject(&file), &error, "the tenant's hosts are not served without it")
        }
    }
}

fn ends(what: &'static str, subject: Option<Subject>, end: SystemTime, now: SystemTime) -> Finding {
    let days = end.duration_since(now).unwrap_or_default().as_secs() / 86_400;
    Finding::about(what, subject, format!("ends in {days} days"))
        .until(end)
        .should_if(end <= now + tls::NEAR, "renew it; the gateway takes a new one without a restart")
}

fn unusable(what: &'static str, subject: Option<Subject>, error: &TlsError, so: &str) -> Finding {
    Finding::about(what, subject, state(error)).must_if(true, format!("{}; {so}", with_causes(error)))
}

fn state(error: &TlsError) -> &'static str {
    match error {
        TlsError::Expired { .. } => "has ended",
        TlsError::NotYetValid { .. } => "is not valid yet",
        _ => "cannot be used",
    }
}
