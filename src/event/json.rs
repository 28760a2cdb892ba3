//! Strict JSON: what this parser accepts, every parser reads alike (RFC 8259, RFC 7493).
//!
//! Refused are duplicate names at any depth (also after normal form C), lone surrogates, a byte order mark, anything
//! after the value, refused characters (see [`text`]), numbers that would be rounded and anything beyond the
//! [`JsonLimits`]. One pass does it all, and the depth limit bounds its stack.

use serde_json::{Map, Value, map::Entry};

use super::{
    error::{Malformed, Part, Reason, push_segment, shorten},
    number, text,
};

/// Bounds of one JSON text (D4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonLimits {
    /// Deepest nesting of arrays and objects; a scalar has depth 0.
    pub depth: u32,
    /// Most values, containers included.
    pub nodes: u32,
    /// Longest string or name, in bytes of its UTF-8.
    pub string_bytes: usize,
    /// Longest array.
    pub items: usize,
    /// Most members of one object.
    pub members: usize,
}

impl JsonLimits {
    /// The platform's bounds: a manifest may lower them, never raise them.
    pub const MAX: Self =
        Self { depth: 32, nodes: 10_000, string_bytes: 64 * 1024, items: 1_000, members: 256 };
}

impl Default for JsonLimits {
    fn default() -> Self {
        Self::MAX
    }
}

/// A value that was read strictly.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The value, its strings and names in normal form C.
    pub value: Value,
    /// Whether an integer is beyond ±(2^53 − 1): only a schema with wider bounds may have it (see
    /// `Plan`(super::plan::Plan)).
    pub wide: bool,
}

/// Reads a JSON text.
pub fn parse(json: &str, limits: &JsonLimits) -> Result<Parsed, Malformed> {
    let mut parser = Parser { text: json, bytes: json.as_bytes(), at: 0, nodes: 0, wide: false, limits };
    match parser.document(|parser, first| parser.value(first, 0)) {
        Ok(value) => Ok(Parsed { value, wide: parser.wide }),
        Err(fault) => Err(fault.told()),
    }
}

/// A member that is a text of its own within another: see [`parse_around`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Apart {
    /// A string, as sent: its characters keep the text rules, its normal form is left to whoever knows what it is.
    Text(String),
    /// Any other value, read as if it had come alone.
    Value(Parsed),
}

/// An object, read around the members that stand apart.
#[derive(Debug)]
pub(crate) struct Around {
    /// All other members.
    pub(crate) members: Map<String, Value>,
    /// Those that stand apart, in the order in which they came.
    pub(crate) apart: Vec<(&'static str, Apart)>,
}

/// Reads an object whose members of the names `apart` have `inner` bounds as if each had come alone; all else has `outer`
/// ones. A string that stands apart may have `text_bytes`.
pub(crate) fn parse_around(
    json: &str,
    outer: &JsonLimits,
    apart: &[&'static str],
    inner: &JsonLimits,
    text_bytes: usize,
) -> Result<Around, Malformed> {
    let mut parser =
        Parser { text: json, bytes: json.as_bytes(), at: 0, nodes: 0, wide: false, limits: outer };
    let mut found = Vec::new();
    let object = parser.document(|parser, first| match first {
        b'{' => parser.object_of(1, |parser, name, first| {
            let Some(name) = apart.iter().find(|known| **known == name) else {
                return parser.value(first, 1);
            };
            found.push((*name, parser.apart(first, inner, text_bytes)?));
            // Keeps the name's place, so that a second one is seen.
            Ok(Value::Null)
        }),
        _ => Err(parser.fault(Reason::NoEnvelope)),
    });
    let mut members = object.map_err(Fault::told)?;
    members.retain(|name, _| !apart.contains(&name.as_str()));
    Ok(Around { members, apart: found })
}

/// A string that was read as sent, as the value that it is.
pub(crate) fn text_value(text: String, limits: &JsonLimits) -> Result<Parsed, Malformed> {
    let normal = match text::nfc(&text) {
        std::borrow::Cow::Borrowed(_) => text,
        // As sent and in normal form, as for any string.
        std::borrow::Cow::Owned(normal) if text.len() <= limits.string_bytes => normal,
        std::borrow::Cow::Owned(_) => text,
    };
    match normal.len() > limits.string_bytes {
        true => Err(Malformed::new(Part::Body, Reason::String(limits.string_bytes))),
        false => Ok(Parsed { value: Value::String(normal), wide: false }),
    }
}

/// Reads a JSON text from bytes.
pub fn parse_bytes(json: &[u8], limits: &JsonLimits) -> Result<Parsed, Malformed> {
    let json = std::str::from_utf8(json)
        .map_err(|e| Malformed::new(Part::Body, Reason::Utf8).offset(e.valid_up_to()))?;
    parse(json, limits)
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    nodes: u32,
    wide: bool,
    limits: &'a JsonLimits,
}

/// A fault on its way up: every container that it leaves adds its segment.
struct Fault(Box<FaultAt>);

struct FaultAt {
    reason: Reason,
    offset: usize,
    path: Vec<Segment>,
}

enum Segment {
    Name(String),
    Index(usize),
}

impl Fault {
    #[cold]
    fn new(reason: Reason, offset: usize) -> Self {
        Self(Box::new(FaultAt { reason, offset, path: Vec::new() }))
    }

    #[cold]
    fn within(mut self, segment: Segment) -> Self {
        self.0.path.push(segment);
        self
    }

    fn told(self) -> Malformed {
        let mut pointer = String::new();
        for segment in self.0.path.iter().rev() {
            match segment {
                Segment::Name(name) => push_segment(&mut pointer, name),
                Segment::Index(index) => push_segment(&mut pointer, &index.to_string()),
            }
        }
        shorten(&mut pointer);
        Malformed::new(Part::Body, self.0.reason).pointer(pointer).offset(self.0.offset)
    }
}

impl<'a> Parser<'a> {
    fn document<T>(&mut self, read: impl FnOnce(&mut Self, u8) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.text.starts_with('\u{feff}') {
            return Err(Fault::new(Reason::ByteOrderMark, 0));
        }
        let first = self.peek_after_space();
        if self.at == self.bytes.len() {
            return Err(Fault::new(Reason::Empty, self.at));
        }
        let value = read(self, first)?;
        self.peek_after_space();
        if self.at == self.bytes.len() { Ok(value) } else { Err(self.fault(Reason::Trailing)) }
    }

    /// The byte here; NUL at the end, which no JSON text has.
    #[inline]
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    #[inline]
    fn peek_after_space(&mut self) -> u8 {
        loop {
            match self.peek() {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                other => return other,
            }
        }
    }

    #[cold]
    fn fault(&self, reason: Reason) -> Fault {
        Fault::new(reason, self.at)
    }

    fn value(&mut self, first: u8, depth: u32) -> Result<Value, Fault> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            return Err(self.fault(Reason::Nodes(self.limits.nodes)));
        }
        match first {
            b'"' => self.string().map(Value::String),
            b'{' => self.object(depth + 1).map(Value::Object),
            b'[' => self.array(depth + 1).map(Value::Array),
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.word("true", Value::Bool(true)),
            b'f' => self.word("false", Value::Bool(false)),
            b'n' => self.word("null", Value::Null),
            _ => Err(self.fault(Reason::Syntax)),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Fault> {
        let end = self.at + word.len();
        if self.bytes.get(self.at..end) == Some(word.as_bytes()) {
            self.at = end;
            Ok(value)
        } else {
            Err(self.fault(Reason::Syntax))
        }
    }

    fn enter(&mut self, depth: u32) -> Result<u8, Fault> {
        if depth > self.limits.depth {
            return Err(self.fault(Reason::Depth(self.limits.depth)));
        }
        self.at += 1;
        Ok(self.peek_after_space())
    }

    fn array(&mut self, depth: u32) -> Result<Vec<Value>, Fault> {
        let mut next = self.enter(depth)?;
        let mut items = Vec::new();
        if next == b']' {
            self.at += 1;
            return Ok(items);
        }
        loop {
            if items.len() == self.limits.items {
                return Err(self.fault(Reason::Items(self.limits.items)));
            }
            match self.value(next, depth) {
                Ok(item) => items.push(item),
                Err(fault) => return Err(fault.within(Segment::Index(items.len()))),
            }
            match self.peek_after_space() {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Ok(items);
                }
                _ => return Err(self.fault(Reason::Syntax)),
            }
            next = self.peek_after_space();
        }
    }

    fn object(&mut self, depth: u32) -> Result<Map<String, Value>, Fault> {
        self.object_of(depth, |parser, _, first| parser.value(first, depth))
    }

    /// A value that begins with `first`, by bounds of its own.
    fn apart(&mut self, first: u8, inner: &'a JsonLimits, text_bytes: usize) -> Result<Apart, Fault> {
        if first == b'"' {
            let start = self.at + 1;
            let plain = start + plain_run(self.bytes.get(start..).unwrap_or_default());
            return self.unescaped(start, plain, text_bytes).map(Apart::Text);
        }
        let outer = (self.limits, self.nodes, self.wide);
        (self.limits, self.nodes, self.wide) = (inner, 0, false);
        let value = self.value(first, 0);
        let wide = self.wide;
        (self.limits, self.nodes, self.wide) = outer;
        Ok(Apart::Value(Parsed { value: value?, wide }))
    }

    /// An object whose members' values are read by `member`, from their first byte.
    fn object_of(
        &mut self,
        depth: u32,
        mut member: impl FnMut(&mut Self, &str, u8) -> Result<Value, Fault>,
    ) -> Result<Map<String, Value>, Fault> {
        let mut next = self.enter(depth)?;
        let mut members = Map::new();
        if next == b'}' {
            self.at += 1;
            return Ok(members);
        }
        loop {
            if next != b'"' {
                return Err(self.fault(Reason::Syntax));
            }
            if members.len() == self.limits.members {
                return Err(self.fault(Reason::Members(self.limits.members)));
            }
            let name_at = self.at;
            let name = self.string()?;
            if self.peek_after_space() != b':' {
                return Err(self.fault(Reason::Syntax));
            }
            self.at += 1;
            let first = self.peek_after_space();
            match member(self, &name, first) {
                // Names are already in normal form C, so that two spellings of one name meet here.
                Ok(value) => match members.entry(name) {
                    Entry::Vacant(place) => {
                        place.insert(value);
                    }
                    Entry::Occupied(_) => return Err(Fault::new(Reason::Duplicate, name_at)),
                },
                Err(fault) => return Err(fault.within(Segment::Name(name))),
            }
            match self.peek_after_space() {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(members);
                }
                _ => return Err(self.fault(Reason::Syntax)),
            }
            next = self.peek_after_space();
        }
    }

    /// A string or name, from its opening quote.
    #[inline]
    fn string(&mut self) -> Result<String, Fault> {
        let start = self.at + 1;
        let end = start + plain_run(self.bytes.get(start..).unwrap_or_default());
        if self.bytes.get(end) != Some(&b'"') {
            return self.string_with_more(start, end);
        }
        if end - start > self.limits.string_bytes {
            return Err(self.fault(Reason::String(self.limits.string_bytes)));
        }
        self.at = end + 1;
        Ok(self.text.get(start..end).unwrap_or_default().to_owned())
    }

    /// A string that has more than plain ASCII: `plain` is the end of the plain run at its beginning.
    fn string_with_more(&mut self, start: usize, plain: usize) -> Result<String, Fault> {
        let string = self.unescaped(start, plain, self.limits.string_bytes)?;
        if let std::borrow::Cow::Owned(normal) = text::nfc(&string) {
            // Normal form C can be longer than what was sent (UAX #15 §12: up to three times).
            if normal.len() > self.limits.string_bytes {
                return Err(Fault::new(Reason::String(self.limits.string_bytes), start - 1));
            }
            return Ok(normal);
        }
        Ok(string)
    }

    /// A string of at most so many bytes, under the text rules, not yet in normal form.
    fn unescaped(&mut self, start: usize, plain: usize, max_bytes: usize) -> Result<String, Fault> {
        let mut string = String::new();
        let (mut from, mut at) = (start, plain);
        loop {
            let rest = self.bytes.get(at..).unwrap_or_default();
            at += rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f)).unwrap_or(rest.len());
            string.push_str(self.text.get(from..at).unwrap_or_default());
            if string.len() > max_bytes {
                return Err(Fault::new(Reason::String(max_bytes), start - 1));
            }
            self.at = at;
            match self.peek() {
                b'"' => break,
                b'\\' => string.push(self.escape()?),
                // A raw control character is not JSON, be it one that an escape may write or not.
                _ => return Err(self.fault(Reason::Syntax)),
            }
            at = self.at;
            from = at;
        }
        self.at += 1;
        // Of ASCII only DEL is left: all other controls are no JSON, or were refused as escapes.
        let refused = match string.is_ascii() {
            true => string.bytes().any(|b| b == 0x7f),
            false => text::refused_at(&string).is_some(),
        };
        if refused { Err(Fault::new(Reason::Control, start - 1)) } else { Ok(string) }
    }

    /// One escape sequence, from its backslash.
    fn escape(&mut self) -> Result<char, Fault> {
        let at = self.at;
        self.at += 2;
        let c = match self.bytes.get(at + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b't') => '\t',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b'b' | b'f') => return Err(Fault::new(Reason::Control, at)),
            Some(b'u') => match self.hex4()? {
                high @ 0xd800..=0xdbff => {
                    if self.bytes.get(self.at..self.at + 2) != Some(br"\u".as_slice()) {
                        return Err(Fault::new(Reason::Surrogate, at));
                    }
                    self.at += 2;
                    match self.hex4()? {
                        low @ 0xdc00..=0xdfff => 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00),
                        _ => return Err(Fault::new(Reason::Surrogate, at)),
                    }
                }
                code => code,
            }
            .try_into()
            // What is left of the range that no character has: a low surrogate.
            .map_err(|_| Fault::new(Reason::Surrogate, at))?,
            _ => return Err(Fault::new(Reason::Syntax, at)),
        };
        if text::is_refused(c) { Err(Fault::new(Reason::Control, at)) } else { Ok(c) }
    }

    fn hex4(&mut self) -> Result<u32, Fault> {
        let digits = self.text.get(self.at..self.at + 4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = digits.and_then(|d| u32::from_str_radix(d, 16).ok());
        let code = code.ok_or_else(|| self.fault(Reason::Syntax))?;
        self.at += 4;
        Ok(code)
    }

    fn number(&mut self) -> Result<Value, Fault> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        match number::read(rest) {
            Ok(read) => {
                self.at += read.len;
                self.wide |= read.wide;
                Ok(Value::Number(read.number))
            }
            Err(reason) => Err(self.fault(reason)),
        }
    }
}

/// Length of the run of bytes that need no thought: ASCII but controls, `"`, `\` and DEL.
///
/// Eight bytes at a time: in each byte of `hits` the high bit says that this byte ends the run. A borrow can only
/// reach bytes after a true hit, so the first one is exact.
#[inline]
fn plain_run(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let mut run = 0;
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word);
        let hits = word.wrapping_sub(ONES * 0x20) & !word
            | zero(word ^ (ONES * u64::from(b'"')))
            | zero(word ^ (ONES * u64::from(b'\\')))
            | zero(word ^ (ONES * 0x7f))
            | word;
        let hits = hits & HIGHS;
        if hits != 0 {
            return run + hits.trailing_zeros() as usize / 8;
        }
        run += 8;
    }
    let special = |b: &u8| matches!(b, 0..=0x1f | b'"' | b'\\' | 0x7f..);
    run + tail.iter().position(special).unwrap_or(tail.len())
}

#[cfg(test)]
mod tests;
