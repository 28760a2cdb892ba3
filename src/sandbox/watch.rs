//! Who holds a guest to its time: asked at each tick, it lets the guest go on or stops it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use wasmtime::UpdateDeadline;

use super::{Limits, engine::TICK_MS, limits::Meter};

/// Decides at each tick whether the guest goes on. Made on the thread that runs the guest, just before it.
#[derive(Debug)]
pub(super) struct Watch {
    clock: CpuClock,
    cpu: Duration,
    deadline: Instant,
    pub(super) inline: bool,
    progress: Option<Arc<Progress>>,
}

/// Why the watch stops a guest.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(super) enum Stop {
    /// It has been on the I/O thread for long enough.
    #[error("the slice is over")]
    Slice,
    /// Its `cpu` limit.
    #[error("out of CPU time")]
    Cpu,
    /// Its `wall` limit, or nobody waits for it.
    #[error("out of time")]
    Wall,
}

impl Watch {
    /// For a try on an I/O thread.
    pub(super) fn slice(limits: &Limits, deadline: Instant) -> Self {
        let cpu = limits.cpu.value.0;
        Self { clock: CpuClock::inline(cpu), cpu, deadline, inline: true, progress: None }
    }

    /// For a try with the whole budget.
    pub(super) fn whole(limits: &Limits, deadline: Instant, progress: Arc<Progress>) -> Self {
        let progress = Some(progress);
        Self { clock: CpuClock::exact(), cpu: limits.cpu.value.0, deadline, inline: false, progress }
    }

    pub(super) fn clock(&self) -> CpuClock {
        self.clock
    }

    pub(super) fn tick(&mut self, meter: &Meter) -> wasmtime::Result<UpdateDeadline> {
        let estimated = self.clock.is_estimated();
        let used = self.clock.tick();
        let mut cancelled = false;
        if let Some(progress) = &self.progress {
            progress.note(used, meter);
            cancelled = progress.is_cancelled();
        }
        if cancelled || Instant::now() >= self.deadline {
            Err(Stop::Wall.into())
        } else if estimated {
            // Perhaps the thread was not running for most of it: no guest is stopped on an estimate.
            Ok(UpdateDeadline::Continue(1))
        } else if used >= self.cpu {
            Err(Stop::Cpu.into())
        } else if self.inline && used >= SLICE {
            Err(Stop::Slice.into())
        } else {
            Ok(UpdateDeadline::Continue(1))
        }
    }
}

/// CPU time of this thread since some moment.
///
/// The kernel takes 0.5 µs to tell a thread's CPU time, and the call itself takes 10, so most calls do without: until the
/// first tick the clock is an estimate, the time on the wall. That is never too little, and at most a tick too much, since
/// a guest that is running when the tick comes sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuClock {
    began: Instant,
    read: Option<Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Used before the reading.
    before: Duration,
    /// The thread's CPU time at the reading.
    cpu: Duration,
}

impl CpuClock {
    /// For a try on an I/O thread, of a guest that may use so much.
    pub(super) fn inline(cpu: Duration) -> Self {
        if cpu < ESTIMATED { Self::exact() } else { Self::estimated() }
    }

    fn estimated() -> Self {
        Self { began: Instant::now(), read: None }
    }

    pub(super) fn exact() -> Self {
        let read = Some(Reading { before: Duration::ZERO, cpu: thread_cpu() });
        Self { began: Instant::now(), read }
    }

    pub(super) fn is_estimated(&self) -> bool {
        self.read.is_none()
    }

    /// What was used so far; from now on the clock is exact.
    pub(super) fn tick(&mut self) -> Duration {
        let used = self.used();
        if self.read.is_none() {
            self.read = Some(Reading { before: used, cpu: thread_cpu() });
        }
        used
    }

    /// What was used so far.
    pub(super) fn used(&self) -> Duration {
        match self.read {
            Some(Reading { before, cpu }) => before + thread_cpu().saturating_sub(cpu),
            None => self.began.elapsed().min(TICK),
        }
    }
}

/// What the waiting side may know of a guest that still runs, and how it stops it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    cancelled: AtomicBool,
    cpu_ns: AtomicU64,
    peak: AtomicU64,
}

impl Progress {
    /// What a guest used until now.
    pub(super) fn note(&self, cpu: Duration, meter: &Meter) {
        self.cpu_ns.store(u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.peak.store(meter.peak() as u64, Ordering::Relaxed);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Held by whoever waits for a guest: once it is dropped, the guest stops at its next tick.
#[derive(Debug, Default)]
pub(super) struct Waiting(Arc<Progress>);

impl Waiting {
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.0)
    }

    /// CPU time at the guest's last tick.
    pub(super) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.0.cpu_ns.load(Ordering::Relaxed))
    }

    /// Peak memory at the guest's last tick.
    pub(super) fn peak_memory(&self) -> u64 {
        self.0.peak.load(Ordering::Relaxed)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}

/// CPU time of the thread that asks.
fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    // The kernel's CPU clocks begin at zero, so neither part is negative.
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

const TICK: Duration = Duration::from_millis(TICK_MS);

/// CPU time that a guest may spend on an I/O thread. It is compared from the second tick on, so the thread is held for two
/// ticks at most, 4 ms: within the 5 ms that the contract gives a tick.
pub(super) const SLICE: Duration = Duration::from_millis(TICK_MS / 2);

/// CPU limits from which on an estimate until the first tick cannot matter.
const ESTIMATED: Duration = Duration::from_millis(3 * TICK_MS);

#[cfg(test)]
mod tests {
    use super::{super::memory::Part, *};
    use crate::site::units::{Bytes, Span};

    fn watch(cpu_ms: u64, deadline: Instant) -> Watch {
        let mut limits = Limits::default();
        limits.cpu.value = Span(Duration::from_millis(cpu_ms));
        Watch::slice(&limits, deadline)
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    fn stopped(watch: &mut Watch) -> Option<Stop> {
        let told = watch.tick(&Meter::new(Bytes(0), false, Part::default()));
        told.err().and_then(|error| error.downcast_ref::<Stop>().copied())
    }

    fn burn(cpu: Duration) {
        let start = thread_cpu();
        while thread_cpu() - start < cpu {}
    }

    #[test]
    fn f20_nobody_is_stopped_on_an_estimate() {
        let mut watch = watch(50, far());
        watch.clock.began -= Duration::from_secs(1);
        assert_eq!(watch.clock.used(), TICK);
        assert!(stopped(&mut watch).is_none() && !watch.clock.is_estimated());
        burn(SLICE);
        assert!(matches!(stopped(&mut watch), Some(Stop::Slice)));
    }

    #[test]
    fn f20_a_small_budget_is_measured_from_the_start() {
        let mut watch = watch(1, far());
        burn(Duration::from_millis(1));
        assert!(matches!(stopped(&mut watch), Some(Stop::Cpu)));
    }

    #[test]
    fn f20_the_deadline_holds_from_the_first_tick() {
        assert!(matches!(stopped(&mut watch(50, Instant::now())), Some(Stop::Wall)));
    }

    #[test]
    fn f20_who_stops_waiting_stops_the_guest() {
        let waiting = Waiting::default();
        let mut watch = Watch::whole(&Limits::default(), far(), waiting.progress());
        assert!(stopped(&mut watch).is_none());
        assert!(waiting.cpu() < Duration::from_secs(1));
        drop(waiting);
        assert!(matches!(stopped(&mut watch), Some(Stop::Wall)));
    }
}
