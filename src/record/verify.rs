//! Checking a log against itself, and against checkpoints that were kept elsewhere.
//!
//! The chain alone shows edits, insertions, reordering and inner removals. Whoever can write the directory can also
//! cut its tail, or write it anew with hashes that fit; only a signed checkpoint shows that.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::Path,
};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use super::{
    AuditError, CHAINS,
    chain::{Hash, Head, Line, Removed, intact},
    checkpoint::{Checkpoint, VerifyingKey},
    log::LOCK_FILE,
    segment::{READ_BYTES, Segment, read_line},
    show::escape_controls,
};
use crate::id::TenantName;

/// What ties the log's end to something outside it.
#[derive(Debug, Clone, Copy)]
pub struct Anchor<'a> {
    /// A file of checkpoints, kept elsewhere.
    pub checkpoints: &'a Path,
    /// The public half of the key that signed them.
    pub key: &'a VerifyingKey,
}

/// What was found. Its `Display` is for people, its serialisation for programs.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// No fault in any chain.
    pub sound: bool,
    /// Each chain.
    pub chains: Vec<ChainReport>,
}

/// What was found in one chain.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ChainReport {
    /// `invocations`, `refused`, or the tenant of an extract.
    pub chain: String,
    /// Lines read.
    pub records: u64,
    /// Number of the first line, if there is one.
    pub first_seq: Option<u64>,
    /// Number of the last line.
    pub last_seq: Option<u64>,
    /// Hash of the last line.
    pub last_hash: Option<Hash>,
    /// What is before `first_seq` was removed behind a tombstone, or (of an extract) is not part of it.
    pub earlier_removed: bool,
    /// Torn lines that starts moved aside.
    pub recovered: u64,
    /// The last record that a checkpoint vouches for; `None`: tail not anchored.
    pub anchored_seq: Option<u64>,
    /// Checkpoints signed with another key, which say nothing here.
    pub other_checkpoints: u64,
    /// How many faults there are.
    pub fault_count: u64,
    /// The first of them.
    pub faults: Vec<Fault>,
}

/// Something that an honest log does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file.
    pub file: String,
    /// The line in it, from 1; 0 for the file as a whole.
    pub line: u64,
    /// What is wrong.
    #[serde(flatten)]
    pub kind: FaultKind,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum FaultKind {
    /// Not a line of a log.
    #[error("the line cannot be read: it was edited or inserted")]
    Unreadable,
    /// The line's bytes do not have the hash that it states.
    #[error("record {seq} was edited: its bytes do not have its hash")]
    Edited {
        /// Its number.
        seq: u64,
    },
    /// Numbers jump.
    #[error("records {from} to {to} are missing here: they were removed or moved")]
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A number comes again, or late.
    #[error("record {seq} is out of place: it was inserted or moved")]
    OutOfPlace {
        /// Its number.
        seq: u64,
    },
    /// The number fits, the hash of the line before does not.
    #[error("record {seq} does not follow the line before it: one of them was replaced")]
    DoesNotFollow {
        /// Its number.
        seq: u64,
    },
    /// The tenant's own chain breaks.
    #[error("record {seq} does not follow the record before it of `{tenant}`")]
    TenantBroken {
        /// Its number.
        seq: u64,
        /// Whose chain.
        tenant: TenantName,
    },
    /// A record of somebody else in an extract.
    #[error("record {seq} is not one of this tenant's")]
    Foreign {
        /// Its number.
        seq: u64,
    },
    /// A segment's opening line states other heads than its predecessors end with.
    #[error("the segment that begins with record {seq} states other tenants' heads than the lines before it")]
    HeadsDiffer {
        /// Its number.
        seq: u64,
    },
    /// A segment that does not begin as its name says.
    #[error("the segment does not begin with the opening line that its name states")]
    Misnamed,
    /// The log begins late, and no tombstone says why.
    #[error("the records before {seq} are gone without a tombstone")]
    StartRemoved {
        /// Where it begins.
        seq: u64,
    },
    /// The last line has no end.
    #[error("the last line is torn: a crash left it, and the next start moves it aside; or it was edited")]
    Torn,
    /// A checkpoint knows more records than the log has.
    #[error(
        "the log ends before record {seq}, which a checkpoint of {time} vouches for: its tail was removed"
    )]
    TailRemoved {
        /// The checkpoint's number.
        seq: u64,
        /// When it was signed.
        time: String,
    },
    /// A checkpoint knows another line of this number.
    #[error("record {seq} is not the one that a checkpoint of {time} vouches for: the chain was rewritten")]
    Rewritten {
        /// The checkpoint's number.
        seq: u64,
        /// When it was signed.
        time: String,
    },
    /// A line of the file of checkpoints that this key did not sign as it stands.
    #[error("the checkpoint cannot be read, or its signature is wrong")]
    BadCheckpoint,
}

/// Checks both chains in `dir`. An error means that they could not be read; faults are in the report.
pub fn verify(dir: &Path, anchor: Option<Anchor<'_>>) -> Result<Report, AuditError> {
    // While a gateway writes, the last line may be half there.
    let live = File::open(dir.join(LOCK_FILE))
        .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err());
    let mut chains = Vec::new();
    for name in CHAINS {
        // Checkpoints before lines: what is written meanwhile only makes the log longer than they say.
        let vouched = anchor.map(|anchor| Vouched::read(name, &anchor)).transpose()?;
        let mut walk = Walk::new(name, vouched);
        walk.chain(&dir.join(name), live)?;
        chains.push(walk.finish());
    }
    Ok(Report { sound: chains.iter().all(|chain| chain.fault_count == 0), chains })
}

/// Checks one tenant's records, as [`super::extract`] writes them, without anybody else's.
pub fn verify_extract(mut reader: impl BufRead, tenant: &TenantName) -> io::Result<ChainReport> {
    let mut walk = Walk::new(tenant.as_str(), None);
    walk.file = "extract".to_owned();
    let mut line = Vec::new();
    let mut last = None::<u64>;
    while read_line(&mut reader, &mut line)? {
        walk.line += 1;
        let Some(text) = line.strip_suffix(b"\n") else {
            walk.fault(FaultKind::Torn);
            continue;
        };
        let Some(parsed) = Line::parse(text) else {
            walk.unsure();
            walk.fault(FaultKind::Unreadable);
            continue;
        };
        let Line { seq, hash, .. } = parsed;
        let link = parsed.link_of_tenant();
        let own = link.filter(|(name, _)| *name == tenant).map(|(_, before)| before);
        let (Some(before), true) = (own, intact(text)) else {
            walk.fault(if own.is_some() { FaultKind::Edited { seq } } else { FaultKind::Foreign { seq } });
            walk.unsure();
            continue;
        };
        if walk.report.records == 0 {
            walk.report.first_seq = Some(seq);
            walk.report.earlier_removed = before != Hash::NONE;
            walk.adopt = true;
        }
        walk.report.records += 1;
        if last.is_some_and(|last| last >= seq) {
            walk.fault(FaultKind::OutOfPlace { seq });
        }
        walk.tenant(tenant, before, hash, seq);
        walk.adopt = false;
        last = Some(seq);
        walk.head = Some(Expected { seq, hash: Some(hash) });
    }
    Ok(walk.finish())
}

/// Checkpoints of one chain whose signatures hold.
#[derive(Debug, Default)]
struct Vouched {
    heads: BTreeMap<u64, Checkpoint>,
    others: u64,
    faults: Vec<Fault>,
}

impl Vouched {
    fn read(chain: &str, anchor: &Anchor<'_>) -> Result<Self, AuditError> {
        let failed = |source| AuditError::read(anchor.checkpoints, source);
        let mut reader = BufReader::new(File::open(anchor.checkpoints).map_err(failed)?);
        let (mut vouched, mut line, mut number) = (Self::default(), Vec::new(), 0);
        let key = anchor.key.id();
        while read_line(&mut reader, &mut line).map_err(failed)? {
            number += 1;
            let text = line.trim_ascii();
            let checkpoint = serde_json::from_slice::<Checkpoint>(text).ok();
            match checkpoint {
                _ if text.is_empty() => {}
                Some(checkpoint) if checkpoint.key != key => vouched.others += 1,
                Some(checkpoint) if checkpoint.is_signed_by(anchor.key) => {
                    if checkpoint.chain == chain {
                        vouched.heads.insert(checkpoint.seq, checkpoint);
                    }
                }
                _ => vouched.faults.push(Fault {
                    file: file_name(anchor.checkpoints),
                    line: number,
                    kind: FaultKind::BadCheckpoint,
                }),
            }
        }
        Ok(vouched)
    }
}

/// The line that should come next follows this one; after a fault its hash is not known.
#[derive(Debug, Clone, Copy)]
struct Expected {
    seq: u64,
    hash: Option<Hash>,
}

#[derive(Debug)]
struct Walk {
    report: ChainReport,
    file: String,
    line: u64,
    head: Option<Expected>,
    /// `None`: a fault left this tenant's head unknown; its next record sets it again.
    tenants: HashMap<TenantName, Option<Hash>>,
    /// A tenant not yet seen may have records before.
    adopt: bool,
    start: Option<Head>,
    tombstone: Option<Removed>,
    vouched: Vouched,
}

impl Walk {
    fn new(chain: &str, vouched: Option<Vouched>) -> Self {
        let mut vouched = vouched.unwrap_or_default();
        let mut walk = Self {
            report: ChainReport { chain: chain.to_owned(), ..ChainReport::default() },
            file: String::new(),
            line: 0,
            head: None,
            tenants: HashMap::new(),
            adopt: false,
            start: None,
            tombstone: None,
            vouched: Vouched::default(),
        };
        walk.report.other_checkpoints = vouched.others;
        for fault in std::mem::take(&mut vouched.faults) {
            walk.add(fault);
        }
        walk.vouched = vouched;
        walk
    }

    fn chain(&mut self, dir: &Path, live: bool) -> Result<(), AuditError> {
        let failed = |path: &Path, source| AuditError::read(path, source);
        let segments = Segment::list(dir).map_err(|source| failed(dir, source))?;
        let count = segments.len();
        for (at, segment) in segments.into_iter().enumerate() {
            let failed = |source| failed(&segment.path, source);
            self.file = file_name(&segment.path);
            self.line = 0;
            let len = fs::metadata(&segment.path).map_err(failed)?.len();
            let mut reader = BufReader::with_capacity(READ_BYTES, File::open(&segment.path).map_err(failed)?);
            let mut line = Vec::new();
            while read_line(&mut reader, &mut line).map_err(failed)? {
                self.line += 1;
                match line.strip_suffix(b"\n") {
                    Some(text) => self.visit(text, &segment),
                    None if live && at + 1 == count => {}
                    None if at + 1 == count && self.line > 1 => self.fault(FaultKind::Torn),
                    None => self.unreadable(),
                }
            }
            if len == 0 && !(live && at + 1 == count) {
                self.fault(FaultKind::Misnamed);
            }
        }
        Ok(())
    }

    fn visit(&mut self, text: &[u8], segment: &Segment) {
        self.report.records += 1;
        let Some(line) = Line::parse(text) else { return self.unreadable() };
        if !intact(text) {
            let seq = line.seq;
            self.fault(FaultKind::Edited { seq });
            self.unsure();
            let seq = self.head.map_or(seq, |head| head.seq + 1);
            self.head = Some(Expected { seq, hash: None });
            return;
        }
        if self.line == 1 && (line.seq != segment.first_seq || line.heads.is_none()) {
            self.fault(FaultKind::Misnamed);
        }
        if !self.follows(&line) {
            return;
        }
        self.head = Some(Expected { seq: line.seq, hash: Some(line.hash) });
        if let Some((tenant, before)) = line.link_of_tenant() {
            self.tenant(tenant, before, line.hash, line.seq);
        }
        self.vouched_for(&line);
        if line.kind == "recovered" {
            self.report.recovered += 1;
        }
        if let Some(heads) = line.heads {
            self.heads(heads, line.seq);
        }
        if let Some(removed) = line.removed
            && self.tombstone.as_ref().is_none_or(|last| last.last_seq < removed.last_seq)
        {
            self.tombstone = Some(removed);
        }
    }

    /// Whether the line takes its place; one that is out of place leaves everything as it was.
    fn follows(&mut self, line: &Line) -> bool {
        let seq = line.seq;
        let Some(head) = self.head else {
            if self.report.first_seq.is_none() {
                self.start = Some(Head { seq: seq.saturating_sub(1), hash: line.prev });
                self.report.first_seq = Some(seq);
                self.adopt = seq > 1;
            }
            return true;
        };
        if seq <= head.seq {
            self.fault(FaultKind::OutOfPlace { seq });
            return false;
        }
        if seq > head.seq + 1 {
            self.fault(FaultKind::Missing { from: head.seq + 1, to: seq - 1 });
            self.unsure();
        } else if head.hash.is_some_and(|hash| hash != line.prev) {
            self.fault(FaultKind::DoesNotFollow { seq });
            self.unsure();
        }
        true
    }

    fn tenant(&mut self, tenant: &TenantName, before: Hash, hash: Hash, seq: u64) {
        let known = match self.tenants.get(tenant) {
            Some(known) => *known,
            None if self.adopt => None,
            None => Some(Hash::NONE),
        };
        if known.is_some_and(|known| known != before) {
            self.fault(FaultKind::TenantBroken { seq, tenant: tenant.clone() });
        }
        self.tenants.insert(tenant.clone(), Some(hash));
    }

    fn heads(&mut self, heads: BTreeMap<TenantName, Hash>, seq: u64) {
        let differ = if self.adopt {
            // The log begins here, or after a fault: these are all the heads there are.
            self.tenants.iter().any(|(tenant, hash)| hash.is_some() && heads.get(tenant) != hash.as_ref())
        } else {
            let known = |(tenant, hash): (&TenantName, &Hash)| match self.tenants.get(tenant) {
                Some(known) => known.is_none_or(|known| known == *hash),
                None => false,
            };
            heads.len() != self.tenants.len() || !heads.iter().all(known)
        };
        if differ {
            self.fault(FaultKind::HeadsDiffer { seq });
        }
        self.tenants = heads.into_iter().map(|(tenant, hash)| (tenant, Some(hash))).collect();
        self.adopt = false;
    }

    fn vouched_for(&mut self, line: &Line) {
        if let Some(checkpoint) = self.vouched.heads.remove(&line.seq) {
            if checkpoint.hash == line.hash {
                self.report.anchored_seq = Some(line.seq);
            } else {
                self.fault(FaultKind::Rewritten { seq: line.seq, time: shown(&checkpoint.time) });
            }
        }
    }

    fn unreadable(&mut self) {
        self.fault(FaultKind::Unreadable);
        self.unsure();
        if let Some(head) = &mut self.head {
            *head = Expected { seq: head.seq + 1, hash: None };
        }
    }

    /// Tenants' heads are not known after a fault: it would show again in every tenant's next record.
    fn unsure(&mut self) {
        self.tenants.values_mut().for_each(|head| *head = None);
        self.adopt = true;
    }

    fn fault(&mut self, kind: FaultKind) {
        self.add(Fault { file: self.file.clone(), line: self.line, kind });
    }

    fn add(&mut self, fault: Fault) {
        self.report.fault_count += 1;
        if self.report.faults.len() < MAX_FAULTS {
            self.report.faults.push(fault);
        }
    }

    fn finish(mut self) -> ChainReport {
        self.line = 0;
        if let Some(start) = self.start.filter(|start| start.seq > 0) {
            self.report.earlier_removed = true;
            // A crash between tombstone and removal leaves more than the tombstone says.
            let explained = self.tombstone.as_ref().is_some_and(|removed| {
                removed.last_seq > start.seq
                    || (removed.last_seq == start.seq && removed.last_hash == start.hash)
            });
            if !explained {
                self.fault(FaultKind::StartRemoved { seq: start.seq + 1 });
            }
            let vouched = self.vouched.heads.get(&start.seq).filter(|vouched| vouched.hash != start.hash);
            if let Some(time) = vouched.map(|vouched| shown(&vouched.time)) {
                self.fault(FaultKind::Rewritten { seq: start.seq, time });
            }
        }
        self.report.last_seq = self.head.map(|head| head.seq);
        self.report.last_hash = self.head.and_then(|head| head.hash);
        let last = self.report.last_seq.unwrap_or(0);
        if let Some((seq, checkpoint)) = self.vouched.heads.pop_last().filter(|(seq, _)| *seq > last) {
            self.fault(FaultKind::TailRemoved { seq, time: shown(&checkpoint.time) });
        }
        self.report
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chain in &self.chains {
            write!(f, "{chain}")?;
        }
        f.write_str(if self.sound { "sound\n" } else { "NOT SOUND\n" })
    }
}

impl fmt::Display for ChainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} records", self.chain, self.records)?;
        if let (Some(first), Some(last)) = (self.first_seq, self.last_seq) {
            write!(f, " ({first} to {last})")?;
        }
        if self.earlier_removed {
            f.write_str(", earlier ones removed")?;
        }
        if self.recovered > 0 {
            write!(f, ", {} torn by a crash and moved aside", self.recovered)?;
        }
        match (self.anchored_seq, self.last_seq) {
            (Some(anchored), Some(last)) if anchored < last => {
                write!(f, ", anchored up to {anchored}; tail not anchored: {} records", last - anchored)?;
            }
            (Some(_), _) => f.write_str(", anchored")?,
            (None, Some(_)) => f.write_str(", tail not anchored")?,
            (None, None) => {}
        }
        if self.other_checkpoints > 0 {
            write!(f, ", {} checkpoints of another key ignored", self.other_checkpoints)?;
        }
        writeln!(f)?;
        for Fault { file, line, kind } in &self.faults {
            let file = escape_controls(file);
            match line {
                0 => writeln!(f, "  {kind}")?,
                _ => writeln!(f, "  {file}:{line}: {kind}")?,
            }
        }
        let unlisted = self.fault_count.saturating_sub(self.faults.len() as u64);
        if unlisted > 0 {
            writeln!(f, "  and {unlisted} more faults")?;
        }
        Ok(())
    }
}

fn shown(text: &str) -> String {
    escape_controls(text).into_owned()
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Faults that a report lists; it counts them all.
const MAX_FAULTS: usize = 100;
