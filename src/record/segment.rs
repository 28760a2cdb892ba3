//! Files of a chain: segments named by the number of their first line, `00000000000000000001.jsonl`.
//!
//! Each segment opens with a `segment` line that holds every tenant's head, so that a start reads one segment only,
//! however far back a quiet tenant's last record lies. What a crash left after the last whole line is moved aside,
//! never guessed at.

use std::{
    collections::HashMap,
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use serde::Serialize;

use super::{
    AuditError,
    chain::{self, Chain, Hash, Head, Line},
    entry::{Body, body_of, rfc3339},
    time,
};
use crate::id::TenantName;

/// Where segments are kept: the file system, but in tests a disk that fills up.
pub(super) trait Medium: Send + Sync + Debug {
    /// Makes a new file; one that exists is an error.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn Tape>>;
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Tape>>;
}

/// One segment's file.
pub(super) trait Tape: Send + Sync + Debug {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Returns when what was written would survive a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// The file system.
#[derive(Debug)]
pub(super) struct Disk;

impl Medium for Disk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn Tape>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn Tape>> {
        Ok(Arc::new(OpenOptions::new().write(true).open(path)?))
    }
}

impl Tape for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// A segment on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) first_seq: u64,
    pub(super) path: PathBuf,
}

impl Segment {
    pub(super) fn named(dir: &Path, first_seq: u64) -> Self {
        Self { first_seq, path: dir.join(format!("{first_seq:020}.{EXTENSION}")) }
    }

    /// The segments of a chain, oldest first.
    pub(super) fn list(dir: &Path) -> io::Result<Vec<Self>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let number = name.strip_suffix(EXTENSION).and_then(|name| name.strip_suffix('.'));
            if let Some(number) = number.filter(|number| number.len() == 20)
                && let Ok(first_seq) = number.parse()
            {
                segments.push(Self { first_seq, path });
            }
        }
        segments.sort_by_key(|segment| segment.first_seq);
        Ok(segments)
    }

    /// The line that opens the segment, if it is whole.
    pub(super) fn opening(&self) -> io::Result<Option<Opening>> {
        let mut bytes = Vec::new();
        let most = MAX_LINE_BYTES as u64;
        BufReader::new(File::open(&self.path)?).take(most).read_until(b'\n', &mut bytes)?;
        let line = bytes.strip_suffix(b"\n").filter(|line| chain::intact(line)).and_then(Line::parse);
        Ok(line.map(|line| Opening {
            before: Head { seq: line.seq.saturating_sub(1), hash: line.prev },
            time: line.time.as_deref().and_then(time::parse),
        }))
    }
}

/// What a segment's first line says of those before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub(super) before: Head,
    pub(super) time: Option<SystemTime>,
}

/// The fields of the line that opens a segment.
pub(super) fn opening_body(now: SystemTime, tenants: &HashMap<TenantName, Hash>) -> Body {
    #[derive(Serialize)]
    struct Fields<'a> {
        #[serde(serialize_with = "rfc3339")]
        time: SystemTime,
        format: u32,
        heads: &'a HashMap<TenantName, Hash>,
    }
    body_of("segment", &Fields { time: now, format: FORMAT, heads: tenants })
}

/// A chain as a start found it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) chain: Chain,
    /// Oldest first; the last is the one to append to.
    pub(super) segments: Vec<(Segment, u64)>,
    /// What was moved aside.
    pub(super) torn: Vec<Torn>,
}

/// Bytes after the last whole line.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Torn {
    /// Name of the file that has them now.
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) sha256: Hash,
}

/// The fields of the line that says what was moved aside.
pub(super) fn recovered_body(now: SystemTime, torn: &Torn) -> Body {
    #[derive(Serialize)]
    struct Fields<'a> {
        #[serde(serialize_with = "rfc3339")]
        time: SystemTime,
        torn: &'a Torn,
    }
    body_of("recovered", &Fields { time: now, torn })
}

/// Reads the last segment of `dir` and moves aside what a crash left in it.
pub(super) fn find(dir: &Path) -> Result<Found, AuditError> {
    let failed = |source| AuditError::read(dir, source);
    let mut torn = Vec::new();
    let mut segments = Vec::new();
    for segment in Segment::list(dir).map_err(failed)? {
        let bytes = fs::metadata(&segment.path).map_err(failed)?.len();
        segments.push((segment, bytes));
    }
    loop {
        let Some((segment, bytes)) = segments.last_mut() else {
            return Ok(Found { chain: Chain::new(Head::NONE, HashMap::new()), segments, torn });
        };
        let Scan { chain, whole } = scan(segment)?;
        if whole < *bytes {
            torn.push(move_aside(segment, whole).map_err(failed)?);
            *bytes = whole;
        }
        match chain {
            Some(chain) => return Ok(Found { chain, segments, torn }),
            // A crash came between making the file and writing its first line.
            None => {
                fs::remove_file(&segment.path).map_err(failed)?;
                segments.pop();
            }
        }
    }
}

struct Scan {
    /// `None` if not even the opening line is whole.
    chain: Option<Chain>,
    /// Bytes up to the end of the last whole line.
    whole: u64,
}

/// A chain that breaks before a sound line was not torn by a crash; nothing is appended to it.
fn scan(segment: &Segment) -> Result<Scan, AuditError> {
    let failed = |source| AuditError::read(&segment.path, source);
    let mut reader = BufReader::with_capacity(READ_BYTES, File::open(&segment.path).map_err(failed)?);
    let (mut line, mut whole) = (Vec::new(), 0_u64);
    let (mut head, mut tenants) = (None::<Head>, HashMap::new());
    let mut broken_after = None;
    while read_line(&mut reader, &mut line).map_err(failed)? {
        let parsed = line.strip_suffix(b"\n").filter(|line| chain::intact(line)).and_then(Line::parse);
        let follows = parsed.as_ref().is_some_and(|line| match head {
            None => line.seq == segment.first_seq && line.heads.is_some(),
            Some(head) => line.seq == head.seq + 1 && line.prev == head.hash,
        });
        match parsed {
            Some(parsed) if follows && broken_after.is_none() => {
                head = Some(Head { seq: parsed.seq, hash: parsed.hash });
                whole += line.len() as u64;
                if let Some((tenant, _)) = parsed.link_of_tenant() {
                    tenants.insert(tenant.clone(), parsed.hash);
                }
                tenants.extend(parsed.heads.into_iter().flatten());
            }
            // INVARIANT: only bytes without any sound line after them are a crash's doing.
            Some(_) => {
                return Err(AuditError::Broken {
                    path: segment.path.clone(),
                    after: head.map_or(segment.first_seq.saturating_sub(1), |head| head.seq),
                });
            }
            None => broken_after = broken_after.or(Some(whole)),
        }
    }
    Ok(Scan { chain: head.map(|head| Chain::new(head, tenants)), whole })
}

/// Reads one line with its newline; `false` at the end. A line beyond the bound comes in pieces, none of them sound.
pub(super) fn read_line(reader: &mut impl io::BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    reader.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', line)?;
    Ok(!line.is_empty())
}

/// Moves what follows `whole` into a file beside the segment. Doing it again after a crash half-way does no harm.
fn move_aside(segment: &Segment, whole: u64) -> io::Result<Torn> {
    let mut tail = Vec::new();
    let source = OpenOptions::new().read(true).write(true).open(&segment.path)?;
    let len = source.metadata()?.len();
    tail.resize(usize::try_from(len.saturating_sub(whole)).unwrap_or(usize::MAX), 0);
    source.read_exact_at(&mut tail, whole)?;

    let path = segment.path.with_extension(format!("{whole}.torn"));
    let aside = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    aside.write_all_at(&tail, 0)?;
    aside.sync_data()?;
    source.set_len(whole)?;
    source.sync_data()?;
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Torn { file, bytes: tail.len() as u64, sha256: Hash::of(&tail) })
}

/// Makes a directory that only its owner may enter.
pub(super) fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes names in `dir` survive a power cut.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

const EXTENSION: &str = "jsonl";
/// Version of the line format, in every opening line.
const FORMAT: u32 = 1;
/// Above any line: an opening line with the most tenants takes about 14 MiB, a record 40 KiB.
pub(super) const MAX_LINE_BYTES: usize = 32 << 20;
pub(super) const READ_BYTES: usize = 256 << 10;
