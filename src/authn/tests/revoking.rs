//! A20: what is revoked is refused, cached or not.

use super::world::*;
use crate::{
    authn::{AuthnError, Revocations},
    site::diagnostic::Source,
};

#[tokio::test]
async fn a20_revoked_tokens_are_refused_by_id_subject_key_and_issuer() {
    let world = World::new();
    let token = Token::new();
    let now = seconds(later(0));
    let revoke = |text: String| {
        let revocations = Revocations::parse(&Source::new("revoked.json", text)).unwrap();
        world.authenticator.revoke(revocations);
    };
    // The token is in the cache from here on.
    assert!(world.ask(token.clone()).await.is_ok());
    for (text, by) in [
        (r#"{"jti": ["t0", "t1"]}"#.to_owned(), "jti"),
        (r#"{"kid": ["k1"]}"#.to_owned(), "kid"),
        (format!(r#"{{"issuer": ["{ISSUER}"]}}"#), "issuer"),
        (r#"{"sub": [{"sub": "alice"}]}"#.to_owned(), "sub"),
        (format!(r#"{{"sub": [{{"sub": "alice", "issued-before": {}}}]}}"#, now + 60), "sub"),
    ] {
        revoke(text);
        assert!(
            matches!(world.refusal(token.clone()).await, AuthnError::Revoked { by: named } if named == by)
        );
        let fresh = token.clone().claim("nonce", by);
        assert!(matches!(world.refusal(fresh).await, AuthnError::Revoked { .. }), "{by}, not cached");
    }
    for text in [
        "{}".to_owned(),
        r#"{"jti": ["t2"], "kid": ["k2"], "issuer": ["https://x.example"], "sub": [{"sub": "bob"}]}"#
            .to_owned(),
        format!(r#"{{"sub": [{{"sub": "alice", "issued-before": {}}}]}}"#, now - 60),
    ] {
        revoke(text);
        assert!(world.ask(token.clone()).await.is_ok());
    }
}

#[test]
fn a20_a_faulty_list_of_revocations_is_refused_with_its_line() {
    for text in [
        r#"{"jtis": []}"#,
        "ǻ",
        "{\"jti\": ǻ",
        "[]",
        "",
        r#"{"jti": [1]}"#,
        r#"{"sub": ["alice"]}"#,
        "{\"jti\": [],\n \"jti\": []}",
    ] {
        let fault = Revocations::parse(&Source::new("revoked.json", text)).unwrap_err();
        assert!(fault.is_fault() && !fault.render(false).is_empty(), "{text}");
    }
    let huge = format!(r#"{{"jti": ["{}"]}}"#, "x".repeat(1024 * 1024));
    assert!(Revocations::parse(&Source::new("revoked.json", huge)).is_err());
    let twice = r#"{"sub": [{"sub": "a", "issued-before": 5}, {"sub": "a"}]}"#;
    assert_eq!(Revocations::parse(&Source::new("revoked.json", twice)).unwrap().len(), 1);
}
