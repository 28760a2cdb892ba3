//! Reading one tenant's part.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use super::{
    CERTIFICATES, FunctionSources, TenantSources, Unread, check,
    config::ServerConfig,
    dev,
    diagnostic::{Diagnostic, Source},
    files::{Entry, Folder, stamp_of_key},
    fingerprint::Hasher,
    manifest::{RawLimits, RawManifest},
    parse::parse_toml,
};
use crate::id::{FunctionId, FunctionName, TenantName};

/// What is found under a tenant's name.
pub(super) enum Found {
    Tenant(Arc<TenantSources>),
    /// Folders without a `tenant.toml`.
    Stray(Diagnostic),
    /// Nothing that anybody would serve.
    Nothing,
}

/// Manifests by text: those of a site of many tenants are mostly alike, and parsing is most of the time of reading.
#[derive(Default)]
pub(super) struct Manifests(HashMap<Arc<str>, Arc<RawManifest>>);

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

/// All that concerns one tenant.
pub(super) fn tenant(
    dir: &Path,
    name: &TenantName,
    config: &ServerConfig,
    manifests: &mut Manifests,
) -> Found {
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
        for file in raw.certificate_files() {
            reading.hasher.part(stamp_of_key(&dir.join(CERTIFICATES).join(file)));
        }
        // On a workbench these stand in for those that are not there.
        for host in &raw.hosts {
            reading.hasher.part(stamp_of_key(&dev::host_pair(dir, host.get_ref()).0));
        }
    }
    let policies = reading.policies(&folder);
    let tests = reading.optional(&folder, "tests.toml", MAX_TESTS);
    reading.hasher.part(tests.as_ref().map_or("", |tests| &*tests.text));
    let revoked = folder.source("revoked.json", MAX_REVOKED).map_err(|fault| {
        reading.diagnostics.push(fault);
        Unread
    });
    let none = RawLimits::default();
    let ceilings = raw.as_ref().map_or(&none, |raw| &raw.ceilings);
    let functions = reading.functions(dir, name, config, ceilings, manifests);
    // What cannot be read looks empty; mended, it may be.
    reading.diagnostics.iter().for_each(|diagnostic| reading.hasher.part(diagnostic.one_line()));
    Found::Tenant(Arc::new(TenantSources {
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
            let (Ok(shown) | Err(shown)) = &entry.name;
            if shown.starts_with('.') || !shown.ends_with(".cedar") {
                continue;
            }
            // Whatever keeps a policy from being read is a fault: it may be a `forbid`, and would fail open.
            let Ok(name) = entry.name else {
                let message = format!("`{}`: its name is not UTF-8", folder.shown(shown));
                self.diagnostics.push(Diagnostic::fault(message));
                continue;
            };
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

fn manifest_of(function: &str) -> String {
    format!("{function}/function.toml")
}

// Bounds of a tenant's part. Each is far above what its authors have use for, and keeps one of them from filling our
// memory.
const MAX_FUNCTIONS: usize = 1024;
const MAX_POLICY_ENTRIES: usize = 1024;
const MAX_POLICY_BYTES: usize = 16 << 20;
const MAX_CEDAR: usize = 4 << 20;
const MAX_TOML: usize = 256 << 10;
const MAX_TESTS: usize = 1 << 20;
const MAX_REVOKED: usize = 4 << 20;
const MAX_SHARED_MANIFESTS: usize = 1024;
