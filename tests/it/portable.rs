//! Components made for other hosts, through the whole gateway. None of `tests/guests` knows of Sandgate.

use std::{fs, path::Path};

use serde_json::json;

use crate::{
    authority::{Authority, GOOD},
    hosts::{ACME, VERSIONS, call, certified, toml},
    world::{Live, MANIFEST, World},
};

const QUERY: &str = r#"{"type":"object","additionalProperties":false,
    "properties":{"page":{"type":"integer"},"tag":{"type":"array","items":{"type":"string"}}}}"#;
const TEXT: &str = "component = \"component.wat\"\nmethods = [\"POST\"]\n[event]\nmedia-types = [\"text/plain\"]\nrest = true\n\
                    [limits]\ncpu = \"20ms\"\nwall = \"20s\"\nmemory = \"4MiB\"\nresponse = \"64KiB\"\n";

/// A component that is committed.
fn component(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/guests/{name}/{name}.wasm"))).unwrap()
}

#[tokio::test]
async fn f31_a_component_is_given_a_request_of_validated_values_alone() {
    let world = World::new()
        .tenant("acme")
        .component("acme", "anything", &component("anything"))
        .file(
            "functions/acme/anything/function.toml",
            &format!(
                "{MANIFEST}headers = [\"x-correlation-id\"]\nquery = \"query.schema.json\"\nrest = true\n"
            ),
        )
        .file("functions/acme/anything/query.schema.json", QUERY)
        .start()
        .await;
    for http2 in [false, true] {
        let call = world
            .invoke("acme/anything/a/b%20c?page=7&tag=x%26y&tag=z")
            .header("accept", "text/plain")
            .header("x-correlation-id", "one")
            .with_what_is_never_given();
        let call = call.text("{ \"name\" : \"e\u{301}\" }");
        let reply = if http2 { call.http2() } else { call }.send().await;
        assert_eq!(reply.summary(), "200");
        assert_eq!(
            reply.json(),
            json!({
                "method": "POST",
                "scheme": "https",
                "authority": "localhost",
                "target": "/a/b%20c?page=7&tag=x%26y&tag=z",
                "headers": [
                    ["accept", "text/plain"],
                    ["content-length", "13"],
                    ["content-type", "application/json"],
                    ["sandgate-caller", "acme/alice"],
                    ["sandgate-request-id", reply.header("sandgate-request-id").unwrap()],
                    ["sandgate-roles", "acme/invoker"],
                    ["sandgate-scopes", "call"],
                    ["x-correlation-id", "one"],
                ],
                "body": "{\"name\":\"é\"}",
            })
        );
    }
    // `[event]` holds as for every function.
    let refused = world.invoke("acme/anything").json(json!({"unknown": 1})).send().await;
    assert_eq!(refused.summary(), "422 invalid_event");
    let refused = world.invoke("acme/anything?page=seven").send().await;
    assert_eq!(refused.summary(), "422 invalid_event");
    assert_eq!(world.invoke("acme/anything").anonymous().send().await.summary(), "401 unauthenticated");
}

#[tokio::test]
async fn a_component_written_in_c_counts_what_it_is_sent() {
    let world = World::new()
        .tenant("acme")
        .component("acme", "count", &component("count"))
        .file("functions/acme/count/function.toml", TEXT)
        .start()
        .await;
    let call = world.invoke("acme/count").content_type(Some("text/plain")).text("a b\nc d\n".repeat(500));
    let reply = call.send().await;
    assert_eq!((reply.summary().as_str(), reply.header("content-type")), ("200", Some("application/json")));
    assert_eq!(reply.json(), json!({"lines": 1000, "words": 2000, "bytes": 4000}));
    let record = world.record(&reply);
    assert!(
        record["cpu_us"].as_u64().unwrap() > 0 && record["peak_memory"].as_u64().unwrap() > 0,
        "{record}"
    );
    assert_eq!(record["start"], "warm");
}

#[tokio::test]
async fn f26_f27_a_component_that_misbehaves_meets_its_limit_and_its_neighbour_is_unharmed() {
    let world = World::new()
        .tenant("acme")
        .component("acme", "count", &component("count"))
        .file("functions/acme/count/function.toml", TEXT)
        .tenant("globex")
        .component("globex", "hostile", &component("hostile"))
        // Time enough for what is allowed, in a debug build and on a busy machine.
        .file("functions/globex/hostile/function.toml", &TEXT.replace("20ms", "400ms"))
        .component("globex", "waits", &component("hostile"))
        .file("functions/globex/waits/function.toml", &TEXT.replace("20ms", "400ms").replace("20s", "300ms"))
        .start()
        .await;
    for (path, expected, limit) in [
        ("spin", "504 function_timeout", Some("cpu")),
        ("flood", "504 function_timeout", Some("cpu")),
        ("never", "504 function_timeout", Some("wall")),
        ("sleep", "504 function_timeout", Some("wall")),
        ("sleep-at-the-end-of-time", "504 function_timeout", Some("wall")),
        ("naps", "504 function_timeout", Some("wall")),
        ("poll-without-end", "504 function_timeout", Some("cpu")),
        ("empty-writes", "504 function_timeout", Some("cpu")),
        ("flushes", "504 function_timeout", Some("cpu")),
        ("zeroes", "502 function_failed", None),
        ("zeroes-of-the-reply", "502 function_failed", None),
        ("finished-with-its-stream", "502 function_failed", None),
        ("dropped-twice", "502 function_failed", None),
        ("forged", "502 function_failed", None),
        ("mistaken", "502 function_failed", None),
        ("descend", "502 function_failed", None),
        ("length-too-short", "502 function_failed", None),
        ("status-999", "502 function_failed", None),
        ("buffers", "200", None),
        ("trailers", "200", None),
        ("endless", "502 function_failed", Some("response")),
        ("grow", "502 function_failed", Some("memory")),
        ("resources", "502 function_failed", None),
        ("responses", "502 function_failed", None),
        ("flood-at-once", "502 function_failed", None),
        ("random-without-end", "502 function_failed", None),
        ("exit", "502 function_failed", None),
        ("wall-clock", "502 function_failed", None),
        ("secret", "502 function_failed", None),
        ("silent", "502 function_failed", None),
        ("declined", "502 function_failed", None),
        ("unfinished", "502 function_failed", None),
        ("late", "502 function_failed", None),
        ("status", "502 function_failed", None),
        ("length", "502 function_failed", None),
        ("many-headers", "502 function_failed", None),
        // Well-formed, and not in a function's gift.
        ("set-cookie", "502 function_failed", None),
        ("sandgate-caller", "502 function_failed", None),
        ("stdout", "200", None),
        ("nap", "200", None),
    ] {
        // Nobody is to wait for long, and nobody is to meet the wall for a busy machine's sake.
        let function = if limit == Some("wall") { "waits" } else { "hostile" };
        let bad = world
            .invoke(&format!("globex/{function}/{path}"))
            .content_type(Some("text/plain"))
            .text("")
            .send();
        let good = world.invoke("acme/count").content_type(Some("text/plain")).text("a").send();
        let (bad, good) = tokio::join!(bad, good);
        assert_eq!((bad.summary().as_str(), good.summary().as_str()), (expected, "200"), "{path}");
        assert_eq!(bad.header("set-cookie"), None);
        let record = world.record(&bad);
        let met =
            record["limits"].as_array().and_then(|hits| hits.first()).and_then(|hit| hit["name"].as_str());
        let stage = if expected == "200" { "reply" } else { "run" };
        assert_eq!((met, &record["stage"]), (limit, &json!(stage)), "{path}: {record}");
    }
    for (path, facility) in [("exit", "`wasi:cli/exit`"), ("wall-clock", "`wasi:clocks/wall-clock.now`")] {
        let call = world
            .invoke(&format!("globex/hostile/{path}"))
            .content_type(Some("text/plain"))
            .text("")
            .send()
            .await;
        let reason = world.record(&call)["outcome"]["reason"].clone();
        assert!(reason.as_str().unwrap().contains(facility), "the record names the facility: {reason}");
    }
    let written = dropped(&world);
    assert!(written >= 2 << 20, "{written} bytes were dropped");
}

/// Built by `functions/build.sh guests/javascript`, `guests/python`: too large to be committed.
fn built(name: &str) -> Option<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/guests/{name}/{name}.wasm"));
    let read = fs::read(path).ok();
    if read.is_none() {
        eprintln!("skipped: `functions/build.sh guests/{name}` was never run here");
    }
    read
}

const SCRIPT: &str = "component = \"component.wat\"\nmethods = [\"POST\"]\n[event]\nmedia-types = [\"application/octet-stream\"]\n\
                      [limits]\ncpu = \"900ms\"\nwall = \"20s\"\n";

#[tokio::test]
async fn a_component_written_in_javascript_patches_json() {
    let Some(javascript) = built("javascript") else { return };
    let world = World::new()
        .tenant("acme")
        .component("acme", "patch", &javascript)
        .file("functions/acme/patch/function.toml", SCRIPT)
        .start()
        .await;
    // The examples of RFC 7396, appendix A.
    for (target, patch, result) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"a": "b"}), json!(["c"]), json!(["c"])),
        (json!({"a": "foo"}), json!(null), json!(null)),
        (json!({"a": "foo"}), json!("bar"), json!("bar")),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        let body = json!({"target": target, "patch": patch}).to_string();
        let call = world.invoke("acme/patch").content_type(Some("application/octet-stream")).text(body);
        let reply = call.send().await;
        assert_eq!((reply.summary().as_str(), reply.header("x-caller")), ("200", Some("acme/alice")));
        assert_eq!(reply.json(), result, "{target} {patch}");
    }
}

#[tokio::test]
async fn a_component_written_in_python_summarizes_a_table() {
    let Some(python) = built("python") else { return };
    let world = World::new()
        .tenant("acme")
        .component("acme", "table", &python)
        .file("functions/acme/table/function.toml", SCRIPT)
        .start()
        .await;
    let table = "name,mass,note\nMercury,0.330,\"first, small\"\nVenus,4.87,\nEarth,5.97,\"home\"\n";
    let call = world.invoke("acme/table").content_type(Some("application/octet-stream")).text(table);
    let reply = call.send().await;
    assert_eq!(reply.summary(), "200", "{}", world.record(&reply)["outcome"]);
    let mass = json!({"count": 3, "mean": (0.330_f64 + 4.87 + 5.97) / 3.0, "median": 4.87});
    assert_eq!(reply.json(), json!({"rows": 3, "columns": {"mass": mass}}));
}

fn dropped(world: &Live) -> u64 {
    let text = world.running.gateway.metrics_text();
    let line = "sandgate_dropped_output_bytes_total{tenant=\"globex\",function=\"hostile\"} ";
    text.lines().find_map(|told| told.strip_prefix(line)).map_or(0, |bytes| bytes.parse().unwrap())
}

#[tokio::test]
async fn f06_a_component_that_imports_more_is_told_at_once_and_its_tenant_alone_suffers() {
    let wants = "(component (import \"wasi:http/outgoing-handler@0.2.3\" (instance)) (instance $i) \
                 (export \"wasi:http/incoming-handler@0.2.3\" (instance $i)))";
    let world = World::new()
        .tenant("acme")
        .component("acme", "count", &component("count"))
        .file("functions/acme/count/function.toml", TEXT)
        .tenant("globex")
        .function("globex", "wants", wants)
        .start_with(|_| ())
        .await;
    let faults: Vec<String> = world.running.diagnostics.iter().map(|d| d.one_line()).collect();
    let fault = faults.iter().find(|fault| fault.starts_with("functions/globex/wants/function.toml:1: "));
    let fault = fault.unwrap_or_else(|| panic!("{faults:#?}"));
    assert!(fault.contains("imports `wasi:http/outgoing-handler@0.2.3` (sending requests)"), "{fault}");
    assert!(fault.contains("disableFeatures"), "{fault}");
    assert_eq!(world.invoke("globex/wants").send().await.summary(), "503 unavailable");
    let call = world.invoke("acme/count").content_type(Some("text/plain")).text("a").send().await;
    assert_eq!(call.summary(), "200");
}

#[tokio::test]
async fn a_site_may_refuse_the_world() {
    let world = World::new()
        .tenant("acme")
        .component("acme", "count", &component("count"))
        .file("functions/acme/count/function.toml", TEXT)
        .file("sandgate.toml", "[sandbox]\nportable = false\n")
        .start_with(|_| ())
        .await;
    let faults: Vec<String> = world.running.diagnostics.iter().map(|d| d.one_line()).collect();
    assert!(faults.iter().any(|fault| fault.contains("`[sandbox] portable = false`")), "{faults:#?}");
    assert_eq!(world.invoke("acme/count").send().await.summary(), "503 unavailable");
}

#[tokio::test]
async fn c07_a_component_is_told_where_it_is_by_configuration_and_never_by_its_caller() {
    let authority = Authority::new("servers");
    for (origin, by_path, by_host) in [
        ("", "localhost", ACME.to_owned()),
        ("[server]\norigin = \"https://gate.example:8443\"\n", "gate.example:8443", format!("{ACME}:8443")),
    ] {
        let world = World::new()
            .tenant("acme")
            .component("acme", "anything", &component("anything"))
            .file("policies/acme/tenant.toml", &toml("acme", &format!("hosts = [\"{ACME}\"]"), ""))
            .file("sandgate.toml", origin);
        let live = certified(world, ACME, &authority.server(&[ACME], GOOD)).start().await;
        // Whoever calls by path on a connection that was opened for no name may name any host that is no tenant's.
        let token = live.token("acme").sign();
        let unnamed = live.client.named("127.0.0.1");
        let named = live.client.trusting(&authority.pem).named(ACME);
        for version in VERSIONS {
            let told = call(&unnamed, version, "evil.example", "/acme/anything", &token).await;
            assert_eq!((told.summary().as_str(), told.json()["authority"].as_str()), ("200", Some(by_path)));
            let told = call(&named, version, ACME, "/anything", &token).await;
            assert_eq!(
                (told.summary().as_str(), told.json()["authority"].as_str()),
                ("200", Some(&*by_host))
            );
        }
    }
}
