//! Who is calling: every bad token gets one and the same answer, and the operator gets the reason.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

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
        ("a01 none, and a signature", token().header("alg", "none").sign()),
        ("a01 another algorithm", token().header("alg", "EdDSA").sign()),
        ("a04 unknown crit", token().header("crit", json!(["exp"])).sign()),
        ("a05 a key in the header", {
            let own = IssuerKey::generate("own");
            token().header("jwk", own.jwk()).signed_by(&own).sign()
        }),
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
        ("a10 lives too long", token().claim("exp", now + 7 * 86_400).sign()),
        ("a11 expiry as text", token().claim("exp", (now + 300).to_string()).sign()),
        ("a12 a claim twice", twice),
        ("a13 too long", token().claim("padding", "x".repeat(9000)).sign()),
        ("a13 padded", token().sign() + "="),
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
    let (mut answers, mut reasons) = (BTreeSet::new(), String::new());
    for (n, (what, token)) in (0..).zip(bad_tokens(&world)) {
        // Each comes from a network of its own: past a rate, refusals of one network are only counted.
        let reply = world.invoke("acme/echo").from([127, 0, n, 1]).bearer(token.clone()).send().await;
        let id = reply.header("sandgate-request-id").unwrap().to_owned();
        let mut answer = format!("{}\n", reply.status);
        for (name, value) in reply.headers.iter().filter(|(name, _)| *name != "date") {
            answer.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
        }
        answer.push_str(std::str::from_utf8(&reply.body).unwrap());
        answers.insert(answer.replace(&id, "ID"));

        let record = world.record(&reply);
        assert_eq!(
            (&record["kind"], &record["stage"]),
            (&json!("refused"), &json!("authenticate")),
            "{what}"
        );
        let told = ["tenant", "client"].map(|name| record[name].as_str().unwrap());
        assert_eq!(told, ["acme", &format!("127.0.{n}.1")], "{what}");
        assert!(record["caller"].is_null(), "{what}: {record}");
        let outcome = &record["outcome"];
        assert_eq!(
            (&outcome["status"], &outcome["code"]),
            (&json!(401), &json!("unauthenticated")),
            "{what}"
        );
        let signature = token.rsplit('.').next().filter(|signature| !signature.is_empty());
        assert!(!signature.is_some_and(|s| record.to_string().contains(s)), "{what}: {record}");
        let text = |name: &str| outcome[name].as_str().unwrap().to_owned();
        reasons.push_str(&format!("{what} · {} · {}\n", text("reason"), text("detail")));
    }
    assert_eq!(answers.len(), 1, "{answers:#?}");
    insta::assert_snapshot!(answers.first().unwrap(), @r#"
    401
    content-type: application/problem+json
    www-authenticate: Bearer realm="sandgate", error="invalid_token"
    sandgate-request-id: ID
    cache-control: no-store
    x-content-type-options: nosniff
    strict-transport-security: max-age=31536000
    content-length: 179
    {"type":"urn:sandgate:error:unauthenticated","title":"No valid credential for this tenant","status":401,"instance":"ID","code":"unauthenticated"}
    "#);
    insta::assert_snapshot!(reasons, @r#"
    a01 the public key as a secret · algorithm · the token's algorithm is not that of its key at issuer `https://idp.acme.example`
    a01 none · form · the token is not three non-empty segments
    a01 none, and a signature · algorithm · the token's algorithm is not that of its key at issuer `https://idp.acme.example`
    a01 another algorithm · algorithm · the token's algorithm is not that of its key at issuer `https://idp.acme.example`
    a04 unknown crit · header · the token's header has `crit`
    a05 a key in the header · signature · the signature does not verify with the key of issuer `https://idp.acme.example`
    a06 unknown kid · key · issuer `https://idp.acme.example` has no key that fits the token
    a07 no issuer · issuer · the token's issuer is not one of tenant `acme`
    a07 another issuer · issuer · the token's issuer is not one of tenant `acme`
    a08 no audience · claims · claim `aud` is absent or of the wrong type
    a08 another audience · audience · the token is for another audience
    a09 no type · type · the token's type is not one that issuer `https://idp.acme.example` may use here
    a09 another type · type · the token's type is not one that issuer `https://idp.acme.example` may use here
    a10 no expiry · claims · claim `exp` is absent or of the wrong type
    a10 expired · expiry · the token has expired
    a10 not yet · not before · the token is not valid yet
    a10 issued in the future · issued at · the token was issued in the future
    a10 lives too long · lifetime · the token lives longer than issuer `https://idp.acme.example` may let it
    a11 expiry as text · claims · claim `exp` is absent or of the wrong type
    a12 a claim twice · claims · the claims are malformed: not strict JSON
    a13 too long · form · the token is longer than 8192 bytes
    a13 padded · form · the signature is not canonical base64url
    a13 two segments · form · the token is not three non-empty segments
    no subject · claims · claim `sub` is absent or of the wrong type
    a strange key · signature · the signature does not verify with the key of issuer `https://idp.acme.example`
    another tenant's · issuer · the token's issuer is not one of tenant `acme`
    not a token · form · the token is not three non-empty segments
    "#);
}

/// Past its rate a network is counted, by reason, and nothing that anybody sends is lost.
#[tokio::test]
async fn refusals_of_one_network_beyond_its_rate_are_counted_by_reason() {
    let world = World::with("echo", &echo()).start().await;
    let (expired, strange) = (world.token("acme").expired().sign(), "Zm9v".to_owned());
    for _ in 0..40 {
        for token in [&expired, &strange] {
            assert_eq!(world.invoke("acme/echo").bearer(token).send().await.summary(), "401 unauthenticated");
        }
    }
    let audit = world.path().join(".sandgate/audit");
    world.running.stop().await;
    let records: Vec<Value> = sandgate::record::show(&audit, sandgate::record::Filter::default())
        .unwrap()
        .map(|shown| shown.unwrap().value)
        .collect();
    for reason in ["expiry", "form"] {
        let alone =
            records.iter().filter(|r| r["kind"] == "refused" && r["outcome"]["reason"] == reason).count()
                as u64;
        let counted: u64 = records
            .iter()
            .filter(|r| r["kind"] == "refused_before_authentication" && r["reason"] == reason)
            .map(|r| r["count"].as_u64().unwrap())
            .sum();
        assert!(alone > 0 && counted > 0, "{reason}: {alone} alone, {counted} counted");
        assert_eq!(alone + counted, 40, "{reason}");
    }
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
