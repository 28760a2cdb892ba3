//! Faults of tenant.toml and of key files: all at once, each where it is written.

use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RsaKeyPair, RsaPublicKeyComponents};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::world::*;
use crate::{authn::DevKeys, site::diagnostic::Diagnostic};

fn faults(toml: &str, files: &[(&str, String)]) -> Vec<Diagnostic> {
    let (authenticator, found) = try_compile("acme", toml, files, DevKeys::Refused, &shared());
    assert_eq!(authenticator.is_none(), found.iter().any(Diagnostic::is_fault));
    found
}

fn lines(found: &[Diagnostic]) -> String {
    found.iter().map(Diagnostic::one_line).collect::<Vec<_>>().join("\n")
}

fn key_file(key: Value) -> Vec<(&'static str, String)> {
    vec![("jwks.json", jwks(&[key]))]
}

#[test]
fn all_faults_of_a_tenant_are_told_at_once_with_their_lines() {
    let text = r#"
[[issuers]]
issuer = "http://idp.example"
audiences = []
algorithms = ["HS256", "none", "ES265", "ES256", "ES256"]
keys = "http://idp.example/jwks"
leeway = "61s"
max-lifetime = "0ms"
token-types = [""]
roles = "roles"
tags = { a = "/x~" }
tenant-value = "x"
binding = "token"
name = "A b"

[[issuers]]
issuer = "https://two.example"
audiences = ["x"]
algorithms = []
keys = "missing.json"

[[issuers]]
issuer = "https://two.example"
audiences = ["x"]
algorithms = ["ES256"]
keys = "dev"

[[issuers]]
issuer = "https://three.example"
audiences = ["x"]
algorithms = ["ES256"]
keys = "dev"
dev = true
name = "A b"
"#;
    insta::assert_snapshot!(lines(&faults(text, &[])), @r#"
    policies/acme/tenant.toml:3: issuer `http://idp.example` is not an https URL
    policies/acme/tenant.toml:4: there is no audience, or an empty one
    policies/acme/tenant.toml:5: algorithm `HS256` is refused
    policies/acme/tenant.toml:5: algorithm `none` is refused
    policies/acme/tenant.toml:5: algorithm `ES265` is not known
    policies/acme/tenant.toml:5: algorithm `ES256` is listed twice
    policies/acme/tenant.toml:6: keys cannot be fetched from `http://idp.example/jwks`: only https is fetched
    policies/acme/tenant.toml:7: a leeway of `61s` is above 60s
    policies/acme/tenant.toml:8: no token lives so short
    policies/acme/tenant.toml:9: no token type is allowed, or an empty one
    policies/acme/tenant.toml:10: `roles` is no JSON pointer
    policies/acme/tenant.toml:11: `/x~` is no JSON pointer
    policies/acme/tenant.toml:12: `tenant-value` without `tenant-claim`
    policies/acme/tenant.toml:13: binding `token` is not known
    policies/acme/tenant.toml:14: issuer name `A b` is no name
    policies/acme/tenant.toml:19: no algorithm is allowed
    policies/acme/tenant.toml:20: key set `missing.json` is not in the tenant's folder
    policies/acme/tenant.toml:22: more than one issuer has no name
    policies/acme/tenant.toml:23: issuer `https://two.example` is listed twice for the same tokens
    policies/acme/tenant.toml:26: a dev issuer has `dev = true` and `keys = "dev"`, any other has neither
    policies/acme/tenant.toml:32: a dev issuer is served by `sandgate dev` only
    policies/acme/tenant.toml:34: issuer name `A b` is used twice
    policies/acme/tenant.toml:34: issuer name `A b` is no name
    "#);
}

#[test]
fn a_tenant_without_issuers_is_served_and_warned_of() {
    let found = faults("name = \"Acme\"", &[]);
    assert_eq!(
        lines(&found),
        "policies/acme/tenant.toml: tenant `acme` has no issuers, so nobody can call its functions"
    );
}

#[test]
fn a03_weak_and_mismatched_keys_are_faults() {
    let small = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let RsaPublicKeyComponents { n, .. } = RsaPublicKeyComponents::<Vec<u8>>::from(small.public_key());
    let short = URL_SAFE_NO_PAD.encode(&n[..128]);
    // Zeros in front do not lengthen a modulus.
    let padded = URL_SAFE_NO_PAD.encode([vec![0; 128], n[..128].to_vec()].concat());
    let whole = URL_SAFE_NO_PAD.encode(&n);
    let ec = |more: Value| {
        let mut jwk = Signer::es256().jwk();
        jwk.extend(more.as_object().unwrap().clone());
        Value::Object(jwk)
    };
    for (key, expected) in [
        (json!({"kty": "RSA", "kid": "k", "n": short, "e": "AQAB"}), "2048 to 8192 bits, this one has 1024"),
        (json!({"kty": "RSA", "kid": "k", "n": padded, "e": "AQAB"}), "this one has 1024"),
        (json!({"kty": "RSA", "kid": "k", "n": whole, "e": "AQ"}), "exponent"),
        (json!({"kty": "RSA", "kid": "k", "n": whole, "e": "BA"}), "exponent"),
        (json!({"kty": "RSA", "kid": "k", "n": whole, "e": "AQABAQABAQAB"}), "exponent"),
        (json!({"kty": "RSA", "kid": "k", "n": whole}), "`e` is missing"),
        (ec(json!({"alg": "ES384"})), "`alg` is `ES384`"),
        (ec(json!({"alg": "RS256"})), "`alg` is `RS256`"),
        (ec(json!({"alg": "EdDSA"})), "`alg` is `EdDSA`"),
        (ec(json!({"crv": "P-384"})), "`x` is missing or malformed"),
        (ec(json!({"x": "AAAA"})), "`x` is missing or malformed"),
        (ec(json!({"y": URL_SAFE_NO_PAD.encode([1; 32])})), "not on its curve"),
        (ec(json!({"kid": ""})), "`kid` is missing or malformed"),
        (ec(json!({"kid": 7})), "`kid` is missing or malformed"),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}), "`x` is missing or malformed"),
    ] {
        let found = faults(TENANT, &key_file(key.clone()));
        assert!(lines(&found).contains(expected), "{key}: {}", lines(&found));
    }
}

#[test]
fn a03_a_key_set_that_holds_a_secret_is_a_fault() {
    for name in ["d", "p", "k", "oth"] {
        let mut jwk = Signer::es256().listed("k1");
        jwk[name] = json!("c2VjcmV0");
        let found = faults(TENANT, &key_file(jwk));
        assert!(lines(&found).contains("key `k1` is private"), "{}", lines(&found));
        assert!(!found[0].render(false).contains("c2VjcmV0"));
    }
    let secret = json!({"kty": "oct", "k": "c2VjcmV0", "kid": "h", "alg": "HS256"});
    assert!(lines(&faults(TENANT, &key_file(secret))).contains("key `h` is private"));
}

#[test]
fn a02_a_key_that_two_algorithms_fit_is_asked_about() {
    let text = TENANT.replace("\"RS256\"]", "\"RS256\", \"PS256\"]");
    let mut jwk = Signer::rsa().jwk();
    jwk.insert("kid".to_owned(), json!("k1"));
    let found = faults(&text, &key_file(jwk.into()));
    assert!(lines(&found).contains("several allowed algorithms fit it"), "{}", lines(&found));
    assert_eq!(
        found[0].source.as_ref().map(|(source, span)| (&*source.path, span.is_some())),
        Some(("jwks.json", true))
    );
}

#[test]
fn keys_that_cannot_be_used_are_warned_of_and_ignored() {
    let keys = [
        Signer::es256().listed("good"),
        json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA", "kid": "long"}),
        json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA", "kid": "later"}),
        json!({"kty": "RSA", "use": "enc", "n": "AA", "e": "AQAB", "kid": "enc", "alg": "RSA-OAEP"}),
    ];
    let (authenticator, found) =
        try_compile("acme", TENANT, &[("jwks.json", jwks(&keys))], DevKeys::Refused, &shared());
    assert!(authenticator.is_some());
    assert_eq!(found.len(), 3, "{}", lines(&found));
    let text = TENANT.replace(r#""ES256", "#, "");
    assert!(
        lines(&faults(&text, &key_file(Signer::es256().listed("k1"))))
            .contains("no key in the set can verify")
    );
}

#[test]
fn what_is_no_key_set_is_a_fault() {
    let many = jwks(&vec![json!({"kty": "x"}); 65]);
    let twice = jwks(&[Signer::es256().listed("k"), Signer::es256().listed("k")]);
    for text in [
        "",
        "[]",
        "{}",
        r#"{"keys": {}}"#,
        r#"{"keys": []}"#,
        r#"{"keys": [1]}"#,
        r#"{"keys":[],"keys":[]}"#,
        &many,
        &twice,
    ] {
        assert!(faults(TENANT, &[("jwks.json", text.to_owned())]).iter().any(Diagnostic::is_fault), "{text}");
    }
    let large = format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(256 * 1024));
    assert!(lines(&faults(TENANT, &[("jwks.json", large)])).contains("larger than"));
}

#[test]
fn pairs_of_issuer_and_tenant_value_are_told_for_the_platform_to_compare() {
    let files = key_file(Signer::es256().listed("k1"));
    let pair = |tenant: &str, more: &str| {
        compiled(tenant, &format!("{TENANT}\n{more}\n"), &files).issuer_pairs().remove(0)
    };
    let (whole, acme) = (pair("acme", ""), pair("acme", "tenant-claim = \"/t\""));
    let (globex, as_acme) = (
        pair("globex", "tenant-claim = \"/t\""),
        pair("globex", "tenant-claim = \"/t\"\ntenant-value = \"acme\""),
    );
    assert_eq!(
        (acme.tenant_value.as_deref(), globex.tenant_value.as_deref()),
        (Some("acme"), Some("globex"))
    );
    assert!(whole.overlaps(&acme) && acme.overlaps(&whole) && acme.overlaps(&as_acme));
    assert!(!acme.overlaps(&globex));
}
