//! Checking a log against itself, and against checkpoints that were kept elsewhere.
//!
//! The chain alone shows edits, insertions, reordering and inner removals. Whoever can write the directory can also
//! cut its tail, or write it anew with hashes that fit; only a signed checkpoint shows that.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use super::{
    AuditError, CHAINS,
    chain::{Hash, Head, Line, Removed, intact},
    checkpoint::{Checkpoint, VerifyingKey},
    log::LOCK_FILE,
    segment::{READ_BYTES, Segment, read_line},
    show::escape_controls,
};
use crate::id::TenantName;

mod report;

pub use report::{ChainReport, Fault, FaultKind, Report};

/// What ties the log's end to something outside it.
#[derive(Debug, Clone, Copy)]
pub struct Anchor<'a> {
    /// A file of checkpoints, kept elsewhere.
    pub checkpoints: &'a Path,
    /// The public half of the key that signed them.
    pub key: &'a VerifyingKey,
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

fn shown(text: &str) -> String {
    escape_controls(text).into_owned()
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Faults that a report lists; it counts them all.
const MAX_FAULTS: usize = 100;
