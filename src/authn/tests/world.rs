//! Keys minted at run time, tokens that bend one thing each, and a tenant to send them to.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    encoding::AsDer as _,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
        KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
        RSA_PSS_SHA512, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Method, header::AUTHORIZATION};
use serde_json::{Map, Value, json};

use crate::{
    authn::{
        Authenticated, Authenticator, AuthnError, Caller, DEFAULT_TOKEN_CACHE_BYTES, DevKeys, Head, KeyFetch,
        Received, Shared,
    },
    id::RequestId,
    site::{
        diagnostic::{Diagnostic, Source},
        tenant::RawTenant,
    },
};

pub(super) const ISSUER: &str = "https://idp.acme.example";
pub(super) const AUDIENCE: &str = "https://gate.example/acme";

/// `[server] origin`.
pub(super) const ORIGIN: &str = "https://gate.example";

/// A tenant.toml with one issuer whose keys are in `jwks.json`.
pub(super) const TENANT: &str = r#"
[[issuers]]
issuer       = "https://idp.acme.example"
audiences    = ["https://gate.example/acme", "gate"]
algorithms   = ["ES256", "ES384", "EdDSA", "RS256"]
keys         = "jwks.json"
max-lifetime = "1h"
roles        = "/roles"
scopes       = "/scope"
tags         = { department = "/department", level = "/profile/level" }
"#;

pub(super) enum Signer {
    Es256(EcdsaKeyPair),
    Es384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(&'static RsaKeyPair),
}

impl Signer {
    pub(super) fn es256() -> Self {
        Self::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(super) fn es384() -> Self {
        Self::Es384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub(super) fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    /// One for the whole binary: RSA keys take long to find.
    pub(super) fn rsa() -> Self {
        static KEY: OnceLock<RsaKeyPair> = OnceLock::new();
        Self::Rsa(KEY.get_or_init(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::Es384(_) => "ES384",
            Self::Ed25519(_) => "EdDSA",
            Self::Rsa(_) => "RS256",
        }
    }

    /// The public key, without `kid`, `alg` and `use`.
    pub(super) fn jwk(&self) -> Map<String, Value> {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwk = match self {
            Self::Es256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])})
            }
            Self::Es384(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-384", "x": encode(&point[1..49]), "y": encode(&point[49..])})
            }
            Self::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref())})
            }
            Self::Rsa(pair) => {
                let RsaPublicKeyComponents { n, e } =
                    RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": encode(&n), "e": encode(&e)})
            }
        };
        jwk.as_object().unwrap().clone()
    }

    /// The public key as an identity provider lists it.
    pub(super) fn listed(&self, id: &str) -> Value {
        let mut jwk = self.jwk();
        jwk.insert("kid".to_owned(), json!(id));
        jwk.insert("alg".to_owned(), json!(self.algorithm()));
        jwk.insert("use".to_owned(), json!("sig"));
        Value::Object(jwk)
    }

    pub(super) fn public_der(&self) -> Vec<u8> {
        match self {
            Self::Rsa(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            _ => unreachable!("only wanted of RSA"),
        }
    }

    pub(super) fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Es256(pair) | Self::Es384(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Rsa(pair) => {
                let padding: &'static dyn aws_lc_rs::signature::RsaEncoding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// A token of these very texts.
    pub(super) fn seal(&self, algorithm: &str, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.sign(algorithm, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A good token, to be bent.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) header: Value,
    pub(super) claims: Value,
}

impl Token {
    pub(super) fn new() -> Self {
        let now = seconds(SystemTime::now());
        Self {
            header: json!({"typ": "at+jwt", "kid": "k1"}),
            claims: json!({
                "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 600, "jti": "t1",
                "roles": ["billing"], "scope": "read write", "department": "finance",
            }),
        }
    }

    pub(super) fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header[name] = value.into();
        self
    }

    pub(super) fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims[name] = value.into();
        self
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        self.header.as_object_mut().unwrap().remove(name);
        self.claims.as_object_mut().unwrap().remove(name);
        self
    }

    /// `exp` this many seconds from now, negative for before.
    pub(super) fn at(self, claim: &str, offset: i64) -> Self {
        let at = i64::try_from(seconds(SystemTime::now())).unwrap() + offset;
        self.claim(claim, at)
    }

    pub(super) fn sign(&self, signer: &Signer) -> String {
        let mut header = self.header.clone();
        if header.get("alg").is_none() {
            header["alg"] = json!(signer.algorithm());
        }
        let algorithm = header["alg"].as_str().unwrap_or_default().to_owned();
        signer.seal(&algorithm, &header.to_string(), &self.claims.to_string())
    }
}

/// One tenant with one key, `k1`.
pub(super) struct World {
    pub(super) authenticator: Authenticator,
    pub(super) signer: Signer,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(Signer::es256())
    }

    pub(super) fn with(signer: Signer) -> Self {
        let authenticator = compiled("acme", TENANT, &[("jwks.json", jwks(&[signer.listed("k1")]))]);
        Self { authenticator, signer }
    }

    /// A tenant.toml with this line besides, or instead.
    pub(super) fn line(line: &str) -> Self {
        let signer = Signer::es256();
        let name = line.split('=').next().unwrap().trim();
        let kept = TENANT.lines().filter(|kept| !kept.starts_with(name) || name.is_empty());
        let text = format!("{}\n{line}\n", kept.collect::<Vec<_>>().join("\n"));
        let authenticator = compiled("acme", &text, &[("jwks.json", jwks(&[signer.listed("k1")]))]);
        Self { authenticator, signer }
    }

    pub(super) async fn ask(&self, token: Token) -> Result<Arc<Caller>, AuthnError> {
        ask(&self.authenticator, &token.sign(&self.signer)).await
    }

    pub(super) async fn refusal(&self, token: Token) -> AuthnError {
        self.ask(token).await.expect_err("the token was taken")
    }
}

pub(super) fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

pub(super) fn shared() -> Arc<Shared> {
    Shared::new(DEFAULT_TOKEN_CACHE_BYTES, KeyFetch { platform_roots: false, ..KeyFetch::default() })
}

pub(super) fn try_compile(
    tenant: &str,
    toml: &str,
    files: &[(&str, String)],
    dev: DevKeys<'_>,
    shared: &Arc<Shared>,
) -> (Option<Authenticator>, Vec<Diagnostic>) {
    let raw: RawTenant = toml::from_str(toml).unwrap();
    let source = Source::new(format!("policies/{tenant}/tenant.toml"), toml);
    let read = |name: &str| {
        files.iter().find(|(known, _)| *known == name).map(|(name, text)| Source::new(*name, text.as_str()))
    };
    let origin = ORIGIN.parse().unwrap();
    Authenticator::compile(&tenant.parse().unwrap(), &raw, &source, &read, dev, Some(&origin), shared)
}

pub(super) fn compiled(tenant: &str, toml: &str, files: &[(&str, String)]) -> Authenticator {
    let (authenticator, found) = try_compile(tenant, toml, files, DevKeys::Refused, &shared());
    authenticator.unwrap_or_else(|| panic!("{}", found.iter().map(|d| d.render(false)).collect::<String>()))
}

pub(super) fn received(authorization: &[&[u8]], now: SystemTime) -> Received<()> {
    let mut headers = HeaderMap::new();
    for value in authorization {
        headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
    }
    Received {
        request_id: RequestId::new(0, 0),
        tenant: "acme".parse().unwrap(),
        function: "echo".parse().unwrap(),
        head: Head { headers, now, ..Head::new(Method::POST, "/acme/echo") },
        body: (),
    }
}

pub(super) async fn ask(authenticator: &Authenticator, token: &str) -> Result<Arc<Caller>, AuthnError> {
    ask_at(authenticator, token, SystemTime::now()).await
}

pub(super) async fn ask_at(
    authenticator: &Authenticator,
    token: &str,
    now: SystemTime,
) -> Result<Arc<Caller>, AuthnError> {
    let header = format!("Bearer {token}");
    authenticator
        .authenticate(received(&[header.as_bytes()], now))
        .await
        .map(|authenticated: Authenticated<()>| Arc::clone(authenticated.caller()))
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(super) fn later(seconds: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(seconds)
}

pub(super) fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// What a caller shares, to compare.
pub(super) fn texts(shared: &[std::sync::Arc<str>]) -> Vec<String> {
    shared.iter().map(ToString::to_string).collect()
}
