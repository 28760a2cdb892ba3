//! Writing to a client that takes what it is sent, and only as slowly as a poor line would.
//!
//! A client that never reads, or reads a byte now and then, would otherwise hold a reply in memory for as long as it
//! likes (slow read; hardening C1). Only time in which the client keeps us waiting counts.

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

use super::{alarm::Alarm, cut::Cut, exchange::Exchanges};

/// A stream that fails once its reader is slower than it may be.
#[derive(Debug)]
pub(super) struct Paced<S> {
    stream: S,
    exchanges: Arc<Exchanges>,
    /// Bytes a second.
    rate: u64,
    /// Since when something waits to be taken, and what was taken since.
    waits: Option<(Instant, u64)>,
    alarm: Alarm,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, exchanges: Arc<Exchanges>, rate: u64) -> Self {
        Self { stream, exchanges, rate, waits: None, alarm: Alarm::default() }
    }

    fn taken(&mut self, bytes: usize) {
        if let Some((_, taken)) = &mut self.waits {
            *taken = taken.saturating_add(bytes as u64);
        }
    }

    /// The client keeps us waiting: for as long as it may, by what it has taken so far.
    fn waiting<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let (since, taken) = *self.waits.get_or_insert_with(|| (Instant::now(), 0));
        let due = since + allowance(taken, self.rate);
        self.alarm.poll(context, due).map(|()| {
            self.exchanges.cut(Cut::Unread);
            Err(io::ErrorKind::TimedOut.into())
        })
    }
}

/// Time in which so many bytes must have moved.
pub(super) fn allowance(bytes: u64, rate: u64) -> Duration {
    GRACE + Duration::from_millis(bytes.saturating_mul(1000) / rate.max(1))
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Pending => self.waiting(context),
            Poll::Ready(written) => {
                self.taken(written.as_ref().copied().unwrap_or_default());
                Poll::Ready(written)
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(context, slices) {
            Poll::Pending => self.waiting(context),
            Poll::Ready(written) => {
                self.taken(written.as_ref().copied().unwrap_or_default());
                Poll::Ready(written)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Pending => self.waiting(context),
            Poll::Ready(flushed) => {
                self.waits = None;
                Poll::Ready(flushed)
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(context) {
            Poll::Pending => self.waiting(context),
            ended => ended,
        }
    }
}

/// A line may hang for so long before its rate is looked at.
pub(super) const GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const RATE: u64 = 1024;

    #[tokio::test(start_paused = true)]
    async fn c01_who_never_reads_is_cut_after_the_grace() {
        let (gate, _client) = tokio::io::duplex(16);
        let begun = Instant::now();
        let exchanges = Exchanges::new();
        let mut gate = Paced::new(gate, Arc::clone(&exchanges), RATE);
        let failed = gate.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!((failed.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, GRACE));
        assert_eq!(exchanges.was_cut(), Some(Cut::Unread));
    }

    #[tokio::test(start_paused = true)]
    async fn c01_who_reads_a_byte_now_and_then_is_cut_and_who_reads_at_the_rate_is_not() {
        for (bytes, whole) in [(16, false), (RATE as usize, true)] {
            let (gate, mut client) = tokio::io::duplex(RATE as usize);
            let reader = tokio::spawn(async move {
                let mut taken = vec![0; bytes];
                loop {
                    // The clock is paused: this is how time passes.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if client.read_exact(&mut taken).await.is_err() {
                        return;
                    }
                }
            });
            let mut gate = Paced::new(gate, Exchanges::new(), RATE);
            let written = gate.write_all(&vec![0; 64 * RATE as usize]).await;
            assert_eq!(written.is_ok(), whole, "{bytes} bytes a second");
            reader.abort();
        }
    }
}
