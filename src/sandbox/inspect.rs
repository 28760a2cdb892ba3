//! What a component is, for its author: `sandgate function inspect FILE`.

use std::fmt;

use serde::Serialize;

use super::{
    AdmissionError, AdmissionLimits, CompileLimits, CompilerCommand, Digest, Layout, PoolLimits,
    compile::printable,
    engine,
    process::{Processes, wire::Compiled},
    world::HANDLER,
};

/// Which contract a component is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum World {
    /// `sandgate:function`: one typed call.
    #[serde(rename = "sandgate:function")]
    Narrow,
    /// `wasi:http/proxy`.
    #[serde(rename = "wasi:http/proxy")]
    Portable,
    /// Neither: it cannot be served.
    #[serde(rename = "unknown")]
    Unknown,
}

/// Facts about one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inspection {
    /// Its contract.
    pub world: World,
    /// SHA-256 of the file, in hexadecimal.
    pub digest: String,
    /// Size of the file.
    pub bytes: usize,
    /// Interfaces that it needs.
    pub imports: Vec<String>,
    /// Interfaces that it offers.
    pub exports: Vec<String>,
    /// What is in it.
    #[serde(flatten)]
    pub layout: Layout,
    /// Linear memories, if no import brings more.
    pub memories: Option<u32>,
    /// Pages of 64 KiB that its largest memory begins with.
    pub initial_pages: Option<u64>,
}

/// Looks into a component, binary or text, without running any of it.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, AdmissionError> {
    // An engine of its own: nothing made here meets the one that serves.
    let pool = PoolLimits { instances: 1, ..PoolLimits::default() };
    let engine =
        engine::engine(&pool).map_err(|e| AdmissionError::Invalid { reason: printable(&e.to_string()) })?;
    let processes = Processes::new(CompilerCommand::default(), CompileLimits::default());
    let Compiled { artefact, layout } =
        processes.compile(bytes, &AdmissionLimits::default(), pool.copy_on_write)?;
    let component = artefact.load(&engine).map_err(AdmissionError::invalid)?;
    let ty = component.component_type();
    let imports: Vec<String> = ty.imports(&engine).map(|(name, _)| printable(name)).collect();
    let exports: Vec<String> = ty.exports(&engine).map(|(name, _)| printable(name)).collect();
    let world = if exports.iter().any(|name| name == HANDLER) {
        World::Narrow
    } else if exports.iter().any(|name| name.starts_with(PORTABLE_HANDLER)) {
        World::Portable
    } else {
        World::Unknown
    };
    let needs = component.resources_required();
    Ok(Inspection {
        world,
        digest: Digest::of(bytes).to_string(),
        bytes: bytes.len(),
        imports,
        exports,
        layout,
        memories: needs.as_ref().map(|needs| needs.num_memories),
        initial_pages: needs.and_then(|needs| needs.max_initial_memory_size),
    })
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let world = match self.world {
            World::Narrow => "sandgate:function (narrow)",
            World::Portable => "wasi:http/proxy (portable)",
            World::Unknown => "none that can be served",
        };
        writeln!(f, "world       {world}")?;
        writeln!(f, "sha256      {}", self.digest)?;
        writeln!(f, "size        {} bytes", self.bytes)?;
        let Layout { core_modules, components, functions, largest_function } = self.layout;
        writeln!(
            f,
            "contents    {core_modules} core modules, {components} inner components, {functions} functions"
        )?;
        writeln!(f, "largest     function of {largest_function} bytes")?;
        if let (Some(memories), Some(pages)) = (self.memories, self.initial_pages) {
            writeln!(f, "memory      {memories} memories, the largest begins with {} KiB", pages * 64)?;
        }
        for (title, names) in [("imports", &self.imports), ("exports", &self.exports)] {
            if names.is_empty() {
                writeln!(f, "{title:<11} nothing")?;
            }
            for (index, name) in names.iter().enumerate() {
                writeln!(f, "{:<11} {name}", if index == 0 { title } else { "" })?;
            }
        }
        Ok(())
    }
}

const PORTABLE_HANDLER: &str = "wasi:http/incoming-handler@0.2";
