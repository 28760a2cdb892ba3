//! What outside bytes reach first, as plain functions: fuzzers and property tests feed them anything.

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

use super::{Revocations, bearer::BearerToken, keys::KeySet};
use crate::site::diagnostic::Source;

/// The bytes of an `Authorization` header, up to the point where a key would be needed.
pub fn bearer(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, value);
    let Ok(open) = BearerToken::from_headers(&headers).and_then(BearerToken::open) else { return };
    let _ = open.unverified_issuer();
}

/// The bytes of a JWKS.
pub fn jwks(data: &[u8]) {
    let Ok(set) = KeySet::parse(data) else { return };
    for key in set.keys() {
        let _ = key.algorithm(&[]);
    }
}

/// The text of a `revoked.json`.
pub fn revocations(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Revocations::parse(&Source::new("revoked.json", text)).map_err(|fault| fault.render(false));
}
