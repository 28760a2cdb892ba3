//! Refusals as their callers see them: one shape whoever made them, and nothing told that is another's.

use std::collections::BTreeSet;

use http::Method;

use crate::{
    client::Reply,
    guest::echo,
    world::{Live, World, eventually},
};

/// `echo` may be called and `closed` may not; the other tenant has an `echo` of its own.
async fn site() -> Live {
    World::with("echo", &echo())
        .function("acme", "closed", &echo())
        .tenant("globex")
        .function("globex", "echo", &echo())
        .file(
            "policies/acme/policies.cedar",
            "@id(\"echo\")\npermit(principal, action == Action::\"invoke\", resource == Function::\"acme/echo\");\n",
        )
        .start()
        .await
}

/// What is wrong with its shape, if anything is (RFC 9457 §3.1).
fn misshapen(reply: &Reply) -> Option<String> {
    let id = reply.header("sandgate-request-id");
    let body = reply.json();
    let code = body["code"].as_str().unwrap_or_default();
    let known: BTreeSet<&str> = ["type", "title", "status", "instance", "code", "errors"].into();
    let fits = reply.header("content-type") == Some("application/problem+json")
        && reply.header("cache-control") == Some("no-store")
        && !code.is_empty()
        && body["type"] == format!("urn:sandgate:error:{code}")
        && body["status"] == reply.status
        && id.is_some_and(|id| body["instance"] == *id)
        && body["title"].is_string()
        && body.as_object().is_some_and(|body| body.keys().all(|key| known.contains(key.as_str())));
    (!fits).then(|| format!("{reply:?}"))
}

#[tokio::test]
async fn c12_every_refusal_has_one_shape_whoever_made_it() {
    let world = site().await;
    let large = format!("{{\"name\":\"{}\"}}", "a".repeat(100_000));
    let mut seen = BTreeSet::new();
    for http2 in [false, true] {
        let call = |function: &str| {
            let call = world.invoke(function);
            if http2 { call.http2() } else { call }
        };
        for refused in [
            call("acme/echo").anonymous(),
            call("acme/closed"),
            call("acme/nothing"),
            call("acme/echo").path("/"),
            call("acme/echo").path("/acme/%2e%2e/echo"),
            call("acme/echo").method(Method::PUT),
            call("acme/echo").method(Method::TRACE),
            call("acme/echo").content_type(Some("text/plain")),
            call("acme/echo").header("content-encoding", "gzip"),
            call("acme/echo").text(large.clone()),
            call("acme/echo").text("{"),
            call("acme/echo").text(r#"{"no":1}"#),
        ] {
            let reply = refused.send().await;
            assert_eq!(misshapen(&reply), None);
            seen.insert(reply.summary());
        }
    }
    let misdirected = world.client.raw(b"GET /acme/echo HTTP/1.1\r\nhost: other.example\r\n\r\n").await;
    assert!(misdirected.starts_with("HTTP/1.1 421 "), "{misdirected}");
    assert!(misdirected.contains("\r\ncontent-type: application/problem+json\r\n"), "{misdirected}");

    // A tenant whose part is faulty and was never good: nothing of it is told either.
    world.write("policies/initech/tenant.toml", "faulty");
    world.running.reload.pull();
    eventually("it is read", || async {
        let reply = world.invoke("initech/echo").bearer("a.b.c").send().await;
        reply.status == 503 && misshapen(&reply).is_none()
    })
    .await;
    let expected = [
        "400 malformed",
        "401 unauthenticated",
        "403 forbidden",
        "404 not_found",
        "405 method_not_allowed",
        "413 too_large",
        "415 unsupported_media_type",
        "422 invalid_event",
    ];
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn c13_another_tenants_functions_look_the_same_whether_they_are_there_or_not() {
    let world = site().await;
    let token = world.token("acme").sign();
    let mut answers = BTreeSet::new();
    for named in ["globex/echo", "globex/nothing", "nobody/echo", "nobody/nothing"] {
        for method in [Method::POST, Method::GET, Method::DELETE] {
            let reply = world.invoke(named).bearer(&*token).method(method).send().await;
            let mut body = reply.json();
            // Alone in naming this reply.
            body["instance"] = "".into();
            let mut headers: Vec<_> =
                reply.headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
            headers.retain(|line| !line.starts_with("sandgate-request-id") && !line.starts_with("date"));
            headers.sort();
            answers.insert(format!("{} {body} {headers:?}", reply.status));
        }
    }
    assert_eq!(answers.len(), 1, "{answers:#?}");
}
