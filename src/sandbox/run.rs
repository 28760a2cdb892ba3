//! One invocation: a fresh store and instance, one call, and everything dropped, whatever happened (invariant **Alone**).
//!
//! Without imports a function is pure: nothing outside its instance knows that it ran. So the call is made where the request
//! is, on the I/O thread, with a short slice and no fiber; a guest that outlives its slice is dropped and run again from
//! the start on a CPU thread with its whole budget. The function is remembered as a heavy one, and its next calls go
//! to the CPU threads at once, until a few of them were quick. A portable guest has a fiber, so it goes on from where it is.

#[cfg(feature = "portable")]
use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Poll, Waker},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use wasmtime::Store;

use super::{
    Component, LimitName, Limits, Overload, Reply, Sandbox, SandboxError, Usage,
    attempt::{Attempt, Bill, Stopped, guarded, stopped},
    compile::Loaded,
    engine::TICK_MS,
    instances::Share,
    limits::Meter,
    watch::{SLICE, Watch, thread_cpu},
    worker::Remote,
    world::{self, EventBuffer, EventInput, FunctionPre},
};
#[cfg(feature = "portable")]
use super::{attempt::panicked, portable, watch::Progress};
use crate::{event::Place, id::FunctionId};

/// Runs one function. One for each function of a revision; clones are the same runner.
#[derive(Debug, Clone)]
pub struct Runner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sandbox: Arc<Sandbox>,
    component: Arc<Component>,
    /// Where it runs instead, if its tenant is isolated.
    remote: Option<Remote>,
    limits: Limits,
    function: FunctionId,
    tenant: Arc<str>,
    /// Of the instance pool.
    share: Arc<Share>,
    in_flight: Gate,
    /// Above zero: recent calls outlived their slice.
    heavy: AtomicU32,
    /// Whether a call held its I/O thread for longer than a slice may, by the time on the wall.
    slow: AtomicBool,
}

impl Runner {
    pub(super) fn new(
        sandbox: Arc<Sandbox>,
        function: FunctionId,
        component: Arc<Component>,
        limits: Limits,
        remote: Option<Remote>,
    ) -> Self {
        Self(Arc::new(Inner {
            share: sandbox.instances.share_of(&function.tenant),
            sandbox,
            component,
            remote,
            limits,
            tenant: function.tenant.as_str().into(),
            function,
            in_flight: Gate::new(limits.concurrency.value),
            heavy: AtomicU32::new(0),
            slow: AtomicBool::new(false),
        }))
    }

    /// The limits that hold.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// The function that runs.
    pub fn function(&self) -> &FunctionId {
        &self.0.function
    }

    /// The component that runs.
    pub fn component(&self) -> &Arc<Component> {
        &self.0.component
    }

    /// Runs the function on one event, and tells what that used even if it fails. Needs a tokio runtime with its timer.
    ///
    /// If the future is dropped, a guest that is running stops at its next tick.
    ///
    /// For this stage alone: what others call is [`Self::run`], which wants evidence (INVARIANT Evidence).
    pub(super) async fn run_event(
        &self,
        event: EventInput<'_>,
        place: &Place,
        usage: &mut Usage,
    ) -> Result<Reply, SandboxError> {
        self.run_since(event, &place.authority(), Instant::now(), usage).await
    }

    /// The same for an event that has been on its way since `started`, for a place that goes by `authority`.
    pub(super) async fn run_since(
        &self,
        event: EventInput<'_>,
        authority: &str,
        started: Instant,
        usage: &mut Usage,
    ) -> Result<Reply, SandboxError> {
        let result = self.invoke(event, authority, started, usage).await;
        usage.wall = started.elapsed();
        result
    }

    async fn invoke(
        &self,
        event: EventInput<'_>,
        authority: &str,
        started: Instant,
        usage: &mut Usage,
    ) -> Result<Reply, SandboxError> {
        let inner = &self.0;
        if !inner.in_flight.enter() {
            let hit = inner.limits.hit(LimitName::Concurrency);
            usage.hits.push(hit);
            return Err(SandboxError::Overloaded(Overload::Function(hit)));
        }
        let permit = Permit(Arc::clone(inner));
        if let Some(remote) = &inner.remote {
            return remote.call(event, authority, started, &inner.limits, usage).await;
        }
        let deadline = started + inner.limits.wall.value.0;
        if inner.component.ready().is_none() {
            usage.cold = true;
            let component = Arc::clone(&inner.component);
            let loading = tokio::task::spawn_blocking(move || component.load().map(|_| ()));
            match tokio::time::timeout_at(deadline.into(), loading).await {
                Ok(loaded) => {
                    loaded.map_err(|e| SandboxError::internal(format!("loading failed: {e}")))??
                }
                // Loading goes on, and a later call finds the component loaded.
                Err(_) => return Err(self.out_of_wall(usage)),
            }
        }
        #[cfg(feature = "portable")]
        if let Some(Loaded::Portable(_)) = inner.component.ready() {
            return self.call_portable(permit, &event, authority, deadline, usage).await;
        }
        if inner.heavy.load(Ordering::Relaxed) == 0 {
            let attempt = inner.held(|| inner.attempt(event.clone(), Watch::slice(&inner.limits, deadline)));
            attempt.add_to(usage);
            match attempt.result {
                Ok(reply) => return Ok(reply),
                Err(Stopped::For(error)) => return Err(error),
                Err(Stopped::Outlived) => {
                    inner.heavy.store(HEAVY, Ordering::Relaxed);
                    usage.retried = true;
                }
            }
        }
        self.on_cpu_thread(permit, event.into(), deadline, usage).await
    }

    async fn on_cpu_thread(
        &self,
        permit: Permit,
        event: EventBuffer,
        deadline: Instant,
        usage: &mut Usage,
    ) -> Result<Reply, SandboxError> {
        let (send, receive) = oneshot::channel();
        let mut bill = Bill::open(usage);
        let progress = bill.waiting.progress();
        let inner = Arc::clone(&self.0);
        let job = move || {
            if progress.is_cancelled() {
                return;
            }
            let watch = Watch::whole(&inner.limits, deadline, progress);
            let attempt = event.with(|event| inner.attempt(event, watch));
            inner.note(&attempt);
            // The caller may call again as soon as it has its answer.
            drop(permit);
            // Nobody waits any more if the call was cancelled.
            send.send(attempt).ok();
        };
        self.0
            .sandbox
            .cpu
            .submit(&self.0.tenant, Box::new(job))
            .map_err(|_| SandboxError::Overloaded(Overload::Queue))?;
        match tokio::time::timeout_at(deadline.into(), receive).await {
            Ok(Ok(attempt)) => {
                bill.settle(&attempt);
                attempt.result.map_err(|stopped| match stopped {
                    Stopped::For(error) => error,
                    Stopped::Outlived => SandboxError::internal("a whole budget has no slice"),
                })
            }
            Ok(Err(_)) => Err(SandboxError::internal("the threads for guests are gone")),
            Err(_) => Err(self.out_of_wall(bill.usage)),
        }
    }

    /// As for narrow guests, but that only one who wants much memory is run again from the start.
    #[cfg(feature = "portable")]
    async fn call_portable(
        &self,
        permit: Permit,
        event: &EventInput<'_>,
        authority: &str,
        deadline: Instant,
        usage: &mut Usage,
    ) -> Result<Reply, SandboxError> {
        let inner = &self.0;
        let request = || portable::request(event, authority);
        let name = event.request_id;
        let heavy = inner.heavy.load(Ordering::Relaxed) != 0;
        let begin = if heavy { Begin::Apart } else { Begin::Here };
        let (attempt, permit) = self.run_portable(permit, name, request()?, begin, deadline, usage).await?;
        match attempt.result {
            Ok(reply) => return Ok(reply),
            Err(Stopped::For(error)) => return Err(error),
            Err(Stopped::Outlived) => {
                inner.heavy.store(HEAVY, Ordering::Relaxed);
                usage.retried = true;
            }
        }
        let (attempt, _permit) =
            self.run_portable(permit, name, request()?, Begin::Apart, deadline, usage).await?;
        attempt.result.map_err(|stopped| match stopped {
            Stopped::For(error) => error,
            Stopped::Outlived => SandboxError::internal("a guest on a thread for guests has no slice"),
        })
    }

    /// A portable guest may wait, so it is a future. Begun here, it is polled once, on this thread, and most are ready then; the
    /// others, who wait or compute, go on from where they are on a thread for guests.
    #[cfg(feature = "portable")]
    async fn run_portable(
        &self,
        permit: Permit,
        name: &str,
        request: portable::Request,
        begin: Begin,
        deadline: Instant,
        usage: &mut Usage,
    ) -> Result<(Attempt, Permit), SandboxError> {
        let name = name.to_owned();
        let mut bill = Bill::open(usage);
        let (inner, progress) = (Arc::clone(&self.0), bill.waiting.progress());
        let here = begin == Begin::Here;
        let mut guest = Box::pin(async move {
            (inner.attempt_portable(&name, request, here, deadline, progress).await, permit)
        });
        if here {
            // Whoever is not ready is polled again where it goes, so nobody need wake this thread for it.
            let mut cx = Context::from_waker(Waker::noop());
            let polled = catch_unwind(AssertUnwindSafe(|| guest.as_mut().poll(&mut cx)));
            if let Poll::Ready(ended) = polled.map_err(|panic| panicked(&*panic))? {
                bill.settle(&ended.0);
                return Ok(ended);
            }
        }
        let running = self.0.sandbox.guests.spawn(guest);
        let running = running.map_err(|e| SandboxError::internal(format!("no threads for guests: {e}")))?;
        match tokio::time::timeout_at(deadline.into(), running).await {
            Ok(Ok((attempt, permit))) => {
                bill.settle(&attempt);
                self.0.note(&attempt);
                Ok((attempt, permit))
            }
            Ok(Err(ended)) => Err(ended.try_into_panic().map_or_else(
                |_| SandboxError::internal("the threads for guests are gone"),
                |p| panicked(&*p),
            )),
            Err(_) => Err(self.out_of_wall(bill.usage)),
        }
    }

    fn out_of_wall(&self, usage: &mut Usage) -> SandboxError {
        let hit = self.0.limits.hit(LimitName::Wall);
        usage.hits.push(hit);
        SandboxError::WallExhausted(hit)
    }
}

impl Inner {
    /// One store, one instance, one call.
    fn attempt(&self, event: EventInput<'_>, watch: Watch) -> Attempt {
        let Some(Loaded::Narrow(pre)) = self.component.ready() else {
            return Attempt::failed(SandboxError::internal("the component is not loaded"));
        };
        let _place = match self.sandbox.instances.enter(&self.share) {
            Ok(place) => place,
            Err(overload) => return Attempt::failed(SandboxError::Overloaded(overload)),
        };
        guarded(|| self.call(pre, event, watch))
    }

    #[cfg(feature = "portable")]
    async fn attempt_portable(
        &self,
        name: &str,
        request: portable::Request,
        inline: bool,
        deadline: Instant,
        progress: Arc<Progress>,
    ) -> Attempt {
        let Some(Loaded::Portable(pre)) = self.component.ready() else {
            return Attempt::failed(SandboxError::internal("the component is not loaded"));
        };
        let _place = match self.sandbox.instances.enter(&self.share) {
            Ok(place) => place,
            Err(overload) => return Attempt::failed(SandboxError::Overloaded(overload)),
        };
        let part = self.sandbox.memory.part(&self.share);
        let means = portable::Means { inline, part, deadline, progress };
        portable::invoke(pre, name, request, &self.limits, means).await
    }

    fn call(&self, pre: &FunctionPre<State>, event: EventInput<'_>, watch: Watch) -> Attempt {
        let part = self.sandbox.memory.part(&self.share);
        let state = State { meter: Meter::new(self.limits.memory.value, watch.inline, part), watch };
        let mut store = match Store::try_new(self.component.engine(), state) {
            Ok(store) => store,
            Err(e) => return Attempt::failed(SandboxError::internal(format!("no store: {e:#}"))),
        };
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(world::lift_budget(&self.limits));
        store.set_max_component_handles(MAX_HANDLES);
        // Armed before instantiation, since start functions run.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut store| {
            let State { meter, watch } = store.data_mut();
            watch.tick(meter)
        });
        let called = pre
            .instantiate(&mut store)
            .and_then(|instance| instance.sandgate_function_handler().call_handle(&mut store, event));
        let meter = &store.data().meter;
        let result = match called {
            Ok(response) => {
                world::accept(response, &self.limits).map_err(|refused| Stopped::by(refused, &self.limits))
            }
            Err(error) => Err(stopped(&self.limits, &error, meter)),
        };
        let attempt = Attempt::ended(result, &self.limits, meter);
        let clock = store.data().watch.clock();
        // Resetting the instance's slot is part of what the call costs.
        drop(store);
        Attempt { cpu: clock.used(), ..attempt }
    }

    /// Remembers whether `attempt` held its thread for longer than a slice may.
    ///
    /// What the engine does for a guest, such as making an instance of sixty thousand types of resources, sees no tick. It may
    /// as well have been a busy machine: the next call is measured, which the usual one does without.
    fn held(&self, attempt: impl FnOnce() -> Attempt) -> Attempt {
        let (begun, cpu) = (Instant::now(), self.slow.load(Ordering::Relaxed).then(thread_cpu));
        let attempt = attempt();
        let held = cpu.map_or_else(|| begun.elapsed(), |before| thread_cpu().saturating_sub(before));
        match (cpu, held > MOST_INLINE) {
            (None, false) => {}
            (None, true) => self.slow.store(true, Ordering::Relaxed),
            (Some(_), false) => self.slow.store(false, Ordering::Relaxed),
            (Some(_), true) => self.heavy.store(HEAVY, Ordering::Relaxed),
        }
        attempt
    }

    /// Remembers whether the function still needs a thread of its own.
    fn note(&self, attempt: &Attempt) {
        let quick = attempt.result.is_ok() && attempt.cpu < SLICE / 2 && attempt.peak < QUICK_MEMORY_BYTES;
        let next = |heavy: u32| Some(if quick { heavy.saturating_sub(1) } else { HEAVY });
        // Infallible: the closure always has a next value.
        self.heavy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok();
    }
}

/// The host's side of one store.
pub(super) struct State {
    meter: Meter,
    watch: Watch,
}

/// Counts what is in flight.
#[derive(Debug)]
struct Gate {
    limit: u32,
    inside: AtomicU32,
}

impl Gate {
    fn new(limit: u32) -> Self {
        Self { limit, inside: AtomicU32::new(0) }
    }

    fn enter(&self) -> bool {
        let inside = self.inside.fetch_add(1, Ordering::Relaxed);
        if inside >= self.limit {
            self.leave();
            return false;
        }
        true
    }

    fn leave(&self) {
        self.inside.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a portable guest begins.
#[cfg(feature = "portable")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// On the thread that its request is on.
    Here,
    /// On a thread for guests.
    Apart,
}

/// A place among the invocations of a function; held by whichever thread still runs it.
struct Permit(Arc<Inner>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.leave();
    }
}

/// Quick calls in a row after which a heavy function is tried on an I/O thread again: each wrong guess costs a slice.
const HEAVY: u32 = 16;

/// How long a slice holds its thread at most, if it is the guest that does.
const MOST_INLINE: Duration = Duration::from_millis(3 * TICK_MS);

/// A function that needs more than this is kept off I/O threads.
const QUICK_MEMORY_BYTES: u64 = 8 << 20;

/// Resource handles of one store: the narrow world has none of its own.
const MAX_HANDLES: usize = 256;
