//! Reading records.

use std::{
    borrow::Cow,
    collections::VecDeque,
    fmt::Write as _,
    fs::File,
    io::{self, BufReader, Write},
    iter::Peekable,
    path::Path,
    time::SystemTime,
};

use serde_json::Value;

use super::{
    AuditError, CHAINS, INVOCATIONS,
    chain::Line,
    segment::{READ_BYTES, Segment, read_line},
    time::Rfc3339,
};
use crate::id::{FunctionName, RequestId, TenantName};

/// Which records to show; each part that is given must fit.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this tenant.
    pub tenant: Option<TenantName>,
    /// Of functions of this name.
    pub function: Option<FunctionName>,
    /// Of this request.
    pub request_id: Option<RequestId>,
    /// Not older.
    pub since: Option<SystemTime>,
    /// Only the newest so many.
    pub limit: Option<usize>,
}

impl Filter {
    /// Whether a record fits, but for the limit.
    pub(super) fn fits(&self, value: &Value) -> bool {
        let Self { tenant, function, request_id, since, limit: _ } = self;
        let is = |field: &str, wanted: Option<&str>| {
            wanted.is_none_or(|wanted| value.get(field).and_then(Value::as_str) == Some(wanted))
        };
        is("tenant", tenant.as_ref().map(TenantName::as_str))
            && is("function", function.as_ref().map(FunctionName::as_str))
            && request_id.is_none_or(|id| is("request_id", Some(&id.to_string())))
            && since.is_none_or(|since| time_of(value) >= Rfc3339(since).to_string().as_str())
    }
}

/// One record, for a person or a program.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// `invocations` or `refused`.
    pub chain: &'static str,
    /// The record.
    pub value: Value,
}

/// Records of both chains that fit, by time. Lines that cannot be read are left out: [`super::verify()`] names them.
pub fn show(
    dir: &Path,
    filter: Filter,
) -> Result<Box<dyn Iterator<Item = Result<Shown, AuditError>>>, AuditError> {
    let limit = filter.limit;
    let [first, second] = CHAINS;
    let mut shown =
        Merged::new([Lines::open(dir, first, filter.clone())?, Lines::open(dir, second, filter)?]);
    let Some(limit) = limit else { return Ok(Box::new(shown)) };
    let mut newest = VecDeque::new();
    shown.try_for_each(|record| {
        if newest.len() == limit {
            newest.pop_front();
        }
        if limit > 0 {
            newest.push_back(record?);
        }
        Ok(())
    })?;
    Ok(Box::new(newest.into_iter().map(Ok)))
}

/// Writes a tenant's lines as they are, so that [`super::verify_extract`] can check them. Returns their number.
pub fn extract(dir: &Path, tenant: &TenantName, out: &mut impl Write) -> Result<u64, AuditError> {
    let chain = dir.join(INVOCATIONS);
    let mut count = 0;
    for segment in Segment::list(&chain).map_err(|source| AuditError::read(&chain, source))? {
        let failed = |source| AuditError::read(&segment.path, source);
        let mut reader = BufReader::with_capacity(READ_BYTES, File::open(&segment.path).map_err(failed)?);
        let mut line = Vec::new();
        while read_line(&mut reader, &mut line).map_err(failed)? {
            let parsed = line.strip_suffix(b"\n").and_then(Line::parse);
            if parsed.is_some_and(|line| line.link_of_tenant().is_some_and(|(name, _)| name == tenant)) {
                out.write_all(&line).map_err(AuditError::write)?;
                count += 1;
            }
        }
    }
    Ok(count)
}

impl Shown {
    /// What kind of record it is, such as `invocation`.
    pub fn kind(&self) -> &str {
        self.value.get("kind").and_then(Value::as_str).unwrap_or_default()
    }

    /// The record as JSON on one line, safe for a terminal.
    pub fn json(&self) -> String {
        escape_controls(&self.value.to_string()).into_owned()
    }

    /// The record as one line for people, safe for a terminal.
    pub fn text(&self) -> String {
        let field = |pointer| self.value.pointer(pointer);
        let word = |pointer| field(pointer).and_then(Value::as_str).unwrap_or("-");
        let number = |pointer| field(pointer).and_then(Value::as_u64).unwrap_or(0);
        let mut text = format!("{} {:>7} ", word("/time"), number("/seq"));
        let kind = word("/kind");
        // Writing to a `String` cannot fail.
        let _ = match kind {
            "invocation" => write!(
                text,
                "{} {} {}/{} {} {} at {} cpu={}us wall={}us",
                number("/outcome/status"),
                word("/outcome/code"),
                word("/tenant"),
                word("/function"),
                word("/caller/id"),
                word("/request_id"),
                word("/stage"),
                number("/cpu_us"),
                number("/wall_us"),
            ),
            "blocked" => {
                let list = |pointer| {
                    let names = field(pointer).and_then(Value::as_array).into_iter().flatten();
                    names.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
                };
                write!(text, "blocked [{}] unblocked [{}]", list("/blocked"), list("/unblocked"))
            }
            "refused" => write!(
                text,
                "{} {} {} from {} {} at {}",
                number("/outcome/status"),
                word("/outcome/code"),
                word("/tenant"),
                word("/client"),
                word("/request_id"),
                word("/stage"),
            ),
            "refused_before_authentication" => write!(
                text,
                "{} times {} ({}) at {} from {}, {} to {}",
                number("/count"),
                word("/code"),
                word("/reason"),
                word("/stage"),
                word("/prefix"),
                word("/first"),
                word("/last"),
            ),
            "tombstone" => write!(
                text,
                "records {} to {} removed",
                number("/removed/first_seq"),
                number("/removed/last_seq"),
            ),
            "recovered" => {
                write!(text, "{} bytes moved aside to {}", number("/torn/bytes"), word("/torn/file"))
            }
            other => write!(text, "{other}"),
        };
        let policies = field("/decision/policies").and_then(Value::as_array);
        for policy in policies.into_iter().flatten().filter_map(Value::as_str) {
            let _ = write!(text, " {policy}");
        }
        if let Some(trace) = field("/trace_id").and_then(Value::as_str) {
            let _ = write!(text, " trace={trace}");
        }
        for pointer in ["/outcome/reason", "/outcome/detail"] {
            if let Some(reason) = field(pointer).and_then(Value::as_str) {
                let _ = write!(text, ": {reason}");
            }
        }
        escape_controls(&text).into_owned()
    }
}

/// Text that a terminal or a log viewer cannot mistake for commands (F35): control characters, and those that turn
/// the direction of text or break lines, become `\u….` as in JSON. In JSON text the result means the same.
pub fn escape_controls(text: &str) -> Cow<'_, str> {
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) {
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// One chain's records that fit, in order.
struct Lines {
    chain: &'static str,
    filter: Filter,
    segments: std::vec::IntoIter<Segment>,
    reader: Option<BufReader<File>>,
    line: Vec<u8>,
}

impl Lines {
    fn open(dir: &Path, chain: &'static str, filter: Filter) -> Result<Self, AuditError> {
        let path = dir.join(chain);
        let mut segments = Segment::list(&path).map_err(|source| AuditError::read(&path, source))?;
        if let Some(since) = filter.since {
            // A segment ended when the next one began.
            let ended = |next: &Segment| next.opening().ok().flatten().and_then(|opening| opening.time);
            let old = segments
                .iter()
                .skip(1)
                .take_while(|next| ended(next).is_some_and(|time| time < since))
                .count();
            segments.drain(..old);
        }
        Ok(Self { chain, filter, segments: segments.into_iter(), reader: None, line: Vec::new() })
    }

    fn next_line(&mut self) -> io::Result<bool> {
        loop {
            if let Some(reader) = &mut self.reader {
                if read_line(reader, &mut self.line)? {
                    return Ok(true);
                }
                self.reader = None;
            }
            let Some(segment) = self.segments.next() else { return Ok(false) };
            self.reader = Some(BufReader::with_capacity(READ_BYTES, File::open(&segment.path)?));
        }
    }
}

impl Iterator for Lines {
    type Item = Result<Shown, AuditError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_line() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(source) => return Some(Err(AuditError::read(Path::new(self.chain), source))),
            }
            if let Ok(value) = serde_json::from_slice(&self.line)
                && self.filter.fits(&value)
            {
                return Some(Ok(Shown { chain: self.chain, value }));
            }
        }
    }
}

/// Two chains in order of time.
pub(super) struct Merged<I: Iterator> {
    chains: [Peekable<I>; 2],
}

impl<I: Iterator> Merged<I> {
    pub(super) fn new(chains: [I; 2]) -> Self {
        Self { chains: chains.map(Iterator::peekable) }
    }
}

impl<I: Iterator<Item: Timed>> Iterator for Merged<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<Self::Item> {
        let [first, second] = &mut self.chains;
        match (first.peek().map(Timed::time), second.peek().map(Timed::time)) {
            (Some(Some(a)), Some(Some(b))) if b < a => second.next(),
            (None, _) => second.next(),
            _ => first.next(),
        }
    }
}

/// What has a place in the order of time; an error has none.
pub(super) trait Timed {
    fn time(&self) -> Option<&str>;
}

impl Timed for Shown {
    fn time(&self) -> Option<&str> {
        Some(time_of(&self.value))
    }
}

impl<E> Timed for Result<Shown, E> {
    fn time(&self) -> Option<&str> {
        self.as_ref().ok().and_then(Timed::time)
    }
}

/// Times of records have one width: their texts sort as they do.
fn time_of(value: &Value) -> &str {
    value.get("time").and_then(Value::as_str).unwrap_or_default()
}
