//! `blocked.json`: what the operator has stopped, now and whatever policies say.
//!
//! Policies say what is right; this says what must not go on until somebody has looked. So it is a file of its own beside
//! the parts of a site: it is in force within a second though a reload takes longer or a part is faulty, and it
//! outlives a restart. `sandgate block` and `unblock` write it.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::diagnostic::{Diagnostic, Source, with_causes};
use crate::id::{FunctionId, NameError, TenantName};

/// Everything that is blocked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Blocked {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tenant: BTreeMap<TenantName, Note>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    function: BTreeMap<FunctionId, Note>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    subject: BTreeMap<String, Note>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    key: BTreeMap<TenantName, BTreeMap<String, Note>>,
}

/// When and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Note {
    /// RFC 3339, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub since: String,
    /// In the operator's words; into the record of each call that is refused.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// What can be blocked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// All calls of a tenant's functions.
    Tenant(TenantName),
    /// All calls of one function.
    Function(FunctionId),
    /// All calls of one caller, by the id that records show: `acme/alice`.
    Subject(String),
    /// All calls with a token of one key (`kid`) at a tenant: `acme/kid`.
    Key(TenantName, String),
}

/// Why a text names nothing that can be blocked.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Without the tenant before it.
    #[error("it is written `TENANT/NAME`")]
    NoTenant,
    /// Longer than any that can occur.
    #[error("it is longer than {MAX_TARGET_BYTES} bytes")]
    TooLong,
}

/// Why a list could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BlockedError {
    /// The file is faulty.
    #[error("`{FILE}` is not a list of what is blocked: {0}")]
    Faulty(String),
    /// It would be longer than what is read.
    #[error(
        "`{FILE}` would be larger than {MAX_BYTES} bytes, and such a list is not read: let go what need not be blocked any more, or \
         block the key or the tenant instead of each caller"
    )]
    Full,
    /// The system would not.
    #[error("`{path}` cannot be {what}")]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl Target {
    /// A caller, by the id that records show: `acme/alice`.
    pub fn subject(id: &str) -> Result<Self, TargetError> {
        of_tenant(id).map(|_| Self::Subject(id.to_owned()))
    }

    /// A key of a tenant's issuers: `acme/kid`.
    pub fn key(text: &str) -> Result<Self, TargetError> {
        of_tenant(text).map(|(tenant, key)| Self::Key(tenant, key.to_owned()))
    }
}

fn of_tenant(text: &str) -> Result<(TenantName, &str), TargetError> {
    if text.len() > MAX_TARGET_BYTES {
        return Err(TargetError::TooLong);
    }
    let (tenant, name) = text.split_once('/').ok_or(TargetError::NoTenant)?;
    if name.is_empty() {
        return Err(TargetError::NoTenant);
    }
    Ok((tenant.parse()?, name))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(tenant) => write!(f, "tenant {tenant}"),
            Self::Function(function) => write!(f, "function {function}"),
            Self::Subject(subject) => write!(f, "subject {subject}"),
            Self::Key(tenant, key) => write!(f, "key {tenant}/{key}"),
        }
    }
}

impl Blocked {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Self, BlockedError> {
        if text.len() as u64 > MAX_BYTES {
            return Err(BlockedError::Faulty(format!("it is larger than {MAX_BYTES} bytes")));
        }
        // serde would read an array as the fields in their order.
        if !text.trim_ascii_start().starts_with('{') {
            return Err(BlockedError::Faulty("not an object".to_owned()));
        }
        serde_json::from_str(text).map_err(|error| BlockedError::Faulty(error.to_string()))
    }

    /// Reads the list of a site; without the file nothing is blocked.
    pub fn read(site: &Path) -> Result<Self, BlockedError> {
        use io::Read as _;
        let path = site.join(FILE);
        let failed = |source| BlockedError::Io { path: path.clone(), what: "read", source };
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
        };
        let mut text = String::new();
        file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
        Self::parse(&text)
    }

    /// Changes the list of a site, in one step for every reader, and one writer after the other.
    pub fn change<T>(site: &Path, change: impl FnOnce(&mut Self) -> T) -> Result<T, BlockedError> {
        let path = site.join(FILE);
        let failed = |source| BlockedError::Io { path: path.clone(), what: "written", source };
        // The folder is the lock, so that nothing is left behind. It is let go with the descriptor.
        let folder = fs::File::open(site).map_err(failed)?;
        flock(&folder, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        let mut blocked = Self::read(site)?;
        let told = change(&mut blocked);
        let mut text = serde_json::to_vec_pretty(&blocked).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        if text.len() as u64 > MAX_BYTES {
            return Err(BlockedError::Full);
        }
        let beside = site.join(format!("{FILE}.new"));
        let written = (|| {
            let mut file = fs::File::create(&beside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            folder.sync_all()
        })();
        written.map_err(failed)?;
        Ok(told)
    }

    /// Blocks; whether it was not blocked before.
    pub fn block(&mut self, target: Target, note: Note) -> bool {
        let before = match target {
            Target::Tenant(tenant) => self.tenant.insert(tenant, note),
            Target::Function(function) => self.function.insert(function, note),
            Target::Subject(subject) => self.subject.insert(subject, note),
            Target::Key(tenant, key) => self.key.entry(tenant).or_default().insert(key, note),
        };
        before.is_none()
    }

    /// Lets go; whether it was blocked.
    pub fn unblock(&mut self, target: &Target) -> bool {
        let before = match target {
            Target::Tenant(tenant) => self.tenant.remove(tenant),
            Target::Function(function) => self.function.remove(function),
            Target::Subject(subject) => self.subject.remove(subject),
            Target::Key(tenant, key) => self.key.get_mut(tenant).and_then(|keys| keys.remove(key)),
        };
        self.key.retain(|_, keys| !keys.is_empty());
        before.is_some()
    }

    /// Whether nothing is blocked.
    pub fn is_empty(&self) -> bool {
        self.tenant.is_empty() && self.function.is_empty() && self.subject.is_empty() && self.key.is_empty()
    }

    /// All that is blocked, with when and why.
    pub fn entries(&self) -> impl Iterator<Item = (Target, &Note)> {
        let tenants = self.tenant.iter().map(|(name, note)| (Target::Tenant(name.clone()), note));
        let functions = self.function.iter().map(|(id, note)| (Target::Function(id.clone()), note));
        let subjects = self.subject.iter().map(|(id, note)| (Target::Subject(id.clone()), note));
        let keys = self.key.iter().flat_map(|(tenant, keys)| {
            keys.iter().map(|(key, note)| (Target::Key(tenant.clone(), key.clone()), note))
        });
        tenants.chain(functions).chain(subjects).chain(keys)
    }

    /// What of the list stops this call, if anything does.
    pub fn stops(&self, function: &FunctionId, subject: &str, key: Option<&str>) -> Option<(Target, &Note)> {
        let tenant = &function.tenant;
        let key = || {
            let key = key?;
            let note = self.key.get(tenant)?.get(key)?;
            Some((Target::Key(tenant.clone(), key.to_owned()), note))
        };
        (self.tenant.get(tenant).map(|note| (Target::Tenant(tenant.clone()), note)))
            .or_else(|| self.function.get(function).map(|note| (Target::Function(function.clone()), note)))
            .or_else(|| self.subject.get(subject).map(|note| (Target::Subject(subject.to_owned()), note)))
            .or_else(key)
    }
}

impl BlockedError {
    /// In the form of `check`.
    pub fn diagnostic(&self) -> Diagnostic {
        Diagnostic::fault(with_causes(self))
            .in_file(&Source::new(FILE, ""))
            .hint("`sandgate block` and `unblock` write it")
    }
}

/// Its name in the site.
pub const FILE: &str = "blocked.json";
/// Largest file: some ten thousand entries.
const MAX_BYTES: u64 = 1 << 20;
/// Longest name that is blocked, in bytes: no caller's id and no key's is longer.
const MAX_TARGET_BYTES: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_the_same_and_each_target_stops_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let all = [
            Target::Tenant("umbrella".parse().unwrap()),
            Target::Function("acme/invoice".parse().unwrap()),
            Target::subject("acme/partners/al%2Fice").unwrap(),
            Target::key("acme/a/b").unwrap(),
        ];
        for target in &all {
            let note = Note { since: "2026-01-01T00:00:00Z".into(), why: "leaked".into() };
            assert!(Blocked::change(dir.path(), |b| b.block(target.clone(), note.clone())).unwrap());
            assert!(
                !Blocked::change(dir.path(), |b| b.block(target.clone(), note)).unwrap(),
                "twice is once"
            );
        }
        let read = Blocked::read(dir.path()).unwrap();
        assert_eq!(read.entries().map(|(target, _)| target).collect::<Vec<_>>(), all);
        let stops = |function: &str, subject: &str, key: Option<&str>| {
            read.stops(&function.parse().unwrap(), subject, key).map(|(target, _)| target)
        };
        assert_eq!(stops("umbrella/x", "umbrella/bob", None), Some(all[0].clone()));
        assert_eq!(stops("acme/invoice", "acme/bob", None), Some(all[1].clone()));
        assert_eq!(stops("acme/render", "acme/partners/al%2Fice", None), Some(all[2].clone()));
        assert_eq!(stops("acme/render", "acme/bob", Some("a/b")), Some(all[3].clone()));
        assert_eq!(stops("globex/render", "globex/bob", Some("a/b")), None, "a key id is one tenant's");
        assert_eq!(stops("acme/render", "acme/bob", None), None);
        for target in &all {
            assert!(Blocked::change(dir.path(), |b| b.unblock(target)).unwrap());
            assert!(!Blocked::change(dir.path(), |b| b.unblock(target)).unwrap());
        }
        assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), "{}\n");
    }

    #[test]
    fn a_list_that_nobody_would_read_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let block = |name: &str, why: &str| {
            let note = Note { since: String::new(), why: why.to_owned() };
            Blocked::change(dir.path(), |list| list.block(Target::Tenant(name.parse().unwrap()), note))
        };
        assert!(block("acme", &"x".repeat(MAX_BYTES as usize / 2)).unwrap());
        assert!(matches!(block("globex", &"x".repeat(MAX_BYTES as usize / 2)), Err(BlockedError::Full)));
        assert!(block("globex", "x").unwrap());
        assert_eq!(Blocked::read(dir.path()).unwrap().entries().count(), 2, "what was blocked still is");
    }

    #[test]
    fn what_is_no_list_is_refused_and_no_file_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Blocked::read(dir.path()).unwrap().is_empty());
        for bad in [
            "",
            "[]",
            "[{}]",
            "{\"tenants\": {}}",
            "{\"tenant\": {\"A\": {}}}",
            "{\"function\": {\"acme\": {}}}",
            "{",
        ] {
            assert!(Blocked::parse(bad).is_err(), "{bad}");
        }
        assert!(Blocked::parse(&format!("{{}}{}", " ".repeat(MAX_BYTES as usize))).is_err());
        for bad in
            ["alice", "acme/", "/alice", "Acme/alice", &format!("acme/{}", "x".repeat(MAX_TARGET_BYTES))]
        {
            assert!(Target::subject(bad).is_err() && Target::key(bad).is_err(), "{bad}");
        }
    }
}
