//! What it costs to know who is calling: cold (nothing kept, the signature verified) and warm (a kept verdict).

#![expect(clippy::indexing_slicing, reason = "keys of known shape; a bench that panics says so")]

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
        RsaKeyPair, RsaPublicKeyComponents,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method, header::AUTHORIZATION};
use sandgate::{
    authn::{
        Authenticator, AuthnError, DEFAULT_TOKEN_CACHE_BYTES, DevKeys, Head, KeyFetch, ProofError, Received,
        Shared,
        client::{ClientKey, ProofRequest},
    },
    id::RequestId,
    site::{diagnostic::Source, tenant::RawTenant},
};
use serde_json::{Value, json};

const TENANT: &str = r#"
[[issuers]]
issuer     = "https://idp.acme.example"
audiences  = ["https://gate.example/acme"]
algorithms = ["RS256", "ES256", "EdDSA"]
keys       = "jwks.json"
roles      = "/roles"
scopes     = "/scope"
tags       = { department = "/department" }
"#;

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// Algorithm, public key, signer.
fn issuers() -> [(&'static str, Value, Sign); 3] {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("an RSA key");
    let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(rsa.public_key());
    let rsa_key = json!({"kty": "RSA", "n": encode(&n), "e": encode(&e)});
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("an EC key");
    let (x, y) = ec.public_key().as_ref()[1..].split_at(32);
    let ec_key = json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)});
    let ed = Ed25519KeyPair::generate().expect("an Ed25519 key");
    let ed_key = json!({"kty": "OKP", "crv": "Ed25519", "x": encode(ed.public_key().as_ref())});
    [
        (
            "RS256",
            rsa_key,
            Box::new(move |message| {
                let mut signature = vec![0; rsa.public_modulus_len()];
                rsa.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .expect("a signature");
                signature
            }),
        ),
        (
            "ES256",
            ec_key,
            Box::new(move |message| {
                ec.sign(&SystemRandom::new(), message).expect("a signature").as_ref().to_vec()
            }),
        ),
        ("EdDSA", ed_key, Box::new(move |message| ed.sign(message).as_ref().to_vec())),
    ]
}

fn token(algorithm: &str, sign: &Sign, bound_to: Option<&str>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    let header = json!({"alg": algorithm, "typ": "at+jwt", "kid": algorithm});
    let mut claims = json!({
        "iss": "https://idp.acme.example", "aud": "https://gate.example/acme", "sub": "alice", "iat": now,
        "exp": now + 3600, "jti": "73WakrfVbNJBaAmhQtEeDv", "client_id": "K1AUPhZq8mRi0Q0pjhkfu1D7y6KjDQja",
        "roles": ["billing", "support", "admin"], "scope": "openid profile read:invoices create:invoices",
        "department": "finance", "name": "Alice Liddell", "email": "alice@acme.example",
    });
    if let Some(thumbprint) = bound_to {
        claims["cnf"] = json!({ "jkt": thumbprint });
    }
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn authenticator(keys: &Value, cache_bytes: u64, binding: &str) -> Authenticator {
    let text = format!("{TENANT}binding = \"{binding}\"\n");
    let raw: RawTenant = toml::from_str(&text).expect("a tenant");
    let source = Source::new("policies/acme/tenant.toml", text);
    let origin = "https://gate.example".parse().expect("an origin");
    let shared = Shared::new(cache_bytes, KeyFetch::default());
    let files = |name: &str| Some(Source::new(name, keys.to_string()));
    let tenant = "acme".parse().expect("a name");
    let (authenticator, found) =
        Authenticator::compile(&tenant, &raw, &source, &files, DevKeys::Refused, Some(&origin), &shared);
    authenticator.unwrap_or_else(|| panic!("{found:?}"))
}

fn received(token: &str, proof: Option<&str>) -> Received<()> {
    let mut headers = HeaderMap::with_capacity(8);
    let scheme = if proof.is_some() { "DPoP" } else { "Bearer" };
    headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("{scheme} {token}")).expect("a header"));
    if let Some(proof) = proof {
        headers.insert("dpop", HeaderValue::try_from(proof).expect("a header"));
    }
    Received {
        request_id: RequestId::new(0, 0),
        tenant: "acme".parse().expect("a name"),
        function: "echo".parse().expect("a name"),
        head: Head { headers, ..Head::new(Method::POST, "/acme/echo") },
        body: (),
    }
}

fn verify(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let issuers = issuers();
    let keys: Vec<Value> = issuers
        .iter()
        .map(|(algorithm, key, _)| {
            let mut key = key.clone();
            key["kid"] = json!(algorithm);
            key["alg"] = json!(algorithm);
            key
        })
        .collect();
    let keys = json!({ "keys": keys });
    // A cache without room keeps nothing: every request is the first.
    let caches = [
        ("cold", Arc::new(authenticator(&keys, 0, "none"))),
        ("warm", Arc::new(authenticator(&keys, DEFAULT_TOKEN_CACHE_BYTES, "none"))),
    ];
    let mut group = criterion.benchmark_group("authn");
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    for (cache, authenticator) in caches {
        for (algorithm, _, sign) in &issuers {
            let token = token(algorithm, sign, None);
            group.bench_function(format!("{cache}/{algorithm}"), |bencher| {
                bencher.iter_batched(
                    || received(&token, None),
                    |received| runtime.block_on(authenticator.authenticate(received)).expect("a caller"),
                    BatchSize::SmallInput,
                );
            });
        }
    }
    // The token is kept, the proof is another for each call: its signature, and all that it is held against.
    let bound = authenticator(&keys, DEFAULT_TOKEN_CACHE_BYTES, "dpop");
    let folder = tempfile::tempdir().expect("a folder");
    let key = ClientKey::open_or_create(&folder.path().join("client.pem")).expect("a key");
    let (algorithm, _, sign) = &issuers[1];
    let token = token(algorithm, sign, Some(&key.thumbprint()));
    let proof = |nonce: Option<&str>| {
        let url = "https://gate.example/acme/echo";
        let asked = ProofRequest { method: "POST", url, token: &token, nonce, now: SystemTime::now() };
        received(&token, Some(&key.prove(&asked).expect("a proof")))
    };
    let nonce = || match runtime.block_on(bound.authenticate(proof(None))) {
        Err(AuthnError::Proof(ProofError::Nonce { fresh })) => fresh,
        other => panic!("{other:?}"),
    };
    group.bench_function("warm/ES256 + DPoP proof ES256", |bencher| {
        let nonce = nonce();
        bencher.iter_batched(
            || proof(Some(&nonce)),
            |received| runtime.block_on(bound.authenticate(received)).expect("a caller"),
            BatchSize::SmallInput,
        );
    });
    let (tenant, raw) =
        ("acme".parse().expect("a name"), toml::from_str::<RawTenant>(TENANT).expect("a tenant"));
    let source = Source::new("policies/acme/tenant.toml", TENANT);
    let file = Source::new("jwks.json", keys.to_string());
    let shared = Shared::new(DEFAULT_TOKEN_CACHE_BYTES, KeyFetch::default());
    // What a start or reload pays for each tenant.
    group.bench_function("compile", |bencher| {
        bencher.iter(|| {
            let files = |_: &str| Some(file.clone());
            Authenticator::compile(&tenant, &raw, &source, &files, DevKeys::Refused, None, &shared)
        });
    });
    group.finish();
}

criterion_group!(benches, verify);
criterion_main!(benches);
