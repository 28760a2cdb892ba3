//! The bytes of an HTTP/1 connection, between TLS and the library that parses them.
//!
//! The library never sees a head that was not checked, nor a byte beyond what the last head announced: boundaries are
//! ours. A head that comes in pieces waits here; one that is refused is replaced by a [`SUBSTITUTE`] that no client can
//! send, so that the refusal is answered in its turn, after the requests that came before it. Nothing is read after that.
//! After a chunked head everything goes on, because only its chunks tell where it ends; so the connection closes after
//! its reply, and what follows is never looked at (hardening C3).
//!
//! Where a head comes whole, which it nearly always does, it is checked in the library's own buffer and not copied.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{alarm::Alarm, exchange::Exchanges};
use crate::http::head::{self, BadHead, Framing, Scan};

/// A request that stands for one that was refused: the check refuses its scheme, so no client has sent it.
const SUBSTITUTE: &[u8] = b"GET refused://head/ HTTP/1.1\r\n\r\n";

/// A stream whose heads are checked.
#[derive(Debug)]
pub(super) struct Raw<S> {
    stream: S,
    exchanges: Arc<Exchanges>,
    state: State,
    /// Came, and may not go on yet. INVARIANT (Bounded): a head that was not refused, and what one read brought with it.
    held: BytesMut,
    scan: Scan,
    /// From the first byte of a head to its last.
    head_time: Duration,
    /// When the head must be here that is being read: the first one from the start, others from their first byte.
    head_due: Option<Instant>,
    alarm: Alarm,
    /// Since when the connection lingers.
    lingers: Option<Instant>,
    lingered_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// A head is due.
    Head,
    /// So many bytes may go on: the rest of a head and its body.
    Pass(u64),
    /// Everything may: the head was chunked.
    Through,
    /// The rest of the substitute goes on, then nothing.
    Refused(&'static [u8]),
}

impl<S> Raw<S> {
    pub(super) fn new(stream: S, exchanges: Arc<Exchanges>, head_time: Duration) -> Self {
        Self {
            stream,
            exchanges,
            state: State::Head,
            held: BytesMut::new(),
            scan: Scan::default(),
            head_time,
            head_due: Some(Instant::now() + head_time),
            alarm: Alarm::default(),
            lingers: None,
            lingered_bytes: 0,
        }
    }

    /// Looks at the head that `bytes` begin with: how many of them may go on, or `None` if more must come.
    fn look(&mut self, bytes: &[u8]) -> Result<Option<usize>, BadHead> {
        let Some(end) = self.scan.advance(bytes)? else { return Ok(None) };
        let head = head::check(bytes.get(..end).unwrap_or_default())?;
        self.scan = Scan::default();
        self.head_due = None;
        self.exchanges.checked();
        let body = match head.framing {
            Framing::None => 0,
            Framing::Length(length) => length,
            Framing::Chunked => {
                self.state = State::Through;
                return Ok(Some(bytes.len()));
            }
        };
        let goes = body.saturating_add(end as u64);
        let here = bytes.len().min(usize::try_from(goes).unwrap_or(usize::MAX));
        self.state = State::Pass(goes - here as u64);
        Ok(Some(here))
    }

    fn refuse(&mut self, bad: BadHead) {
        self.exchanges.refuse(bad);
        self.held = BytesMut::new();
        self.head_due = None;
        self.state = State::Refused(SUBSTITUTE);
    }

    /// Whether the client may still be sending what nobody will read.
    fn leaves_unread(&self) -> bool {
        match self.state {
            State::Head => !self.held.is_empty(),
            State::Pass(left) => left > 0,
            State::Through | State::Refused(_) => true,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Raw<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let start = out.filled().len();
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            match this.state {
                State::Refused([]) => return Poll::Pending,
                State::Refused(rest) => {
                    let (now, later) = rest.split_at_checked(out.remaining()).unwrap_or((rest, &[]));
                    out.put_slice(now);
                    this.state = State::Refused(later);
                    return Poll::Ready(Ok(()));
                }
                State::Pass(0) => this.state = State::Head,
                State::Pass(left) => {
                    if this.held.is_empty() {
                        ready!(Pin::new(&mut this.stream).poll_read(context, out))?;
                        let came = out.filled().get(start..).unwrap_or_default();
                        let goes = came.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                        this.held.extend_from_slice(came.get(goes..).unwrap_or_default());
                        out.set_filled(start + goes);
                        this.state = State::Pass(left - goes as u64);
                    } else {
                        let most = out.remaining().min(this.held.len());
                        let goes = most.min(usize::try_from(left).unwrap_or(usize::MAX));
                        out.put_slice(&this.held.split_to(goes));
                        this.state = State::Pass(left - goes as u64);
                    }
                    return Poll::Ready(Ok(()));
                }
                State::Through => {
                    if this.held.is_empty() {
                        return Pin::new(&mut this.stream).poll_read(context, out);
                    }
                    let goes = out.remaining().min(this.held.len());
                    out.put_slice(&this.held.split_to(goes));
                    return Poll::Ready(Ok(()));
                }
                State::Head => {
                    if !this.held.is_empty() {
                        // What one read brought may hold further heads.
                        let held = std::mem::take(&mut this.held);
                        let seen = this.look(&held);
                        this.held = held;
                        match seen {
                            Ok(Some(here)) => {
                                // Nothing of it has gone on yet.
                                if let State::Pass(left) = &mut this.state {
                                    *left += here as u64;
                                }
                                continue;
                            }
                            Ok(None) => {}
                            Err(bad) => {
                                this.refuse(bad);
                                continue;
                            }
                        }
                    }
                    match Pin::new(&mut this.stream).poll_read(context, out) {
                        Poll::Ready(read) => read?,
                        Poll::Pending => {
                            if !this.held.is_empty() && this.head_due.is_none() {
                                this.head_due = Some(Instant::now() + this.head_time);
                            }
                            if let Some(due) = this.head_due {
                                ready!(this.alarm.poll(context, due));
                                if this.held.is_empty() {
                                    // Not a byte of a first request: there is nobody to answer.
                                    return Poll::Ready(Ok(()));
                                }
                                this.refuse(BadHead::Slow);
                                continue;
                            }
                            return Poll::Pending;
                        }
                    }
                    let came = out.filled().get(start..).unwrap_or_default();
                    if came.is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                    if !this.held.is_empty() {
                        this.held.extend_from_slice(came);
                        out.set_filled(start);
                        continue;
                    }
                    match this.look(came) {
                        Ok(Some(here)) => {
                            this.held.extend_from_slice(came.get(here..).unwrap_or_default());
                            out.set_filled(start + here);
                            return Poll::Ready(Ok(()));
                        }
                        Ok(None) => {
                            this.held.extend_from_slice(came);
                            out.set_filled(start);
                            this.exchanges.reading();
                        }
                        Err(bad) => {
                            out.set_filled(start);
                            this.refuse(bad);
                        }
                    }
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Raw<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Says that we are done, then reads on for a while: a socket that is closed with bytes unread is reset, and the
    /// reset may overtake the reply (RFC 9112 §9.6).
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingers.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
            if !this.leaves_unread() {
                return Poll::Ready(Ok(()));
            }
        }
        let since = *this.lingers.get_or_insert_with(Instant::now);
        let mut scrap = [0; 2048];
        while this.lingered_bytes < MAX_LINGER_BYTES {
            let mut out = ReadBuf::new(&mut scrap);
            match Pin::new(&mut this.stream).poll_read(context, &mut out) {
                Poll::Ready(Ok(())) if !out.filled().is_empty() => {
                    this.lingered_bytes += out.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return this.alarm.poll(context, since + LINGER).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// How long a client that still sends gets to take notice: a round trip or two.
const LINGER: Duration = Duration::from_secs(1);
/// And how much it may send meanwhile.
const MAX_LINGER_BYTES: usize = 256 << 10;
