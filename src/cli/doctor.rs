//! `sandgate doctor`: what is in force on this machine, and what an operator should change.

mod certificates;

use std::{
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::Args;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::{Exit, Failure, SiteArg, site::require};
use crate::{
    id::TenantName,
    sandbox::{CompilerCommand, Probe, ProcessError, TABLE_ELEMENTS, posture, probe, probe_worker_process},
    server::{OTHER_DESCRIPTORS, sandbox_settings},
    site::{
        Site,
        config::{Durability, Isolation, ServerConfig},
    },
};

/// Tell what is in force on this machine, and what to change before serving in earnest
#[derive(Debug, Args)]
#[command(
    after_help = "Exit 1: something must be changed.\n\nExample:\n  sandgate doctor --site . --data /var/lib/sandgate"
)]
pub(super) struct Doctor {
    #[command(flatten)]
    site: SiteArg,
    /// The data directory [default: `.sandgate` in the site]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One fact, and what to do about it.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    subject: Option<Subject>,
    found: String,
    /// When it ends, by RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<Change>,
}

/// Which of several.
#[derive(Debug, Serialize)]
struct Subject {
    tenant: TenantName,
    name: String,
}

#[derive(Debug, Serialize)]
struct Change {
    /// Whether it has to be made before strangers are served.
    must: bool,
    /// What, and why.
    advice: String,
}

impl Finding {
    fn new(what: &'static str, found: impl Into<String>) -> Self {
        Self::about(what, None, found)
    }

    fn about(what: &'static str, subject: Option<Subject>, found: impl Into<String>) -> Self {
        Self { what, subject, found: found.into(), until: None, change: None }
    }

    fn until(self, end: SystemTime) -> Self {
        Self { until: jiff::Timestamp::try_from(end).ok().map(|end| end.to_string()), ..self }
    }

    fn must_if(self, wrong: bool, advice: impl Into<String>) -> Self {
        self.change_if(wrong, true, advice.into())
    }

    fn should_if(self, wrong: bool, advice: impl Into<String>) -> Self {
        self.change_if(wrong, false, advice.into())
    }

    fn change_if(mut self, wrong: bool, must: bool, advice: String) -> Self {
        if wrong && self.change.is_none() {
            self.change = Some(Change { must, advice });
        }
        self
    }
}

impl Doctor {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        require(&self.site.site)?;
        let site = Site::read(&self.site.site);
        let data = self.data.unwrap_or_else(|| self.site.site.join(".sandgate"));
        let findings = examine(&site, &data);
        let must = findings.iter().filter_map(|finding| finding.change.as_ref()).any(|change| change.must);
        if self.json {
            serde_json::to_writer_pretty(&mut *out, &findings)?;
            writeln!(out)?;
        } else {
            for Finding { what, subject, found, change, .. } in &findings {
                write!(out, "{what:<18} ")?;
                if let Some(Subject { tenant, name }) = subject {
                    write!(out, "{name} of {tenant}: ")?;
                }
                writeln!(out, "{found}")?;
                if let Some(Change { must, advice }) = change {
                    writeln!(out, "{:<18} {}: {advice}", "", if *must { "MUST CHANGE" } else { "better" })?;
                }
            }
        }
        Ok(if must { Exit::No } else { Exit::Done })
    }
}

fn examine(site: &Site, data: &Path) -> Vec<Finding> {
    let config = &site.platform.config;
    let components = site.tenants.values().map(|tenant| tenant.functions.len() as u64).sum();
    let mut findings: Vec<Finding> = settings(site).into_iter().collect();
    findings.extend(engine(config));
    findings.extend(compiler());
    findings.extend(workers(site));
    findings.extend(certificates::findings(site, SystemTime::now()));
    findings.push(audit(config));
    findings.push(checkpoints(config));
    findings.push(data_directory(data));
    findings.push(mappings(config, components));
    findings.push(descriptors(config, components));
    findings.push(connections(config));
    findings.push(kernel());
    findings
}

/// What all else is told by is what `sandgate.toml` says, or its defaults.
fn settings(site: &Site) -> Option<Finding> {
    let advice = "`sandgate check` tells what is wrong; what follows is not all as it was meant";
    site.platform.is_faulty().then(|| Finding::new("platform part", "faulty").must_if(true, advice))
}

fn engine(config: &ServerConfig) -> Vec<Finding> {
    let posture = posture();
    let pool = sandbox_settings(config, None).pool;
    let (most, usual) = (&config.limits, &config.defaults);
    vec![
        Finding::new(
            "engine",
            format!("wasmtime {}; the engine that serves has no compiler", posture.engine),
        ),
        Finding::new("compiled out", posture.compiled_out.join(", ")),
        Finding::new("proposals on", posture.proposals.join(", ")),
        Finding::new("proposals off", posture.proposals_off.join(", ")),
        Finding::new("worlds", posture.worlds.join(", ")),
        Finding::new(
            "pool",
            format!(
                "{} instances; each at most {} memories of {}, {} tables of {} elements, {} core instances",
                pool.instances,
                pool.memories_per_component,
                most.memory,
                pool.tables_per_component,
                TABLE_ELEMENTS,
                pool.core_instances_per_component
            ),
        ),
        Finding::new(
            "most a call gets",
            format!(
                "cpu {}, wall {}, memory {}, response {}, event {}, concurrency {}",
                most.cpu, most.wall, most.memory, most.response, config.events.max_bytes, most.concurrency
            ),
        ),
        Finding::new(
            "unless it says",
            format!(
                "cpu {}, wall {}, memory {}, response {}, concurrency {}",
                usual.cpu, usual.wall, usual.memory, usual.response, usual.concurrency
            ),
        ),
        Finding::new(
            "a compilation",
            format!(
                "memory {}, cpu {}, component {}; {} at once",
                config.sandbox.compile_memory,
                config.sandbox.compile_cpu,
                config.sandbox.component,
                posture.compile_processes
            ),
        ),
    ]
}

/// What a compile process says of itself once it is confined.
fn compiler() -> Vec<Finding> {
    let told = probe(&CompilerCommand::default());
    let without = "no component can be compiled";
    let read = "a component that takes over the compiler could read this machine's files";
    confined(
        ["compile process", "it can reach"],
        told,
        without,
        read,
        "no file, socket, process or inherited descriptor",
    )
}

/// The same of a worker process, and whose functions run in one.
fn workers(site: &Site) -> Vec<Finding> {
    let config = &site.platform.config.sandbox;
    let isolated: Vec<&str> = site
        .tenants
        .iter()
        .filter(|(_, tenant)| {
            let own = tenant.raw.as_ref().map(|raw| raw.isolation).unwrap_or_default();
            own.max(config.isolation) == Isolation::Process
        })
        .map(|(name, _)| name.as_str())
        .collect();
    let named = match isolated.as_slice() {
        [] => String::new(),
        few if few.len() <= MAX_NAMED => format!(" ({})", few.join(", ")),
        many => {
            format!(" ({} and others)", many.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", "))
        }
    };
    let shared = site.tenants.len() - isolated.len();
    let told =
        format!("tenants: {} in processes of their own{named}, {shared} in the gateway's", isolated.len());
    let bound = format!(
        "{} at once, {} instances each; their memory is bounded by a limit of the kernel's, no control group is made",
        config.workers, config.worker_instances
    );
    let mut findings = vec![Finding::new("isolation", told), Finding::new("worker processes", bound)];
    findings.extend(confined(
        ["a worker process", "it can reach"],
        probe_worker_process(&CompilerCommand::default()),
        "no function of an isolated tenant can run",
        "a guest that breaks out of the engine could read this machine's files",
        "its socket to the gateway, and no file, other socket or process",
    ));
    findings
}

/// What a process says of itself once it is confined.
fn confined(
    [what, reach]: [&'static str; 2],
    told: Result<Probe, ProcessError>,
    without: &str,
    read: &str,
    nothing: &str,
) -> Vec<Finding> {
    let told = match told {
        Ok(told) => told,
        Err(error) => {
            let advice = format!("{without}; `/proc` must be mounted, and the program be executable");
            return vec![Finding::new(what, error.to_string()).must_if(true, advice)];
        }
    };
    let landlock = told.confinement.landlock.map(|version| format!("Landlock (version {version})"));
    let seccomp = told.confinement.seccomp.then(|| "seccomp".to_owned());
    let walls: Vec<String> = [landlock, seccomp, Some("limits".to_owned())].into_iter().flatten().collect();
    let open: Vec<&str> = told
        .attempts
        .iter()
        .filter(|(_, refused)| refused.is_none())
        .map(|(what, _)| what.as_str())
        .collect();
    let no_file = ["read a file", "create a file"].iter().all(|what| !open.contains(what));
    let reached = if open.is_empty() { nothing.to_owned() } else { open.join(", ") };
    vec![
        Finding::new(what, format!("confined by {}", walls.join(", "))).should_if(
            walls.len() < 3,
            "a kernel with Landlock (5.13 and later) and seccomp puts up walls that each hold alone",
        ),
        Finding::new(reach, reached)
            .must_if(!no_file, read)
            .should_if(!open.is_empty(), "a kernel with seccomp refuses it"),
    ]
}

fn audit(config: &ServerConfig) -> Finding {
    match config.audit.durability {
        Durability::Process => Finding::new("records", "written before the reply (survive `kill -9`)")
            .should_if(true, "`[audit] durability = \"machine\"` where they must survive loss of power"),
        Durability::Machine => Finding::new("records", "on disk before the reply (survive loss of power)"),
    }
}

fn checkpoints(config: &ServerConfig) -> Finding {
    match &config.audit.checkpoint_key {
        Some(_) => Finding::new("checkpoints", "signed"),
        None => Finding::new("checkpoints", "none").should_if(
            true,
            "with `[audit] checkpoint-key`, kept outside the data directory, a removed tail is found too",
        ),
    }
}

fn data_directory(data: &Path) -> Finding {
    match fs::metadata(data) {
        Ok(meta) => {
            let mode = meta.mode() & 0o7777;
            let advice = format!(
                "`chmod 700 {}`: the key that vouches for machine code, and the records, lie in it",
                data.display()
            );
            Finding::new("data directory", format!("{mode:04o}")).must_if(mode & 0o077 != 0, advice)
        }
        Err(_) => Finding::new("data directory", "not made yet (`serve` makes it, 0700)"),
    }
}

fn mappings(config: &ServerConfig, components: u64) -> Finding {
    let need = sandbox_settings(config, None).pool.mappings(components);
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let Some(limit) = limit.and_then(|text| text.trim().parse::<u64>().ok()) else {
        return Finding::new("vm.max_map_count", format!("unknown, of {need} needed"));
    };
    let advice =
        format!("`sysctl vm.max_map_count={need}`, or fewer `[sandbox] instances`: calls would fail");
    Finding::new("vm.max_map_count", format!("{limit}, of {need} needed")).must_if(limit < need, advice)
}

fn descriptors(config: &ServerConfig, components: u64) -> Finding {
    let workers = u64::from(config.sandbox.workers);
    let need = u64::from(config.server.max_connections) + components + workers + OTHER_DESCRIPTORS;
    // What it starts with is raised by `serve`.
    let limit = getrlimit(Resource::Nofile).maximum;
    let told = limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let advice =
        format!("`LimitNOFILE={need}`, or fewer `[server] max-connections`: fewer connections are let in");
    Finding::new("open files", format!("{told}, of {need} needed"))
        .must_if(limit.is_some_and(|limit| limit < need), advice)
}

fn connections(config: &ServerConfig) -> Finding {
    let server = &config.server;
    let found = format!(
        "{} at once, {} of one client; handshakes {}, {} of one client",
        server.max_connections,
        server.max_connections_per_client,
        server.max_handshakes,
        server.max_handshakes_per_client
    );
    Finding::new("connections", found)
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| "unknown".to_owned());
    let release = release.trim();
    let tested = std::env::consts::ARCH == "x86_64";
    Finding::new("kernel", format!("{release} {}", std::env::consts::ARCH))
        .should_if(!tested, "of Linux targets the engine is fuzzed without pause on x86_64 alone")
}

/// Of more, only so many are told.
const MAX_NAMED: usize = 12;
