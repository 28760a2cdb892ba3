//! Records: what was asked, what was decided, what it cost; and metrics under the same names.
//!
//! Two chains of hashed lines lie in the audit directory. `invocations/` has one record for each request of a caller
//! who proved who they are. `refused/` has the refusals before that, alone or in aggregate, in a size budget of its
//! own: nobody without a token can push out another's record or fill the disk.
//!
//! INVARIANT (Told): [`AuditLog::append`] and [`AuditLog::refused_unauthenticated`] return only when the refusal or
//! reply they tell of is written, or counted; the gateway answers after that, and with 503 if it could not be
//! written. [`verify()`] checks what was written, [`show()`] reads it, [`Follow`] as it is written.

mod aggregate;
mod chain;
mod checkpoint;
mod entry;
mod follow;
mod histogram;
mod log;
pub mod metrics;
mod redact;
mod segment;
mod show;
#[cfg(test)]
mod tests;
mod time;
pub mod trace;
mod verify;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use self::{
    aggregate::RefusedLimits,
    chain::{Hash, HashError, Head},
    checkpoint::{CheckpointKey, KeyError, VerifyingKey},
    entry::{
        CallerEntry, DecisionEntry, GrantEntry, LimitHit, Outcome, Pairs, Record, Refusal, SetBy,
        SignalEntry, Stage, Start,
    },
    follow::Follow,
    log::{AuditLog, Stats, Told},
    metrics::{FunctionMetrics, Metrics},
    redact::Redactor,
    show::{Filter, Shown, escape_controls, extract, show},
    verify::{Anchor, ChainReport, Fault, FaultKind, Report, verify, verify_extract},
    writer::Written,
};

/// What a record must survive before its reply goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// A completed write(2): survives `kill -9` of the gateway.
    #[default]
    Process,
    /// A group-committed fdatasync(2): survives a power cut.
    Machine,
}

/// How much of the invocations is kept; whole segments go, oldest first, never the one being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retain {
    /// At most so many bytes, to the nearest segment.
    pub bytes: Option<u64>,
    /// Nothing that is older, to the nearest segment.
    pub age: Option<Duration>,
}

/// How an audit log is kept.
#[derive(Debug)]
pub struct Options {
    /// When a record counts as written.
    pub durability: Durability,
    /// What is kept; everything by default.
    pub retain: Retain,
    /// A segment is closed before it would grow beyond this.
    pub segment_bytes: u64,
    /// Signs checkpoints; must not lie in the data directory, or whoever can rewrite the log can sign it.
    pub checkpoint_key: Option<CheckpointKey>,
    /// Time between checkpoints.
    pub checkpoint_every: Duration,
    /// Batches that a request's task may write for others before a thread takes over; with 0 the thread writes all.
    pub inline_batches: u32,
    /// Bounds on what callers without a token can cause.
    pub refused: RefusedLimits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            retain: Retain::default(),
            segment_bytes: SEGMENT_BYTES,
            checkpoint_key: None,
            checkpoint_every: Duration::from_secs(60),
            inline_batches: INLINE_BATCHES,
            refused: RefusedLimits::default(),
        }
    }
}

/// Why something is not recorded, or cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuditError {
    /// Another process has the log.
    #[error("the audit log `{}` is in use by another process", .path.display())]
    Locked {
        /// Its directory.
        path: PathBuf,
    },
    /// Directory or file could not be used.
    #[error("the audit log could not be opened at `{}`", .path.display())]
    Read {
        /// What was opened.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Arc<io::Error>,
    },
    /// A sound record follows one that is not: no crash does that.
    #[error(
        "the audit log is broken after record {after} in `{}`: run `sandgate audit verify`, keep the directory as \
         evidence, and start with a new one", .path.display()
    )]
    Broken {
        /// The segment.
        path: PathBuf,
        /// The last record that follows the one before it.
        after: u64,
    },
    /// The disk is full, read-only or gone.
    #[error("the record could not be written")]
    Write {
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// Records come faster than the disk takes them.
    #[error("the queue of records is full")]
    QueueFull,
    /// More tenants than a log holds heads for.
    #[error("the audit log has no room for another tenant's chain")]
    TooManyTenants,
    /// The log was closed.
    #[error("the audit log is closed")]
    Closed,
}

impl AuditError {
    fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.into(), source: Arc::new(source) }
    }

    fn write(source: io::Error) -> Self {
        Self::Write { source: Arc::new(source) }
    }
}

/// Large enough that 20 000 records a second open four files a minute, small enough to copy about.
const SEGMENT_BYTES: u64 = 64 << 20;
/// One batch is one's own; a few more spare the thread's wake-up under load.
const INLINE_BATCHES: u32 = 4;
/// Names of the two chains, which are also their folders.
const INVOCATIONS: &str = "invocations";
const REFUSED: &str = "refused";
const CHAINS: [&str; 2] = [INVOCATIONS, REFUSED];
