//! Proofs of possession: a JWT in the `DPoP` header, made for one request with the key that its token is bound to.
//!
//! RFC 9449 §4.3 lists what to check; `hardening.md` A16 adds how strictly. In order: one header · form · `typ`, `alg` · `jwk`
//! public, the token's own, strong · signature · claims · `htm` · `htu` · `ath` · `iat` · `nonce` · `jti`. The key is compared
//! with the token's before the signature is verified, so a stranger's proof costs a hash; claims are read after it.
//!
//! A `jti` is remembered last, so only the owner of a valid token takes up room, and with a proof that would be served.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{constant_time::verify_slices_are_equal, error::Unspecified};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, Method};
use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::{
    Check,
    binding::KeyThumbprint,
    claims,
    issuer::media_type,
    json::StrictObject,
    jws::{Compact, Malformed},
    keys::{self, Fit, Key, Sha256},
    nonce::Nonces,
    remote::Clock,
    replay::{Replay, Unusable},
};
use crate::{id::TenantName, site::origin::Origin};

/// Why a proof is none, or not for this request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// No `DPoP` header.
    #[error("there is no proof")]
    Missing,
    /// RFC 9449 §4.3, 1.
    #[error("more than one `DPoP` header")]
    Several,
    /// Longer than [`MAX_PROOF_BYTES`].
    #[error("the proof is longer than {MAX_PROOF_BYTES} bytes")]
    TooLong,
    /// Not a compact JWS that we read.
    #[error("the proof is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// RFC 9449 §4.3, 4.
    #[error("the proof's `typ` is not `dpop+jwt`")]
    Type,
    /// RFC 9449 §4.3, 5: none that anybody could sign with who can verify.
    #[error("the proof's `alg` is no asymmetric signature that is known here")]
    Algorithm,
    /// RFC 9449 §4.3, 7.
    #[error("the proof's `jwk` holds a private key")]
    PrivateKey,
    /// No key that we would take from an issuer.
    #[error("the proof's `jwk` is no key for its `alg`: {reason}")]
    Key {
        /// What is wrong with it.
        reason: String,
    },
    /// RFC 9449 §4.3, 12: the token is bound to another.
    #[error("the proof's key is not the one that the token is bound to")]
    OtherKey,
    /// RFC 9449 §4.3, 6.
    #[error("the proof's signature does not verify with its key")]
    Signature,
    /// The claims are not one JSON object with unique names.
    #[error("the proof's claims are malformed: {reason}")]
    MalformedClaims {
        /// What is wrong with them.
        reason: &'static str,
    },
    /// A claim that must be there is not, or has the wrong type.
    #[error("claim `{claim}` of the proof is absent, or of the wrong type or length")]
    Claim {
        /// Its name.
        claim: &'static str,
    },
    /// RFC 9449 §4.3, 8.
    #[error("the proof is for another method")]
    Method,
    /// RFC 9449 §4.3, 9.
    #[error("the proof is for another url")]
    Url,
    /// RFC 9449 §4.3, 12.
    #[error("the proof is for another token")]
    Token,
    /// RFC 9449 §4.3, 11.
    #[error("the proof is {when}")]
    Time {
        /// `stale` or `from the future`.
        when: &'static str,
    },
    /// The proof is good, but for its nonce: absent, or not one of ours that is still good (RFC 9449 §4.3, 10; §9).
    #[error("the proof has no nonce that is good now")]
    Nonce {
        /// The one to use.
        fresh: String,
    },
    /// RFC 9449 §11.1.
    #[error("the proof was used before")]
    Used,
    /// Not the caller's fault: it may try again.
    #[error("there is no room to remember another proof")]
    Full,
    /// Our bug: a gateway that does not know what it is called serves an issuer of `binding = "dpop"`.
    #[error("there is no `[server] origin` to compare a proof with")]
    NoOrigin,
}

impl ProofError {
    /// The check that failed.
    pub fn check(&self) -> Check {
        match self {
            Self::Missing
            | Self::Several
            | Self::TooLong
            | Self::Malformed(_)
            | Self::Type
            | Self::Algorithm => Check::Proof,
            Self::PrivateKey | Self::Key { .. } | Self::OtherKey => Check::ProofKey,
            Self::Signature => Check::ProofSignature,
            Self::MalformedClaims { .. } | Self::Claim { .. } => Check::ProofClaims,
            Self::Method => Check::ProofMethod,
            Self::Url | Self::NoOrigin => Check::ProofUrl,
            Self::Token => Check::ProofToken,
            Self::Time { .. } => Check::ProofTime,
            Self::Nonce { .. } => Check::Nonce,
            Self::Used | Self::Full => Check::Replay,
        }
    }
}

/// What a tenant knows of proofs. Whoever forgets which were used forgets its nonces too, so nothing can be replayed to a
/// ledger that came after another.
#[derive(Debug)]
pub(super) struct Ledger {
    nonces: Nonces,
    used: Replay,
}

impl Ledger {
    pub(super) fn new(clock: Clock, most_proofs: usize) -> Result<Self, Unspecified> {
        Ok(Self { nonces: Nonces::new(clock)?, used: Replay::new(most_proofs)? })
    }
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nonces").finish_non_exhaustive()
    }
}

/// Ledgers by tenant: one outlives the tenant's revisions, since a reload must not make proofs good again.
#[derive(Debug)]
pub(super) struct Ledgers {
    clock: Clock,
    known: Mutex<HashMap<TenantName, Weak<Ledger>>>,
}

impl Ledgers {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, known: Mutex::default() }
    }

    /// The tenant's.
    pub(super) fn of(&self, tenant: &TenantName) -> Result<Arc<Ledger>, Unspecified> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ledger) = known.get(tenant).and_then(Weak::upgrade) {
            return Ok(ledger);
        }
        let ledger = Arc::new(Ledger::new(self.clock.clone(), MAX_PROOFS)?);
        if known.len() == known.capacity() {
            known.retain(|_, ledger| ledger.strong_count() > 0);
        }
        known.insert(tenant.clone(), Arc::downgrade(&ledger));
        Ok(ledger)
    }
}

/// The request that a proof should be for.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    /// As configured: what the request says of its host is the sender's word.
    pub(super) origin: &'a Origin,
    /// As received.
    pub(super) path: &'a str,
    /// SHA-256 of the token.
    pub(super) token: &'a Sha256,
    /// The issuer's.
    pub(super) leeway: u64,
    pub(super) now: SystemTime,
}

/// Holds the request's proof against the request, and uses it up. Gives the nonce to use from now on, if the proof's is no
/// longer the one that is given out.
pub(super) fn check(
    headers: &HeaderMap,
    bound_to: &KeyThumbprint,
    ledger: &Ledger,
    asked: &Asked<'_>,
) -> Result<Option<String>, ProofError> {
    let text = from_headers(headers)?;
    let proof = Proof::open(text)?;
    let thumbprint = proof.thumbprint()?;
    if !bound_to.is(&thumbprint) {
        return Err(ProofError::OtherKey);
    }
    let claims = proof.verify(text)?;
    claims.fit(asked)?;
    let fresh = || ProofError::Nonce { fresh: ledger.nonces.current() };
    let good = claims.nonce.as_deref().and_then(|nonce| ledger.nonces.judge(nonce)).ok_or_else(fresh)?;
    match ledger.used.spend(&thumbprint, &claims.jti, good.epoch, || ledger.nonces.epoch()) {
        Ok(()) => Ok((!good.current).then(|| ledger.nonces.current())),
        Err(Unusable::Used) => Err(ProofError::Used),
        Err(Unusable::Expired) => Err(fresh()),
        Err(Unusable::Full) => Err(ProofError::Full),
    }
}

/// The only `DPoP` header.
pub(super) fn from_headers(headers: &HeaderMap) -> Result<&str, ProofError> {
    let mut values = headers.get_all(HEADER).iter();
    let value = values.next().ok_or(ProofError::Missing)?;
    if values.next().is_some() {
        return Err(ProofError::Several);
    }
    if value.len() > MAX_PROOF_BYTES {
        return Err(ProofError::TooLong);
    }
    value.to_str().map_err(|_| ProofError::Malformed(Malformed::Segments))
}

/// A proof whose form is sound. Its key is public, and so far nobody's.
pub(super) struct Proof {
    algorithm: Algorithm,
    key: Map<String, Value>,
    compact: Compact,
}

impl Proof {
    pub(super) fn open(text: &str) -> Result<Self, ProofError> {
        let mut compact = Compact::open(text)?;
        let token_type = compact.take_text("typ", "`typ` is not a string")?;
        if token_type.is_none_or(|token_type| media_type(&token_type) != TYPE) {
            return Err(ProofError::Type);
        }
        let algorithm = compact.take_text("alg", "`alg` is not a string")?;
        let algorithm = algorithm.and_then(|name| keys::algorithm(&name)).ok_or(ProofError::Algorithm)?;
        let Some(Value::Object(key)) = compact.header.remove("jwk") else {
            return Err(Malformed::Header { reason: "there is no `jwk`, or it is not an object" }.into());
        };
        if keys::is_private(&key) {
            return Err(ProofError::PrivateKey);
        }
        Ok(Self { algorithm, key, compact })
    }

    /// RFC 7638, of its key.
    pub(super) fn thumbprint(&self) -> Result<Sha256, ProofError> {
        keys::thumbprint(&self.key).ok_or(ProofError::Key { reason: "its kind is not known".to_owned() })
    }

    /// What it says, for nobody's use but a fuzzer's before its signature has been verified.
    pub(super) fn danger_payload(&self) -> &[u8] {
        self.compact.danger_payload()
    }

    /// Verifies the proof with the key that it names; the text is the one that it was read from.
    pub(super) fn verify(&self, danger_text: &str) -> Result<ProofClaims, ProofError> {
        let unfit = |reason: String| ProofError::Key { reason };
        let key = Key::parse(&self.key).map_err(|problem| unfit(problem.to_string()))?;
        if key.algorithm(&[self.algorithm]) != Fit::One(self.algorithm) {
            return Err(unfit("it is of another kind".to_owned()));
        }
        let validation = VALIDATIONS.iter().find(|(algorithm, _)| *algorithm == self.algorithm);
        let (_, validation) = validation.ok_or(ProofError::Algorithm)?;
        jsonwebtoken::decode::<IgnoredAny>(danger_text, &key.verifier, validation).map_err(|error| {
            match error.kind() {
                ErrorKind::ExpiredSignature => ProofError::Time { when: STALE },
                ErrorKind::ImmatureSignature => ProofError::Time { when: EARLY },
                ErrorKind::Json(_) | ErrorKind::Utf8(_) => {
                    ProofError::MalformedClaims { reason: "not strict JSON" }
                }
                _ => ProofError::Signature,
            }
        })?;
        ProofClaims::parse(self.danger_payload())
    }
}

/// What a proof says, once it is known who says it.
#[derive(Debug)]
pub(super) struct ProofClaims {
    jti: String,
    method: String,
    url: String,
    issued_at: u64,
    token: String,
    nonce: Option<String>,
}

impl ProofClaims {
    pub(super) fn parse(payload: &[u8]) -> Result<Self, ProofError> {
        let StrictObject(mut claims) =
            StrictObject::parse(payload).map_err(|reason| ProofError::MalformedClaims { reason })?;
        let issued_at =
            claims::time(&claims, "iat").ok().flatten().ok_or(ProofError::Claim { claim: "iat" })?;
        let mut text = |claim: &'static str| match claims.remove(claim) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(ProofError::Claim { claim }),
        };
        let mut required = |claim| text(claim)?.ok_or(ProofError::Claim { claim });
        let jti = required("jti")?;
        if jti.len() > MAX_ID_BYTES {
            return Err(ProofError::Claim { claim: "jti" });
        }
        Ok(Self {
            jti,
            method: required("htm")?,
            url: required("htu")?,
            issued_at,
            token: required("ath")?,
            nonce: text("nonce")?,
        })
    }

    /// `htu`.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Whether it is for this request, and made just now.
    pub(super) fn fit(&self, asked: &Asked<'_>) -> Result<(), ProofError> {
        if self.method != asked.method.as_str() {
            return Err(ProofError::Method);
        }
        if !is_url(&self.url, asked.origin, asked.path) {
            return Err(ProofError::Url);
        }
        let hash = URL_SAFE_NO_PAD.encode(asked.token);
        if verify_slices_are_equal(self.token.as_bytes(), hash.as_bytes()).is_err() {
            return Err(ProofError::Token);
        }
        let now = asked.now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.issued_at > now.saturating_add(asked.leeway) {
            return Err(ProofError::Time { when: EARLY });
        }
        if self.issued_at.saturating_add(MAX_AGE.as_secs()).saturating_add(asked.leeway) < now {
            return Err(ProofError::Time { when: STALE });
        }
        Ok(())
    }
}

/// Whether `htu` names that path at that origin (RFC 9449 §4.3, 9). Query and fragment do not count; nor do case of scheme
/// and host, or a default port (RFC 3986 §6.2.2.1, §6.2.3). A path is compared as it is: ours is never normalised, so one
/// that is only equal after that would be another.
fn is_url(htu: &str, origin: &Origin, path: &str) -> bool {
    let Some((scheme, rest)) = htu.split_once("://") else { return false };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at_checked(end).unwrap_or_default();
    let named = rest.split(['?', '#']).next().unwrap_or_default();
    scheme.eq_ignore_ascii_case("https")
        && origin.is_named_by(authority)
        && if named.is_empty() { path == "/" } else { named == path }
}

/// Where proofs are (RFC 9449 §4.1).
pub(super) const HEADER: &str = "dpop";
const TYPE: &str = "dpop+jwt";
const STALE: &str = "stale";
const EARLY: &str = "from the future";
/// Longest proof: with an RSA key of 8192 bits and a long url there is still room.
pub const MAX_PROOF_BYTES: usize = 4 * 1024;
/// Longest `jti`.
const MAX_ID_BYTES: usize = 256;
/// From `iat` until a proof is stale, apart from the issuer's leeway.
pub(super) const MAX_AGE: Duration = Duration::from_secs(60);
/// Proofs of one tenant that are remembered at once: each for one to two minutes, so 8 700 calls a second go on for ever.
/// Some 35 MiB when full.
const MAX_PROOFS: usize = 1 << 20;
/// For each algorithm that keys of issuers may have too: what the crate looks at. A proof needs none of a token's claims; an
/// `exp` or `nbf` that it has all the same is obeyed.
static VALIDATIONS: LazyLock<Vec<(Algorithm, Validation)>> = LazyLock::new(|| {
    let validation = |name| {
        let algorithm = keys::algorithm(name)?;
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims::<&str>(&[]);
        validation.validate_aud = false;
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_SECONDS;
        Some((algorithm, validation))
    };
    keys::algorithm_names().filter_map(validation).collect()
});
const LEEWAY_SECONDS: u64 = 30;
