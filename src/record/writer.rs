//! The one writer of a chain.
//!
//! Records queue; whoever finds the queue without a writer becomes the writer and serves everybody who queued until
//! the queue is empty: nobody waits for a thread to wake, and there is one write for the whole batch. After a few
//! rounds, or if a write must reach the disk first, the role passes to a thread, so that no request serves others
//! for long and no runtime thread waits for a disk. (`benches/README.md` has the figures of both.)
//!
//! The queue's lock is held to push or take, never while hashing or writing.

use std::{
    io, mem,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use tokio::sync::oneshot;

use super::{
    AuditError, Durability,
    chain::{Chain, Head},
    entry::Body,
    segment::{Found, Medium, Segment, Tape, opening_body, sync_dir},
};
use crate::id::TenantName;

/// A record has its place in the chain and was written as durably as was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Its number.
    pub seq: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Writer {
    settings: Settings,
    queue: Mutex<Queue>,
    handed_over: Condvar,
    /// Only whoever has the role locks it, so nobody ever waits here.
    desk: Mutex<Desk>,
    /// What checkpoints and retention need, as of the last batch.
    shelf: Mutex<Shelf>,
    depth: AtomicUsize,
    failures: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Settings {
    pub(super) name: &'static str,
    pub(super) dir: PathBuf,
    pub(super) durability: Durability,
    pub(super) segment_bytes: u64,
    /// Batches that a request may write before the thread takes over; 0 means that the thread writes all.
    pub(super) inline_batches: u32,
    pub(super) medium: Arc<dyn Medium>,
}

#[derive(Debug, Default)]
struct Queue {
    pending: Vec<Pending>,
    bytes: usize,
    role: Role,
    closed: bool,
}

/// Who writes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Role {
    #[default]
    Nobody,
    /// The task that pushed first.
    Pusher,
    Thread,
}

#[derive(Debug)]
struct Pending {
    tenant: Option<TenantName>,
    body: Body,
    reply: oneshot::Sender<Result<Written, AuditError>>,
}

#[derive(Debug)]
struct Desk {
    chain: Chain,
    tape: Option<Arc<dyn Tape>>,
    /// Bytes of the current segment that belong to the chain.
    len: u64,
    /// A failed write may have left bytes after `len`.
    dirty: bool,
    failing: bool,
    buffer: Vec<u8>,
    seqs: Vec<Option<u64>>,
    batch: Vec<Pending>,
}

/// State of the chain beside the writer's own.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) head: Head,
    /// Oldest first, with their bytes; the last is being written.
    pub(super) segments: Vec<(Segment, u64)>,
    /// Files with bytes that may not have reached the disk.
    pub(super) unsynced: Vec<Arc<dyn Tape>>,
}

impl Writer {
    pub(super) fn new(settings: Settings, found: Found) -> Result<Self, AuditError> {
        let (tape, len) = match found.segments.last() {
            Some((segment, len)) => {
                let tape = settings.medium.open(&segment.path);
                (Some(tape.map_err(|source| AuditError::read(&segment.path, source))?), *len)
            }
            None => (None, 0),
        };
        let shelf = Shelf {
            head: found.chain.head(),
            segments: found.segments,
            unsynced: tape.iter().cloned().collect(),
        };
        let desk = Desk {
            chain: found.chain,
            tape,
            len,
            dirty: false,
            failing: false,
            buffer: Vec::new(),
            seqs: Vec::new(),
            batch: Vec::new(),
        };
        Ok(Self {
            settings,
            queue: Mutex::default(),
            handed_over: Condvar::new(),
            desk: Mutex::new(desk),
            shelf: Mutex::new(shelf),
            depth: AtomicUsize::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// Resolves when the record is written. Once polled, the record is written even if nobody waits any more.
    pub(super) async fn append(&self, tenant: Option<TenantName>, body: Body) -> Result<Written, AuditError> {
        let (reply, written) = oneshot::channel();
        if self.push(Pending { tenant, body, reply })? {
            self.write_as_pusher();
        }
        written.await.unwrap_or(Err(AuditError::Closed))
    }

    /// The same for several lines of no tenant, in one batch where there is room.
    pub(super) async fn append_all(
        &self,
        bodies: impl Iterator<Item = Body>,
    ) -> Vec<Result<Written, AuditError>> {
        let mut writer = false;
        let mut replies = Vec::new();
        for body in bodies {
            let (reply, written) = oneshot::channel();
            let pushed = self.push(Pending { tenant: None, body, reply });
            replies.push(pushed.map(|turn| {
                writer |= turn;
                written
            }));
        }
        if writer {
            self.write_as_pusher();
        }
        let mut results = Vec::new();
        for reply in replies {
            results.push(match reply {
                Ok(written) => written.await.unwrap_or(Err(AuditError::Closed)),
                Err(error) => Err(error),
            });
        }
        results
    }

    /// Writes one line before anybody else can.
    pub(super) fn append_at_start(&self, body: Body) -> Result<(), AuditError> {
        let (reply, _) = oneshot::channel();
        self.try_write(&mut lock(&self.desk), &[Pending { tenant: None, body, reply }])
    }

    /// `true` makes the caller the writer.
    fn push(&self, pending: Pending) -> Result<bool, AuditError> {
        let mut queue = lock(&self.queue);
        if queue.closed {
            return Err(AuditError::Closed);
        }
        // INVARIANT (Bounded): full means that the disk does not keep up; the request is refused, not remembered.
        let bytes = queue.bytes + pending.body.len();
        if queue.pending.len() >= MAX_QUEUED || bytes > MAX_QUEUED_BYTES {
            self.failures.fetch_add(1, Ordering::Relaxed);
            return Err(AuditError::QueueFull);
        }
        queue.bytes = bytes;
        queue.pending.push(pending);
        self.depth.store(queue.pending.len(), Ordering::Relaxed);
        if queue.role != Role::Nobody {
            return Ok(false);
        }
        let inline = self.settings.durability == Durability::Process && self.settings.inline_batches > 0;
        queue.role = if inline { Role::Pusher } else { Role::Thread };
        drop(queue);
        if !inline {
            self.handed_over.notify_one();
        }
        Ok(inline)
    }

    fn write_as_pusher(&self) {
        let mut desk = lock(&self.desk);
        for _ in 0..self.settings.inline_batches {
            if !self.take(&mut desk) {
                return;
            }
            self.write_batch(&mut desk);
        }
        drop(desk);
        let mut queue = lock(&self.queue);
        queue.role = if queue.pending.is_empty() { Role::Nobody } else { Role::Thread };
        let handed_over = queue.role == Role::Thread;
        drop(queue);
        if handed_over {
            self.handed_over.notify_one();
        }
    }

    /// The thread's whole life.
    pub(super) fn write_as_thread(&self) {
        loop {
            let mut queue = lock(&self.queue);
            while queue.role != Role::Thread {
                if queue.closed {
                    return;
                }
                queue = self.handed_over.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            drop(queue);
            let mut desk = lock(&self.desk);
            while self.take(&mut desk) {
                self.write_batch(&mut desk);
            }
        }
    }

    /// Nothing is accepted any more; what was is written.
    pub(super) fn close(&self) {
        lock(&self.queue).closed = true;
        self.handed_over.notify_one();
    }

    /// Takes the queue; gives the role back if it is empty.
    fn take(&self, desk: &mut Desk) -> bool {
        let mut queue = lock(&self.queue);
        if queue.pending.is_empty() {
            queue.role = Role::Nobody;
            return false;
        }
        mem::swap(&mut queue.pending, &mut desk.batch);
        queue.bytes = 0;
        self.depth.store(0, Ordering::Relaxed);
        true
    }

    fn write_batch(&self, desk: &mut Desk) {
        let mut batch = mem::take(&mut desk.batch);
        let result = self.try_write(desk, &batch);
        match &result {
            Ok(()) if desk.failing => {
                desk.failing = false;
                tracing::info!(audit.chain = self.settings.name, "audit records are written again");
            }
            Err(error) if !desk.failing => {
                desk.failing = true;
                tracing::error!(
                    audit.chain = self.settings.name,
                    error = error as &dyn std::error::Error,
                    "audit records cannot be written: nothing is served"
                );
            }
            _ => {}
        }
        let seqs = desk.seqs.drain(..).chain(std::iter::repeat(None));
        for (pending, seq) in batch.drain(..).zip(seqs) {
            let answer = match &result {
                Ok(()) => seq.map(|seq| Written { seq }).ok_or(AuditError::TooManyTenants),
                Err(error) => Err(error.clone()),
            };
            if answer.is_err() {
                self.failures.fetch_add(1, Ordering::Relaxed);
            }
            // A request that is gone has its record all the same.
            let _ = pending.reply.send(answer);
        }
        desk.batch = batch;
        if desk.buffer.capacity() > KEPT_BUFFER_BYTES {
            desk.buffer = Vec::new();
        }
    }

    /// All of the batch or none: after an error the chain, the file and the heads are as they were.
    fn try_write(&self, desk: &mut Desk, batch: &[Pending]) -> Result<(), AuditError> {
        desk.seqs.clear();
        if let Some(tape) = desk.tape.as_ref().filter(|_| desk.dirty) {
            tape.truncate(desk.len).map_err(AuditError::write)?;
            desk.dirty = false;
        }
        let bytes: usize = batch.iter().map(|pending| pending.body.len() + LINK_BYTES).sum();
        let roll = desk.len.saturating_add(bytes as u64) > self.settings.segment_bytes;
        desk.chain.begin();
        desk.buffer.clear();
        let next = (roll || desk.tape.is_none())
            .then(|| Segment::named(&self.settings.dir, desk.chain.head().seq + 1));
        if next.is_some() {
            let opening = opening_body(SystemTime::now(), desk.chain.tenants());
            desk.chain.link(None, &opening, &mut desk.buffer);
        }
        for pending in batch {
            let admitted = desk.chain.admits(pending.tenant.as_ref());
            let seq =
                admitted.then(|| desk.chain.link(pending.tenant.as_ref(), &pending.body, &mut desk.buffer));
            desk.seqs.push(seq);
        }
        let written = match &next {
            Some(segment) => self.write_first(desk, segment),
            None => self.write_more(desk),
        };
        if let Err(source) = written {
            desk.chain.roll_back();
            return Err(AuditError::write(source));
        }
        let mut shelf = lock(&self.shelf);
        shelf.head = desk.chain.head();
        if let Some(segment) = next {
            shelf.unsynced.extend(desk.tape.clone());
            shelf.segments.push((segment, 0));
        }
        if let Some((_, bytes)) = shelf.segments.last_mut() {
            *bytes = desk.len;
        }
        Ok(())
    }

    fn write_first(&self, desk: &mut Desk, segment: &Segment) -> io::Result<()> {
        let create = || self.settings.medium.create(&segment.path);
        let tape = match create() {
            // Left by a try whose file could not be removed: the chain ends before it, so it holds nothing.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::remove_file(&segment.path)?;
                create()?
            }
            made => made?,
        };
        let written = tape.write_at(&desk.buffer, 0).and_then(|()| match self.settings.durability {
            Durability::Process => Ok(()),
            Durability::Machine => tape.sync().and_then(|()| sync_dir(&self.settings.dir)),
        });
        if let Err(error) = written {
            // A file that stays would only be in the way of the next try; a start removes it as well.
            drop(tape);
            let _ = std::fs::remove_file(&segment.path);
            return Err(error);
        }
        desk.tape = Some(tape);
        desk.len = desk.buffer.len() as u64;
        Ok(())
    }

    fn write_more(&self, desk: &mut Desk) -> io::Result<()> {
        let Some(tape) = &desk.tape else { return Err(io::ErrorKind::NotFound.into()) };
        let written = tape.write_at(&desk.buffer, desk.len).and_then(|()| match self.settings.durability {
            Durability::Process => Ok(()),
            Durability::Machine => tape.sync(),
        });
        if let Err(error) = written {
            // Part of the batch may be in the file. It goes now, or before the next write if the disk refuses that too.
            desk.dirty = tape.truncate(desk.len).is_err();
            return Err(error);
        }
        desk.len += desk.buffer.len() as u64;
        Ok(())
    }

    pub(super) fn shelf(&self) -> MutexGuard<'_, Shelf> {
        lock(&self.shelf)
    }

    pub(super) fn dir(&self) -> &std::path::Path {
        &self.settings.dir
    }

    pub(super) fn name(&self) -> &'static str {
        self.settings.name
    }

    /// Records waiting for the next batch.
    pub(super) fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed)
    }

    /// Records refused since the start.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

/// A panic elsewhere leaves these structures whole: they change by single assignments.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// About a quarter of a second of records at full load.
const MAX_QUEUED: usize = 8192;
const MAX_QUEUED_BYTES: usize = 16 << 20;
/// Bytes that the chain adds to a body, at most: numbers, three hashes, a name.
const LINK_BYTES: usize = 360;
/// A buffer that one large batch needed is not kept for small ones.
const KEPT_BUFFER_BYTES: usize = 1 << 20;
