//! Functions that misbehave, each under its limit, with a neighbour that must not notice.

use serde_json::{Value, json};

use crate::{
    guest::{echo, guest},
    world::{MANIFEST, World, eventually},
};

const BYTES: &str = "component = \"component.wat\"\nmethods = [\"POST\"]\n[event]\nmedia-types = [\"application/octet-stream\"]\n\
                     [limits]\ncpu = \"20ms\"\nwall = \"500ms\"\nmemory = \"16MiB\"\nresponse = \"64KiB\"\n";

#[tokio::test]
async fn a_function_that_misbehaves_meets_its_limit_and_its_neighbour_is_unharmed() {
    let cases = [
        ("loops", "504 function_timeout", Some(("cpu", 20))),
        ("loops-at-start", "504 function_timeout", Some(("cpu", 20))),
        ("loops-in-realloc", "504 function_timeout", Some(("cpu", 20))),
        ("traps", "502 function_failed", None),
        ("traps-at-start", "502 function_failed", None),
        ("divides-by-zero", "502 function_failed", None),
        ("recurses", "502 function_failed", None),
        ("grows-and-gives-up", "502 function_failed", Some(("memory", 16 << 20))),
        ("begins-large", "502 function_failed", Some(("memory", 16 << 20))),
        ("floods-little", "502 function_failed", Some(("response", 64 << 10))),
        ("floods-4gib", "502 function_failed", None),
        ("answers-bad-utf8", "502 function_failed", None),
        ("answers-nowhere", "502 function_failed", None),
        ("answers-unaligned", "502 function_failed", None),
        ("reads-out-of-bounds", "502 function_failed", None),
        ("reallocs-nowhere", "502 function_failed", None),
        ("floods-headers", "502 function_failed", Some(("response", 64 << 10))),
        ("floods-memory", "502 function_failed", Some(("response", 64 << 10))),
        // Its tables meet the size of the pool's slots before their memory counts.
        ("grows-tables", "502 function_failed", Some(("table-elements", 20_000))),
        // The body's two bytes are the status, 0x7978, or the name of a header that is not in a function's gift.
        ("answers-status", "502 function_failed", None),
        ("answers-header", "502 function_failed", None),
    ];
    let mut world = World::with("echo", &echo()).tenant("globex");
    for (name, ..) in cases {
        world = world
            .function("globex", name, &guest(name))
            .file(&format!("functions/globex/{name}/function.toml"), BYTES);
    }
    let world = world.start().await;
    for (name, expected, limit) in cases {
        let bad = world
            .invoke(&format!("globex/{name}"))
            .content_type(Some("application/octet-stream"))
            .text("xy")
            .send();
        let good = world.invoke("acme/echo").json(json!({"name": name})).send();
        let (bad, good) = tokio::join!(bad, good);
        assert_eq!((bad.summary().as_str(), good.summary().as_str()), (expected, "200"), "{name}");
        assert_eq!(good.json(), json!({"name": name}));
        let record = world.record(&bad);
        let outcome = &record["outcome"];
        let told = format!("{} {}", outcome["status"], outcome["code"].as_str().unwrap_or_default());
        assert_eq!((told.as_str(), &record["stage"]), (expected, &json!("run")), "{name}: {record}");
        let hits: Vec<Value> = limit
            .map(|(limit, value)| {
                let set_by = if limit == "table-elements" { "platform" } else { "function" };
                json!({"name": limit, "value": value, "set_by": set_by})
            })
            .into_iter()
            .collect();
        assert_eq!(record["limits"].as_array().map_or(&[][..], Vec::as_slice), hits, "{name}: {record}");
    }
}

#[tokio::test]
async fn a_limit_is_recorded_with_whoever_set_it() {
    let manifest = |limits: &str| format!("{}[limits]\n{limits}", BYTES.split("[limits]").next().unwrap());
    let world = World::with("own", &guest("loops"))
        .file("functions/acme/own/function.toml", &manifest("cpu = \"10ms\"\n"))
        .function("acme", "tenants", &guest("loops"))
        .file("functions/acme/tenants/function.toml", &manifest("cpu = \"40ms\"\n"))
        .function("acme", "wall", &guest("loops"))
        .file("functions/acme/wall/function.toml", &manifest("wall = \"10ms\"\n"))
        .tenant("globex")
        .function("globex", "platforms", &guest("loops"))
        .file("functions/globex/platforms/function.toml", &manifest("cpu = \"40ms\"\n"))
        .file("sandgate.toml", "[limits]\ncpu = \"30ms\"\n");
    let tenant = std::fs::read_to_string(world.path().join("policies/acme/tenant.toml")).unwrap();
    let ceilings = format!("{tenant}[ceilings]\ncpu = \"20ms\"\n");
    let world = world.file("policies/acme/tenant.toml", &ceilings).start().await;
    for (function, name, value, set_by) in [
        ("acme/own", "cpu", 10, "function"),
        ("acme/tenants", "cpu", 20, "tenant"),
        ("globex/platforms", "cpu", 30, "platform"),
        ("acme/wall", "wall", 10, "function"),
    ] {
        let call = world.invoke(function).content_type(Some("application/octet-stream")).text("x");
        let reply = call.send().await;
        assert_eq!(reply.summary(), "504 function_timeout", "{function}");
        let hit = json!([{"name": name, "value": value, "set_by": set_by}]);
        assert_eq!(world.record(&reply)["limits"], hit, "{function}");
    }
}

#[tokio::test]
async fn two_tenants_that_share_a_component_share_nothing_else() {
    let manifest = BYTES;
    let world = World::with("mark", &guest("remembers"))
        .file("functions/acme/mark/function.toml", manifest)
        .tenant("globex")
        .function("globex", "mark", &guest("remembers"))
        .file("functions/globex/mark/function.toml", manifest)
        .start()
        .await;
    for round in 0..20 {
        for function in ["acme/mark", "globex/mark"] {
            let call = world.invoke(function).content_type(Some("application/octet-stream")).text("x");
            assert_eq!(call.send().await.summary(), "200", "{function}, round {round}");
        }
    }
}

#[tokio::test]
async fn beyond_its_concurrency_a_function_is_overloaded() {
    let one = BYTES.replace("cpu = \"20ms\"", "cpu = \"300ms\"\nconcurrency = 1");
    let world =
        World::with("loops", &guest("loops")).file("functions/acme/loops/function.toml", &one).start().await;
    let call = || world.invoke("acme/loops").content_type(Some("application/octet-stream")).text("x").send();
    let (a, b, c) = tokio::join!(call(), call(), call());
    let shed: Vec<_> = [&a, &b, &c].into_iter().filter(|reply| reply.summary() == "503 overloaded").collect();
    assert_eq!(shed.len(), 2, "{} {} {}", a.summary(), b.summary(), c.summary());
    assert!(shed.iter().all(|reply| reply.header("retry-after").is_some()));
}

#[tokio::test]
async fn a_component_that_imports_anything_is_a_fault_that_names_it() {
    let importing = r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#;
    let world = World::with("echo", importing).start_with(|_| ()).await;
    let told: String = world.running.diagnostics.iter().map(|d| d.one_line() + "\n").collect();
    assert!(told.contains("wasi:cli/environment@0.2.0"), "{told}");
    assert_eq!(world.invoke("acme/echo").send().await.summary(), "503 unavailable");
}

#[tokio::test]
async fn an_event_that_the_manifest_does_not_take_never_runs() {
    let world =
        World::with("echo", &echo()).file("functions/acme/echo/function.toml", MANIFEST).start().await;
    let reply = world.invoke("acme/echo").json(json!({"name": 1})).send().await;
    assert_eq!(reply.summary(), "422 invalid_event");
    let record = world.record(&reply);
    assert_eq!((record["stage"].as_str(), record["cpu_us"].as_u64()), (Some("validate"), Some(0)));
    assert!(record["start"].is_null());
}

#[tokio::test]
async fn metrics_tell_how_many_instances_run_of_how_many() {
    let endless = BYTES.replace("20ms", "60s").replace("500ms", "30m");
    let world = World::with("loops", &guest("loops"))
        .file("functions/acme/loops/function.toml", &endless)
        .file("sandgate.toml", "[limits]\ncpu = \"60s\"\nwall = \"30m\"\n[sandbox]\ninstances = 5\n")
        .start()
        .await;
    let told = |line: &str| world.running.gateway.metrics_text().lines().any(|told| told == line);
    assert!(told("sandgate_pool_size 5") && told("sandgate_pool_in_use 0"));
    let (client, version, request) =
        world.invoke("acme/loops").content_type(Some("application/octet-stream")).text("x").finish();
    let call = tokio::spawn(async move { client.try_send(version, request).await });
    eventually("one instance runs", || async { told("sandgate_pool_in_use 1") }).await;
    call.abort();
    eventually("none runs", || async { told("sandgate_pool_in_use 0") }).await;
}
