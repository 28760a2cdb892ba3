//! Floods of HTTP/2 frames against the real binary: what they made it hold, it holds no longer.

use std::fs;

use tokio::task::JoinSet;

use crate::{
    client::Client,
    frames::{
        CONTINUATION, DATA, END_HEADERS, HEADERS, Http2, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
        block, frame,
    },
    operations::{dev, sample},
    world::eventually,
};

/// Connections of one flood, so many at once.
const CONNECTIONS: usize = 30;
const AT_ONCE: usize = 10;
/// Pieces that one connection writes unless it is cut before: far more than any bound lets by.
const PIECES: u32 = 10_000;
/// What the allocator may keep for later: with it, a leak of a third of what a connection takes is seen after all floods.
const SLACK_KIB: u64 = 4 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn c08_after_floods_of_each_kind_memory_is_back_where_it_was() {
    memory_is_back_after_floods(CONNECTIONS).await;
}

/// The same for long enough that a figure means something: some minutes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measure: `.ci/attack` takes it"]
async fn two_hundred_connections_of_each_flood() {
    memory_is_back_after_floods(200).await;
}

async fn memory_is_back_after_floods(connections: usize) {
    let site = tempfile::tempdir().unwrap();
    sample(site.path());
    let (gate, client, _) = dev(site.path(), "");
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", gate.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let idle = resident();
    // Once round for what is made once: threads, buffers of the allocator, the log's file.
    for (_, piece) in FLOODS {
        flood(&client, piece, AT_ONCE).await;
    }
    let before = resident();
    println!("resident: {idle} KiB idle, {before} KiB after {AT_ONCE} connections of each flood");
    for (name, piece) in FLOODS {
        flood(&client, piece, connections).await;
        let under = resident();
        eventually(&format!("memory is back after {name}"), || async { resident() <= before + SLACK_KIB })
            .await;
        println!("{name}: {under} KiB at its end, then {}", resident());
    }
    // A connection that is cut costs its sender, and nobody else anything.
    let mut http2 = Http2::open(&client).await;
    assert!(http2.next_of(&[SETTINGS]).await.is_some());
}

/// So many connections of one flood, each until it is cut.
async fn flood(client: &Client, piece: Piece, connections: usize) {
    let mut under_way = JoinSet::new();
    for _ in 0..connections {
        if under_way.len() == AT_ONCE {
            under_way.join_next().await.unwrap().unwrap();
        }
        let client = client.clone();
        under_way.spawn(async move {
            let mut http2 = Http2::open(&client).await;
            for first in (0..PIECES).step_by(200) {
                // A few hundred at a time, or the test's own records would be the flood.
                let many: Vec<u8> = (first..first + 200).flat_map(piece).collect();
                if !http2.write(&many).await {
                    return;
                }
            }
            // What was written may not have been read yet.
            while http2.next().await.is_some() {}
        });
    }
    while let Some(ended) = under_way.join_next().await {
        ended.unwrap();
    }
}

/// What a connection writes as its nth.
type Piece = fn(u32) -> Vec<u8>;

const FLOODS: [(&str, Piece); 9] = [
    ("pings", |_| frame(PING, 0, 0, &[0; 8])),
    ("empty settings", |_| frame(SETTINGS, 0, 0, &[])),
    ("settings", |n| frame(SETTINGS, 0, 0, &[&[0, 4][..], &(65_535 + n).to_be_bytes()].concat())),
    ("priorities", |n| frame(PRIORITY, 0, stream(n), &[0, 0, 0, 0, 9])),
    ("resets", |n| [head(n), frame(RST_STREAM, 0, stream(n), &[0, 0, 0, 8])].concat()),
    // An increment of nothing is an error of its stream, which the gate has to reset (CVE-2025-8671).
    ("resets that it is made to send", |n| [head(n), frame(WINDOW_UPDATE, 0, stream(n), &[0; 4])].concat()),
    ("empty continuations", |n| match n {
        0 => frame(HEADERS, 0, 1, &fields()),
        _ => frame(CONTINUATION, 0, 1, &[]),
    }),
    ("long continuations", |n| match n {
        0 => frame(HEADERS, 0, 1, &fields()),
        _ => frame(CONTINUATION, 0, 1, &block(&[("x-long", &"x".repeat(8_000))])),
    }),
    ("empty data", |n| match n {
        0 => head(0),
        _ => frame(DATA, 0, 1, &[]),
    }),
];

fn stream(n: u32) -> u32 {
    2 * n + 1
}

fn head(n: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream(n), &fields())
}

fn fields() -> Vec<u8> {
    block(&[(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", "/acme/hello")])
}
