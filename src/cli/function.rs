//! `sandgate function`: what a component is.

use std::{io::Write, path::PathBuf};

use clap::{Args, Subcommand};

use super::{Exit, Failure};
use crate::sandbox::inspect;

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
        if command.json {
            serde_json::to_writer_pretty(&mut *out, &inspection)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{inspection}")?;
        }
        Ok(if inspection.is_served() { Exit::Done } else { Exit::No })
    }
}
