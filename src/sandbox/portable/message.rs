//! A request built from a validated event, and the reply taken apart for the same rules that hold in the narrow world.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use http_body_util::Full;
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::super::{
    Breach, SandboxError,
    limits::Limits,
    world::{self, EventInput, Refused, Reply},
};

/// A request that is whole.
pub(in super::super) type Request = http::Request<Full<Bytes>>;

/// The request that a component gets: nothing of what was sent is in it but what was validated, written anew.
///
/// The function's name is where it is mounted, so the path is what follows it.
pub(in super::super) fn request(event: &EventInput<'_>, authority: &str) -> Result<Request, SandboxError> {
    let unfit = |what: &str| SandboxError::internal(format!("a validated {what} does not fit a request"));
    let mut target = format!("https://{authority}/");
    target.extend(utf8_percent_encode(event.rest, PATH));
    query(event.query, &mut target).ok_or_else(|| unfit("query"))?;
    let mut headers = HeaderMap::new();
    for &(name, value) in event.headers {
        let name = HeaderName::try_from(name).map_err(|_| unfit("header"))?;
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| unfit("header"))?);
    }
    let mut ours = |name: HeaderName, value: String| {
        headers.insert(name, HeaderValue::try_from(value).map_err(|_| unfit("header"))?);
        Ok::<_, SandboxError>(())
    };
    if !event.body.is_empty() {
        ours(header::CONTENT_TYPE, event.content_type.to_owned())?;
        ours(header::CONTENT_LENGTH, event.body.len().to_string())?;
    }
    ours(REQUEST_ID, event.request_id.to_owned())?;
    ours(CALLER, listed(&[event.caller.id], ID, ","))?;
    ours(ROLES, listed(event.caller.roles, ID, ","))?;
    ours(SCOPES, listed(event.caller.scopes, SCOPE, " "))?;
    let mut request = http::Request::new(Full::new(Bytes::copy_from_slice(event.body)));
    *request.method_mut() = Method::from_bytes(event.method.as_bytes()).map_err(|_| unfit("method"))?;
    *request.uri_mut() = target.parse().map_err(|_| unfit("path"))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// The validated query, encoded anew.
fn query(object: &str, target: &mut String) -> Option<()> {
    let members: Map<String, Value> = serde_json::from_str(object).ok()?;
    let mut mark = '?';
    let mut pair = |name: &str, value: &Value| {
        target.push(std::mem::replace(&mut mark, '&'));
        target.extend(utf8_percent_encode(name, PLAIN));
        target.push('=');
        match value {
            Value::String(text) => target.extend(utf8_percent_encode(text, PLAIN)),
            other => target.extend(utf8_percent_encode(&other.to_string(), PLAIN)),
        }
    };
    for (name, value) in &members {
        match value {
            Value::Array(items) => items.iter().for_each(|item| pair(name, item)),
            value => pair(name, value),
        }
    }
    Some(())
}

/// Names as the value of a header: visible ASCII as it is but for what separates names, everything else percent-encoded.
fn listed(names: &[&str], set: &'static AsciiSet, separator: &str) -> String {
    names.iter().map(|name| utf8_percent_encode(name, set).to_string()).collect::<Vec<_>>().join(separator)
}

/// The reply of the narrow world that this one amounts to.
pub(super) fn reply(
    status: u16,
    headers: &HeaderMap,
    body: Vec<u8>,
    limits: &Limits,
) -> Result<Reply, Refused> {
    let mut content_type = None;
    let mut kept = Vec::new();
    for (index, (name, value)) in headers.iter().enumerate() {
        let value = value.to_str().map_err(|_| Refused::Breach(Breach::Header { index }))?;
        match *name {
            header::CONTENT_TYPE if content_type.is_some() => {
                return Err(Refused::Breach(Breach::ContentType));
            }
            header::CONTENT_TYPE => content_type = Some(value.to_owned()),
            // The gateway frames replies itself, but two lengths would mean that one of us is wrong.
            header::CONTENT_LENGTH if value.parse() == Ok(body.len()) => {}
            header::CONTENT_LENGTH => return Err(Refused::Breach(Breach::Length)),
            _ => kept.push((name.as_str().to_owned(), value.to_owned())),
        }
    }
    // The contract knows no type without a body; HTTP does, and frameworks send one.
    let content_type = match (content_type, body.is_empty()) {
        (_, true) => String::new(),
        (Some(told), false) => told,
        // What no type means to its reader (RFC 9110 §8.3), said aloud so that nobody guesses another.
        (None, false) => "application/octet-stream".to_owned(),
    };
    world::accept_parts(status, content_type, kept, body, limits)
}

const REQUEST_ID: HeaderName = HeaderName::from_static("sandgate-request-id");
const CALLER: HeaderName = HeaderName::from_static("sandgate-caller");
const ROLES: HeaderName = HeaderName::from_static("sandgate-roles");
const SCOPES: HeaderName = HeaderName::from_static("sandgate-scopes");

/// All but the unreserved characters (RFC 3986 §2.3).
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The same, with segments.
const PATH: &AsciiSet = &PLAIN.remove(b'/');

/// Ids of callers and roles bear their own `%` as `%25` already.
const ID: &AsciiSet = &CONTROLS.add(b' ').add(b',');

/// Scopes do not.
const SCOPE: &AsciiSet = &ID.add(b'%');

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::world::CallerInput;

    fn event<'a>(rest: &'a str, query: &'a str, headers: &'a [(&'a str, &'a str)]) -> EventInput<'a> {
        EventInput {
            request_id: "0190b6d5-7c1a-7c00-9000-0123456789ab",
            caller: CallerInput {
                id: "acme/Jörg, %25", roles: &["acme/a", "acme/b"], scopes: &["x", "50%"]
            },
            method: "POST",
            rest,
            query,
            headers,
            content_type: "application/json",
            body: b"{}",
            raw: None,
            signals: &[],
        }
    }

    #[test]
    fn f31_a_request_is_built_of_what_was_validated() {
        let query = r#"{"a b":"x&y=z","list":[1,"two"],"n":1.5,"t":true}"#;
        let built = request(
            &event("a b/é?#%2F", query, &[("accept", "*/*"), ("x-a", "1"), ("x-a", "é")]),
            "localhost",
        )
        .unwrap();
        assert_eq!(
            built.uri(),
            "https://localhost/a%20b/%C3%A9%3F%23%252F?a%20b=x%26y%3Dz&list=1&list=two&n=1.5&t=true"
        );
        let mut told: Vec<_> = built
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        told.sort();
        assert_eq!(
            told,
            [
                "accept: */*",
                "content-length: 2",
                "content-type: application/json",
                "sandgate-caller: acme/J%C3%B6rg%2C%20%25",
                "sandgate-request-id: 0190b6d5-7c1a-7c00-9000-0123456789ab",
                "sandgate-roles: acme/a,acme/b",
                "sandgate-scopes: x 50%25",
                "x-a: 1",
                "x-a: é"
            ]
        );
        assert_eq!(request(&event("", "{}", &[]), "localhost").unwrap().uri(), "https://localhost/");
    }

    #[test]
    fn f31_a_reply_is_taken_by_the_rules_of_the_narrow_world() {
        let limits = Limits::default();
        let taken = |headers: &[(&'static str, &str)], body: &str| {
            let map = headers
                .iter()
                .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_bytes(v.as_bytes()).unwrap()))
                .collect::<HeaderMap>();
            reply(200, &map, body.into(), &limits).map(|reply| (reply.content_type, reply.headers))
        };
        let of = |content_type: &str| Ok((content_type.to_owned(), Vec::new()));
        assert_eq!(taken(&[("content-type", "text/plain"), ("content-length", "1")], "x"), of("text/plain"));
        assert_eq!(taken(&[("content-type", "text/plain")], ""), of(""));
        assert_eq!(taken(&[], "x"), of("application/octet-stream"));
        for (headers, breach) in [
            ([("content-type", "text/plain"), ("content-length", "2")], Breach::Length),
            ([("content-type", "text/plain"), ("x-a", "é")], Breach::Header { index: 1 }),
            (
                [("content-type", "text/plain"), ("transfer-encoding", "x")],
                Breach::ReservedHeader { index: 0 },
            ),
            ([("content-type", "text/plain"), ("sandgate-caller", "x")], Breach::ReservedHeader { index: 0 }),
            ([("x-a", "1"), ("content-type", "nonsense")], Breach::ContentType),
        ] {
            assert_eq!(taken(&headers, "x"), Err(Refused::Breach(breach)));
        }
    }
}
