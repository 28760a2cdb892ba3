//! One try at running a guest: what it came to, what it is charged for, and what an error of the engine means.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use wasmtime::{PoolConcurrencyLimitError, Trap};

use super::{
    Breach, LimitHit, LimitName, Limits, Overload, Reply, SandboxError, Usage,
    admission::printable,
    limits::{Meter, TooLargeInline},
    watch::{Stop, Waiting},
    world::Refused,
};

/// What one try came to.
pub(super) struct Attempt {
    pub(super) result: Result<Reply, Stopped>,
    pub(super) hits: Vec<LimitHit>,
    pub(super) peak: u64,
    pub(super) cpu: Duration,
    pub(super) dropped: u64,
}

impl Attempt {
    /// A try that ended with `result`, of which `meter` counted the memory. What it used beside that is its caller's to add.
    pub(super) fn ended(result: Result<Reply, Stopped>, limits: &Limits, meter: &Meter) -> Self {
        let mut hits: Vec<LimitHit> = meter.met().map(|name| limits.hit(name)).collect();
        if let Err(Stopped::For(
            SandboxError::CpuExhausted(hit)
            | SandboxError::WallExhausted(hit)
            | SandboxError::ResponseTooLarge(hit),
        )) = &result
        {
            hits.push(*hit);
        }
        Self { result, hits, peak: meter.peak() as u64, cpu: Duration::ZERO, dropped: 0 }
    }

    pub(super) fn failed(error: SandboxError) -> Self {
        Self { result: Err(error.into()), hits: Vec::new(), peak: 0, cpu: Duration::ZERO, dropped: 0 }
    }

    pub(super) fn add_to(&self, usage: &mut Usage) {
        usage.cpu += self.cpu;
        usage.peak_memory = usage.peak_memory.max(self.peak);
        usage.dropped += self.dropped;
        for hit in &self.hits {
            if !usage.hits.contains(hit) {
                usage.hits.push(*hit);
            }
        }
    }
}

/// What a guest on another thread is charged with. Whoever waits for it may go at any moment, its time over or its connection
/// closed: then it is charged with what it had used at its last tick, so that nobody computes for nothing by leaving early.
pub(super) struct Bill<'a> {
    pub(super) waiting: Waiting,
    pub(super) usage: &'a mut Usage,
    settled: bool,
}

impl<'a> Bill<'a> {
    pub(super) fn open(usage: &'a mut Usage) -> Self {
        Self { waiting: Waiting::default(), usage, settled: false }
    }

    /// The guest has ended by itself, and tells exactly what it used.
    pub(super) fn settle(&mut self, attempt: &Attempt) {
        attempt.add_to(self.usage);
        self.settled = true;
    }
}

impl Drop for Bill<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.usage.cpu += self.waiting.cpu();
            self.usage.peak_memory = self.usage.peak_memory.max(self.waiting.peak_memory());
        }
    }
}

/// What an error of the engine means.
pub(super) fn stopped(limits: &Limits, error: &wasmtime::Error, meter: &Meter) -> Stopped {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return match stop {
            Stop::Slice => Stopped::Outlived,
            Stop::Cpu => SandboxError::CpuExhausted(limits.hit(LimitName::Cpu)).into(),
            Stop::Wall => SandboxError::WallExhausted(limits.hit(LimitName::Wall)).into(),
        };
    }
    if error.is::<TooLargeInline>() {
        return Stopped::Outlived;
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return SandboxError::Overloaded(Overload::Instances).into();
    }
    // A guest that is refused memory gives up in its own way: often by `unreachable`.
    if let Some(name) = meter.met().next() {
        return SandboxError::OutOfMemory(limits.hit(name)).into();
    }
    if meter.is_crowded() {
        return SandboxError::Overloaded(Overload::Memory).into();
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return SandboxError::Trapped { reason: trap.to_string() }.into();
    }
    let reason = format!("{error:#}");
    // The engine has no type for this one; a test meets it, so a changed text does not pass unnoticed.
    if reason.contains(OUT_OF_LIFT_BUDGET) {
        return SandboxError::ResponseTooLarge(limits.hit(LimitName::Response)).into();
    }
    SandboxError::ContractBroken(Breach::Value(printable(&reason))).into()
}

/// Why a try ended without a reply.
pub(super) enum Stopped {
    /// For good.
    For(SandboxError),
    /// It outlived its slice, and nobody saw it run.
    Outlived,
}

impl Stopped {
    /// By what a guest answered.
    pub(super) fn by(refused: Refused, limits: &Limits) -> Self {
        match refused {
            Refused::Breach(breach) => SandboxError::ContractBroken(breach).into(),
            Refused::TooLarge => SandboxError::ResponseTooLarge(limits.hit(LimitName::Response)).into(),
        }
    }
}

impl From<SandboxError> for Stopped {
    fn from(error: SandboxError) -> Self {
        Self::For(error)
    }
}

/// A panic of the engine unwinds through the store, which drops the instance; nothing else was shared with it.
pub(super) fn guarded(call: impl FnOnce() -> Attempt) -> Attempt {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Attempt::failed(panicked(&*panic)))
}

pub(super) fn panicked(panic: &(dyn Any + Send)) -> SandboxError {
    let told = panic.downcast_ref::<&str>().copied();
    let told = told.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    SandboxError::internal(format!("panic: {}", printable(told.unwrap_or("without a message"))))
}

pub(super) const OUT_OF_LIFT_BUDGET: &str = "fuel allocated for hostcalls has been exhausted";

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
