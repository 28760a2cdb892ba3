//! A site: what operator and tenants write, as written.
//!
//! Why it exists: every later stage compiles its part from here and from nowhere else, so there is one place that
//! reads configuration, and one that bounds it. A *site* is a directory (design.md §2); its *platform part* is what the
//! operator writes for all, a *tenant's part* is all that concerns one tenant. Nothing here fails: what is wrong becomes
//! a [`Diagnostic`] of its part, and the caller decides which parts to serve.
//!
//! Invariants: **Bounded** (files, sizes and counts have caps), **Closed** (what is missing is a fault, never a
//! permission), **Alone** (no path that a tenant writes leads out of that tenant's folder).

pub mod blocked;
pub mod config;
pub mod cors;
pub mod dev;
pub mod diagnostic;
pub mod env;
pub mod fingerprint;
pub mod host;
pub mod limits;
pub mod manifest;
pub mod network;
pub mod origin;
pub mod parse;
pub mod secret;
pub mod spread;
pub mod tenant;
pub mod units;
pub mod watch;

mod check;
mod files;
mod inotify;
mod part;
mod read;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use toml::Spanned;

pub use self::files::{FileIdentity, Folder};
use self::{
    config::ServerConfig,
    diagnostic::{Diagnostic, Source},
    fingerprint::Fingerprint,
    host::HostName,
    manifest::RawManifest,
    tenant::RawTenant,
    units::Bytes,
    watch::Changes,
};
use crate::id::{FunctionId, FunctionName, TenantName};

/// Everything of a site as it was at one moment.
#[derive(Debug, Clone)]
pub struct Site {
    /// Where it is.
    pub dir: PathBuf,
    /// What the operator writes for all.
    pub platform: PlatformSources,
    /// Every tenant that has a `tenant.toml`.
    pub tenants: BTreeMap<TenantName, Arc<TenantSources>>,
    /// Folders that belong to nobody, by name: `check` tells them and `--strict` refuses them, but nobody's part is
    /// faulty for them.
    pub strays: BTreeMap<String, Diagnostic>,
    /// Of all parts together: the name of a revision.
    pub fingerprint: Fingerprint,
}

/// What the operator writes for all.
#[derive(Debug, Clone)]
pub struct PlatformSources {
    /// `sandgate.toml`, or the defaults where there is none or it is faulty.
    pub config: ServerConfig,
    /// `policies/schema.cedarschema`.
    pub schema: Source,
    /// `policies/guardrails.cedar`.
    pub guardrails: Source,
    /// What is wrong. A fault refuses the platform part whole.
    pub diagnostics: Vec<Diagnostic>,
    /// Of all the above and of the files that `sandgate.toml` names.
    pub fingerprint: Fingerprint,
}

/// All that concerns one tenant.
#[derive(Debug, Clone)]
pub struct TenantSources {
    /// Its name.
    pub name: TenantName,
    /// `tenant.toml`; `None` if it is faulty.
    pub raw: Option<RawTenant>,
    /// Its text.
    pub toml: Source,
    /// `*.cedar`, by name of file.
    pub policies: Vec<Source>,
    /// `tests.toml`.
    pub tests: Option<Source>,
    /// `revoked.json`: in force on its own, so the fingerprint does not depend on it.
    pub revoked: Result<Option<Source>, Unread>,
    /// Its functions.
    pub functions: BTreeMap<FunctionName, FunctionSources>,
    /// What is wrong with any of it.
    pub diagnostics: Vec<Diagnostic>,
    /// Of all the above but `revoked`, and of the files that `tenant.toml` and the manifests name.
    pub fingerprint: Fingerprint,
    /// `policies/<tenant>`.
    folder: PathBuf,
}

/// There is a file, and what it says is not known: a fault of its part, which is told there. No file is another thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unread;

/// One function of a tenant.
#[derive(Debug, Clone)]
pub struct FunctionSources {
    /// Its full name.
    pub id: FunctionId,
    /// `function.toml`; `None` if it is faulty. Functions with equal manifests share one.
    pub raw: Option<Arc<RawManifest>>,
    /// Its text.
    pub toml: Source,
    /// `functions/<tenant>`.
    folder: Arc<Path>,
}

impl Site {
    /// Reads the site in `dir`, whatever is there.
    pub fn read(dir: &Path) -> Self {
        read::site(dir, None)
    }

    /// The site as it is now, reading again only what changed since this was read.
    #[must_use]
    pub fn refresh(&self, changes: &Changes) -> Self {
        read::refresh(self, changes)
    }

    /// A file under `certs/`, which is the operator's: its links lead where the operator wants.
    pub fn certificate_file(&self, name: &str) -> PathBuf {
        self.dir.join(CERTIFICATES).join(name)
    }

    /// Whether the operator has put chain or key of a host there.
    pub fn has_pair_of(&self, host: &HostName) -> bool {
        [host.certificate_file(), host.key_file()].iter().any(|file| self.certificate_file(file).exists())
    }

    /// What is wrong with it, part by part.
    pub fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        let tenants = self.tenants.values().flat_map(|tenant| &tenant.diagnostics);
        self.platform.diagnostics.iter().chain(self.strays.values()).chain(tenants)
    }
}

impl PlatformSources {
    /// Reads the platform part alone: what has to be known before the rest is read.
    pub fn read(dir: &Path) -> Self {
        read::platform(dir)
    }

    /// Whether the platform part is refused.
    pub fn is_faulty(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_fault)
    }
}

impl TenantSources {
    /// Whether the tenant's part is refused.
    pub fn is_faulty(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_fault)
    }

    /// The folder of the tenant's functions, for [`FunctionSources::open_in`]; `None` where it cannot be opened, which
    /// [`FunctionSources::open`] tells of each file.
    pub fn functions_folder(&self) -> Option<Folder> {
        let path = &self.functions.values().next()?.folder;
        Folder::open(path.to_path_buf(), format!("functions/{}", self.name)).ok().flatten()
    }

    /// Bytes of a file that `tenant.toml` names, at most `cap` of them.
    pub fn open(&self, path: &Spanned<String>, cap: Bytes) -> Result<Vec<u8>, Diagnostic> {
        let folder = folder(&self.folder, format!("policies/{}", self.name), &self.toml, path)?;
        folder.read(path.get_ref(), cap.as_usize()).map_err(|error| unreadable(&self.toml, path, &error))
    }

    /// Text of a file that `tenant.toml` names.
    pub fn open_text(&self, path: &Spanned<String>, cap: Bytes) -> Result<Source, Diagnostic> {
        let folder = folder(&self.folder, format!("policies/{}", self.name), &self.toml, path)?;
        let text = folder.text(path.get_ref(), cap.as_usize());
        let text = text.map_err(|error| unreadable(&self.toml, path, &error))?;
        Ok(Source::new(folder.shown(path.get_ref()), text))
    }
}

impl FunctionSources {
    /// The folder that the manifest's paths start from.
    pub fn dir(&self) -> PathBuf {
        self.folder.join(self.id.function.as_str())
    }

    /// A file that the manifest names. A link may lead anywhere in the tenant's own `functions/<tenant>`, so functions can
    /// share a component.
    pub fn open<'a>(&'a self, path: &'a Spanned<String>) -> Result<NamedFile<'a>, Diagnostic> {
        let folder = folder(&self.folder, format!("functions/{}", self.id.tenant), &self.toml, path)?;
        self.open_in(&folder, path)
    }

    /// As [`Self::open`], in the tenant's folder of functions as it was opened before.
    pub fn open_in<'a>(
        &'a self,
        folder: &Folder,
        path: &'a Spanned<String>,
    ) -> Result<NamedFile<'a>, Diagnostic> {
        // An absolute path stays absolute behind the function's name only if it is refused here.
        let relative = format!("{}/{}", self.id.function, path.get_ref());
        let file = folder.open_file(&relative).map_err(|error| unreadable(&self.toml, path, &error))?;
        Ok(NamedFile { named_by: &self.toml, path, shown: folder.shown(&relative), file })
    }
}

/// A file that was opened for whoever named it.
#[derive(Debug)]
pub struct NamedFile<'a> {
    named_by: &'a Source,
    path: &'a Spanned<String>,
    shown: String,
    file: files::OpenFile,
}

impl NamedFile<'_> {
    /// Which file it is, and as of when.
    pub fn identity(&self) -> FileIdentity {
        self.file.identity()
    }

    /// Its path from the site, as diagnostics show it.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// All of it, at most `cap` bytes.
    pub fn bytes(self, cap: Bytes) -> Result<Vec<u8>, Diagnostic> {
        self.file.read(cap.as_usize()).map_err(|error| unreadable(self.named_by, self.path, &error))
    }

    /// All of it, at most `cap` bytes of text.
    pub fn text(self, cap: Bytes) -> Result<Source, Diagnostic> {
        let text = self.file.text(cap.as_usize());
        let text = text.map_err(|error| unreadable(self.named_by, self.path, &error))?;
        Ok(Source::new(self.shown, text))
    }
}

/// Folder of certificates and keys of a site.
pub const CERTIFICATES: &str = "certs";

/// What a fuzzer calls: no bytes in place of a site's files may make reading them panic.
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let source = Source::new("fuzz.toml", text);
    let config = parse::parse_validated::<ServerConfig>(&source);
    let tenant = parse::parse_toml::<RawTenant>(&source);
    let manifest = parse::parse_toml::<RawManifest>(&source);
    let mut told = Vec::new();
    if let Ok(config) = &config {
        config.print();
    }
    if let Ok(raw) = &tenant {
        check::tenant(&source, raw, &ServerConfig::default(), &mut told);
    }
    if let Ok(raw) = &manifest {
        check::manifest(&source, raw, &ServerConfig::default(), &Default::default(), &mut told);
    }
    told.extend(config.err().into_iter().flatten());
    told.extend(tenant.err().into_iter().flatten());
    told.extend(manifest.err().into_iter().flatten());
    for diagnostic in told {
        diagnostic.render(true);
        diagnostic.one_line();
    }
}

fn folder(path: &Path, shown: String, toml: &Source, named: &Spanned<String>) -> Result<Folder, Diagnostic> {
    let error = match Folder::open(path.to_owned(), shown) {
        Ok(Some(folder)) => return Ok(folder),
        Ok(None) => files::FileError::Missing,
        Err(error) => files::FileError::Io(error),
    };
    Err(unreadable(toml, named, &error))
}

fn unreadable(toml: &Source, path: &Spanned<String>, error: &files::FileError) -> Diagnostic {
    Diagnostic::fault(format!("`{}`: {error}", path.get_ref())).at(toml, path.span())
}
