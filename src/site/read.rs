//! Reading a site: every part on its own, many at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    PlatformSources, Site, TenantSources,
    blocked::Blocked,
    check,
    config::ServerConfig,
    diagnostic::{Diagnostic, Source},
    files::{Entry, Folder, stamp_anywhere},
    fingerprint::Hasher,
    parse::parse_validated,
    part::{self, Found, Manifests},
    spread::spread,
    watch::Changes,
};
use crate::id::TenantName;

/// All of a site. Tenants that are as they were in `old` are those of `old`: a large site's texts are not kept twice.
pub(super) fn site(dir: &Path, old: Option<&Site>) -> Site {
    let mut platform = platform(dir);
    // Warnings of every tenant depend on the platform's ceilings.
    let old = old.filter(|old| old.platform.config == platform.config);
    let (names, mut strays) = folders(dir, &mut platform.diagnostics);
    let names: Vec<TenantName> = names.into_iter().collect();
    let config = &platform.config;
    let found = spread(&names, MAX_WORKERS, Manifests::default, |manifests, name| {
        let found = part::tenant(dir, name, config, manifests);
        (name.clone(), or_as_before(found, old.and_then(|old| old.tenants.get(name))))
    });
    let mut tenants = BTreeMap::new();
    for (name, found) in found {
        admit(name, found, &mut tenants, &mut strays);
    }
    assemble(dir.to_owned(), platform, tenants, strays)
}

/// The site as it is now, where only `changes` happened since `old`.
pub(super) fn refresh(old: &Site, changes: &Changes) -> Site {
    if changes.everything {
        return site(&old.dir, Some(old));
    }
    let mut platform = platform(&old.dir);
    if platform.config != old.platform.config {
        return site(&old.dir, None);
    }
    let (names, mut strays) = folders(&old.dir, &mut platform.diagnostics);
    let touched = |name: &str| changes.tenants.contains(name) || changes.revocations.contains(name);
    // Certificates of tenants' hosts lie among those of the platform.
    let certified = |tenant: &TenantSources| {
        changes.platform && tenant.raw.as_ref().is_some_and(|raw| raw.certificate_files().next().is_some())
    };
    let mut tenants = old.tenants.clone();
    tenants.retain(|name, tenant| names.contains(name) && !touched(name.as_str()) && !certified(tenant));
    let kept = old.strays.iter().filter(|(folder, _)| names.contains(folder.as_str()) && !touched(folder));
    strays.extend(kept.map(|(folder, stray)| (folder.clone(), stray.clone())));
    let mut manifests = Manifests::default();
    for name in names {
        if !tenants.contains_key(&name) && !strays.contains_key(name.as_str()) {
            let found = part::tenant(&old.dir, &name, &platform.config, &mut manifests);
            admit(name, found, &mut tenants, &mut strays);
        }
    }
    assemble(old.dir.clone(), platform, tenants, strays)
}

/// Revocations are in force on their own, so the fingerprint does not depend on them.
fn or_as_before(found: Found, before: Option<&Arc<TenantSources>>) -> Found {
    match (found, before) {
        (Found::Tenant(now), Some(before))
            if now.fingerprint == before.fingerprint && now.revoked == before.revoked =>
        {
            Found::Tenant(Arc::clone(before))
        }
        (found, _) => found,
    }
}

fn admit(
    name: TenantName,
    found: Found,
    tenants: &mut BTreeMap<TenantName, Arc<TenantSources>>,
    strays: &mut BTreeMap<String, Diagnostic>,
) {
    match found {
        Found::Tenant(tenant) => {
            tenants.insert(name, tenant);
        }
        Found::Stray(diagnostic) => {
            strays.insert(name.as_str().to_owned(), diagnostic);
        }
        Found::Nothing => {}
    }
}

fn assemble(
    dir: PathBuf,
    mut platform: PlatformSources,
    tenants: BTreeMap<TenantName, Arc<TenantSources>>,
    strays: BTreeMap<String, Diagnostic>,
) -> Site {
    let all = || tenants.values().map(|tenant| &**tenant);
    let mut shared = check::shared_issuers(all());
    shared.extend(check::shared_hosts(all()));
    if !shared.is_empty() {
        let mut hasher = Hasher::new();
        hasher.part(platform.fingerprint.as_bytes());
        shared.iter().for_each(|diagnostic| hasher.part(diagnostic.one_line()));
        platform.fingerprint = hasher.finish();
        platform.diagnostics.extend(shared);
    }
    let mut hasher = Hasher::new();
    hasher.part(platform.fingerprint.as_bytes());
    for (name, tenant) in &tenants {
        hasher.part(name.as_str());
        hasher.part(tenant.fingerprint.as_bytes());
    }
    Site { dir, platform, tenants, strays, fingerprint: hasher.finish() }
}

/// The platform part.
pub(super) fn platform(dir: &Path) -> PlatformSources {
    let mut diagnostics = Vec::new();
    let mut hasher = Hasher::new();
    let mut config = ServerConfig::default();
    match operator_file(dir, "sandgate.toml", MAX_TOML) {
        Ok(None) => hasher.part([]),
        Ok(Some(source)) => {
            hasher.part(&*source.text);
            match parse_validated(&source) {
                Ok(read) => {
                    diagnostics.extend(check::config(&source, &read));
                    config = read;
                }
                Err(faults) => diagnostics.extend(faults),
            }
        }
        Err(fault) => diagnostics.push(fault),
    }
    // What is blocked is put in force apart from this; here a faulty list is told with all else.
    diagnostics.extend(Blocked::read(dir).err().map(|error| error.diagnostic()));
    let mut policy = |path: &str, what: &str| {
        let source = operator_file(dir, path, MAX_CEDAR).and_then(|source| {
            let missing = || Diagnostic::fault(format!("this file is missing: {what}"));
            source.ok_or_else(|| missing().in_file(&Source::new(path, "")))
        });
        let source = source.unwrap_or_else(|fault| {
            diagnostics.push(fault);
            Source::new(path, "")
        });
        hasher.part(&*source.text);
        source
    };
    let schema = policy("policies/schema.cedarschema", "without a schema no policy means anything");
    // An operator whose guardrails vanish must not find every tenant unbound: an empty file says it on purpose.
    let guardrails = policy("policies/guardrails.cedar", "an empty file says that there are none");
    for path in config.named_files() {
        hasher.part(stamp_anywhere(&dir.join(path)));
    }
    // What is missing looks empty; an operator may mend it with an empty file.
    diagnostics.iter().for_each(|diagnostic| hasher.part(diagnostic.one_line()));
    PlatformSources { config, schema, guardrails, diagnostics, fingerprint: hasher.finish() }
}

/// A file of the operator's: links lead where the operator wants.
fn operator_file(dir: &Path, path: &str, cap: usize) -> Result<Option<Source>, Diagnostic> {
    let failed = |why: String| Diagnostic::fault(why).in_file(&Source::new(path, ""));
    let (parent, name) = match path.rsplit_once('/') {
        Some((parent, name)) => (dir.join(parent), name),
        None => (dir.to_owned(), path),
    };
    // The real file's own folder is the one that reading may not leave.
    let real = match parent.join(name).canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(format!("it cannot be read: {error}"))),
    };
    let (Some(parent), Some(name)) = (real.parent(), real.file_name().and_then(|name| name.to_str())) else {
        return Err(failed("it is not a regular file".to_owned()));
    };
    match Folder::open(parent.to_owned(), String::new()) {
        Ok(Some(folder)) => match folder.text(name, cap) {
            Ok(text) => Ok(Some(Source::new(path, text))),
            Err(error) => Err(failed(error.to_string())),
        },
        Ok(None) => Ok(None),
        Err(error) => Err(failed(format!("it cannot be read: {error}"))),
    }
}

/// Names of all folders that may be a tenant's, and those folders that cannot be.
fn folders(
    dir: &Path,
    diagnostics: &mut Vec<Diagnostic>,
) -> (BTreeSet<TenantName>, BTreeMap<String, Diagnostic>) {
    let (mut names, mut strays) = (BTreeSet::new(), BTreeMap::new());
    for parent in ["policies", "functions"] {
        let listed = Folder::open(dir.join(parent), parent.to_owned())
            .and_then(|folder| folder.map_or(Ok(Vec::new()), |folder| folder.names(MAX_TENANTS)));
        let entries = listed.unwrap_or_else(|error| {
            diagnostics.push(Diagnostic::fault(format!("`{parent}/`: it cannot be read: {error}")));
            Vec::new()
        });
        if entries.len() > MAX_TENANTS {
            diagnostics.push(Diagnostic::fault(format!("`{parent}/` has more than {MAX_TENANTS} entries")));
        }
        for Entry { name, .. } in entries.into_iter().filter(Entry::is_visible_folder).take(MAX_TENANTS) {
            let shown = match &name {
                Ok(name) | Err(name) => name.clone(),
            };
            if shown == WIT && parent == "functions" {
                continue;
            }
            match name
                .ok()
                .and_then(|name| name.parse::<TenantName>().ok())
                .filter(|name| name.as_str() != WIT)
            {
                Some(name) => {
                    names.insert(name);
                }
                None => {
                    let fault = Diagnostic::fault(format!("`{parent}/{shown}/` cannot be a tenant's name"))
                        .hint("a name is 1 to 63 of a-z, 0-9 and `-`, does not begin with `-`, and is not `wit`");
                    strays.insert(format!("{parent}/{shown}"), fault);
                }
            }
        }
    }
    (names, strays)
}

/// Under `functions/` it is the WIT world, so it cannot be a tenant.
const WIT: &str = "wit";

// Bounds of the platform part.
const MAX_TENANTS: usize = 65_536;
const MAX_TOML: usize = 256 << 10;
const MAX_CEDAR: usize = 4 << 20;

/// Reading waits for the disk as much as it computes, but beyond a few threads they wait for each other.
const MAX_WORKERS: usize = 8;

#[cfg(test)]
mod tests;
