//! Issuers for local work: a key under `certs/dev/issuers/`, and tokens made with it.
//!
//! `sandgate dev` makes what is missing and trusts it; `serve` refuses such an issuer, since whoever can read the folder can
//! be any caller.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{
    binding::CertificateThumbprint,
    compile::{DEFAULT_MAX_LIFETIME, DEFAULT_TOKEN_TYPE},
    pointer::{Pointer, PointerError},
};
use crate::{
    id::TenantName,
    site::{
        secret,
        tenant::{RawIssuer, RawTenant},
        units::Span,
    },
};

/// Where the keys are, from the site's top.
pub const DIRECTORY: &str = "certs/dev/issuers";

/// Key pair and key set of one dev issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevIssuer {
    /// The private key, PKCS#8 in PEM, readable by its owner only.
    pub key: PathBuf,
    /// The public key set.
    pub jwks: PathBuf,
}

/// Why a dev issuer or its token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The tenant has no dev issuer of that name, or none at all.
    #[error("tenant `{tenant}` has no dev issuer{}: {}", named(.name.as_deref()), instead(.tenant, .known))]
    NoDevIssuer {
        /// The tenant.
        tenant: TenantName,
        /// The issuer's name, if one was asked for.
        name: Option<String>,
        /// The dev issuers that it has, by name.
        known: Vec<Option<String>>,
    },
    /// The issuer's key was not made yet.
    #[error("there is no dev key `{}`: `sandgate dev` makes it when it starts", .path.display())]
    NoKey {
        /// Its file.
        path: PathBuf,
    },
    /// The issuer allows neither ES256 nor EdDSA.
    #[error("a dev issuer signs with ES256 or EdDSA, and its `algorithms` allow neither")]
    Algorithm,
    /// The key could not be read or written.
    #[error("the dev key `{}` could not be read or made", .path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The key file holds no key.
    #[error("the dev key `{}` is no PKCS#8 key for its issuer's algorithms: remove it, and `sandgate dev` makes another", .path.display())]
    NotAKey {
        /// Its file.
        path: PathBuf,
    },
    /// A claim is written `name=value`, its name perhaps a JSON pointer.
    #[error("claim `{claim}`: {source}")]
    Claim {
        /// As asked.
        claim: String,
        /// Why it is none.
        #[source]
        source: PointerError,
    },
    /// Two claims are at one place, or one is inside another.
    #[error("claim `{claim}` is in the way of another")]
    Collision {
        /// Which.
        claim: String,
    },
    /// Roles or scopes were asked for, and the issuer's record does not read any.
    #[error("the dev issuer of tenant.toml has no `{what}` pointer, so a token cannot carry any")]
    NotRead {
        /// `roles` or `scopes`.
        what: &'static str,
    },
    /// The issuer's tokens are bound to a key, and none was named.
    #[error("the dev issuer's tokens are bound by `dpop`: name the sender's key with `--dpop-key FILE`")]
    NeedsKey,
    /// The issuer's tokens are bound to a certificate, and none was named.
    #[error(
        "the dev issuer's tokens are bound by `mtls`: name the sender's certificate with `--client-cert FILE`"
    )]
    NeedsCertificate,
    /// A key or certificate was named, and the issuer's tokens are not bound to any.
    #[error("the dev issuer's tokens are bound to nothing, so its record would refuse one that is")]
    NotBound,
    /// The record would refuse the token.
    #[error("the dev issuer lets tokens live for {} at most", Span(*.most))]
    LivesTooLong {
        /// `max-lifetime`.
        most: Duration,
    },
    /// Signing failed, or there is no randomness.
    #[error("the token could not be signed")]
    Signing,
}

/// What the sender of a token must have.
#[derive(Debug, Clone)]
pub enum BoundTo {
    /// The key of that thumbprint ([`super::client::ClientKey::thumbprint`]).
    Key(String),
    /// The key of that certificate.
    Certificate(CertificateThumbprint),
}

/// The token that is wanted.
#[derive(Debug, Clone)]
pub struct MintRequest {
    /// `sub`.
    pub subject: String,
    /// Name of the dev issuer; `None`: the tenant's only one, or its unnamed one.
    pub issuer: Option<String>,
    /// Roles, put where the record's `roles` points.
    pub roles: Vec<String>,
    /// Scopes, put where the record's `scopes` points.
    pub scopes: Vec<String>,
    /// Other claims: a name, or a JSON pointer if it begins with `/`; the value is JSON if it reads as JSON, else text.
    pub claims: Vec<(String, String)>,
    /// What the sender must have, for an issuer of `binding = "dpop"` or `"mtls"`.
    pub bound_to: Option<BoundTo>,
    /// From `now` to `exp`.
    pub ttl: Duration,
    /// `iat`.
    pub now: SystemTime,
}

impl MintRequest {
    /// A token for this subject that lives 15 minutes from now.
    pub fn new(subject: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            issuer: None,
            roles: Vec::new(),
            scopes: Vec::new(),
            claims: Vec::new(),
            bound_to: None,
            ttl: Duration::from_secs(15 * 60),
            now: SystemTime::now(),
        }
    }
}

impl DevIssuer {
    /// Makes the key of a dev issuer in `dir` ([`DIRECTORY`]), unless it is there; `ed25519` chooses EdDSA instead of ES256.
    pub fn create(
        dir: &Path,
        tenant: &TenantName,
        name: Option<&str>,
        ed25519: bool,
    ) -> Result<Self, MintError> {
        let key = dir.join(file_name(tenant, name, "pem"));
        let jwks = dir.join(file_name(tenant, name, "jwks.json"));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| MintError::Key { path, source }
        };
        if key.exists() && jwks.exists() {
            return Ok(Self { key, jwks });
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
        let algorithm = if ed25519 { &PKCS_ED25519 } else { &PKCS_ECDSA_P256_SHA256 };
        let pair = KeyPair::generate_for(algorithm).map_err(|_| MintError::Signing)?;
        // Written whole under another name first: a reader never finds half a key.
        write(&key, Zeroizing::new(pair.serialize_pem()).as_bytes(), 0o600).map_err(failed(&key))?;
        write(&jwks, jwks_of(&pair, ed25519).as_bytes(), 0o644).map_err(failed(&jwks))?;
        Ok(Self { key, jwks })
    }

    /// Makes the keys of all dev issuers of a tenant that have none.
    pub fn create_all(dir: &Path, tenant: &TenantName, raw: &RawTenant) -> Result<Vec<Self>, MintError> {
        let dev = raw.issuers.iter().map(toml::Spanned::get_ref).filter(|issuer| issuer.dev);
        dev.map(|issuer| {
            Self::create(dir, tenant, name_of(issuer), algorithm_of(issuer)? == Algorithm::EdDSA)
        })
        .collect()
    }
}

/// A token of a tenant's dev issuer, such that the tenant's record takes it.
pub fn mint(
    dir: &Path,
    tenant: &TenantName,
    raw: &RawTenant,
    request: &MintRequest,
) -> Result<String, MintError> {
    let issuer = choose(tenant, raw, request.issuer.as_deref())?;
    let algorithm = algorithm_of(issuer)?;
    let most = issuer.max_lifetime.as_ref().map_or(DEFAULT_MAX_LIFETIME, |span| span.get_ref().0);
    if request.ttl > most {
        return Err(MintError::LivesTooLong { most });
    }
    match (issuer.binding.as_ref().map(|binding| binding.get_ref().as_str()), &request.bound_to) {
        (Some("dpop"), Some(BoundTo::Key(_))) | (Some("mtls"), Some(BoundTo::Certificate(_))) => {}
        (Some("dpop"), _) => return Err(MintError::NeedsKey),
        (Some("mtls"), _) => return Err(MintError::NeedsCertificate),
        (_, None) => {}
        (_, Some(_)) => return Err(MintError::NotBound),
    }
    let claims = claims(tenant, issuer, request)?;
    let pair = key_of(&dir.join(file_name(tenant, name_of(issuer), "pem")))?;
    let der = Zeroizing::new(pair.serialize_der());
    let (signer, is_ed25519) = if pair.algorithm() == &PKCS_ED25519 {
        (EncodingKey::from_ed_der(&der), true)
    } else {
        (EncodingKey::from_ec_der(&der), false)
    };
    if is_ed25519 != (algorithm == Algorithm::EdDSA) {
        return Err(MintError::NotAKey { path: dir.join(file_name(tenant, name_of(issuer), "pem")) });
    }
    let mut header = Header::new(algorithm);
    let types = issuer.token_types.as_ref().and_then(|types| types.get_ref().first().cloned());
    header.typ = Some(types.unwrap_or_else(|| DEFAULT_TOKEN_TYPE.to_owned()));
    header.kid = Some(thumbprint(&public_jwk(&pair, is_ed25519)));
    jsonwebtoken::encode(&header, &claims, &signer).map_err(|_| MintError::Signing)
}

/// `acme.jwks.json`, or `acme.partners.jwks.json` for a named issuer. Names have no dots, so this has one reading.
pub fn file_name(tenant: &TenantName, issuer: Option<&str>, extension: &str) -> String {
    match issuer {
        None => format!("{tenant}.{extension}"),
        Some(issuer) => format!("{tenant}.{issuer}.{extension}"),
    }
}

fn choose<'a>(
    tenant: &TenantName,
    raw: &'a RawTenant,
    name: Option<&str>,
) -> Result<&'a RawIssuer, MintError> {
    let dev: Vec<&RawIssuer> =
        raw.issuers.iter().map(toml::Spanned::get_ref).filter(|issuer| issuer.dev).collect();
    let known = dev.iter().map(|issuer| name_of(issuer).map(str::to_owned)).collect();
    let none = || MintError::NoDevIssuer { tenant: tenant.clone(), name: name.map(str::to_owned), known };
    match (name, dev.as_slice()) {
        (None, [only]) => Ok(only),
        _ => dev.into_iter().find(|issuer| name_of(issuer) == name).ok_or_else(none),
    }
}

fn claims(
    tenant: &TenantName,
    issuer: &RawIssuer,
    request: &MintRequest,
) -> Result<Map<String, Value>, MintError> {
    let now = request.now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut id = [0_u8; 16];
    rand::fill(&mut id).map_err(|_| MintError::Signing)?;
    let mut claims = Map::new();
    let audience = match issuer.audiences.get_ref().as_slice() {
        [only] => json!(only),
        several => json!(several),
    };
    for (name, value) in [
        ("iss", json!(issuer.issuer.get_ref())),
        ("aud", audience),
        ("sub", json!(request.subject)),
        ("iat", json!(now)),
        ("exp", json!(now.saturating_add(request.ttl.as_secs()))),
        ("jti", json!(URL_SAFE_NO_PAD.encode(id))),
    ] {
        claims.insert(name.to_owned(), value);
    }
    let confirmation = request.bound_to.as_ref().map(|bound_to| match bound_to {
        BoundTo::Key(thumbprint) => json!({ "jkt": thumbprint }),
        BoundTo::Certificate(thumbprint) => json!({ "x5t#S256": thumbprint.to_string() }),
    });
    if let Some(confirmation) = confirmation {
        claims.insert("cnf".to_owned(), confirmation);
    }
    let mut place = |text: &str, value: Value| {
        let pointer: Pointer =
            text.parse().map_err(|source| MintError::Claim { claim: text.to_owned(), source })?;
        pointer.place(&mut claims, value).ok_or_else(|| MintError::Collision { claim: text.to_owned() })
    };
    if let Some(pointer) = &issuer.tenant_claim {
        let value = issuer.tenant_value.as_ref().map_or(tenant.as_str(), |value| value.get_ref());
        place(pointer.get_ref(), json!(value))?;
    }
    // RFC 8693 §4.2: scopes are one string of words.
    let wanted = [
        ("roles", &issuer.roles, &request.roles, json!(request.roles)),
        ("scopes", &issuer.scopes, &request.scopes, json!(request.scopes.join(" "))),
    ];
    for (what, pointer, values, value) in wanted {
        match pointer {
            _ if values.is_empty() => {}
            Some(pointer) => place(pointer.get_ref(), value)?,
            None => return Err(MintError::NotRead { what }),
        }
    }
    for (name, value) in &request.claims {
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.clone()));
        if name.starts_with('/') {
            place(name, value)?;
        } else {
            place(&format!("/{}", name.replace('~', "~0").replace('/', "~1")), value)?;
        }
    }
    Ok(claims)
}

fn key_of(path: &Path) -> Result<KeyPair, MintError> {
    let pem = secret::read_text(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => MintError::NoKey { path: path.to_owned() },
        _ => MintError::Key { path: path.to_owned(), source },
    })?;
    KeyPair::from_pem(&pem).map_err(|_| MintError::NotAKey { path: path.to_owned() })
}

fn name_of(issuer: &RawIssuer) -> Option<&str> {
    issuer.name.as_ref().map(|name| name.get_ref().as_str())
}

/// The first of its algorithms that a dev key can be made for.
fn algorithm_of(issuer: &RawIssuer) -> Result<Algorithm, MintError> {
    let names = issuer.algorithms.get_ref().iter();
    names
        .filter_map(|name| super::keys::algorithm(name.get_ref()))
        .find(|algorithm| matches!(algorithm, Algorithm::ES256 | Algorithm::EdDSA))
        .ok_or(MintError::Algorithm)
}

fn jwks_of(pair: &KeyPair, ed25519: bool) -> String {
    let mut jwk = public_jwk(pair, ed25519);
    let id = thumbprint(&jwk);
    for (name, value) in
        [("kid", id.as_str()), ("use", "sig"), ("alg", if ed25519 { "EdDSA" } else { "ES256" })]
    {
        jwk.insert(name.to_owned(), json!(value));
    }
    format!("{:#}\n", json!({ "keys": [jwk] }))
}

/// The required members of RFC 7638 §3.2, RFC 8037 §2 and nothing else.
pub(super) fn public_jwk(pair: &KeyPair, ed25519: bool) -> Map<String, Value> {
    let point = pair.public_key_raw();
    let encode = |bytes: &[u8]| json!(URL_SAFE_NO_PAD.encode(bytes));
    let members = if ed25519 {
        vec![("crv", json!("Ed25519")), ("kty", json!("OKP")), ("x", encode(point))]
    } else {
        // SEC 1 §2.3.3: 4, then two coordinates of 32 bytes.
        let (x, y) = point.get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
        vec![("crv", json!("P-256")), ("kty", json!("EC")), ("x", encode(x)), ("y", encode(y))]
    };
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// RFC 7638, as text.
pub(super) fn thumbprint(jwk: &Map<String, Value>) -> String {
    super::keys::thumbprint(jwk).map_or(String::new(), |thumbprint| URL_SAFE_NO_PAD.encode(thumbprint))
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let _ = fs::remove_file(&partial);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

fn named(name: Option<&str>) -> String {
    name.map_or(String::new(), |name| format!(" named `{name}`"))
}

/// What to do without the dev issuer that was asked for.
fn instead(tenant: &TenantName, known: &[Option<String>]) -> String {
    if known.is_empty() {
        return format!(
            "give an `[[issuers]]` of `policies/{tenant}/tenant.toml` `dev = true`, and `sandgate dev` makes its key"
        );
    }
    let names: Vec<String> = known
        .iter()
        .map(|name| name.as_ref().map_or_else(|| "an unnamed one".to_owned(), |name| format!("`{name}`")))
        .collect();
    format!("it has {}", names.join(", "))
}
