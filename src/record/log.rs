//! The audit log as the gateway sees it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use super::{
    AuditError, INVOCATIONS, Options, REFUSED, Retain,
    aggregate::{Aggregate, Aggregates},
    chain::{Head, Removed},
    checkpoint::{self, CheckpointKey},
    entry::{Record, Refusal, body_of, rfc3339},
    redact::Redactor,
    segment::{self, Disk, Medium, Segment, recovered_body},
    time::since,
    writer::{Settings, Writer, Written, lock},
};

/// Both chains of a data directory. Dropping it writes what is queued and frees the directory.
#[derive(Debug)]
pub struct AuditLog {
    dir: PathBuf,
    invocations: Arc<Writer>,
    refused: Arc<Writer>,
    aggregates: Mutex<Aggregates>,
    redactor: Redactor,
    retain: Retain,
    refused_budget: u64,
    checkpoint_key: Option<CheckpointKey>,
    checkpoint_every: Duration,
    keeper: tokio::sync::Mutex<Keeper>,
    threads: Vec<JoinHandle<()>>,
    _lock: File,
}

/// How a refusal before authentication was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It has its own record.
    Recorded(Written),
    /// It is counted, and written with others at a later tick.
    Counted,
}

/// For metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Records waiting for the writers.
    pub queue_depth: usize,
    /// Records that were refused since the start.
    pub failures: u64,
    /// Number of the last invocation's line.
    pub head_seq: u64,
}

/// When the last housekeeping was.
#[derive(Debug, Default)]
struct Keeper {
    checkpointed: Option<SystemTime>,
    heads: [Option<Head>; 2],
    aged: Option<SystemTime>,
}

impl AuditLog {
    /// Opens or makes the log in `dir`, alone: a second process is refused.
    ///
    /// Reads the last segment of each chain and blocks meanwhile (64 MiB take about 0.3 s).
    pub fn open(dir: &Path, options: Options) -> Result<Self, AuditError> {
        Self::open_on(dir, options, &(Arc::new(Disk) as Arc<dyn Medium>))
    }

    pub(super) fn open_on(
        dir: &Path,
        options: Options,
        medium: &Arc<dyn Medium>,
    ) -> Result<Self, AuditError> {
        let failed = |source| AuditError::read(dir, source);
        segment::private_dir(dir).map_err(failed)?;
        let mut lock_file = OpenOptions::new();
        lock_file.write(true).create(true).truncate(false).mode(0o600);
        let held = lock_file.open(dir.join(LOCK_FILE)).map_err(failed)?;
        flock(&held, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => AuditError::Locked { path: dir.into() },
            error => failed(error.into()),
        })?;
        let redactor = Redactor::open(&dir.join(REDACTION_KEY_FILE)).map_err(failed)?;
        let refused_segment = (options.refused.budget_bytes / REFUSED_SEGMENTS).max(MIN_SEGMENT_BYTES);
        let open = |name, segment_bytes| {
            let settings = Settings {
                name,
                dir: dir.join(name),
                durability: options.durability,
                segment_bytes,
                inline_batches: options.inline_batches,
                medium: medium.clone(),
            };
            open_chain(settings)
        };
        let invocations = open(INVOCATIONS, options.segment_bytes.max(MIN_SEGMENT_BYTES))?;
        let refused = open(REFUSED, refused_segment)?;
        let spawn = |writer: &Arc<Writer>| {
            let writer = writer.clone();
            let named = thread::Builder::new().name(format!("audit-{}", writer.name()));
            named.spawn(move || writer.write_as_thread()).map_err(failed)
        };
        let first = spawn(&invocations)?;
        let second = spawn(&refused).inspect_err(|_| invocations.close())?;
        Ok(Self {
            dir: dir.into(),
            invocations,
            refused,
            aggregates: Mutex::new(Aggregates::new(options.refused)),
            redactor,
            retain: options.retain,
            refused_budget: options.refused.budget_bytes,
            checkpoint_key: options.checkpoint_key,
            checkpoint_every: options.checkpoint_every,
            keeper: tokio::sync::Mutex::default(),
            threads: vec![first, second],
            _lock: held,
        })
    }

    /// Returns when the record is written as durably as was asked; after an error nothing may be served.
    ///
    /// Once polled, the record is written even if the future is dropped.
    pub async fn append(&self, record: Record) -> Result<Written, AuditError> {
        let tenant = record.tenant.clone();
        self.invocations.append(Some(tenant), record.body()).await
    }

    /// Returns when the refusal is recorded, or counted: then it may be answered.
    ///
    /// A disk that refuses does not silence the count, so there is no error.
    pub async fn refused_unauthenticated(&self, refusal: Refusal) -> Told {
        if !lock(&self.aggregates).admit(&refusal) {
            return Told::Counted;
        }
        match self.refused.append(None, refusal.body()).await {
            Ok(written) => Told::Recorded(written),
            Err(_) => {
                lock(&self.aggregates).count(&refusal);
                Told::Counted
            }
        }
    }

    /// The operator blocked or let go: what was in force when is part of the story of every call. The operator's own text
    /// bounds it: `blocked.json` has its size.
    pub async fn blocked(
        &self,
        time: SystemTime,
        blocked: &[String],
        unblocked: &[String],
    ) -> Result<Written, AuditError> {
        #[derive(Serialize)]
        struct Fields<'a> {
            #[serde(serialize_with = "rfc3339")]
            time: SystemTime,
            blocked: &'a [String],
            unblocked: &'a [String],
        }
        let fields = Fields { time, blocked, unblocked };
        self.invocations.append(None, body_of("blocked", &fields)).await
    }

    /// Housekeeping, to be called about once a second: writes aggregates, removes what need not be kept, signs
    /// checkpoints, each when it is due at `now`.
    pub async fn tick(&self, now: SystemTime) -> Result<(), AuditError> {
        let mut keeper = self.keeper.lock().await;
        // A step that fails does not keep the others from theirs: removal is what frees a full disk.
        let aged = keeper.aged.is_none_or(|aged| since(now, aged) >= AGE_EVERY);
        if aged {
            keeper.aged = Some(now);
        }
        let age = self.retain.age.filter(|_| aged);
        let removed = self.remove(&self.invocations, Retain { age, ..self.retain }, now).await;

        let due = lock(&self.aggregates).due(now);
        let counted = self.write_aggregates(due).await;
        let budget = Retain { bytes: Some(self.refused_budget), age: None };
        let shed = self.remove(&self.refused, budget, now).await;

        let checkpointed = *keeper.checkpointed.get_or_insert(now);
        let due = since(now, checkpointed) >= self.checkpoint_every;
        let signed = if due { self.checkpoint(&mut keeper, now).await } else { Ok(()) };
        removed.and(counted).and(shed).and(signed)
    }

    /// At shutdown, after the last reply: writes what is counted and signs where the chains end. Nothing is accepted
    /// after that.
    pub async fn close(&self, now: SystemTime) -> Result<(), AuditError> {
        let mut keeper = self.keeper.lock().await;
        let due = lock(&self.aggregates).take(now);
        let counted = self.write_aggregates(due).await;
        let signed = self.checkpoint(&mut keeper, now).await;
        self.invocations.close();
        self.refused.close();
        counted.and(signed)
    }

    /// Hashes what tenant.toml lists under `redact`.
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// For metrics.
    pub fn stats(&self) -> Stats {
        Stats {
            queue_depth: self.invocations.depth() + self.refused.depth(),
            failures: self.invocations.failures() + self.refused.failures(),
            head_seq: self.invocations.shelf().head.seq,
        }
    }

    async fn write_aggregates(&self, mut aggregates: Vec<Aggregate>) -> Result<(), AuditError> {
        let mut result = Ok(());
        while !aggregates.is_empty() {
            let batch = aggregates.split_off(aggregates.len().saturating_sub(AGGREGATES_AT_ONCE));
            let written = self.refused.append_all(batch.iter().map(Aggregate::body)).await;
            for (aggregate, written) in batch.into_iter().zip(written) {
                if let Err(error) = written {
                    lock(&self.aggregates).put_back(aggregate);
                    result = Err(error);
                }
            }
        }
        result
    }

    /// Removes the oldest segments behind a tombstone, which is written first: a crash in between leaves more than
    /// the tombstone says, never less.
    async fn remove(&self, writer: &Arc<Writer>, retain: Retain, now: SystemTime) -> Result<(), AuditError> {
        let segments = writer.shelf().segments.clone();
        let failed = |source| AuditError::read(writer.dir(), source);
        let Some((removed, gone)) = removable(&segments, retain, now).map_err(failed)? else { return Ok(()) };
        #[derive(Serialize)]
        struct Fields {
            #[serde(serialize_with = "rfc3339")]
            time: SystemTime,
            removed: Removed,
        }
        writer.append(None, body_of("tombstone", &Fields { time: now, removed })).await?;
        let task = {
            let writer = writer.clone();
            move || -> io::Result<()> {
                for segment in gone {
                    remove_with_torn(&segment)?;
                    writer.shelf().segments.retain(|(kept, _)| *kept != segment);
                }
                Ok(())
            }
        };
        blocking(task).await.map_err(failed)
    }

    async fn checkpoint(&self, keeper: &mut Keeper, now: SystemTime) -> Result<(), AuditError> {
        keeper.checkpointed = Some(now);
        let Some(key) = &self.checkpoint_key else { return Ok(()) };
        let mut signed = Vec::new();
        for (writer, last) in [&self.invocations, &self.refused].into_iter().zip(&mut keeper.heads) {
            let head = writer.shelf().head;
            if head == Head::NONE || *last == Some(head) {
                continue;
            }
            // A checkpoint of lines that a power cut could still take would accuse an honest log.
            let head = synced_head(writer).await?;
            *last = Some(head);
            let checkpoint = key.sign(writer.name(), head, now);
            tracing::info!(
                audit.chain = writer.name(),
                audit.seq = head.seq,
                audit.hash = %head.hash,
                audit.checkpoint = serde_json::to_string(&checkpoint).unwrap_or_default(),
                "audit checkpoint"
            );
            signed.push(checkpoint);
        }
        if signed.is_empty() {
            return Ok(());
        }
        let path = self.dir.join(CHECKPOINT_FILE);
        let written = blocking(move || checkpoint::append(&path, &signed)).await;
        if written.is_err() {
            keeper.heads = [None; 2];
        }
        written.map_err(AuditError::write)
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.invocations.close();
        self.refused.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked wrote nothing more; those who waited were told so.
            let _ = thread.join();
        }
    }
}

fn open_chain(settings: Settings) -> Result<Arc<Writer>, AuditError> {
    segment::private_dir(&settings.dir).map_err(|source| AuditError::read(&settings.dir, source))?;
    let found = segment::find(&settings.dir)?;
    let torn = found.torn.clone();
    let writer = Writer::new(settings, found)?;
    for torn in torn {
        tracing::warn!(
            audit.chain = writer.name(),
            audit.torn = torn.file,
            audit.bytes = torn.bytes,
            "the last audit line was torn and is moved aside"
        );
        writer.append_at_start(recovered_body(SystemTime::now(), &torn))?;
    }
    Ok(Arc::new(writer))
}

/// The oldest segments that `retain` does not keep, and what their tombstone says.
fn removable(
    segments: &[(Segment, u64)],
    retain: Retain,
    now: SystemTime,
) -> io::Result<Option<(Removed, Vec<Segment>)>> {
    let mut left: u64 = segments.iter().map(|(_, bytes)| bytes).sum();
    let (mut gone, mut bytes, mut last) = (Vec::new(), 0, None);
    for ((segment, len), (next, _)) in segments.iter().zip(segments.iter().skip(1)) {
        let too_many = retain.bytes.is_some_and(|most| left > most);
        if !too_many && retain.age.is_none() {
            break;
        }
        // A segment ended when the next one began.
        let opening = next.opening()?.ok_or(io::ErrorKind::InvalidData)?;
        let too_old = retain.age.zip(opening.time).is_some_and(|(age, ended)| since(now, ended) > age);
        if !too_many && !too_old {
            break;
        }
        left -= len;
        bytes += len;
        last = Some(opening.before);
        gone.push(segment.clone());
    }
    Ok(gone.first().zip(last).map(|(first, last)| {
        let first_seq = first.first_seq;
        let removed =
            Removed { first_seq, last_seq: last.seq, last_hash: last.hash, segments: gone.len(), bytes };
        (removed, gone.clone())
    }))
}

fn remove_with_torn(segment: &Segment) -> io::Result<()> {
    let stem = segment.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    for entry in segment.path.parent().map(fs::read_dir).transpose()?.into_iter().flatten() {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(&stem) && name.ends_with(".torn") {
            fs::remove_file(&path)?;
        }
    }
    fs::remove_file(&segment.path)
}

/// The head, once all up to it has reached the disk.
async fn synced_head(writer: &Arc<Writer>) -> Result<Head, AuditError> {
    let (head, tapes) = {
        let mut shelf = writer.shelf();
        let tapes = std::mem::take(&mut shelf.unsynced);
        shelf.unsynced.extend(tapes.last().cloned());
        (shelf.head, tapes)
    };
    let synced = {
        let tapes = tapes.clone();
        blocking(move || tapes.iter().try_for_each(|tape| tape.sync())).await
    };
    if synced.is_err() {
        let mut shelf = writer.shelf();
        let newer = std::mem::replace(&mut shelf.unsynced, tapes);
        shelf.unsynced.extend(newer);
    }
    synced.map_err(AuditError::write)?;
    Ok(head)
}

/// Disk work that no runtime thread should wait for.
async fn blocking(task: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    match tokio::task::spawn_blocking(task).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(error)),
    }
}

pub(super) const LOCK_FILE: &str = "lock";
pub(super) const CHECKPOINT_FILE: &str = "checkpoints.jsonl";
const REDACTION_KEY_FILE: &str = "redact.key";
/// The budget of refusals is kept to the nearest eighth.
const REFUSED_SEGMENTS: u64 = 8;
/// Smaller segments would hold little but their opening lines.
const MIN_SEGMENT_BYTES: u64 = 16 << 10;
/// About 80 KiB: small enough to leave room in the queue for refusals of the moment.
const AGGREGATES_AT_ONCE: usize = 256;
/// Retention by age reads a segment's opening line, so not each second.
const AGE_EVERY: Duration = Duration::from_secs(60);
