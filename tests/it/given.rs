//! What a function is given: told by a guest that answers with all of it.

use serde_json::json;

use crate::{
    guest::guest,
    token::{IssuerKey, Token},
    world::{Live, MANIFEST, PERMIT_ALL, World},
};

#[tokio::test]
async fn a_function_is_given_the_validated_event_and_who_calls_and_nothing_else() {
    let world = World::with("tells", &guest("tells"))
        .file(
            "functions/acme/tells/function.toml",
            &format!(
                "{MANIFEST}headers = [\"x-correlation-id\"]\nquery = \"query.schema.json\"\nrest = true\n"
            ),
        )
        .file(
            "functions/acme/tells/query.schema.json",
            r#"{"type":"object","additionalProperties":false,"properties":{"page":{"type":"integer"}}}"#,
        )
        .start()
        .await;
    let mut told = Vec::new();
    for http2 in [false, true] {
        let call = world
            .invoke("acme/tells/a/b%20c?page=7")
            .header("accept", "text/plain")
            .header("accept-language", "de")
            .header("x-correlation-id", "one")
            .header("x-correlation-id", "two")
            .with_what_is_never_given();
        let call = call.text("{ \"name\" : \"e\u{301} ' OR 1=1 --\" }");
        let reply = if http2 { call.http2() } else { call }.send().await;
        assert_eq!(reply.summary(), "200");
        told.push(String::from_utf8(reply.body.to_vec()).unwrap());
    }
    assert_eq!(told[0], told[1], "HTTP/2 gives the same event");
    insta::assert_snapshot!(told[0], @r#"
    caller: acme/alice
    role:   acme/invoker
    scope:  call
    method: POST
    rest:   a/b c
    query:  {"page":7}
    header: accept=text/plain
    header: accept-language=de
    header: x-correlation-id=one
    header: x-correlation-id=two
    type:   application/json
    body:   {"name":"é ' OR 1=1 --"}
    signal: /name=sql
    "#);
}

#[tokio::test]
async fn credentials_and_names_of_the_gateway_cannot_be_listed() {
    let names =
        ["authorization", "proxy-authorization", "cookie", "dpop", "sandgate-caller", "x-forwarded-for"];
    let world = World::with("tells", &guest("tells"))
        .file("functions/acme/tells/function.toml", &format!("{MANIFEST}headers = {names:?}\n"))
        .start_with(|_| ())
        .await;
    let faults: Vec<String> = world.running.diagnostics.iter().map(|d| d.one_line()).collect();
    for name in names {
        let told = |fault: &&String| {
            fault.starts_with("functions/acme/tells/function.toml:5: ")
                && fault.contains(&format!("`{name}`"))
        };
        assert!(faults.iter().any(|fault| told(&fault)), "{name} is not told: {faults:#?}");
    }
    assert_eq!(world.invoke("acme/tells").send().await.summary(), "503 unavailable");
}

#[tokio::test]
async fn with_raw_a_function_gets_the_exact_bytes_beside_the_event() {
    let world = World::with("tells", &guest("tells"))
        .function("acme", "exact", &guest("tells"))
        .file("functions/acme/exact/function.toml", &format!("{MANIFEST}raw = true\n"))
        .start()
        .await;
    let sent = " { \"name\" :\t\"e\u{301}\\u0041\" }\r\n";
    for (function, raw) in [("acme/exact", Some(sent)), ("acme/tells", None)] {
        let told = world.invoke(function).text(sent).send().await;
        let told = std::str::from_utf8(&told.body).unwrap();
        assert!(told.contains("\nbody:   {\"name\":\"\u{e9}A\"}\n"), "{told}");
        assert_eq!(told.split_once("\nraw:    ").map(|(_, raw)| raw), raw);
    }
}

/// `sub` is unique within its issuer only: alice of the partners is not alice.
#[tokio::test]
async fn a_caller_of_a_named_issuer_bears_its_name_wherever_the_caller_is_told() {
    let partners = IssuerKey::generate("acme-1");
    let world = with_partners(&partners, "").await;
    let token = |key: &IssuerKey| {
        let mut token = Token::new("acme", key);
        token.claims["iss"] = json!("https://partners.example");
        token
    };
    let reply = world.invoke("acme/tells").bearer(token(&partners).sign()).send().await;
    assert_eq!(reply.summary(), "200");
    let told = std::str::from_utf8(&reply.body).unwrap();
    assert!(told.starts_with("caller: acme/partners/alice\nrole:   acme/partners/invoker\n"), "{told}");
    let record = world.record(&reply);
    assert_eq!(record["caller"]["id"], "acme/partners/alice");
    assert_eq!(record["caller"]["roles"], json!(["acme/partners/invoker"]));
    assert_eq!(record["decision"]["policies"], json!(["acme/partner"]));
    // The unnamed issuer's alice is another caller, whom that policy does not serve.
    let own = world.invoke("acme/tells").send().await;
    assert_eq!(own.summary(), "403 forbidden");
    assert_eq!(world.record(&own)["caller"]["id"], "acme/alice");
    // A subject that would be somebody else's id, and a key of the other issuer under the same key id.
    let slash = token(&partners).subject("x/alice").sign();
    let slash = world.invoke("acme/tells").bearer(slash).send().await;
    assert_eq!(world.record(&slash)["caller"]["id"], "acme/partners/x%2Falice");
    let crossed = world.invoke("acme/tells").bearer(token(&world.keys["acme"]).sign()).send().await;
    assert_eq!(crossed.summary(), "401 unauthenticated");
    let unnamed = Token::new("acme", &world.keys["acme"]).subject("partners/alice").sign();
    let unnamed = world.invoke("acme/tells").bearer(unnamed).send().await;
    assert_eq!(world.record(&unnamed)["caller"]["id"], "acme/partners%2Falice");
}

#[tokio::test]
async fn roles_are_shared_between_issuers_only_where_the_tenant_says_so() {
    let partners = IssuerKey::generate("partners-1");
    let world = with_partners(&partners, "share-roles = true\n").await;
    let token = Token::new("acme", &partners).claim("iss", "https://partners.example").sign();
    let reply = world.invoke("acme/tells").bearer(token).send().await;
    let told = std::str::from_utf8(&reply.body).unwrap();
    assert!(told.starts_with("caller: acme/partners/alice\nrole:   acme/invoker\n"), "{told}");
}

/// `acme` with a second issuer, whose alice alone may call.
async fn with_partners(key: &IssuerKey, first: &str) -> Live {
    let world = World::with("tells", &guest("tells"));
    let issuer = |iss: &str, keys: &str, last: &str| {
        format!(
            "[[issuers]]\nissuer = \"https://{iss}.example\"\naudiences = [\"https://gate.example/acme\"]\n\
             algorithms = [\"ES256\"]\nkeys = \"{keys}\"\nroles = \"/roles\"\n{last}"
        )
    };
    let both =
        issuer("idp.acme", "jwks.json", "") + &issuer("partners", "partners.json", "name = \"partners\"\n");
    let only = "@id(\"partner\")\npermit(principal == Caller::\"acme/partners/alice\", action, resource);\n";
    let policies = if first.is_empty() { only } else { PERMIT_ALL };
    world
        .file("policies/acme/tenant.toml", &format!("{first}{both}"))
        .file("policies/acme/partners.json", &json!({"keys": [key.jwk()]}).to_string())
        .file("policies/acme/policies.cedar", policies)
        .start()
        .await
}
