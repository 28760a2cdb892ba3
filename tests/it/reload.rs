//! A site that changes while it is served: each part on its own, and never worse than before.

use http::Method;
use serde_json::json;

use sandgate::{
    http::health::Mode,
    server::{Options, StartError, start},
};

use crate::{
    guest::{echo, guest},
    world::{PERMIT_ALL, World, eventually},
};

#[tokio::test]
async fn a_faulty_tenant_keeps_its_last_good_part_and_the_others_proceed() {
    let world =
        World::with("echo", &echo()).tenant("globex").function("globex", "echo", &echo()).start().await;
    world.write("policies/acme/policies.cedar", "permit(");
    world.write("policies/globex/policies.cedar", "");
    eventually("globex permits nobody any more", || async {
        world.invoke("globex/echo").send().await.summary() == "403 forbidden"
    })
    .await;
    assert_eq!(world.invoke("acme/echo").send().await.summary(), "200");
    eventually("readiness tells of acme", || async {
        let told = world.running.gateway.readiness().to_string();
        told.contains("tenant acme (last good part serves)") && told.contains("policies/acme/policies.cedar")
    })
    .await;
    world.write("policies/acme/policies.cedar", "");
    eventually("acme's mended part is in force", || async {
        world.invoke("acme/echo").send().await.summary() == "403 forbidden"
    })
    .await;
}

#[tokio::test]
async fn a_tenant_without_a_good_part_is_unavailable() {
    let world = World::with("echo", &echo())
        .file("policies/acme/policies.cedar", "permit(")
        .tenant("globex")
        .function("globex", "echo", &echo())
        .start_with(|_| ())
        .await;
    let reply = world.invoke("acme/echo").send().await;
    assert_eq!(reply.summary(), "503 unavailable");
    assert!(reply.header("retry-after").is_some());
    assert_eq!(world.invoke("globex/echo").send().await.summary(), "200");
}

#[tokio::test]
async fn a_faulty_platform_part_is_refused_whole() {
    let world = World::with("echo", &echo()).start().await;
    let revision = world.running.gateway.revision().id().clone();
    world.write("policies/guardrails.cedar", "@id(\"no\")\npermit(principal, action, resource);\n");
    world.write("policies/acme/policies.cedar", "");
    eventually("readiness tells of the platform part", || async {
        world
            .running
            .gateway
            .readiness()
            .to_string()
            .contains("platform part refused: policies/guardrails.cedar")
    })
    .await;
    assert_eq!(world.invoke("acme/echo").send().await.summary(), "200");
    assert_eq!(*world.running.gateway.revision().id(), revision);
}

#[tokio::test]
async fn a_revocation_holds_while_the_rest_of_the_tenant_is_faulty() {
    let world = World::with("echo", &echo()).start().await;
    let token = world.token("acme").sign();
    assert_eq!(world.invoke("acme/echo").bearer(token.clone()).send().await.summary(), "200");
    world.write("policies/acme/policies.cedar", "permit(");
    world.write("policies/acme/revoked.json", r#"{"sub": [{"sub": "alice"}]}"#);
    eventually("the revocation is in force", || async {
        world.invoke("acme/echo").bearer(token.clone()).send().await.summary() == "401 unauthenticated"
    })
    .await;
    let bob = world.token("acme").subject("bob").sign();
    assert_eq!(world.invoke("acme/echo").bearer(bob).send().await.summary(), "200");
}

/// Nothing that keeps a list from being read gives back what it has taken.
#[tokio::test]
async fn a20_a_list_of_revocations_that_cannot_be_read_leaves_everything_revoked() {
    let list = r#"{"sub": [{"sub": "alice"}]}"#;
    let world = World::with("echo", &echo()).file("policies/acme/revoked.json", list).start().await;
    let token = world.token("acme").sign();
    let summary = async || world.invoke("acme/echo").bearer(token.clone()).send().await.summary();
    assert_eq!(summary().await, "401 unauthenticated");
    let spaces = " ".repeat(5 << 20);
    for (what, bytes) in [
        ("not UTF-8", &b"\xff"[..]),
        ("larger than 4194304 bytes", spaces.as_bytes()),
        ("not a list of revocations", &b"{\"subs\": []}"[..]),
    ] {
        world.write("policies/acme/revoked.json", bytes);
        eventually("it is told", || async { world.running.gateway.readiness().to_string().contains(what) })
            .await;
        assert_eq!(summary().await, "401 unauthenticated", "{what}");
    }
    world.write("policies/acme/revoked.json", "{}");
    eventually("the next list is in force", || async { summary().await == "200" }).await;
    // And where there is none, nothing is revoked.
    world.write("policies/acme/revoked.json", list);
    eventually("it is revoked again", || async { summary().await == "401 unauthenticated" }).await;
    std::fs::remove_file(world.path().join("policies/acme/revoked.json")).unwrap();
    eventually("without a list nobody is revoked", || async { summary().await == "200" }).await;
}

#[tokio::test]
async fn a_request_that_waits_for_its_body_finishes_on_the_revision_that_it_began_with() {
    for http2 in [false, true] {
        let world = World::with("echo", &echo())
            .file("policies/acme/policies.cedar", "@id(\"first\")\npermit(principal, action, resource);\n")
            .start()
            .await;
        let old = world.revision_of("acme");
        let call = world.invoke("acme/echo");
        let call = if http2 { call.http2() } else { call };
        let in_flight = call.hold().await;
        // Neither who may call nor what is an event stays as it was.
        world.write("functions/acme/echo/event.schema.json", r#"{"type":"object","maxProperties":0}"#);
        world
            .write("policies/acme/policies.cedar", "@id(\"second\")\nforbid(principal, action, resource);\n");
        eventually("the new revision is in force", || async {
            world.invoke("acme/echo").send().await.summary() == "403 forbidden"
        })
        .await;
        let next = world.record(&world.invoke("acme/echo").send().await);
        let reply = in_flight.finish(r#"{"name":"Ada"}"#).await;
        assert_eq!((reply.summary().as_str(), reply.json()), ("200", json!({"name": "Ada"})));
        let record = world.record(&reply);
        assert_eq!(record["revision"], old);
        assert_eq!(record["decision"], json!({"allowed": true, "policies": ["acme/first"]}));
        assert_ne!(old, world.revision_of("acme"));
        assert_eq!(next["revision"], world.revision_of("acme"));
        assert_eq!(next["decision"], json!({"allowed": false, "policies": ["acme/second"]}));
    }
}

#[tokio::test]
async fn a_guest_that_runs_while_its_function_is_taken_away_runs_on() {
    let world = World::with("endless", &guest("loops"))
        .file(
            "functions/acme/endless/function.toml",
            "component = \"component.wat\"\nmethods = [\"POST\"]\n[event]\nmedia-types = [\"application/octet-stream\"]\n\
             [limits]\ncpu = \"60s\"\nwall = \"30m\"\n",
        )
        .file("sandgate.toml", "[limits]\ncpu = \"60s\"\nwall = \"30m\"\n")
        .start()
        .await;
    let old = world.revision_of("acme");
    let (client, version, request) =
        world.invoke("acme/endless").content_type(Some("application/octet-stream")).text("x").finish();
    let call = tokio::spawn(async move { client.try_send(version, request).await });
    eventually("it runs", || async { world.metric("sandgate_pool_in_use 1") }).await;
    std::fs::remove_dir_all(world.path().join("functions/acme/endless")).unwrap();
    eventually("the function is gone", || async {
        world.invoke("acme/endless").method(Method::PUT).send().await.summary() == "404 not_found"
    })
    .await;
    assert!(!call.is_finished() && world.metric("sandgate_pool_in_use 1"), "it runs on");
    call.abort();
    let of_it = |record: &serde_json::Value| record["outcome"]["code"] == "client_gone";
    eventually("it is recorded", || async { world.records().iter().any(of_it) }).await;
    let record = world.records().into_iter().find(of_it).unwrap();
    assert_eq!((&record["revision"], &record["function"]), (&json!(old), &json!("endless")));
    assert_ne!(old, world.revision_of("acme"));
}

#[tokio::test]
async fn a_policy_test_that_fails_is_a_fault_of_its_tenant() {
    let world = World::with("echo", &echo())
        .file("policies/acme/policies.cedar", PERMIT_ALL)
        .file(
            "policies/acme/tests.toml",
            "[[test]]\nname = \"nobody\"\ncaller = { subject = \"x\" }\nfunction = \"echo\"\nexpect = \"deny\"\n",
        )
        .start_with(|_| ())
        .await;
    assert!(
        world
            .running
            .diagnostics
            .iter()
            .any(|d| d.is_fault() && d.message.contains("`nobody` does not hold"))
    );
    assert_eq!(world.invoke("acme/echo").send().await.summary(), "503 unavailable");
}

#[tokio::test]
async fn strict_refuses_any_fault_and_serve_refuses_what_is_for_development() {
    let world = World::with("echo", &echo()).file("policies/acme/policies.cedar", "permit(");
    let options = Options { mode: Mode::Development, strict: true, ..Options::local(world.path()) };
    assert!(matches!(start(options).await, Err(StartError::Faulty(_))));

    let sound = World::with("echo", &echo()).file(
        "policies/acme/tenant.toml",
        "[[issuers]]\nissuer = \"https://dev.example\"\naudiences = [\"a\"]\nalgorithms = [\"ES256\"]\nkeys = \"dev\"\ndev = true\n",
    );
    let options = Options { mode: Mode::Production, strict: true, ..Options::local(sound.path()) };
    match start(options).await {
        Err(StartError::Faulty(faults)) => {
            assert!(faults.iter().any(|f| f.message.contains("dev")), "{faults:?}")
        }
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("a dev issuer is served in earnest"),
    }
}

#[tokio::test]
async fn stopping_closes_a_log_that_verifies() {
    let world = World::with("echo", &echo()).start().await;
    let reply = world.invoke("acme/echo").json(json!({"name": "last"})).send().await;
    assert_eq!(reply.summary(), "200");
    let (path, running) = (world.path().join(".sandgate/audit"), world.running);
    running.stop().await;
    let report = sandgate::record::verify(&path, None).unwrap();
    assert!(report.sound, "{report}");
}

#[tokio::test]
async fn metrics_count_faults_by_tenant_and_open_connections() {
    let world =
        World::with("echo", &echo()).file("policies/acme/policies.cedar", "permit(").start_with(|_| ()).await;
    let faults = || {
        let text = world.running.gateway.metrics_text();
        text.lines().filter(|line| line.contains("site_faults{")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(faults().iter().any(|line| line.contains("acme")), "{:?}", faults());
    assert_eq!(world.invoke("acme/echo").send().await.summary(), "503 unavailable");
    world.write("policies/acme/policies.cedar", "");
    eventually("no tenant has faults", || async { faults().is_empty() }).await;
    eventually("no connection is open", || async {
        world.running.gateway.metrics_text().lines().any(|line| line == "sandgate_connections 0")
    })
    .await;
}
