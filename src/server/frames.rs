//! The frames of an HTTP/2 connection, counted before the library works on them: floods are cut.
//!
//! The library has bounds of its own: for memory (streams, header lists, resets it has not yet accepted), and for streams
//! that it has to reset. What it refuses for them never becomes a request, so it is read off the frames that it sends, and
//! counted (INVARIANT Told).

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{alarm::Alarm, budgets::Budgets, cut::Cut, exchange::Exchanges};
use crate::record::Metrics;

/// A stream whose frames are counted.
#[derive(Debug)]
pub(super) struct Frames<S> {
    stream: S,
    exchanges: Arc<Exchanges>,
    metrics: Arc<Metrics>,
    at: At,
    budgets: Budgets,
    sent: Sent,
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
    pub(super) fn new(
        stream: S,
        exchanges: Arc<Exchanges>,
        metrics: Arc<Metrics>,
        head_time: Duration,
    ) -> Self {
        Self {
            stream,
            exchanges,
            metrics,
            at: At::Preface(PREFACE_BYTES),
            budgets: Budgets::new(),
            sent: Sent::default(),
            head_time,
            head_since: Some(Instant::now()),
            alarm: Alarm::default(),
        }
    }

    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), Cut> {
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
    fn begin(&mut self, header: [u8; HEADER_BYTES]) -> Result<At, Cut> {
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

    fn cut(&self, cut: Cut) -> io::Error {
        self.exchanges.cut(cut);
        io::Error::other(cut)
    }

    /// So many of these bytes went to the client.
    fn wrote<'a>(
        &mut self,
        written: Poll<io::Result<usize>>,
        slices: impl IntoIterator<Item = &'a [u8]>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.budgets.earn(bytes);
            let mut left = bytes;
            for slice in slices {
                let gone = slice.get(..left).unwrap_or(slice);
                left -= gone.len();
                self.sent.follow(gone, |failure| match failure {
                    Failure::Stream(kind) => self.metrics.unparsed(kind),
                    Failure::Connection(cut) => self.exchanges.cut(cut),
                });
            }
        }
        written
    }
}

/// The frames that the library sends, as far as they tell of a failure.
#[derive(Debug, Default)]
struct Sent {
    /// A frame's header and the payload that is of interest.
    head: [u8; HEADER_BYTES + GOAWAY_BYTES],
    have: usize,
    /// The rest of its payload.
    skip: usize,
}

/// What the library refuses.
enum Failure {
    /// One stream, and how that is counted.
    Stream(&'static str),
    Connection(Cut),
}

impl Sent {
    fn follow(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Failure)) {
        while !bytes.is_empty() {
            let wanted = self.wanted();
            let step = if self.skip > 0 { self.skip } else { wanted - self.have };
            let (now, rest) = bytes.split_at_checked(step).unwrap_or((bytes, &[]));
            bytes = rest;
            if self.skip > 0 {
                self.skip -= now.len();
                continue;
            }
            for (to, from) in self.head.iter_mut().skip(self.have).zip(now) {
                *to = *from;
            }
            self.have += now.len();
            if self.have >= HEADER_BYTES && self.have == self.wanted() {
                if let Some(failure) = self.failure() {
                    tell(failure);
                }
                self.skip = HEADER_BYTES + self.length() - self.have;
                self.have = 0;
            }
        }
    }

    /// Bytes of the frame that are to be kept.
    fn wanted(&self) -> usize {
        let [_, _, _, kind, ..] = self.head;
        match kind {
            _ if self.have < HEADER_BYTES => HEADER_BYTES,
            RST_STREAM => HEADER_BYTES + self.length().min(RST_STREAM_BYTES),
            GOAWAY => HEADER_BYTES + self.length().min(GOAWAY_BYTES),
            _ => HEADER_BYTES,
        }
    }

    fn length(&self) -> usize {
        let [high, middle, low, ..] = self.head;
        u32::from_be_bytes([0, high, middle, low]) as usize
    }

    /// By the codes of RFC 9113 §7: a reset without error asks for no more of a body, and is no failure.
    fn failure(&self) -> Option<Failure> {
        let [_, _, _, kind, _, _, _, _, _, first @ .., _, _, _, _] = self.head;
        let [.., a, b, c, d] = self.head;
        match (kind, u32::from_be_bytes(first), u32::from_be_bytes([a, b, c, d])) {
            (RST_STREAM, REFUSED_STREAM, _) => Some(Failure::Stream("stream_refused")),
            (RST_STREAM, NO_ERROR | INTERNAL_ERROR | CANCEL, _) => None,
            (RST_STREAM, ..) => Some(Failure::Stream("stream_malformed")),
            (GOAWAY, _, NO_ERROR) => None,
            (GOAWAY, _, ENHANCE_YOUR_CALM) => Some(Failure::Connection(Cut::Refusals)),
            (GOAWAY, ..) => Some(Failure::Connection(Cut::Broken)),
            _ => None,
        }
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
                    this.alarm.poll(context, since + this.head_time).map(|()| Err(this.cut(Cut::Slow)))
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
        self.wrote(written, [bytes])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(written, slices.iter().map(|slice| &**slice))
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

/// `PRI * HTTP/2.0…` (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;
/// Length, kind, flags and stream (RFC 9113 §4.1).
const HEADER_BYTES: usize = 9;
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
/// An error code; the last stream and an error code (RFC 9113 §6.4, §6.8).
const RST_STREAM_BYTES: usize = 4;
const GOAWAY_BYTES: usize = 8;
const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

#[cfg(test)]
mod tests;
