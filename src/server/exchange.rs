//! What is under way on one connection: requests that have no whole reply yet, and what was refused.
//!
//! INVARIANT (Bounded): no exchange lasts longer than a request may, and no connection stays open for nothing.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::time::{Instant, sleep_until};

use super::{
    Bounds,
    clients::Room,
    cut::Cut,
    pace::{self, allowance},
};
use crate::http::head::BadHead;

/// The exchanges of one connection.
#[derive(Debug)]
pub(super) struct Exchanges(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Heads that passed the check.
    checked: u64,
    /// Requests that were served.
    served: u64,
    /// The last head that will come, if it was refused.
    refused: Option<BadHead>,
    /// Number and beginning of each request that has no whole reply yet; at most as many as streams.
    running: Vec<(u64, Instant)>,
    /// Replies that the library has and the client has not taken whole.
    untaken: usize,
    /// Since when there is one, and how many bytes were taken since.
    waits: Option<(Instant, u64)>,
    /// Since when there are none.
    quiet: Instant,
    /// Whether part of a head has come: its own timer runs.
    reading: bool,
    /// Why the connection is cut.
    cut: Option<Cut>,
}

/// What is wrong with a connection that has waited too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// Nothing is under way.
    Idle,
    /// What is under way must end.
    Cut(Cut),
}

impl Exchanges {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            checked: 0,
            served: 0,
            refused: None,
            running: Vec::new(),
            untaken: 0,
            waits: None,
            quiet: Instant::now(),
            reading: false,
            cut: None,
        })))
    }

    /// A head passed the check and goes on.
    pub(super) fn checked(&self) {
        let mut state = self.lock();
        state.checked += 1;
        state.reading = false;
    }

    /// A head did not; what goes on in its place is the last of this connection.
    pub(super) fn refuse(&self, bad: BadHead) {
        let mut state = self.lock();
        state.checked += 1;
        state.reading = false;
        state.refused = Some(bad);
    }

    /// Part of a head is here.
    pub(super) fn reading(&self) {
        self.lock().reading = true;
    }

    /// What the check said of the next request of an HTTP/1 connection.
    ///
    /// A request that no check has seen came out of another one's body: it is refused, whatever it is.
    pub(super) fn verdict(&self) -> Result<(), BadHead> {
        let mut state = self.lock();
        state.served += 1;
        match state.refused {
            Some(bad) if state.served >= state.checked => Err(bad),
            _ if state.served > state.checked => Err(BadHead::Framing),
            _ => Ok(()),
        }
    }

    /// A request begins, and keeps the room that there is for it; it ends when what is returned is dropped.
    pub(super) fn begin(self: &Arc<Self>, room: Option<Room>) -> Exchange {
        let mut state = self.lock();
        let number = state.running.iter().map(|(number, _)| number + 1).max().unwrap_or_default();
        state.running.push((number, Instant::now()));
        Exchange { number, of: Arc::clone(self), room }
    }

    /// Ends when this connection has been idle for too long, or one of its requests or replies has.
    pub(super) async fn late(&self, bounds: &Bounds) -> Late {
        // Nothing that begins while this sleeps can be late sooner.
        let shortest = bounds.request.min(pace::GRACE);
        loop {
            let now = Instant::now();
            let (due, late) = self.lock().due(now, bounds);
            if now >= due {
                return late;
            }
            sleep_until(due.min(now + shortest)).await;
        }
    }

    /// The connection is cut for this, unless it is cut already.
    pub(super) fn cut(&self, cut: Cut) {
        self.lock().cut.get_or_insert(cut);
    }

    /// Why the connection was cut, if it was.
    pub(super) fn was_cut(&self) -> Option<Cut> {
        self.lock().cut
    }

    /// Whether no request is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.lock().running.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment or push: nothing is left half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// When the connection is late, and how, if nothing happens before.
    fn due(&self, now: Instant, bounds: &Bounds) -> (Instant, Late) {
        let Some(oldest) = self.running.iter().map(|(_, begun)| *begun).min() else {
            let since = if self.reading { now } else { self.quiet };
            return (since + bounds.idle, Late::Idle);
        };
        let overdue = (oldest + bounds.request, Late::Cut(Cut::Overdue));
        let unread = self
            .waits
            .map(|(since, taken)| (since + allowance(taken, bounds.min_rate), Late::Cut(Cut::Unread)));
        unread.filter(|(due, _)| *due < overdue.0).unwrap_or(overdue)
    }
}

/// One request on its way; dropping it ends it.
#[derive(Debug)]
pub(super) struct Exchange {
    number: u64,
    of: Arc<Exchanges>,
    room: Option<Room>,
}

impl Exchange {
    /// Whether there is room for what it asks.
    pub(super) fn has_room(&self) -> bool {
        self.room.is_some()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = self.of.lock();
        state.running.retain(|(number, _)| *number != self.number);
        if state.running.is_empty() {
            state.quiet = Instant::now();
        }
    }
}

/// A reply's body. Its exchange goes with its bytes: a library that has taken them need not have sent them.
#[derive(Debug)]
pub(super) struct ReplyBody {
    body: Full<Bytes>,
    exchange: Option<Exchange>,
}

impl ReplyBody {
    pub(super) fn new(body: Full<Bytes>, exchange: Exchange) -> Self {
        Self { body, exchange: Some(exchange) }
    }
}

impl Body for ReplyBody {
    type Data = ReplyBytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<ReplyBytes>, Self::Error>>> {
        let this = &mut *self;
        // All of it comes at once.
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        let told = |bytes| ReplyBytes::new(bytes, this.exchange.take());
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(told))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The bytes of a reply until the client has taken them or its stream is gone.
///
/// A client of HTTP/2 may open its window by a byte and no more: then its reply lies with the library, in nobody's time,
/// and the connection looks idle to us and alive to TCP. So what was taken is counted here.
#[derive(Debug)]
pub(super) struct ReplyBytes {
    bytes: Bytes,
    exchange: Option<Exchange>,
}

impl ReplyBytes {
    fn new(bytes: Bytes, exchange: Option<Exchange>) -> Self {
        if let Some(exchange) = &exchange {
            let mut state = exchange.of.lock();
            state.untaken += 1;
            state.waits.get_or_insert_with(|| (Instant::now(), 0));
        }
        Self { bytes, exchange }
    }
}

impl Buf for ReplyBytes {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(exchange) = &self.exchange
            && let Some((_, taken)) = &mut exchange.of.lock().waits
        {
            *taken = taken.saturating_add(count as u64);
        }
    }
}

impl Drop for ReplyBytes {
    fn drop(&mut self) {
        if let Some(exchange) = &self.exchange {
            let mut state = exchange.of.lock();
            state.untaken = state.untaken.saturating_sub(1);
            if state.untaken == 0 {
                state.waits = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);
    const REQUEST: Duration = Duration::from_secs(120);
    const BOUNDS: Bounds = Bounds {
        connections: 1,
        connections_per_client: 1,
        handshakes: 1,
        handshakes_per_client: 1,
        min_rate: 100,
        handshake: IDLE,
        header: IDLE,
        idle: IDLE,
        request: REQUEST,
        drain: IDLE,
    };

    #[test]
    fn c03_a_request_that_no_check_has_seen_is_refused() {
        let exchanges = Exchanges::new();
        exchanges.checked();
        assert_eq!(exchanges.verdict(), Ok(()));
        assert_eq!(exchanges.verdict(), Err(BadHead::Framing));
    }

    #[test]
    fn a_refused_head_has_its_turn_after_those_before_it() {
        let exchanges = Exchanges::new();
        exchanges.checked();
        exchanges.refuse(BadHead::Host);
        assert_eq!(exchanges.verdict(), Ok(()));
        assert_eq!(exchanges.verdict(), Err(BadHead::Host));
        assert_eq!(exchanges.verdict(), Err(BadHead::Host));
    }

    #[tokio::test(start_paused = true)]
    async fn c01_nothing_under_way_is_idle_and_a_request_without_end_is_overdue() {
        let exchanges = Exchanges::new();
        let start = Instant::now();
        assert_eq!(exchanges.late(&BOUNDS).await, Late::Idle);
        assert_eq!(start.elapsed(), IDLE);
        // A connection with a request under way is not idle, and each has its own time.
        let first = exchanges.begin(None);
        tokio::time::advance(REQUEST / 2).await;
        let second = exchanges.begin(None);
        drop(first);
        assert_eq!(exchanges.late(&BOUNDS).await, Late::Cut(Cut::Overdue));
        assert_eq!(start.elapsed(), IDLE + REQUEST / 2 + REQUEST);
        drop(second);
        let quiet = Instant::now();
        assert_eq!(exchanges.late(&BOUNDS).await, Late::Idle);
        assert_eq!(quiet.elapsed(), IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn c01_a_request_that_begins_on_a_quiet_connection_has_no_more_time_than_others() {
        let bounds = Bounds { request: Duration::from_secs(3), ..BOUNDS };
        let exchanges = Exchanges::new();
        let begins = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            exchanges.begin(None)
        };
        let start = Instant::now();
        let (late, _exchange) = tokio::join!(exchanges.late(&bounds), begins);
        assert_eq!((late, start.elapsed().as_secs()), (Late::Cut(Cut::Overdue), 4));
    }

    #[tokio::test(start_paused = true)]
    async fn c01_a_reply_that_nobody_takes_is_not_waited_for_though_the_library_has_taken_it() {
        for (bytes_a_second, seconds) in [(0, 5), (50, 9), (200, 120)] {
            let exchanges = Exchanges::new();
            let body = Full::new(Bytes::from(vec![0; 1 << 20]));
            let mut reply = ReplyBody::new(body, exchanges.begin(None));
            let taken = poll_fn(|context| Pin::new(&mut reply).poll_frame(context)).await;
            let mut bytes = taken.unwrap().unwrap().into_data().unwrap();
            drop(reply);
            let takes = async {
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    bytes.advance(bytes_a_second);
                }
            };
            let start = Instant::now();
            let late =
                tokio::select! { late = exchanges.late(&BOUNDS) => late, () = takes => unreachable!() };
            let cut = if seconds == 120 { Cut::Overdue } else { Cut::Unread };
            assert_eq!((late, start.elapsed().as_secs()), (Late::Cut(cut), seconds), "{bytes_a_second}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_that_was_taken_leaves_the_connection_quiet() {
        let exchanges = Exchanges::new();
        let mut reply = ReplyBody::new(Full::new(Bytes::from_static(b"{}")), exchanges.begin(None));
        let taken = poll_fn(|context| Pin::new(&mut reply).poll_frame(context)).await;
        drop(reply);
        assert!(!exchanges.is_quiet());
        drop(taken);
        assert!(exchanges.is_quiet());
        assert_eq!(exchanges.late(&BOUNDS).await, Late::Idle);
    }
}
