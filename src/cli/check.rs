//! `sandgate check`: everything that is wrong with a site, at once.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::{
    Exit, Failure, SiteArg,
    site::{count, load, report},
};
use crate::site::{diagnostic::Diagnostic, env};

/// Parse, validate and lint the whole site as admission would
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sandgate check --site . --deny-warnings")]
pub(super) struct Check {
    #[command(flatten)]
    site: SiteArg,
    /// Print one JSON object instead of reports for people
    #[arg(long)]
    json: bool,
    /// Warnings exit 1 too
    #[arg(long)]
    deny_warnings: bool,
    /// Print every server setting in effect, with its reason, as a `sandgate.toml`
    #[arg(long)]
    print_config: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    faults: usize,
    warnings: usize,
    diagnostics: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    severity: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

impl Check {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        if self.print_config {
            let config = crate::site::Site::read(&self.site.site).platform.config;
            write!(out, "{}", config.print())?;
            return Ok(Exit::Done);
        }
        let loaded = load(&self.site.site)?;
        let (faults, warnings) = if self.json {
            let diagnostics: Vec<Line<'_>> = loaded.diagnostics.iter().map(line).collect();
            let faults = loaded.diagnostics.iter().filter(|diagnostic| diagnostic.is_fault()).count();
            let warnings = diagnostics.len() - faults;
            serde_json::to_writer_pretty(&mut *out, &Report { faults, warnings, diagnostics })?;
            writeln!(out)?;
            (faults, warnings)
        } else {
            let (faults, warnings) = report(&loaded.diagnostics, env::colour_out(), out)?;
            let functions = loaded.site.tenants.values().map(|tenant| tenant.functions.len()).sum();
            writeln!(
                out,
                "{}, {} in {} with {}",
                count(faults, "fault"),
                count(warnings, "warning"),
                count(loaded.site.tenants.len(), "tenant"),
                count(functions, "function")
            )?;
            (faults, warnings)
        };
        Ok(if faults > 0 || (self.deny_warnings && warnings > 0) { Exit::No } else { Exit::Done })
    }
}

fn line(diagnostic: &Diagnostic) -> Line<'_> {
    let source = diagnostic.source.as_ref();
    Line {
        severity: if diagnostic.is_fault() { "fault" } else { "warning" },
        message: &diagnostic.message,
        file: source.map(|(source, _)| &*source.path),
        line: source.and_then(|(source, span)| span.as_ref().map(|span| source.line(span.start))),
        hint: diagnostic.hint.as_deref(),
    }
}
