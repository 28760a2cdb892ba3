//! Reading the newest records, and then what is written after them, while the gateway writes.
//!
//! Read are whole lines only, so a line that is half written comes with the next turn. The folder is listed before the
//! end of a segment is looked for: a newer segment in that list means that nothing more comes in the older one.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufReader, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{
    AuditError, CHAINS,
    segment::{READ_BYTES, Segment, read_line},
    show::{Filter, Merged, Shown},
};

/// Both chains, from where they ended when last looked at.
#[derive(Debug)]
pub struct Follow {
    chains: [Tail; 2],
    filter: Filter,
}

impl Follow {
    /// The newest records that fit, at most as many as the filter's limit says, oldest first; and what follows them.
    /// Older segments are opened only while that many are not found.
    pub fn open(dir: &Path, filter: Filter) -> Result<(Vec<Shown>, Self), AuditError> {
        let limit = filter.limit.unwrap_or(usize::MAX);
        let [first, second] = CHAINS.map(|name| Tail::open(dir, name, &filter, limit));
        let ((first, one), (second, other)) = (first?, second?);
        let mut newest: Vec<_> = Merged::new([one.into_iter(), other.into_iter()]).collect();
        newest.drain(..newest.len().saturating_sub(limit));
        Ok((newest, Self { chains: [first, second], filter }))
    }

    /// What was written since, by time; empty when there is nothing that fits.
    pub fn turn(&mut self) -> Result<Vec<Shown>, AuditError> {
        loop {
            let (mut found, mut all_read) = ([Vec::new(), Vec::new()], true);
            for (chain, found) in self.chains.iter_mut().zip(&mut found) {
                all_read &= chain.turn(&self.filter, found)?;
            }
            if all_read || found.iter().any(|found| !found.is_empty()) {
                return Ok(Merged::new(found.map(Vec::into_iter)).collect());
            }
        }
    }
}

/// The end of one chain.
#[derive(Debug)]
struct Tail {
    chain: &'static str,
    dir: PathBuf,
    /// `None` until there is one.
    at: Option<Place>,
}

/// Kept open: retention may remove a segment before its end was read.
#[derive(Debug)]
struct Place {
    first_seq: u64,
    reader: BufReader<File>,
    /// Where the next whole line begins.
    offset: u64,
}

impl Tail {
    fn open(
        dir: &Path,
        chain: &'static str,
        filter: &Filter,
        limit: usize,
    ) -> Result<(Self, VecDeque<Shown>), AuditError> {
        let dir = dir.join(chain);
        let failed = |source| AuditError::read(&dir, source);
        let mut newest = VecDeque::new();
        let mut at = None;
        for segment in Segment::list(&dir).map_err(failed)?.into_iter().rev() {
            let mut place = match Place::open(&segment) {
                // Retention was faster: what is older is gone too.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                place => place.map_err(failed)?,
            };
            let mut here = VecDeque::new();
            while let Some(line) = place.line().map_err(failed)? {
                if let Some(shown) = fitting(chain, filter, &line) {
                    if here.len() == limit {
                        here.pop_front();
                    }
                    here.push_back(shown);
                }
            }
            at = at.or(Some(place));
            here.append(&mut newest);
            newest = here;
            if newest.len() >= limit {
                break;
            }
        }
        newest.drain(..newest.len().saturating_sub(limit));
        Ok((Self { chain, dir, at }, newest))
    }

    /// Reads on; whether that was all there is.
    fn turn(&mut self, filter: &Filter, found: &mut Vec<Shown>) -> Result<bool, AuditError> {
        let failed = |source| AuditError::read(&self.dir, source);
        let mut read = 0;
        loop {
            let segments = Segment::list(&self.dir).map_err(failed)?;
            if let Some(place) = &mut self.at {
                while let Some(line) = place.line().map_err(failed)? {
                    found.extend(fitting(self.chain, filter, &line));
                    read += line.len();
                    if read >= TURN_BYTES {
                        return Ok(false);
                    }
                }
            }
            let after = self.at.as_ref().map_or(0, |place| place.first_seq + 1);
            let Some(next) = segments.iter().find(|segment| segment.first_seq >= after) else {
                return Ok(true);
            };
            match Place::open(next) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                place => self.at = Some(place.map_err(failed)?),
            }
        }
    }
}

impl Place {
    fn open(segment: &Segment) -> io::Result<Self> {
        let reader = BufReader::with_capacity(READ_BYTES, File::open(&segment.path)?);
        Ok(Self { first_seq: segment.first_seq, reader, offset: 0 })
    }

    /// The next line, if it is whole.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        if read_line(&mut self.reader, &mut line)? && line.ends_with(b"\n") {
            self.offset += line.len() as u64;
            return Ok(Some(line));
        }
        self.reader.seek(SeekFrom::Start(self.offset))?;
        Ok(None)
    }
}

/// What the chain writes for its own sake is left out.
fn fitting(chain: &'static str, filter: &Filter, line: &[u8]) -> Option<Shown> {
    let value = serde_json::from_slice(line).ok()?;
    let shown = Shown { chain, value };
    (!BOOKKEEPING.contains(&shown.kind()) && filter.fits(&shown.value)).then_some(shown)
}

/// Kinds of lines that tell of the chain, not of anybody's request.
const BOOKKEEPING: [&str; 3] = ["segment", "tombstone", "recovered"];
/// What is read of a chain before it is shown: at most some 20 MiB of parsed records.
const TURN_BYTES: usize = 2 << 20;
