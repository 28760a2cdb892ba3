//! `sandgate worker`: what the gateway starts for a tenant that is isolated. Not for people, so `--help` is silent about it.

use std::io::Write;

use clap::Args;

use super::{Exit, Failure};
use crate::sandbox::{Walls, probe_worker, serve_worker};

/// Run functions for the gateway at the other end of standard input, confined
#[derive(Debug, Args)]
pub(super) struct Worker {
    /// Confine, and tell what could be reached all the same
    #[arg(long)]
    probe: bool,
    /// What to do, as the gateway writes it: a job, or with `--probe` the walls to put up
    #[arg(value_name = "JSON")]
    job: String,
}

impl Worker {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        if self.probe {
            probe_worker(serde_json::from_str::<Walls>(&self.job)?, out)?;
        } else {
            serve_worker(&self.job)?;
        }
        Ok(Exit::Done)
    }
}
