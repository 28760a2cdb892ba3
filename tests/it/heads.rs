//! Heads of requests as they come on the wire: what may be read in two ways never becomes a request.

use std::fmt::Write as _;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    client::{Client, PATIENCE},
    frames::{DATA, END_HEADERS, END_STREAM, HEADERS, Http2, PING, RST_STREAM, block, frame},
    guest::echo,
    world::{Live, World, eventually},
};

#[path = "../fixtures/http/corpus.rs"]
mod corpus;

/// Sends bytes in pieces and reads until the gate hangs up, or until a reply's head is whole if `first`.
async fn converse(client: &Client, bytes: &[u8], piece: usize, first: bool) -> String {
    let stream = client.tls(&[b"http/1.1"]).await.unwrap();
    let (mut from, mut to) = tokio::io::split(stream);
    let write = async {
        for piece in bytes.chunks(piece) {
            // A gate that has seen enough may hang up before we are done.
            if to.write_all(piece).await.is_err() || to.flush().await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut out = Vec::new();
    let read = async {
        let mut chunk = [0; 4096];
        while let Ok(n) = from.read(&mut chunk).await {
            out.extend_from_slice(&chunk[..n]);
            if n == 0 || first && out.windows(4).any(|w| w == b"\r\n\r\n") {
                break;
            }
        }
    };
    let both = async {
        tokio::select! { () = read => {}, () = write => {} }
    };
    tokio::time::timeout(PATIENCE, both).await.expect("an answer in time");
    String::from_utf8(out).unwrap()
}

/// `POST acme/echo` with a token and this body.
fn good(live: &Live, fields: &str, body: &str) -> String {
    format!(
        "POST /acme/echo HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\n{fields}\r\n{body}",
        live.token("acme").sign()
    )
}

fn sized(live: &Live, body: &str) -> String {
    good(live, &format!("content-length: {}\r\n", body.len()), body)
}

fn status_of(kind: &str) -> u16 {
    match kind {
        "target_too_long" => 414,
        "fields_too_large" => 431,
        _ => 400,
    }
}

#[tokio::test]
async fn c02_c04_c16_every_bad_head_is_refused_on_the_wire_however_it_is_cut_and_no_good_one() {
    let world = World::with("echo", &echo()).start().await;
    let mut wrong = String::new();
    let mut refused = 0;
    for (verdict, head) in corpus::corpus() {
        let bad = !(verdict == "none" || verdict == "chunked" || verdict.parse::<u64>().is_ok());
        // Byte by byte only what is short: each byte is a TLS record of its own.
        let pieces: &[usize] = if head.len() < 120 { &[usize::MAX, 1] } else { &[usize::MAX, 1000] };
        for piece in pieces {
            let answer = converse(&world.client, &head, *piece, !bad).await;
            let fits = if bad {
                refused += 1;
                answer.starts_with(&format!("HTTP/1.1 {} ", status_of(&verdict)))
                    && answer.contains("\r\nconnection: close\r\n")
                    && answer.contains("\r\ncontent-length: 0\r\n")
                    && answer.ends_with("\r\n\r\n")
            } else {
                answer.contains("sandgate-request-id: ")
            };
            if !fits {
                let head = String::from_utf8_lossy(&head);
                writeln!(wrong, "{verdict} in pieces of {piece}: {head:.80?}\n  {answer:?}").unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(refused > 150);
    let text = world.running.gateway.metrics_text();
    for kind in ["host", "framing", "field", "line_end", "target", "upgrade", "fields_too_large"] {
        assert!(text.contains(&format!("sandgate_unparsed_total{{kind=\"{kind}\"}}")), "{kind}");
    }
    assert_eq!(world.invoke("acme/echo").send().await.summary(), "200");
}

#[tokio::test]
async fn c03_a_bad_head_is_answered_in_its_turn_and_nothing_after_it_is_read() {
    let world = World::with("echo", &echo()).start().await;
    let bad = "POST /acme/echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let (one, two) = (sized(&world, r#"{"n":1}"#), sized(&world, r#"{"n":2}"#));
    for piece in [usize::MAX, 1, 17] {
        let answers = converse(&world.client, format!("{one}{two}{bad}{one}").as_bytes(), piece, false).await;
        let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
        assert_eq!(statuses, ["200", "200", "400"], "in pieces of {piece}: {answers}");
        assert!(answers.contains(r#"{"n":1}"#) && answers.contains(r#"{"n":2}"#), "{answers}");
    }
    assert_eq!(world.records().iter().filter(|r| r["function"] == "echo").count(), 6);
}

#[tokio::test]
async fn c03_a_body_ends_where_its_length_says_whatever_it_looks_like() {
    let world = World::with("echo", &echo()).start().await;
    let inner = r#"{"name":"GET /acme/echo HTTP/1.1"}"#;
    let requests = format!(
        "{}{}",
        sized(&world, inner),
        sized(&world, "{}").replace("host: ", "connection: close\r\nhost: ")
    );
    for piece in [usize::MAX, 1, 29] {
        let answers = converse(&world.client, requests.as_bytes(), piece, false).await;
        let statuses: Vec<_> = answers.split("HTTP/1.1 2").skip(1).map(|answer| &answer[..2]).collect();
        assert_eq!(statuses, ["00", "00"], "in pieces of {piece}: {answers}");
    }
}

#[tokio::test]
async fn c03_a_chunked_request_is_the_last_of_its_connection() {
    let world = World::with("echo", &echo()).start().await;
    let chunked = good(&world, "transfer-encoding: chunked\r\n", "7\r\n{\"n\":1}\r\n0\r\n\r\n");
    let requests = format!("{chunked}{}", sized(&world, r#"{"n":2}"#));
    for piece in [usize::MAX, 1] {
        let answer = converse(&world.client, requests.as_bytes(), piece, false).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(r#"{"n":1}"#), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
    assert_eq!(world.records().iter().filter(|r| r["function"] == "echo").count(), 2);
}

/// What a proxy sends on a connection that it reuses, though the body that it announced was not asked for.
#[tokio::test]
async fn c03_a_refusal_in_place_of_100_continue_is_the_last_of_its_connection() {
    let world = World::with("echo", &echo()).start().await;
    let refused =
        "POST /acme/echo HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 40\r\n\r\n";
    for next in [sized(&world, "{}"), String::new()] {
        for piece in [usize::MAX, 1] {
            let answers = converse(&world.client, format!("{refused}{next}").as_bytes(), piece, false).await;
            assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
            assert!(answers.starts_with("HTTP/1.1 401 "), "{answers}");
            assert!(answers.contains("\r\nconnection: close\r\n"), "{answers}");
        }
    }
    // Who is asked for the body and sends it may go on.
    let asked = good(&world, "expect: 100-continue\r\ncontent-length: 2\r\n", "{}");
    let last = sized(&world, "{}").replace("host: ", "connection: close\r\nhost: ");
    let answers = converse(&world.client, format!("{asked}{last}").as_bytes(), usize::MAX, false).await;
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 2, "{answers}");
}

#[tokio::test]
async fn c01_a_head_that_does_not_come_whole_in_time_is_answered_408() {
    let world = World::with("echo", &echo())
        .file("sandgate.toml", "[server]\nheader-timeout = \"1s\"\n")
        .start()
        .await;
    let answer = converse(&world.client, b"GET /acme/echo HTTP/1.1\r\nHost: loc", usize::MAX, false).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close"), "{answer}");
    // A later head has its own time, and those before it have their answers.
    let later = format!("{}GET /acme/echo HTTP/1.1\r\nHo", sized(&world, "{}"));
    let answers = converse(&world.client, later.as_bytes(), usize::MAX, false).await;
    let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "408"], "{answers}");
    // Who never says a word is not answered either.
    assert_eq!(converse(&world.client, b"", 1, false).await, "");
    assert!(world.running.gateway.metrics_text().contains("sandgate_unparsed_total{kind=\"slow\"} 2"));
}

#[tokio::test]
async fn c01_a_connection_with_nothing_under_way_is_closed() {
    let world = World::with("echo", &echo())
        .file("sandgate.toml", "[server]\nidle-timeout = \"1s\"\nheader-timeout = \"1s\"\n")
        .start()
        .await;
    // The answer comes and then the end, though the client would go on.
    let answer = converse(&world.client, sized(&world, "{}").as_bytes(), usize::MAX, false).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("connection: close"), "{answer}");
    let mut http2 = Http2::open(&world.client).await;
    assert!(http2.next_of(&[crate::frames::GOAWAY]).await.is_some(), "a client of HTTP/2 is told");
    eventually("both are gone", || async {
        world.running.gateway.metrics_text().lines().any(|line| line == "sandgate_connections 0")
    })
    .await;
}

/// The first octet of the reply's field block, which is its status where the static table has it (RFC 7541 A).
async fn http2_status(world: &Live, fields: &[(&str, &str)]) -> u8 {
    let mut http2 = Http2::open(&world.client).await;
    assert!(http2.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields))).await);
    match http2.next_of(&[HEADERS, RST_STREAM]).await {
        Some(reply) if reply.kind == HEADERS => reply.payload[0],
        _ => 0,
    }
}

#[tokio::test]
async fn c05_c09_http2_requests_have_one_https_authority_and_a_method_for_us() {
    const BAD_REQUEST: u8 = 0x8c;
    let world = World::with("echo", &echo()).start().await;
    let with = |changes: &[(&'static str, &'static str)], more: &[(&'static str, &'static str)]| {
        let mut fields = vec![
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", "/acme/echo"),
        ];
        for (name, value) in changes {
            fields.retain(|(known, _)| known != name);
            if !value.is_empty() {
                fields.push((name, value));
            }
        }
        fields.extend(more);
        fields
    };
    for good in [with(&[], &[]), with(&[], &[("host", "LOCALHOST:443")]), with(&[], &[("te", "trailers")])] {
        let status = http2_status(&world, &good).await;
        assert!(status != BAD_REQUEST && status != 0, "{good:?}: {status:x}");
    }
    for bad in [
        with(&[(":authority", "")], &[]),
        with(&[(":authority", "")], &[("host", "localhost")]),
        with(&[(":authority", "user@localhost")], &[]),
        with(&[(":authority", "local_host..x")], &[]),
        with(&[], &[("host", "other.example")]),
        with(&[], &[("host", "localhost:8443")]),
        with(&[], &[("host", "localhost"), ("host", "localhost")]),
        with(&[(":scheme", "http")], &[]),
        with(&[], &[("http2-settings", "AAMAAABkAAQAAP__")]),
        with(&[], &[("expect", "200-ok")]),
    ] {
        assert_eq!(http2_status(&world, &bad).await, BAD_REQUEST, "{bad:?}");
    }
    // What the library resets or hangs up on has no answer.
    for malformed in [
        with(&[], &[("connection", "close")]),
        with(&[], &[("upgrade", "h2c")]),
        with(&[], &[("transfer-encoding", "chunked")]),
        with(&[], &[("te", "gzip")]),
        with(&[], &[("content-length", "+5")]),
        with(&[], &[("Upper", "x")]),
        with(&[], &[(":path", "/twice")]),
    ] {
        let status = http2_status(&world, &malformed).await;
        assert!(status == 0 || status == BAD_REQUEST, "{malformed:?}: {status:x}");
    }
    assert!(world.running.gateway.metrics_text().contains("kind=\"stream_malformed\"}"), "resets are told");
    let many: Vec<(&str, &str)> = (0..65).map(|_| ("a", "b")).collect();
    let status = http2_status(&world, &[with(&[], &[]), many].concat()).await;
    assert!(status != BAD_REQUEST && status != 0, "431 is in no static table: {status:x}");
    assert!(world.running.gateway.metrics_text().contains("kind=\"fields_too_large\"} 1"));
}

#[tokio::test]
async fn a_refusal_over_http2_does_not_end_a_stream_whose_small_body_is_on_its_way() {
    let world = World::with("echo", &echo()).start().await;
    let head = block(&[
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/acme/echo"),
        ("content-length", "2"),
        ("content-type", "application/json"),
    ]);
    let mut client = Http2::open(&world.client).await;
    assert!(client.write(&frame(HEADERS, END_HEADERS, 1, &head)).await);
    let reply = client.next_of(&[HEADERS, RST_STREAM]).await.unwrap();
    assert_eq!(reply.kind, HEADERS, "refused before the body came");
    assert!(client.write(&frame(DATA, END_STREAM, 1, b"{}")).await);
    assert!(client.write(&frame(PING, 0, 0, b"all read")).await);
    // Whatever the gate has to say of the stream comes before its answer to the ping.
    loop {
        let next = client.next_of(&[RST_STREAM, PING]).await.unwrap();
        assert_ne!(next.kind, RST_STREAM, "a client may never look at a reply whose stream is reset");
        if next.flags == 1 {
            break;
        }
    }
}
