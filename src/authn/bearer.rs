//! The token as it arrives: found in one place, bounded, in the one form that two readers cannot read differently.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header::AUTHORIZATION};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use super::{AuthnError, MAX_KEY_ID_BYTES, MAX_TOKEN_BYTES, json::StrictObject};

/// A token as offered, of bounded length. Nothing about it is believed.
#[derive(Clone, Copy)]
pub(super) struct BearerToken<'a>(&'a str);

impl fmt::Debug for BearerToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(…)")
    }
}

impl<'a> BearerToken<'a> {
    /// The token of the only `Authorization` header (RFC 6750 §2.1). Forms and queries are never looked at.
    pub(super) fn from_headers(headers: &'a HeaderMap) -> Result<Self, AuthnError> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = values.next().ok_or(AuthnError::MissingToken)?;
        if values.next().is_some() {
            return Err(AuthnError::SeveralHeaders);
        }
        let bytes = value.as_bytes();
        if bytes.len() > MAX_TOKEN_BYTES + SCHEME.len() + MAX_SPACES {
            return Err(AuthnError::TooLong);
        }
        // `HeaderValue::to_str` takes visible ASCII and tabs only, which is more than a token may hold.
        let text = value.to_str().map_err(|_| AuthnError::NotBearer)?;
        let (scheme, token) = text.split_once(' ').ok_or(AuthnError::NotBearer)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(AuthnError::NotBearer);
        }
        // RFC 9110 §11.4: 1*SP between scheme and credentials.
        Self::from_text(token.trim_start_matches(' '))
    }

    /// A token that comes without a header.
    pub(super) fn from_text(token: &'a str) -> Result<Self, AuthnError> {
        match token.len() {
            0 => Err(AuthnError::NotBearer),
            1..=MAX_TOKEN_BYTES => Ok(Self(token)),
            _ => Err(AuthnError::TooLong),
        }
    }

    /// The text, for hashing and for the signature.
    pub(super) fn danger_text(self) -> &'a str {
        self.0
    }

    /// The three segments, decoded.
    pub(super) fn open(self) -> Result<OpenToken, AuthnError> {
        let mut segments = self.0.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (segments.next(), segments.next(), segments.next(), segments.next())
        else {
            return Err(AuthnError::NotThreeSegments);
        };
        if header.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err(AuthnError::NotThreeSegments);
        }
        let header = decode(header, "header")?;
        let payload = decode(payload, "payload")?;
        decode(signature, "signature")?;
        Ok(OpenToken { header: TokenHeader::parse(&header)?, payload })
    }
}

/// A token whose form is sound. Its payload is still nobody's word.
pub(super) struct OpenToken {
    /// What its header says.
    pub(super) header: TokenHeader,
    payload: Vec<u8>,
}

impl OpenToken {
    /// `iss`, the one thing that may be read before the signature: it chooses the record to verify against.
    pub(super) fn unverified_issuer(&self) -> Option<UnverifiedIssuer> {
        serde_json::from_slice(&self.payload).ok()
    }

    /// The payload, for use once the signature has been verified.
    pub(super) fn danger_payload(&self) -> &[u8] {
        &self.payload
    }
}

/// What a token's header says, as far as we read it.
///
/// `jku`, `x5u`, `jwk`, `x5c` and `x5t` may be there (identity providers send `x5t`) and are never read: keys come from
/// the issuer's record only (RFC 8725 §3.10).
#[derive(Debug)]
pub(super) struct TokenHeader {
    pub(super) algorithm: String,
    pub(super) key_id: Option<String>,
    pub(super) token_type: Option<String>,
}

impl TokenHeader {
    fn parse(bytes: &[u8]) -> Result<Self, AuthnError> {
        let StrictObject(mut header) =
            StrictObject::parse(bytes).map_err(|reason| AuthnError::MalformedHeader { reason })?;
        if header.contains_key("crit") {
            return Err(AuthnError::Critical);
        }
        if header.contains_key("enc") || header.contains_key("zip") {
            return Err(AuthnError::Encrypted);
        }
        let mut text = |name: &str, reason| match header.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(AuthnError::MalformedHeader { reason }),
        };
        let algorithm = text("alg", "`alg` is not a string")?
            .ok_or(AuthnError::MalformedHeader { reason: "there is no `alg`" })?;
        let key_id = text("kid", "`kid` is not a string")?;
        let token_type = text("typ", "`typ` is not a string")?;
        if key_id.as_ref().is_some_and(|id| id.len() > MAX_KEY_ID_BYTES) {
            return Err(AuthnError::KeyIdTooLong);
        }
        Ok(Self { algorithm, key_id, token_type })
    }
}

/// The issuer that a token claims to be from. It chooses which record the token is verified against, and holds nothing else.
#[derive(Debug)]
pub(super) struct UnverifiedIssuer(String);

impl UnverifiedIssuer {
    /// Whether it names this issuer, byte for byte.
    pub(super) fn is(&self, issuer: &str) -> bool {
        self.0 == issuer
    }
}

impl<'de> Deserialize<'de> for UnverifiedIssuer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(IssuerVisitor)
    }
}

struct IssuerVisitor;

impl<'de> Visitor<'de> for IssuerVisitor {
    type Value = UnverifiedIssuer;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("claims with one `iss`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UnverifiedIssuer, A::Error> {
        let mut issuer = None;
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if name == "iss" {
                if issuer.replace(map.next_value::<String>()?).is_some() {
                    return Err(A::Error::duplicate_field("iss"));
                }
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        issuer.map(UnverifiedIssuer).ok_or_else(|| A::Error::missing_field("iss"))
    }
}

/// Base64url without padding. The engine refuses trailing bits that are not zero, so each byte string has one text.
fn decode(segment: &str, name: &'static str) -> Result<Vec<u8>, AuthnError> {
    URL_SAFE_NO_PAD.decode(segment).map_err(|_| AuthnError::NotBase64 { segment: name })
}

const SCHEME: &str = "Bearer";
/// Spaces between scheme and token that we tolerate before a header counts as too long.
const MAX_SPACES: usize = 8;
