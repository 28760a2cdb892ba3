//! Why an event was refused, or a reply.
//!
//! Nothing here holds a value of the caller's: a fault is told by its kind and its place (D11).

use std::{fmt, sync::Arc, time::Duration};

use super::injection::Signal;

/// Why an event was refused.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The manifest does not list the method.
    #[error("the function takes no such method, only {allow}")]
    MethodNotAllowed {
        /// The methods that the manifest lists, as an `Allow` header has them.
        allow: Arc<str>,
    },
    /// Path segments follow the function's name, and the manifest takes none.
    #[error("the function takes no path after its name")]
    NoRest,
    /// The body is larger than the function takes, by its declared length or as counted.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// Largest body, in bytes.
        limit: u64,
    },
    /// The media type is missing, repeated, malformed or not one that the manifest lists.
    #[error("the body's media type is not one that the function takes")]
    UnsupportedMediaType,
    /// The request has a `Content-Encoding`.
    #[error("the body has a content coding")]
    UnsupportedEncoding,
    /// What was sent cannot be read in one way only.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The event breaks the function's schema.
    #[error("the event breaks the schema: {}", places(errors))]
    Invalid {
        /// At most 20, in the order in which they were found.
        errors: Vec<Violation>,
    },
    /// Strings look like attacks, and the manifest says `block`.
    #[error("the event looks like an attack in {} places", signals.len())]
    Injection {
        /// Where, and of which kind.
        signals: Vec<Signal>,
    },
    /// The body did not come in time.
    #[error("the body did not arrive within {after:?}")]
    Timeout {
        /// The time it had.
        after: Duration,
    },
    /// The client reset the stream, or its connection ended, before the body did: nobody waits for an answer.
    #[error("the client went away before its body was whole")]
    ClientGone {
        /// What the transport says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The body breaks its framing.
    #[error("the body could not be read to its end")]
    BodyLost {
        /// What the transport says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The evidence is of another tenant or function than these rules: a fault of ours.
    #[error("the event is for another function than these rules")]
    Mismatch,
    /// The validated value could not be written anew: a fault of ours.
    #[error("the validated event could not be written")]
    Write {
        /// What the writer says.
        #[source]
        source: serde_json::Error,
    },
}

/// Which part of the request is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The body.
    Body,
    /// The query.
    Query,
    /// The path after the function's name.
    Rest,
    /// A header that the function would get.
    Header,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Body => "body",
            Self::Query => "query",
            Self::Rest => "path",
            Self::Header => "header",
        })
    }
}

/// Something that cannot be read, or could be read in two ways.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {part}: {reason}")]
pub struct Malformed {
    /// Where it was sent.
    pub part: Part,
    /// What is wrong with it.
    pub reason: Reason,
    /// JSON pointer (RFC 6901) to the place, `?name` in a query, a header's name; empty for the whole.
    pub pointer: String,
    /// Bytes from the part's beginning, where the fault has a place in the text.
    pub offset: Option<usize>,
}

impl Malformed {
    /// A fault of a whole part.
    pub(crate) fn new(part: Part, reason: Reason) -> Self {
        Self { part, reason, pointer: String::new(), offset: None }
    }

    /// At that byte.
    pub(crate) fn offset(mut self, offset: usize) -> Self {
        self.offset = Some(offset);
        self
    }

    /// At that place.
    pub(crate) fn pointer(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = pointer.into();
        self
    }
}

/// What is wrong with a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// A body is due, and none came.
    #[error("it is empty")]
    Empty,
    /// Not UTF-8.
    #[error("it is not UTF-8")]
    Utf8,
    /// A byte order mark.
    #[error("it begins with a byte order mark")]
    ByteOrderMark,
    /// Not JSON.
    #[error("it is not JSON")]
    Syntax,
    /// Something follows the JSON value.
    #[error("something follows the value")]
    Trailing,
    /// A name twice in one object, or a parameter twice.
    #[error("a name occurs twice")]
    Duplicate,
    /// An escaped surrogate without its other half.
    #[error("a surrogate stands alone")]
    Surrogate,
    /// NUL, a control character or a bidirectional control.
    #[error("a control character is not allowed")]
    Control,
    /// The text is not in Unicode normal form C.
    #[error("it is not in normal form C")]
    NotNormal,
    /// A number that no double has exactly.
    #[error("a number would be rounded")]
    Rounded,
    /// An integer beyond 2^53 − 1 where the schema has no wider bound.
    #[error("an integer is beyond 2^53 - 1")]
    Wide,
    /// Nested too deeply.
    #[error("it is nested deeper than {0}")]
    Depth(u32),
    /// Too many values.
    #[error("it has more than {0} values")]
    Nodes(u32),
    /// A string or name is too long.
    #[error("a string is longer than {0} bytes")]
    String(usize),
    /// An array is too long.
    #[error("an array has more than {0} items")]
    Items(usize),
    /// An object has too many members, or a query too many parameters.
    #[error("there are more than {0} members")]
    Members(usize),
    /// A query, and the manifest has no schema for one.
    #[error("the function takes no query")]
    Unexpected,
    /// A percent sign without two hexadecimal digits, or a character that must be encoded.
    #[error("the percent-encoding is wrong")]
    Encoding,
    /// A parameter without name or without `=`.
    #[error("a parameter is not name=value")]
    Parameter,
    /// An empty or dot segment, or an encoded separator.
    #[error("a path segment is empty, `.`, `..` or has an encoded separator")]
    Segment,
    /// The function takes CloudEvents, and this is none.
    #[error("it is no CloudEvent")]
    NoEnvelope,
    /// `data` and `data_base64` both.
    #[error("`data` and `data_base64` exclude each other")]
    TwoData,
    /// A `ce-*` header beside a structured event that says something else.
    #[error("header and body of the CloudEvent contradict each other")]
    Contradiction,
    /// Headers together too many or too long.
    #[error("the headers are too many or too long")]
    HeaderSize,
}

/// One place where an event breaks its schema, in the form in which callers read it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// JSON pointer (RFC 6901) into the body, `?name` for a parameter of the query, or a header's name.
    pub pointer: String,
    /// The keyword of the schema.
    pub keyword: String,
    /// The schema's bound, where the keyword has one. Never the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pointer, keyword, limit } = self;
        write!(f, "`{keyword}`")?;
        if let Some(limit) = limit {
            write!(f, " ({limit})")?;
        }
        if pointer.is_empty() { f.write_str(" at the root") } else { write!(f, " at `{pointer}`") }
    }
}

/// All of them in one line, for whoever reads records: where and by which rule, as the caller is told.
pub(super) fn places(violations: &[Violation]) -> String {
    violations.iter().map(Violation::to_string).collect::<Vec<_>>().join(", ")
}

/// Most violations that are told.
pub(crate) const MAX_VIOLATIONS: usize = 20;

/// Longest pointer that is told, in bytes: its names are the caller's and may be long.
const MAX_POINTER_BYTES: usize = 512;

/// Cuts a pointer at the last whole segment that fits.
pub(crate) fn shorten(pointer: &mut String) {
    if pointer.len() > MAX_POINTER_BYTES {
        let fits = pointer.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_POINTER_BYTES).last();
        pointer.truncate(fits.unwrap_or(0));
        pointer.truncate(pointer.rfind('/').unwrap_or(0));
        pointer.push_str("/…");
    }
}

/// Appends one segment to a pointer, escaped (RFC 6901 §3).
pub(crate) fn push_segment(pointer: &mut String, name: &str) {
    pointer.push('/');
    if name.contains(['~', '/']) {
        pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
    } else {
        pointer.push_str(name);
    }
}
