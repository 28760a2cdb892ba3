//! `sandgate block` and `unblock`: stop what must not go on, now.

use std::{io::Write, path::Path};

use clap::{Args, ValueEnum};

use super::{Exit, Failure, SiteArg};
use crate::site::blocked::{Blocked, FILE, Note, Target};

/// Refuse calls of a tenant, function, caller or key, in force within a second
#[derive(Debug, Args)]
#[command(after_help = "\
Calls in flight are cancelled, and each refused call is recorded with the reason. The list is `blocked.json` in the site; it
outlives restarts. Without arguments it is shown.

Examples:
  sandgate block subject acme/alice --why 'token leaked, case 4711'
  sandgate block key acme/kid-2026-01
  sandgate block function acme/invoice
  sandgate block")]
pub(super) struct Block {
    #[command(flatten)]
    site: SiteArg,
    /// What kind of thing
    #[arg(requires = "name")]
    kind: Option<Kind>,
    /// Its name: `acme`, `acme/invoice`, `acme/alice` (as records show it) or `acme/KID`
    name: Option<String>,
    /// Why, for colleagues and records
    #[arg(long, value_name = "TEXT", default_value = "", requires = "name")]
    why: String,
}

/// Let go what `block` stopped
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sandgate unblock subject acme/alice")]
pub(super) struct Unblock {
    #[command(flatten)]
    site: SiteArg,
    /// What kind of thing
    kind: Kind,
    /// Its name, as `sandgate block` shows it
    name: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// All functions of a tenant, `acme`
    Tenant,
    /// One function, `acme/invoice`
    Function,
    /// One caller, by the id that records show, `acme/alice`
    Subject,
    /// Tokens signed with one key of a tenant's issuers, `acme/KID`
    Key,
}

impl Kind {
    fn target(self, name: &str) -> Result<Target, Failure> {
        let target = match self {
            Self::Tenant => name.parse().map(Target::Tenant).map_err(|error| error.to_string()),
            Self::Function => name.parse().map(Target::Function).map_err(|error| error.to_string()),
            Self::Subject => Target::subject(name).map_err(|error| error.to_string()),
            Self::Key => Target::key(name).map_err(|error| error.to_string()),
        };
        target.map_err(|error| format!("`{name}` cannot be blocked: {error}").into())
    }
}

impl Block {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        super::site::require(&self.site.site)?;
        let (Some(kind), Some(name)) = (self.kind, &self.name) else {
            return show(&Blocked::read(&self.site.site)?, out);
        };
        let target = kind.target(name)?;
        let note = Note { since: now(), why: self.why };
        let new = Blocked::change(&self.site.site, |blocked| blocked.block(target.clone(), note))?;
        writeln!(out, "{} {target}", if new { "blocked" } else { "was blocked already:" })?;
        // A block of what is not there yet may be meant, or misspelt.
        if !exists(&self.site.site, &target) {
            writeln!(out, "note: the site has no such thing now")?;
        }
        Ok(Exit::Done)
    }
}

impl Unblock {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        super::site::require(&self.site.site)?;
        let target = self.kind.target(&self.name)?;
        if Blocked::change(&self.site.site, |blocked| blocked.unblock(&target))? {
            writeln!(out, "unblocked {target}")?;
            Ok(Exit::Done)
        } else {
            writeln!(out, "{target} was not blocked: `sandgate block` shows what is")?;
            Ok(Exit::No)
        }
    }
}

fn show(blocked: &Blocked, out: &mut dyn Write) -> Result<Exit, Failure> {
    if blocked.is_empty() {
        writeln!(out, "nothing is blocked ({FILE})")?;
    }
    for (target, note) in blocked.entries() {
        let why = if note.why.is_empty() { "" } else { "  " };
        writeln!(out, "{target}  since {}{why}{}", note.since, note.why)?;
    }
    Ok(Exit::Done)
}

/// Whether the site has a tenant or function of that name; callers and keys are not the site's to know.
fn exists(site: &Path, target: &Target) -> bool {
    let tenant = |name: &str| format!("policies/{name}/tenant.toml");
    let file = match target {
        Target::Tenant(name) | Target::Key(name, _) => tenant(name.as_str()),
        Target::Function(id) => format!("functions/{id}/function.toml"),
        Target::Subject(id) => tenant(id.split('/').next().unwrap_or_default()),
    };
    site.join(file).is_file()
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}
