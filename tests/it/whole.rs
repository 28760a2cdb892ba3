//! The thin whole: one call through all five steps, and its record.

use serde_json::json;

use crate::{guest::echo, world::World};

#[tokio::test]
async fn an_authorized_event_runs_its_function_and_is_recorded() {
    let world = World::with("echo", &echo()).start().await;
    for http2 in [false, true] {
        let call = world.invoke("acme/echo").json(json!({"name": "Ada"}));
        let reply = if http2 { call.http2() } else { call }.send().await;
        assert_eq!(reply.summary(), "200");
        assert_eq!(reply.json(), json!({"name": "Ada"}));
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        let record = world.record(&reply);
        assert_eq!(record["caller"]["id"], "acme/alice");
        assert_eq!(record["outcome"], json!({"status": 200, "code": "ok"}));
        assert_eq!(record["decision"], json!({"allowed": true, "policies": ["acme/all"]}));
        assert_eq!(record["bytes_in"], 14);
    }
}

#[tokio::test]
async fn without_a_credential_nobody_learns_anything() {
    let world = World::with("echo", &echo()).start().await;
    let mut bodies = Vec::new();
    for path in ["acme/echo", "acme/nothing", "nobody/echo"] {
        let reply = world.invoke(path).anonymous().send().await;
        assert_eq!(reply.summary(), "401 unauthenticated", "{path}");
        assert_eq!(reply.header("www-authenticate"), Some(r#"Bearer realm="sandgate""#));
        let mut body = reply.json();
        assert_eq!(body["instance"], reply.header("sandgate-request-id").unwrap());
        body["instance"] = json!("");
        bodies.push(body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
}

#[tokio::test]
async fn another_tenants_token_is_a_bad_token() {
    let world =
        World::with("echo", &echo()).tenant("globex").function("globex", "echo", &echo()).start().await;
    let reply = world.invoke("globex/echo").bearer(world.token("acme").sign()).send().await;
    assert_eq!(reply.summary(), "401 unauthenticated");
    assert_eq!(reply.header("www-authenticate"), Some(r#"Bearer realm="sandgate", error="invalid_token""#));
}

#[tokio::test]
async fn what_policy_does_not_permit_is_forbidden_and_the_reason_is_recorded_only() {
    let world = World::with("echo", &echo())
        .file(
            "policies/acme/policies.cedar",
            "@id(\"bob\")\npermit(principal == Caller::\"acme/bob\", action, resource);\n",
        )
        .start()
        .await;
    let reply = world.invoke("acme/echo").send().await;
    assert_eq!(reply.summary(), "403 forbidden");
    assert_eq!(reply.json().as_object().unwrap().len(), 5);
    let record = world.record(&reply);
    assert_eq!(record["stage"], "authorize");
    assert_eq!(record["decision"]["allowed"], false);
    let token = world.token("acme").subject("bob").sign();
    assert_eq!(world.invoke("acme/echo").bearer(token).send().await.summary(), "200");
}

#[tokio::test]
async fn a_path_that_names_no_function_is_not_found() {
    let world = World::with("echo", &echo()).start().await;
    for path in ["acme/nothing", "acme", "", "acme/echo/more"] {
        assert_eq!(
            world.invoke(path).bearer(world.token("acme").sign()).send().await.summary(),
            "404 not_found",
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_record_holds_the_tags_that_policies_read_and_redacted_ones_only_as_a_hash() {
    let tenant = |redact: &str| {
        format!(
            "{redact}\n[[issuers]]\nissuer = \"https://idp.acme.example\"\naudiences = [\"https://gate.example/acme\"]\n\
             algorithms = [\"ES256\"]\nkeys = \"jwks.json\"\ntags = {{ department = \"/department\", city = \"/city\" }}\n"
        )
    };
    let reads_department = "@id(\"sales\")\npermit(principal, action, resource)\n\
                            when { principal.hasTag(\"department\") && principal.getTag(\"department\") == \"sales\" };\n";
    for (redact, hashed) in [("", false), ("redact = [\"department\"]", true)] {
        let world = World::with("echo", &echo())
            .file("policies/acme/tenant.toml", &tenant(redact))
            .file("policies/acme/policies.cedar", reads_department)
            .start()
            .await;
        let token = world.token("acme").claim("department", "sales").claim("city", "Paris").sign();
        let reply = world
            .invoke("acme/echo")
            .bearer(token.clone())
            .json(json!({"name": "Confidential"}))
            .send()
            .await;
        assert_eq!(reply.summary(), "200");
        let record = world.record(&reply);
        let tags = record["caller"]["tags"].as_object().unwrap();
        assert_eq!(tags.keys().collect::<Vec<_>>(), ["department"]);
        assert_eq!(tags["department"].as_str().unwrap().starts_with("hmac:"), hashed, "{record}");
        assert_eq!(tags["department"] == "sales", !hashed);
        let all: String = world.records().iter().map(ToString::to_string).collect();
        for secret in ["Paris", "Confidential", token.as_str(), token.rsplit('.').next().unwrap()] {
            assert!(!all.contains(secret), "the log holds `{secret}`");
        }
    }
}
