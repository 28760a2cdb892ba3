//! Key sets that live elsewhere: fetched ahead of need, by one fetch at a time, and kept while the issuer is down.
//!
//! | state | requests meanwhile |
//! |---|---|
//! | never fetched | wait for the fetch that the first of them starts |
//! | fresh | served |
//! | due (after [`Timing::refresh`]) | served; one fetch in the background |
//! | fetches fail | served until [`Timing::stale`] after the last good fetch, then `KeysUnavailable` |
//!
//! A key that is gone from a fetched set is gone at once: verdicts name the set that gave them.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};

use super::{
    fetch::{FETCH_SECONDS, Fetcher, Locator},
    keys::{KeySet, KeySetError},
};

/// The monotonic clock, replaceable so that tests need not wait for it.
#[derive(Clone)]
pub(super) struct Clock(Arc<dyn Fn() -> Instant + Send + Sync>);

impl Clock {
    pub(super) fn system() -> Self {
        Self(Arc::new(Instant::now))
    }

    #[cfg(test)]
    pub(super) fn new(now: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub(super) fn now(&self) -> Instant {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// How long things hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// From a good fetch to the next.
    pub(super) refresh: Duration,
    /// From the last good fetch to the end of its keys, if all later ones fail.
    pub(super) stale: Duration,
    /// From a failed fetch to the next; doubles with each failure up to `refresh`.
    pub(super) retry: Duration,
    /// Between two fetches for key ids that the set does not have.
    pub(super) unknown_key: Duration,
}

impl Default for Timing {
    /// Identity providers announce keys hours or days ahead, so five minutes is ample; a day bridges an outage over a
    /// night, and still ends the life of keys that nobody vouches for any more.
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(5 * 60),
            stale: Duration::from_secs(24 * 60 * 60),
            retry: Duration::from_secs(10),
            unknown_key: Duration::from_secs(60),
        }
    }
}

/// The key set of one issuer.
#[derive(Debug)]
pub(super) struct Remote {
    issuer: Arc<str>,
    at: Locator,
    fetcher: Arc<Fetcher>,
    clock: Clock,
    timing: Timing,
    /// Zero of `due_ms`.
    begin: Instant,
    loaded: ArcSwapOption<Loaded>,
    /// Milliseconds since `begin` from which another fetch is wanted.
    due_ms: AtomicU64,
    flight: Mutex<Flight>,
    landed: watch::Sender<u64>,
    used: AtomicBool,
    wake: Notify,
}

#[derive(Debug)]
struct Loaded {
    set: Arc<KeySet>,
    fetched: Instant,
}

#[derive(Debug, Default)]
struct Flight {
    under_way: bool,
    failures: u32,
    last_error: Option<Arc<KeySetError>>,
    last_for_unknown_key: Option<Instant>,
    /// Key ids that a fetch was made for in vain, so that one stale token does not use up the fetches that new keys need.
    absent: HashMap<String, Instant>,
}

/// The keys could not be had: why, and when it is worth asking again.
#[derive(Debug)]
pub(super) struct Unavailable {
    pub(super) source: Arc<KeySetError>,
    pub(super) retry_after: Duration,
}

impl Remote {
    fn new(issuer: Arc<str>, at: Locator, fetcher: Arc<Fetcher>, clock: Clock, timing: Timing) -> Self {
        let begin = clock.now();
        Self {
            issuer,
            at,
            fetcher,
            clock,
            timing,
            begin,
            loaded: ArcSwapOption::empty(),
            due_ms: AtomicU64::new(0),
            flight: Mutex::default(),
            landed: watch::Sender::new(0),
            used: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// Whether a verdict of this generation still stands: its set is the current one, and is not too old.
    pub(super) fn vouches(self: &Arc<Self>, generation: u64) -> bool {
        let now = self.clock.now();
        let stands = self
            .loaded
            .load()
            .as_ref()
            .is_some_and(|loaded| loaded.set.generation() == generation && self.is_usable(loaded, now));
        self.touch(now);
        stands
    }

    /// The current keys, fetched now if there are none.
    pub(super) async fn keys(self: &Arc<Self>) -> Result<Arc<KeySet>, Unavailable> {
        let now = self.clock.now();
        if let Some(set) = self.current(now) {
            self.touch(now);
            return Ok(set);
        }
        self.mark_used();
        let until_due = self.until_due(now);
        let failed_lately = !until_due.is_zero() && !self.flight().under_way;
        if !failed_lately {
            self.fetched().await;
        }
        let now = self.clock.now();
        self.current(now).ok_or_else(|| Unavailable {
            source: self.flight().last_error.clone().unwrap_or_else(|| Arc::new(KeySetError::Absent)),
            retry_after: self.until_due(now).max(Duration::from_secs(1)),
        })
    }

    /// The keys after a look for one that the current set does not have, if another look was due.
    pub(super) async fn keys_with(self: &Arc<Self>, key_id: &str) -> Option<Arc<KeySet>> {
        let now = self.clock.now();
        let ours = {
            let mut flight = self.flight();
            flight.absent.retain(|_, since| now.duration_since(*since) < ABSENT_FOR);
            if flight.absent.contains_key(key_id) {
                return None;
            }
            let recent = flight
                .last_for_unknown_key
                .is_some_and(|at| now.duration_since(at) < self.timing.unknown_key);
            if recent && !flight.under_way {
                return None;
            }
            if !flight.under_way {
                flight.last_for_unknown_key = Some(now);
            }
            !flight.under_way
        };
        self.fetched().await;
        let set = self.current(self.clock.now())?;
        if ours && set.by_id(key_id).is_none() {
            let mut flight = self.flight();
            if flight.absent.len() < MAX_ABSENT {
                flight.absent.insert(key_id.to_owned(), now);
            }
        }
        Some(set)
    }

    /// Keeps the set fresh for as long as it is used; a set that nobody asks for costs one sleeping task.
    ///
    /// Tasks of several revisions or tenants may keep one set; one of them is woken, and passes that on if it is stopped.
    pub(super) async fn keep_fresh(self: Arc<Self>) {
        let _keeper = Keeper(&self);
        loop {
            while !self.used.load(Ordering::Relaxed) {
                self.wake.notified().await;
            }
            let wait = self.until_due(self.clock.now());
            if wait.is_zero() {
                self.used.store(false, Ordering::Relaxed);
                self.fetched().await;
            } else {
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// Tells of each fetch that ends.
    #[cfg(test)]
    pub(super) fn landed(&self) -> watch::Receiver<u64> {
        self.landed.subscribe()
    }

    /// For readiness.
    pub(super) fn health(&self) -> (Option<(usize, Duration, bool)>, Option<String>) {
        let now = self.clock.now();
        let loaded = self.loaded.load();
        let keys = loaded.as_ref().map(|loaded| {
            let age = now.saturating_duration_since(loaded.fetched);
            (loaded.set.keys().len(), age, self.is_usable(loaded, now))
        });
        (keys, self.flight().last_error.as_ref().map(ToString::to_string))
    }

    fn current(&self, now: Instant) -> Option<Arc<KeySet>> {
        let loaded = self.loaded.load();
        loaded.as_ref().filter(|loaded| self.is_usable(loaded, now)).map(|loaded| Arc::clone(&loaded.set))
    }

    fn is_usable(&self, loaded: &Loaded, now: Instant) -> bool {
        now.saturating_duration_since(loaded.fetched) <= self.timing.stale
    }

    /// Notes a use, and has the set refreshed behind it when that is due.
    fn touch(self: &Arc<Self>, now: Instant) {
        self.mark_used();
        if self.until_due(now).is_zero() {
            drop(self.begin_fetch());
        }
    }

    fn mark_used(&self) {
        // A load first: the line stays shared between cores while the flag is up.
        if !self.used.load(Ordering::Relaxed) && !self.used.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// Waits for the fetch that is under way, or for one that this begins.
    async fn fetched(self: &Arc<Self>) {
        let mut landed = self.begin_fetch();
        // `self` holds the sender, and every fetch lands within its own timeout.
        let _ = landed.changed().await;
    }

    /// Begins a fetch unless one is under way (one flight for each issuer). It goes on if the request that began it is gone.
    fn begin_fetch(self: &Arc<Self>) -> watch::Receiver<u64> {
        let mut flight = self.flight();
        let landed = self.landed.subscribe();
        if !flight.under_way {
            flight.under_way = true;
            // Until it lands, nobody else needs to look.
            self.set_due(self.clock.now(), Duration::from_secs(FETCH_SECONDS));
            let landing = Landing { remote: Arc::clone(self), result: None };
            tokio::spawn(landing.fly());
        }
        landed
    }

    fn land(&self, result: Result<KeySet, KeySetError>) {
        let now = self.clock.now();
        let mut flight = self.flight();
        flight.under_way = false;
        match result {
            Ok(set) => {
                let set = Arc::new(set);
                let news =
                    self.loaded.load().as_ref().is_none_or(|loaded| loaded.set.digest() != set.digest());
                for (key, problem) in
                    set.problems.iter().filter(|(_, problem)| news && !problem.is_harmless())
                {
                    tracing::warn!(issuer = %self.issuer, key = %key, problem = %problem, "a key of issuer is not used");
                }
                let former = self.loaded.load_full().filter(|loaded| loaded.set.digest() == set.digest());
                // The same document keeps its generation, so cached verdicts outlive an uneventful refresh.
                let set = former.map_or(set, |loaded| Arc::clone(&loaded.set));
                self.loaded.store(Some(Arc::new(Loaded { set, fetched: now })));
                flight.failures = 0;
                flight.last_error = None;
                self.set_due(now, self.timing.refresh);
            }
            Err(error) => {
                tracing::warn!(issuer = %self.issuer, error = %error, "keys of issuer could not be loaded");
                let wait = self.timing.retry.saturating_mul(1 << flight.failures.min(8));
                flight.failures = flight.failures.saturating_add(1);
                flight.last_error = Some(Arc::new(error));
                self.set_due(now, wait.min(self.timing.refresh));
            }
        }
        self.landed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn set_due(&self, now: Instant, after: Duration) {
        let at = now.saturating_duration_since(self.begin).saturating_add(after);
        self.due_ms.store(u64::try_from(at.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn until_due(&self, now: Instant) -> Duration {
        let due = Duration::from_millis(self.due_ms.load(Ordering::Relaxed));
        due.saturating_sub(now.saturating_duration_since(self.begin))
    }

    fn flight(&self) -> MutexGuard<'_, Flight> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that keeps a set fresh. Once stopped, another that waits takes over.
struct Keeper<'a>(&'a Remote);

impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        if self.0.used.load(Ordering::Relaxed) {
            self.0.wake.notify_one();
        }
    }
}

/// A fetch under way. It lands whatever happens to its task, or later requests would wait for it for ever.
struct Landing {
    remote: Arc<Remote>,
    result: Option<Result<KeySet, KeySetError>>,
}

impl Landing {
    async fn fly(mut self) {
        let remote = Arc::clone(&self.remote);
        self.result = Some(remote.fetcher.key_set(&remote.issuer, &remote.at).await);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let given_up = || Err(KeySetError::Fetch("the fetch was given up".to_owned()));
        let result = self.result.take().unwrap_or_else(given_up);
        self.remote.land(result);
    }
}

/// The remote key sets of the process: revisions of a tenant, and tenants that share an issuer, share one.
#[derive(Debug)]
pub(super) struct Remotes {
    fetcher: Arc<Fetcher>,
    clock: Clock,
    timing: Timing,
    known: Mutex<HashMap<String, Weak<Remote>>>,
}

impl Remotes {
    pub(super) fn new(fetcher: Fetcher, clock: Clock, timing: Timing) -> Self {
        Self { fetcher: Arc::new(fetcher), clock, timing, known: Mutex::default() }
    }

    /// The key set of that issuer at that place.
    pub(super) fn at(&self, issuer: &Arc<str>, at: &Locator) -> Arc<Remote> {
        let name = format!("{issuer} {at:?}");
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remote) = known.get(&name).and_then(Weak::upgrade) {
            return remote;
        }
        let fetcher = Arc::clone(&self.fetcher);
        let remote =
            Arc::new(Remote::new(Arc::clone(issuer), at.clone(), fetcher, self.clock.clone(), self.timing));
        if known.len() == known.capacity() {
            known.retain(|_, remote| remote.strong_count() > 0);
        }
        known.insert(name, Arc::downgrade(&remote));
        remote
    }
}

/// How long a key id that a fetch did not bring is not fetched for again.
const ABSENT_FOR: Duration = Duration::from_secs(10 * 60);
const MAX_ABSENT: usize = 128;
