//! Compiled components at rest.
//!
//! An artefact is machine code: whoever can make us load one owns the process. So each is stored with an HMAC-SHA-256 over
//! the digest of the component it came from, the identity of the engine that made it and the code itself, under a key that
//! never leaves the data directory; and it is loaded from the sealed copy in memory that was checked.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    os::{
        fd::BorrowedFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use aws_lc_rs::{constant_time, digest, hmac, rand};
use serde::{Deserialize, Serialize};
use wasmtime::{Engine, component::Component};
use zeroize::Zeroizing;

use super::{engine, sealed::Sealed};
use crate::site::secret::{self, SecretError};

/// SHA-256 of a component as its author gave it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from(digest::digest(&digest::SHA256, bytes))
    }
}

impl From<digest::Digest> for Digest {
    fn from(value: digest::Digest) -> Self {
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(value.as_ref()) {
            *to = *from;
        }
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why artefacts cannot be kept or used.
#[derive(Debug, thiserror::Error)]
pub enum ArtefactError {
    /// The file system said no.
    #[error("`{path}` could not be used")]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others could read or replace the key.
    #[error(
        "`{0}` must be a file of 32 bytes that its owner alone can read (0600): remove it, and a new one is made"
    )]
    Key(PathBuf),
    /// Not what we wrote for this component and this engine.
    #[error("the stored artefact of component {0} is not authentic")]
    NotAuthentic(Digest),
    /// Authentic, and yet the engine does not take it.
    #[error("the stored artefact of component {digest} does not load: {reason}")]
    Unusable {
        /// Of which component.
        digest: Digest,
        /// The engine's words.
        reason: String,
    },
}

/// Machine code of one component, sealed in memory.
///
/// Invariant: made by a compile process of ours, for an engine of ours; either just now, or by the store's HMAC.
#[derive(Debug)]
pub(super) struct Artefact(Sealed);

impl Artefact {
    /// What a compile process answered; nothing else may be given here.
    pub(super) fn compiled(code: Sealed) -> Self {
        Self(code)
    }

    /// What the gateway sent to this worker process; nothing else may be given here.
    pub(super) fn received(code: Sealed) -> Self {
        Self(code)
    }

    /// The descriptor, to be sent to a worker process.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.descriptor()
    }

    /// The same as [`Self::load`] for a process that can open nothing: the code is copied, and the copy is checked.
    pub(super) fn load_copy(&self, engine: &Engine) -> wasmtime::Result<Component> {
        if !self.0.is_sealed() {
            return Err(wasmtime::Error::msg("the artefact is not sealed"));
        }
        let mut code = Vec::new();
        self.0.write_to(&mut code)?;
        #[expect(unsafe_code, reason = "machine code can be loaded in no other way")]
        // SAFETY: as in `load`. The bytes are this process's own copy, which nobody else can change.
        unsafe {
            Component::deserialize(engine, code)
        }
    }

    /// Maps the code, and checks it against engine and pool. The mapping keeps the sealed file, which memories that begin as
    /// copies of it share.
    pub(super) fn load(&self, engine: &Engine) -> wasmtime::Result<Component> {
        if !self.0.is_sealed() {
            return Err(wasmtime::Error::msg("the artefact is not sealed"));
        }
        #[expect(unsafe_code, reason = "machine code can be loaded in no other way")]
        // SAFETY: the file must hold what a compatible engine compiled, and must not change while it is mapped. The first is the
        // type's invariant: the code is our compile process's, or the HMAC says that it was, whose key is readable by us alone and
        // signs nothing else; the engine checks version, target and settings once more. The second are the seals, just checked:
        // no process can write to the file or change its length any more, and the path names it and no other file while `self`
        // holds its descriptor.
        unsafe {
            Component::deserialize_file(engine, self.0.path())
        }
    }
}

/// A folder of artefacts and the key to them.
pub struct ArtefactStore {
    folder: PathBuf,
    key: hmac::Key,
    compatibility: Digest,
}

impl fmt::Debug for ArtefactStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArtefactStore").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl ArtefactStore {
    /// Opens the store under the data directory, and makes what is missing.
    pub fn open(data_dir: &Path, engine: &Engine) -> Result<Self, ArtefactError> {
        let folder = data_dir.join("artefacts");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(at(&folder))?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &read_or_make_key(&data_dir.join("artefact.key"))?);
        let compatibility = Digest::of(engine::identity(engine).as_bytes());
        Ok(Self { folder, key, compatibility })
    }

    /// Whether an artefact is there; whether it is any good is known when it is loaded.
    pub(super) fn holds(&self, of: &Digest) -> bool {
        self.path(of).is_file()
    }

    /// An artefact that this store wrote for this component and this engine.
    pub(super) fn load(&self, of: &Digest) -> Result<Artefact, ArtefactError> {
        let path = self.path(of);
        let mut file = fs::File::open(&path).map_err(at(&path))?;
        let mut tag = [0; TAG_BYTES];
        let not_authentic = |_| ArtefactError::NotAuthentic(*of);
        file.read_exact(&mut tag).map_err(not_authentic)?;
        let sealed = match Sealed::copy(file, MAX_ARTEFACT_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Err(not_authentic(error)),
            copied => copied.map_err(at(&path))?,
        };
        let expected = self.tag(of, &sealed).map_err(at(&path))?;
        constant_time::verify_slices_are_equal(expected.as_ref(), &tag)
            .map_err(|_| ArtefactError::NotAuthentic(*of))?;
        Ok(Artefact(sealed))
    }

    /// Keeps what was compiled. The file appears whole or not at all; one that a crash tore fails its HMAC.
    pub(super) fn store(&self, of: &Digest, artefact: &Artefact) -> Result<(), ArtefactError> {
        let path = self.path(of);
        let tag = self.tag(of, &artefact.0).map_err(at(&path))?;
        let unique = path.with_extension(format!("{}.{}.new", std::process::id(), random_suffix()));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unique)
            .map_err(at(&unique))?;
        let written = file
            .write_all(tag.as_ref())
            .and_then(|()| artefact.0.write_to(&mut file))
            .and_then(|()| fs::rename(&unique, &path));
        if let Err(source) = written {
            // The error being reported says more than that of the clean-up would.
            fs::remove_file(&unique).ok();
            return Err(ArtefactError::Io { path, source });
        }
        self.trim(&path)
    }

    /// Forgets an artefact that did not load.
    pub(super) fn discard(&self, of: &Digest) {
        fs::remove_file(self.path(of)).ok();
    }

    /// Bounded: beyond its size the store loses its oldest artefacts, which are compiled again when they are asked for.
    fn trim(&self, newest: &Path) -> Result<(), ArtefactError> {
        let mut kept: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(at(&self.folder))? {
            let entry = entry.map_err(at(&self.folder))?;
            // Another reload may have removed it meanwhile.
            let Ok(meta) = entry.metadata() else { continue };
            if entry.path() != newest {
                kept.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), entry.path()));
            }
        }
        kept.sort();
        let mut total: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in kept {
            if total <= MAX_STORE_BYTES {
                break;
            }
            fs::remove_file(&path).map_err(at(&path))?;
            total = total.saturating_sub(bytes);
        }
        Ok(())
    }

    fn path(&self, of: &Digest) -> PathBuf {
        let mut engine = self.compatibility.to_string();
        engine.truncate(16);
        self.folder.join(format!("{of}-{engine}.cwasm"))
    }

    /// Every part but the last has a fixed length, so no two messages read alike.
    fn tag(&self, of: &Digest, artefact: &Sealed) -> io::Result<hmac::Tag> {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [DOMAIN, &of.0, &self.compatibility.0] {
            context.update(part);
        }
        artefact.read(|piece| {
            context.update(piece);
            Ok(())
        })?;
        Ok(context.sign())
    }
}

fn read_or_make_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, ArtefactError> {
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(mut file) => {
            let mut key = Zeroizing::new(vec![0; KEY_BYTES]);
            rand::fill(&mut key).map_err(|_| at(path)(io::Error::other("no randomness")))?;
            file.write_all(&key).and_then(|()| file.sync_all()).map_err(at(path))?;
            Ok(key)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match secret::read(path) {
            Ok(key) if key.len() == KEY_BYTES => Ok(key),
            Err(SecretError::Io(error)) => Err(at(path)(error)),
            Ok(_) | Err(SecretError::Shared(_)) => Err(ArtefactError::Key(path.to_owned())),
        },
        Err(e) => Err(at(path)(e)),
    }
}

fn random_suffix() -> String {
    let mut bytes = [0; 8];
    // Only names: without randomness two writers meet in `create_new`, and one of them fails.
    rand::fill(&mut bytes).ok();
    format!("{:016x}", u64::from_be_bytes(bytes))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ArtefactError {
    move |source| ArtefactError::Io { path: path.to_owned(), source }
}

const DOMAIN: &[u8] = b"sandgate artefact 1\0";
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 32;

/// Machine code is 2 to 6 times its component, which is 32 MiB at most.
pub(super) const MAX_ARTEFACT_BYTES: u64 = 256 << 20;

/// About 2 000 components of half a MiB, compiled.
const MAX_STORE_BYTES: u64 = 4 << 30;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::sandbox::{AdmissionLimits, CompileLimits, CompilerCommand, PoolLimits, process::Processes};

    const TEXT: &str = "(component (core module (func (export \"f\"))))";

    fn stored() -> (tempfile::TempDir, Engine, ArtefactStore, Digest) {
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolLimits { instances: 1, ..PoolLimits::default() };
        let engine = engine::engine(&pool).unwrap();
        let store = ArtefactStore::open(dir.path(), &engine).unwrap();
        let digest = Digest::of(TEXT.as_bytes());
        let processes = Processes::new(CompilerCommand::default(), CompileLimits::default());
        let compiled = processes.compile(None, TEXT.as_bytes(), &AdmissionLimits::default(), true).unwrap();
        store.store(&digest, &compiled.artefact).unwrap();
        (dir, engine, store, digest)
    }

    #[test]
    fn f09_an_artefact_is_found_again_by_the_same_engine_only() {
        let (dir, engine, store, digest) = stored();
        assert!(store.holds(&digest));
        store.load(&digest).unwrap().load(&engine).unwrap();
        let again = ArtefactStore::open(dir.path(), &engine).unwrap();
        again.load(&digest).unwrap().load(&engine).unwrap();

        let mut other = engine::serving(&PoolLimits { instances: 1, ..PoolLimits::default() });
        other.epoch_interruption(false);
        let other = Engine::new(&other).unwrap();
        assert!(!ArtefactStore::open(dir.path(), &other).unwrap().holds(&digest));
    }

    #[test]
    fn f09_f36_a_changed_artefact_is_refused_wherever_it_was_changed() {
        let (_dir, _engine, store, digest) = stored();
        let path = store.path(&digest);
        let good = fs::read(&path).unwrap();
        let step = good.len() / 97 + 1;
        for at in (0..good.len()).step_by(step).chain([0, 31, 32, good.len() - 1]) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(matches!(store.load(&digest), Err(ArtefactError::NotAuthentic(_))), "{at}");
        }
        for cut in [0, 1, 31, 32, 33, good.len() - 1] {
            fs::write(&path, &good[..cut]).unwrap();
            assert!(matches!(store.load(&digest), Err(ArtefactError::NotAuthentic(_))), "{cut}");
        }
        fs::write(&path, [good.as_slice(), b"x"].concat()).unwrap();
        assert!(matches!(store.load(&digest), Err(ArtefactError::NotAuthentic(_))));
        fs::write(&path, &good).unwrap();
        store.load(&digest).unwrap();
    }

    #[test]
    fn f09_an_artefact_of_another_component_or_key_is_refused() {
        let (dir, engine, store, digest) = stored();
        let other = Digest::of(b"another component");
        fs::copy(store.path(&digest), store.path(&other)).unwrap();
        assert!(matches!(store.load(&other), Err(ArtefactError::NotAuthentic(_))));

        fs::remove_file(dir.path().join("artefact.key")).unwrap();
        let rekeyed = ArtefactStore::open(dir.path(), &engine).unwrap();
        assert!(matches!(rekeyed.load(&digest), Err(ArtefactError::NotAuthentic(_))));
    }

    #[test]
    fn f09_key_and_artefacts_are_for_their_owner_alone() {
        let (dir, engine, store, digest) = stored();
        let key = dir.path().join("artefact.key");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&key), mode(&store.folder), mode(&store.path(&digest))), (0o600, 0o700, 0o600));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(ArtefactStore::open(dir.path(), &engine), Err(ArtefactError::Key(_))));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&key, b"short").unwrap();
        assert!(matches!(ArtefactStore::open(dir.path(), &engine), Err(ArtefactError::Key(_))));
    }
}
