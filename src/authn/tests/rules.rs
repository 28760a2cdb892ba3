//! A1–A15.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::world::*;
use crate::authn::{AuthnError, Check, MAX_TOKEN_BYTES};

#[tokio::test]
async fn a01_a_token_signed_with_the_public_key_as_its_secret_is_refused() {
    let world = World::with(Signer::rsa());
    let header = encode(r#"{"alg":"HS256","typ":"at+jwt","kid":"k1"}"#);
    let message = format!("{header}.{}", encode(&Token::new().claims.to_string()));
    for secret in [world.signer.public_der(), jwks(&[world.signer.listed("k1")]).into_bytes()] {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()));
        assert!(matches!(ask(&world.authenticator, &token).await, Err(AuthnError::Algorithm { .. })));
    }
}

#[tokio::test]
async fn a01_none_and_other_families_are_refused() {
    let world = World::new();
    for algorithm in ["none", "None", "nOnE", "HS256", "RS256", "ES384", "EdDSA", "es256", "", "ES512"] {
        let refusal = world.refusal(Token::new().header("alg", algorithm)).await;
        assert!(matches!(refusal, AuthnError::Algorithm { .. }), "{algorithm}: {refusal}");
    }
    let unsigned = format!("{}.{}.", encode(r#"{"alg":"none","typ":"at+jwt"}"#), encode("{}"));
    assert!(matches!(ask(&world.authenticator, &unsigned).await, Err(AuthnError::NotThreeSegments)));
}

#[tokio::test]
async fn a02_a_key_has_one_algorithm_of_ours() {
    let signer = Signer::rsa();
    let bare = |more: serde_json::Value| {
        let mut jwk = signer.jwk();
        jwk.insert("kid".to_owned(), json!("k1"));
        jwk.extend(more.as_object().unwrap().clone());
        vec![("jwks.json", jwks(&[jwk.into()]))]
    };
    let allowing = |names: &str| TENANT.replace(r#"["ES256", "ES384", "EdDSA", "RS256"]"#, names);
    // Without `alg`, the one that fits.
    let only = compiled("acme", &allowing(r#"["ES256", "PS256"]"#), &bare(json!({})));
    assert!(ask(&only, &Token::new().header("alg", "PS256").sign(&signer)).await.is_ok());
    for other in ["RS256", "PS384", "ES256"] {
        let refused = ask(&only, &Token::new().header("alg", other).sign(&signer)).await;
        assert!(matches!(refused, Err(AuthnError::Algorithm { .. })), "{other}");
    }
    // With `alg`, that one, though others are allowed for other keys.
    let declared = compiled("acme", &allowing(r#"["RS256", "PS256"]"#), &bare(json!({"alg": "RS256"})));
    assert!(ask(&declared, &Token::new().sign(&signer)).await.is_ok());
    let refused = ask(&declared, &Token::new().header("alg", "PS256").sign(&signer)).await;
    assert!(matches!(refused, Err(AuthnError::Algorithm { .. })));
}

#[tokio::test]
async fn a02_a_key_for_something_else_verifies_nothing() {
    let (other, signer) = (Signer::ed25519(), Signer::es256());
    for more in [
        json!({"use": "enc"}),
        json!({"key_ops": ["deriveKey"]}),
        json!({"use": "x"}),
        json!({"key_ops": []}),
    ] {
        let mut jwk = signer.jwk();
        jwk.insert("kid".to_owned(), json!("k1"));
        jwk.extend(more.as_object().unwrap().clone());
        let world = compiled("acme", TENANT, &[("jwks.json", jwks(&[jwk.into(), other.listed("k2")]))]);
        let refused = ask(&world, &Token::new().sign(&signer)).await;
        assert!(matches!(refused, Err(AuthnError::UnknownKey { .. })), "{more}");
    }
}

#[tokio::test]
async fn a04_unknown_crit_is_refused() {
    let world = World::new();
    for crit in [json!(["exp"]), json!(["b64"]), json!([]), json!(null), json!("x")] {
        let refusal = world.refusal(Token::new().header("crit", crit).header("b64", false)).await;
        assert!(matches!(refusal, AuthnError::Critical));
    }
}

#[tokio::test]
async fn a05_keys_in_the_header_are_never_used() {
    let world = World::new();
    let stranger = Signer::es256();
    let bent = |token: Token| {
        token
            .header("jwk", stranger.listed("k1"))
            .header("jku", "https://evil.example/jwks.json")
            .header("x5u", "https://evil.example/chain.pem")
            .header("x5c", json!(["MIIB"]))
    };
    // Signed by the key that the header brings along.
    assert!(matches!(
        ask(&world.authenticator, &bent(Token::new()).sign(&stranger)).await,
        Err(AuthnError::Signature { .. })
    ));
    // Signed by the issuer: what is never read does no harm (Entra sends `x5t`).
    assert!(world.ask(bent(Token::new()).header("x5t", "abc")).await.is_ok());
}

#[tokio::test]
async fn a06_a_key_id_is_compared_byte_by_byte_in_the_issuers_own_set() {
    let world = World::new();
    for id in ["K1", "k1 ", "k", "../k1", "k1' OR '1'='1", "k1\u{0}", ""] {
        let refusal = world.refusal(Token::new().header("kid", id)).await;
        assert!(matches!(refusal, AuthnError::UnknownKey { .. }), "{id}");
    }
    assert!(matches!(
        world.refusal(Token::new().header("kid", "k".repeat(257))).await,
        AuthnError::KeyIdTooLong
    ));
    for id in [json!(1), json!(["k1"]), json!(null)] {
        assert!(matches!(
            world.refusal(Token::new().header("kid", id)).await,
            AuthnError::MalformedHeader { .. }
        ));
    }
}

#[tokio::test]
async fn a06_one_key_id_at_two_issuers_is_two_keys() {
    let (first, second) = (Signer::es256(), Signer::es256());
    let other = TENANT.replace("idp.acme", "partners.acme").replace("jwks.json", "partners.json");
    let text = format!("{TENANT}\n{other}\nname = \"partners\"\n");
    let files = [("jwks.json", jwks(&[first.listed("k1")])), ("partners.json", jwks(&[second.listed("k1")]))];
    let authenticator = compiled("acme", &text, &files);
    let partner = Token::new().claim("iss", "https://partners.acme.example");
    assert_eq!(ask(&authenticator, &Token::new().sign(&first)).await.unwrap().id(), "acme/alice");
    assert_eq!(ask(&authenticator, &partner.sign(&second)).await.unwrap().id(), "acme/partners/alice");
    for crossed in [Token::new().sign(&second), partner.sign(&first)] {
        assert!(matches!(ask(&authenticator, &crossed).await, Err(AuthnError::Signature { .. })));
    }
}

#[tokio::test]
async fn a06_a_token_without_key_id_needs_the_only_key_that_fits() {
    let (signer, other, rsa) = (Signer::es256(), Signer::es256(), Signer::rsa());
    let token = Token::new().without("kid").sign(&signer);
    let one = compiled("acme", TENANT, &[("jwks.json", jwks(&[signer.listed("k1"), rsa.listed("k2")]))]);
    assert!(ask(&one, &token).await.is_ok());
    let two = compiled("acme", TENANT, &[("jwks.json", jwks(&[signer.listed("k1"), other.listed("k2")]))]);
    assert!(matches!(ask(&two, &token).await, Err(AuthnError::AmbiguousKey { .. })));
    let none = compiled("acme", TENANT, &[("jwks.json", jwks(&[rsa.listed("k2")]))]);
    assert!(matches!(ask(&none, &token).await, Err(AuthnError::UnknownKey { .. })));
}

#[tokio::test]
async fn a07_the_issuer_is_required_and_exact() {
    let world = World::new();
    assert!(matches!(world.refusal(Token::new().without("iss")).await, AuthnError::UnknownIssuer { .. }));
    for issuer in [
        json!("https://idp.acme.example/"),
        json!("HTTPS://idp.acme.example"),
        json!("https://idp.globex.example"),
        json!(""),
        json!([ISSUER]),
        json!(null),
        json!({"a": 1}),
    ] {
        let refusal = world.refusal(Token::new().claim("iss", issuer.clone())).await;
        assert!(matches!(refusal, AuthnError::UnknownIssuer { .. }), "{issuer}");
    }
}

#[tokio::test]
async fn a07_the_tenant_claim_must_name_this_tenant() {
    let world = World::line("tenant-claim = \"/org/name\"");
    assert!(world.ask(Token::new().claim("org", json!({"name": "acme"}))).await.is_ok());
    for org in [
        json!({"name": "globex"}),
        json!({"name": ["acme"]}),
        json!({"name": "ACME"}),
        json!("acme"),
        json!({}),
    ] {
        assert!(matches!(
            world.refusal(Token::new().claim("org", org)).await,
            AuthnError::TenantClaim { .. }
        ));
    }
    assert!(matches!(world.refusal(Token::new()).await, AuthnError::TenantClaim { .. }));
}

#[tokio::test]
async fn a07_records_of_one_issuer_are_told_apart_by_their_tenant_value() {
    let signer = Signer::es256();
    let record = |value: &str| format!("{TENANT}\ntenant-claim = \"/tid\"\ntenant-value = \"{value}\"\n");
    let text = format!("{}\n{}\nname = \"b\"\n", record("one"), record("two"));
    let authenticator = compiled("acme", &text, &[("jwks.json", jwks(&[signer.listed("k1")]))]);
    for (value, id) in [("one", "acme/alice"), ("two", "acme/b/alice")] {
        let token = Token::new().claim("tid", value).sign(&signer);
        assert_eq!(ask(&authenticator, &token).await.unwrap().id(), id);
    }
    let refused = ask(&authenticator, &Token::new().claim("tid", "three").sign(&signer)).await;
    assert!(matches!(refused, Err(AuthnError::TenantClaim { .. })));
}

#[tokio::test]
async fn a08_the_audience_is_required_and_ours() {
    let world = World::new();
    assert!(world.ask(Token::new().claim("aud", json!(["other", "gate"]))).await.is_ok());
    for audience in [json!("other"), json!(["other"]), json!([]), json!("https://gate.example/acme/")] {
        assert!(matches!(world.refusal(Token::new().claim("aud", audience)).await, AuthnError::Audience));
    }
    for audience in [json!(null), json!(7), json!({"gate": 1}), json!(["gate", 7])] {
        let refusal = world.refusal(Token::new().claim("aud", audience)).await;
        assert!(matches!(refusal, AuthnError::Claim { claim: "aud" }), "{refusal}");
    }
    assert!(matches!(world.refusal(Token::new().without("aud")).await, AuthnError::Claim { claim: "aud" }));
}

#[tokio::test]
async fn a09_the_type_is_required_and_one_of_the_issuers() {
    let world = World::new();
    for kind in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+jwt"] {
        assert!(world.ask(Token::new().header("typ", kind)).await.is_ok(), "{kind}");
    }
    for kind in ["JWT", "dpop+jwt", "logout+jwt", "", "at+jwt ", "application/x/at+jwt", "text/at+jwt"] {
        let refusal = world.refusal(Token::new().header("typ", kind)).await;
        assert!(matches!(refusal, AuthnError::TokenType { .. }), "{kind}");
    }
    assert!(matches!(world.refusal(Token::new().without("typ")).await, AuthnError::TokenType { .. }));
    let plain = World::line("token-types = [\"JWT\"]");
    assert!(plain.ask(Token::new().header("typ", "jwt")).await.is_ok());
    assert!(matches!(plain.refusal(Token::new()).await, AuthnError::TokenType { .. }));
}

#[tokio::test]
async fn a10_expired_immature_and_long_lived_tokens_are_refused() {
    let world = World::new();
    for claim in ["exp", "sub", "iat"] {
        let refusal = world.refusal(Token::new().without(claim)).await;
        assert!(
            matches!(refusal, AuthnError::Claim { claim: named } if named == claim),
            "{claim}: {refusal}"
        );
    }
    let issued = || Token::new().at("iat", -700);
    assert!(matches!(world.refusal(issued().at("exp", -60)).await, AuthnError::Expired));
    assert!(world.ask(issued().at("exp", -15)).await.is_ok(), "within the leeway of 30s");
    assert!(matches!(world.refusal(Token::new().at("nbf", 120)).await, AuthnError::NotYetValid));
    assert!(world.ask(Token::new().at("nbf", 15)).await.is_ok(), "within the leeway");
    assert!(matches!(world.refusal(Token::new().at("iat", 120)).await, AuthnError::IssuedInFuture));
    assert!(world.ask(Token::new().at("iat", 15)).await.is_ok(), "within the leeway");
    assert!(matches!(world.refusal(Token::new().at("exp", 7200)).await, AuthnError::LivesTooLong { .. }));
    let eternal = Token::new().claim("exp", u64::MAX);
    assert!(matches!(world.refusal(eternal).await, AuthnError::LivesTooLong { .. }));
}

#[tokio::test]
async fn a10_without_max_lifetime_a_token_may_lack_iat_and_lives_a_day_at_most() {
    let signer = Signer::es256();
    let text = TENANT.replace("max-lifetime = \"1h\"", "");
    let authenticator = compiled("acme", &text, &[("jwks.json", jwks(&[signer.listed("k1")]))]);
    let ask = async |token: Token| ask(&authenticator, &token.sign(&signer)).await;
    assert!(ask(Token::new().without("iat")).await.is_ok());
    assert!(ask(Token::new().at("exp", 23 * 3600)).await.is_ok());
    for token in [Token::new().at("exp", 25 * 3600), Token::new().without("iat").at("exp", 25 * 3600)] {
        assert!(matches!(ask(token).await, Err(AuthnError::LivesTooLong { .. })));
    }
}

#[tokio::test]
async fn a10_leeway_is_the_issuers() {
    let strict = World::line("leeway = \"0ms\"");
    assert!(matches!(strict.refusal(Token::new().at("iat", -700).at("exp", -15)).await, AuthnError::Expired));
    let lenient = World::line("leeway = \"60s\"");
    assert!(lenient.ask(Token::new().at("iat", -700).at("exp", -40)).await.is_ok());
}

#[tokio::test]
async fn a11_a_time_of_another_type_is_refused() {
    let world = World::new();
    for claim in ["exp", "nbf", "iat", "auth_time"] {
        for value in
            [json!("1893456000"), json!(true), json!([1]), json!({}), json!(-1), json!(1e300), json!(null)]
        {
            let refusal = world.refusal(Token::new().claim(claim, value.clone())).await;
            assert!(
                // jsonwebtoken stops reading at an array or object where it wants a number.
                matches!(refusal.check(), Check::Claims | Check::Lifetime),
                "{claim} {value}: {refusal}"
            );
        }
    }
    // RFC 7519 §2: a NumericDate may have a fraction.
    let fraction = serde_json::Number::from_f64(seconds(later(300)) as f64 + 0.5).unwrap();
    assert!(world.ask(Token::new().claim("exp", serde_json::Value::Number(fraction))).await.is_ok());
}

#[tokio::test]
async fn a12_a_name_twice_is_refused_in_header_and_claims() {
    let world = World::new();
    let good = Token::new();
    let header = r#"{"alg":"ES256","typ":"at+jwt","kid":"k1"}"#;
    let claims = good.claims.to_string();
    let ask = async |header: &str, claims: &str| {
        ask(&world.authenticator, &world.signer.seal("ES256", header, claims)).await
    };
    assert!(ask(header, &claims).await.is_ok());
    for twice in [
        r#"{"alg":"ES256","alg":"ES256","typ":"at+jwt","kid":"k1"}"#,
        r#"{"alg":"none","typ":"at+jwt","kid":"k1","alg":"ES256"}"#,
        r#"{"alg":"ES256","typ":"at+jwt","kid":"k1","x":{"y":1,"y":2}}"#,
    ] {
        assert!(matches!(ask(twice, &claims).await, Err(AuthnError::MalformedHeader { .. })), "{twice}");
    }
    let open = claims.trim_end_matches('}');
    for (twice, check) in [
        (format!("{open},\"sub\":\"admin\"}}"), Check::Claims),
        (format!("{open},\"\\u0073ub\":\"admin\"}}"), Check::Claims),
        (format!("{open},\"roles\":[\"admin\"]}}"), Check::Claims),
        (format!("{open},\"x\":[{{\"y\":1,\"y\":2}}]}}"), Check::Claims),
        (format!("{open},\"iss\":\"{ISSUER}\"}}"), Check::Issuer),
    ] {
        assert_eq!(ask(header, &twice).await.unwrap_err().check(), check, "{twice}");
    }
}

#[tokio::test]
async fn a13_a_token_has_one_form_within_bounds() {
    let world = World::new();
    let good = Token::new().sign(&world.signer);
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    for (token, expected) in [
        (format!("{header}.{payload}"), "NotThreeSegments"),
        (format!("{good}.x"), "NotThreeSegments"),
        (format!("{header}..{signature}"), "NotThreeSegments"),
        (format!(".{payload}.{signature}"), "NotThreeSegments"),
        (format!("{header}.{payload}."), "NotThreeSegments"),
        // A JWE has five segments.
        (format!("{header}.a.b.c.d"), "NotThreeSegments"),
        (format!("{header}=.{payload}.{signature}"), "NotBase64"),
        (format!("{header}.{payload}.{signature}="), "NotBase64"),
        (format!("{header}.{payload}. {signature}"), "NotBase64"),
        (format!("{header}.{payload}.{signature} "), "NotBase64"),
        (format!("{header}.{payload}.{signature}\t"), "NotBase64"),
        (format!("{header}.{payload}.+{signature}"), "NotBase64"),
        (format!("{header}.{payload}.{}", "a".repeat(MAX_TOKEN_BYTES)), "TooLong"),
        (String::new(), "NotBearer"),
    ] {
        let error = format!("{:?}", ask(&world.authenticator, &token).await.unwrap_err());
        assert!(error.starts_with(expected), "{token}: {error}");
    }
    // 64 bytes leave four unused bits in the last character; all but zero would be a second text of one token.
    let last = signature.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let next = alphabet.chars().nth(alphabet.find(last).unwrap() + 1).unwrap();
    let bent = format!("{header}.{payload}.{}{next}", &signature[..signature.len() - 1]);
    assert!(matches!(ask(&world.authenticator, &bent).await, Err(AuthnError::NotBase64 { .. })));
    for name in ["zip", "enc"] {
        assert!(matches!(world.refusal(Token::new().header(name, "DEF")).await, AuthnError::Encrypted));
    }
    for subject in [String::new(), "s".repeat(256), "a\u{7}".into(), "a\u{85}".into()] {
        assert!(matches!(world.refusal(Token::new().claim("sub", subject)).await, AuthnError::Subject));
    }
    assert!(world.ask(Token::new().claim("sub", "s".repeat(255))).await.is_ok());
}

#[tokio::test]
async fn a14_the_token_is_in_one_authorization_header_and_nowhere_else() {
    let world = World::new();
    let token = Token::new().sign(&world.signer);
    let bearer = format!("Bearer {token}");
    let ask = async |values: &[&[u8]]| world.authenticator.authenticate(received(values, later(0))).await;
    assert!(matches!(ask(&[bearer.as_bytes(), bearer.as_bytes()]).await, Err(AuthnError::SeveralHeaders)));
    assert!(matches!(ask(&[bearer.as_bytes(), b"Basic eDp5"]).await, Err(AuthnError::SeveralHeaders)));
    for value in [
        token.as_bytes(),
        b"Basic eDp5",
        b"Bearer",
        b"Bearer ",
        b"DPoP",
        b"DPoPx y",
        b"Bearer\tx",
        b"Bearerx y",
    ] {
        assert!(matches!(ask(&[value]).await, Err(AuthnError::NotBearer)));
    }
    let mut request = received(&[], later(0));
    request.head.query = Some(format!("access_token={token}"));
    request.head.headers.insert("x-authorization", bearer.parse().unwrap());
    request.head.headers.insert("cookie", format!("access_token={token}").parse().unwrap());
    assert!(matches!(world.authenticator.authenticate(request).await, Err(AuthnError::MissingToken)));
}

#[tokio::test]
async fn a15_only_a_request_without_credential_has_offered_none() {
    let world = World::new();
    let missing = world.authenticator.authenticate(received(&[], later(0))).await.unwrap_err();
    assert!(!missing.offered());
    for value in [&b"Basic eDp5"[..], b"Bearer x", b""] {
        assert!(world.authenticator.authenticate(received(&[value], later(0))).await.unwrap_err().offered());
    }
}
