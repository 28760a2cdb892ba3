//! The token as it arrives: found in one place, bounded, in the one form that two readers cannot read differently.

use std::fmt;

use http::{HeaderMap, header::AUTHORIZATION};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};

use super::{
    AuthnError, MAX_KEY_ID_BYTES, MAX_TOKEN_BYTES,
    jws::{Compact, Malformed},
};

/// How the sender says that it may use the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// By having it (RFC 6750 §2.1).
    Bearer,
    /// By a proof beside it (RFC 9449 §7.1).
    Dpop,
}

/// A token as offered, of bounded length. Nothing about it is believed.
#[derive(Clone, Copy)]
pub(super) struct BearerToken<'a>(&'a str);

impl fmt::Debug for BearerToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(…)")
    }
}

impl<'a> BearerToken<'a> {
    /// The token of the only `Authorization` header, and its scheme. Forms and queries are never looked at.
    pub(super) fn from_headers(headers: &'a HeaderMap) -> Result<(Scheme, Self), AuthnError> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = values.next().ok_or(AuthnError::MissingToken)?;
        if values.next().is_some() {
            return Err(AuthnError::SeveralHeaders);
        }
        let bytes = value.as_bytes();
        if bytes.len() > MAX_TOKEN_BYTES + BEARER.len() + MAX_SPACES {
            return Err(AuthnError::TooLong);
        }
        // `HeaderValue::to_str` takes visible ASCII and tabs only, which is more than a token may hold.
        let text = value.to_str().map_err(|_| AuthnError::NotBearer)?;
        let (scheme, token) = text.split_once(' ').ok_or(AuthnError::NotBearer)?;
        let scheme = match scheme {
            bearer if bearer.eq_ignore_ascii_case(BEARER) => Scheme::Bearer,
            dpop if dpop.eq_ignore_ascii_case(DPOP) => Scheme::Dpop,
            _ => return Err(AuthnError::NotBearer),
        };
        // RFC 9110 §11.4: 1*SP between scheme and credentials.
        Ok((scheme, Self::from_text(token.trim_start_matches(' '))?))
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
        let mut compact = Compact::open(self.0)?;
        Ok(OpenToken { header: TokenHeader::take(&mut compact)?, compact })
    }
}

/// A token whose form is sound. Its payload is still nobody's word.
pub(super) struct OpenToken {
    /// What its header says.
    pub(super) header: TokenHeader,
    compact: Compact,
}

impl OpenToken {
    /// `iss`, the one thing that may be read before the signature: it chooses the record to verify against.
    pub(super) fn unverified_issuer(&self) -> Option<UnverifiedIssuer> {
        serde_json::from_slice(self.compact.danger_payload()).ok()
    }

    /// The payload, for use once the signature has been verified.
    pub(super) fn danger_payload(&self) -> &[u8] {
        self.compact.danger_payload()
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
    fn take(compact: &mut Compact) -> Result<Self, AuthnError> {
        let algorithm = compact
            .take_text("alg", "`alg` is not a string")?
            .ok_or(Malformed::Header { reason: "there is no `alg`" })?;
        let key_id = compact.take_text("kid", "`kid` is not a string")?;
        let token_type = compact.take_text("typ", "`typ` is not a string")?;
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

const BEARER: &str = "Bearer";
const DPOP: &str = "DPoP";
/// Spaces between scheme and token that we tolerate before a header counts as too long.
const MAX_SPACES: usize = 8;
