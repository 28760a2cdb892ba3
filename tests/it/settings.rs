//! `sandgate.toml` while it is served: what holds from the next connection on, and what waits for a restart.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::mpsc,
};

use rustls::AlertDescription;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use crate::{
    client::{Client, PATIENCE},
    connections::{admitted, from, proxy_header, settings},
    guest::echo,
    operations::{Gate, sample},
    world::{Live, World, eventually},
};

async fn with(text: &str) -> Live {
    World::with("echo", &echo()).file("sandgate.toml", &settings(text)).start().await
}

/// Ends when `sandgate.toml` says so and is in force.
async fn change(live: &Live, text: &str) {
    let before = live.running.gateway.revision().id().clone();
    live.write("sandgate.toml", text);
    live.running.reload.pull();
    eventually("the settings are in force", || async { *live.running.gateway.revision().id() != before })
        .await;
}

/// Whether a connection still serves.
async fn serves(stream: &mut TlsStream<TcpStream>) -> bool {
    let answer = async {
        stream.write_all(b"GET /acme/echo HTTP/1.1\r\nhost: localhost\r\n\r\n").await.ok()?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            answer.push(stream.read_u8().await.ok()?);
        }
        String::from_utf8_lossy(&answer).contains("HTTP/1.1 401").then_some(())
    };
    timeout(PATIENCE, answer).await.expect("an answer or the end in time").is_some()
}

#[tokio::test]
async fn proxies_are_believed_from_when_they_are_listed_until_they_are_not() {
    let live = World::with("echo", &echo())
        .file("policies/acme/policies.cedar", &from("198.51.100.7"))
        .start()
        .await;
    let through = live.client.prelude(proxy_header([198, 51, 100, 7]));
    let answer = async |client: &Client| {
        let (_, version, request) = live.invoke("acme/echo").finish();
        client.try_send(version, request).await.unwrap().summary()
    };
    assert!(admitted(&through).await.is_none());
    assert_eq!(answer(&live.client).await, "403 forbidden");
    let mut before = admitted(&live.client).await.unwrap();

    change(&live, &settings("proxies = [\"127.0.0.1/32\"]")).await;
    assert_eq!(answer(&through).await, "200");
    assert!(admitted(&live.client).await.is_none(), "a listed peer says who its client is");
    assert!(serves(&mut before).await, "who was here before is asked nothing new");

    change(&live, "").await;
    assert!(admitted(&through).await.is_none());
    assert_eq!(answer(&live.client).await, "403 forbidden");
}

#[tokio::test]
async fn a_clients_share_of_connections_changes_for_those_to_come() {
    let live = with("max-connections-per-client = 2").await;
    let (mut first, mut second) =
        (admitted(&live.client).await.unwrap(), admitted(&live.client).await.unwrap());
    assert!(admitted(&live.client).await.is_none());
    change(&live, &settings("max-connections-per-client = 3")).await;
    let mut third = admitted(&live.client).await.unwrap();
    assert!(admitted(&live.client).await.is_none());

    change(&live, &settings("max-connections-per-client = 1")).await;
    assert!(admitted(&live.client).await.is_none());
    for stream in [&mut first, &mut second, &mut third] {
        assert!(serves(stream).await, "nobody is thrown out");
    }
    drop((first, second, third));
    eventually("the share is free again", || async { admitted(&live.client).await.is_some() }).await;
}

#[tokio::test]
async fn more_connections_are_taken_and_fewer_as_they_end() {
    let live = with("max-connections = 1").await;
    let first = admitted(&live.client).await.unwrap();
    let waiting = tokio::spawn({
        let client = live.client.clone();
        async move { admitted(&client).await }
    });
    let beyond = |count: u8| format!("sandgate_connections {count}");
    assert!(live.metric(&beyond(1)) && !waiting.is_finished());
    change(&live, &settings("max-connections = 2")).await;
    let second = timeout(PATIENCE, waiting).await.expect("room for it").unwrap().unwrap();

    change(&live, &settings("max-connections = 1")).await;
    drop(first);
    eventually("one is left", || async { live.metric(&beyond(1)) }).await;
    let waiting = tokio::spawn({
        let client = live.client.clone();
        async move { admitted(&client).await }
    });
    let mut second = second;
    assert!(serves(&mut second).await && !waiting.is_finished());
    drop(second);
    assert!(timeout(PATIENCE, waiting).await.expect("its turn").unwrap().is_some());
}

#[tokio::test]
async fn the_time_of_a_head_is_that_of_when_the_connection_was_opened() {
    let live = with("header-timeout = \"1m\"").await;
    let half = async || {
        let mut stream = live.client.tls(&[b"http/1.1"]).await.unwrap();
        stream.write_all(b"GET /acme/echo HTTP/1.1\r\nhost: loc").await.unwrap();
        stream
    };
    let mut before = half().await;
    change(&live, &settings("header-timeout = \"1s\"")).await;
    let mut after = half().await;
    let mut answer = Vec::new();
    timeout(PATIENCE / 2, after.read_to_end(&mut answer)).await.expect("an answer in time").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
    // By now the one before has waited for longer than that.
    before.write_all(b"alhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    timeout(PATIENCE, before.read_exact(&mut answer)).await.expect("an answer in time").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
}

#[tokio::test]
async fn b05_strict_sni_can_be_turned_on_and_off() {
    let live = World::with("echo", &echo()).start().await;
    let other = live.client.named("other.example");
    let strict = |strict: bool| format!("[tls]\nstrict-sni = {strict}\n");
    let unknown = Some(AlertDescription::AccessDenied);
    assert_ne!(other.alert().await, unknown);
    change(&live, &strict(true)).await;
    assert_eq!(other.alert().await, unknown);
    assert_eq!(live.client.alert().await, None);
    change(&live, &strict(false)).await;
    assert_ne!(other.alert().await, unknown);
}

#[tokio::test]
async fn a_file_that_is_faulty_changes_nothing() {
    let live = with("max-connections-per-client = 1").await;
    let _first = admitted(&live.client).await.unwrap();
    live.write("sandgate.toml", settings("max-connections-per-client = 9\nheader-timeout = \"1h\""));
    live.running.reload.pull();
    let told = || live.running.gateway.readiness().to_string();
    eventually("it is told", || async { told().contains("`server.header-timeout` is out of its range") })
        .await;
    assert!(admitted(&live.client).await.is_none());
}

#[test]
fn what_waits_for_a_restart_is_told_once() {
    let site = tempfile::tempdir().unwrap();
    sample(site.path());
    let mut gate = Gate(
        Command::new(env!("CARGO_BIN_EXE_sandgate"))
            .args(["dev", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--site"])
            .arg(site.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let (tell, told) = mpsc::channel();
    let log = BufReader::new(gate.0.stderr.take().unwrap());
    std::thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    let until = |what: &str| {
        let mut lines = Vec::new();
        while !lines.last().is_some_and(|line: &String| line.contains(what)) {
            lines.push(told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {what}: {lines:#?}")));
        }
        lines
    };
    until("\"serving\"");
    let write = |text: &str| fs::write(site.path().join("sandgate.toml"), text).unwrap();
    let restart = |lines: &[String]| {
        let told = lines.iter().find_map(|line| line.split("needs a restart: ").nth(1));
        told.map(|told| told.split('"').next().unwrap().to_owned())
    };
    // The address was given on the command line: what the file says of it would change nothing at a restart either.
    write(
        "[server]\nlisten = \"127.0.0.1:1\"\nidle-timeout = \"5s\"\n[sandbox]\ninstances = 9\n[cache]\ntokens = 9\n",
    );
    let lines = until("a revision is in force");
    assert_eq!(restart(&lines).as_deref(), Some("`sandbox.instances`, `cache.tokens`"), "{lines:#?}");
    write("[server]\nidle-timeout = \"6s\"\n[sandbox]\ninstances = 9\n[cache]\ntokens = 9\n");
    let lines = until("a revision is in force");
    assert_eq!(restart(&lines), None, "{lines:#?}");
    write("[cache]\ntokens = 9\n");
    assert_eq!(restart(&until("a revision is in force")).as_deref(), Some("`cache.tokens`"));
}
