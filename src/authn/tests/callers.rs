//! Who a good token's caller is.

use serde_json::json;

use super::world::*;
use crate::authn::AuthnError;

#[tokio::test]
async fn a_good_token_becomes_its_caller() {
    for signer in [Signer::es256(), Signer::es384(), Signer::ed25519(), Signer::rsa()] {
        let world = World::with(signer);
        let token = Token::new().claim("auth_time", 1_700_000_000).claim("profile", json!({"level": 3}));
        let caller = world.ask(token).await.unwrap();
        assert_eq!(caller.id(), "acme/alice");
        assert_eq!(caller.tenant().as_str(), "acme");
        assert_eq!(caller.subject(), "alice");
        assert_eq!(caller.issuer(), ISSUER);
        assert_eq!(texts(caller.roles()), ["acme/billing"]);
        assert_eq!(texts(caller.scopes()), ["read", "write"]);
        assert_eq!(caller.tags()["department"], "finance");
        assert_eq!(caller.tags()["level"], "3");
        assert_eq!(caller.authenticated_at().map(seconds), Some(1_700_000_000));
        assert_eq!(caller.binding(), "none");
    }
}

#[tokio::test]
async fn the_evidence_no_longer_holds_the_token() {
    let world = World::new();
    let token = Token::new().sign(&world.signer);
    let header = format!("bEaReR  {token}");
    let authenticated =
        world.authenticator.authenticate(received(&[header.as_bytes()], later(0))).await.unwrap();
    assert!(authenticated.head().headers.is_empty());
    assert_eq!(authenticated.function().as_str(), "echo");
    assert_eq!(authenticated.function_id().to_string(), "acme/echo");
    let (received, caller) = authenticated.into_parts();
    assert_eq!((received.tenant.as_str(), caller.id()), ("acme", "acme/alice"));
}

#[tokio::test]
async fn a_request_for_another_tenant_is_our_fault() {
    let world = World::new();
    let mut request = received(&[b"Bearer x"], later(0));
    request.tenant = "globex".parse().unwrap();
    assert!(matches!(world.authenticator.authenticate(request).await, Err(AuthnError::Misrouted { .. })));
}

#[tokio::test]
async fn subjects_and_roles_cannot_leave_their_place_in_an_id() {
    let world = World::new();
    let caller =
        world.ask(Token::new().claim("sub", "a/b%2Fc").claim("roles", json!(["x/y", "é"]))).await.unwrap();
    assert_eq!(caller.id(), "acme/a%2Fb%252Fc");
    assert_eq!(caller.subject(), "a/b%2Fc");
    assert_eq!(texts(caller.roles()), ["acme/x%2Fy", "acme/é"]);
}

#[tokio::test]
async fn a_named_issuer_has_ids_of_its_own_and_roles_too_unless_shared() {
    let named = World::line("name = \"partners\"");
    let caller = named.ask(Token::new()).await.unwrap();
    assert_eq!(
        (caller.id(), texts(caller.roles())),
        ("acme/partners/alice", vec!["acme/partners/billing".to_owned()])
    );

    let text = format!("share-roles = true\n{TENANT}\nname = \"partners\"\n");
    let shared = compiled("acme", &text, &[("jwks.json", jwks(&[named.signer.listed("k1")]))]);
    let caller = ask(&shared, &Token::new().sign(&named.signer)).await.unwrap();
    assert_eq!(
        (caller.id(), texts(caller.roles())),
        ("acme/partners/alice", vec!["acme/billing".to_owned()])
    );
}

#[tokio::test]
async fn roles_and_scopes_are_lists_or_words_and_never_truncated() {
    let world = World::new();
    for (claim, value, roles) in [
        ("roles", json!("b a  b"), &["acme/a", "acme/b"][..]),
        ("roles", json!([]), &[]),
        ("roles", json!(null), &[]),
        ("scope", json!(["x", "y z"]), &["acme/billing"]),
    ] {
        assert_eq!(texts(world.ask(Token::new().claim(claim, value)).await.unwrap().roles()), roles);
    }
    let many = |n: usize| json!((0..n).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(world.ask(Token::new().claim("roles", many(64))).await.unwrap().roles().len(), 64);
    assert_eq!(world.ask(Token::new().claim("scope", many(256))).await.unwrap().scopes().len(), 256);
    for (claim, value) in [
        ("roles", many(65)),
        ("roles", json!(7)),
        ("roles", json!({"a": 1})),
        ("roles", json!(["a", 7])),
        ("roles", json!([""])),
        ("roles", json!(["x".repeat(257)])),
        ("roles", json!(["a\u{0}b"])),
        ("scope", many(257)),
        ("department", json!(["finance"])),
        ("department", json!({"a": 1})),
        ("department", json!("x".repeat(257))),
        ("department", json!("a\nb")),
    ] {
        let refusal = world.refusal(Token::new().claim(claim, value.clone())).await;
        assert!(matches!(refusal, AuthnError::Attributes { .. }), "{claim} {value}: {refusal}");
    }
}
