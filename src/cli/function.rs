//! `sandgate function`: what a component is.

use std::{io::Write, path::PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Exit, Failure};
use crate::sandbox::{Inspection, inspect};

/// Examine components
#[derive(Debug, Subcommand)]
pub(super) enum Function {
    Inspect(Inspect),
}

/// Show what a component imports and exports, its world, and the manifest it needs
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sandgate function inspect functions/acme/hello/hello.wat")]
pub(super) struct Inspect {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// The component, binary or text
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Function {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        let Self::Inspect(command) = self;
        let bytes = std::fs::read(&command.file).map_err(|e| format!("`{}`: {e}", command.file.display()))?;
        let inspection = inspect(&bytes).map_err(|e| e.in_file(&command.file.to_string_lossy()))?;
        let name = command.file.file_name().unwrap_or_default().to_string_lossy();
        let manifest = inspection.manifest(&name);
        if command.json {
            serde_json::to_writer_pretty(&mut *out, &Told { inspection: &inspection, manifest })?;
            writeln!(out)?;
        } else {
            write!(out, "{inspection}")?;
            if let Some(manifest) = manifest {
                writeln!(out, "\na manifest to begin with, `function.toml` beside it:\n")?;
                manifest
                    .lines()
                    .try_for_each(|line| writeln!(out, "{}", format!("    {line}").trim_end()))?;
            }
        }
        Ok(if inspection.is_served() { Exit::Done } else { Exit::No })
    }
}

/// For programs: the facts, and a manifest's text where one would do.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    inspection: &'a Inspection,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<String>,
}
