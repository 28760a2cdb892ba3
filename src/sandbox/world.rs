//! The narrow world, `functions/wit/function.wit`: the event on its way in, and what is believed of the answer.
//!
//! A guest's answer is input from outside like any other: status, media type and headers are checked here before
//! anything else sees them, and only their form; what a function may *mean* by them is the manifest's business.

use serde::{Deserialize, Serialize};
use wasmtime::{
    Engine,
    component::{
        bindgen,
        types::{self, ComponentItem},
    },
};

use super::limits::Limits;

mod bindings {
    super::bindgen!({
        path: "functions/wit",
        world: "function",
        ownership: Borrowing { duplicate_if_necessary: false },
    });
}

pub(super) use bindings::FunctionPre;
use bindings::exports::sandgate::function::handler;
pub(super) use handler::{Caller as CallerInput, Event as EventInput, Signal as SignalInput};

/// The export that makes a component a function of the narrow world.
pub(super) const HANDLER: &str = "sandgate:function/handler@0.1.0";

/// Whether the handler has the world's types, or where they part. The generated bindings look only when a component is
/// instantiated, and admission must not run any of it.
pub(super) fn check_handler(
    engine: &Engine,
    component: &types::Component,
    handler: &ComponentItem,
) -> Result<(), String> {
    let ComponentItem::ComponentInstance(interface) = handler else {
        return Err("it is not an interface".to_owned());
    };
    match interface.get_export(engine, "handle").map(|export| export.ty) {
        Some(ComponentItem::ComponentFunc(handle)) => handle
            .typecheck::<(EventInput<'_>,), (handler::Response,)>(&component.instance_type())
            .map_err(|e| format!("{e:#}")),
        _ => Err("it has no function `handle`".to_owned()),
    }
}

/// An event that outlives its request, for a thread of its own.
#[derive(Debug)]
pub(super) struct EventBuffer {
    request_id: String,
    caller_id: String,
    roles: Vec<String>,
    scopes: Vec<String>,
    method: String,
    rest: String,
    query: String,
    headers: Vec<(String, String)>,
    content_type: String,
    body: Vec<u8>,
    raw: Option<Vec<u8>>,
    signals: Vec<(String, String)>,
}

impl From<EventInput<'_>> for EventBuffer {
    fn from(event: EventInput<'_>) -> Self {
        let own = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Self {
            request_id: event.request_id.to_owned(),
            caller_id: event.caller.id.to_owned(),
            roles: own(event.caller.roles),
            scopes: own(event.caller.scopes),
            method: event.method.to_owned(),
            rest: event.rest.to_owned(),
            query: event.query.to_owned(),
            headers: event.headers.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect(),
            content_type: event.content_type.to_owned(),
            body: event.body.to_owned(),
            raw: event.raw.map(<[u8]>::to_owned),
            signals: event.signals.iter().map(|s| (s.pointer.to_owned(), s.kind.to_owned())).collect(),
        }
    }
}

impl EventBuffer {
    /// Lends the event.
    pub(super) fn with<R>(&self, f: impl FnOnce(EventInput<'_>) -> R) -> R {
        let roles: Vec<&str> = self.roles.iter().map(String::as_str).collect();
        let scopes: Vec<&str> = self.scopes.iter().map(String::as_str).collect();
        let headers: Vec<(&str, &str)> = self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let signals: Vec<SignalInput<'_>> =
            self.signals.iter().map(|(pointer, kind)| SignalInput { pointer, kind }).collect();
        f(EventInput {
            request_id: &self.request_id,
            caller: CallerInput { id: &self.caller_id, roles: &roles, scopes: &scopes },
            method: &self.method,
            rest: &self.rest,
            query: &self.query,
            headers: &headers,
            content_type: &self.content_type,
            body: &self.body,
            raw: self.raw.as_deref(),
            signals: &signals,
        })
    }
}

/// What a function answered, checked in form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// 200 to 599.
    pub(super) status: u16,
    /// Media type of the body; empty if and only if the body is.
    pub(super) content_type: String,
    /// Names in lower case; values visible ASCII, spaces and tabs. None frames the message or speaks for the gateway.
    pub(super) headers: Vec<(String, String)>,
    /// The body, within the `response` limit.
    pub(super) body: Vec<u8>,
}

/// How a function broke its contract. Nothing that the guest said is in it but numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Breach {
    /// The canonical ABI: pointers out of bounds, text that is not UTF-8, and the like.
    #[error("an invalid value was passed: {0}")]
    Value(String),
    /// The status.
    #[error("status {0} is not within 200 to 599")]
    Status(u16),
    /// A body needs its media type, and a media type its body.
    #[error("content-type and body must both be there or both be missing")]
    Body,
    /// Neither `type/subtype` nor short.
    #[error("content-type is not a media type")]
    ContentType,
    /// Too many of them.
    #[error("{count} headers, of {MAX_HEADERS} allowed")]
    HeaderCount {
        /// How many.
        count: usize,
    },
    /// Too long together.
    #[error("{bytes} bytes of headers, of {MAX_HEADER_BYTES} allowed")]
    HeaderBytes {
        /// How long.
        bytes: usize,
    },
    /// Not a field name in lower case (RFC 9110 §5.1), or a value with control characters (§5.5).
    #[error("header {index} is malformed")]
    Header {
        /// Which, counted from 0.
        index: usize,
    },
    /// `content-length` and the body's length disagree.
    #[error("content-length is not the length of the body")]
    Length,
    /// It returned without an answer, or with an error in its place.
    #[error("it did not answer")]
    NoReply,
    /// It returned before its body was whole.
    #[error("it returned without finishing its answer")]
    Unfinished,
    /// A field that frames the message, or that only the gateway may set.
    #[error("header {index} is the gateway's to set")]
    ReservedHeader {
        /// Which, counted from 0.
        index: usize,
    },
}

/// Why an answer is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// The form.
    Breach(Breach),
    /// The size, with its limit.
    TooLarge,
}

/// Bytes that the host may copy out of a guest for one answer: the body, and the rest of the record.
pub(super) fn lift_budget(limits: &Limits) -> usize {
    let body = usize::try_from(limits.response.value.0).unwrap_or(usize::MAX);
    body.saturating_add(LIFT_ALLOWANCE_BYTES)
}

/// Checks an answer.
pub(super) fn accept(response: handler::Response, limits: &Limits) -> Result<Reply, Refused> {
    let handler::Response { status, content_type, headers, body } = response;
    accept_parts(status, content_type, headers, body, limits)
}

/// Checks an answer, whichever world it comes from.
pub(super) fn accept_parts(
    status: u16,
    content_type: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    limits: &Limits,
) -> Result<Reply, Refused> {
    if body.len() as u64 > limits.response.value.0 {
        return Err(Refused::TooLarge);
    }
    check(status, &content_type, &headers, &body).map_err(Refused::Breach)?;
    Ok(Reply { status, content_type, headers, body })
}

fn check(status: u16, content_type: &str, headers: &[(String, String)], body: &[u8]) -> Result<(), Breach> {
    if !(200..=599).contains(&status) {
        return Err(Breach::Status(status));
    }
    if content_type.is_empty() != body.is_empty() {
        return Err(Breach::Body);
    }
    if !content_type.is_empty() && !is_media_type(content_type) {
        return Err(Breach::ContentType);
    }
    if headers.len() > MAX_HEADERS {
        return Err(Breach::HeaderCount { count: headers.len() });
    }
    let bytes = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_HEADER_BYTES {
        return Err(Breach::HeaderBytes { bytes });
    }
    for (index, (name, value)) in headers.iter().enumerate() {
        if !is_field_name(name) || !is_field_value(value) {
            return Err(Breach::Header { index });
        }
        if RESERVED.contains(&name.as_str()) || name.starts_with("sandgate-") {
            return Err(Breach::ReservedHeader { index });
        }
    }
    Ok(())
}

/// `token` of RFC 9110 §5.6.2, in lower case as HTTP/2 wants it (RFC 9113 §8.2.1).
fn is_field_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(plain)
}

fn is_field_value(value: &str) -> bool {
    value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b))
        && value.trim_matches([' ', '\t']) == value
}

fn is_media_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim_end().to_ascii_lowercase();
    text.len() <= MAX_MEDIA_TYPE_BYTES
        && is_field_value(text)
        && essence.split_once('/').is_some_and(|(kind, sub)| is_field_name(kind) && is_field_name(sub))
}

/// Fields that frame or route the message (RFC 9110 §7.6.1, §8.6), and `content-type`, which has its own place.
const RESERVED: [&str; 13] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

const MAX_HEADERS: usize = 32;
const MAX_HEADER_BYTES: usize = 8 << 10;
const MAX_MEDIA_TYPE_BYTES: usize = 128;

/// Headers, media type and the tuples that hold them, with room to tell `too many` from `out of budget`.
const LIFT_ALLOWANCE_BYTES: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn f31_f36_what_is_taken_as_a_header_is_one_to_whoever_sends_it(
            name in "[a-z-]{1,12}|[ -~]{0,6}|(?s).{0,4}",
            value in "[ -~\\t]{0,12}|(?s).{0,6}",
        ) {
            if checked(200, "", &[(&name, &value)], b"").is_ok() {
                let sent = (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(&value).unwrap());
                prop_assert_eq!((sent.0.as_str(), sent.1.to_str().unwrap()), (name.as_str(), value.as_str()));
                let framing = ["content-length", "transfer-encoding", "connection", "host", "trailer", "upgrade"];
                prop_assert!(!framing.contains(&name.as_str()) && !name.starts_with("sandgate-"));
            }
            if checked(200, &value, &[], b"x").is_ok() {
                prop_assert!(HeaderValue::from_str(&value).is_ok_and(|sent| sent.to_str().is_ok()));
            }
        }
    }

    fn checked(status: u16, content_type: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<(), Breach> {
        let headers: Vec<_> = headers.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
        check(status, content_type, &headers, body)
    }

    #[test]
    fn f31_a_plain_answer_is_taken() {
        let json = "application/json; charset=utf-8";
        assert_eq!(checked(200, json, &[("x-total", "3 of 4")], b"{}"), Ok(()));
        assert_eq!(checked(204, "", &[], b""), Ok(()));
        assert_eq!(checked(599, "text/calendar", &[], b"x"), Ok(()));
    }

    #[test]
    fn f31_an_answer_out_of_form_is_a_breach() {
        for status in [0, 99, 100, 199, 600, 1000, u16::MAX] {
            assert_eq!(checked(status, "", &[], b""), Err(Breach::Status(status)));
        }
        assert_eq!(checked(200, "text/plain", &[], b""), Err(Breach::Body));
        assert_eq!(checked(200, "", &[], b"x"), Err(Breach::Body));
        for media in ["text", "text/", "/plain", "text/plain\r\nx: y", "te xt/plain", &"a/b".repeat(50)] {
            assert_eq!(checked(200, media, &[], b"x"), Err(Breach::ContentType), "{media}");
        }
        for (name, value) in [
            ("", "v"),
            ("a b", "v"),
            ("a:", "v"),
            ("A", "v"),
            ("a", "v\r\nb: c"),
            ("a", "\0"),
            ("a", " v"),
            ("a", "é"),
        ] {
            assert_eq!(checked(200, "", &[(name, value)], b""), Err(Breach::Header { index: 0 }), "{name:?}");
        }
        for name in RESERVED.into_iter().chain(["sandgate-request-id"]) {
            assert_eq!(checked(200, "", &[(name, "v")], b""), Err(Breach::ReservedHeader { index: 0 }));
        }
        let many = vec![("a", "b"); 33];
        assert_eq!(checked(200, "", &many, b""), Err(Breach::HeaderCount { count: 33 }));
        let long = "x".repeat(8192);
        assert_eq!(checked(200, "", &[("a", &long)], b""), Err(Breach::HeaderBytes { bytes: 8193 }));
    }
}
