//! Runs functions: strangers' code, on behalf of strangers, in this process or in one of their own (`worker`).
//!
//! A *component* is what a tenant wrote, compiled; an *instance* is one live copy of it, which serves one invocation and is
//! dropped (invariant **Alone**). A guest reaches nothing but its own memory: what it may ever reach is an import, and the
//! linker that resolves imports is built from capabilities, of which there are none yet. What it may use up has a named limit
//! each (invariant **Bounded**); what it answers is checked like any input.
//!
//! This is the only user of `wasmtime`.

mod admission;
mod artefact;
mod attempt;
mod compilations;
mod compile;
mod engine;
mod evidence;
mod inspect;
mod instances;
mod layout;
mod limits;
mod memory;
mod outcome;
mod pool;
mod portable;
mod posture;
mod process;
mod refusals;
mod run;
mod sealed;
mod turns;
mod watch;
mod worker;
mod world;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fmt,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Instant,
};

pub use admission::{AdmissionError, AdmissionLimits};
pub use artefact::{ArtefactError, ArtefactStore, Digest};
pub use compile::{Compiling, Component};
pub use engine::PoolLimits;
pub use evidence::Outcome;
pub use inspect::{Inspection, World, inspect};
pub use layout::{Layout, LayoutError, LayoutLimits};
pub use limits::{Limit, LimitHit, LimitName, LimitValue, Limits, SetBy, TABLE_ELEMENTS};
pub use outcome::{Overload, SandboxError, StartError, Usage};
pub use portable::{Missing, Off, Withheld};
pub use posture::{Posture, posture, probe, probe_worker_process};
pub use process::{
    CompileLimits, CompilerCommand, ProcessError, Stop,
    confine::{Confinement, Probe, Walls},
    worker::{compile_component, probe_confinement},
};
pub use run::Runner;
pub use worker::{
    Death, DeathKind, WorkerLimits, WorkerStats,
    inside::{probe_worker, serve_worker},
};
pub use world::Breach;

use crate::{
    id::{FunctionId, TenantName},
    site::units::Bytes,
};
use compile::Compiler;
use engine::Ticker;
use instances::Instances;
use memory::GuestMemory;
use pool::CpuPool;
use worker::{Remote, Workers};
use world::{CallerInput, EventInput, Reply, SignalInput};

/// Entry points for fuzzing.
pub mod fuzz {
    pub use super::worker::fuzz::worker_frames;
}

/// How the sandbox is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The instance pool.
    pub pool: PoolLimits,
    /// What is offered to the compiler.
    pub admission: AdmissionLimits,
    /// What the compiler may use up for one component.
    pub compile: CompileLimits,
    /// The program that compiles.
    pub compiler: CompilerCommand,
    /// Where artefacts are kept; without it they live as long as the process.
    pub data_dir: Option<PathBuf>,
    /// Threads for guests that compute.
    pub cpu_threads: NonZeroUsize,
    /// Invocations that may wait for those threads; those of one tenant no more than it leaves room for others.
    pub cpu_queue: usize,
    /// What all guests have together.
    pub memory: Bytes,
    /// Whether components of `wasi:http/proxy` are admitted.
    pub portable: bool,
    /// Processes for tenants whose functions run in none of ours.
    pub workers: WorkerLimits,
}

impl Default for Settings {
    /// A thread for each core, and a queue that one core serves in 1.6 s if every guest uses its 50 ms.
    fn default() -> Self {
        let cpu_threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self {
            pool: PoolLimits::default(),
            admission: AdmissionLimits::default(),
            compile: CompileLimits::default(),
            compiler: CompilerCommand::default(),
            data_dir: None,
            cpu_threads,
            cpu_queue: 32 * cpu_threads.get(),
            memory: memory::of_the_machine(),
            portable: true,
            workers: WorkerLimits::default(),
        }
    }
}

impl Settings {
    /// What becomes a worker, and what it is told.
    fn worker_program(&self) -> worker::Program {
        let job = worker::Job {
            pool: PoolLimits { instances: self.workers.instances, ..self.pool },
            threads: self.cpu_threads.min(MAX_WORKER_THREADS),
            memory: self.memory,
            portable: self.portable,
        };
        self.compiler.as_worker(&job)
    }
}

/// Of each kind: a tenant's guests compute on no more cores than these at once.
const MAX_WORKER_THREADS: NonZeroUsize = match NonZeroUsize::new(4) {
    Some(threads) => threads,
    None => NonZeroUsize::MIN,
};

/// The engine with its threads and components: one for each process.
pub struct Sandbox {
    compiler: Arc<Compiler>,
    cpu: CpuPool,
    #[cfg(feature = "portable")]
    guests: portable::Guests,
    instances: Instances,
    memory: Arc<GuestMemory>,
    workers: Arc<Workers>,
    _ticker: Ticker,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("cpu", &self.cpu)
            .field("instances", &self.instances)
            .finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Starts the engine, its tick and its threads.
    pub fn start(settings: &Settings) -> Result<Arc<Self>, StartError> {
        let engine = engine::engine(&settings.pool)?;
        let artefacts =
            settings.data_dir.as_deref().map(|dir| ArtefactStore::open(dir, &engine)).transpose()?;
        Self::around(engine, artefacts, settings)
    }

    /// Starts what stands around an engine.
    fn around(
        engine: wasmtime::Engine,
        artefacts: Option<ArtefactStore>,
        settings: &Settings,
    ) -> Result<Arc<Self>, StartError> {
        Ok(Arc::new(Self {
            cpu: CpuPool::start(settings.cpu_threads, settings.cpu_queue)?,
            #[cfg(feature = "portable")]
            guests: portable::Guests::new(settings.cpu_threads),
            instances: Instances::new(settings.pool.instances),
            memory: GuestMemory::new(settings.memory),
            workers: Workers::new(settings.workers, settings.worker_program()),
            _ticker: Ticker::start(&engine)?,
            compiler: Compiler::new(engine, artefacts, settings)?,
        }))
    }

    /// Admits a component, binary or text; the same bytes are the same component for everyone.
    ///
    /// Blocks while it compiles, up to the limit on the wall: call it from a thread that may wait. `origin` is where the bytes
    /// can be read again should the artefact store lose what it has.
    pub fn admit(&self, bytes: &[u8], origin: Option<&Path>) -> Result<Arc<Component>, AdmissionError> {
        self.compiler.admit(bytes, origin)
    }

    /// As [`Self::admit`] for a tenant, in its turn, and waits no longer than until then:
    /// [`AdmissionError::is_under_way`] tells that compiling goes on.
    pub fn admit_by(
        &self,
        tenant: &TenantName,
        bytes: Vec<u8>,
        origin: Option<&Path>,
        until: Instant,
    ) -> Result<Arc<Component>, AdmissionError> {
        self.compiler.admit_by(tenant, bytes, origin, until)
    }

    /// Whom to tell of tenants whose compilations have ended after nobody waited for them any more; the first holds.
    pub fn when_compiled(&self, tell: impl Fn(BTreeSet<TenantName>) + Send + Sync + 'static) {
        self.compiler.when_compiled(tell);
    }

    /// The tenant asks for no component again before its files change: what failed for another cause than its own may be tried
    /// again then.
    pub fn settled(&self, tenant: &TenantName) {
        self.compiler.settled(tenant);
    }

    /// How compiling goes.
    pub fn compiling(&self) -> Compiling {
        self.compiler.compiling()
    }

    /// Instances that run now, and how many can.
    pub fn occupancy(&self) -> (u32, u32) {
        self.instances.occupancy()
    }

    /// A runner for one function, whose tenant takes its turn in the queue for threads.
    pub fn runner(
        self: &Arc<Self>,
        function: FunctionId,
        component: Arc<Component>,
        limits: Limits,
    ) -> Runner {
        Runner::new(Arc::clone(self), function, component, limits, None)
    }

    /// The same for a function of a tenant that is isolated: it runs in the tenant's worker process.
    pub fn isolated_runner(
        self: &Arc<Self>,
        function: FunctionId,
        component: Arc<Component>,
        limits: Limits,
    ) -> Runner {
        let remote = Remote::new(self.workers.house(&function.tenant), Arc::clone(&component));
        Runner::new(Arc::clone(self), function, component, limits, Some(remote))
    }

    /// What is counted of worker processes.
    pub fn workers(&self) -> WorkerStats {
        self.workers.stats()
    }

    /// Ends every worker process, whatever it does.
    pub fn end_workers(&self) {
        self.workers.end();
    }

    /// What another process admitted, for a runner in this one.
    fn receive(
        &self,
        digest: Digest,
        artefact: &artefact::Artefact,
    ) -> Result<Arc<Component>, AdmissionError> {
        self.compiler.receive(digest, artefact)
    }

    /// Starts threads that otherwise start with the first call that needs them.
    fn start_guest_threads(&self) -> std::io::Result<()> {
        #[cfg(feature = "portable")]
        self.guests.threads()?;
        Ok(())
    }
}
