//! Floods of each kind in pieces of each size, and what the library sends for them.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const SETTINGS: u8 = 4;
const PING: u8 = 6;

fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
    [&[0, 0, length, kind, flags, 0, 0, 0, 1][..], &vec![0; usize::from(length)]].concat()
}

/// What came through, read in pieces of so many bytes, or what it was cut for.
async fn through(frames: &[Vec<u8>], piece: usize) -> Result<usize, Cut> {
    let bytes = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frames.concat()].concat();
    let exchanges = Exchanges::new();
    let stream = tokio::io::join(&bytes[..], tokio::io::sink());
    let mut stream = Frames::new(stream, Arc::clone(&exchanges), Arc::default(), Duration::from_secs(10));
    let (mut all, mut buffer) = (0, vec![0; piece]);
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return Ok(all - PREFACE_BYTES),
            Ok(n) => all += n,
            Err(_) => return Err(exchanges.was_cut().unwrap()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c08_each_kind_of_flood_is_told_and_cut_however_it_is_cut_into_pieces() {
    for (kind, flags, length, flood) in [
        (RST_STREAM, 0, 4, Cut::Resets),
        (SETTINGS, 0, 0, Cut::Idle),
        (SETTINGS, 1, 0, Cut::Idle),
        (PING, 0, 8, Cut::Idle),
        (2, 0, 5, Cut::Idle),
        (DATA, 0, 0, Cut::Idle),
        (DATA, PADDED, 9, Cut::Idle),
        (HEADERS, END_HEADERS, 0, Cut::Idle),
        (CONTINUATION, 0, 9, Cut::Idle),
        (0xfe, 0, 3, Cut::Idle),
        (WINDOW_UPDATE, 0, 4, Cut::Windows),
    ] {
        for piece in [1, 13, 8192] {
            let few = vec![frame(kind, flags, length); 150];
            assert_eq!(through(&few, piece).await, Ok(few.concat().len()), "{kind}");
            assert_eq!(through(&vec![frame(kind, flags, length); 600], piece).await, Err(flood), "{kind}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c08_opening_and_resetting_streams_is_cut_and_requests_alone_are_not() {
    let request = frame(HEADERS, END_HEADERS, 40);
    let rapid = vec![[request.clone(), frame(RST_STREAM, 0, 4)].concat(); 1000];
    assert_eq!(through(&rapid, 4096).await, Err(Cut::Resets));
    let windows = [frame(WINDOW_UPDATE, 0, 4), frame(WINDOW_UPDATE, 0, 4)].concat();
    let plain = vec![[request, frame(DATA, END_STREAM, 100), windows].concat(); 5000];
    assert_eq!(through(&plain, 4096).await, Ok(plain.concat().len()));
}

#[tokio::test(start_paused = true)]
async fn c08_what_the_library_refuses_is_read_off_the_frames_that_it_sends_however_it_writes_them() {
    let sent = |kind: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, 0, 0, 0, 0, 1][..], payload].concat()
    };
    let reset = |code: u8| sent(RST_STREAM, &[0, 0, 0, code]);
    // Data that looks like a reset, resets with and without a failure, and the last word with its explanation.
    let bytes = [
        sent(SETTINGS, &[0; 6]),
        sent(DATA, &reset(1)),
        reset(1),
        sent(DATA, &[]),
        reset(0),
        reset(8),
        reset(7),
        reset(3),
        sent(GOAWAY, b"\0\0\0\x01\0\0\0\x0bcalm"),
        sent(GOAWAY, &[0; 8]),
    ]
    .concat();
    for piece in [1, 5, 13, 8192] {
        let (exchanges, metrics) = (Exchanges::new(), Arc::new(Metrics::new()));
        let nobody = tokio::io::join(tokio::io::empty(), tokio::io::sink());
        let time = Duration::from_secs(10);
        let mut stream = Frames::new(nobody, Arc::clone(&exchanges), Arc::clone(&metrics), time);
        for pair in bytes.chunks(2 * piece) {
            let (one, other) = pair.split_at(piece.min(pair.len()));
            stream.write_all(one).await.unwrap();
            let slices = [io::IoSlice::new(other), io::IoSlice::new(&[])];
            assert_eq!(stream.write_vectored(&slices).await.unwrap(), other.len());
        }
        let text = metrics.encode();
        for line in ["{kind=\"stream_malformed\"} 2", "{kind=\"stream_refused\"} 1"] {
            assert!(text.contains(&format!("sandgate_unparsed_total{line}")), "{piece}: {text}");
        }
        assert_eq!(exchanges.was_cut(), Some(Cut::Refusals), "{piece}");
    }
}

#[tokio::test(start_paused = true)]
async fn c01_a_preface_or_a_head_that_does_not_come_whole_is_cut_in_time() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for bytes in [
        preface[..20].to_vec(),
        [&preface[..], &frame(HEADERS, 0, 9)].concat(),
        [&preface[..], &frame(HEADERS, END_HEADERS, 9)[..15]].concat(),
    ] {
        let (gate, mut client) = tokio::io::duplex(64);
        let exchanges = Exchanges::new();
        let begun = Instant::now();
        let mut stream = Frames::new(gate, Arc::clone(&exchanges), Arc::default(), Duration::from_secs(10));
        client.write_all(&bytes).await.unwrap();
        assert!(stream.read_to_end(&mut Vec::new()).await.is_err());
        assert_eq!((exchanges.was_cut(), begun.elapsed().as_secs()), (Some(Cut::Slow), 10));
    }
}

proptest! {
    #[test]
    fn c08_what_is_cut_depends_on_the_frames_alone_and_not_on_their_pieces(
        frames in prop::collection::vec((0u8..12, any::<u8>(), 0u8..20), 0..900), piece in 1usize..200
    ) {
        let frames = frames.into_iter().flat_map(|(kind, flags, length)| frame(kind, flags, length));
        let bytes: Vec<u8> = [0; PREFACE_BYTES].into_iter().chain(frames).collect();
        // Budgets grow with time, which stands still here.
        let mut clock = tokio::runtime::Builder::new_current_thread();
        let runtime = clock.enable_time().start_paused(true).build().unwrap();
        let _inside = runtime.enter();
        let followed = |piece: usize| {
            let mut stream = Frames::new((), Exchanges::new(), Arc::default(), Duration::from_secs(10));
            bytes.chunks(piece).find_map(|piece| stream.follow(piece).err())
        };
        prop_assert_eq!(followed(usize::MAX), followed(piece));
    }
}
