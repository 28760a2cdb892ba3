//! Heads one by one, cut in every way, and against the parser that reads them after us.

use std::sync::LazyLock;

use http::{HeaderName, HeaderValue, Uri};
use proptest::prelude::*;

use super::{corpus::corpus, *};

/// Good heads of the corpus.
static GOOD: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let heads = corpus().into_iter().map(|(_, bytes)| bytes);
    heads.filter(|bytes| matches!(judge(bytes, usize::MAX / 2), Some(Ok(_)))).collect()
});

/// The verdict on bytes that come in pieces of `piece` bytes; `None` while the head is not whole.
fn judge(bytes: &[u8], piece: usize) -> Option<Result<Head, BadHead>> {
    let mut scan = Scan::default();
    let mut seen = 0;
    while seen < bytes.len() {
        seen = bytes.len().min(seen + piece);
        match scan.advance(&bytes[..seen]) {
            Ok(None) => {}
            Ok(Some(end)) => return Some(check(&bytes[..end])),
            Err(bad) => return Some(Err(bad)),
        }
    }
    None
}

fn told(verdict: Option<Result<Head, BadHead>>) -> String {
    match verdict {
        None => "unfinished".to_owned(),
        Some(Err(bad)) => bad.kind().to_owned(),
        Some(Ok(Head { framing: Framing::None })) => "none".to_owned(),
        Some(Ok(Head { framing: Framing::Chunked })) => "chunked".to_owned(),
        Some(Ok(Head { framing: Framing::Length(length) })) => length.to_string(),
    }
}

#[test]
fn c04_c16_every_head_of_the_corpus_has_its_verdict_however_it_is_cut() {
    let wrong: Vec<_> = corpus()
        .iter()
        .flat_map(|(expected, bytes)| {
            let cuts = [usize::MAX / 2, 1, 2, 3, 7, 64];
            cuts.map(|piece| (expected, told(judge(bytes, piece)), piece, String::from_utf8_lossy(bytes)))
        })
        .filter(|(expected, got, ..)| *expected != got)
        .map(|(expected, got, piece, head)| {
            format!("{expected} but {got} in pieces of {piece}: {:.80?}", head.as_ref())
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_way_to_be_refused_is_in_the_corpus() {
    use BadHead as B;
    let told: Vec<String> = corpus().into_iter().map(|(verdict, _)| verdict).collect();
    for bad in [
        B::TargetTooLong,
        B::FieldsTooLarge,
        B::LineEnd,
        B::RequestLine,
        B::Target,
        B::Method,
        B::Version,
        B::Field,
        B::Host,
        B::Framing,
        B::Upgrade,
        B::Expectation,
    ] {
        assert!(told.iter().any(|verdict| verdict == bad.kind()), "{bad:?}");
    }
}

#[test]
fn c03_a_good_head_reads_the_same_to_the_parser_behind_us() {
    for (_, bytes) in corpus() {
        agrees(&bytes);
    }
}

/// Whatever we let through, hyper's parser and types take, and read as the text says.
fn agrees(bytes: &[u8]) {
    let mut scan = Scan::default();
    let Ok(Some(end)) = scan.advance(bytes) else { return };
    let head = &bytes[..end];
    let Ok(verdict) = check(head) else { return };
    assert!(end <= MAX_HEAD_BYTES);

    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut theirs = httparse::Request::new(&mut fields);
    assert_eq!(theirs.parse(head), Ok(httparse::Status::Complete(end)), "it ends elsewhere");
    // The plainest reading of the text: lines, words, colons.
    let text = head.strip_prefix(b"\r\n").unwrap_or(head);
    let lines = text.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut lines = lines.take_while(|line| !line.is_empty());
    let words: Vec<&[u8]> = lines.next().unwrap().split(|b| *b == b' ').collect();
    assert_eq!(theirs.method.unwrap().as_bytes(), words[0]);
    assert_eq!(theirs.path.unwrap().as_bytes(), words[1]);
    assert_eq!(format!("HTTP/1.{}", theirs.version.unwrap()).as_bytes(), words[2]);
    let ours: Vec<(&[u8], &[u8])> = lines
        .map(|line| line.split_at(line.iter().position(|b| *b == b':').unwrap()))
        .map(|(name, value)| (name, trim(&value[1..])))
        .collect();
    let read: Vec<_> = theirs.headers.iter().map(|h| (h.name.as_bytes(), h.value)).collect();
    assert_eq!(read, ours, "fields differ");
    // Types that hyper makes of them must not refuse what we did not, nor drop a part.
    let uri: Uri = theirs.path.unwrap().parse().expect("a target that we took");
    let target = uri.path_and_query().unwrap().as_str();
    let written = std::str::from_utf8(words[1]).unwrap();
    match uri.authority() {
        None => assert_eq!(target, written),
        // Without a path it is `/` (RFC 9110 §4.2.3).
        Some(authority) => {
            let path = written[b"https://".len()..].strip_prefix(authority.as_str()).unwrap();
            assert_eq!(target.strip_prefix('/').unwrap_or(target), path.strip_prefix('/').unwrap_or(path));
        }
    }
    for (name, value) in ours {
        HeaderName::from_bytes(name).unwrap();
        HeaderValue::from_bytes(value).unwrap();
    }
    let count = |name: &str| read.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).count();
    let lengths = count("content-length") + count("transfer-encoding");
    assert_eq!(lengths, usize::from(verdict.framing != Framing::None), "framing differs");
    assert_eq!(count("host"), 1);
}

/// Pieces of heads, good and bad, in any order.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words: [&[u8]; 34] = [
        b"GET ",
        b"POST ",
        b"/acme/echo",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b"Host: a\r\n",
        b"host:b:1\r\n",
        b"https://a",
        b"Content-Length: 3\r\n",
        b"Content-Length:+3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"transfer-encoding:identity\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b"X: y\r\n",
        b"Connection: close\r\n",
        b"Upgrade: x\r\n",
        b"Expect: 100-continue\r\n",
        b"\0",
        b"?q=1",
        b"#f",
        b"//",
        b"GET /a HTTP/1.1\r\nHost: a\r\n",
        b"POST /a HTTP/1.1\r\nHost: a\r\n",
        b"A:\x80\r\n",
        b"%00",
        b"[::1]",
        b"@",
        b",",
    ];
    prop_oneof![
        8 => proptest::sample::select(words.map(<[u8]>::to_vec).to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..4),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn c03_any_bytes_in_any_cut_have_one_verdict_and_one_reading(
        pieces in proptest::collection::vec(piece(), 0..12), cut in 1usize..40
    ) {
        let bytes = pieces.concat();
        prop_assert_eq!(judge(&bytes, cut), judge(&bytes, usize::MAX / 2));
        prop_assert_eq!(judge(&bytes, 1), judge(&bytes, usize::MAX / 2));
        agrees(&bytes);
    }

    /// A good head with bytes changed: most mutations of a request are still nearly one.
    #[test]
    fn c03_a_good_head_with_any_bytes_changed_has_one_reading(
        at in proptest::collection::vec((0usize..200, any::<u8>()), 1..4), which in any::<prop::sample::Index>()
    ) {
        let mut bytes = which.get(&GOOD).clone();
        for (at, byte) in at {
            let len = bytes.len();
            bytes[at % len] = byte;
        }
        prop_assert_eq!(judge(&bytes, 1), judge(&bytes, usize::MAX / 2));
        agrees(&bytes);
    }
}
