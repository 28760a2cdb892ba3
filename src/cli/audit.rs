//! `sandgate audit`: check the chain, read records.

use std::{io::Write, path::PathBuf, time::SystemTime};

use clap::{Args, Subcommand};

use super::{Exit, Failure, SiteArg};
use crate::{
    id::{FunctionName, RequestId, TenantName},
    record::{Anchor, Filter, VerifyingKey, extract, show, verify, verify_extract},
    site::units::Span,
};

/// Check and read the audit log
#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    Verify(Verify),
    Show(Show),
}

/// Where the log is.
#[derive(Debug, Args)]
pub(super) struct Log {
    #[command(flatten)]
    site: SiteArg,
    /// The data directory [default: `.sandgate` in the site]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Log {
    pub(super) fn dir(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| self.site.site.join(".sandgate")).join("audit")
    }
}

/// Find edits, insertions, reordering and removals in the audit log
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sandgate audit verify\n  sandgate audit verify --checkpoint checkpoints.jsonl --key checkpoint.pub.pem\n  sandgate audit verify --extract acme.jsonl --tenant acme"
)]
pub(super) struct Verify {
    #[command(flatten)]
    log: Log,
    /// Checkpoints that were kept elsewhere: with them a removed tail or a rewritten chain is found too
    #[arg(long, value_name = "FILE", requires = "key")]
    checkpoint: Option<PathBuf>,
    /// Public key (PEM) of the key that signed the checkpoints
    #[arg(long, value_name = "FILE", requires = "checkpoint")]
    key: Option<PathBuf>,
    /// Verify a tenant's extract instead of the log
    #[arg(long, value_name = "FILE", requires = "tenant")]
    extract: Option<PathBuf>,
    /// The tenant of the extract
    #[arg(long, value_name = "T", requires = "extract")]
    tenant: Option<TenantName>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Print records, oldest first
#[derive(Debug, Args)]
#[command(
    after_help = "Everything that the chains hold, as evidence and for extracts; `sandgate logs` is for watching what goes on.\n\nExamples:\n  sandgate audit show --tenant acme --since 1h\n  sandgate audit show --request 0190b6d5-7c1a-7c00-9000-0123456789ab --json\n  sandgate audit show --tenant acme --extract > acme.jsonl"
)]
pub(super) struct Show {
    #[command(flatten)]
    log: Log,
    /// Only records of this tenant
    #[arg(long, value_name = "T")]
    tenant: Option<TenantName>,
    /// Only records of functions of this name
    #[arg(long, value_name = "F")]
    function: Option<FunctionName>,
    /// Only the record of this request
    #[arg(long, value_name = "ID")]
    request: Option<RequestId>,
    /// Only records of the last so long, such as `1h`
    #[arg(long, value_name = "TIME")]
    since: Option<Span>,
    /// Only the newest so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Print the tenant's own chain exactly as written, so that it verifies alone
    #[arg(long, requires = "tenant", conflicts_with_all = ["function", "request", "since", "limit", "json"])]
    extract: bool,
}

impl Audit {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        match self {
            Self::Verify(verify) => verify.run(out),
            Self::Show(show) => show.run(out),
        }
    }
}

impl Verify {
    fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        if let (Some(file), Some(tenant)) = (&self.extract, &self.tenant) {
            let report = verify_extract(std::io::BufReader::new(std::fs::File::open(file)?), tenant)?;
            if self.json {
                serde_json::to_writer_pretty(&mut *out, &report)?;
                writeln!(out)?;
            } else {
                writeln!(out, "{report}")?;
            }
            return Ok(if report.fault_count == 0 { Exit::Done } else { Exit::No });
        }
        let key = self.key.as_ref().map(std::fs::read_to_string).transpose()?;
        let key = key.map(|pem| VerifyingKey::from_pem(&pem)).transpose()?;
        let anchor = self.checkpoint.as_deref().zip(key.as_ref());
        let anchor = anchor.map(|(checkpoints, key)| Anchor { checkpoints, key });
        let report = verify(&self.log.dir(), anchor)?;
        if self.json {
            serde_json::to_writer_pretty(&mut *out, &report)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{report}")?;
        }
        Ok(if report.sound { Exit::Done } else { Exit::No })
    }
}

impl Show {
    fn run(self, mut out: &mut dyn Write) -> Result<Exit, Failure> {
        let dir = self.log.dir();
        if let (true, Some(tenant)) = (self.extract, &self.tenant) {
            let found = extract(&dir, tenant, &mut out)?;
            return Ok(if found > 0 { Exit::Done } else { Exit::No });
        }
        let since = self.since.and_then(|span| SystemTime::now().checked_sub(span.0));
        let filter = Filter {
            tenant: self.tenant,
            function: self.function,
            request_id: self.request,
            since,
            limit: self.limit,
        };
        let mut found = false;
        for shown in show(&dir, filter)? {
            let shown = shown?;
            found = true;
            writeln!(out, "{}", if self.json { shown.json() } else { shown.text() })?;
        }
        Ok(if found { Exit::Done } else { Exit::No })
    }
}
