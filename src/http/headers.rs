//! What every reply bears, whoever made it (hardening C11).

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::id::RequestId;

/// Names the reply, its record and its log lines.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("sandgate-request-id");

/// Adds what every reply bears.
pub fn finish(headers: &mut HeaderMap, request_id: RequestId) {
    if let Ok(id) = HeaderValue::from_str(&request_id.to_string()) {
        headers.insert(REQUEST_ID, id);
    }
    // What a caller was authorised to see is nobody else's (RFC 9111 §3.5).
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
}
