//! `sandgate compile-component`: what the gateway starts to compile one component. Not for people, so `--help` is silent about it.

use std::io::Write;

use clap::Args;

use super::{Exit, Failure};
use crate::sandbox::{Walls, compile_component, probe_confinement};

/// Compile the component on standard input, confined
#[derive(Debug, Args)]
pub(super) struct CompileComponent {
    /// Confine, and tell what could be reached all the same
    #[arg(long)]
    probe: bool,
    /// What to do, as the gateway writes it: a job, or with `--probe` the walls to put up
    #[arg(value_name = "JSON")]
    job: String,
}

impl CompileComponent {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        if self.probe {
            probe_confinement(serde_json::from_str::<Walls>(&self.job)?, out)?;
        } else {
            compile_component(&self.job, &mut std::io::stdin().lock(), out)?;
        }
        Ok(Exit::Done)
    }
}
