//! `sandgate corpus`: how well injection signals tell attacks from harmless texts.

use std::{io::Write, path::PathBuf};

use clap::Args;

use super::{Exit, Failure};
use crate::event::corpus::measure;

/// Measure injection signals on a folder of lines (`sqli-*`, `xss-*`: attacks; other files: harmless)
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sandgate corpus tests/fixtures/benign")]
pub(super) struct Corpus {
    /// The folder
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl Corpus {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        let report = measure(&self.dir).map_err(|e| format!("`{}`: {e}", self.dir.display()))?;
        writeln!(out, "{report}")?;
        Ok(Exit::Done)
    }
}
