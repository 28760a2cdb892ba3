//! Who is calling: every bad token gets one and the same answer, and the operator gets the reason.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use crate::{
    guest::echo,
    token::{IssuerKey, segments, unix_now},
    world::{Live, World, eventually},
};

/// What each bad token is, by the rule that it breaks, and the token.
fn bad_tokens(world: &Live) -> Vec<(&'static str, String)> {
    let token = || world.token("acme");
    let key = &world.keys["acme"];
    let now = unix_now();
    let hmac = {
        let input = segments(
            &json!({"alg": "HS256", "typ": "at+jwt", "kid": key.id}).to_string(),
            &token().claims.to_string(),
        );
        let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key.public_der());
        let tag = aws_lc_rs::hmac::sign(&secret, input.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
    };
    let none = format!(
        "{}.",
        segments(
            &json!({"alg": "none", "typ": "at+jwt", "kid": key.id}).to_string(),
            &token().claims.to_string()
        )
    );
    let twice = {
        let claims = token().claims.to_string();
        let doubled = format!("{},\"sub\":\"bob\"}}", claims.trim_end_matches('}'));
        key.sign(&segments(&token().header.to_string(), &doubled))
    };
    vec![
        ("a01 the public key as a secret", hmac),
        ("a01 none", none),
        ("a04 unknown crit", token().header("crit", json!(["exp"])).sign()),
        ("a06 unknown kid", token().header("kid", "other").sign()),
        ("a07 no issuer", token().without("iss").sign()),
        ("a07 another issuer", token().claim("iss", "https://idp.globex.example").sign()),
        ("a08 no audience", token().without("aud").sign()),
        ("a08 another audience", token().claim("aud", "https://elsewhere.example").sign()),
        ("a09 no type", token().without_header("typ").sign()),
        ("a09 another type", token().header("typ", "dpop+jwt").sign()),
        ("a10 no expiry", token().without("exp").sign()),
        ("a10 expired", token().expired().sign()),
        ("a10 not yet", token().claim("nbf", now + 300).sign()),
        ("a10 issued in the future", token().claim("iat", now + 300).sign()),
        ("a11 expiry as text", token().claim("exp", (now + 300).to_string()).sign()),
        ("a12 a claim twice", twice),
        ("a13 too long", token().claim("padding", "x".repeat(9000)).sign()),
        ("a13 two segments", token().signing_input()),
        ("no subject", token().without("sub").sign()),
        ("a strange key", token().signed_by(&IssuerKey::generate(&key.id)).sign()),
        ("another tenant's", world.token("globex").sign()),
        ("not a token", "Zm9v".to_owned()),
    ]
}

#[tokio::test]
async fn a15_every_bad_token_gets_one_answer_and_its_reason_is_recorded() {
    let world = World::with("echo", &echo()).tenant("globex").start().await;
    let mut bodies = Vec::new();
    for (what, token) in bad_tokens(&world) {
        let reply = world.invoke("acme/echo").bearer(token.clone()).send().await;
        assert_eq!(reply.summary(), "401 unauthenticated", "{what}");
        assert_eq!(
            reply.header("www-authenticate"),
            Some(r#"Bearer realm="sandgate", error="invalid_token""#),
            "{what}"
        );
        let mut body = reply.json();
        body["instance"] = json!("");
        bodies.push(body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
    // Some stand alone with their reason; past the rate for one client they are counted.
    let refused: Vec<_> = world.records().into_iter().filter(|r| r["kind"] == "refused").collect();
    assert!(
        refused.iter().any(|r| r["outcome"]["detail"].as_str().is_some_and(|d| d.contains("crit"))),
        "{refused:?}"
    );
    assert!(refused.iter().all(|r| r["caller"].is_null()));
}

#[tokio::test]
async fn a14_the_token_is_in_one_authorization_header_and_nowhere_else() {
    let world = World::with("echo", &echo()).start().await;
    let token = world.token("acme").sign();
    let twice = world.invoke("acme/echo").header("authorization", &format!("Bearer {token}")).send().await;
    assert_eq!(twice.summary(), "401 unauthenticated");
    let query = world.invoke(&format!("acme/echo?access_token={token}")).anonymous().send().await;
    assert_eq!(query.summary(), "401 unauthenticated");
    assert_eq!(query.header("www-authenticate"), Some(r#"Bearer realm="sandgate""#));
    let basic = world.invoke("acme/echo").anonymous().header("authorization", "Basic YTpi").send().await;
    assert_eq!(basic.summary(), "401 unauthenticated");
}

#[tokio::test]
async fn a20_a_revocation_holds_for_a_token_that_is_in_the_cache() {
    let world = World::with("echo", &echo()).start().await;
    let token = world.token("acme").sign();
    assert_eq!(world.invoke("acme/echo").bearer(token.clone()).send().await.summary(), "200");
    world.write("policies/acme/revoked.json", r#"{"jti": ["token-1"]}"#);
    eventually("the revocation is in force", || async {
        world.invoke("acme/echo").bearer(token.clone()).send().await.summary() == "401 unauthenticated"
    })
    .await;
    let other = world.token("acme").claim("jti", "token-2").sign();
    assert_eq!(world.invoke("acme/echo").bearer(other).send().await.summary(), "200");
}
