//! What outside bytes reach first, as plain functions: fuzzers and property tests feed them anything.

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

use super::{Revocations, bearer::BearerToken, dpop, keys::KeySet};
use crate::site::{diagnostic::Source, origin::Origin};

/// The bytes of an `Authorization` header, up to the point where a key would be needed.
pub fn bearer(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, value);
    let Ok((_, token)) = BearerToken::from_headers(&headers) else { return };
    let Ok(open) = token.open() else { return };
    let _ = open.unverified_issuer();
}

/// The bytes of a `DPoP` header. Its claims are held against a request though no fuzzer can sign: they are read only after
/// the signature, but by anybody who has a key and a token.
pub fn dpop(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(dpop::HEADER, value);
    let Ok(text) = dpop::from_headers(&headers) else { return };
    let Ok(proof) = dpop::Proof::open(text) else { return };
    let _ = proof.thumbprint();
    let _ = proof.verify(text);
    let Ok(claims) = dpop::ProofClaims::parse(proof.danger_payload()) else { return };
    let (origin, path) = (Origin::local(8443), "/acme/echo");
    let asked = dpop::Asked {
        method: &http::Method::POST,
        origin: &origin,
        path,
        token: &[0; 32],
        leeway: 0,
        now: std::time::UNIX_EPOCH,
    };
    let fits = claims.fit(&asked);
    // Another parser must find the same origin in what is taken for our url.
    if !matches!(fits, Err(dpop::ProofError::Method | dpop::ProofError::Url)) {
        let url = url::Url::parse(claims.url()).ok();
        let same = url
            .is_some_and(|url| url.origin().ascii_serialization() == origin.as_str() && url.path() == path);
        assert!(same, "`{:?}` is taken for `{origin}{path}`", claims.url());
    }
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
