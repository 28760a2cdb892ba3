//! The sample site, served in this process, and the CPU time that this process spends on it.

use std::{path::Path, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use sandgate::{
    http::health::Mode,
    server::{Options, Running, start},
};

/// Runs `measure`, if this was asked to measure: `cargo test --benches` passes flags of its own.
pub(crate) fn run(measure: impl Future<Output = ()>) {
    if std::env::args().any(|argument| argument == "--bench") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(measure);
    }
}

/// A gateway on a copy of the sample site.
pub(crate) struct Gate {
    /// What serves.
    pub(crate) running: Running,
    /// Where the copy is.
    pub(crate) site: tempfile::TempDir,
}

impl Gate {
    /// Starts one, with what `set` changes.
    pub(crate) async fn start(set: impl FnOnce(Options) -> Options) -> Self {
        let site = tempfile::tempdir().expect("a folder");
        for folder in ["policies", "functions"] {
            copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &site.path().join(folder));
        }
        sandgate::sandbox::CompilerCommand::set_default(env!("CARGO_BIN_EXE_sandgate"));
        let options = set(Options { mode: Mode::Development, ..Options::local(site.path()) });
        Self { running: start(options).await.expect("the sample starts"), site }
    }
}

/// CPU time of this process until now.
pub(crate) fn cpu() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec.cast_unsigned(), u32::try_from(spent.tv_nsec).expect("below a second"))
}

/// The middle one.
pub(crate) fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder of the sample") {
        let entry = entry.expect("an entry");
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a file");
        }
    }
}
