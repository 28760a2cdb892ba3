//! What an operator blocks: refused within a second, calls in flight cancelled, everything recorded.

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    guest::{echo, guest},
    world::{Live, World, eventually},
};

/// A line of the operator's, on the command line.
fn operator(site: &Path, line: &[&str]) -> (u8, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let site = site.to_str().unwrap();
    let (command, arguments) = line.split_first().unwrap();
    let args = ["sandgate", command, "--site", site].into_iter().chain(arguments.iter().copied());
    let code = sandgate::cli::run(args.map(Into::into), &mut out, &mut err);
    (code, String::from_utf8([out, err].concat()).unwrap())
}

async fn becomes(live: &Live, function: &str, summary: &str) {
    eventually(&format!("{function} answers {summary}"), || async {
        live.invoke(function).send().await.summary() == summary
    })
    .await;
}

#[tokio::test]
async fn what_is_blocked_is_refused_until_it_is_let_go_and_nothing_else_is() {
    let live = World::with("echo", &echo())
        .function("acme", "other", &echo())
        .tenant("globex")
        .function("globex", "echo", &echo())
        .start()
        .await;
    let subject = live.invoke("acme/echo").send().await;
    let caller = live.record(&subject)["caller"]["id"].as_str().unwrap().to_owned();
    for (kind, name, spared) in [
        ("function", "acme/echo", Some("acme/other")),
        ("tenant", "acme", Some("globex/echo")),
        ("subject", caller.as_str(), Some("globex/echo")),
        ("key", "acme/acme-1", Some("globex/echo")),
    ] {
        let (code, told) = operator(live.path(), &["block", kind, name, "--why", "case 4711"]);
        assert_eq!((code, told), (0, format!("blocked {kind} {name}\n")));
        becomes(&live, "acme/echo", "403 forbidden").await;
        let refused = live.invoke("acme/echo").send().await;
        assert!(!String::from_utf8_lossy(&refused.body).contains("block"), "the caller is told nothing");
        let record = live.record(&refused);
        assert_eq!(record["stage"], "authorize");
        assert_eq!(record["outcome"]["reason"], format!("{kind} {name} is blocked: case 4711"));
        // Whoever is nobody learns nothing of it.
        assert_eq!(live.invoke("acme/echo").anonymous().send().await.summary(), "401 unauthenticated");
        if let Some(spared) = spared {
            assert_eq!(live.invoke(spared).send().await.status, 200, "{kind} {name} does not stop {spared}");
        }
        assert_eq!(
            operator(live.path(), &["unblock", kind, name]),
            (0, format!("unblocked {kind} {name}\n"))
        );
        becomes(&live, "acme/echo", "200").await;
    }
    let changes: Vec<Value> =
        live.records().into_iter().filter(|record| record["kind"] == "blocked").collect();
    assert_eq!(changes.len(), 8);
    assert_eq!(changes[0]["blocked"], json!(["function acme/echo"]));
    assert_eq!(changes[1]["unblocked"], json!(["function acme/echo"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_flight_is_cancelled_and_recorded() {
    // Limits far beyond what the test takes, so that only the block ends the call.
    let manifest = format!("{}[limits]\ncpu = \"50s\"\nwall = \"55s\"\n", crate::world::MANIFEST);
    let live = World::with("loops", &guest("loops"))
        .file("functions/acme/loops/function.toml", &manifest)
        .file("sandgate.toml", "[limits]\ncpu = \"1m\"\nwall = \"1m\"\n")
        .start()
        .await;
    let (client, version, request) = live.invoke("acme/loops").finish();
    let call = tokio::spawn(async move { client.send(version, request).await });
    eventually("it runs", || async { live.metric("sandgate_pool_in_use 1") }).await;
    operator(live.path(), &["block", "tenant", "acme"]);
    let reply = call.await.unwrap();
    assert_eq!(reply.summary(), "403 forbidden");
    let record = live.record(&reply);
    assert_eq!(
        (&record["stage"], &record["outcome"]["reason"]),
        (&json!("run"), &json!("tenant acme is blocked"))
    );
    eventually("its instance is given back", || async { live.metric("sandgate_pool_in_use 0") }).await;
}

#[tokio::test]
async fn a_call_whose_body_is_still_to_come_is_cancelled_too() {
    let live = World::with("echo", &echo()).start().await;
    let held = live.invoke("acme/echo").hold().await;
    operator(live.path(), &["block", "function", "acme/echo"]);
    let reply = held.unfinished().await;
    assert_eq!(reply.summary(), "403 forbidden");
    let record = live.record(&reply);
    assert_eq!(
        (&record["stage"], &record["outcome"]["reason"]),
        (&json!("validate"), &json!("function acme/echo is blocked"))
    );
}

#[tokio::test]
async fn a_list_that_cannot_be_read_changes_nothing_and_keeps_a_gateway_from_starting() {
    let live =
        World::with("echo", &echo()).file("blocked.json", r#"{"function": {"acme/echo": {}}}"#).start().await;
    assert_eq!(live.invoke("acme/echo").send().await.summary(), "403 forbidden", "in force from the start");
    live.write("blocked.json", "{\"functions\": {}}");
    let told = || async {
        live.running
            .gateway
            .platform_faults()
            .iter()
            .any(|fault| fault.render(false).contains("`blocked.json` is not a list"))
    };
    eventually("`/readyz` tells it", told).await;
    live.write("blocked.json.new", r#"{"function": {"acme/echo": {}}, "tenant": {"globex": {}}}"#);
    std::fs::rename(live.path().join("blocked.json.new"), live.path().join("blocked.json")).unwrap();
    eventually("the next list is in force", || async {
        live.records().iter().any(|record| record["blocked"] == json!(["tenant globex"]))
    })
    .await;
    assert_eq!(live.invoke("acme/echo").send().await.summary(), "403 forbidden");

    let world = World::with("echo", &echo()).file("blocked.json", "[]");
    let options = sandgate::server::Options {
        mode: sandgate::http::health::Mode::Development,
        ..sandgate::server::Options::local(world.path())
    };
    let Err(sandgate::server::StartError::Faulty(faults)) = sandgate::server::start(options).await else {
        panic!("a gateway that does not know what is blocked serves nothing")
    };
    assert!(faults[0].render(false).contains("blocked.json"), "{}", faults[0].render(false));
}

#[test]
fn the_command_line_says_what_is_blocked_and_what_cannot_be() {
    let world = World::with("echo", &echo());
    let site = world.path();
    assert_eq!(operator(site, &["block"]), (0, "nothing is blocked (blocked.json)\n".into()));
    assert_eq!(
        operator(site, &["block", "function", "acme/ehco"]),
        (0, "blocked function acme/ehco\nnote: the site has no such thing now\n".into())
    );
    assert_eq!(
        operator(site, &["block", "function", "acme/ehco"]).1.lines().next(),
        Some("was blocked already: function acme/ehco")
    );
    let (_, list) = operator(site, &["block"]);
    assert!(list.starts_with("function acme/ehco  since 20"), "{list}");
    let (code, told) = operator(site, &["unblock", "tenant", "globex"]);
    assert_eq!((code, told.as_str()), (1, "tenant globex was not blocked: `sandgate block` shows what is\n"));
    for (kind, name) in [("tenant", "Acme"), ("function", "acme"), ("subject", "alice"), ("key", "acme/")] {
        let (code, told) = operator(site, &["block", kind, name]);
        assert_eq!(code, 2, "{told}");
        assert!(told.starts_with(&format!("sandgate: `{name}` cannot be blocked: ")), "{told}");
    }
}
