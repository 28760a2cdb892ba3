//! Who may connect, how many at once, who they are said to be, and how the last of them are let go.

use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use crate::{
    client::{Client, PATIENCE},
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2, PING, PRIORITY, RST_STREAM,
        SETTINGS, WINDOW_UPDATE, block, frame,
    },
    guest::echo,
    operations::{dev, sample},
    world::{Live, World, eventually},
};

pub(crate) fn settings(text: &str) -> String {
    format!("[server]\n{text}\n")
}

/// A connection that was admitted: an HTTP/1.1 request of it got an answer.
pub(crate) async fn admitted(client: &Client) -> Option<TlsStream<TcpStream>> {
    let mut stream = client.tls(&[b"http/1.1"]).await.ok()?;
    stream.write_all(b"GET /acme/echo HTTP/1.1\r\nhost: localhost\r\n\r\n").await.ok()?;
    let mut answer = [0; 12];
    let read = timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("an answer or the end in time");
    read.ok().map(|_| {
        assert_eq!(&answer, b"HTTP/1.1 401");
        stream
    })
}

fn counted(world: &Live, kind: &str) -> bool {
    count(world, "turned_away", kind) > 0
}

#[tokio::test]
async fn c15_a_client_gets_so_many_connections_and_each_that_ends_makes_room() {
    let world = World::with("echo", &echo())
        .file("sandgate.toml", &settings("max-connections-per-client = 2"))
        .start()
        .await;
    let first = admitted(&world.client).await.unwrap();
    let _second = admitted(&world.client).await.unwrap();
    assert!(admitted(&world.client).await.is_none());
    assert!(counted(&world, "client_connections"));
    drop(first);
    eventually("there is room again", || async { admitted(&world.client).await.is_some() }).await;
}

#[tokio::test]
async fn c15_requests_beyond_what_there_is_room_for_are_shed_and_other_clients_served() {
    let world = World::with("echo", &echo())
        .file("sandgate.toml", &settings("max-connections-per-client = 3"))
        .start()
        .await;
    // Three connections of one client, and twice a connection's streams among them, without a body yet.
    let head = with_token(&world);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut http2 = Http2::open(&world.client).await;
        let all: Vec<u8> = (0..100).flat_map(|n| frame(HEADERS, END_HEADERS, stream(n), &head)).collect();
        assert!(http2.write(&[all, frame(PING, 0, 0, &[7; 8])].concat()).await);
        assert_eq!(http2.next_of(&[PING, HEADERS]).await.expect("an answer").kind, PING);
        held.push(http2);
    }
    let shed = world.invoke("acme/echo").send().await;
    assert_eq!(shed.summary(), "503 overloaded");
    assert!(shed.header("retry-after").is_some() && shed.header("sandgate-request-id").is_some());
    assert_eq!(world.invoke("acme/echo").from([127, 0, 0, 2]).send().await.summary(), "200");
    assert_eq!(world.record(&shed)["outcome"]["code"], "overloaded");
    drop(held);
    eventually("there is room again", || async { world.invoke("acme/echo").send().await.summary() == "200" })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c15_connections_leave_open_files_for_the_rest_of_the_process() {
    let site = tempfile::tempdir().unwrap();
    sample(site.path());
    // It starts with few and may have more.
    let (gate, ..) = dev(site.path(), "ulimit -S -n 256;");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gate.0.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: u64 = files.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!(soft > 4096, "{files}");
    drop(gate);

    // It may not.
    let (gate, client, _) = dev(site.path(), "ulimit -n 256;");
    let open = || std::fs::read_dir(format!("/proc/{}/fd", gate.0.id())).unwrap().count();
    let before = open();
    let mut silent = Vec::new();
    for n in 0..250 {
        // No more from one address than may shake hands at once.
        silent.push(client.from(Ipv4Addr::new(127, 0, 0, 2 + n / 50)).tcp().await.unwrap());
    }
    // 256, less 128 for others and three for the sample's functions; a few come and go.
    eventually("half of them are let in and no more", || async {
        (before + 115..before + 130).contains(&open())
    })
    .await;
}

#[tokio::test]
async fn b04_handshakes_that_do_not_end_are_bounded_and_hold_nobody_else_up() {
    let world = World::with("echo", &echo())
        .file("sandgate.toml", &settings("max-handshakes-per-client = 3\nhandshake-timeout = \"1s\""))
        .start()
        .await;
    // Two that never say a word, and others are served beside them.
    let silent = [world.client.tcp().await.unwrap(), world.client.tcp().await.unwrap()];
    eventually("both are seen", || async {
        world.running.gateway.metrics_text().lines().any(|line| line == "sandgate_connections 2")
    })
    .await;
    assert!(admitted(&world.client).await.is_some());
    let third = world.client.tcp().await.unwrap();
    eventually("a fourth is refused", || async {
        admitted(&world.client).await.is_none() && counted(&world, "client_handshakes")
    })
    .await;
    // They end by themselves.
    for mut stream in silent.into_iter().chain([third]) {
        let end = timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("the end in time");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    assert!(counted(&world, "handshake_slow"));
    eventually("there is room again", || async { admitted(&world.client).await.is_some() }).await;
}

#[tokio::test]
async fn with_one_handshake_at_a_time_others_wait_for_their_turn() {
    let world =
        World::with("echo", &echo()).file("sandgate.toml", &settings("max-handshakes = 1")).start().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let client = world.client.clone();
        calls.spawn(async move { admitted(&client).await.is_some() });
    }
    assert!(calls.join_all().await.into_iter().all(|served| served));
}

/// The hello that such a client would send.
fn hello(client: &Client) -> Vec<u8> {
    let config = client.config(rustls::crypto::aws_lc_rs::default_provider(), rustls::DEFAULT_VERSIONS);
    let name = "localhost".try_into().unwrap();
    let mut hello = Vec::new();
    let mut session = rustls::ClientConnection::new(config.into(), name).unwrap();
    session.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn b04_who_says_nothing_or_only_hello_does_not_keep_others_from_their_turn() {
    let world = World::with("echo", &echo())
        .file("sandgate.toml", &settings("max-handshakes = 1\nhandshake-timeout = \"1m\""))
        .start()
        .await;
    let mut held = Vec::new();
    for said in [Vec::new(), hello(&world.client), hello(&world.client)] {
        let mut stream = world.client.tcp().await.unwrap();
        stream.write_all(&said).await.unwrap();
        if !said.is_empty() {
            // It has its turn, and an answer.
            timeout(PATIENCE, stream.read_u8()).await.expect("an answer in time").unwrap();
        }
        held.push(stream);
        assert!(admitted(&world.client).await.is_some());
    }
    assert!(!counted(&world, "handshake_slow"));
}

/// Only this client may call.
pub(crate) fn from(client: &str) -> String {
    format!(
        "@id(\"from\")\npermit(principal, action == Action::\"invoke\", resource)\n\
         when {{ context.client == ip(\"{client}\") }};\n"
    )
}

/// A PROXY header of version 2 for TCP over IPv4.
pub(crate) fn proxy_header(client: [u8; 4]) -> Vec<u8> {
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &client[..], &[127, 0, 0, 1, 1, 2, 3, 4]].concat()
}

#[tokio::test]
async fn a_listed_proxy_must_say_who_its_client_is_and_is_believed() {
    let world = World::with("echo", &echo())
        .file(
            "sandgate.toml",
            &settings("proxies = [\"192.0.2.0/24\", \"127.0.0.1/32\"]\nmax-connections-per-client = 1"),
        )
        .file("policies/acme/policies.cedar", &from("198.51.100.7"))
        .start()
        .await;
    let through = |client| world.client.prelude(proxy_header(client));
    for (client, answer) in [([198, 51, 100, 7], "200"), ([198, 51, 100, 6], "403 forbidden")] {
        let (_, version, request) = world.invoke("acme/echo").finish();
        assert_eq!(through(client).send(version, request).await.summary(), answer);
    }
    // Limits are the clients' own and not the balancer's.
    let _first = admitted(&through([198, 51, 100, 8])).await.unwrap();
    let _other = admitted(&through([198, 51, 100, 9])).await.unwrap();
    assert!(admitted(&through([198, 51, 100, 8])).await.is_none());
    // Without the header it is nobody.
    assert!(admitted(&world.client).await.is_none());
    assert!(
        admitted(&world.client.prelude(b"PROXY TCP4 198.51.100.7 127.0.0.1 1 2\r\n".to_vec()))
            .await
            .is_none()
    );
    assert!(counted(&world, "proxy_header"));
}

#[tokio::test]
async fn a_client_that_is_no_listed_proxy_cannot_choose_its_address() {
    let world = World::with("echo", &echo())
        .file("sandgate.toml", &settings("proxies = [\"192.0.2.0/24\"]"))
        .file("policies/acme/policies.cedar", &from("127.0.0.1"))
        .start()
        .await;
    assert!(admitted(&world.client.prelude(proxy_header([198, 51, 100, 7]))).await.is_none());
    assert!(counted(&world, "handshake"));
    assert_eq!(world.invoke("acme/echo").send().await.summary(), "200");
}

/// A call whose body has not come, and is waited for.
async fn begun_http1(world: &Live) -> TlsStream<TcpStream> {
    let token = world.token("acme").sign();
    let mut stream = world.client.tls(&[b"http/1.1"]).await.unwrap();
    let head = format!(
        "POST /acme/echo HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 7\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 25];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("a word in time").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

/// The head of a call that may be made, and whose body is to come.
fn with_token(world: &Live) -> Vec<u8> {
    let bearer = format!("Bearer {}", world.token("acme").sign());
    [call_head(), block(&[("authorization", &bearer), ("content-type", "application/json")])].concat()
}

async fn begun_http2(world: &Live) -> Http2 {
    let fields = with_token(world);
    let mut http2 = Http2::open(&world.client).await;
    // Frames are taken in their order: once the ping is answered, the request is known.
    assert!(
        http2.write(&[frame(HEADERS, END_HEADERS, 1, &fields), frame(PING, 0, 0, &[7; 8])].concat()).await
    );
    let pong = http2.next_of(&[PING, HEADERS]).await.expect("an answer");
    assert_eq!((pong.kind, pong.flags, pong.payload), (PING, 1, vec![7; 8]));
    http2
}

#[tokio::test]
async fn requests_in_flight_finish_at_shutdown_and_clients_of_http2_are_told() {
    let world = World::with("echo", &echo()).start().await;
    let (mut http1, mut http2) = (begun_http1(&world).await, begun_http2(&world).await);
    let client = world.client.clone();
    let stopping = tokio::spawn(world.running.stop());
    assert!(http2.next_of(&[GOAWAY]).await.is_some());
    assert!(timeout(PATIENCE, client.tls(&[b"h2"])).await.expect("an end").is_err(), "nobody new is let in");

    assert!(http2.write(&frame(DATA, END_STREAM, 1, br#"{"n":2}"#)).await);
    let reply = http2.next_of(&[HEADERS]).await.expect("its reply");
    assert_eq!(reply.payload[0], 0x88, "200, by the static table");
    let body = http2.next_of(&[DATA]).await.expect("its body");
    assert_eq!(body.payload, br#"{"n":2}"#);

    http1.write_all(br#"{"n":1}"#).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, http1.read_to_end(&mut answer)).await.expect("the end in time").unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(r#"{"n":1}"#), "{answer}");
    while http2.next().await.is_some() {}
    timeout(PATIENCE, stopping).await.expect("an end in time").unwrap();
}

#[tokio::test]
async fn c01_a_request_without_end_is_cut_with_its_connection() {
    let world = World::with("echo", &echo())
        .file("sandgate.toml", &settings("request-timeout = \"1s\""))
        .start()
        .await;
    let mut http1 = begun_http1(&world).await;
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, http1.read_to_end(&mut rest)).await.expect("the end in time");
    assert_eq!(rest, b"");
    let mut http2 = begun_http2(&world).await;
    while let Some(frame) = http2.next().await {
        assert!(![HEADERS, DATA].contains(&frame.kind), "{frame:?}");
    }
    assert!(counted(&world, "overdue"));
    // A request whose task went with its connection, and one whose body was lost before that was noticed.
    let ended = |record: &serde_json::Value| record["outcome"]["code"] == "client_gone";
    eventually("both are recorded", || async { world.records().iter().filter(|r| ended(r)).count() == 2 })
        .await;
    assert_eq!(world.invoke("acme/echo").send().await.summary(), "200");
}

/// A client whose streams open their windows by one byte each, and no more.
#[tokio::test]
async fn c01_a_reply_that_the_library_holds_for_a_closed_window_has_its_time_as_others_have() {
    let world = World::with("echo", &echo())
        .file("sandgate.toml", &settings("request-timeout = \"1s\""))
        .start()
        .await;
    let mut http2 = Http2::open(&world.client).await;
    assert!(http2.write(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1])).await);
    let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &call_head());
    assert!(http2.write(&head).await);
    let first = http2.next_of(&[DATA]).await.expect("as much as it takes");
    assert_eq!((first.payload.len(), first.flags), (1, 0));
    while http2.next().await.is_some() {}
    assert!(counted(&world, "overdue"));
}

/// `POST acme/echo` without a token.
fn call_head() -> Vec<u8> {
    block(&[(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", "/acme/echo")])
}

/// Sends this again and again, until the gate hangs up.
async fn flood(client: &Client, mut piece: impl FnMut(u32) -> Vec<u8>) {
    let mut http2 = Http2::open(client).await;
    for n in 0..50 {
        // A few hundred at a time, or the test's own records would be the flood.
        let many: Vec<u8> = (0..200).flat_map(|m| piece(n * 200 + m)).collect();
        if !http2.write(&many).await {
            return;
        }
    }
    // What was written may not have been read yet. A gate that does not hang up fails the test.
    while http2.next().await.is_some() {}
}

/// What is counted under this kind.
fn count(world: &Live, what: &str, kind: &str) -> u64 {
    let text = world.running.gateway.metrics_text();
    let line = format!("sandgate_{what}_total{{kind=\"{kind}\"}} ");
    text.lines().find_map(|told| told.strip_prefix(&line)?.parse().ok()).unwrap_or_default()
}

/// How many connections were cut for one of these.
fn cut_for(world: &Live, kinds: &[&str]) -> u64 {
    kinds.iter().map(|kind| count(world, "turned_away", kind)).sum()
}

/// Each comes to the end of its connection, which is counted, and nobody else is harmed.
async fn is_cut_for(world: &Live, kinds: &[&str], piece: impl FnMut(u32) -> Vec<u8>) {
    let before = cut_for(world, kinds);
    flood(&world.client, piece).await;
    eventually("it is counted", || async { cut_for(world, kinds) == before + 1 }).await;
}

fn stream(n: u32) -> u32 {
    2 * n + 1
}

#[tokio::test]
async fn c08_floods_of_frames_are_cut_and_the_next_client_is_served() {
    let world = World::with("echo", &echo()).start().await;
    let head = call_head();
    let idle = |kind, payload: &'static [u8]| move |_: u32| frame(kind, 0, 0, payload);
    is_cut_for(&world, &["flood_idle"], idle(PING, &[0; 8])).await;
    is_cut_for(&world, &["flood_idle"], idle(SETTINGS, &[])).await;
    is_cut_for(&world, &["flood_windows"], idle(WINDOW_UPDATE, &[0, 0, 0, 1])).await;
    let priority = |n| frame(PRIORITY, 0, stream(n), &[0, 0, 0, 0, 9]);
    is_cut_for(&world, &["flood_idle"], priority).await;
    // Rapid reset: each stream is opened and given up at once.
    let rapid = |n: u32| {
        [frame(HEADERS, END_HEADERS, stream(n), &head), frame(RST_STREAM, 0, stream(n), &[0, 0, 0, 8])]
            .concat()
    };
    is_cut_for(&world, &["flood_resets", "flood_refusals"], rapid).await;
    // A head without end, and a body of nothing without end.
    let endless = |n: u32| match n {
        0 => frame(HEADERS, 0, 1, &head),
        _ => frame(CONTINUATION, 0, 1, &[]),
    };
    is_cut_for(&world, &["flood_idle", "flood_refusals"], endless).await;
    let nothing = |n: u32| match n {
        0 => frame(HEADERS, END_HEADERS, 1, &head),
        _ => frame(DATA, 0, 1, &[]),
    };
    is_cut_for(&world, &["flood_idle"], nothing).await;
    all_are_gone_and_others_served(&world).await;
}

/// CVE-2025-8671: the gate itself is made to reset stream after stream, which no count of a client's resets sees.
#[tokio::test]
async fn c08_a_client_that_makes_the_gate_reset_streams_is_cut() {
    let world = World::with("echo", &echo()).start().await;
    let head = call_head();
    let sized = [&head[..], &block(&[("content-length", "5")])].concat();
    let opened = |n: u32| frame(HEADERS, END_HEADERS, stream(n), &head);
    let refusals = &["flood_refusals"];
    let overflow = |n: u32| {
        let most = frame(WINDOW_UPDATE, 0, stream(n), &[0x7f, 0xff, 0xff, 0xff]);
        [opened(n), most.clone(), most].concat()
    };
    is_cut_for(&world, refusals, overflow).await;
    let too_long = |n: u32| {
        [frame(HEADERS, END_HEADERS, stream(n), &sized), frame(DATA, 0, stream(n), b"123456")].concat()
    };
    is_cut_for(&world, refusals, too_long).await;
    let too_short = |n: u32| {
        [frame(HEADERS, END_HEADERS, stream(n), &sized), frame(DATA, END_STREAM, stream(n), b"1")].concat()
    };
    is_cut_for(&world, refusals, too_short).await;
    let of_itself = |n: u32| {
        let itself = [&stream(n).to_be_bytes()[..], &[1]].concat();
        [opened(n), frame(PRIORITY, 0, stream(n), &itself)].concat()
    };
    is_cut_for(&world, refusals, of_itself).await;
    let no_path = block(&[(":method", "GET")]);
    is_cut_for(&world, refusals, |n| frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &no_path)).await;
    // More streams than may be open at once.
    is_cut_for(&world, refusals, opened).await;
    // What breaks the connection itself ends it at once.
    is_cut_for(&world, &["protocol"], |n| [opened(n), frame(WINDOW_UPDATE, 0, stream(n), &[0; 4])].concat())
        .await;
    // One alone is told as well.
    let before = count(&world, "unparsed", "stream_malformed");
    let mut http2 = Http2::open(&world.client).await;
    assert!(http2.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &no_path)).await);
    assert!(http2.next_of(&[RST_STREAM]).await.is_some());
    assert_eq!(count(&world, "unparsed", "stream_malformed"), before + 1);
    drop(http2);
    all_are_gone_and_others_served(&world).await;
}

async fn all_are_gone_and_others_served(world: &Live) {
    eventually("all are gone", || async { world.metric("sandgate_connections 0") }).await;
    for call in [world.invoke("acme/echo"), world.invoke("acme/echo").http2()] {
        assert_eq!(call.send().await.summary(), "200");
    }
}
