//! A site on the workbench: read and compiled as serving would, and served to nobody.

use std::{io::Write, path::Path, sync::Arc, time::SystemTime};

use super::Failure;
use crate::{
    authn,
    authz::{KnownNames, Platform, TenantPolicies},
    event,
    id::TenantName,
    pipeline::{Builder, FaultyPlatform, Patience, Revision, known_names},
    record::Metrics,
    sandbox::Sandbox,
    server::{key_fetch, sandbox_settings, token_cache_bytes},
    site::{Site, TenantSources, diagnostic::Diagnostic},
    tls::{self, OwnPair},
};

/// A site, compiled.
pub(super) struct Loaded {
    pub(super) site: Site,
    /// `None` if the platform part is faulty.
    pub(super) revision: Option<Arc<Revision>>,
    /// All faults and warnings.
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// Reads and compiles the site as it would be served.
pub(super) fn load(dir: &Path) -> Result<Loaded, Failure> {
    require(dir)?;
    let site = Site::read(dir);
    let config = &site.platform.config;
    let builder = Builder {
        sandbox: Sandbox::start(&sandbox_settings(config, None))?,
        shared: authn::Shared::new(token_cache_bytes(config), key_fetch(dir, config)),
        metrics: Arc::new(Metrics::new()),
        development: true,
        schemas: event::Schemas::default(),
        patience: Patience::WHOLE,
    };
    // What the site is called where nothing else is said: as `dev` would serve it.
    builder.shared.listens_at(config.server.listen.port());
    let (revision, diagnostics) = match builder.build(&site, None) {
        Ok((revision, mut diagnostics)) => {
            let mut tenants: Vec<(&TenantName, &Diagnostic)> = revision.diagnostics().collect();
            tenants.sort_by_key(|(name, _)| *name);
            diagnostics.extend(tenants.into_iter().map(|(_, diagnostic)| diagnostic.clone()));
            (Some(revision), diagnostics)
        }
        // Tenants cannot be judged without a platform part, but what they wrote can be read.
        Err(FaultyPlatform(mut faults)) => {
            faults.extend(site.tenants.values().flat_map(|tenant| tenant.diagnostics.iter().cloned()));
            (None, faults)
        }
    };
    let mut diagnostics = diagnostics;
    diagnostics.extend(tls::check(dir, &OwnPair::of(dir, config), SystemTime::now()));
    Ok(Loaded { site, revision, diagnostics })
}

/// The policies of every tenant, without its functions' components.
pub(super) struct Policies {
    pub(super) tenants: Vec<(Arc<TenantSources>, Arc<TenantPolicies>, KnownNames)>,
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// Reads and compiles the site's policies alone.
pub(super) fn load_policies(dir: &Path) -> Result<Policies, Failure> {
    require(dir)?;
    let site = Site::read(dir);
    let (platform, mut diagnostics) = Platform::compile(&site.platform.schema, &site.platform.guardrails);
    let mut tenants = Vec::new();
    if let Some(platform) = platform {
        for sources in site.tenants.values() {
            diagnostics.extend(sources.diagnostics.iter().cloned());
            let known = known_names(sources);
            let (policies, told) =
                TenantPolicies::compile(&platform, &sources.name, &sources.policies, &known);
            diagnostics.extend(told);
            if let Some(policies) = policies {
                tenants.push((Arc::clone(sources), policies, known));
            }
        }
    }
    Ok(Policies { tenants, diagnostics })
}

/// A directory without policies is more often a mistyped path than a site.
pub(super) fn require(dir: &Path) -> Result<(), Failure> {
    if dir.join("policies").is_dir() {
        return Ok(());
    }
    Err(format!("`{}` is not a site: it has no `policies/` (`--site DIR` names another)", dir.display())
        .into())
}

/// Prints reports, most severe first within what was read first; gives the numbers of faults and warnings.
pub(super) fn report(
    diagnostics: &[Diagnostic],
    colour: bool,
    to: &mut dyn Write,
) -> std::io::Result<(usize, usize)> {
    let (faults, warnings): (Vec<&Diagnostic>, Vec<&Diagnostic>) =
        diagnostics.iter().partition(|diagnostic| diagnostic.is_fault());
    for diagnostic in faults.iter().chain(&warnings) {
        writeln!(to, "{}\n", diagnostic.render(colour))?;
    }
    Ok((faults.len(), warnings.len()))
}

/// `1 fault`, `2 faults`.
pub(super) fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
