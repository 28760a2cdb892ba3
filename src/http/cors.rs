//! Calls from scripts of other origins (Fetch, "HTTP extensions"): off, but for the origins that a tenant lists.
//!
//! Credentials here are bearer tokens that a script adds itself, never cookies, so `Access-Control-Allow-Credentials` is
//! never sent. A preflight carries no token (browsers add none), so it is answered before authentication, and tells nothing
//! but whether the origin is listed: not whether the function exists, and for a tenant that does not exist the same as
//! for one that lists nobody (hardening C11, C13).

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;

/// Which of a tenant's listed origins a request names.
pub(super) fn listed(headers: &HeaderMap, origins: &[HeaderValue]) -> Option<HeaderValue> {
    let mut values = headers.get_all(header::ORIGIN).iter();
    let (Some(origin), None) = (values.next(), values.next()) else { return None };
    origins.contains(origin).then(|| origin.clone())
}

/// Whether a request asks what a script may send, and is no call itself.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight from a listed origin. The method and the headers that it asks for are allowed as far as
/// any function could take them: what a function takes is told to those who may call it.
pub(super) fn preflight(headers: &HeaderMap, origin: HeaderValue) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let reply = response.headers_mut();
    reply.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    if let Some(asked) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).filter(|asked| are_names(asked))
    {
        reply.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    reply.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    allow(reply, origin);
    response
}

/// Lets the origin's script read a reply, errors too, and the headers that it needs to make sense of them.
pub(super) fn allow(reply: &mut HeaderMap, origin: HeaderValue) {
    reply.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    reply.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    reply.append(header::VARY, HeaderValue::from_static("origin"));
}

/// A list of header names, within a bound: it is sent back.
fn are_names(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    text.len() <= MAX_ASKED_BYTES
        && text
            .split(',')
            .all(|name| HeaderName::from_bytes(name.trim_matches([' ', '\t']).as_bytes()).is_ok())
}

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
const EXPOSED: HeaderValue =
    HeaderValue::from_static("sandgate-request-id, www-authenticate, dpop-nonce, retry-after, allow");
/// Seconds that a browser may keep the answer: a list that changed is in force after ten minutes.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
/// Longest list of names that is answered.
const MAX_ASKED_BYTES: usize = 1024;
