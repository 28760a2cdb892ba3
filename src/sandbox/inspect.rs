//! What a component is, for its author: `sandgate function inspect FILE`.

use std::fmt;

use serde::Serialize;

use super::{
    AdmissionError, AdmissionLimits, CompileLimits, CompilerCommand, Digest, Layout, PoolLimits,
    admission::printable,
    engine,
    portable::{self, Missing},
    process::{Processes, wire::Compiled},
    world::HANDLER,
};
use crate::site::config::ServerConfig;

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
    /// Of those, what it may import and not use: any call is denied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<String>,
    /// Of those, what keeps it from being served here, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
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
    let Compiled { artefact, layout } = processes
        .compile(None, bytes, &AdmissionLimits::default(), pool.copy_on_write)
        .map_err(|e| e.told_of(bytes))?;
    let component = artefact.load(&engine).map_err(AdmissionError::invalid)?;
    let ty = component.component_type();
    let imports: Vec<String> = ty.imports(&engine).map(|(name, _)| printable(name)).collect();
    let exports: Vec<String> = ty.exports(&engine).map(|(name, _)| printable(name)).collect();
    let world = if exports.iter().any(|name| name == HANDLER) {
        World::Narrow
    } else if exports.iter().any(|name| portable::is_handler(name)) {
        World::Portable
    } else {
        World::Unknown
    };
    let denied = match world {
        World::Portable => imports.iter().filter(|import| portable::is_denied(import)).cloned().collect(),
        _ => Vec::new(),
    };
    let missing = match world {
        World::Portable => match portable::served(true) {
            Ok(()) => Missing::of(imports.iter().map(String::as_str)).map(|missing| missing.to_string()),
            Err(off) => Some(format!("the world, {off}")),
        },
        _ => {
            (!imports.is_empty()).then(|| "all of its imports: no capability can be declared yet".to_owned())
        }
    };
    let needs = component.resources_required();
    Ok(Inspection {
        world,
        digest: Digest::of(bytes).to_string(),
        bytes: bytes.len(),
        imports,
        denied,
        missing,
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
        for (index, name) in self.denied.iter().enumerate() {
            writeln!(
                f,
                "{:<11} {name} (linked; a call of it is denied)",
                if index == 0 { "denied" } else { "" }
            )?;
        }
        match &self.missing {
            Some(missing) => writeln!(f, "{:<11} {missing}", "missing"),
            None => Ok(()),
        }
    }
}

impl Inspection {
    /// Whether it can be served.
    pub fn is_served(&self) -> bool {
        self.world != World::Unknown && self.missing.is_none()
    }

    /// A manifest for it as the component `file`, to begin with; none if it cannot be served.
    ///
    /// What it takes is the author's to say: no component tells which events and methods it means.
    pub fn manifest(&self, file: &str) -> Option<String> {
        let takes = match self.world {
            World::Narrow => {
                "methods   = [\"POST\"]\n\n[event]\nschema    = \"event.schema.json\"   # of the body; without it only an \
                 empty one is taken\n"
            }
            World::Portable => {
                "methods   = [\"GET\", \"POST\"]\n\n[event]\nrest      = true   # any path below the function's name\n\
                 # schema  = \"event.schema.json\"   # of the body; without it only an empty one is taken\n\
                 # query   = \"query.schema.json\"   # without it any query is refused\n"
            }
            World::Unknown => return None,
        };
        let file = toml::Value::from(file);
        // Twice of what it begins with: a component that fits in exactly can allocate nothing.
        let memory = self.initial_pages.map_or(0, |pages| pages.saturating_mul(2 * WASM_PAGE));
        let limits = match memory > ServerConfig::default().defaults.memory.0 {
            true => format!("\n[limits]\nmemory    = \"{}MiB\"\n", memory.div_ceil(1 << 20)),
            false => String::new(),
        };
        self.missing.is_none().then(|| format!("component = {file}\n{takes}{limits}"))
    }
}

/// In bytes.
const WASM_PAGE: u64 = 64 << 10;
