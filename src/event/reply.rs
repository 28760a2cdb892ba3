//! What a function answers, checked as hard as what it was asked (D14, F31): a guest is not trusted with its own reply.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use serde_json::Value;

use super::{
    author::Author,
    caching::kept_private,
    content::{settle, write},
    error::{EventError, Malformed, Violation, places},
    json::{self, JsonLimits},
    media,
    rules::Written,
    schema::Schema,
    schemas::Schemas,
};
use crate::site::diagnostic::Diagnostic;

/// Why a reply breaks the function's contract. The caller learns nothing of it.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// Not 200 to 599.
    #[error("status {status} is not 200 to 599")]
    Status {
        /// What the function said.
        status: u16,
    },
    /// A header that a function cannot set, or twice.
    #[error("header `{name}` cannot be set by a function, or not twice")]
    Header {
        /// Its name, where it is one.
        name: String,
    },
    /// A header whose value is not allowed.
    #[error("the value of header `{name}` is not allowed")]
    HeaderValue {
        /// The header.
        name: String,
    },
    /// Too many headers, or too long ones.
    #[error("the headers are too many or too long")]
    HeaderSize,
    /// More bytes than the limit.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// A content type without a body, a body without one, or one that is malformed.
    #[error("the content type does not fit the body")]
    ContentType,
    /// A body where the status has none, or none where the schema asks for one.
    #[error("a body is missing, or one is too many")]
    Body,
    /// Not strict JSON, and a response schema is given.
    #[error("the reply is {0}")]
    Malformed(#[from] Malformed),
    /// The reply breaks the response schema.
    #[error("the reply breaks the response schema: {}", places(errors))]
    Invalid {
        /// At most 20.
        errors: Vec<Violation>,
    },
    /// The validated value could not be written anew: a fault of ours.
    #[error("the validated reply could not be written")]
    Write {
        /// What the writer says.
        #[source]
        source: Box<EventError>,
    },
}

/// A function's reply as it came out of the sandbox.
#[derive(Debug, Clone, Default)]
pub struct RawReply {
    /// Status.
    pub status: u16,
    /// Media type of the body; empty without a body.
    pub content_type: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// A reply that keeps the function's contract. Made by [`ReplyRules::check`] alone.
#[derive(Debug)]
pub struct CheckedReply {
    status: u16,
    content_type: Option<HeaderValue>,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl CheckedReply {
    /// 200 to 599.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The body's media type; none without a body.
    pub fn content_type(&self) -> Option<&HeaderValue> {
        self.content_type.as_ref()
    }

    /// Headers of the allow-list.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// The body: with a response schema, the validated value written anew.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Its parts.
    pub fn into_parts(self) -> (u16, Option<HeaderValue>, Vec<(HeaderName, HeaderValue)>, Bytes) {
        (self.status, self.content_type, self.headers, self.body)
    }
}

/// What one function may answer.
#[derive(Debug)]
pub struct ReplyRules {
    max_bytes: u64,
    schema: Option<Arc<Schema>>,
}

impl ReplyRules {
    /// Compiles `[response]`; `max_bytes` is the function's effective response limit. There are rules if and only if
    /// there is no fault.
    pub fn compile(written: Written<'_>, max_bytes: u64) -> (Option<Self>, Vec<Diagnostic>) {
        Self::compile_among(written, max_bytes, &Schemas::default())
    }

    /// As [`Self::compile`], sharing schemas with whatever else is compiled among these.
    pub fn compile_among(
        written: Written<'_>,
        max_bytes: u64,
        schemas: &Schemas,
    ) -> (Option<Self>, Vec<Diagnostic>) {
        let mut author = Author { source: written.manifest_source, schemas, diagnostics: Vec::new() };
        let named = written.manifest.response.schema.as_ref();
        let schema = author.schema(named, written.response_schema, JsonLimits::MAX.depth);
        let faulty = author.diagnostics.iter().any(Diagnostic::is_fault);
        ((!faulty).then_some(Self { max_bytes, schema }), author.diagnostics)
    }

    /// Whether the reply's body has a schema.
    pub fn has_schema(&self) -> bool {
        self.schema.is_some()
    }

    /// Schema of the reply's body for a document in which it stands at `base`, such as `#/components/schemas/total`.
    pub fn response_schema_at(&self, base: &str) -> Option<Value> {
        self.schema.as_ref().map(|schema| schema.value_at(base))
    }

    /// Checks one reply.
    pub fn check(&self, reply: RawReply) -> Result<CheckedReply, ReplyError> {
        let RawReply { status, content_type, headers, body } = reply;
        if !(200..=599).contains(&status) {
            return Err(ReplyError::Status { status });
        }
        if body.len() as u64 > self.max_bytes {
            return Err(ReplyError::TooLarge { limit: self.max_bytes });
        }
        let headers = checked_headers(headers)?;
        if body.is_empty() != content_type.is_empty() {
            return Err(ReplyError::ContentType);
        }
        if body.is_empty() {
            // A schema speaks of a body: what cannot have one, or leads elsewhere, has nothing to validate.
            let may_be_empty = self.schema.is_none() || matches!(status, 204 | 205 | 300..=399);
            return match may_be_empty {
                true => Ok(CheckedReply { status, content_type: None, headers, body }),
                false => Err(ReplyError::Body),
            };
        }
        // RFC 9110 §15.3.5, §15.3.6, §15.4.5.
        if matches!(status, 204 | 205 | 304) {
            return Err(ReplyError::Body);
        }
        if !media::is_well_formed(&content_type) {
            return Err(ReplyError::ContentType);
        }
        let body = match &self.schema {
            Some(schema) if media::is_json(&content_type) => validated(schema, &body)?,
            Some(_) => return Err(ReplyError::ContentType),
            None => body,
        };
        let content_type = HeaderValue::try_from(content_type).map_err(|_| ReplyError::ContentType)?;
        Ok(CheckedReply { status, content_type: Some(content_type), headers, body })
    }
}

fn validated(schema: &Schema, body: &Bytes) -> Result<Bytes, ReplyError> {
    let limits = JsonLimits::MAX;
    let parsed = json::parse_bytes(body, &limits)?;
    let value = settle(parsed, schema, &limits).map_err(|error| match error {
        EventError::Malformed(fault) => ReplyError::Malformed(fault),
        EventError::Invalid { errors } => ReplyError::Invalid { errors },
        other => ReplyError::Write { source: Box::new(other) },
    })?;
    let bytes = write(&value, body.len()).map_err(|e| ReplyError::Write { source: Box::new(e) })?;
    Ok(bytes.into())
}

fn checked_headers(written: Vec<(String, String)>) -> Result<Vec<(HeaderName, HeaderValue)>, ReplyError> {
    if written.len() > MAX_HEADERS {
        return Err(ReplyError::HeaderSize);
    }
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(written.len());
    let mut bytes = 0;
    for (name, value) in written {
        bytes += name.len() + value.len();
        if bytes > MAX_HEADER_BYTES {
            return Err(ReplyError::HeaderSize);
        }
        let parsed = HeaderName::try_from(name.as_str()).ok().filter(is_settable);
        let Some(parsed) = parsed.filter(|n| is_repeatable(n) || headers.iter().all(|(other, _)| other != n))
        else {
            return Err(ReplyError::Header { name: told(name) });
        };
        if !is_value(&value) || (parsed == header::LOCATION && !is_location(&value)) {
            return Err(ReplyError::HeaderValue { name: told(name) });
        }
        let value = match parsed == header::CACHE_CONTROL {
            true => {
                kept_private(&value).ok_or_else(|| ReplyError::HeaderValue { name: told(name.clone()) })?
            }
            false => value,
        };
        let value = HeaderValue::try_from(value).map_err(|_| ReplyError::HeaderValue { name: told(name) })?;
        headers.push((parsed, value));
    }
    Ok(headers)
}

/// A name from a guest, for the record: printable and short.
fn told(name: String) -> String {
    name.chars().filter(char::is_ascii_graphic).take(64).collect()
}

fn is_settable(name: &HeaderName) -> bool {
    let name = name.as_str();
    let own = name.starts_with("x-")
        && !RESERVED_X.contains(&name)
        && !RESERVED_X_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    SETTABLE.contains(&name) || own
}

fn is_repeatable(name: &HeaderName) -> bool {
    REPEATABLE.contains(&name.as_str())
}

/// Visible ASCII, inner spaces and tabs (RFC 9110 §5.5 without its obsolete part): no CR, no LF, nothing to trim.
fn is_value(value: &str) -> bool {
    value.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~'))
        && value.trim_matches([' ', '\t']).len() == value.len()
}

/// A path of this gateway or an https URL: never a scheme that runs script, nor `//host`.
fn is_location(value: &str) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '\\' | '"' | '<' | '>');
    let path = value.starts_with('/') && !value.starts_with("//");
    let https = url::Url::parse(value)
        .is_ok_and(|u| u.scheme() == "https" && u.username().is_empty() && u.password().is_none());
    value.chars().all(plain) && (path || https)
}

/// Content fields and their like: nothing that speaks for the gateway (cookies, CORS, transport security, framing).
const SETTABLE: &[&str] = &[
    "cache-control",
    "content-disposition",
    "content-language",
    "etag",
    "expires",
    "last-modified",
    "link",
    "location",
    "retry-after",
    "vary",
];

const REPEATABLE: &[&str] = &["link", "vary"];

/// Headers that browsers, proxies and this gateway take as orders.
const RESERVED_X: &[&str] = &[
    "x-content-type-options",
    "x-dns-prefetch-control",
    "x-frame-options",
    "x-lighttpd-send-file",
    "x-permitted-cross-domain-policies",
    "x-powered-by",
    "x-real-ip",
    "x-sendfile",
    "x-tenant",
    "x-ua-compatible",
    "x-xss-protection",
];
const RESERVED_X_PREFIXES: &[&str] = &["x-accel-", "x-forwarded-", "x-sandgate-", "x-webkit-"];

const MAX_HEADERS: usize = 32;
const MAX_HEADER_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::FunctionId,
        site::{diagnostic::Source, manifest::RawManifest},
    };

    fn rules(schema: Option<&str>) -> ReplyRules {
        let named = schema.map_or("", |_| "[response]\nschema = \"reply.json\"\n");
        let toml = format!("component = \"a.wasm\"\nmethods = [\"POST\"]\n{named}");
        let manifest: RawManifest = toml::from_str(&toml).unwrap();
        let function = FunctionId { tenant: "acme".parse().unwrap(), function: "f".parse().unwrap() };
        let schema = schema.map(|text| Source::new("reply.json", text));
        let written = Written {
            function: &function,
            manifest: &manifest,
            manifest_source: &Source::new("function.toml", toml),
            event_schema: None,
            query_schema: None,
            response_schema: schema.as_ref(),
        };
        let (rules, diagnostics) = ReplyRules::compile(written, 100);
        rules.unwrap_or_else(|| panic!("{diagnostics:?}"))
    }

    fn reply(status: u16, content_type: &str, body: &str, headers: &[(&str, &str)]) -> RawReply {
        RawReply {
            status,
            content_type: content_type.to_owned(),
            headers: headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            body: Bytes::from(body.to_owned()),
        }
    }

    #[test]
    fn d14_only_headers_of_content_can_be_set() {
        let rules = rules(None);
        for (name, value) in [
            ("ETag", "\"x\""),
            ("location", "/acme/f/1"),
            ("location", "https://example.com/a?b"),
            ("x-total", "5"),
            ("cache-control", "max-age=60"),
        ] {
            assert!(rules.check(reply(200, "text/plain", "x", &[(name, value)])).is_ok(), "{name}: {value}");
        }
        for (name, value) in [
            ("set-cookie", "a=b"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("content-type", "text/html"),
            ("connection", "close"),
            ("sandgate-request-id", "x"),
            ("access-control-allow-origin", "*"),
            ("strict-transport-security", "max-age=0"),
            ("x-accel-redirect", "/etc/passwd"),
            ("x-content-type-options", ""),
            ("", "x"),
            ("a b", "x"),
            ("x-a\r\nset-cookie", "x"),
            ("x-a", "b\r\nset-cookie: c=d"),
            ("x-a", "b\nc"),
            ("x-a", "\0"),
            ("x-a", "é"),
            ("x-a", " padded "),
            ("location", "//evil.example"),
            ("location", "http://example.com"),
            ("location", "javascript:alert(1)"),
            ("location", "https://user@example.com"),
            ("location", "/\\evil.example"),
            ("location", "relative"),
        ] {
            assert!(
                rules.check(reply(200, "text/plain", "x", &[(name, value)])).is_err(),
                "{name:?}: {value:?}"
            );
        }
        assert!(rules.check(reply(200, "text/plain", "x", &[("etag", "1"), ("etag", "2")])).is_err());
        assert!(rules.check(reply(200, "text/plain", "x", &[("link", "</a>"), ("link", "</b>")])).is_ok());
        let many = vec![("x-a", "1"); 40];
        assert!(matches!(rules.check(reply(200, "text/plain", "x", &many)), Err(ReplyError::HeaderSize)));
    }

    #[test]
    fn d14_status_size_and_media_type_are_checked() {
        let rules = rules(None);
        for status in [0, 100, 101, 199, 600, 65_535] {
            assert!(
                matches!(rules.check(reply(status, "", "", &[])), Err(ReplyError::Status { .. })),
                "{status}"
            );
        }
        assert!(rules.check(reply(204, "", "", &[])).is_ok());
        assert!(rules.check(reply(204, "text/plain", "x", &[])).is_err());
        assert!(rules.check(reply(200, "text/plain", "", &[])).is_err());
        assert!(rules.check(reply(200, "", "x", &[])).is_err());
        assert!(rules.check(reply(200, "text/plain\r\nx: y", "x", &[])).is_err());
        assert!(rules.check(reply(200, "text/plain", &"x".repeat(100), &[])).is_ok());
        assert!(matches!(
            rules.check(reply(200, "text/plain", &"x".repeat(101), &[])),
            Err(ReplyError::TooLarge { limit: 100 })
        ));
    }

    #[test]
    fn d14_a_response_schema_holds_for_every_body() {
        let rules = rules(Some(
            r#"{"type": "object", "additionalProperties": false, "properties": {"n": {"type": "integer"}}}"#,
        ));
        let checked = rules.check(reply(200, "application/json", " {\"n\": 1 } ", &[])).unwrap();
        assert_eq!(checked.body(), "{\"n\":1}");
        assert!(matches!(
            rules.check(reply(200, "application/json", "{\"n\":\"x\"}", &[])),
            Err(ReplyError::Invalid { .. })
        ));
        assert!(matches!(
            rules.check(reply(500, "application/json", "{\"n\":1,\"n\":2}", &[])),
            Err(ReplyError::Malformed(_))
        ));
        assert!(matches!(rules.check(reply(200, "text/html", "<p>", &[])), Err(ReplyError::ContentType)));
        assert!(matches!(rules.check(reply(200, "", "", &[])), Err(ReplyError::Body)));
        assert!(rules.check(reply(304, "", "", &[])).is_ok());
    }
}
