//! Connections that are made up, and those of the corpus of heads: behind the adapter they read as they ought to.

use proptest::prelude::*;

use super::*;
use crate::http::head::corpus::corpus;

/// Requests whole and torn, bodies that look like requests, and what smugglers send.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words: [&[u8]; 25] = [
        b"GET /a/b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /a/b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /a/b HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n",
        b"POST /a/b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /a/b HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
        b"GET https://a/a?b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET httPs://a?b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a/b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET refused://head/ HTTP/1.1\r\n\r\n",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"POST /a HTTP/1.1\r\n",
        b"Host: a\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"abc",
        b" ",
        b"Connection: close\r\n",
        b"GET / HTTP/1.1\r\n",
    ];
    prop_oneof![
        9 => proptest::sample::select(words.map(<[u8]>::to_vec).to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
    ]
}

/// A head of the corpus with a body of the length that it says, and up to three bytes that are others.
fn bent() -> impl Strategy<Value = Vec<u8>> {
    let all: Vec<Vec<u8>> = corpus()
        .into_iter()
        .filter(|(_, head)| head.len() < 300)
        .map(|(verdict, mut head)| {
            let length = verdict.parse().unwrap_or(0).min(64);
            head.extend(b"GET /c/d HTTP/1.1\r\nHost: smuggled.example\r\n\r\n".iter().cycle().take(length));
            head
        })
        .collect();
    let bytes = b"\r\n \t:,;=#?%/\\@[]\"+-_.~0159Aaz\0\x0b\x7f\x80\xff".to_vec();
    let bends = (any::<prop::sample::Index>(), 0..3u8, prop::sample::select(bytes));
    (prop::sample::select(all), prop::collection::vec(bends, 0..4)).prop_map(|(mut head, bends)| {
        for (at, how, byte) in bends {
            let at = at.index(head.len());
            match how {
                0 => head[at] = byte,
                1 => head.insert(at, byte),
                _ => drop(head.remove(at)),
            }
        }
        head
    })
}

#[test]
fn c03_every_byte_in_every_place_is_read_alike_or_refused() {
    let places: [(&[u8], &[u8]); 5] = [
        (b"G", b"T /a HTTP/1.1\r\nHost: a\r\n\r\n"),
        (b"GET /", b"?b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (b"GET /a?", b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nX", b": y\r\n\r\n"),
        (b"GET /a HTTP/1.1\r\nHost: a\r\nX: y", b"z\r\n\r\n"),
    ];
    for (before, after) in places {
        for byte in 0..=u8::MAX {
            head(&[&[255][..], before, &[byte], after, before, b"0", after].concat());
        }
    }
}

proptest! {
    #[test]
    fn c03_the_library_reads_what_was_checked_whatever_comes_in_whatever_pieces(
        pieces in proptest::collection::vec(piece(), 0..8), cut in 1u8..=255
    ) {
        for cut in [cut, 1, 255] {
            head(&[&[cut][..], &pieces.concat()].concat());
        }
    }

    #[test]
    fn c03_heads_of_the_corpus_bent_and_in_rows_are_read_alike_or_refused(
        heads in prop::collection::vec(bent(), 1..5), cut in 1u8..=255
    ) {
        for cut in [cut, 1, 255] {
            head(&[&[cut][..], &heads.concat()].concat());
        }
    }
}
