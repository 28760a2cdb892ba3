//! From the bytes that an author wrote to something that can be instantiated.
//!
//! A component is *admitted* once: bounded, compiled, found to import nothing that the manifest did not ask for and to export
//! exactly the handler. The same bytes are admitted once for all who use them, and once for as long as the artefact store
//! keeps them; an artefact in the store is a component that was admitted.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use wasmtime::{
    Engine,
    component::{self, Linker},
};

use super::{
    Settings, StartError,
    admission::{AdmissionError, AdmissionLimits, printable},
    artefact::{Artefact, ArtefactError, ArtefactStore, Digest},
    compilations::Compilations,
    portable::{self, Missing, Off},
    process::{Processes, wire::Compiled},
    refusals::Refusals,
    run::State,
    turns::{For, Occupied},
    world::{self, FunctionPre, HANDLER},
};
use crate::id::TenantName;

/// A component that was admitted. Loaded when it is first called.
pub struct Component {
    digest: Digest,
    /// Where its bytes came from, each of several functions' files if these are alike: what becomes of one of them, its tenant's
    /// alone to say, is nothing to the others.
    origins: Mutex<Vec<PathBuf>>,
    compiler: Arc<Compiler>,
    loaded: OnceLock<Loaded>,
    /// Its machine code, where no store has it.
    kept: OnceLock<Arc<Artefact>>,
    /// One thread loads; the others wait for it.
    loading: Mutex<()>,
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component")
            .field("digest", &self.digest)
            .field("loaded", &self.ready().is_some())
            .finish()
    }
}

/// Machine code with its imports resolved, ready to be instantiated in its world.
pub(super) enum Loaded {
    Narrow(FunctionPre<State>),
    #[cfg(feature = "portable")]
    Portable(portable::Pre),
}

impl Component {
    /// SHA-256 of the file.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.compiler.engine
    }

    /// What can be instantiated, if it is loaded.
    pub(super) fn ready(&self) -> Option<&Loaded> {
        self.loaded.get()
    }

    /// Loads the component unless it is loaded. Blocks: reads files, and compiles if the store lost the artefact.
    pub(super) fn load(&self) -> Result<&Loaded, AdmissionError> {
        self.load_or(|| {
            let source = match self.stored().map(|stored| stored.and_then(|artefact| self.taken(&artefact))) {
                Some(Ok(component)) => return self.compiler.link(&component),
                Some(Err(error)) => Some(error),
                None => None,
            };
            self.compile(None, &self.bytes(source)?)
        })
    }

    /// Its machine code, for another process to load. Blocks as [`Self::load`] does.
    pub(super) fn artefact(&self) -> Result<Arc<Artefact>, AdmissionError> {
        if let Some(kept) = self.kept.get() {
            return Ok(Arc::clone(kept));
        }
        let source = match self.stored() {
            Some(Ok(artefact)) => return Ok(Arc::new(artefact)),
            Some(Err(error)) => Some(error),
            None => None,
        };
        self.compile(None, &self.bytes(source)?)?;
        match (self.kept.get(), self.stored()) {
            (Some(kept), _) => Ok(Arc::clone(kept)),
            (None, Some(Ok(artefact))) => Ok(Arc::new(artefact)),
            (None, Some(Err(error))) => Err(AdmissionError::Gone { source: Some(error) }),
            (None, None) => Err(AdmissionError::Gone { source: None }),
        }
    }

    /// Its bytes, from the first file that still has them; `stored` is why its artefact did not serve.
    fn bytes(&self, stored: Option<ArtefactError>) -> Result<Vec<u8>, AdmissionError> {
        if let Some(error) = &stored {
            tracing::warn!(component.digest = %self.digest, error = %error, "a stored artefact was not used");
            // The next admission compiles; what cannot be removed is refused again. What could not even be read may be good:
            // a moment without a free descriptor is no reason to compile everything anew.
            if !matches!(error, ArtefactError::Io { .. }) {
                self.compiler.artefacts.iter().for_each(|store| store.discard(&self.digest));
            }
        }
        let origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut refusal = AdmissionError::Gone { source: stored };
        for path in origins {
            match read_bounded(&path, self.compiler.limits.binary_bytes) {
                Ok(bytes) if Digest::of(&bytes) == self.digest => return Ok(bytes),
                Ok(_) => refusal = AdmissionError::Changed,
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    fn compile(&self, who: For, bytes: &[u8]) -> Result<Loaded, AdmissionError> {
        let (loaded, unstored) = self.compiler.compile(who, &self.digest, bytes)?;
        if let Some(artefact) = unstored {
            // Compiled twice at once, it is the same code.
            self.kept.set(Arc::new(artefact)).ok();
        }
        Ok(loaded)
    }

    /// What the store has of it.
    fn stored(&self) -> Option<Result<Artefact, ArtefactError>> {
        Some(self.compiler.artefacts.as_ref()?.load(&self.digest))
    }

    /// Whether the engine takes what was stored.
    fn taken(&self, artefact: &Artefact) -> Result<component::Component, ArtefactError> {
        artefact.load(self.engine()).map_err(|error| ArtefactError::Unusable {
            digest: self.digest,
            reason: printable(&format!("{error:#}")),
        })
    }

    fn load_or(
        &self,
        make: impl FnOnce() -> Result<Loaded, AdmissionError>,
    ) -> Result<&Loaded, AdmissionError> {
        let _one = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let loaded = make()?;
        Ok(self.loaded.get_or_init(|| loaded))
    }
}

/// Admits components, and knows which ones are in use.
pub(super) struct Compiler {
    engine: Engine,
    /// The linker of the empty capability set; others come with the capabilities, one for each set (F11).
    linker: Linker<State>,
    #[cfg(feature = "portable")]
    world: portable::World,
    /// Whether the portable world is served.
    portable: Result<(), Off>,
    artefacts: Option<ArtefactStore>,
    limits: AdmissionLimits,
    processes: Processes,
    copy_on_write: bool,
    known: Mutex<Known>,
    refusals: Refusals,
    late: Arc<Compilations>,
    counts: Counts,
}

/// How compiling goes, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compiling {
    /// Compile processes now.
    pub running: usize,
    /// Components that wait for one.
    pub waiting: usize,
    /// Time that those took which have ended.
    pub taken: Duration,
    /// Components that were admitted.
    pub compiled: u64,
    /// Components that were refused, and would be again.
    pub refused: u64,
    /// Attempts that ended for another cause than the component.
    pub failed: u64,
    /// Refusals that were told from memory.
    pub remembered: u64,
}

#[derive(Default)]
struct Counts {
    compiled: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    remembered: AtomicU64,
}

/// What is known of a component without compiling it.
enum Found {
    Admitted(Arc<Component>),
    Wanted(Arc<Component>),
}

#[derive(Default)]
struct Known {
    by_digest: HashMap<Digest, Weak<Component>>,
    /// Dead entries are swept when the map has grown to this.
    sweep_at: usize,
}

impl Compiler {
    pub(super) fn new(
        engine: Engine,
        artefacts: Option<ArtefactStore>,
        settings: &Settings,
    ) -> Result<Arc<Self>, StartError> {
        let linker = Linker::new(&engine);
        #[cfg(feature = "portable")]
        let world = portable::World::new(&engine)
            .map_err(|e| StartError::Engine { reason: format!("the portable world: {e:#}") })?;
        let processes = Processes::new(settings.compiler.clone(), settings.compile);
        let (limits, copy_on_write) = (settings.admission, settings.pool.copy_on_write);
        Ok(Arc::new(Self {
            engine,
            linker,
            #[cfg(feature = "portable")]
            world,
            portable: portable::served(settings.portable),
            artefacts,
            limits,
            processes,
            copy_on_write,
            known: Mutex::default(),
            refusals: Refusals::default(),
            late: Arc::default(),
            counts: Counts::default(),
        }))
    }

    /// Admits a component, binary or text. Blocks for as long as compiling takes, unless its artefact is in the store.
    pub(super) fn admit(
        self: &Arc<Self>,
        bytes: &[u8],
        origin: Option<&Path>,
    ) -> Result<Arc<Component>, AdmissionError> {
        let digest = Digest::of(bytes);
        match self.find(digest, origin)? {
            Found::Admitted(component) => Ok(component),
            Found::Wanted(component) => {
                let loaded = component.load_or(|| component.compile(None, bytes)).map(|_| ());
                loaded.map_err(|error| AdmissionError::Known(self.refused(digest, error)))?;
                Ok(component)
            }
        }
    }

    /// Admits a component for a tenant, as far as that is done by `until`. Compiling goes on if it is not, and whoever is
    /// [told of it](Self::when_compiled) may ask again.
    pub(super) fn admit_by(
        self: &Arc<Self>,
        tenant: &TenantName,
        bytes: Vec<u8>,
        origin: Option<&Path>,
        until: Instant,
    ) -> Result<Arc<Component>, AdmissionError> {
        let digest = Digest::of(&bytes);
        let component = match self.find(digest, origin)? {
            Found::Admitted(component) => return Ok(component),
            Found::Wanted(component) => component,
        };
        let (compiler, who) = (Arc::clone(self), tenant.clone());
        let compile = move || {
            let loaded = component.load_or(|| component.compile(Some(who), &bytes)).map(|_| ());
            loaded.map_err(|error| compiler.refused(digest, error))?;
            Ok(component)
        };
        self.late.wait(tenant, digest, until, compile).map_err(AdmissionError::Known)
    }

    /// Whom to tell of tenants whose compilations have ended after nobody waited for them any more.
    pub(super) fn when_compiled(&self, tell: impl Fn(BTreeSet<TenantName>) + Send + Sync + 'static) {
        self.late.when_ended(Box::new(tell));
    }

    /// See [`Compilations::settled`].
    pub(super) fn settled(&self, tenant: &TenantName) {
        self.late.settled(tenant);
    }

    pub(super) fn compiling(&self) -> Compiling {
        let Occupied { running, waiting, taken } = self.processes.occupied();
        let [compiled, refused, failed, remembered] =
            [&self.counts.compiled, &self.counts.refused, &self.counts.failed, &self.counts.remembered]
                .map(|count| count.load(Ordering::Relaxed));
        Compiling { running, waiting, taken, compiled, refused, failed, remembered }
    }

    /// A component that is loaded, or stored, or not admitted yet; an error if it was refused.
    fn find(self: &Arc<Self>, digest: Digest, origin: Option<&Path>) -> Result<Found, AdmissionError> {
        let component = self.known(digest, origin);
        if component.ready().is_some() {
            return Ok(Found::Admitted(component));
        }
        if self.artefacts.as_ref().is_some_and(|store| store.holds(&digest)) {
            if self.portable.is_err() {
                // What is stored may have been admitted where this world is served.
                component.load()?;
            }
            return Ok(Found::Admitted(component));
        }
        match self.refusals.of(&digest) {
            Some(refusal) => {
                self.counts.remembered.fetch_add(1, Ordering::Relaxed);
                Err(AdmissionError::Known(refusal))
            }
            None => Ok(Found::Wanted(component)),
        }
    }

    /// Counts a refusal, and remembers it if it would be the same again.
    fn refused(&self, digest: Digest, error: AdmissionError) -> Arc<AdmissionError> {
        let error = Arc::new(error);
        let count = match self.refusals.remember(digest, &error) {
            true => &self.counts.refused,
            false => &self.counts.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        error
    }

    fn known(self: &Arc<Self>, digest: Digest, origin: Option<&Path>) -> Arc<Component> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(component) = known.by_digest.get(&digest).and_then(Weak::upgrade) {
            let mut origins = component.origins.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(origin) = origin.filter(|origin| !origins.iter().any(|known| known == origin)) {
                // The newest are those of functions that are still there.
                origins.insert(0, origin.to_owned());
                origins.truncate(MAX_ORIGINS);
            }
            drop(origins);
            return component;
        }
        if known.by_digest.len() >= known.sweep_at {
            known.by_digest.retain(|_, component| component.strong_count() > 0);
            known.sweep_at = known.by_digest.len() * 2 + 64;
        }
        let component = Arc::new(Component {
            digest,
            origins: Mutex::new(origin.map(Path::to_owned).into_iter().collect()),
            compiler: Arc::clone(self),
            loaded: OnceLock::new(),
            kept: OnceLock::new(),
            loading: Mutex::default(),
        });
        known.by_digest.insert(digest, Arc::downgrade(&component));
        component
    }

    /// Takes what another process admitted, compiled and checked.
    pub(super) fn receive(
        self: &Arc<Self>,
        digest: Digest,
        artefact: &Artefact,
    ) -> Result<Arc<Component>, AdmissionError> {
        let component = self.known(digest, None);
        component
            .load_or(|| self.link(&artefact.load_copy(&self.engine).map_err(AdmissionError::invalid)?))?;
        Ok(component)
    }

    /// Gives the machine code beside what is loaded of it, if no store keeps it.
    fn compile(
        &self,
        who: For,
        digest: &Digest,
        bytes: &[u8],
    ) -> Result<(Loaded, Option<Artefact>), AdmissionError> {
        let compiled = self.processes.compile(who, bytes, &self.limits, self.copy_on_write);
        let Compiled { artefact, .. } = compiled.map_err(|error| error.told_of(bytes))?;
        let component = artefact.load(&self.engine).map_err(AdmissionError::invalid)?;
        let loaded = self.link(&component)?;
        self.counts.compiled.fetch_add(1, Ordering::Relaxed);
        let stored = match self.artefacts.as_ref().map(|store| store.store(digest, &artefact)) {
            Some(Ok(())) => true,
            None => false,
            Some(Err(error)) => {
                // The component runs without it; the next start compiles again.
                tracing::warn!(component.digest = %digest, error = %error, "an artefact was not stored");
                false
            }
        };
        Ok((loaded, (!stored).then_some(artefact)))
    }

    /// Resolves imports: with no capability granted there must be none, beyond the base that the portable world has.
    fn link(&self, component: &component::Component) -> Result<Loaded, AdmissionError> {
        let ty = component.component_type();
        let exports = |wanted: fn(&str) -> bool| ty.exports(&self.engine).any(|(name, _)| wanted(name));
        if exports(portable::is_handler) && !exports(|name| name == HANDLER) {
            self.portable?;
            let imports = ty.imports(&self.engine).map(|(name, _)| name);
            if let Some(missing) = Missing::of(imports) {
                return Err(AdmissionError::Withheld(missing));
            }
            #[cfg(feature = "portable")]
            return Ok(Loaded::Portable(self.world.link(component).map_err(AdmissionError::invalid)?));
        }
        if let Some((import, _)) = ty.imports(&self.engine).next() {
            return Err(AdmissionError::Import { import: printable(import) });
        }
        let handler = ty.get_export(&self.engine, HANDLER).ok_or(AdmissionError::NoHandler)?;
        world::check_handler(&self.engine, &ty, &handler.ty)
            .map_err(|reason| AdmissionError::HandlerType { reason: printable(&reason) })?;
        let pre = self.linker.instantiate_pre(component).map_err(AdmissionError::invalid)?;
        Ok(Loaded::Narrow(FunctionPre::new(pre).map_err(AdmissionError::invalid)?))
    }
}

fn read_bounded(path: &Path, limit: usize) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Files of one component that are remembered.
const MAX_ORIGINS: usize = 64;
