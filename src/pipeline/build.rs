//! From a site as written to a revision as meant. Whatever can fail does so here, before it is in force.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use toml::Spanned;

use super::{
    admitting::{Admitting, Components, Patience},
    revision::{Function, Part, Revision, Tenant},
};
use crate::{
    authn::{self, Authenticator, DevKeys, Revocations},
    authz::{Authorizer, KnownNames, Platform, TenantPolicies, run_trials, unreadable_trials},
    event::{BodyBounds, EventRules, ReplyRules, Schemas, Written},
    id::TenantName,
    record::Metrics,
    sandbox::Sandbox,
    site::{
        Folder, FunctionSources, NamedFile, Site, TenantSources,
        config::{Isolation, ServerConfig},
        diagnostic::{Diagnostic, Source},
        host::HostName,
        limits::Limits,
        manifest::RawLimits,
        origin::Origin,
        spread::spread,
        tenant::RawTenant,
        units::Bytes,
    },
    tls::{Host, Hosts},
};

/// What revisions are built with: it outlives them all.
pub struct Builder {
    /// Compiles and runs components.
    pub sandbox: Arc<Sandbox>,
    /// Verified tokens and remote key sets.
    pub shared: Arc<authn::Shared>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether issuers of local work are taken.
    pub development: bool,
    /// Schemas in use.
    pub schemas: Schemas,
    /// How long compiling holds a revision up.
    pub patience: Patience,
}

/// A platform part that cannot be in force, and why.
#[derive(Debug)]
pub struct FaultyPlatform(pub Vec<Diagnostic>);

impl Builder {
    /// Builds a revision. A tenant's faulty part leaves `previous`'s in force; a faulty platform part refuses all.
    ///
    /// Gives the platform's warnings beside the revision; those of tenants are in their parts.
    pub fn build(
        &self,
        site: &Site,
        previous: Option<&Revision>,
    ) -> Result<(Arc<Revision>, Vec<Diagnostic>), FaultyPlatform> {
        let mut diagnostics = site.platform.diagnostics.clone();
        diagnostics.extend(site.strays.values().cloned().map(stray));
        let unchanged =
            previous.filter(|revision| revision.platform_fingerprint == site.platform.fingerprint);
        let platform = match unchanged {
            Some(revision) => Some(Arc::clone(&revision.platform)),
            None => {
                let (platform, told) = Platform::compile(&site.platform.schema, &site.platform.guardrails);
                diagnostics.extend(told);
                platform
            }
        };
        let faulty = site.platform.is_faulty();
        let Some(platform) = platform.filter(|_| !faulty) else { return Err(FaultyPlatform(diagnostics)) };
        diagnostics.extend(platform.unknown_names(|tenant, function| {
            let has = |tenant: &Arc<TenantSources>| {
                function.is_none_or(|function| tenant.functions.contains_key(function))
            };
            site.tenants.get(tenant).is_some_and(has)
        }));

        let tenants: Vec<(&TenantName, &Arc<TenantSources>)> = site.tenants.iter().collect();
        let components = Components::default();
        let patience = if previous.is_some() { self.patience.later } else { self.patience.first };
        let parts = spread(
            &tenants,
            usize::MAX,
            || (),
            |(), (name, sources)| {
                let old = previous.and_then(|revision| revision.tenants.get(*name));
                let is_same = |part: &&Part| part.fingerprint == sources.fingerprint && !part.is_unfinished;
                let kept = unchanged.and(old).filter(is_same);
                let part = match kept {
                    Some(part) => part.clone(),
                    None => self.part(sources, &platform, site, old, &components, patience),
                };
                revoke(&part, sources);
                ((*name).clone(), part)
            },
        );
        let parts: HashMap<TenantName, Part> = parts.into_iter().collect();
        let hosts = hosts(site, &parts, previous);
        let id: String = site.fingerprint.to_string().chars().take(REVISION_CHARS).collect();
        let revision = Revision {
            id: id.into(),
            platform,
            platform_fingerprint: site.platform.fingerprint,
            tenants: parts,
            hosts,
        };
        Ok((Arc::new(revision), diagnostics))
    }

    fn part(
        &self,
        sources: &TenantSources,
        platform: &Arc<Platform>,
        site: &Site,
        old: Option<&Part>,
        components: &Components,
        patience: Duration,
    ) -> Part {
        let mut diagnostics = sources.diagnostics.clone();
        let admitting = Admitting::new(&self.sandbox, components, patience);
        let tenant = self.tenant(sources, platform, site, &admitting, &mut diagnostics);
        let sound = !diagnostics.iter().any(Diagnostic::is_fault);
        let before = old.and_then(|part| part.serving.as_ref()).map_or(&[][..], |tenant| &tenant.hosts);
        let hosts =
            Hosts { site, tenant: sources, before, development: self.development, now: SystemTime::now() };
        // A host that cannot be served keeps nobody from the tenant's other ways in, and no policy from being in force.
        let (hosts, told) = hosts.compile();
        diagnostics.extend(told);
        let tenant = tenant.map(|tenant| Tenant { hosts, ..tenant });
        let serving = match tenant.filter(|_| sound) {
            Some(tenant) => Some(Arc::new(tenant)),
            None => old.and_then(|part| part.serving.clone()),
        };
        let is_unfinished = admitting.is_unfinished();
        Part { serving, diagnostics: diagnostics.into(), fingerprint: sources.fingerprint, is_unfinished }
    }

    /// Every stage compiles its own, and all of them tell what is wrong, however many are.
    fn tenant(
        &self,
        sources: &TenantSources,
        platform: &Arc<Platform>,
        site: &Site,
        admitting: &Admitting<'_>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Tenant> {
        let raw = sources.raw.as_ref();
        let authenticator = raw.and_then(|raw| self.authenticator(sources, raw, site, diagnostics));
        // One that could not be read is among the faults already.
        let revoked = sources.revoked.as_ref().ok().and_then(Option::as_ref);
        let revocations = revoked.map(Revocations::parse).transpose().unwrap_or_else(|fault| {
            diagnostics.push(fault);
            None
        });

        let known = known_names(sources);
        let (policies, told) = TenantPolicies::compile(platform, &sources.name, &sources.policies, &known);
        diagnostics.extend(told);
        match (&policies, &sources.tests) {
            (Some(policies), Some(tests)) => {
                diagnostics.extend(run_trials(policies, &known, tests).diagnostics);
            }
            (None, Some(tests)) => diagnostics.extend(unreadable_trials(tests)),
            (_, None) => {}
        }
        if let Some(policies) = &policies {
            for id in policies.uncallable(known.functions.keys()) {
                let file = sources.functions.get(&id.function).map(|function| &function.toml);
                let warning = Diagnostic::warning(format!("no policy permits anybody to invoke `{id}`"))
                    .hint(format!("a `permit` in `policies/{}/` makes it callable", sources.name));
                diagnostics.push(match file {
                    Some(file) => warning.in_file(file),
                    None => warning,
                });
            }
        }
        let mut functions = HashMap::with_capacity(sources.functions.len());
        let config = &site.platform.config;
        let ceilings = raw.map(|raw| raw.ceilings.clone()).unwrap_or_default();
        let around = Around {
            config,
            ceilings: &ceilings,
            origin: config.server.origin.clone().map(Arc::new),
            isolation: config.sandbox.isolation.max(raw.map(|raw| raw.isolation).unwrap_or_default()),
            folder: sources.functions_folder(),
            admitting,
        };
        for (name, function) in &sources.functions {
            if let Some(function) = self.function(function, policies.as_ref(), &around, diagnostics) {
                functions.insert(name.clone(), Arc::new(function));
            }
        }
        // Whatever kept the tenant from being one, all that is wrong with it has been told.
        let (raw, authenticator) = (raw?, authenticator?);
        authenticator.revoke(revocations.unwrap_or_default());
        Some(Tenant {
            name: sources.name.clone(),
            revision: sources.fingerprint.to_string().chars().take(REVISION_CHARS).collect::<String>().into(),
            authenticator,
            policies: policies?,
            known,
            origins: raw.cors.origins.iter().filter_map(|o| o.get_ref().parse().ok()).collect(),
            redact: raw.redact.iter().map(|tag| tag.get_ref().as_str().into()).collect(),
            hosts: Vec::new(),
            functions,
        })
    }

    fn authenticator(
        &self,
        sources: &TenantSources,
        raw: &RawTenant,
        site: &Site,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Authenticator> {
        let files = |path: &str| {
            let path = raw
                .issuers
                .iter()
                .map(|issuer| &issuer.get_ref().keys)
                .find(|keys| keys.get_ref() == path)?;
            sources.open_text(path, KEY_SET_BYTES).ok()
        };
        let dev_files = |name: &str| {
            let path = format!("{}/{name}", authn::dev::DIRECTORY);
            std::fs::read_to_string(site.dir.join(&path)).ok().map(|text| Source::new(path, text))
        };
        let dev = if self.development { DevKeys::Allowed(&dev_files) } else { DevKeys::Refused };
        let origin = site.platform.config.server.origin.as_ref();
        let (authenticator, told) =
            Authenticator::compile(&sources.name, raw, &sources.toml, &files, dev, origin, &self.shared);
        diagnostics.extend(told);
        authenticator
    }

    fn function(
        &self,
        sources: &FunctionSources,
        policies: Option<&Arc<TenantPolicies>>,
        around: &Around<'_>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Function> {
        let manifest = sources.raw.as_ref()?;
        let config = around.config;
        let limits = Limits::in_force(config, around.ceilings, manifest);
        let mut unopened = Vec::new();
        let mut schema = |named: Option<&Spanned<String>>| match around
            .open(sources, named?)
            .and_then(|file| file.text(SCHEMA_BYTES))
        {
            Ok(source) => Some(source),
            Err(fault) => {
                unopened.push(fault);
                None
            }
        };
        let event = schema(manifest.event.schema.as_ref());
        let query = schema(manifest.event.query.as_ref());
        let response = schema(manifest.response.schema.as_ref());
        let written = Written {
            function: &sources.id,
            manifest,
            manifest_source: &sources.toml,
            event_schema: event.as_ref(),
            query_schema: query.as_ref(),
            response_schema: response.as_ref(),
        };
        let most = BodyBounds {
            max_bytes: limits.event.value.0,
            time: config.server.body_timeout.0,
            min_rate: config.server.min_rate.0,
        };
        let (events, mut told) = EventRules::compile_among(written, most, &self.schemas);
        let (replies, of_replies) =
            ReplyRules::compile_among(written, limits.response.value.0, &self.schemas);
        told.extend(of_replies);
        // A file that does not open is told once, with the reason.
        told.retain(|told| !unopened.iter().any(|fault| fault.source == told.source));
        diagnostics.extend(unopened);
        diagnostics.extend(told);
        let component = around.open(sources, &manifest.component);
        let component = component.and_then(|file| around.admitting.admit(file, sources, manifest, config));
        let component = match component {
            Ok(component) => Some(component),
            Err(fault) => {
                diagnostics.push(fault);
                None
            }
        };
        let labels = manifest.labels.iter().map(|label| label.get_ref().as_str().into()).collect();
        Some(Function {
            id: sources.id.clone(),
            manifest: Arc::clone(manifest),
            authorizer: Authorizer::new(policies?, sources.id.function.clone(), labels),
            events: events?.at(around.origin.clone()),
            replies: replies?,
            runner: match around.isolation {
                Isolation::Shared => self.sandbox.runner(sources.id.clone(), component?, limits),
                Isolation::Process => self.sandbox.isolated_runner(sources.id.clone(), component?, limits),
            },
            metrics: self.metrics.function(&sources.id.tenant, &sources.id.function),
        })
    }
}

/// What a tenant's functions are built with.
struct Around<'a> {
    config: &'a ServerConfig,
    ceilings: &'a RawLimits,
    isolation: Isolation,
    /// Where callers find the gateway, if the operator says it.
    origin: Option<Arc<Origin>>,
    folder: Option<Folder>,
    admitting: &'a Admitting<'a>,
}

impl Around<'_> {
    fn open<'a>(
        &self,
        sources: &'a FunctionSources,
        path: &'a Spanned<String>,
    ) -> Result<NamedFile<'a>, Diagnostic> {
        match &self.folder {
            Some(folder) => sources.open_in(folder, path),
            None => sources.open(path),
        }
    }
}

/// Every host that serves, by name.
///
/// What a faulty part still serves of before may be another tenant's by now: a host is whose tenant.toml lists it, or else
/// whose it was.
fn hosts(
    site: &Site,
    parts: &HashMap<TenantName, Part>,
    previous: Option<&Revision>,
) -> HashMap<HostName, Arc<Host>> {
    let listed = site.tenants.iter().flat_map(|(tenant, sources)| {
        let hosts = sources.raw.iter().flat_map(|raw| &raw.hosts);
        hosts.map(move |host| (host.get_ref(), tenant))
    });
    let owners: HashMap<&HostName, &TenantName> = listed.collect();
    let mut hosts = HashMap::new();
    for host in parts.values().filter_map(|part| part.serving.as_ref()).flat_map(|tenant| &tenant.hosts) {
        let before =
            || previous.and_then(|revision| revision.hosts.get(host.name())).map(|host| host.tenant());
        let owner = owners.get(host.name()).copied().or_else(before);
        if owner.is_none_or(|owner| owner == host.tenant()) {
            hosts.insert(host.name().clone(), Arc::clone(host));
        }
    }
    hosts
}

/// Puts a tenant's revocations in force, whatever became of the rest of its part.
///
/// A file that cannot be read, or not understood, leaves those of before in force, and is told.
pub(super) fn revoke(part: &Part, sources: &TenantSources) {
    let (Some(tenant), Ok(revoked)) = (&part.serving, &sources.revoked) else { return };
    match revoked.as_ref().map(Revocations::parse).transpose() {
        Ok(revocations) => tenant.authenticator.revoke(revocations.unwrap_or_default()),
        Err(fault) => tracing::error!(tenant.id = %sources.name, "{}", fault.one_line()),
    }
}

/// What exists at a tenant, for its policies. What `tenant.toml` would say is not known while it is faulty.
pub fn known_names(sources: &TenantSources) -> KnownNames {
    let labels = |function: &FunctionSources| -> BTreeSet<Arc<str>> {
        let labels = function.raw.iter().flat_map(|manifest| &manifest.labels);
        labels.map(|label| label.get_ref().as_str().into()).collect()
    };
    let tags = |raw: &RawTenant| {
        raw.issuers.iter().flat_map(|issuer| issuer.get_ref().tags.keys().cloned()).collect()
    };
    KnownNames {
        functions: sources
            .functions
            .iter()
            .map(|(name, function)| (name.clone(), labels(function)))
            .collect(),
        tags: sources.raw.as_ref().map(tags),
    }
}

/// A folder that belongs to nobody is told, but nobody's part is faulty for it.
fn stray(mut diagnostic: Diagnostic) -> Diagnostic {
    diagnostic.severity = crate::site::diagnostic::Severity::Warning;
    diagnostic
}

/// Enough of a fingerprint to tell revisions apart, short enough to read out.
const REVISION_CHARS: usize = 16;
/// Largest key set in a file, in bytes: as large as one that is fetched may be (hardening A18).
const KEY_SET_BYTES: Bytes = Bytes(256 << 10);
/// Largest schema, in bytes.
const SCHEMA_BYTES: Bytes = Bytes(256 << 10);
