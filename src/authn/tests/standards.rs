//! The RFCs' own examples (`tests/fixtures/authn/rfc/jws.json`, each with its section): our keys verify them, our rules
//! refuse them as access tokens.

use serde::Deserialize;
use serde_json::{Value, json};

use super::world::*;
use crate::authn::{
    AuthnError,
    keys::{self, Fit, KeySet},
};

#[derive(Deserialize)]
struct Example {
    section: String,
    algorithm: String,
    key: Option<Value>,
    token: String,
}

fn examples() -> Vec<Example> {
    serde_json::from_str(include_str!("../../../tests/fixtures/authn/rfc/jws.json")).unwrap()
}

#[test]
fn examples_with_public_keys_verify_with_the_keys_as_we_load_them() {
    let mut verified = 0;
    for Example { section, algorithm, key, token } in examples() {
        let Some(key) = key else { continue };
        let set = KeySet::parse(jwks(&[key]).as_bytes()).unwrap();
        let key = &set.keys()[0];
        let algorithm = keys::algorithm(&algorithm).unwrap();
        assert_eq!(key.algorithm(&[algorithm]), Fit::One(algorithm), "{section}");
        let (message, signature) = token.rsplit_once('.').unwrap();
        let verify = |message: &str| {
            jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.verifier, algorithm).unwrap()
        };
        assert!(verify(message), "{section}");
        assert!(!verify(&format!("{message}A")), "{section}");
        verified += 1;
    }
    assert_eq!(verified, 5);
}

#[tokio::test]
async fn examples_are_refused_as_access_tokens_for_what_each_lacks() {
    // RFC 7515 A.2 and A.3 are signed by joe, whom this tenant believes; they expired in 2011.
    let believing = |key: Value, algorithm: &str| {
        let text = TENANT
            .replace(ISSUER, "joe")
            .replace(r#"["ES256", "ES384", "EdDSA", "RS256"]"#, &format!("[\"{algorithm}\"]"));
        compiled("acme", &text, &[("jwks.json", jwks(&[key]))])
    };
    for Example { section, algorithm, key, token } in examples() {
        let authenticator = believing(
            key.clone().unwrap_or_else(|| Signer::rsa().listed("k1")),
            if key.is_some() { &algorithm } else { "RS256" },
        );
        let error = ask(&authenticator, &token).await.unwrap_err();
        let expected = match section.as_str() {
            "RFC 7515 A.1" | "RFC 7515 A.2" | "RFC 7515 A.3" => matches!(error, AuthnError::TokenType { .. }),
            "RFC 7515 A.5, RFC 7519 6.1" => matches!(error, AuthnError::NotThreeSegments),
            // Not claims at all.
            _ => matches!(error, AuthnError::UnknownIssuer { .. }),
        };
        assert!(expected, "{section}: {error}");
    }
}

#[test]
fn the_signed_examples_of_joe_have_expired() {
    for Example { section, algorithm, key, token } in examples() {
        let (true, Some(key)) = (section.starts_with("RFC 7515"), key) else { continue };
        let set = KeySet::parse(jwks(&[key]).as_bytes()).unwrap();
        let mut validation = jsonwebtoken::Validation::new(keys::algorithm(&algorithm).unwrap());
        validation.validate_aud = false;
        let error = jsonwebtoken::decode::<Value>(&token, &set.keys()[0].verifier, &validation).unwrap_err();
        assert!(
            matches!(error.kind(), jsonwebtoken::errors::ErrorKind::ExpiredSignature),
            "{section}: {error}"
        );
    }
}

/// RFC 7519 §3.1 and §4.1: claims in any order, `aud` alone or in a list, unknown claims ignored.
#[tokio::test]
async fn claims_have_no_order_and_unknown_ones_do_not_matter() {
    let world = World::new();
    let now = seconds(later(0));
    let claims = format!(
        "{{\r\n \"http://example.com/is_root\":true, \"sub\":\"joe\",\r\n \"exp\":{}, \"iat\":{now}, \"aud\":[\"gate\"], \"iss\":\"{ISSUER}\"}}",
        now + 60
    );
    let token = world.signer.seal("ES256", "{\"typ\":\"at+jwt\",\r\n \"alg\":\"ES256\"}", &claims);
    assert_eq!(ask(&world.authenticator, &token).await.unwrap().id(), "acme/joe");
}

/// RFC 7517 A.1: a set with an EC key for encryption and an RSA key for signatures; its dates are 2011's.
#[test]
fn the_example_key_set_is_read() {
    let set = json!({"keys": [
        {"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
         "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM", "use": "enc", "kid": "1"},
        {"kty": "RSA", "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
         "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"},
    ]});
    let set = KeySet::parse(set.to_string().as_bytes()).unwrap();
    assert_eq!(set.keys().len(), 1);
    assert!(set.by_id("2011-04-29").is_some() && set.by_id("1").is_none());
}
