//! The inside of a compile process: one component in, one answer out.

use std::io::{self, Read, Write};

use super::{
    CompileLimits, confine,
    wire::{self, Job, Refusal},
};
use crate::sandbox::{
    admission::printable,
    engine,
    layout::{self, Layout},
};

/// The whole of `sandgate compile-component JOB`.
///
/// Everything that it will need of the machine is made before it confines itself, and it confines itself before it reads the
/// first byte of the component.
pub fn compile_component(job: &str, input: &mut dyn Read, output: &mut dyn Write) -> io::Result<()> {
    let job: Job = serde_json::from_str(job)?;
    let maker = Maker::new(&job)?;
    confine::limit(&job.limits)?;
    // Where the kernel offers less, less is in force: `doctor` tells.
    confine::confine();
    let mut component = Vec::new();
    input.read_to_end(&mut component)?;
    wire::write(maker.make(&component, &job), output)
}

/// The whole of `sandgate compile-component --probe`: confines itself, and tells as JSON what it could do all the same.
pub fn probe_confinement(walls: confine::Walls, output: &mut dyn Write) -> io::Result<()> {
    let probe = confine::probe(walls, &CompileLimits::default())?;
    Ok(serde_json::to_writer(output, &probe)?)
}

/// The same in this process.
#[cfg(test)]
pub(in crate::sandbox) fn compile(component: &[u8], job: &Job) -> Result<(Layout, Vec<u8>), Refusal> {
    match Maker::new(job) {
        Ok(maker) => maker.make(component, job),
        Err(error) => Err(Refusal::Invalid { reason: error.to_string() }),
    }
}

/// The only holder of a compiler.
struct Maker(wasmtime::Engine);

impl Maker {
    fn new(job: &Job) -> io::Result<Self> {
        let engine = wasmtime::Engine::new(&engine::compiling(job.copy_on_write));
        engine.map(Self).map_err(|e| io::Error::other(format!("the engine does not start: {e:#}")))
    }

    /// Parses, bounds, validates and compiles.
    fn make(&self, component: &[u8], job: &Job) -> Result<(Layout, Vec<u8>), Refusal> {
        let binary =
            wat::parse_bytes(component).map_err(|e| Refusal::Text { message: printable(&e.to_string()) })?;
        let layout = layout::measure(&binary, &job.layout).map_err(Refusal::Layout)?;
        let artefact = self.0.precompile_component(&binary);
        Ok((layout, artefact.map_err(|e| Refusal::Invalid { reason: printable(&format!("{e:#}")) })?))
    }
}
