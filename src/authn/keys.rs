//! Key sets: a JWKS becomes keys that each have one shape, and under an issuer's rules one algorithm.
//!
//! RFC 8725 §3.1 wants one algorithm for each key, chosen by us. A key that declares `alg` keeps it, if the issuer's
//! record allows it; one that does not (Entra's) gets the one allowed algorithm that fits its shape.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::{MAX_KEY_ID_BYTES, json::StrictObject};

/// Why a document is no key set, or could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Nobody has asked yet, or the dev key has not been made.
    #[error("there is no key set yet")]
    Absent,
    /// Above `MAX_KEY_SET_BYTES`.
    #[error("the document is larger than {MAX_KEY_SET_BYTES} bytes")]
    TooLarge,
    /// Not a JSON object with an array `keys`.
    #[error("the document is no key set: {reason}")]
    NotAKeySet {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Private or symmetric key material in a place that is read by many.
    #[error("key {key} is private: whoever reads this key set can make tokens")]
    PrivateKey {
        /// Its id, or its place in the set.
        key: String,
    },
    /// No key in it could verify a token.
    #[error("no key in the set can verify a signature")]
    NoUsableKey,
    /// The document could not be fetched.
    #[error("{0}")]
    Fetch(String),
    /// RFC 8414 §3.3.
    #[error("the discovery document is for another issuer")]
    OtherIssuer,
    /// `jwks_uri` is missing or not one that we may fetch.
    #[error("the discovery document has no usable `jwks_uri`: {0}")]
    NoKeysUrl(String),
}

/// What is wrong with one key of a set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyProblem {
    #[error("an RSA key needs 2048 to 8192 bits, this one has {bits}")]
    RsaSize { bits: usize },
    #[error("the RSA exponent is even, below 3 or above 2^33")]
    RsaExponent,
    #[error("`alg` is `{declared}`, which a key of `kty` `{kind}` and this curve cannot use")]
    Mismatch { declared: String, kind: String },
    #[error("`{field}` is missing or malformed")]
    Malformed { field: &'static str },
    #[error("the point is not on its curve")]
    NotOnCurve,
    #[error("its `kid` is taken by another key of the set")]
    DuplicateId,
    #[error("`{what}` is not supported; it is ignored")]
    Unsupported { what: String },
    #[error("it is not for signatures; it is ignored")]
    NotForSignatures,
}

impl KeyProblem {
    /// Whether the key is sound, and merely of no use here.
    pub(super) fn is_harmless(&self) -> bool {
        matches!(self, Self::Unsupported { .. } | Self::NotForSignatures)
    }
}

/// What a public key is, from which follows what it can verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Shape {
    fn fits(self, algorithm: Algorithm) -> bool {
        match self {
            Self::Rsa => matches!(
                algorithm,
                Algorithm::RS256
                    | Algorithm::RS384
                    | Algorithm::RS512
                    | Algorithm::PS256
                    | Algorithm::PS384
                    | Algorithm::PS512
            ),
            Self::P256 => algorithm == Algorithm::ES256,
            Self::P384 => algorithm == Algorithm::ES384,
            Self::Ed25519 => algorithm == Algorithm::EdDSA,
        }
    }
}

/// One public key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) id: Option<String>,
    pub(super) verifier: DecodingKey,
    shape: Shape,
    declared: Option<Algorithm>,
}

/// What an issuer's allow-list makes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    One(Algorithm),
    None,
    Several,
}

impl Key {
    /// The one algorithm that this key verifies, given what its issuer may use.
    pub(super) fn algorithm(&self, allowed: &[Algorithm]) -> Fit {
        if let Some(declared) = self.declared {
            return if allowed.contains(&declared) { Fit::One(declared) } else { Fit::None };
        }
        let mut fitting = allowed.iter().filter(|algorithm| self.shape.fits(**algorithm));
        match (fitting.next(), fitting.next()) {
            (None, _) => Fit::None,
            (Some(one), None) => Fit::One(*one),
            (Some(_), Some(_)) => Fit::Several,
        }
    }

    /// Reads one JWK (RFC 7517 §4), which must be of sufficient strength.
    pub(super) fn parse(jwk: &Map<String, Value>) -> Result<Self, KeyProblem> {
        if jwk.get("use").is_some_and(|purpose| purpose != "sig") {
            return Err(KeyProblem::NotForSignatures);
        }
        if let Some(operations) = jwk.get("key_ops") {
            let operations = operations.as_array().ok_or(KeyProblem::Malformed { field: "key_ops" })?;
            if !operations.iter().any(|operation| operation == "verify") {
                return Err(KeyProblem::NotForSignatures);
            }
        }
        let id = text(jwk, "kid")?;
        if id.is_some_and(|id| id.is_empty() || id.len() > MAX_KEY_ID_BYTES) {
            return Err(KeyProblem::Malformed { field: "kid" });
        }
        let kind = text(jwk, "kty")?.ok_or(KeyProblem::Malformed { field: "kty" })?;
        let (shape, verifier) = match (kind, text(jwk, "crv")?) {
            ("RSA", _) => (Shape::Rsa, rsa(jwk)?),
            ("EC", Some("P-256")) => (Shape::P256, ec(jwk, 32, Shape::P256)?),
            ("EC", Some("P-384")) => (Shape::P384, ec(jwk, 48, Shape::P384)?),
            ("OKP", Some("Ed25519")) => (Shape::Ed25519, ed25519(jwk)?),
            ("EC" | "OKP", Some(curve)) => return Err(KeyProblem::Unsupported { what: curve.to_owned() }),
            ("EC" | "OKP", None) => return Err(KeyProblem::Malformed { field: "crv" }),
            (other, _) => return Err(KeyProblem::Unsupported { what: other.to_owned() }),
        };
        let declared = match text(jwk, "alg")? {
            None => None,
            Some(name) => {
                let algorithm = algorithm(name).ok_or(KeyProblem::Unsupported { what: name.to_owned() })?;
                if !shape.fits(algorithm) {
                    return Err(KeyProblem::Mismatch { declared: name.to_owned(), kind: kind.to_owned() });
                }
                Some(algorithm)
            }
        };
        Ok(Self { id: id.map(str::to_owned), verifier, shape, declared })
    }
}

/// The signature algorithm of that name (RFC 7518 §3.1, RFC 8037), if we verify it. HMAC is not among them: a secret
/// that verifies can also sign.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
}

/// The name of an algorithm, as headers and tenant.toml write it.
pub(super) fn algorithm_name(algorithm: Algorithm) -> &'static str {
    ALGORITHMS.iter().find(|(_, known)| *known == algorithm).map_or("", |(name, _)| name)
}

/// All names that `algorithms` in tenant.toml may list.
pub(super) fn algorithm_names() -> impl Iterator<Item = &'static str> {
    ALGORITHMS.iter().map(|(name, _)| *name)
}

/// The keys of one issuer as of one reading.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Arc<Key>>,
    digest: Vec<u8>,
    /// Another number for each set that was ever read in this process: a cached verdict names the set that gave it.
    generation: u64,
    /// Keys of the document that are not used, and why.
    pub(super) problems: Vec<(String, KeyProblem)>,
}

impl KeySet {
    /// Reads a JWKS (RFC 7517 §5). Unsuitable keys are left out and noted; a private one condemns the whole set.
    pub(super) fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        if document.len() > MAX_KEY_SET_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let not = |reason| KeySetError::NotAKeySet { reason };
        let StrictObject(members) = StrictObject::parse(document).map_err(not)?;
        let listed = members.get("keys").and_then(Value::as_array).ok_or(not("there is no array `keys`"))?;
        if listed.len() > MAX_KEYS {
            return Err(not("it has more than 64 keys"));
        }
        let mut keys: Vec<Arc<Key>> = Vec::with_capacity(listed.len());
        let mut problems = Vec::new();
        for (place, jwk) in listed.iter().enumerate() {
            let jwk = jwk.as_object().ok_or(not("a key is not an object"))?;
            let label = match jwk.get("kid") {
                Some(Value::String(id)) if id.len() <= MAX_KEY_ID_BYTES => format!("`{id}`"),
                _ => format!("number {}", place + 1),
            };
            if is_private(jwk) {
                return Err(KeySetError::PrivateKey { key: label });
            }
            match Key::parse(jwk) {
                Ok(key) if key.id.is_some() && keys.iter().any(|other| other.id == key.id) => {
                    problems.push((label, KeyProblem::DuplicateId));
                }
                Ok(key) => keys.push(Arc::new(key)),
                Err(problem) => problems.push((label, problem)),
            }
        }
        if keys.is_empty() && problems.iter().all(|(_, problem)| problem.is_harmless()) {
            return Err(KeySetError::NoUsableKey);
        }
        let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
        Ok(Self { keys, digest: digest(&SHA256, document).as_ref().to_vec(), generation, problems })
    }

    /// SHA-256 of the document: tells whether a refresh brought anything new.
    pub(super) fn digest(&self) -> &[u8] {
        &self.digest
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn keys(&self) -> &[Arc<Key>] {
        &self.keys
    }

    /// The key of that id: compared as bytes, inside this set only.
    pub(super) fn by_id(&self, id: &str) -> Option<&Arc<Key>> {
        self.keys.iter().find(|key| key.id.as_deref() == Some(id))
    }
}

/// Whether a JWK holds private or symmetric key material.
pub(super) fn is_private(jwk: &Map<String, Value>) -> bool {
    PRIVATE_PARAMETERS.iter().any(|name| jwk.contains_key(*name))
}

/// SHA-256 over the members of a public key that make it that key, in the order of their names (RFC 7638 §3); `None` if one
/// of them is missing, or the kind of key unknown.
pub(super) fn thumbprint(jwk: &Map<String, Value>) -> Option<Sha256> {
    let members: &[&str] = match jwk.get("kty")?.as_str()? {
        "RSA" => &["e", "kty", "n"],
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        _ => return None,
    };
    let mut text = String::from("{");
    for (place, name) in members.iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        // Through JSON again, since the value may hold what needs an escape.
        let value = serde_json::to_string(jwk.get(*name)?.as_str()?).ok()?;
        text.push_str(&format!("{comma}\"{name}\":{value}"));
    }
    text.push('}');
    Some(sha256(text.as_bytes()))
}

/// A digest.
pub(super) type Sha256 = [u8; 32];

/// SHA-256 of these bytes.
pub(super) fn sha256(bytes: &[u8]) -> Sha256 {
    let mut to = [0; 32];
    to.iter_mut().zip(digest(&SHA256, bytes).as_ref()).for_each(|(to, from)| *to = *from);
    to
}

fn rsa(jwk: &Map<String, Value>) -> Result<DecodingKey, KeyProblem> {
    let modulus = bytes(jwk, "n")?;
    let exponent = bytes(jwk, "e")?;
    let first = modulus.iter().position(|byte| *byte != 0).unwrap_or(modulus.len());
    let significant = modulus.get(first..).unwrap_or_default();
    let bits = significant
        .first()
        .map_or(0, |top| significant.len() * 8 - usize::try_from(top.leading_zeros()).unwrap_or(0));
    if !RSA_BITS.contains(&bits) {
        return Err(KeyProblem::RsaSize { bits });
    }
    let value = exponent.iter().try_fold(0_u64, |value, byte| {
        value.checked_mul(256).map(|value| value + u64::from(*byte)).filter(|value| *value < 1 << 34)
    });
    match value {
        Some(value) if value >= 3 && value % 2 == 1 && value < 1 << 33 => {
            Ok(DecodingKey::from_rsa_raw_components(significant, &exponent))
        }
        _ => Err(KeyProblem::RsaExponent),
    }
}

fn ec(jwk: &Map<String, Value>, coordinate_bytes: usize, shape: Shape) -> Result<DecodingKey, KeyProblem> {
    // RFC 7518 §6.2.1.2: full length, leading zeros kept.
    let coordinate = |field| {
        let value = bytes(jwk, field)?;
        if value.len() == coordinate_bytes { Ok(value) } else { Err(KeyProblem::Malformed { field }) }
    };
    // SEC 1 §2.3.3: 4 begins an uncompressed point.
    let point = [vec![4], coordinate("x")?, coordinate("y")?].concat();
    let parsed = match shape {
        Shape::P384 => ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &point),
        _ => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point),
    };
    parsed.map_err(|_| KeyProblem::NotOnCurve)?;
    Ok(DecodingKey::from_ec_der(&point))
}

fn ed25519(jwk: &Map<String, Value>) -> Result<DecodingKey, KeyProblem> {
    let point = bytes(jwk, "x")?;
    if point.len() != 32 {
        return Err(KeyProblem::Malformed { field: "x" });
    }
    ParsedPublicKey::new(&ED25519, &point).map_err(|_| KeyProblem::NotOnCurve)?;
    Ok(DecodingKey::from_ed_der(&point))
}

fn text<'a>(jwk: &'a Map<String, Value>, field: &'static str) -> Result<Option<&'a str>, KeyProblem> {
    match jwk.get(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(KeyProblem::Malformed { field }),
    }
}

fn bytes(jwk: &Map<String, Value>, field: &'static str) -> Result<Vec<u8>, KeyProblem> {
    let encoded = text(jwk, field)?.ok_or(KeyProblem::Malformed { field })?;
    URL_SAFE_NO_PAD.decode(encoded).map_err(|_| KeyProblem::Malformed { field })
}

/// Largest key set or discovery document.
pub(super) const MAX_KEY_SET_BYTES: usize = 256 * 1024;
const MAX_KEYS: usize = 64;
/// RFC 7518 §3.3 asks for 2048; beyond 8192 one signature costs milliseconds.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// RFC 7518 §6.2.2, §6.3.2, §6.4.1.
const PRIVATE_PARAMETERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];
static GENERATIONS: AtomicU64 = AtomicU64::new(1);
