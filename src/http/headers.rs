//! What every reply bears, whoever made it (hardening C11).

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::id::RequestId;

/// Names the reply, its record and its log lines.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("sandgate-request-id");

/// What the caller's next DPoP proof must hold (RFC 9449 §8.2).
pub const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// Under which ids a request was served (W3C Trace Context Level 2).
pub const TRACE_RESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// Tells a peer that is believed under which ids its request was served.
pub fn tell_trace(headers: &mut HeaderMap, ids: &str) {
    if let Ok(ids) = HeaderValue::from_str(ids) {
        headers.insert(TRACE_RESPONSE, ids);
    }
}

/// Tells the caller another nonce. Whatever a function said about keeping the reply: a nonce in a cache is of no use to
/// anybody (RFC 9449 §8).
pub fn renew_nonce(headers: &mut HeaderMap, nonce: &str) {
    if let Ok(nonce) = HeaderValue::from_str(nonce) {
        headers.insert(DPOP_NONCE, nonce);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

/// Adds what every reply bears.
pub fn finish(headers: &mut HeaderMap, request_id: RequestId) {
    if let Ok(id) = HeaderValue::from_str(&request_id.to_string()) {
        headers.insert(REQUEST_ID, id);
    }
    // What a caller was authorised to see is nobody else's (RFC 9111 §3.5). Where a function lets its caller keep a reply, which
    // only private caches then may, two who share a browser do not share what was said to one of them, nor two origins (§4.1).
    if headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store")) != "no-store" {
        headers.append(header::VARY, HeaderValue::from_static("authorization, origin"));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a16_a_reply_that_tells_a_nonce_is_kept_by_nobody() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
        renew_nonce(&mut headers, "AAAB");
        finish(&mut headers, RequestId::new(0, 0));
        assert_eq!(headers.get(DPOP_NONCE), Some(&HeaderValue::from_static("AAAB")));
        assert_eq!(headers.get(header::CACHE_CONTROL), Some(&HeaderValue::from_static("no-store")));
    }
}
