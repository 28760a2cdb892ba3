//! The head of a request on its raw bytes, read strictly: what two programs might read differently is refused here.
//!
//! A library that parses heads mends what it can: it takes the last of two lengths, drops one beside a
//! `Transfer-Encoding`, skips blank lines. Each repair is a difference that an attacker can put between us and whoever
//! stands before us (RFC 9112 §11.2). So heads are judged before that library sees them, and only what has one reading
//! goes on. [`Scan`] finds where a head ends, however its bytes are cut; [`check`] judges a whole head and says how long
//! its body is. Neither allocates. INVARIANT (Bounded): a head never needs more than [`MAX_HEAD_BYTES`].

use http::{Request, Version, header};
use memchr::{memchr, memchr2};

use super::{authority::Authority, route::MAX_TARGET_BYTES};

/// Why a head is refused before it becomes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    /// Longer than any line that holds an acceptable target.
    #[error("the request target is longer than {MAX_TARGET_BYTES} bytes")]
    TargetTooLong,
    /// More than [`MAX_FIELDS`] fields, or more than [`MAX_FIELDS_BYTES`] of them.
    #[error("the head has more than {MAX_FIELDS} fields or {MAX_FIELDS_BYTES} bytes of them")]
    FieldsTooLarge,
    /// A line that does not end in CR LF, or an empty one where none belongs.
    #[error("a line does not end as lines end")]
    LineEnd,
    /// Not `method SP target SP version`.
    #[error("the request line is not well-formed")]
    RequestLine,
    /// Neither a path nor an `https` URI.
    #[error("the request target is not well-formed")]
    Target,
    /// CONNECT: this is no proxy.
    #[error("the method is not for this server")]
    Method,
    /// Neither 1.1 nor 1.0.
    #[error("the version is not one of ours")]
    Version,
    /// A name that is no token, a space before the colon, a folded line, a control character in a value.
    #[error("a field is not well-formed")]
    Field,
    /// None, several, a malformed one, or one that another part of the head contradicts.
    #[error("the head does not name exactly one host")]
    Host,
    /// A length that is no number, two of them, a coding other than `chunked`, or both a length and a coding.
    #[error("the length of the body can be read in two ways")]
    Framing,
    /// Another protocol is asked for.
    #[error("another protocol is asked for")]
    Upgrade,
    /// Something other than `100-continue` is expected.
    #[error("an expectation that cannot be met")]
    Expectation,
    /// The head did not come in its time.
    #[error("the head came too slowly")]
    Slow,
}

impl BadHead {
    /// The word under which it is counted.
    pub fn kind(self) -> &'static str {
        match self {
            Self::TargetTooLong => "target_too_long",
            Self::FieldsTooLarge => "fields_too_large",
            Self::LineEnd => "line_end",
            Self::RequestLine => "request_line",
            Self::Target => "target",
            Self::Method => "method",
            Self::Version => "version",
            Self::Field => "field",
            Self::Host => "host",
            Self::Framing => "framing",
            Self::Upgrade => "upgrade",
            Self::Expectation => "expectation",
            Self::Slow => "slow",
        }
    }
}

/// Where the body ends that follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// Where its last chunk says.
    Chunked,
}

/// What a good head says of its own message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Where the body ends.
    pub framing: Framing,
}

/// Finds the end of a head in bytes that come piece by piece.
///
/// Its verdict depends on the bytes alone, never on how they were cut. One empty line before the request line is
/// skipped, since some clients send one after a body (RFC 9112 §2.2); a second is refused, or they would never end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scan {
    /// Everything before it was looked at.
    at: usize,
    /// Where the line begins that `at` is in.
    line: usize,
    /// Where the fields begin, once they do.
    fields: usize,
    /// Lines that were not empty.
    lines: usize,
}

impl Scan {
    /// Looks at what came since the last call; `bytes` is everything since the head began. Once the head is whole, how
    /// many bytes it has.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, BadHead> {
        while let Some(found) = bytes.get(self.at..).and_then(|rest| memchr2(b'\r', b'\n', rest)) {
            let end = self.at + found;
            self.room(end)?;
            let pair = bytes.get(end..).unwrap_or_default();
            match pair {
                [b'\r', b'\n', ..] => {}
                // What follows decides.
                [b'\r'] => {
                    self.at = end;
                    return Ok(None);
                }
                _ => return Err(BadHead::LineEnd),
            }
            let next = end + 2;
            if end > self.line {
                self.lines += 1;
                if self.lines == 1 {
                    self.fields = next;
                } else if self.lines > MAX_FIELDS + 1 {
                    return Err(BadHead::FieldsTooLarge);
                }
            } else if self.lines > 0 {
                return Ok(Some(next));
            } else if self.line > 0 {
                return Err(BadHead::LineEnd);
            }
            (self.at, self.line) = (next, next);
        }
        self.at = bytes.len();
        self.room(self.at)?;
        Ok(None)
    }

    /// Whether a line may still end at `end`.
    fn room(&self, end: usize) -> Result<(), BadHead> {
        if self.lines == 0 {
            let fits = end - self.line <= MAX_LINE_BYTES;
            fits.then_some(()).ok_or(BadHead::TargetTooLong)
        } else {
            let fits = end - self.fields <= MAX_FIELDS_BYTES;
            fits.then_some(()).ok_or(BadHead::FieldsTooLarge)
        }
    }
}

/// Judges a whole head, from its request line (or the one empty line before it) to the empty line that ends it.
pub fn check(head: &[u8]) -> Result<Head, BadHead> {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let (line, mut rest) = line(head)?;
    let line = RequestLine::parse(line)?;
    let mut fields = Fields::default();
    loop {
        let (field, after) = self::line(rest)?;
        if field.is_empty() {
            break;
        }
        fields.take(field)?;
        rest = after;
    }
    fields.finish(&line)
}

/// Judges a request of HTTP/2, whose frames carry lengths of their own (RFC 9113 §8.2, §8.3).
///
/// The library has refused what frames, pseudo-fields and connection-specific fields can do wrong.
pub fn check_http2<B>(request: &Request<B>) -> Result<(), BadHead> {
    debug_assert_eq!(request.version(), Version::HTTP_2);
    let (uri, headers) = (request.uri(), request.headers());
    if *request.method() == http::Method::CONNECT {
        return Err(BadHead::Method);
    }
    if uri.path_and_query().is_some_and(|target| target.as_str().len() > MAX_TARGET_BYTES) {
        return Err(BadHead::TargetTooLong);
    }
    if headers.len() > MAX_FIELDS {
        return Err(BadHead::FieldsTooLarge);
    }
    if uri.scheme() != Some(&http::uri::Scheme::HTTPS) {
        return Err(BadHead::Target);
    }
    let authority = uri.authority().ok_or(BadHead::Host)?;
    let authority = Authority::parse(authority.as_str().as_bytes()).ok_or(BadHead::Host)?;
    let mut hosts = headers.get_all(header::HOST).iter();
    if let Some(host) = hosts.next()
        && (hosts.next().is_some() || Authority::parse(host.as_bytes()) != Some(authority))
    {
        return Err(BadHead::Host);
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next()
        && (lengths.next().is_some() || self::length(length.as_bytes()).is_none())
    {
        return Err(BadHead::Framing);
    }
    // `Upgrade` has no meaning here and the library refuses it; the settings of h2c would pass as any field does.
    if headers.contains_key("http2-settings") {
        return Err(BadHead::Upgrade);
    }
    let mut expected = headers.get_all(header::EXPECT).iter();
    if expected.any(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(BadHead::Expectation);
    }
    Ok(())
}

/// A line without its end, and what comes after it.
fn line(bytes: &[u8]) -> Result<(&[u8], &[u8]), BadHead> {
    let end = memchr(b'\r', bytes).ok_or(BadHead::LineEnd)?;
    let (line, rest) = bytes.split_at_checked(end).ok_or(BadHead::LineEnd)?;
    Ok((line, rest.strip_prefix(b"\r\n").ok_or(BadHead::LineEnd)?))
}

struct RequestLine<'a> {
    /// The authority of an absolute-form target.
    authority: Option<Authority<'a>>,
    /// Whether the version is 1.1.
    current: bool,
}

impl<'a> RequestLine<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, BadHead> {
        let (method, rest) = word(line).ok_or(BadHead::RequestLine)?;
        let (target, version) = word(rest).ok_or(BadHead::RequestLine)?;
        if method.is_empty() || method.len() > MAX_METHOD_BYTES || !is_token(method) {
            return Err(BadHead::RequestLine);
        }
        if method == b"CONNECT" {
            return Err(BadHead::Method);
        }
        if target.len() > MAX_TARGET_BYTES {
            return Err(BadHead::TargetTooLong);
        }
        // A fragment is for the client alone (RFC 9110 §4.2.5); what else is missing here, no URI may hold unencoded.
        let plain = |b: &u8| matches!(b, b'!' | b'$'..=b';' | b'=' | b'?'..=b'_' | b'a'..=b'z' | b'|' | b'~');
        if !target.iter().fold(true, |all, b| all & plain(b)) {
            return Err(BadHead::Target);
        }
        let authority = match target.first() {
            Some(b'/') => None,
            _ => Some(absolute(target).ok_or(BadHead::Target)?),
        };
        let current = match version {
            b"HTTP/1.1" => true,
            b"HTTP/1.0" => false,
            _ => return Err(BadHead::Version),
        };
        Ok(Self { authority, current })
    }
}

/// The authority of `https://authority/…`; no other scheme comes here, and `*` and `host:port` are for OPTIONS and
/// CONNECT.
fn absolute(target: &[u8]) -> Option<Authority<'_>> {
    let (scheme, rest) = target.split_at_checked(b"https://".len())?;
    if !scheme.eq_ignore_ascii_case(b"https://") {
        return None;
    }
    let end = memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    Authority::parse(rest.get(..end)?)
}

/// What the fields say of host, framing and protocol.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
}

impl<'a> Fields<'a> {
    fn take(&mut self, field: &'a [u8]) -> Result<(), BadHead> {
        // A folded line begins with a space, which is in no name (RFC 9112 §5.2); nor is one before the colon (§5.1).
        let colon = memchr(b':', field).ok_or(BadHead::Field)?;
        let (name, value) = field.split_at_checked(colon).ok_or(BadHead::Field)?;
        let value = value.strip_prefix(b":").ok_or(BadHead::Field)?;
        if name.is_empty() || !is_token(name) || !is_text(value) {
            return Err(BadHead::Field);
        }
        let value = trim(value);
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is(b"host") && self.host.replace(value).is_some() => return Err(BadHead::Host),
            6 if is(b"expect") && !value.eq_ignore_ascii_case(b"100-continue") => {
                return Err(BadHead::Expectation);
            }
            7 if is(b"upgrade") => return Err(BadHead::Upgrade),
            10 if is(b"connection") => {
                let mut options = value.split(|b| *b == b',').map(trim);
                if options.any(|option| {
                    option.eq_ignore_ascii_case(b"upgrade") || option.eq_ignore_ascii_case(b"http2-settings")
                }) {
                    return Err(BadHead::Upgrade);
                }
            }
            14 if is(b"http2-settings") => return Err(BadHead::Upgrade),
            14 if is(b"content-length") => {
                let length = length(value).ok_or(BadHead::Framing)?;
                if self.length.replace(length).is_some() {
                    return Err(BadHead::Framing);
                }
            }
            17 if is(b"transfer-encoding") => {
                let again = std::mem::replace(&mut self.chunked, true);
                if again || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadHead::Framing);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self, line: &RequestLine<'_>) -> Result<Head, BadHead> {
        let host = self.host.and_then(Authority::parse).ok_or(BadHead::Host)?;
        if line.authority.is_some_and(|authority| authority != host) {
            return Err(BadHead::Host);
        }
        let framing = match (self.chunked, self.length) {
            (false, None) => Framing::None,
            (false, Some(length)) => Framing::Length(length),
            // A server of HTTP/1.0 before us would not know the coding (RFC 9112 §6.1).
            (true, None) if line.current => Framing::Chunked,
            (true, _) => return Err(BadHead::Framing),
        };
        Ok(Head { framing })
    }
}

/// A length in digits alone: no sign, no list, no more than any body could have.
fn length(value: &[u8]) -> Option<u64> {
    // Eighteen digits fit 63 bits.
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value
        .iter()
        .try_fold(0u64, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))
}

fn word(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (word, rest) = bytes.split_at_checked(memchr(b' ', bytes)?)?;
    Some((word, rest.get(1..)?))
}

fn is_token(bytes: &[u8]) -> bool {
    let is = |b: &u8| {
        matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+'
            | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
    };
    bytes.iter().fold(true, |all, b| all & is(b))
}

/// No control but tab. Without an early end the compiler looks at many bytes at once.
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |all, b| all & ((*b >= b' ' && *b != 0x7f) | (*b == b'\t')))
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Fields of one head (hardening C2).
pub const MAX_FIELDS: usize = 64;
/// All fields of one head with their line ends, in bytes (hardening C2).
pub const MAX_FIELDS_BYTES: usize = 16 << 10;
/// Longest method; the longest that is registered has 17 bytes.
const MAX_METHOD_BYTES: usize = 32;
/// Longest line that can hold an acceptable target.
const MAX_LINE_BYTES: usize = MAX_METHOD_BYTES + 1 + MAX_TARGET_BYTES + 1 + b"HTTP/1.1".len();
/// Longest head that can be good.
pub const MAX_HEAD_BYTES: usize = 2 + MAX_LINE_BYTES + 2 + MAX_FIELDS_BYTES + 4;

#[cfg(test)]
#[path = "../../tests/fixtures/http/corpus.rs"]
pub(crate) mod corpus;
#[cfg(test)]
mod tests;
