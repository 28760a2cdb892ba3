//! The body, unread until the caller may invoke the function, then read within bounds.
//!
//! INVARIANT (Unread): an [`UnreadBody`] offers nothing but its declared length; only this stage opens it.

use std::{error::Error, fmt, pin::Pin, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::{error::EventError, rules::BodyBounds};

type BoxError = Box<dyn Error + Send + Sync>;

/// A request's body that nobody has read.
pub struct UnreadBody(Inner);

enum Inner {
    Incoming(Incoming),
    Stream(Lingering),
    Boxed(BoxBody<Bytes, BoxError>),
}

/// The body of an HTTP/2 stream. If it is refused unread, the little that is on its way is taken and forgotten: a client whose
/// stream ends while it still sends may take that for a failure and never look at the reply (curl 7.88 does).
struct Lingering(Option<Incoming>);

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(mut body) = self.0.take() else { return };
        let is_small = body.size_hint().upper().is_some_and(|most| most <= LINGER_BYTES);
        if body.is_end_stream() || !is_small {
            return;
        }
        // Without a runtime the process is ending, and its connections with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let forgotten = async { while let Some(Ok(_)) = body.frame().await {} };
                // Late or not, nobody waits for it.
                let _ = tokio::time::timeout(LINGER, forgotten).await;
            });
        }
    }
}

impl UnreadBody {
    /// The body of an HTTP/2 stream.
    pub fn of_stream(body: Incoming) -> Self {
        Self(Inner::Stream(Lingering(Some(body))))
    }

    /// A body of any kind: what `dev` and tests send without a connection.
    pub fn boxed<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + Sync + 'static,
        B::Error: Into<BoxError>,
    {
        Self(Inner::Boxed(body.map_err(Into::into).boxed()))
    }

    /// A body of these bytes.
    pub fn of(bytes: impl Into<Bytes>) -> Self {
        Self::boxed(http_body_util::Full::new(bytes.into()))
    }

    /// Length as declared, in bytes: exact with a `Content-Length`, else unknown.
    pub fn declared_bytes(&self) -> Option<u64> {
        match &self.0 {
            Inner::Incoming(body) => body.size_hint().exact(),
            Inner::Stream(body) => body.0.as_ref().and_then(|body| body.size_hint().exact()),
            Inner::Boxed(body) => body.size_hint().exact(),
        }
    }

    /// Whether it is known to have no bytes.
    pub(super) fn is_empty(&self) -> bool {
        self.declared_bytes() == Some(0)
            || match &self.0 {
                Inner::Incoming(body) => body.is_end_stream(),
                Inner::Stream(body) => body.0.as_ref().is_none_or(Body::is_end_stream),
                Inner::Boxed(body) => body.is_end_stream(),
            }
    }

    /// Reads it whole, within its bounds of size and time. More is never buffered.
    pub(super) async fn read(self, bounds: BodyBounds) -> Result<Bytes, EventError> {
        if self.is_empty() {
            return Ok(Bytes::new());
        }
        match self.0 {
            Inner::Incoming(body) => collect(body, bounds).await,
            Inner::Stream(mut body) => match body.0.take() {
                Some(body) => collect(body, bounds).await,
                None => Ok(Bytes::new()),
            },
            Inner::Boxed(body) => collect(body, bounds).await,
        }
    }
}

impl From<Incoming> for UnreadBody {
    fn from(body: Incoming) -> Self {
        Self(Inner::Incoming(body))
    }
}

impl fmt::Debug for UnreadBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnreadBody(…)")
    }
}

async fn collect<B>(mut body: B, bounds: BodyBounds) -> Result<Bytes, EventError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    // Most bodies come in one piece, which then is the body.
    let mut whole = Bytes::new();
    let mut pieces: Option<BytesMut> = None;
    let limit = bounds.max_bytes;
    let begun = Instant::now();
    let mut so_far = 0_u64;
    loop {
        // What came buys time, up to the time for the whole; a body that is here already never looks at the clock again.
        let earned = GRACE + Duration::from_millis(so_far.saturating_mul(1000) / bounds.min_rate.max(1));
        let time = bounds.time.min(earned);
        let next = timeout_at(begun + time, Pin::new(&mut body).frame()).await;
        let Some(frame) = next.map_err(|_| EventError::Timeout { after: time })? else { break };
        let frame = frame.map_err(|e| lost(e.into()))?;
        // Trailers are not part of the event.
        let Ok(data) = frame.into_data() else { continue };
        so_far = so_far.saturating_add(data.len() as u64);
        if so_far > limit {
            return Err(EventError::TooLarge { limit });
        }
        match &mut pieces {
            Some(pieces) => pieces.extend_from_slice(&data),
            None if whole.is_empty() => whole = data,
            None => {
                let mut joined = BytesMut::with_capacity(whole.len() + data.len());
                joined.extend_from_slice(&whole);
                joined.extend_from_slice(&data);
                pieces = Some(joined);
            }
        }
    }
    Ok(pieces.map_or(whole, BytesMut::freeze))
}

/// Why a body ends before its end: its client went away, or broke the rules of framing.
fn lost(source: BoxError) -> EventError {
    let (mut cause, mut gone): (Option<&(dyn Error + 'static)>, _) = (Some(&*source), false);
    while let Some(error) = cause {
        gone |= is_departure(error);
        cause = error.source();
    }
    if gone { EventError::ClientGone { source } } else { EventError::BodyLost { source } }
}

fn is_departure(error: &(dyn Error + 'static)) -> bool {
    use std::io::ErrorKind as K;
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        // What is not the other end's doing is a fault that the library found in its frames.
        return error.is_io() || error.is_remote();
    }
    let ended = [K::UnexpectedEof, K::ConnectionReset, K::ConnectionAborted, K::BrokenPipe, K::NotConnected];
    error.downcast_ref::<std::io::Error>().is_some_and(|error| ended.contains(&error.kind()))
        || error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_body_write_aborted)
}

/// Largest declared body that is taken and forgotten where it is refused: what a window holds.
const LINGER_BYTES: u64 = 64 << 10;
/// Longest that it may take; the stream counts as open until then.
const LINGER: Duration = Duration::from_secs(1);
/// A line may hang for so long before its rate is looked at.
const GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        task::{Context, Poll},
    };

    /// Chunks of 1 KiB without end; counts what it gave.
    struct Endless(Arc<AtomicU64>);

    impl Body for Endless {
        type Data = Bytes;
        type Error = std::io::Error;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
            self.0.fetch_add(1024, Ordering::Relaxed);
            Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(&[b'x'; 1024])))))
        }
    }

    fn bounds(max_bytes: u64) -> BodyBounds {
        BodyBounds { max_bytes, time: Duration::from_secs(30), min_rate: 100 }
    }

    /// So many bytes a second, without end.
    struct Trickle(usize, Pin<Box<tokio::time::Sleep>>);

    impl Body for Trickle {
        type Data = Bytes;
        type Error = std::io::Error;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
            std::task::ready!(self.1.as_mut().poll(context));
            let next = self.1.deadline() + Duration::from_secs(1);
            self.1.as_mut().reset(next);
            Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from(vec![b'x'; self.0])))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn c01_a_body_that_trickles_is_refused_after_the_grace_and_a_slow_one_gets_its_time() {
        for (bytes, seconds) in [(0, 5), (1, 5), (50, 9), (100, 30), (1000, 30)] {
            let begun = Instant::now();
            let body =
                UnreadBody::boxed(Trickle(bytes, Box::pin(tokio::time::sleep(Duration::from_secs(1)))));
            let refused = body.read(bounds(1 << 20)).await;
            assert!(matches!(refused, Err(EventError::Timeout { .. })), "{bytes}: {refused:?}");
            assert_eq!(begun.elapsed().as_secs(), seconds, "{bytes} bytes a second");
        }
    }

    struct Silent;

    impl Body for Silent {
        type Data = Bytes;
        type Error = std::io::Error;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn d01_chunks_without_end_are_refused_at_the_limit() {
        let given = Arc::new(AtomicU64::new(0));
        let body = UnreadBody::boxed(Endless(Arc::clone(&given)));
        let refused = body.read(bounds(64 * 1024)).await;
        assert!(matches!(refused, Err(EventError::TooLarge { limit: 65_536 })), "{refused:?}");
        assert_eq!(given.load(Ordering::Relaxed), 65 * 1024);
    }

    #[tokio::test(start_paused = true)]
    async fn d01_a_body_that_never_comes_is_refused_in_time() {
        let refused = UnreadBody::boxed(Silent).read(bounds(1024)).await;
        assert!(matches!(refused, Err(EventError::Timeout { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn pieces_become_one_body() {
        let chunks =
            ["a", "", "bc", "d"].map(|c| Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from(c))));
        let body = UnreadBody::boxed(Chunks(chunks.into_iter().collect()));
        assert_eq!(body.read(bounds(4)).await.unwrap(), "abcd");
        assert_eq!(UnreadBody::of("abcd").read(bounds(4)).await.unwrap(), "abcd");
    }

    struct Chunks(std::collections::VecDeque<Result<http_body::Frame<Bytes>, std::io::Error>>);

    impl Body for Chunks {
        type Data = Bytes;
        type Error = std::io::Error;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
            Poll::Ready(self.0.pop_front())
        }
    }
}
