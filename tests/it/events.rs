//! What is an event: strict JSON, the schema, the query, and what each fault is answered with.

use http::Method;
use serde_json::json;

use crate::{
    client::exchange,
    guest::{echo, guest},
    world::{MANIFEST, World},
};

#[tokio::test]
async fn what_cannot_be_read_in_one_way_is_malformed() {
    let world = World::with("echo", &echo()).start().await;
    // Closed, and within 64 KiB: without a limit on depth it would be JSON that breaks the schema, a 422.
    let nested = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    for (what, body) in [
        ("d04 nested deeply", nested.as_str()),
        ("d03 a name twice", r#"{"name":"a","name":"b"}"#),
        ("d03 a name twice after NFC", "{\"n\u{e9}\":1,\"ne\u{301}\":2}"),
        ("d03 twice below", r#"{"list":[{"a":1,"a":2}]}"#),
        ("d06 half a surrogate", r#"{"name":"\ud800"}"#),
        ("d06 NUL", r#"{"name":"\u0000"}"#),
        ("d06 a bidirectional override", "{\"name\":\"\u{202e}\"}"),
        ("d05 out of range", r#"{"n":1e400}"#),
        ("d05 23 digits", r#"{"n":12345678901234567890123}"#),
        ("d05 rounded", r#"{"n":0.1000000000000000055}"#),
        ("trailing", "{} {}"),
        ("a byte order mark", "\u{feff}{}"),
        ("not JSON", "{'name':1}"),
        ("empty", ""),
    ] {
        let reply = world.invoke("acme/echo").text(body.to_owned()).send().await;
        assert_eq!(reply.summary(), "400 malformed", "{what}");
    }
    let reply = world.invoke("acme/echo").text(&b"{\"name\":\"\xff\"}"[..]).send().await;
    assert_eq!(reply.summary(), "400 malformed");
}

#[tokio::test]
async fn d11_a_breach_of_the_schema_is_told_by_place_and_never_by_value() {
    let world = World::with("echo", &echo()).start().await;
    let reply =
        world.invoke("acme/echo").json(json!({"name": "s3cret".repeat(10), "extra": "s3cret"})).send().await;
    assert_eq!(reply.summary(), "422 invalid_event");
    let errors = reply.json()["errors"].clone();
    assert!(
        errors
            .as_array()
            .unwrap()
            .iter()
            .any(|e| e["pointer"] == "/name" && e["keyword"] == "maxLength" && e["limit"] == "40"),
        "{errors}"
    );
    assert!(!String::from_utf8_lossy(&reply.body).contains("s3cret"));
    assert!(!world.record(&reply).to_string().contains("s3cret"));
}

#[tokio::test]
async fn d08_a_property_that_the_schema_does_not_know_is_told_by_place_alone() {
    let world = World::with("echo", &echo()).start().await;
    let reply = world.invoke("acme/echo").json(json!({"admin": "s3cret"})).send().await;
    // The place is the object that has it.
    assert_eq!(reply.summary(), "422 invalid_event");
    assert_eq!(reply.json()["errors"], json!([{"pointer": "", "keyword": "additionalProperties"}]));
    assert!(!String::from_utf8_lossy(&reply.body).contains("s3cret"));
    let record = world.record(&reply);
    assert_eq!(record["stage"], "validate");
    assert_eq!(
        record["outcome"]["reason"],
        "the event breaks the schema: `additionalProperties` at the root"
    );
    assert!(!record.to_string().contains("s3cret"), "{record}");
}

#[tokio::test]
async fn the_function_gets_the_value_written_anew() {
    let world = World::with("echo", &echo()).start().await;
    let reply = world.invoke("acme/echo").text("{ \"name\" : \"e\u{301}\\u0041\" }").send().await;
    assert_eq!(reply.body, "{\"name\":\"\u{e9}A\"}");
}

#[tokio::test]
async fn d02_media_types_and_codings_are_exact() {
    let world = World::with("echo", &echo()).start().await;
    for content_type in
        [Some("text/plain"), Some("application/json; charset=latin1"), Some("application/jsonp"), None]
    {
        let reply = world.invoke("acme/echo").content_type(content_type).send().await;
        assert_eq!(reply.summary(), "415 unsupported_media_type", "{content_type:?}");
    }
    let reply = world.invoke("acme/echo").header("content-encoding", "gzip").send().await;
    assert_eq!(reply.summary(), "415 unsupported_media_type");
    let reply = world.invoke("acme/echo").content_type(Some("application/json; charset=UTF-8")).send().await;
    assert_eq!(reply.summary(), "200");
}

#[tokio::test]
async fn too_large_a_body_is_refused_by_what_it_declares_and_by_what_it_has() {
    let world = World::with("echo", &echo()).start().await;
    let token = world.token("acme").sign();
    // Nothing of the body is sent: the answer comes from the head alone.
    let head = format!(
        "POST /acme/echo HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: 10000000\r\n\r\n"
    );
    let answer = world.client.raw(head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let chunks = format!(
        "POST /acme/echo HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{}",
        format!("4000\r\n{}\r\n", "x".repeat(0x4000)).repeat(5)
    );
    let answer = world.client.raw(chunks.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn nobody_is_asked_for_a_body_before_the_decision() {
    let world = World::with("echo", &echo()).file("policies/acme/policies.cedar", "").start().await;
    let head = |token: &str| {
        format!(
            "POST /acme/echo HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n"
        )
    };
    let answer = world.client.raw(head(&world.token("acme").sign()).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let answer = world.client.raw(head("bad").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[tokio::test]
async fn whoever_may_call_is_asked_for_the_body_once_nothing_in_the_head_speaks_against_it() {
    let world = World::with("echo", &echo()).start().await;
    let token = world.token("acme").sign();
    let head = |method: &str, media_type: &str, length: usize| {
        format!(
            "{method} /acme/echo HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
             content-type: {media_type}\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n"
        )
    };
    let mut stream = world.client.tls(&[b"http/1.1"]).await.unwrap();
    let asked = exchange(&mut stream, head("POST", "application/json", 14).as_bytes()).await;
    assert_eq!(asked, "HTTP/1.1 100 Continue\r\n\r\n");
    let answer = exchange(&mut stream, br#"{"name":"Ada"}"#).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for (method, media_type, length, status) in [
        ("PUT", "application/json", 2, 405),
        ("POST", "application/json", 10_000_000, 413),
        ("POST", "text/plain", 2, 415),
    ] {
        let answer = world.client.raw(head(method, media_type, length).as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn c09_a_method_that_is_not_listed_is_told_only_to_those_who_may_call() {
    let world = World::with("echo", &echo())
        .file(
            "policies/acme/policies.cedar",
            "@id(\"a\")\npermit(principal == Caller::\"acme/alice\", action, resource);\n",
        )
        .start()
        .await;
    // TRACE would show a caller what proxies added; here it is a method like any that no function has.
    for method in [Method::PUT, Method::TRACE, Method::OPTIONS, Method::from_bytes(b"BREW").unwrap()] {
        let reply = world.invoke("acme/echo").method(method).send().await;
        assert_eq!(
            (reply.summary().as_str(), reply.header("allow")),
            ("405 method_not_allowed", Some("POST"))
        );
    }
    let bob = world.token("acme").subject("bob").sign();
    let reply = world.invoke("acme/echo").method(Method::PUT).bearer(bob).send().await;
    assert_eq!((reply.summary().as_str(), reply.header("allow")), ("403 forbidden", None));
}

#[tokio::test]
async fn a_query_and_a_path_need_the_manifests_word() {
    let world = World::with("echo", &echo())
        .function("acme", "open", &echo())
        .file("functions/acme/open/function.toml", &format!("{MANIFEST}query = \"query.schema.json\"\nrest = true\n"))
        .file(
            "functions/acme/open/query.schema.json",
            r#"{"type":"object","additionalProperties":false,"properties":{"page":{"type":"integer","maximum":9}}}"#,
        )
        .start()
        .await;
    for (path, expected) in [
        ("acme/echo?page=1", "400 malformed"),
        ("acme/echo/more", "404 not_found"),
        ("acme/open?page=1", "200"),
        ("acme/open/a/b?page=1", "200"),
        ("acme/open?page=10", "422 invalid_event"),
        ("acme/open?page=1&page=2", "400 malformed"),
        ("acme/open?page=%ff", "400 malformed"),
        ("acme/open/a//b", "400 malformed"),
    ] {
        assert_eq!(world.invoke(path).send().await.summary(), expected, "{path}");
    }
}

#[tokio::test]
async fn c06_hostile_paths_are_refused_and_never_normalised_on_the_wire() {
    let world = World::with("echo", &echo()).start().await;
    let token = world.token("acme").sign();
    for path in [
        "/acme%2fecho",
        "/acme/echo/%00",
        "/acme/../acme/echo",
        "/acme/%2e%2e/echo",
        "/acme/ech%6f",
        "/acme/echo/%c0%af",
        "/acme/echo/a%5cb",
    ] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        let answer = world.client.raw(head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
    }
}

#[tokio::test]
async fn d12_signals_are_recorded_or_refused_as_the_manifest_says() {
    let world = World::with("echo", &echo())
        .function("acme", "strict", &echo())
        .file("functions/acme/strict/function.toml", &format!("{MANIFEST}injection = \"block\"\n"))
        .start()
        .await;
    let attack = json!({"name": "' OR 1=1 --"});
    let reply = world.invoke("acme/echo").json(attack.clone()).send().await;
    assert_eq!(reply.summary(), "200");
    assert_eq!(world.record(&reply)["signals"], json!([{"pointer": "/name", "kind": "sql"}]));
    let reply = world.invoke("acme/strict").json(attack).send().await;
    assert_eq!(reply.summary(), "422 invalid_event");
    assert!(reply.json()["errors"].is_null());
    assert_eq!(world.record(&reply)["signals"], json!([{"pointer": "/name", "kind": "sql"}]));
    assert_eq!(world.invoke("acme/strict").json(json!({"name": "O'Brien"})).send().await.summary(), "200");
}

#[tokio::test]
async fn d14_a_reply_that_breaks_its_schema_or_its_form_is_a_failed_function() {
    let world = World::with("echo", &echo())
        .file("functions/acme/echo/function.toml", &format!("{MANIFEST}[response]\nschema = \"response.schema.json\"\n"))
        .file("functions/acme/echo/response.schema.json", r#"{"type":"object","additionalProperties":false,"required":["name"],"properties":{"name":{"type":"string"}}}"#)
        .function("acme", "status", &guest("answers-status"))
        .file("functions/acme/status/function.toml", "component = \"component.wat\"\nmethods = [\"POST\"]\n[event]\nmedia-types = [\"application/octet-stream\"]\n")
        .start()
        .await;
    assert_eq!(world.invoke("acme/echo").json(json!({"name": "Ada"})).send().await.summary(), "200");
    assert_eq!(world.invoke("acme/echo").json(json!({"n": 1})).send().await.summary(), "502 function_failed");
    for status in [99_u16, 199, 600, 1000] {
        let reply = world
            .invoke("acme/status")
            .content_type(Some("application/octet-stream"))
            .text(status.to_le_bytes().to_vec())
            .send()
            .await;
        assert_eq!(reply.summary(), "502 function_failed", "{status}");
    }
}
