//! What the engine can do at all, for `sandgate doctor`: stated where it is set, so that it is not told from memory.

use std::{
    iter,
    process::{Command, Stdio},
};

use serde::Serialize;
use wasmtime::WasmFeatures;

use super::{
    PoolLimits,
    engine::{PROPOSALS, VERSION},
    portable,
    process::{self, CompilerCommand, MAX_PROCESSES, ProcessError, confine::Probe},
    worker,
    world::HANDLER,
};

/// Facts about this build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Posture {
    /// Version of wasmtime.
    pub engine: &'static str,
    /// What of it was left out of the build.
    pub compiled_out: &'static [&'static str],
    /// Proposals of WebAssembly that a component may use.
    pub proposals: Vec<String>,
    /// All others that this engine knows: off, at build time or by its settings.
    pub proposals_off: Vec<String>,
    /// Exports that make a component one that can be served.
    pub worlds: Vec<&'static str>,
    /// Compile processes at once.
    pub compile_processes: u32,
}

/// Of this build.
pub fn posture() -> Posture {
    Posture {
        engine: VERSION,
        compiled_out: COMPILED_OUT,
        proposals: names(PROPOSALS),
        proposals_off: names(WasmFeatures::all().difference(PROPOSALS)),
        worlds: iter::once(HANDLER).chain(portable::BUILT.then_some(portable::TOLD)).collect(),
        compile_processes: MAX_PROCESSES,
    }
}

fn names(features: WasmFeatures) -> Vec<String> {
    features.iter_names().map(|(name, _)| name.to_ascii_lowercase().replace('_', "-")).collect()
}

/// Starts a compile process that tries what it can reach.
pub fn probe(program: &CompilerCommand) -> Result<Probe, ProcessError> {
    probed(program, process::COMMAND)
}

/// Starts a worker process that does.
pub fn probe_worker_process(program: &CompilerCommand) -> Result<Probe, ProcessError> {
    probed(program, worker::COMMAND)
}

fn probed(program: &CompilerCommand, command: &str) -> Result<Probe, ProcessError> {
    let output = Command::new(program.program())
        .args([command, "--probe", "\"all\""])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .output()?;
    let told = serde_json::from_slice(&output.stdout);
    told.map_err(|_| ProcessError::NoAnswer(output.status.to_string()))
}

impl PoolLimits {
    /// Mappings that the kernel must allow this process (`vm.max_map_count`) when every slot of the pool is in use and `components`
    /// are loaded. A memory in use is its image, what it grew by, and its guard; a component's code is four sections.
    pub fn mappings(&self, components: u64) -> u64 {
        let memories = u64::from(self.instances) * u64::from(self.memories_per_component);
        memories * 3 + components * 4 + OTHER_MAPPINGS
    }
}

/// Features of wasmtime that this build is without, of those that its advisories were about. `async` comes and goes with
/// the feature `portable`.
const COMPILED_OUT: &[&str] = &[
    "cache",
    "component-model-async",
    "coredump",
    "debug",
    "gc",
    "profiling",
    "stack-switching",
    "threads",
    "wat",
    "winch",
];

/// Libraries, threads, allocator: some hundreds.
const OTHER_MAPPINGS: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f04_what_is_told_as_compiled_out_is() {
        let manifest: toml::Table = toml::from_str(include_str!("../../Cargo.toml")).unwrap();
        let features = manifest["dependencies"]["wasmtime"]["features"].as_array().unwrap();
        assert!(features.iter().all(|feature| !COMPILED_OUT.contains(&feature.as_str().unwrap())));
        let checked = include_str!("../../.ci/dependencies");
        let off = checked.lines().find(|line| line.contains("\"wasmtime\": {")).unwrap();
        for feature in COMPILED_OUT {
            assert!(off.contains(&format!("\"{feature}\"")), "the graph is not checked for `{feature}`");
        }
    }
}
