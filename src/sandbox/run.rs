//! One invocation: a fresh store and instance, one call, and everything dropped, whatever happened (invariant **Alone**).
//!
//! Without imports a function is pure: nothing outside its instance knows that it ran. So the call is made where the request
//! is, on the I/O thread, with a short slice and no fiber; a guest that outlives its slice is dropped and run again from
//! the start on a CPU thread with its whole budget. The function is remembered as a heavy one, and its next calls go
//! to the CPU threads at once, until a few of them were quick.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};

use super::{
    AdmissionError, Breach, Component, LimitHit, LimitName, Limits, Reply, Sandbox,
    compile::{Loaded, printable},
    engine::TICK_MS,
    limits::{Meter, TooLargeInline},
    world::{self, EventBuffer, EventInput, Refused},
};

/// Runs one function. One for each function of a revision; clones are the same runner.
#[derive(Debug, Clone)]
pub struct Runner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sandbox: Arc<Sandbox>,
    component: Arc<Component>,
    limits: Limits,
    tenant: Arc<str>,
    in_flight: Gate,
    /// Above zero: recent calls outlived their slice.
    heavy: AtomicU32,
}

/// What an invocation used, whether it succeeded or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Thread CPU time, that of an abandoned slice included.
    pub cpu: Duration,
    /// From call to answer.
    pub wall: Duration,
    /// Most memory at once: all memories and tables, in bytes.
    pub peak_memory: u64,
    /// The component had to be loaded first.
    pub cold: bool,
    /// The call outlived its slice and was run again on a CPU thread.
    pub retried: bool,
    /// Limits that were met, in order; a guest may meet its memory limit and still answer.
    pub hits: Vec<LimitHit>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The guest did what Wasm forbids, or gave up.
    #[error("the function trapped: {reason}")]
    Trapped {
        /// The engine's name for it.
        reason: String,
    },
    /// The guest could not go on within its memory.
    #[error("the function failed after it met its {0}")]
    OutOfMemory(LimitHit),
    /// Out of CPU time.
    #[error("the function met its {0}")]
    CpuExhausted(LimitHit),
    /// Out of time on the wall.
    #[error("the function met its {0}")]
    WallExhausted(LimitHit),
    /// More answer than allowed.
    #[error("the function's answer exceeded its {0}")]
    ResponseTooLarge(LimitHit),
    /// An answer that the contract does not know.
    #[error("the function broke its contract: {0}")]
    ContractBroken(#[from] Breach),
    /// An answer that the manifest does not allow.
    #[error("the function broke its contract")]
    ReplyRefused(#[from] crate::event::ReplyError),
    /// No room now.
    #[error("no room for another invocation: {0}")]
    Overloaded(Overload),
    /// The component could not be loaded.
    #[error("the function's component could not be loaded")]
    Admission(#[from] AdmissionError),
    /// Our bug.
    #[error("internal fault in the sandbox: {message}")]
    Internal {
        /// What is known.
        message: String,
    },
}

/// Where there was no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Overload {
    /// Too many invocations of this function in flight.
    #[error("{0}")]
    Function(LimitHit),
    /// The queue for CPU threads is full, or this tenant's share of it.
    #[error("the queue for threads is full")]
    Queue,
    /// Every slot of the instance pool is taken.
    #[error("every instance is in use")]
    Instances,
}

impl SandboxError {
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::Internal { message: message.into() }
    }
}

impl Runner {
    pub(super) fn new(
        sandbox: Arc<Sandbox>,
        tenant: &str,
        component: Arc<Component>,
        limits: Limits,
    ) -> Self {
        Self(Arc::new(Inner {
            sandbox,
            component,
            limits,
            tenant: tenant.into(),
            in_flight: Gate::new(limits.concurrency.value),
            heavy: AtomicU32::new(0),
        }))
    }

    /// The limits that hold.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// The component that runs.
    pub fn component(&self) -> &Arc<Component> {
        &self.0.component
    }

    /// Runs the function on one event, and tells what that used even if it fails. Needs a tokio runtime with its timer.
    ///
    /// If the future is dropped, a guest that is running stops at its next tick.
    pub async fn run_event(&self, event: EventInput<'_>, usage: &mut Usage) -> Result<Reply, SandboxError> {
        let started = Instant::now();
        let result = self.invoke(event, started, usage).await;
        usage.wall = started.elapsed();
        result
    }

    async fn invoke(
        &self,
        event: EventInput<'_>,
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
        if inner.component.ready().is_none() {
            usage.cold = true;
            let component = Arc::clone(&inner.component);
            let loading = tokio::task::spawn_blocking(move || component.load().map(|_| ()));
            loading.await.map_err(|e| SandboxError::internal(format!("loading failed: {e}")))??;
        }
        let deadline = started + inner.limits.wall.value.0;
        if inner.heavy.load(Ordering::Relaxed) == 0 {
            let attempt = inner.attempt(event.clone(), Watch::slice(&inner.limits, deadline));
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
        let progress = Arc::new(Progress::default());
        let watch = Watch::whole(&self.0.limits, deadline, Arc::clone(&progress));
        let inner = Arc::clone(&self.0);
        let job = move || {
            if watch.progress.as_ref().is_some_and(|progress| progress.cancelled.load(Ordering::Relaxed)) {
                return;
            }
            let attempt = event.with(|event| inner.attempt(event, watch));
            inner.note(&attempt);
            // The caller may call again as soon as it has its answer.
            drop(permit);
            // Nobody waits any more if the call was cancelled.
            send.send(attempt).ok();
        };
        let _cancel = CancelOnDrop(Arc::clone(&progress));
        self.0
            .sandbox
            .cpu
            .submit(&self.0.tenant, Box::new(job))
            .map_err(|_| SandboxError::Overloaded(Overload::Queue))?;
        match tokio::time::timeout_at(deadline.into(), receive).await {
            Ok(Ok(attempt)) => {
                attempt.add_to(usage);
                attempt.result.map_err(|stopped| match stopped {
                    Stopped::For(error) => error,
                    Stopped::Outlived => SandboxError::internal("a whole budget has no slice"),
                })
            }
            Ok(Err(_)) => Err(SandboxError::internal("the threads for guests are gone")),
            Err(_) => {
                usage.cpu += Duration::from_nanos(progress.cpu_ns.load(Ordering::Relaxed));
                usage.peak_memory = usage.peak_memory.max(progress.peak.load(Ordering::Relaxed));
                let hit = self.0.limits.hit(LimitName::Wall);
                usage.hits.push(hit);
                Err(SandboxError::WallExhausted(hit))
            }
        }
    }
}

impl Inner {
    /// One store, one instance, one call.
    fn attempt(&self, event: EventInput<'_>, mut watch: Watch) -> Attempt {
        let started = thread_cpu();
        watch.started = started;
        let Some(loaded) = self.component.ready() else {
            return Attempt::failed(SandboxError::internal("the component is not loaded"));
        };
        if !self.sandbox.instances.enter() {
            return Attempt::failed(SandboxError::Overloaded(Overload::Instances));
        }
        let _slot = Slot(&self.sandbox.instances);
        let mut attempt = guarded(|| self.call(loaded, event, watch));
        attempt.cpu = thread_cpu().saturating_sub(started);
        attempt
    }

    fn call(&self, loaded: &Loaded, event: EventInput<'_>, watch: Watch) -> Attempt {
        let state = State { meter: Meter::new(self.limits.memory.value, watch.inline), watch };
        let mut store = match Store::try_new(self.component.engine(), state) {
            Ok(store) => store,
            Err(e) => return Attempt::failed(SandboxError::internal(format!("no store: {e:#}"))),
        };
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(world::lift_budget(&self.limits));
        store.set_max_component_handles(MAX_HANDLES);
        // Armed before instantiation, since start functions run.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|store| store.data().watch.tick(&store.data().meter));
        let called = loaded
            .pre
            .instantiate(&mut store)
            .and_then(|instance| instance.sandgate_function_handler().call_handle(&mut store, event));
        let meter = &store.data().meter;
        let result = match called {
            Ok(response) => world::accept(response, &self.limits).map_err(|refused| match refused {
                Refused::Breach(breach) => SandboxError::ContractBroken(breach).into(),
                Refused::TooLarge => {
                    SandboxError::ResponseTooLarge(self.limits.hit(LimitName::Response)).into()
                }
            }),
            Err(error) => Err(self.stopped(&error, meter)),
        };
        let mut hits = Vec::new();
        if meter.refused() {
            hits.push(self.limits.hit(LimitName::Memory));
        }
        if let Err(Stopped::For(
            SandboxError::CpuExhausted(hit)
            | SandboxError::WallExhausted(hit)
            | SandboxError::ResponseTooLarge(hit),
        )) = &result
        {
            hits.push(*hit);
        }
        Attempt { result, hits, peak: meter.peak() as u64, cpu: Duration::ZERO }
    }

    /// What an error of the engine means.
    fn stopped(&self, error: &wasmtime::Error, meter: &Meter) -> Stopped {
        if let Some(stop) = error.downcast_ref::<Stop>() {
            return match stop {
                Stop::Slice => Stopped::Outlived,
                Stop::Cpu => SandboxError::CpuExhausted(self.limits.hit(LimitName::Cpu)).into(),
                Stop::Wall => SandboxError::WallExhausted(self.limits.hit(LimitName::Wall)).into(),
            };
        }
        if error.is::<TooLargeInline>() {
            return Stopped::Outlived;
        }
        if error.is::<PoolConcurrencyLimitError>() {
            return SandboxError::Overloaded(Overload::Instances).into();
        }
        // A guest that is refused memory gives up in its own way: often by `unreachable`.
        if meter.refused() {
            return SandboxError::OutOfMemory(self.limits.hit(LimitName::Memory)).into();
        }
        if let Some(trap) = error.downcast_ref::<Trap>() {
            return SandboxError::Trapped { reason: trap.to_string() }.into();
        }
        let reason = format!("{error:#}");
        // The engine has no type for this one; a test meets it, so a changed text does not pass unnoticed.
        if reason.contains(OUT_OF_LIFT_BUDGET) {
            return SandboxError::ResponseTooLarge(self.limits.hit(LimitName::Response)).into();
        }
        SandboxError::ContractBroken(Breach::Value(printable(&reason))).into()
    }

    /// Remembers whether the function still needs a thread of its own.
    fn note(&self, attempt: &Attempt) {
        let quick = attempt.result.is_ok() && attempt.cpu < SLICE / 2 && attempt.peak < QUICK_MEMORY_BYTES;
        let next = |heavy: u32| Some(if quick { heavy.saturating_sub(1) } else { HEAVY });
        // Infallible: the closure always has a next value.
        self.heavy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok();
    }
}

/// What one try came to.
struct Attempt {
    result: Result<Reply, Stopped>,
    hits: Vec<LimitHit>,
    peak: u64,
    cpu: Duration,
}

impl Attempt {
    fn failed(error: SandboxError) -> Self {
        Self { result: Err(error.into()), hits: Vec::new(), peak: 0, cpu: Duration::ZERO }
    }

    fn add_to(&self, usage: &mut Usage) {
        usage.cpu += self.cpu;
        usage.peak_memory = usage.peak_memory.max(self.peak);
        for hit in &self.hits {
            if !usage.hits.contains(hit) {
                usage.hits.push(*hit);
            }
        }
    }
}

/// Why a try ended without a reply.
enum Stopped {
    /// For good.
    For(SandboxError),
    /// It outlived its slice, and nobody saw it run.
    Outlived,
}

impl From<SandboxError> for Stopped {
    fn from(error: SandboxError) -> Self {
        Self::For(error)
    }
}

/// The host's side of one store.
pub(super) struct State {
    meter: Meter,
    watch: Watch,
}

/// Decides at each tick whether the guest goes on.
struct Watch {
    /// CPU time of the thread that runs it when the try began.
    started: Duration,
    cpu: Duration,
    deadline: Instant,
    inline: bool,
    progress: Option<Arc<Progress>>,
}

/// What the waiting side may know of a guest that still runs, and how it stops it.
#[derive(Default)]
struct Progress {
    cancelled: AtomicBool,
    cpu_ns: AtomicU64,
    peak: AtomicU64,
}

/// Why the watch stops a guest.
#[derive(Debug, Clone, Copy, thiserror::Error)]
enum Stop {
    #[error("the slice is over")]
    Slice,
    #[error("out of CPU time")]
    Cpu,
    #[error("out of time")]
    Wall,
}

impl Watch {
    fn slice(limits: &Limits, deadline: Instant) -> Self {
        Self { started: Duration::ZERO, cpu: limits.cpu.value.0, deadline, inline: true, progress: None }
    }

    fn whole(limits: &Limits, deadline: Instant, progress: Arc<Progress>) -> Self {
        let progress = Some(progress);
        Self { started: Duration::ZERO, cpu: limits.cpu.value.0, deadline, inline: false, progress }
    }

    fn tick(&self, meter: &Meter) -> wasmtime::Result<UpdateDeadline> {
        let used = thread_cpu().saturating_sub(self.started);
        let mut cancelled = false;
        if let Some(progress) = &self.progress {
            progress.cpu_ns.store(u64::try_from(used.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
            progress.peak.store(meter.peak() as u64, Ordering::Relaxed);
            cancelled = progress.cancelled.load(Ordering::Relaxed);
        }
        if used >= self.cpu {
            Err(Stop::Cpu.into())
        } else if cancelled || Instant::now() >= self.deadline {
            Err(Stop::Wall.into())
        } else if self.inline && used >= SLICE {
            Err(Stop::Slice.into())
        } else {
            Ok(UpdateDeadline::Continue(1))
        }
    }
}

/// Counts what is in flight.
#[derive(Debug)]
pub(super) struct Gate {
    limit: u32,
    inside: AtomicU32,
}

impl Gate {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, inside: AtomicU32::new(0) }
    }

    pub(super) fn enter(&self) -> bool {
        let inside = self.inside.fetch_add(1, Ordering::Relaxed);
        if inside >= self.limit {
            self.leave();
            return false;
        }
        true
    }

    pub(super) fn leave(&self) {
        self.inside.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place among the invocations of a function; held by whichever thread still runs it.
struct Permit(Arc<Inner>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.leave();
    }
}

/// A place in the instance pool.
struct Slot<'a>(&'a Gate);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Stops a guest that nobody waits for.
struct CancelOnDrop(Arc<Progress>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}

fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    // The kernel's CPU clocks begin at zero, so neither part is negative.
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// A panic of the engine unwinds through the store, which drops the instance; nothing else was shared with it.
fn guarded(call: impl FnOnce() -> Attempt) -> Attempt {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Attempt::failed(panicked(&*panic)))
}

fn panicked(panic: &(dyn Any + Send)) -> SandboxError {
    let told = panic.downcast_ref::<&str>().copied();
    let told = told.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    SandboxError::internal(format!("panic: {}", printable(told.unwrap_or("without a message"))))
}

/// CPU time that a guest may spend on an I/O thread. The tick that notices comes up to one tick later, so the thread is held
/// for 3 ms at most, within the 5 ms that the contract gives a tick.
const SLICE: Duration = Duration::from_millis(TICK_MS / 2);

/// Quick calls in a row after which a heavy function is tried on an I/O thread again: each wrong guess costs a slice.
const HEAVY: u32 = 16;

/// A function that needs more than this is kept off I/O threads.
const QUICK_MEMORY_BYTES: u64 = 8 << 20;

/// Resource handles of one store: the narrow world has none of its own.
const MAX_HANDLES: usize = 256;

const OUT_OF_LIFT_BUDGET: &str = "fuel allocated for hostcalls has been exhausted";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f29_a_panic_is_caught_and_told_without_what_a_terminal_obeys() {
        let told = |attempt: Attempt| match attempt.result {
            Err(Stopped::For(error)) => error.to_string(),
            _ => String::new(),
        };
        let fixed = told(guarded(|| panic!("fixed")));
        assert_eq!(fixed, "internal fault in the sandbox: panic: fixed");
        let n = 3;
        let formatted = told(guarded(|| panic!("{n}\u{1b}[2J")));
        assert_eq!(formatted, "internal fault in the sandbox: panic: 3\\u{1b}[2J");
        let other = told(guarded(|| std::panic::panic_any(3)));
        assert_eq!(other, "internal fault in the sandbox: panic: without a message");
    }
}
