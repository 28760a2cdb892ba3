//! Dev issuers: made, trusted by `dev`, refused by `serve`; what they mint is taken.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use super::world::*;
use crate::{
    authn::{
        AuthnError, DevKeys,
        dev::{DevIssuer, MintError, MintRequest, mint},
    },
    site::{diagnostic::Source, tenant::RawTenant},
};

const DEV: &str = r#"
[[issuers]]
issuer = "https://dev.acme.example"
audiences = ["https://gate.example/acme"]
algorithms = ["ES256"]
keys = "dev"
dev = true
max-lifetime = "1h"
roles = "/realm/roles"
scopes = "/scope"
tags = { department = "/department" }
tenant-claim = "/org/tenant"

[[issuers]]
issuer = "https://dev.partners.example"
audiences = ["a", "b"]
algorithms = ["RS256", "EdDSA"]
keys = "dev"
dev = true
name = "partners"
token-types = ["JWT"]
"#;

#[tokio::test]
async fn a_minted_token_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("certs/dev/issuers");
    let tenant = "acme".parse().unwrap();
    let raw: RawTenant = toml::from_str(DEV).unwrap();
    let made = DevIssuer::create_all(&dir, &tenant, &raw).unwrap();
    assert_eq!(made, DevIssuer::create_all(&dir, &tenant, &raw).unwrap(), "made once");
    for issuer in &made {
        assert_eq!(std::fs::metadata(&issuer.key).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!std::fs::read_to_string(&issuer.jwks).unwrap().contains("\"d\""));
    }
    assert_eq!(made[1].jwks.file_name().unwrap(), "acme.partners.jwks.json");

    let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok().map(|text| Source::new(name, text));
    let (authenticator, found) = try_compile("acme", DEV, &[], DevKeys::Allowed(&read), &shared());
    assert!(found.is_empty(), "{found:?}");
    let authenticator = authenticator.unwrap();
    assert!(authenticator.has_dev_issuer());

    let request = MintRequest {
        roles: vec!["billing".into(), "admin".into()],
        scopes: vec!["read".into(), "write".into()],
        claims: vec![("department".into(), "finance".into()), ("/a/b".into(), "[1]".into())],
        ..MintRequest::new("alice")
    };
    let caller = ask(&authenticator, &mint(&dir, &tenant, &raw, &request).unwrap()).await.unwrap();
    assert_eq!(caller.id(), "acme/alice");
    assert_eq!(texts(caller.roles()), ["acme/admin", "acme/billing"]);
    assert_eq!(texts(caller.scopes()), ["read", "write"]);
    assert_eq!(caller.tags()["department"], "finance");

    let partner = MintRequest { issuer: Some("partners".into()), ..MintRequest::new("bob") };
    let caller = ask(&authenticator, &mint(&dir, &tenant, &raw, &partner).unwrap()).await.unwrap();
    assert_eq!(caller.id(), "acme/partners/bob");

    let first = mint(&dir, &tenant, &raw, &request).unwrap();
    assert_ne!(first, mint(&dir, &tenant, &raw, &request).unwrap(), "each has its own jti");
}

#[test]
fn what_the_record_would_refuse_is_not_minted() {
    let dir = tempfile::tempdir().unwrap();
    let tenant = "acme".parse().unwrap();
    let raw: RawTenant = toml::from_str(DEV).unwrap();
    let fails = |request: MintRequest| mint(dir.path(), &tenant, &raw, &request).unwrap_err();
    let partners = || Some("partners".to_owned());
    assert!(matches!(fails(MintRequest::new("a")), MintError::NoKey { .. }));
    let long = MintRequest { ttl: Duration::from_secs(7200), ..MintRequest::new("a") };
    assert!(matches!(fails(long), MintError::LivesTooLong { .. }));
    let days =
        MintRequest { ttl: Duration::from_secs(25 * 3600), issuer: partners(), ..MintRequest::new("a") };
    assert!(matches!(fails(days), MintError::LivesTooLong { .. }), "a day, where nothing is written");
    let unread = MintRequest { issuer: partners(), roles: vec!["x".into()], ..MintRequest::new("a") };
    assert!(matches!(fails(unread), MintError::NotRead { what: "roles" }));
    let unknown = MintRequest { issuer: Some("x".into()), ..MintRequest::new("a") };
    assert!(matches!(fails(unknown), MintError::NoDevIssuer { .. }));
    let collision = MintRequest { claims: vec![("/sub/x".into(), "1".into())], ..MintRequest::new("a") };
    assert!(matches!(fails(collision), MintError::Collision { .. }));
    DevIssuer::create_all(dir.path(), &tenant, &raw).unwrap();
    std::fs::write(dir.path().join("acme.pem"), "no key").unwrap();
    assert!(matches!(fails(MintRequest::new("a")), MintError::NotAKey { .. }));
}

#[tokio::test]
async fn a_dev_issuer_without_key_is_warned_of_and_unavailable_and_serve_refuses_it() {
    let none = |_: &str| None;
    let (authenticator, found) = try_compile("acme", DEV, &[], DevKeys::Allowed(&none), &shared());
    assert_eq!(found.iter().filter(|found| !found.is_fault()).count(), 2);
    let token = Token::new().claim("iss", "https://dev.acme.example").sign(&Signer::es256());
    let refused = ask(&authenticator.unwrap(), &token).await;
    assert!(matches!(refused, Err(AuthnError::KeysUnavailable { .. })));

    let (authenticator, found) = try_compile("acme", DEV, &[], DevKeys::Refused, &shared());
    assert!(authenticator.is_none());
    assert_eq!(found.len(), 2);
    assert!(found[0].message.contains("served by `sandgate dev` only"));
}
