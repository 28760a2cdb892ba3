//! What benches of whole servers share: rounds in turn, CPU time of a process, the middle of figures.
//!
//! Where forms are compared they take turns, so that a machine whose speed drifts slows all; the figures to quote are ratios
//! of medians. CPU time holds where rates do not, on a machine that also does something else.

use std::time::Duration;

/// Rounds that a median is of.
pub(crate) const ROUNDS: usize = 5;

/// Runs `measure`, if this was asked to measure: `cargo test --benches` passes flags of its own.
pub(crate) fn run(measure: impl Future<Output = ()>) {
    if std::env::args().any(|argument| argument == "--bench") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(measure);
    }
}

/// CPU time of a process until now, of all its threads; counted in hundredths of a second.
pub(crate) fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("a running process");
    let (_, after_name) = stat.rsplit_once(')').expect("a name");
    // Fields 14 and 15 of proc_pid_stat(5): in user mode and in the kernel.
    let ticks =
        after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks"));
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// The middle one.
pub(crate) fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}
