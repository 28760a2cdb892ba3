//! Tokens and key sets as Keycloak, Entra and Auth0 make them, under the tenant.toml that README shows for each.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::world::*;
use crate::authn::{AuthnError, DevKeys};

#[derive(Deserialize)]
struct Fixture {
    header: Value,
    claims: Value,
    jwks: Value,
    caller: Expected,
}

#[derive(Deserialize)]
struct Expected {
    id: String,
    roles: Vec<String>,
    scopes: Vec<String>,
    tags: BTreeMap<String, String>,
}

async fn provider(toml: &str, fixture: &str) {
    let (as_written, found) = try_compile("acme", toml, &[], DevKeys::Refused, &shared());
    assert!(as_written.is_some() && found.is_empty(), "{found:?}");

    let signer = Signer::rsa();
    let (now, jwk) = (seconds(later(0)), signer.jwk());
    let text = fixture
        .replace("\"{iat}\"", &now.to_string())
        .replace("\"{exp}\"", &(now + 300).to_string())
        .replace("{n}", jwk["n"].as_str().unwrap());
    let fixture: Fixture = serde_json::from_str(&text).unwrap();
    // The same record, its key set in a file instead of at the provider.
    let local =
        toml.lines().map(|line| if line.starts_with("keys ") { "keys = \"jwks.json\"" } else { line });
    let local = local.collect::<Vec<_>>().join("\n");
    let (authenticator, found) =
        try_compile("acme", &local, &[("jwks.json", fixture.jwks.to_string())], DevKeys::Refused, &shared());
    let authenticator = authenticator.unwrap_or_else(|| panic!("{found:?}"));

    let token = Token { header: fixture.header, claims: fixture.claims };
    let caller = ask(&authenticator, &token.sign(&signer)).await.unwrap();
    assert_eq!(caller.id(), fixture.caller.id);
    assert_eq!(texts(caller.roles()), fixture.caller.roles);
    assert_eq!(texts(caller.scopes()), fixture.caller.scopes);
    assert_eq!(caller.tags(), &fixture.caller.tags);

    let other = token.clone().claim("aud", "another-service").sign(&signer);
    assert!(matches!(ask(&authenticator, &other).await, Err(AuthnError::Audience)));
    let id_token = token.header("typ", "logout+jwt").sign(&signer);
    assert!(matches!(ask(&authenticator, &id_token).await, Err(AuthnError::TokenType { .. })));
}

macro_rules! fixture {
    ($name:literal) => {
        provider(
            include_str!(concat!("../../../tests/fixtures/authn/", $name, "/tenant.toml")),
            include_str!(concat!("../../../tests/fixtures/authn/", $name, "/token.json")),
        )
        .await
    };
}

#[tokio::test]
async fn keycloak() {
    fixture!("keycloak");
}

#[tokio::test]
async fn entra() {
    fixture!("entra");
}

#[tokio::test]
async fn auth0() {
    fixture!("auth0");
}
