//! What comes of an invocation: an answer or the reason for none, and what it used.

use std::time::Duration;

use super::{AdmissionError, ArtefactError, Breach, Death, LimitHit};

/// What an invocation used, whether it succeeded or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Thread CPU time, that of an abandoned slice included. Of a call shorter than a tick it is the time that the call took,
    /// which is never less.
    pub cpu: Duration,
    /// From call to answer.
    pub wall: Duration,
    /// Most memory at once: all memories and tables, in bytes.
    pub peak_memory: u64,
    /// The component had to be loaded first.
    pub cold: bool,
    /// The call outlived its slice and was run again on a CPU thread.
    pub retried: bool,
    /// Bytes that a portable guest wrote to its standard output and error, which lead nowhere.
    pub dropped: u64,
    /// The worker process that it ran in, if not in this one.
    pub worker: Option<u32>,
    /// Limits that were met, in order; a guest may meet its memory limit and still answer.
    pub hits: Vec<LimitHit>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The guest did what Wasm forbids, or gave up.
    #[error("the function trapped: {reason}")]
    Trapped {
        /// The engine's name for it.
        reason: String,
    },
    /// The guest could not go on within its memory.
    #[error("the function failed after it met its {0}")]
    OutOfMemory(LimitHit),
    /// Out of CPU time.
    #[error("the function met its {0}")]
    CpuExhausted(LimitHit),
    /// Out of time on the wall.
    #[error("the function met its {0}")]
    WallExhausted(LimitHit),
    /// More answer than allowed.
    #[error("the function's answer exceeded its {0}")]
    ResponseTooLarge(LimitHit),
    /// An answer that the contract does not know.
    #[error("the function broke its contract: {0}")]
    ContractBroken(#[from] Breach),
    /// An answer that the manifest does not allow.
    #[error("the function broke its contract")]
    ReplyRefused(#[from] crate::event::ReplyError),
    /// No room now.
    #[error("no room for another invocation: {0}")]
    Overloaded(Overload),
    /// The process that it ran in is no more.
    #[error("worker died: it ended {0}")]
    WorkerDied(Death),
    /// The component could not be loaded.
    #[error("the function's component could not be loaded")]
    Admission(#[from] AdmissionError),
    /// Our bug.
    #[error("internal fault in the sandbox: {message}")]
    Internal {
        /// What is known.
        message: String,
    },
}

/// Why the sandbox does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine refuses its configuration, or the machine refuses the engine its address space.
    #[error("the engine does not start: {reason}")]
    Engine {
        /// The engine's words.
        reason: String,
    },
    /// No thread.
    #[error("a thread of the sandbox does not start")]
    Thread(#[source] std::io::Error),
    /// The artefact store.
    #[error(transparent)]
    Artefacts(#[from] ArtefactError),
}

/// Where there was no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Overload {
    /// Too many invocations of this function in flight.
    #[error("{0}")]
    Function(LimitHit),
    /// The queue for CPU threads is full, or this tenant's share of it.
    #[error("the queue for threads is full")]
    Queue,
    /// The tenant holds as many instances as it leaves to others.
    #[error("the tenant's share of the instances is in use")]
    Tenant,
    /// The memory of all guests is taken, or the tenant has as much of it as it leaves to others.
    #[error("no memory is left for the function")]
    Memory,
    /// Every slot of the instance pool is taken.
    #[error("every instance is in use")]
    Instances,
    /// As many worker processes as may be, and each of them is busy.
    #[error("every worker process is in use")]
    Workers,
    /// The tenant's workers died one after the other; the next is not started yet.
    #[error("the worker process is started again later")]
    Restarting,
}

impl SandboxError {
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::Internal { message: message.into() }
    }
}
