//! What is wrong with a file that parses: words that mean nothing, limits that will not hold, things claimed twice.

use std::collections::{HashMap, HashSet};

use toml::Spanned;

use super::{
    TenantSources,
    config::ServerConfig,
    diagnostic::{Diagnostic, Source},
    files,
    host::HostName,
    limits::{self, ceilings_of},
    manifest::{RawLimits, RawManifest},
    origin::Origin,
    parse::nearest,
    tenant::RawTenant,
};
use crate::id::FunctionName;

/// The platform's own settings against each other.
pub(super) fn config(source: &Source, config: &ServerConfig) -> Vec<Diagnostic> {
    let mut told = Vec::new();
    let server = &config.server;
    if server.listen == server.ops_listen && server.listen.port() != 0 {
        let message = format!("`server.listen` and `server.ops-listen` are both {}", server.listen);
        told.push(
            Diagnostic::fault(message)
                .in_file(source)
                .hint("the ops listener is plain HTTP and needs an address of its own"),
        );
    }
    let (usual, most) = (&config.defaults, &config.limits);
    let mut above = |name: &str, usual: String, most: String, is_above: bool| {
        if is_above {
            let message =
                format!("`defaults.{name}` is {usual}, but the ceiling `limits.{name}` of {most} holds");
            told.push(Diagnostic::warning(message).in_file(source));
        }
    };
    above("cpu", usual.cpu.to_string(), most.cpu.to_string(), usual.cpu > most.cpu);
    above("wall", usual.wall.to_string(), most.wall.to_string(), usual.wall > most.wall);
    above("memory", usual.memory.to_string(), most.memory.to_string(), usual.memory > most.memory);
    above("response", usual.response.to_string(), most.response.to_string(), usual.response > most.response);
    let concurrency = usual.concurrency > most.concurrency;
    above("concurrency", usual.concurrency.to_string(), most.concurrency.to_string(), concurrency);
    told
}

/// One `tenant.toml`.
pub(super) fn tenant(source: &Source, raw: &RawTenant, config: &ServerConfig, told: &mut Vec<Diagnostic>) {
    limits::check(source, &raw.ceilings, &[(&ceilings_of(config), "the platform's")], told);
    raw.cors.check(source, told);
    hosts(source, raw, config, told);
    if raw.issuers.len() > MAX_ISSUERS {
        told.push(Diagnostic::fault(format!("more than {MAX_ISSUERS} issuers")).in_file(source));
    }
    let mut seen = HashMap::new();
    for issuer in raw.issuers.iter().take(MAX_ISSUERS).map(Spanned::get_ref) {
        let claim = (issuer.issuer.get_ref(), issuer.tenant_value.as_ref().map(Spanned::get_ref));
        if seen.insert(claim, ()).is_some() {
            let message = format!("issuer `{}` is listed twice", issuer.issuer.get_ref());
            told.push(Diagnostic::fault(message).at(source, issuer.issuer.span()));
        }
    }
}

/// Hosts, and what goes with them.
fn hosts(source: &Source, raw: &RawTenant, config: &ServerConfig, told: &mut Vec<Diagnostic>) {
    if raw.hosts.len() > MAX_HOSTS {
        told.push(Diagnostic::fault(format!("more than {MAX_HOSTS} hosts")).in_file(source));
    }
    let platform = config.server.origin.as_ref().map(Origin::host);
    let mut seen = HashSet::new();
    for host in raw.hosts.iter().take(MAX_HOSTS) {
        let name = host.get_ref();
        let wrong = if !seen.insert(name) {
            format!("host `{name}` is listed twice")
        } else if platform == Some(name.as_str()) {
            format!("host `{name}` is the gateway's own, by `[server] origin` in sandgate.toml")
        } else {
            continue;
        };
        told.push(Diagnostic::fault(wrong).at(source, host.span()));
    }
    let named = [("client-ca", &raw.client_ca), ("client-crl", &raw.client_crl)];
    for (key, path) in named.into_iter().filter_map(|(key, path)| Some((key, path.as_ref()?))) {
        let (fault, hint) = if !files::is_plain(path.get_ref()) {
            (format!("`{key}` is no file under `certs/`"), "write its path from there, without `..`")
        } else if raw.hosts.is_empty() {
            let hint = "client certificates are asked for at a tenant's own `hosts` only";
            (format!("`{key}` is of no use without `hosts`"), hint)
        } else if raw.client_ca.is_none() {
            let hint = "a list of revoked certificates goes with the authorities that issue them";
            (format!("`{key}` is of no use without `client-ca`"), hint)
        } else {
            continue;
        };
        told.push(Diagnostic::fault(fault).at(source, path.span()).hint(hint));
    }
}

/// Hosts that two tenants list: a call of one would be a call of the other.
pub(super) fn shared_hosts<'a>(tenants: impl Iterator<Item = &'a TenantSources>) -> Vec<Diagnostic> {
    let mut told = Vec::new();
    let mut owners: HashMap<&HostName, &TenantSources> = HashMap::new();
    for tenant in tenants {
        for host in tenant.raw.iter().flat_map(|raw| &raw.hosts) {
            let owner = *owners.entry(host.get_ref()).or_insert(tenant);
            if owner.name != tenant.name && told.len() < MAX_TOLD {
                let message = format!("host `{}` is also tenant `{}`'s", host.get_ref(), owner.name);
                let fault = Diagnostic::fault(message).at(&tenant.toml, host.span());
                told.push(fault.hint("a host serves one tenant: take it out of one of the two"));
            }
        }
    }
    told
}

/// One `function.toml`.
pub(super) fn manifest(
    source: &Source,
    raw: &RawManifest,
    config: &ServerConfig,
    ceilings: &RawLimits,
    told: &mut Vec<Diagnostic>,
) {
    methods(source, raw, told);
    labels(source, raw, told);
    let platform = ceilings_of(config);
    limits::check(source, &raw.limits, &[(ceilings, "the tenant's"), (&platform, "the platform's")], told);
    let most = Some(Spanned::new(0..0, config.events.max_bytes));
    limits::cut(source, "max-bytes", &raw.event.max_bytes, &most, "the platform's", told);
}

/// Issuers, or (issuer, value of the tenant claim) pairs, that two tenants claim: a token would belong to both.
pub(super) fn shared_issuers<'a>(tenants: impl Iterator<Item = &'a TenantSources>) -> Vec<Diagnostic> {
    struct Claimed<'a> {
        first: &'a TenantSources,
        pointer: Option<&'a str>,
        values: HashMap<&'a str, &'a TenantSources>,
    }
    let mut told = Vec::new();
    let mut issuers: HashMap<&str, Claimed<'_>> = HashMap::new();
    for tenant in tenants {
        for issuer in tenant.raw.iter().flat_map(|raw| &raw.issuers).map(Spanned::get_ref) {
            let pointer = issuer.tenant_claim.as_ref().map(|pointer| pointer.get_ref().as_str());
            let value = issuer.tenant_value.as_ref().map_or(tenant.name.as_str(), |value| value.get_ref());
            let claimed = issuers.entry(issuer.issuer.get_ref()).or_insert_with(|| Claimed {
                first: tenant,
                pointer,
                values: HashMap::new(),
            });
            let other = match claimed.values.get(value) {
                Some(other) => *other,
                None if pointer.is_none() || claimed.pointer != pointer => claimed.first,
                None => tenant,
            };
            claimed.values.entry(value).or_insert(tenant);
            if other.name != tenant.name && told.len() < MAX_TOLD {
                let message =
                    format!("issuer `{}` is also tenant `{}`'s", issuer.issuer.get_ref(), other.name);
                let hint = "tenants share an issuer only where each names the same `tenant-claim` and a \
                            `tenant-value` of its own";
                told.push(Diagnostic::fault(message).at(&tenant.toml, issuer.issuer.span()).hint(hint));
            }
        }
    }
    told
}

fn methods(source: &Source, raw: &RawManifest, told: &mut Vec<Diagnostic>) {
    let methods = raw.methods.get_ref();
    if methods.is_empty() {
        let message = "a function that answers no method can never be called";
        told.push(Diagnostic::fault(message).at(source, raw.methods.span()));
    }
    for (at, method) in methods.iter().enumerate() {
        let name = method.get_ref().as_str();
        let fault = |message: String| Diagnostic::fault(message).at(source, method.span());
        if matches!(name, "CONNECT" | "TRACE" | "OPTIONS") {
            told.push(
                fault(format!("a function cannot answer `{name}`")).hint(format!("one of: {METHODS_LIST}")),
            );
        } else if !METHODS.contains(&name) {
            let hint = match nearest(&name.to_ascii_uppercase(), METHODS) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => format!("one of: {METHODS_LIST}"),
            };
            told.push(fault(format!("unknown method `{name}`")).hint(hint));
        } else if methods.iter().take(at).any(|earlier| earlier.get_ref() == name) {
            told.push(fault(format!("method `{name}` is listed twice")));
        }
        if at > METHODS.len() {
            // All after this are unknown or listed twice, and there may be many.
            break;
        }
    }
}

fn labels(source: &Source, raw: &RawManifest, told: &mut Vec<Diagnostic>) {
    if raw.labels.len() > MAX_LABELS {
        told.push(Diagnostic::fault(format!("more than {MAX_LABELS} labels")).in_file(source));
    }
    for label in raw.labels.iter().take(MAX_LABELS) {
        // A label is a word of policies, like a name.
        if label.get_ref().parse::<FunctionName>().is_err() {
            let fault = Diagnostic::fault(format!("`{}` is not a label", label.get_ref()));
            let hint = "a label is 1 to 63 of a-z, 0-9 and `-`, and does not begin with `-`";
            told.push(fault.at(source, label.span()).hint(hint));
        }
    }
}

/// Methods that a function may answer (hardening C9: neither `CONNECT` nor `TRACE`). `OPTIONS` is left out as well: it
/// asks what is here without a credential, and nothing is told without one.
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
const METHODS_LIST: &str = "`GET`, `HEAD`, `POST`, `PUT`, `PATCH`, `DELETE`";

const MAX_LABELS: usize = 32;
const MAX_ISSUERS: usize = 64;
const MAX_HOSTS: usize = 64;
/// Most faults told of shared issuers: 10 000 tenants with one issuer need not be told 10 000 times.
const MAX_TOLD: usize = 20;
