//! Tokens made by hand, so that any of their parts can be wrong: no JWT library stands between a test and the bytes.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// An issuer's ES256 key, made for this run.
#[derive(Clone)]
pub(crate) struct IssuerKey {
    pub(crate) id: String,
    pair: Arc<EcdsaKeyPair>,
}

impl IssuerKey {
    pub(crate) fn generate(id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { id: id.to_owned(), pair: Arc::new(pair) }
    }

    /// The public key as a JWK (RFC 7517).
    pub(crate) fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (&point[1..33], &point[33..65]);
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.id,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        })
    }

    pub(crate) fn sign(&self, signing_input: &str) -> String {
        let signature = self.pair.sign(&SystemRandom::new(), signing_input.as_bytes()).unwrap();
        format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// SubjectPublicKeyInfo, as an attacker knows it.
    pub(crate) fn public_der(&self) -> Vec<u8> {
        let der: aws_lc_rs::encoding::PublicKeyX509Der<'_> = self.pair.public_key().as_der().unwrap();
        der.as_ref().to_vec()
    }
}

/// A token in the making: valid until a test bends it.
pub(crate) struct Token {
    pub(crate) header: Value,
    pub(crate) claims: Value,
    pub(crate) key: IssuerKey,
}

pub(crate) fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

impl Token {
    pub(crate) fn new(tenant: &str, key: &IssuerKey) -> Self {
        let now = unix_now();
        Self {
            header: json!({"alg": "ES256", "typ": "at+jwt", "kid": key.id}),
            claims: json!({
                "iss": issuer(tenant), "aud": audience(tenant), "sub": "alice", "iat": now, "exp": now + 600,
                "jti": "token-1", "roles": ["invoker"], "scope": "call",
            }),
            key: key.clone(),
        }
    }

    pub(crate) fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims[name] = value.into();
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.claims.as_object_mut().unwrap().remove(name);
        self
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header[name] = value.into();
        self
    }

    pub(crate) fn without_header(mut self, name: &str) -> Self {
        self.header.as_object_mut().unwrap().remove(name);
        self
    }

    pub(crate) fn expired(self) -> Self {
        let now = unix_now();
        self.claim("iat", now - 3600).claim("exp", now - 3000)
    }

    pub(crate) fn subject(self, subject: &str) -> Self {
        self.claim("sub", subject)
    }

    pub(crate) fn signed_by(mut self, key: &IssuerKey) -> Self {
        self.key = key.clone();
        self
    }

    pub(crate) fn signing_input(&self) -> String {
        segments(&self.header.to_string(), &self.claims.to_string())
    }

    pub(crate) fn sign(&self) -> String {
        self.key.sign(&self.signing_input())
    }
}

pub(crate) fn segments(header: &str, claims: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
}

pub(crate) fn issuer(tenant: &str) -> String {
    format!("https://idp.{tenant}.example")
}

pub(crate) fn audience(tenant: &str) -> String {
    format!("https://gate.example/{tenant}")
}
