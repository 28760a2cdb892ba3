//! A21: a cached verdict never outlives what it depends on.

use std::sync::Arc;

use super::world::*;
use crate::authn::{AuthnError, DevKeys, KeyFetch, Shared};

#[tokio::test]
async fn a21_a_known_token_is_the_same_caller() {
    let world = World::new();
    let token = Token::new().sign(&world.signer);
    let first = ask(&world.authenticator, &token).await.unwrap();
    let second = ask(&world.authenticator, &token).await.unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(world.authenticator.shared.cached_tokens(), 1);
    let derived = first.derived(|| 7_u64);
    assert!(Arc::ptr_eq(&derived, &second.derived(|| 8_u64)));
    assert_eq!(*second.derived(|| "another type"), "another type");
}

#[tokio::test]
async fn a21_a_cached_token_expires_and_is_not_valid_before_its_time() {
    let world = World::new();
    let token = Token::new().at("nbf", -5).sign(&world.signer);
    assert!(ask(&world.authenticator, &token).await.is_ok());
    let late = ask_at(&world.authenticator, &token, later(631)).await;
    assert!(matches!(late, Err(AuthnError::Expired)), "600s of life and 30s of leeway");
    let early = later(0) - std::time::Duration::from_secs(60);
    assert!(matches!(ask_at(&world.authenticator, &token, early).await, Err(AuthnError::NotYetValid)));
}

#[tokio::test]
async fn a21_refusals_are_not_cached() {
    let world = World::new();
    let stranger = Signer::es256();
    for token in [Token::new().sign(&stranger), Token::new().header("typ", "JWT").sign(&world.signer)] {
        assert!(ask(&world.authenticator, &token).await.is_err());
    }
    assert_eq!(world.authenticator.shared.cached_tokens(), 0);
}

#[tokio::test]
async fn a21_the_whole_token_is_the_key() {
    let world = World::new();
    let token = Token::new().sign(&world.signer);
    assert!(ask(&world.authenticator, &token).await.is_ok());
    let (message, _) = token.rsplit_once('.').unwrap();
    let forged = format!("{message}.{}", encode(&"s".repeat(64)));
    assert!(matches!(ask(&world.authenticator, &forged).await, Err(AuthnError::Signature { .. })));
}

#[tokio::test]
async fn a21_a_tenants_verdict_is_no_other_tenants() {
    let shared = shared();
    let (ours, theirs) = (Signer::es256(), Signer::es256());
    let world = |tenant, signer: &Signer| {
        let files = [("jwks.json", jwks(&[signer.listed("k1")]))];
        try_compile(tenant, TENANT, &files, DevKeys::Refused, &shared).0.unwrap()
    };
    let (acme, rotated, globex) = (world("acme", &ours), world("acme", &theirs), world("globex", &theirs));
    let token = Token::new().sign(&ours);
    assert!(ask(&acme, &token).await.is_ok());
    // A later revision of the tenant's part without the key, and another tenant with the same issuer in its file.
    assert!(matches!(ask(&rotated, &token).await, Err(AuthnError::Signature { .. })));
    let header = format!("Bearer {token}");
    let mut request = received(&[header.as_bytes()], later(0));
    request.tenant = "globex".parse().unwrap();
    assert!(matches!(globex.authenticate(request).await, Err(AuthnError::Signature { .. })));
}

#[tokio::test]
async fn a21_the_cache_is_bounded() {
    let shared = Shared::new(64 * 1024, KeyFetch { platform_roots: false, ..KeyFetch::default() });
    let signer = Signer::ed25519();
    let files = [("jwks.json", jwks(&[signer.listed("k1")]))];
    let (authenticator, _) = try_compile("acme", TENANT, &files, DevKeys::Refused, &shared);
    let authenticator = authenticator.unwrap();
    for subject in 0..200 {
        let token = Token::new().claim("sub", subject.to_string()).sign(&signer);
        assert!(ask(&authenticator, &token).await.is_ok());
    }
    // Each weighs more than a kilobyte.
    assert!(shared.cached_tokens() <= 64, "{}", shared.cached_tokens());
}
