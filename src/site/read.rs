//! Reading a site: every part on its own, many at once.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use super::{
    FunctionSources, PlatformSources, Site, TenantSources, check,
    config::ServerConfig,
    diagnostic::{Diagnostic, Source},
    files::{Entry, Folder, stamp_anywhere},
    fingerprint::Hasher,
    manifest::{RawLimits, RawManifest},
    parse::{parse_toml, parse_validated},
    watch::Changes,
};
use crate::id::{FunctionId, FunctionName, TenantName};

/// All of a site.
pub(super) fn site(dir: &Path) -> Site {
    let mut platform = platform(dir);
    let (names, mut strays) = folders(dir, &mut platform.diagnostics);
    let names: Vec<TenantName> = names.into_iter().collect();
    let workers = thread::available_parallelism().map_or(1, |n| n.get().min(MAX_WORKERS));
    let share = names.len().div_ceil(workers).max(1);
    let config = &platform.config;
    let read = |names: &[TenantName]| {
        let mut manifests = Manifests::default();
        names.iter().map(|name| (name.clone(), tenant(dir, name, config, &mut manifests))).collect::<Vec<_>>()
    };
    let found: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = names.chunks(share).map(|names| scope.spawn(move || read(names))).collect();
        // A worker panics only by a bug of ours; then so do we.
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
            .collect()
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
        return site(&old.dir);
    }
    let mut platform = platform(&old.dir);
    if platform.config != old.platform.config {
        // Warnings of every tenant depend on the platform's ceilings.
        return site(&old.dir);
    }
    let (names, mut strays) = folders(&old.dir, &mut platform.diagnostics);
    let touched = |name: &str| changes.tenants.contains(name) || changes.revocations.contains(name);
    let mut tenants = old.tenants.clone();
    tenants.retain(|name, _| names.contains(name) && !touched(name.as_str()));
    let kept = old.strays.iter().filter(|(folder, _)| names.contains(folder.as_str()) && !touched(folder));
    strays.extend(kept.map(|(folder, stray)| (folder.clone(), stray.clone())));
    let mut manifests = Manifests::default();
    for name in names {
        if !tenants.contains_key(&name) && !strays.contains_key(name.as_str()) {
            let found = tenant(&old.dir, &name, &platform.config, &mut manifests);
            admit(name, found, &mut tenants, &mut strays);
        }
    }
    assemble(old.dir.clone(), platform, tenants, strays)
}

/// What is found under a tenant's name.
enum Found {
    Tenant(Box<TenantSources>),
    /// Folders without a `tenant.toml`.
    Stray(Diagnostic),
    /// Nothing that anybody would serve.
    Nothing,
}

fn admit(
    name: TenantName,
    found: Found,
    tenants: &mut BTreeMap<TenantName, Arc<TenantSources>>,
    strays: &mut BTreeMap<String, Diagnostic>,
) {
    match found {
        Found::Tenant(tenant) => {
            tenants.insert(name, Arc::new(*tenant));
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
    platform.diagnostics.extend(check::shared_issuers(tenants.values().map(|tenant| &**tenant)));
    let mut hasher = Hasher::new();
    hasher.part(platform.fingerprint.as_bytes());
    for (name, tenant) in &tenants {
        hasher.part(name.as_str());
        hasher.part(tenant.fingerprint.as_bytes());
    }
    Site { dir, platform, tenants, strays, fingerprint: hasher.finish() }
}

fn platform(dir: &Path) -> PlatformSources {
    let mut diagnostics = Vec::new();
    let mut hasher = Hasher::new();
    let mut config = ServerConfig::default();
    match operator_file(dir, "sandgate.toml", MAX_TOML) {
        Ok(None) => hasher.part([]),
        Ok(Some(source)) => {
            hasher.part(&*source.text);
            match parse_validated(&source) {
                Ok(read) => config = read,
                Err(faults) => diagnostics.extend(faults),
            }
        }
        Err(fault) => diagnostics.push(fault),
    }
    diagnostics.extend(check::config(&config));
    let mut policy = |path: &str, what: &str| {
        let source = operator_file(dir, path, MAX_CEDAR).and_then(|source| {
            let missing = || Diagnostic::fault(format!("`{path}` is missing: {what}"));
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
    PlatformSources { config, schema, guardrails, diagnostics, fingerprint: hasher.finish() }
}

/// A file of the operator's: links lead where the operator wants.
fn operator_file(dir: &Path, path: &str, cap: usize) -> Result<Option<Source>, Diagnostic> {
    let failed = |why: String| Diagnostic::fault(format!("`{path}`: {why}")).in_file(&Source::new(path, ""));
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
) -> (std::collections::BTreeSet<TenantName>, BTreeMap<String, Diagnostic>) {
    let (mut names, mut strays) = (std::collections::BTreeSet::new(), BTreeMap::new());
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

fn tenant(dir: &Path, name: &TenantName, config: &ServerConfig, manifests: &mut Manifests) -> Found {
    let shown = format!("policies/{name}");
    let path = dir.join("policies").join(name.as_str());
    let mut reading = Reading { hasher: Hasher::new(), diagnostics: Vec::new() };
    let folder = match Folder::open(path.clone(), shown.clone()) {
        Ok(Some(folder)) => folder,
        Ok(None) => return without_tenant_toml(dir, name),
        Err(error) => {
            return Found::Stray(Diagnostic::fault(format!("`{shown}/`: it cannot be read: {error}")));
        }
    };
    let toml = match folder.source("tenant.toml", MAX_TOML) {
        Ok(Some(toml)) => toml,
        Ok(None) => return without_tenant_toml(dir, name),
        Err(fault) => {
            reading.diagnostics.push(fault);
            Source::new(format!("{shown}/tenant.toml"), "")
        }
    };
    reading.hasher.part(&*toml.text);
    let raw = match (reading.is_sound(), parse_toml(&toml)) {
        (true, Ok(raw)) => Some(raw),
        (true, Err(faults)) => {
            reading.diagnostics.extend(faults);
            None
        }
        (false, _) => None,
    };
    if let Some(raw) = &raw {
        check::tenant(&toml, raw, config, &mut reading.diagnostics);
        for issuer in &raw.issuers {
            // An https URL or a word names no file, and then this is empty.
            reading.hasher.part(folder.stamp(issuer.get_ref().keys.get_ref()));
        }
    }
    let policies = reading.policies(&folder);
    let tests = reading.optional(&folder, "tests.toml", MAX_TESTS);
    reading.hasher.part(tests.as_ref().map_or("", |tests| &*tests.text));
    let revoked = reading.optional(&folder, "revoked.json", MAX_REVOKED);
    let none = RawLimits::default();
    let ceilings = raw.as_ref().map_or(&none, |raw| &raw.ceilings);
    let functions = reading.functions(dir, name, config, ceilings, manifests);
    Found::Tenant(Box::new(TenantSources {
        name: name.clone(),
        raw,
        toml,
        policies,
        tests,
        revoked,
        functions,
        diagnostics: reading.diagnostics,
        fingerprint: reading.hasher.finish(),
        folder: path,
    }))
}

/// A folder of that name is there, but no `tenant.toml` says whose it is.
fn without_tenant_toml(dir: &Path, name: &TenantName) -> Found {
    let policies = dir.join("policies").join(name.as_str()).is_dir();
    let functions = Folder::open(dir.join("functions").join(name.as_str()), String::new());
    let functions = functions.ok().flatten().is_some_and(|folder| {
        let names = folder.names(MAX_FUNCTIONS).unwrap_or_default();
        names
            .iter()
            .filter_map(|entry| entry.name.as_ref().ok())
            .any(|f| !folder.stamp(&manifest_of(f)).is_empty())
    });
    let what = match (policies, functions) {
        (_, true) => format!("`functions/{name}/` has functions of a tenant that does not exist"),
        (true, false) => format!("`policies/{name}/` is no tenant's folder"),
        (false, false) => return Found::Nothing,
    };
    Found::Stray(Diagnostic::fault(what).hint(format!("`policies/{name}/tenant.toml` makes it a tenant's")))
}

/// What comes together while one tenant's part is read.
struct Reading {
    hasher: Hasher,
    diagnostics: Vec<Diagnostic>,
}

impl Reading {
    fn is_sound(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// A source, or `None` where there is no such file or, with a fault, where it cannot be read.
    fn optional(&mut self, folder: &Folder, name: &str, cap: usize) -> Option<Source> {
        folder.source(name, cap).unwrap_or_else(|fault| {
            self.diagnostics.push(fault);
            None
        })
    }

    fn names(&mut self, folder: &Folder, most: usize) -> Vec<Entry> {
        let entries = folder.names(most).unwrap_or_else(|error| {
            self.diagnostics
                .push(Diagnostic::fault(format!("`{}`: it cannot be read: {error}", folder.shown(""))));
            Vec::new()
        });
        if entries.len() > most {
            let message = format!("`{}` has more than {most} entries", folder.shown(""));
            self.diagnostics.push(Diagnostic::fault(message));
        }
        entries
    }

    fn policies(&mut self, folder: &Folder) -> Vec<Source> {
        let mut policies = Vec::new();
        let mut bytes = 0;
        for entry in self.names(folder, MAX_POLICY_ENTRIES) {
            let Ok(name) = entry.name else { continue };
            if entry.is_folder || name.starts_with('.') || !name.ends_with(".cedar") {
                continue;
            }
            let Some(source) = self.optional(folder, &name, MAX_CEDAR) else { continue };
            bytes += source.text.len();
            if bytes > MAX_POLICY_BYTES {
                let message = format!("the policies have more than {MAX_POLICY_BYTES} bytes together");
                self.diagnostics.push(Diagnostic::fault(message).in_file(&source));
                break;
            }
            self.hasher.part(&*source.path);
            self.hasher.part(&*source.text);
            policies.push(source);
        }
        policies
    }

    fn functions(
        &mut self,
        dir: &Path,
        tenant: &TenantName,
        config: &ServerConfig,
        ceilings: &RawLimits,
        manifests: &mut Manifests,
    ) -> BTreeMap<FunctionName, FunctionSources> {
        let mut functions = BTreeMap::new();
        let root: Arc<Path> = dir.join("functions").join(tenant.as_str()).into();
        let shown = format!("functions/{tenant}");
        let folder = match Folder::open(root.to_path_buf(), shown.clone()) {
            Ok(Some(folder)) => folder,
            Ok(None) => return functions,
            Err(error) => {
                self.diagnostics.push(Diagnostic::fault(format!("`{shown}/`: it cannot be read: {error}")));
                return functions;
            }
        };
        for entry in self.names(&folder, MAX_FUNCTIONS) {
            if !entry.is_visible_folder() {
                continue;
            }
            let name = match entry.name {
                Ok(name) => name,
                Err(lossy) => {
                    self.diagnostics
                        .push(Diagnostic::fault(format!("`{shown}/{lossy}/`: its name is not UTF-8")));
                    continue;
                }
            };
            let toml = match folder.source(&manifest_of(&name), MAX_TOML) {
                Ok(Some(toml)) => Some(toml),
                // Sources shared by functions, or what a build left: no function, and no fault.
                Ok(None) => continue,
                Err(fault) => {
                    self.diagnostics.push(fault);
                    None
                }
            };
            let Ok(function) = name.parse::<FunctionName>() else {
                let fault = Diagnostic::fault(format!("`{shown}/{name}/` cannot be a function's name"))
                    .hint("a name is 1 to 63 of a-z, 0-9 and `-`, and does not begin with `-`");
                self.diagnostics.push(fault);
                continue;
            };
            let (toml, raw) = match toml {
                Some(toml) => manifests.read(toml, &mut self.diagnostics),
                None => (Source::new(folder.shown(&manifest_of(&name)), ""), None),
            };
            self.hasher.part(&name);
            self.hasher.part(&*toml.text);
            if let Some(raw) = &raw {
                check::manifest(&toml, raw, config, ceilings, &mut self.diagnostics);
                for path in raw.named_files() {
                    self.hasher.part(folder.stamp(&format!("{name}/{path}")));
                }
            }
            let id = FunctionId { tenant: tenant.clone(), function: function.clone() };
            functions.insert(function, FunctionSources { id, raw, toml, folder: Arc::clone(&root) });
        }
        functions
    }
}

/// Manifests by text: those of a site of many tenants are mostly alike, and parsing is most of the time of reading.
#[derive(Default)]
struct Manifests(HashMap<Arc<str>, Arc<RawManifest>>);

impl Manifests {
    fn read(
        &mut self,
        toml: Source,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> (Source, Option<Arc<RawManifest>>) {
        if let Some((text, raw)) = self.0.get_key_value(&toml.text) {
            return (Source { text: Arc::clone(text), ..toml }, Some(Arc::clone(raw)));
        }
        match parse_toml::<RawManifest>(&toml) {
            Ok(raw) => {
                let raw = Arc::new(raw);
                if self.0.len() < MAX_SHARED_MANIFESTS {
                    self.0.insert(Arc::clone(&toml.text), Arc::clone(&raw));
                }
                (toml, Some(raw))
            }
            Err(faults) => {
                diagnostics.extend(faults);
                (toml, None)
            }
        }
    }
}

fn manifest_of(function: &str) -> String {
    format!("{function}/function.toml")
}

/// Under `functions/` it is the WIT world, so it cannot be a tenant.
const WIT: &str = "wit";

// Bounds of a site. Each is far above what its authors have use for, and keeps one of them from filling our memory.
const MAX_TENANTS: usize = 65_536;
const MAX_FUNCTIONS: usize = 1024;
const MAX_POLICY_ENTRIES: usize = 1024;
const MAX_POLICY_BYTES: usize = 16 << 20;
const MAX_CEDAR: usize = 4 << 20;
const MAX_TOML: usize = 256 << 10;
const MAX_TESTS: usize = 1 << 20;
const MAX_REVOKED: usize = 4 << 20;
const MAX_SHARED_MANIFESTS: usize = 1024;

/// Reading waits for the disk as much as it computes, but beyond a few threads they wait for each other.
const MAX_WORKERS: usize = 8;
