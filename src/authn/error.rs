//! Why a request is not authenticated: one reason each for the operator, one answer for all of them to the caller.

use std::{sync::Arc, time::Duration};

use super::{dpop::ProofError, jws::Malformed, keys::KeySetError};

/// Why there is no `Caller`.
#[derive(Debug, thiserror::Error)]
pub enum AuthnError {
    /// No `Authorization` header.
    #[error("no bearer token")]
    MissingToken,
    /// RFC 6750 §2: a credential is sent in one place only.
    #[error("more than one `Authorization` header")]
    SeveralHeaders,
    /// Another scheme, or none.
    #[error("the `Authorization` header holds no bearer token")]
    NotBearer,
    /// Longer than [`super::MAX_TOKEN_BYTES`].
    #[error("the token is longer than {} bytes", super::MAX_TOKEN_BYTES)]
    TooLong,
    /// Not the compact form of a JWS.
    #[error("the token is not three non-empty segments")]
    NotThreeSegments,
    /// A segment is not base64url in its one canonical form: no padding, no spaces, no stray trailing bits.
    #[error("the {segment} is not canonical base64url")]
    NotBase64 {
        /// Which of the three.
        segment: &'static str,
    },
    /// The header is not strict JSON, or a parameter that we read has the wrong type.
    #[error("the token's header is malformed: {reason}")]
    MalformedHeader {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// We understand no extension, so any `crit` is one that we must refuse (RFC 7515 §4.1.11).
    #[error("the token's header has `crit`")]
    Critical,
    /// An encrypted or compressed token (`enc`, `zip`).
    #[error("the token is encrypted or compressed")]
    Encrypted,
    /// A key id of more than 256 bytes.
    #[error("the token's key id is longer than {} bytes", super::MAX_KEY_ID_BYTES)]
    KeyIdTooLong,
    /// `typ` is absent, or not one of the issuer's `token-types`.
    #[error("the token's type is not one that issuer `{issuer}` may use here")]
    TokenType {
        /// The issuer record.
        issuer: Arc<str>,
    },
    /// No issuer of this tenant has this `iss`, or there is none.
    #[error("the token's issuer is not one of tenant `{tenant}`")]
    UnknownIssuer {
        /// The tenant that was asked for.
        tenant: crate::id::TenantName,
    },
    /// The issuer's key set could not be had. Not the caller's fault: it may try again.
    #[error("keys of issuer `{issuer}` could not be loaded")]
    KeysUnavailable {
        /// The issuer record.
        issuer: Arc<str>,
        /// When it is worth asking again.
        retry_after: Duration,
        /// Why.
        #[source]
        source: Arc<KeySetError>,
    },
    /// The issuer has no key of that id, or no key that fits a token without one.
    #[error("issuer `{issuer}` has no key that fits the token")]
    UnknownKey {
        /// The issuer record.
        issuer: Arc<str>,
    },
    /// Several keys fit the token, or several allowed algorithms its key, so none does.
    #[error("more than one key or algorithm of issuer `{issuer}` fits the token")]
    AmbiguousKey {
        /// The issuer record.
        issuer: Arc<str>,
    },
    /// `alg` is not the algorithm of the key.
    #[error("the token's algorithm is not that of its key at issuer `{issuer}`")]
    Algorithm {
        /// The issuer record.
        issuer: Arc<str>,
    },
    /// The signature does not verify.
    #[error("the signature does not verify with the key of issuer `{issuer}`")]
    Signature {
        /// The issuer record.
        issuer: Arc<str>,
    },
    /// The claims are not one JSON object with unique names.
    #[error("the claims are malformed: {reason}")]
    MalformedClaims {
        /// What is wrong with them.
        reason: &'static str,
    },
    /// A claim that we rely on is absent or of the wrong type.
    #[error("claim `{claim}` is absent or of the wrong type")]
    Claim {
        /// Its name.
        claim: &'static str,
    },
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is to come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// None of ours is in `aud`.
    #[error("the token is for another audience")]
    Audience,
    /// `iat` is to come.
    #[error("the token was issued in the future")]
    IssuedInFuture,
    /// `exp` − `iat` is above the issuer's `max-lifetime`.
    #[error("the token lives longer than issuer `{issuer}` may let it")]
    LivesTooLong {
        /// The issuer record.
        issuer: Arc<str>,
    },
    /// `sub` is empty, longer than 255 bytes, or has control characters.
    #[error("the token's subject is empty, too long, or has control characters")]
    Subject,
    /// The claim that names the tenant names another, or none.
    #[error("the token does not name tenant `{tenant}`")]
    TenantClaim {
        /// The tenant that was asked for.
        tenant: crate::id::TenantName,
    },
    /// The claim behind roles, scopes or a tag has the wrong type, is too long, or has too many values.
    #[error("the token's {what} are malformed or too many")]
    Attributes {
        /// `roles`, `scopes` or `tags`.
        what: &'static str,
    },
    /// `revoked.json` names it.
    #[error("the token is revoked by its {by}")]
    Revoked {
        /// `jti`, `sub`, `kid` or `issuer`.
        by: &'static str,
    },
    /// The issuer's tokens are bound to their senders, and this one is not, or in another way.
    #[error("issuer `{issuer}` binds its tokens by `{binding}`, and the token is not so bound")]
    NotBound {
        /// The issuer record.
        issuer: Arc<str>,
        /// `dpop` or `mtls`.
        binding: &'static str,
    },
    /// The token is bound to its sender, and nobody said that this issuer's are: what is not checked is not believed.
    #[error("the token is bound to its sender, and `binding` of issuer `{issuer}` does not say how")]
    BoundUnasked {
        /// The issuer record.
        issuer: Arc<str>,
    },
    /// RFC 9449 §7.2: whoever found the token could send it so.
    #[error("a token that is bound to a key came as a bearer token")]
    BoundAsBearer,
    /// RFC 9449 §7.1: the scheme is for tokens that are bound to a key.
    #[error("a token that is bound to no key came under the scheme `DPoP`")]
    UnboundAsDpop,
    /// RFC 8705 §3: the connection is not the one of the certificate's owner.
    #[error("the token is bound to a client certificate, and the connection has {has}")]
    Certificate {
        /// `none`, `another` or `an expired one`.
        has: &'static str,
    },
    /// The proof of possession is not one.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// Our bug: the request was routed to another tenant's authenticator.
    #[error("a request for tenant `{asked}` reached the authenticator of tenant `{here}`")]
    Misrouted {
        /// The request's tenant.
        asked: crate::id::TenantName,
        /// The authenticator's tenant.
        here: crate::id::TenantName,
    },
}

impl From<Malformed> for AuthnError {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Segments => Self::NotThreeSegments,
            Malformed::Base64 { segment } => Self::NotBase64 { segment },
            Malformed::Header { reason } => Self::MalformedHeader { reason },
            Malformed::Critical => Self::Critical,
            Malformed::Encrypted => Self::Encrypted,
        }
    }
}

impl AuthnError {
    /// Whether the request offered a credential at all: decides whether the challenge says `invalid_token`
    /// (RFC 6750 §3.1).
    pub fn offered(&self) -> bool {
        !matches!(self, Self::MissingToken)
    }

    /// The check that failed.
    pub fn check(&self) -> Check {
        match self {
            Self::MissingToken | Self::SeveralHeaders | Self::NotBearer | Self::TooLong => Check::Form,
            Self::NotThreeSegments | Self::NotBase64 { .. } | Self::Misrouted { .. } => Check::Form,
            Self::MalformedHeader { .. } | Self::Critical | Self::Encrypted | Self::KeyIdTooLong => {
                Check::Header
            }
            Self::UnknownIssuer { .. } => Check::Issuer,
            Self::TokenType { .. } => Check::Type,
            Self::KeysUnavailable { .. } => Check::KeySet,
            Self::UnknownKey { .. } | Self::AmbiguousKey { .. } => Check::Key,
            Self::Algorithm { .. } => Check::Algorithm,
            Self::Signature { .. } => Check::Signature,
            Self::MalformedClaims { .. } | Self::Claim { .. } => Check::Claims,
            Self::Expired => Check::Expiry,
            Self::NotYetValid => Check::NotBefore,
            Self::Audience => Check::Audience,
            Self::IssuedInFuture => Check::IssuedAt,
            Self::LivesTooLong { .. } => Check::Lifetime,
            Self::Subject => Check::Subject,
            Self::TenantClaim { .. } => Check::Tenant,
            Self::Attributes { .. } => Check::Attributes,
            Self::Revoked { .. } => Check::Revocation,
            Self::NotBound { .. } | Self::BoundUnasked { .. } | Self::BoundAsBearer | Self::UnboundAsDpop => {
                Check::Binding
            }
            Self::Certificate { .. } => Check::Certificate,
            Self::Proof(error) => error.check(),
        }
    }
}

/// The checks that a token passes, in the order in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Three canonical segments within bounds.
    Form,
    /// Strict JSON, nothing that we would have to understand.
    Header,
    /// `iss` is one of the tenant's.
    Issuer,
    /// `typ` is one of the issuer's.
    Type,
    /// The issuer's keys are at hand.
    KeySet,
    /// One of them is the token's.
    Key,
    /// `alg` is that key's.
    Algorithm,
    /// The signature verifies.
    Signature,
    /// Strict JSON, all claims there that we rely on.
    Claims,
    /// `exp`.
    Expiry,
    /// `nbf`.
    NotBefore,
    /// `aud`.
    Audience,
    /// `iat`.
    IssuedAt,
    /// `exp` − `iat`.
    Lifetime,
    /// `sub`.
    Subject,
    /// The claim that names the tenant.
    Tenant,
    /// Roles, scopes and tags.
    Attributes,
    /// `revoked.json`.
    Revocation,
    /// `cnf` binds the token as its issuer's `binding` says, and it came under the scheme for that.
    Binding,
    /// The connection's client certificate is the token's.
    Certificate,
    /// One `DPoP` header with a proof of sound form.
    Proof,
    /// The proof's key is the token's.
    ProofKey,
    /// The proof's signature verifies with that key.
    ProofSignature,
    /// The proof's claims are strict JSON, and all there.
    ProofClaims,
    /// `htm`.
    ProofMethod,
    /// `htu`.
    ProofUrl,
    /// `ath`.
    ProofToken,
    /// The proof's `iat`.
    ProofTime,
    /// The proof's `nonce`.
    Nonce,
    /// The proof's `jti`.
    Replay,
}

impl Check {
    /// All of them, in order.
    pub const ALL: [Self; 30] = [
        Self::Form,
        Self::Header,
        Self::Issuer,
        Self::Type,
        Self::KeySet,
        Self::Key,
        Self::Algorithm,
        Self::Signature,
        Self::Claims,
        Self::Expiry,
        Self::NotBefore,
        Self::Audience,
        Self::IssuedAt,
        Self::Lifetime,
        Self::Subject,
        Self::Tenant,
        Self::Attributes,
        Self::Revocation,
        Self::Binding,
        Self::Certificate,
        Self::Proof,
        Self::ProofKey,
        Self::ProofSignature,
        Self::ProofClaims,
        Self::ProofMethod,
        Self::ProofUrl,
        Self::ProofToken,
        Self::ProofTime,
        Self::Nonce,
        Self::Replay,
    ];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Header => "header",
            Self::Issuer => "issuer",
            Self::Type => "type",
            Self::KeySet => "key set",
            Self::Key => "key",
            Self::Algorithm => "algorithm",
            Self::Signature => "signature",
            Self::Claims => "claims",
            Self::Expiry => "expiry",
            Self::NotBefore => "not before",
            Self::Audience => "audience",
            Self::IssuedAt => "issued at",
            Self::Lifetime => "lifetime",
            Self::Subject => "subject",
            Self::Tenant => "tenant",
            Self::Attributes => "attributes",
            Self::Revocation => "revocation",
            Self::Binding => "binding",
            Self::Certificate => "certificate",
            Self::Proof => "proof",
            Self::ProofKey => "proof key",
            Self::ProofSignature => "proof signature",
            Self::ProofClaims => "proof claims",
            Self::ProofMethod => "proof method",
            Self::ProofUrl => "proof url",
            Self::ProofToken => "proof token",
            Self::ProofTime => "proof time",
            Self::Nonce => "nonce",
            Self::Replay => "replay",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_listed_in_their_order() {
        assert!(Check::ALL.is_sorted());
    }
}
