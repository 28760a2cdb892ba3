//! Every way in which a call can end: what its caller gets, and what is recorded of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use http::Method;
use sandgate::http::problem::{Code, Problem};
use serde_json::{Value, json};

use crate::{
    client::{Reply, held},
    guest::{echo, guest},
    world::{Live, MANIFEST, PERMIT_ALL, World, eventually},
};

#[tokio::test]
async fn every_kind_of_outcome_has_its_record() {
    let world = world().await;
    let mut told = String::new();
    for (what, reply) in provoke(&world).await {
        let record = world.record(&reply);
        let (status, code) = (&record["outcome"]["status"], record["outcome"]["code"].as_str().unwrap());
        assert_eq!(*status, reply.status, "{what}");
        assert_eq!(code, if reply.status == 200 { "ok".to_owned() } else { reply.code() }, "{what}");
        writeln!(told, "{what}\n{}", lasting(&world, what, record)).unwrap();
    }
    let gone = |record: &Value| record["outcome"]["code"] == "client_gone";
    let record = world.records().into_iter().find(gone).expect("who went away has a record");
    write!(told, "client gone\n{}", lasting(&world, "client gone", record)).unwrap();
    insta::with_settings!({ snapshot_path => "../snapshots" }, { insta::assert_snapshot!("outcomes", told) });
}

/// The whole table, as callers read it; only `date` and the request id are left out.
#[tokio::test]
async fn c12_every_error_of_the_contract_has_its_status_headers_and_body() {
    let world = world().await;
    let (mut table, mut seen) = (String::new(), BTreeSet::new());
    for (what, reply) in provoke(&world).await {
        if reply.status == 200 {
            continue;
        }
        seen.insert(reply.code());
        let id = reply.header("sandgate-request-id").unwrap().to_owned();
        let body = std::str::from_utf8(&reply.body).unwrap();
        assert_eq!(body.matches(&id).count(), 1, "{what}: the body names its request once");
        writeln!(table, "{what}\n{}", reply.status).unwrap();
        let mut headers: Vec<_> = reply.headers.iter().filter(|(name, _)| *name != "date").collect();
        headers.sort_by_key(|(name, _)| name.as_str());
        for (name, value) in headers {
            writeln!(table, "{name}: {}", value.to_str().unwrap().replace(&id, "ID")).unwrap();
        }
        writeln!(table, "{}\n", body.replace(&id, "ID")).unwrap();
    }
    // Nothing outside makes a fault of the gateway's own.
    let internal = Problem::plain(Code::Internal).response(sandgate::id::RequestId::new(0, 0));
    assert_eq!((internal.status().as_u16(), Code::Internal.as_str()), (500, "internal"));
    seen.insert("internal".to_owned());
    let all: BTreeSet<String> = Code::ALL.iter().map(|code| code.as_str().to_owned()).collect();
    assert_eq!(seen, all, "a code that nothing here provokes, or that the list does not have");
    insta::with_settings!({ snapshot_path => "../snapshots" }, { insta::assert_snapshot!("errors", table) });
}

/// One function for each end that a call can come to; bob may call none, and globex and initech serve nobody.
async fn world() -> Live {
    let bytes = |limits: &str| {
        format!(
            "component = \"component.wat\"\nmethods = [\"POST\"]\n[event]\nmedia-types = [\"application/octet-stream\"]\n\
             [limits]\n{limits}\n"
        )
    };
    let mut world = World::with("echo", &echo())
        .function("acme", "mute", &echo())
        .file("functions/acme/mute/function.toml", &format!("{MANIFEST}[response]\nschema = \"response.schema.json\"\n"))
        .file("functions/acme/mute/response.schema.json", r#"{"type":"object","additionalProperties":false,"maxProperties":0}"#)
        .file("policies/acme/policies.cedar", &format!("{PERMIT_ALL}@id(\"not-bob\")\n@code(\"barred\")\nforbid(principal == Caller::\"acme/bob\", action, resource);\n"))
        .file("sandgate.toml", "[server]\nbody-timeout = \"1s\"\n[limits]\ncpu = \"60s\"\nwall = \"30m\"\n")
        .tenant("globex")
        .file("policies/globex/policies.cedar", "permit(")
        .tenant("initech")
        .file(
            "policies/initech/tenant.toml",
            "[[issuers]]\nissuer = \"https://idp.initech.example\"\naudiences = [\"https://gate.example/initech\"]\n\
             algorithms = [\"ES256\"]\nkeys = \"https://127.0.0.1:1/keys\"\n",
        );
    for (function, wat, limits) in [
        ("traps", "traps", "cpu = \"10s\"\nwall = \"30m\""),
        ("lies", "answers-bad-utf8", "cpu = \"10s\"\nwall = \"30m\""),
        ("grows", "grows-and-gives-up", "cpu = \"10s\"\nwall = \"30m\"\nmemory = \"1MiB\""),
        ("floods", "floods-little", "cpu = \"10s\"\nwall = \"30m\"\nresponse = \"64KiB\""),
        ("burns", "loops", "cpu = \"10ms\"\nwall = \"30m\""),
        ("lingers", "loops", "cpu = \"60s\"\nwall = \"10ms\""),
        ("endless", "loops", "cpu = \"60s\"\nwall = \"30m\"\nconcurrency = 1"),
    ] {
        world = world
            .function("acme", function, &guest(wat))
            .file(&format!("functions/acme/{function}/function.toml"), &bytes(limits));
    }
    let world = world.start_with(|_| ()).await;
    let faults = world.running.diagnostics.iter().filter(|d| d.is_fault());
    assert!(faults.map(|d| d.one_line()).all(|fault| fault.starts_with("policies/globex/")));
    world
}

/// Makes all of it happen once.
async fn provoke(world: &Live) -> Vec<(&'static str, Reply)> {
    let json = |function: &str| world.invoke(&format!("acme/{function}"));
    let octets = |function: &str| json(function).content_type(Some("application/octet-stream")).text("xy");
    let bob = || world.token("acme").subject("bob").sign();
    let (_held, never_ends) = held();
    let (_held_too, declares_much) = held();
    let elsewhere = {
        let (client, version, mut request) = json("echo").finish();
        request.headers_mut().insert("host", "other.example".parse().unwrap());
        client.send(version, request).await
    };
    let mut told = vec![
        ("allowed and completed", json("echo").json(json!({"name": "Ada"})).send().await),
        ("no credential", json("echo").anonymous().send().await),
        (
            "a credential that is not valid",
            json("echo").bearer(world.token("acme").expired().sign()).send().await,
        ),
        ("no such tenant", world.invoke("nobody/echo").bearer(bob()).send().await),
        ("keys that cannot be had", world.invoke("initech/echo").send().await),
        ("a tenant whose part is faulty", world.invoke("globex/echo").send().await),
        ("a path that names no function", json("echo").bearer(bob()).path("/acme").send().await),
        ("a hostile path", json("echo").path("/acme/echo/%2e%2e").send().await),
        ("for another host than its connection", elsewhere),
        ("no such function", json("nothing").send().await),
        ("policy says no", json("echo").bearer(bob()).send().await),
        ("a path after the function's name", json("echo/more").send().await),
        ("a method that is not listed", json("echo").method(Method::PUT).send().await),
        ("too large", json("echo").header("content-length", "70000").body(declares_much).send().await),
        ("another media type", json("echo").content_type(Some("text/plain")).send().await),
        ("a content coding", json("echo").header("content-encoding", "gzip").send().await),
        ("not JSON", json("echo").text("{'name':1}").send().await),
        ("breaks the schema", json("echo").json(json!({"name": 1})).send().await),
        ("too slow", json("echo").body(never_ends).send().await),
        ("trapped", octets("traps").send().await),
        ("broke the contract", octets("lies").send().await),
        ("a reply that breaks its schema", json("mute").json(json!({"name": "Ada"})).send().await),
        ("over its memory", octets("grows").send().await),
        ("over its response", octets("floods").send().await),
        ("out of CPU time", octets("burns").send().await),
        ("out of time on the wall", octets("lingers").send().await),
    ];
    // What is told to be out of time may still be about to stop.
    eventually("all others are gone", || async { world.metric("sandgate_pool_in_use 0") }).await;
    let (client, version, request) = octets("endless").finish();
    let call = tokio::spawn(async move { client.try_send(version, request).await });
    let runs = || async { world.metric("sandgate_pool_in_use 1") };
    eventually("the endless one runs", runs).await;
    told.push(("no room", octets("endless").send().await));
    call.abort();
    let gone = || async { world.records().iter().any(|r| r["outcome"]["code"] == "client_gone") };
    eventually("it is recorded that its caller went away", gone).await;
    told
}

/// A record without what another run would have otherwise, which is checked and taken out.
fn lasting(world: &Live, what: &str, record: Value) -> String {
    let Value::Object(fields) = record else { panic!("{what}: {record}") };
    let mut fields: BTreeMap<String, Value> = fields.into_iter().collect();
    assert!(fields.remove("time").unwrap().as_str().unwrap().ends_with('Z'), "{what}");
    assert_eq!(fields.remove("request_id").unwrap().as_str().unwrap().len(), 36, "{what}");
    for chained in ["seq", "prev", "hash", "tenant_seq", "tenant_prev"] {
        fields.remove(chained);
    }
    if let Some(revision) = fields.remove("revision") {
        assert_eq!(revision, world.revision_of("acme"), "{what}");
        assert!(fields.remove("wall_us").unwrap().as_u64().unwrap() > 0, "{what}");
        let cpu = fields.remove("cpu_us").unwrap().as_u64().unwrap();
        assert_eq!(cpu > 0, fields.contains_key("start"), "{what}: {cpu} µs of CPU time");
    }
    fields.into_iter().map(|(name, value)| format!("  {name}: {value}\n")).collect()
}
