//! The end: what is in flight is answered, nobody new is let in, and the audit log is whole.

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;

use crate::{
    client::{PATIENCE, exchange},
    frames::{Http2, SETTINGS},
    guest::echo,
    operations::{dev, sample},
    world::{World, eventually},
};

#[tokio::test]
async fn at_a_stop_requests_in_flight_are_answered_and_new_connections_refused() {
    let world = World::with("echo", &echo()).start().await;
    let mut idle = world.client.tls(&[b"http/1.1"]).await.unwrap();
    let mut calls = Vec::new();
    for http2 in [false, true] {
        let call = world.invoke("acme/echo");
        calls.push(if http2 { call.http2() } else { call }.hold().await);
    }
    let (audit, client, gateway) =
        (world.path().join(".sandgate/audit"), world.client.clone(), world.running.gateway.clone());
    assert!(gateway.readiness().ready);
    let stopping = tokio::spawn(world.running.stop());
    eventually("no connection is taken any more", || async { client.tcp().await.is_err() }).await;
    assert!(!gateway.readiness().ready);
    // Somebody who asks nothing is not waited for.
    assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0);
    assert!(!stopping.is_finished(), "two calls are in flight");
    let mut answered = Vec::new();
    for (call, body) in calls.into_iter().zip([r#"{"name":"one"}"#, r#"{"name":"two"}"#]) {
        let reply = call.finish(body).await;
        assert_eq!((reply.summary().as_str(), &reply.body[..]), ("200", body.as_bytes()));
        answered.push(reply.header("sandgate-request-id").unwrap().to_owned());
    }
    stopping.await.unwrap();
    let report = sandgate::record::verify(&audit, None).unwrap();
    assert!(report.sound, "{report}");
    assert_eq!(recorded(&audit), answered);
}

/// An idle client of HTTP/1 is hung up on; one of HTTP/2 is asked whether it has heard, and may be asleep.
#[tokio::test]
async fn at_a_stop_a_client_of_http2_that_asks_nothing_and_never_answers_is_not_waited_for() {
    let world = World::with("echo", &echo())
        .file("sandgate.toml", "[server]\nheader-timeout = \"1s\"\ndrain = \"10m\"\n")
        .start()
        .await;
    let mut asleep = Http2::open(&world.client).await;
    assert!(asleep.next_of(&[SETTINGS]).await.is_some());
    tokio::time::timeout(PATIENCE, world.running.stop()).await.expect("an end long before the drain time's");
    drop(asleep);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_sigterm_the_process_answers_what_is_in_flight_and_ends_well() {
    let site = tempfile::tempdir().unwrap();
    sample(site.path());
    let (mut gate, client, token) = dev(site.path(), "");
    let mut stream = client.tls(&[b"http/1.1"]).await.unwrap();
    let head = format!(
        "POST /acme/hello HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: 14\r\nexpect: 100-continue\r\n\r\n"
    );
    // The gateway asks for a body only of those who may call.
    let asked = exchange(&mut stream, head.as_bytes()).await;
    assert!(asked.starts_with("HTTP/1.1 100 "), "{asked}");
    kill_process(Pid::from_child(&gate.0), Signal::TERM).unwrap();
    eventually("no connection is taken any more", || async { client.tcp().await.is_err() }).await;
    assert!(gate.0.try_wait().unwrap().is_none(), "a call is in flight");
    let answer = exchange(&mut stream, br#"{"name":"Ada"}"#).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    drop(stream);
    let ended = tokio::task::spawn_blocking(move || gate.0.wait().unwrap()).await.unwrap();
    assert_eq!(ended.code(), Some(0));
    let audit = site.path().join(".sandgate/audit");
    let report = sandgate::record::verify(&audit, None).unwrap();
    assert!(report.sound, "{report}");
    let id = answer.split("sandgate-request-id: ").nth(1).unwrap().split("\r\n").next().unwrap();
    assert_eq!(recorded(&audit), [id]);
}

/// Ids of all calls that the log tells of, in order.
fn recorded(audit: &std::path::Path) -> Vec<String> {
    sandgate::record::show(audit, sandgate::record::Filter::default())
        .unwrap()
        .filter_map(|shown| shown.unwrap().value["request_id"].as_str().map(str::to_owned))
        .collect()
}
