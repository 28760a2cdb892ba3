//! A revision: an immutable, validated snapshot of a site. One platform part, and one part for each tenant.

use std::{collections::HashMap, fmt, sync::Arc};

use http::HeaderValue;

use super::Refusal;
use crate::{
    authn::Authenticator,
    authz::{Authorizer, KnownNames, Platform, TenantPolicies},
    event::{EventRules, ReplyRules},
    id::{FunctionId, FunctionName, TenantName},
    record::FunctionMetrics,
    sandbox::Runner,
    site::{diagnostic::Diagnostic, fingerprint::Fingerprint, host::HostName, manifest::RawManifest},
    tls::Host,
};

/// What is in force.
pub struct Revision {
    pub(super) id: Arc<str>,
    pub(super) platform: Arc<Platform>,
    pub(super) platform_fingerprint: Fingerprint,
    pub(super) tenants: HashMap<TenantName, Part>,
    /// Of all tenants: each of one only.
    pub(super) hosts: HashMap<HostName, Arc<Host>>,
}

/// A tenant's part.
#[derive(Clone)]
pub(super) struct Part {
    /// What is served: this revision's, or an earlier one's if this one's is faulty.
    pub(super) serving: Option<Arc<Tenant>>,
    /// What is wrong with this revision's.
    pub(super) diagnostics: Arc<[Diagnostic]>,
    /// Of the sources that `diagnostics` speaks of.
    pub(super) fingerprint: Fingerprint,
    /// Whether components of it are still being compiled: it is to be built again, though nothing changes.
    pub(super) is_unfinished: bool,
}

/// Everything of one tenant that serves requests.
pub struct Tenant {
    /// Its name.
    pub name: TenantName,
    /// Names this part in records: the first half of its fingerprint.
    pub revision: Arc<str>,
    /// Who its callers are.
    pub authenticator: Authenticator,
    /// What they may do.
    pub policies: Arc<TenantPolicies>,
    /// What there is to do it with.
    pub known: KnownNames,
    /// Tags whose values records hold only as a keyed hash.
    pub redact: Vec<Arc<str>>,
    /// Origins whose scripts may call it from a browser, as browsers send them.
    pub origins: Vec<HeaderValue>,
    /// Its own names.
    pub hosts: Vec<Arc<Host>>,
    pub(super) functions: HashMap<FunctionName, Arc<Function>>,
}

/// Everything of one function that serves requests: a field a stage.
pub struct Function {
    /// Its full name.
    pub id: FunctionId,
    /// Its manifest, as written.
    pub manifest: Arc<RawManifest>,
    /// Who may invoke it.
    pub authorizer: Authorizer,
    /// What it takes.
    pub events: EventRules,
    /// What it may answer.
    pub replies: ReplyRules,
    /// What runs.
    pub runner: Runner,
    /// What is counted for it.
    pub metrics: FunctionMetrics,
}

impl Revision {
    /// Names the revision: the first half of the site's fingerprint.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The platform's schema and guardrails.
    pub fn platform(&self) -> &Arc<Platform> {
        &self.platform
    }

    /// The part that serves a tenant.
    pub fn tenant(&self, name: &TenantName) -> Result<&Arc<Tenant>, Refusal> {
        let part = self.tenants.get(name).ok_or_else(|| Refusal::UnknownTenant(name.clone()))?;
        part.serving.as_ref().ok_or_else(|| Refusal::FaultyTenant(name.clone()))
    }

    /// The tenant's host of that name, in lower case.
    pub fn host(&self, name: &str) -> Option<&Arc<Host>> {
        self.hosts.get(name)
    }

    /// All hosts of tenants, in no order.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.hosts.values()
    }

    /// Every part that serves, in no order.
    pub fn serving(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.tenants.values().filter_map(|part| part.serving.as_ref())
    }

    /// What is wrong, tenant by tenant.
    pub fn diagnostics(&self) -> impl Iterator<Item = (&TenantName, &Diagnostic)> {
        self.tenants.iter().flat_map(|(name, part)| part.diagnostics.iter().map(move |d| (name, d)))
    }

    /// Tenants without anything that could be served.
    pub fn unserved(&self) -> impl Iterator<Item = &TenantName> {
        self.tenants.iter().filter(|(_, part)| part.serving.is_none()).map(|(name, _)| name)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revision")
            .field("id", &self.id)
            .field("tenants", &self.tenants.len())
            .finish_non_exhaustive()
    }
}

impl Tenant {
    /// One of its functions.
    pub fn function(&self, name: &FunctionName) -> Result<&Arc<Function>, Refusal> {
        self.functions.get(name).ok_or_else(|| {
            Refusal::UnknownFunction(FunctionId { tenant: self.name.clone(), function: name.clone() })
        })
    }

    /// All of its functions, in no order.
    pub fn functions(&self) -> impl Iterator<Item = &Arc<Function>> {
        self.functions.values()
    }
}
