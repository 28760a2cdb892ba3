//! Request headers that a function may see: an allow-list, never what was sent (design.md §4).

use http::{HeaderMap, HeaderName};

use super::error::{Malformed, Part, Reason};

/// Names that a manifest lists, and those that every function may see.
#[derive(Debug, Clone)]
pub(crate) struct HeaderList(Vec<HeaderName>);

/// Why a header cannot be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderFault {
    #[error("`{{name}}` is not the name of a header, in lower case")]
    Name,
    #[error("`{{name}}` carries a credential, and functions never see one")]
    Credential,
    #[error("`{{name}}` is between the caller and this gateway")]
    Connection,
    #[error("`{{name}}` would speak of who calls, and only this gateway does")]
    Identity,
    #[error(
        "`{{name}}` is an attribute of a CloudEvent: with `envelope = \"cloudevents\"` the function gets it, validated"
    )]
    Envelope,
}

impl HeaderList {
    /// The names that every function sees.
    pub(crate) fn new() -> Self {
        Self(vec![http::header::ACCEPT, http::header::ACCEPT_LANGUAGE])
    }

    /// Adds a name that a manifest lists.
    pub(crate) fn add(&mut self, name: &str) -> Result<(), HeaderFault> {
        let header = HeaderName::from_lowercase(name.as_bytes()).map_err(|_| HeaderFault::Name)?;
        if CREDENTIALS.contains(&name) {
            return Err(HeaderFault::Credential);
        }
        if CONNECTION.contains(&name) {
            return Err(HeaderFault::Connection);
        }
        if IDENTITY.contains(&name) || IDENTITY_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(HeaderFault::Identity);
        }
        if name.starts_with(super::cloudevents::PREFIX) {
            return Err(HeaderFault::Envelope);
        }
        // The media type has a field of its own.
        if header != http::header::CONTENT_TYPE && !self.0.contains(&header) {
            self.0.push(header);
        }
        Ok(())
    }

    /// What the function gets of a request's headers, in the list's order.
    pub(crate) fn pick(&self, headers: &HeaderMap) -> Result<Vec<(HeaderName, String)>, Malformed> {
        let mut picked = Vec::new();
        let mut bytes = 0;
        for name in &self.0 {
            for value in headers.get_all(name) {
                let fault = |reason| Malformed::new(Part::Header, reason).pointer(name.as_str());
                let value = std::str::from_utf8(value.as_bytes()).map_err(|_| fault(Reason::Utf8))?;
                if value.chars().any(|c| c != '\t' && (c.is_control() || super::text::is_refused(c))) {
                    return Err(fault(Reason::Control));
                }
                bytes += name.as_str().len() + value.len();
                if picked.len() == MAX_HEADERS || bytes > MAX_HEADER_BYTES {
                    return Err(fault(Reason::HeaderSize));
                }
                picked.push((name.clone(), value.to_owned()));
            }
        }
        Ok(picked)
    }
}

/// As many as a request may have at all (C2).
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 16 * 1024;

const CREDENTIALS: &[&str] = &["authorization", "proxy-authorization", "dpop", "cookie", "set-cookie"];

/// Framing, routing and hop-by-hop fields (RFC 9110 §7.6.1).
const CONNECTION: &[&str] = &[
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What a proxy would say of the caller (C7).
const IDENTITY: &[&str] = &["forwarded", "x-real-ip", "x-tenant", "via"];
const IDENTITY_PREFIXES: &[&str] = &["sandgate-", "x-forwarded-"];

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn c07_credentials_hop_by_hop_and_identity_headers_cannot_be_listed() {
        let mut list = HeaderList::new();
        for name in ["authorization", "cookie", "dpop", "proxy-authorization"] {
            assert_eq!(list.add(name), Err(HeaderFault::Credential), "{name}");
        }
        for name in ["connection", "te", "host", "content-length", "transfer-encoding"] {
            assert_eq!(list.add(name), Err(HeaderFault::Connection), "{name}");
        }
        for name in ["sandgate-caller", "x-forwarded-for", "forwarded", "x-tenant"] {
            assert_eq!(list.add(name), Err(HeaderFault::Identity), "{name}");
        }
        for name in ["ce-id", "ce-x", "ce-"] {
            assert_eq!(list.add(name), Err(HeaderFault::Envelope), "{name}");
        }
        for name in ["", "X-Upper", "a b", "a:b"] {
            assert_eq!(list.add(name), Err(HeaderFault::Name), "{name}");
        }
        assert_eq!(list.add("x-correlation-id"), Ok(()));
    }

    #[test]
    fn a_function_sees_listed_headers_only() {
        let mut list = HeaderList::new();
        list.add("x-a").unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in [("accept", "*/*"), ("x-a", "1"), ("x-b", "2"), ("authorization", "Bearer x")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers.append("x-a", HeaderValue::from_bytes("é".as_bytes()).unwrap());
        let picked = list.pick(&headers).unwrap();
        let picked: Vec<(&str, &str)> = picked.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(picked, [("accept", "*/*"), ("x-a", "1"), ("x-a", "é")]);
    }

    #[test]
    fn d06_a_header_value_has_no_control_character_and_is_utf_8() {
        let mut list = HeaderList::new();
        list.add("x-a").unwrap();
        for (value, reason) in [
            (b"\xff".as_slice(), Reason::Utf8),
            ("\u{202e}".as_bytes(), Reason::Control),
            (b"\xc2\x85", Reason::Control),
        ] {
            let mut headers = HeaderMap::new();
            headers.append("x-a", HeaderValue::from_bytes(value).unwrap());
            assert_eq!(list.pick(&headers).map_err(|f| f.reason), Err(reason));
        }
        let mut headers = HeaderMap::new();
        for _ in 0..65 {
            headers.append("x-a", HeaderValue::from_static("v"));
        }
        assert_eq!(list.pick(&headers).map_err(|f| f.reason), Err(Reason::HeaderSize));
    }
}
