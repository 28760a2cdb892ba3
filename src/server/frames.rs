//! The frames of an HTTP/2 connection, counted before the library works on them: floods are cut.
//!
//! Many frames cost their sender nothing and us something: an answer, a look-up, a stream that comes and goes. Each kind
//! has a budget here that no client needs who wants replies, and which grows with time and with what is of use. The
//! library has bounds of its own for memory (streams, header lists, resets it has not yet accepted); these bound work.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{alarm::Alarm, exchange::Exchanges};

/// Why a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flood {
    /// Streams that are opened and reset at once: CVE-2023-44487, CVE-2019-9514.
    #[error("too many resets of streams")]
    Resets,
    /// Frames that carry nothing: SETTINGS (CVE-2019-9515), PING (CVE-2019-9512), PRIORITY (CVE-2019-9513), empty DATA
    /// and HEADERS (CVE-2019-9518, CVE-2019-9516), CONTINUATION (CVE-2023-45288, RUSTSEC-2024-0332), and unknown kinds.
    #[error("too many frames that carry nothing")]
    Idle,
    /// Windows opened by a few bytes at a time (CVE-2019-9511, CVE-2019-9517).
    #[error("too many updates of windows")]
    Windows,
    /// The preface or a head did not come whole in its time.
    #[error("a head came too slowly")]
    Slow,
}

impl Flood {
    /// The word under which it is counted.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Resets => "flood_resets",
            Self::Idle => "flood_idle",
            Self::Windows => "flood_windows",
            Self::Slow => "slow",
        }
    }
}

/// A stream whose frames are counted.
#[derive(Debug)]
pub(super) struct Frames<S> {
    stream: S,
    exchanges: Arc<Exchanges>,
    at: At,
    budgets: Budgets,
    head_time: Duration,
    /// Since when a head is expected whole: from the start for the preface, then from each first frame of a head.
    head_since: Option<Instant>,
    alarm: Alarm,
}

/// Where in a frame the next byte belongs.
#[derive(Debug, Clone, Copy)]
enum At {
    /// So many bytes of the preface are left (RFC 9113 §3.4).
    Preface(usize),
    /// So many bytes of a frame's header have come.
    Header([u8; HEADER_BYTES], usize),
    /// So many bytes of its payload are left; whether a head ends with it.
    Payload(usize, bool),
}

impl<S> Frames<S> {
    pub(super) fn new(stream: S, exchanges: Arc<Exchanges>, head_time: Duration) -> Self {
        Self {
            stream,
            exchanges,
            at: At::Preface(PREFACE_BYTES),
            budgets: Budgets::new(),
            head_time,
            head_since: Some(Instant::now()),
            alarm: Alarm::default(),
        }
    }

    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while !bytes.is_empty() {
            let skip = |left: usize, bytes: &mut &[u8]| {
                let (now, rest) = bytes.split_at_checked(left).unwrap_or((bytes, &[]));
                *bytes = rest;
                left - now.len()
            };
            self.at = match self.at {
                At::Preface(left) => match skip(left, &mut bytes) {
                    0 => {
                        self.head_since = None;
                        At::Header([0; HEADER_BYTES], 0)
                    }
                    left => At::Preface(left),
                },
                At::Payload(left, ends_head) => match skip(left, &mut bytes) {
                    0 => self.after(ends_head),
                    left => At::Payload(left, ends_head),
                },
                At::Header(mut header, have) => {
                    let (now, rest) = bytes.split_at_checked(HEADER_BYTES - have).unwrap_or((bytes, &[]));
                    for (to, from) in header.iter_mut().skip(have).zip(now) {
                        *to = *from;
                    }
                    bytes = rest;
                    match have + now.len() {
                        HEADER_BYTES => self.begin(header)?,
                        have => At::Header(header, have),
                    }
                }
            };
        }
        Ok(())
    }

    /// A frame's header is whole.
    fn begin(&mut self, header: [u8; HEADER_BYTES]) -> Result<At, Flood> {
        let [high, middle, low, kind, flags, ..] = header;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.budgets.spend(kind, flags, length)?;
        let head = matches!(kind, HEADERS | CONTINUATION);
        if head {
            self.head_since.get_or_insert_with(Instant::now);
        }
        let ends_head = head && flags & END_HEADERS != 0;
        Ok(if length == 0 { self.after(ends_head) } else { At::Payload(length, ends_head) })
    }

    fn after(&mut self, ends_head: bool) -> At {
        if ends_head {
            self.head_since = None;
        }
        At::Header([0; HEADER_BYTES], 0)
    }

    fn cut(&self, flood: Flood) -> io::Error {
        self.exchanges.cut(flood);
        io::Error::other(flood)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let start = out.filled().len();
        match Pin::new(&mut this.stream).poll_read(context, out) {
            Poll::Ready(Ok(())) => {
                let followed = this.follow(out.filled().get(start..).unwrap_or_default());
                Poll::Ready(followed.map_err(|flood| this.cut(flood)))
            }
            Poll::Pending => match this.head_since {
                Some(since) => {
                    this.alarm.poll(context, since + this.head_time).map(|()| Err(this.cut(Flood::Slow)))
                }
                None => Poll::Pending,
            },
            failed => failed,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.budgets.earn(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.budgets.earn(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What a connection may still send of frames that are free to send.
#[derive(Debug)]
struct Budgets {
    resets: Budget,
    idle: Budget,
    windows: Budget,
    /// Bytes written for which no update of a window was earned yet.
    written: usize,
}

impl Budgets {
    fn new() -> Self {
        Self {
            // A browser that leaves a page resets what it had open: some dozens at once, not every second.
            resets: Budget::new(200, 20),
            // Clients ask for a round-trip time some ten times a second, and split large heads into two or three frames.
            idle: Budget::new(300, 50),
            // Beside what replies earn, a client opens the windows of its streams as it opens them.
            windows: Budget::new(500, 100),
            written: 0,
        }
    }

    fn spend(&mut self, kind: u8, flags: u8, length: usize) -> Result<(), Flood> {
        match kind {
            // A frame of padding alone is as empty as one of nothing; no client of an API pads.
            DATA if flags & PADDED != 0 && length <= MAX_PADDING => self.idle.spend(Flood::Idle),
            DATA if length > 0 || flags & END_STREAM != 0 => Ok(()),
            HEADERS if length > 0 => {
                self.windows.earn(WINDOWS_A_REQUEST);
                Ok(())
            }
            RST_STREAM => self.resets.spend(Flood::Resets),
            WINDOW_UPDATE => self.windows.spend(Flood::Windows),
            _ => self.idle.spend(Flood::Idle),
        }
    }

    /// Whoever takes replies must open windows for them; the smallest update of use is about this large.
    fn earn(&mut self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.written += bytes;
            if self.written >= BYTES_A_WINDOW {
                self.windows.earn(u32::try_from(self.written / BYTES_A_WINDOW).unwrap_or(u32::MAX));
                self.written %= BYTES_A_WINDOW;
            }
        }
    }
}

/// So many at once and so many a second. The clock is looked at when nothing is left: in no second more than twice the
/// burst and the rate can pass.
struct Budget {
    left: u32,
    burst: u32,
    a_second: u32,
    since: Instant,
}

impl Budget {
    fn new(burst: u32, a_second: u32) -> Self {
        Self { left: burst, burst, a_second, since: Instant::now() }
    }

    fn earn(&mut self, more: u32) {
        self.left = self.left.saturating_add(more).min(self.burst);
    }

    fn spend(&mut self, flood: Flood) -> Result<(), Flood> {
        if self.left == 0 {
            let now = Instant::now();
            let came = now.duration_since(self.since).as_millis() * u128::from(self.a_second) / 1000;
            if came == 0 {
                return Err(flood);
            }
            self.since = now;
            self.earn(u32::try_from(came).unwrap_or(u32::MAX));
        }
        self.left -= 1;
        Ok(())
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.left, self.burst)
    }
}

/// `PRI * HTTP/2.0…` (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;
/// Length, kind, flags and stream (RFC 9113 §4.1).
const HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
/// Most padding of one frame with the octet that counts it.
const MAX_PADDING: usize = 256;
/// Updates of windows that come with a request: its stream's and the connection's.
const WINDOWS_A_REQUEST: u32 = 2;
/// Bytes of a reply that earn an update.
const BYTES_A_WINDOW: usize = 1024;

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        [&[0, 0, length, kind, flags, 0, 0, 0, 1][..], &vec![0; usize::from(length)]].concat()
    }

    /// What came through, read in pieces of so many bytes, or what it was cut for.
    async fn through(frames: &[Vec<u8>], piece: usize) -> Result<usize, Flood> {
        let bytes = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frames.concat()].concat();
        let exchanges = Exchanges::new();
        let stream = tokio::io::join(&bytes[..], tokio::io::sink());
        let mut stream = Frames::new(stream, Arc::clone(&exchanges), Duration::from_secs(10));
        let (mut all, mut buffer) = (0, vec![0; piece]);
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => return Ok(all - PREFACE_BYTES),
                Ok(n) => all += n,
                Err(_) => return Err(exchanges.flood().unwrap()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn c08_each_kind_of_flood_is_told_and_cut_however_it_is_cut_into_pieces() {
        for (kind, flags, length, flood) in [
            (RST_STREAM, 0, 4, Flood::Resets),
            (SETTINGS, 0, 0, Flood::Idle),
            (SETTINGS, 1, 0, Flood::Idle),
            (PING, 0, 8, Flood::Idle),
            (2, 0, 5, Flood::Idle),
            (DATA, 0, 0, Flood::Idle),
            (DATA, PADDED, 9, Flood::Idle),
            (HEADERS, END_HEADERS, 0, Flood::Idle),
            (CONTINUATION, 0, 9, Flood::Idle),
            (0xfe, 0, 3, Flood::Idle),
            (WINDOW_UPDATE, 0, 4, Flood::Windows),
        ] {
            for piece in [1, 13, 8192] {
                let few = vec![frame(kind, flags, length); 150];
                assert_eq!(through(&few, piece).await, Ok(few.concat().len()), "{kind}");
                assert_eq!(
                    through(&vec![frame(kind, flags, length); 600], piece).await,
                    Err(flood),
                    "{kind}"
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn c08_opening_and_resetting_streams_is_cut_and_requests_alone_are_not() {
        let request = frame(HEADERS, END_HEADERS, 40);
        let rapid = vec![[request.clone(), frame(RST_STREAM, 0, 4)].concat(); 1000];
        assert_eq!(through(&rapid, 4096).await, Err(Flood::Resets));
        let windows = [frame(WINDOW_UPDATE, 0, 4), frame(WINDOW_UPDATE, 0, 4)].concat();
        let plain = vec![[request, frame(DATA, END_STREAM, 100), windows].concat(); 5000];
        assert_eq!(through(&plain, 4096).await, Ok(plain.concat().len()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_grows_with_time() {
        let mut budget = Budget::new(10, 5);
        let mut spent = |times: u32| (0..times).filter(|_| budget.spend(Flood::Idle).is_ok()).count();
        assert_eq!(spent(20), 10);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(spent(20), 5);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(spent(20), 10);
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
            let mut stream = Frames::new(gate, Arc::clone(&exchanges), Duration::from_secs(10));
            tokio::io::AsyncWriteExt::write_all(&mut client, &bytes).await.unwrap();
            assert!(stream.read_to_end(&mut Vec::new()).await.is_err());
            assert_eq!((exchanges.flood(), begun.elapsed().as_secs()), (Some(Flood::Slow), 10));
        }
    }
}
