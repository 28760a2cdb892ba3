//! Whether the gateway may be sent traffic, and what is wrong all the same.

use std::{fmt, sync::Arc};

use super::Gateway;
use crate::{authn::KeySetState, id::TenantName, site::diagnostic::Diagnostic};

/// For `/readyz`, people and machines.
#[derive(Debug)]
pub struct Readiness {
    /// Whether what is in force serves.
    pub ready: bool,
    /// The revision in force.
    pub revision: Arc<str>,
    /// Why a newer platform part is not in force.
    pub platform: Vec<Diagnostic>,
    /// What is wrong with tenants' parts.
    pub tenants: Vec<(TenantName, Diagnostic)>,
    /// Tenants of whom nothing is served.
    pub unserved: Vec<TenantName>,
    /// Issuers whose keys could not be had.
    pub keys: Vec<String>,
}

/// Most lines of each kind: the text is for a person, and the site may have thousands of tenants.
const MAX_LINES: usize = 50;

impl Gateway {
    /// How it stands.
    pub fn readiness(&self) -> Readiness {
        let revision = self.revision();
        let mut unserved: Vec<TenantName> = revision.unserved().cloned().collect();
        unserved.sort();
        let mut tenants: Vec<(TenantName, Diagnostic)> = revision
            .diagnostics()
            .filter(|(_, d)| d.is_fault())
            .map(|(name, d)| (name.clone(), d.clone()))
            .collect();
        tenants.sort_by(|(a, _), (b, _)| a.cmp(b));
        let keys = revision
            .serving()
            .flat_map(|tenant| tenant.authenticator.health())
            .filter(|health| matches!(health.state, KeySetState::Stale | KeySetState::Unavailable))
            .map(|health| {
                let why = health.last_error.as_deref().unwrap_or("not fetched");
                format!("tenant {} issuer {}: {why}", health.tenant, health.issuer)
            })
            .collect();
        Readiness {
            // One tenant's fault must not take the gateway out of a balancer for all the others.
            ready: !self.is_closing(),
            revision: Arc::clone(revision.id()),
            platform: self.platform_faults().to_vec(),
            tenants,
            unserved,
            keys,
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", if self.ready { "ready" } else { "closing" })?;
        writeln!(f, "revision: {}", self.revision)?;
        for diagnostic in self.platform.iter().take(MAX_LINES) {
            writeln!(f, "platform part refused: {}", diagnostic.one_line())?;
        }
        for (tenant, diagnostic) in self.tenants.iter().take(MAX_LINES) {
            let state = if self.unserved.contains(tenant) { "unavailable" } else { "last good part serves" };
            writeln!(f, "tenant {tenant} ({state}): {}", diagnostic.one_line())?;
        }
        for key in self.keys.iter().take(MAX_LINES) {
            writeln!(f, "keys: {key}")?;
        }
        Ok(())
    }
}
