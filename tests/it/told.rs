//! INVARIANT (Told): what is recorded and counted of a request that did not get as far as its function's reply.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::BodyExt;
use sandgate::{
    event::UnreadBody,
    http::{Peer, answer},
    record::{Filter, show},
};
use serde_json::{Value, json};

use crate::{
    authority::{Authority, GOOD},
    frames::{DATA, END_HEADERS, END_STREAM, HEADERS, Http2, RST_STREAM, block, frame},
    guest::echo,
    hosts::{ACME, certified, toml},
    world::{Live, World, eventually},
};

/// What a record says of where and how it ended.
fn ending(record: &Value) -> [&str; 4] {
    let outcome = &record["outcome"];
    [&record["kind"], &record["stage"], &outcome["code"], &outcome["reason"]]
        .map(|value| value.as_str().unwrap_or_default())
}

#[tokio::test]
async fn what_names_nothing_here_is_recorded_as_refused_by_the_route() {
    let authority = Authority::new("servers");
    let world = World::with("echo", &echo())
        .file("policies/acme/tenant.toml", &toml("acme", &format!("hosts = [\"{ACME}\"]"), ""));
    let world = certified(world, ACME, &authority.server(&[ACME], GOOD)).start().await;
    for (path, status, reason) in [
        ("/", "404 not_found", "route"),
        ("/Acme/echo", "404 not_found", "route"),
        ("/acme/%65cho", "400 malformed", "route"),
        ("/nobody/echo", "401 unauthenticated", "unknown tenant"),
    ] {
        let reply = world.invoke("acme/echo").path(path).send().await;
        assert_eq!(reply.summary(), status, "{path}");
        let (_, code) = status.split_once(' ').unwrap();
        assert_eq!(ending(&world.record(&reply)), ["refused", "route", code, reason], "{path}");
    }
    let request = Request::post(format!("https://{ACME}/echo")).body(crate::client::full("{}")).unwrap();
    let reply = world.client.send(Version::HTTP_2, request).await;
    assert_eq!(reply.summary(), "421 misdirected");
    let record = world.record(&reply);
    assert_eq!(ending(&record), ["refused", "route", "misdirected", "misdirected"]);
    // Who came to the gate and was turned away there is told apart, for people too.
    let reply = world.invoke("acme/echo").anonymous().send().await;
    assert_eq!(world.record(&reply)["stage"], "authenticate");
    let shown: Vec<String> = show(&world.path().join(".sandgate/audit"), Filter::default())
        .unwrap()
        .map(|shown| shown.unwrap().text())
        .collect();
    let at = |stage: &str| shown.iter().filter(|line| line.contains(&format!(" at {stage}: "))).count();
    assert_eq!((at("route"), at("authenticate")), (5, 1), "{shown:#?}");
    assert!(world.metric("sandgate_stage_seconds_count{stage=\"route\"} 6"));
}

/// A body, or what becomes of it, that is a bug of the gateway's own.
struct Bug {
    when_read: bool,
}

impl http_body::Body for Bug {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<http_body::Frame<Bytes>>>> {
        assert!(!self.when_read, "a bug that quotes the event: hunter2");
        Poll::Ready(None)
    }
}

impl Drop for Bug {
    fn drop(&mut self) {
        assert!(self.when_read || std::thread::panicking(), "a bug outside of the stages");
    }
}

/// The status of the answer to a request with such a body, and the id that it bears.
async fn meets(world: &Live, bug: Bug, path: &str) -> (u16, String) {
    let peer = Peer {
        client: [127, 0, 0, 1].into(),
        tls: "1.3",
        listed: false,
        certificate: None,
        server_name: None,
        host: None,
    };
    let request = Request::post(path)
        .header("host", "localhost")
        .header("authorization", format!("Bearer {}", world.token("acme").sign()))
        .header("content-type", "application/json")
        .body(UnreadBody::boxed(bug))
        .unwrap();
    let response = answer(world.running.gateway.clone(), peer, request).await;
    let id = response.headers()["sandgate-request-id"].to_str().unwrap().to_owned();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        problem,
        json!({
            "type": "urn:sandgate:error:internal",
            "title": "An error of the gateway",
            "status": 500,
            "instance": id,
            "code": "internal",
        })
    );
    (status, id)
}

#[tokio::test]
async fn c12_f29_a_panic_in_a_stage_is_answered_counted_and_recorded_with_who_called() {
    let world = World::with("echo", &echo()).start().await;
    let (status, id) = meets(&world, Bug { when_read: true }, "/acme/echo").await;
    assert_eq!(status, 500);
    let records: Vec<Value> = world.records().into_iter().filter(|r| r["request_id"] == *id).collect();
    let [record] = &records[..] else { panic!("{records:#?}") };
    assert_eq!(ending(record), ["invocation", "validate", "internal", "a stage panicked"]);
    assert_eq!(record["caller"]["id"], "acme/alice");
    assert!(!record.to_string().contains("hunter2"), "{record}");
    assert!(
        world.metric("sandgate_requests_total{tenant=\"acme\",function=\"echo\",code=\"internal\"} 1"),
        "{}",
        world.running.gateway.metrics_text()
    );
    assert_eq!(world.invoke("acme/echo").send().await.summary(), "200");
}

#[tokio::test]
async fn c12_f29_a_panic_outside_of_the_stages_is_answered_counted_and_recorded() {
    let world = World::with("echo", &echo()).start().await;
    let (status, id) = meets(&world, Bug { when_read: false }, "/").await;
    assert_eq!(status, 500);
    let records = world.records();
    let told = records.iter().rfind(|record| record["request_id"] == *id).unwrap();
    assert_eq!(ending(told), ["refused", "route", "internal", "panic"]);
    assert!(world.metric("sandgate_refusals_total{code=\"internal\"} 1"));
}

/// An HTTP/2 call whose body has begun, with `declared` bytes.
async fn begun(world: &Live, declared: &str) -> Http2 {
    let bearer = format!("Bearer {}", world.token("acme").sign());
    let fields = block(&[
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/acme/echo"),
        ("authorization", &bearer),
        ("content-type", "application/json"),
        ("content-length", declared),
    ]);
    let mut http2 = Http2::open(&world.client).await;
    let decided = || world.running.gateway.metrics_text().contains("stage=\"authorize\"} 1");
    let begun = [frame(HEADERS, END_HEADERS, 1, &fields), frame(DATA, 0, 1, b"{")].concat();
    assert!(http2.write(&begun).await);
    eventually("the body is waited for", || async { decided() }).await;
    http2
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_body_is_recorded_as_gone() {
    for leaves in ["resets the stream", "closes the connection"] {
        let world = World::with("echo", &echo()).start().await;
        let mut http2 = begun(&world, "100").await;
        if leaves == "resets the stream" {
            assert!(http2.write(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])).await);
            eventually("it is recorded", || async { !world.records().is_empty() }).await;
        }
        drop(http2);
        let ends = || async { world.records().iter().any(|record| record["kind"] == "invocation") };
        eventually("it is recorded", ends).await;
        let records = world.records();
        let told = records.iter().find(|record| record["kind"] == "invocation").unwrap();
        assert_eq!(
            (&told["stage"], &told["outcome"]["status"], &told["outcome"]["code"]),
            (&json!("validate"), &json!(499), &json!("client_gone")),
            "{leaves}: {told}"
        );
        let counted = "sandgate_requests_total{tenant=\"acme\",function=\"echo\",code=\"client_gone\"} 1";
        assert!(world.metric(counted), "{leaves}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_its_framing_is_malformed_and_not_a_client_that_left() {
    let world = World::with("echo", &echo()).start().await;
    let mut http2 = begun(&world, "2").await;
    // More than was declared (RFC 9113 §8.1.1): the library resets the stream.
    assert!(http2.write(&frame(DATA, END_STREAM, 1, b"}{}")).await);
    let ends = || async { world.records().iter().any(|record| record["kind"] == "invocation") };
    eventually("it is recorded", ends).await;
    let records = world.records();
    let told = records.iter().find(|record| record["kind"] == "invocation").unwrap();
    assert_eq!(ending(told)[2], "malformed", "{told}");
}

#[tokio::test]
async fn c13_nobody_learns_what_another_tenant_has() {
    let world =
        World::with("echo", &echo()).tenant("globex").function("globex", "echo", &echo()).start().await;
    let token = world.token("acme").sign();
    let mut answers = Vec::new();
    for path in ["/globex/echo", "/globex/echo/rest", "/globex/nothing", "/nobody/echo"] {
        for method in [Method::POST, Method::DELETE] {
            let call = world.invoke("acme/echo").path(path).method(method).bearer(&token);
            let mut reply = call.json(json!({"unknown": 1})).send().await;
            let id = reply.header("sandgate-request-id").unwrap().to_owned();
            for own in ["sandgate-request-id", "date"] {
                reply.headers.remove(own);
            }
            let body = String::from_utf8(reply.body.to_vec()).unwrap().replace(&id, "ID");
            answers.push((reply.status, reply.headers, body));
        }
    }
    assert_eq!(answers[0].0, 401);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
}
