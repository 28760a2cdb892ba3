//! What is under way on one connection: requests that have no whole reply yet, and what was refused.
//!
//! INVARIANT (Bounded): no exchange lasts longer than a request may, and no connection stays open for nothing.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::time::{Instant, sleep_until};

use super::frames::Flood;
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
    /// Since when there are none.
    quiet: Instant,
    /// Whether part of a head has come: its own timer runs.
    reading: bool,
    /// Why the connection is cut.
    flood: Option<Flood>,
}

/// What is wrong with a connection that has waited too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// Nothing is under way.
    Idle,
    /// A request has no whole reply.
    Overdue,
}

impl Exchanges {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            checked: 0,
            served: 0,
            refused: None,
            running: Vec::new(),
            quiet: Instant::now(),
            reading: false,
            flood: None,
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

    /// A request begins; it ends when what is returned is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Exchange {
        let mut state = self.lock();
        let number = state.running.iter().map(|(number, _)| number + 1).max().unwrap_or_default();
        state.running.push((number, Instant::now()));
        Exchange { number, of: Arc::clone(self) }
    }

    /// Ends when this connection has been idle for `idle`, or one of its requests has lasted for `request`.
    pub(super) async fn late(&self, idle: Duration, request: Duration) -> Late {
        loop {
            let (deadline, late) = {
                let state = self.lock();
                match state.running.iter().map(|(_, begun)| *begun).min() {
                    Some(oldest) => (oldest + request, Late::Overdue),
                    None if state.reading => (Instant::now() + idle, Late::Idle),
                    None => (state.quiet + idle, Late::Idle),
                }
            };
            if Instant::now() >= deadline {
                return late;
            }
            sleep_until(deadline).await;
        }
    }

    /// The connection is cut for this.
    pub(super) fn cut(&self, flood: Flood) {
        self.lock().flood = Some(flood);
    }

    /// Why the connection was cut, if it was.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.lock().flood
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

/// One request on its way; dropping it ends it.
#[derive(Debug)]
pub(super) struct Exchange {
    number: u64,
    of: Arc<Exchanges>,
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

/// A reply's body, which keeps its exchange until the library has taken it or given it up.
#[derive(Debug)]
pub(super) struct ReplyBody {
    body: Full<Bytes>,
    _exchange: Exchange,
}

impl ReplyBody {
    pub(super) fn new(body: Full<Bytes>, exchange: Exchange) -> Self {
        Self { body, _exchange: exchange }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);
    const REQUEST: Duration = Duration::from_secs(120);

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
        assert_eq!(exchanges.late(IDLE, REQUEST).await, Late::Idle);
        assert_eq!(start.elapsed(), IDLE);
        // A connection with a request under way is not idle, and each has its own time.
        let first = exchanges.begin();
        tokio::time::advance(REQUEST / 2).await;
        let second = exchanges.begin();
        drop(first);
        assert_eq!(exchanges.late(IDLE, REQUEST).await, Late::Overdue);
        assert_eq!(start.elapsed(), IDLE + REQUEST / 2 + REQUEST);
        drop(second);
        let quiet = Instant::now();
        assert_eq!(exchanges.late(IDLE, REQUEST).await, Late::Idle);
        assert_eq!(quiet.elapsed(), IDLE);
    }
}
