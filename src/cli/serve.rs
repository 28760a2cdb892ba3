//! `sandgate serve`: the gateway in earnest.

use std::{
    io::{IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
};

use clap::Args;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, Failure, SiteArg, site::report};
use crate::{
    http::health::Mode,
    record::trace::TraceSettings,
    server::{Options, Running, StartError, start},
    site::env,
};

/// Where a site is served, and where it is written.
#[derive(Debug, Args)]
pub(super) struct Place {
    #[command(flatten)]
    pub(super) site: SiteArg,
    /// Address of the data plane [default: `[server] listen`, 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address of the ops listener [default: `[server] ops-listen`, 127.0.0.1:9443]
    #[arg(long, value_name = "ADDR")]
    ops_listen: Option<SocketAddr>,
    /// The data directory, the only place that is written to [default: `.sandgate` in the site]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Place {
    pub(super) fn options(self, mode: Mode, strict: bool) -> Result<Options, Failure> {
        let Self { site, listen, ops_listen, data } = self;
        let traces = TraceSettings::read(env::open_telemetry)?;
        Ok(Options { site: site.site, listen, ops_listen, data, mode, strict, traces, closed: true })
    }
}

/// Serve the site
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sandgate serve --site /srv/sandgate --listen 0.0.0.0:443 --data /var/lib/sandgate --strict"
)]
pub(super) struct Serve {
    #[command(flatten)]
    place: Place,
    /// Any fault keeps it from starting, not only one of the platform part
    #[arg(long)]
    strict: bool,
}

impl Serve {
    pub(super) fn run(self, _out: &mut dyn Write, err: &mut dyn Write) -> Result<Exit, Failure> {
        serve(self.place.options(Mode::Production, self.strict)?, err, |_, _| Ok(()))
    }
}

/// Starts, reports what is wrong, and serves until it is told to end.
pub(super) fn serve(
    options: Options,
    err: &mut dyn Write,
    started: impl FnOnce(&Running, &mut dyn Write) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    log_to_stderr();
    leave_no_core();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let running = match start(options).await {
            Ok(running) => running,
            Err(StartError::Faulty(diagnostics)) => {
                report(&diagnostics, env::colour(), err)?;
                return Err(
                    "the site cannot be served as it is: `sandgate check` says all of the above again".into(),
                );
            }
            Err(error) => return Err(error.into()),
        };
        report(&running.diagnostics, env::colour(), err)?;
        started(&running, err)?;
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => running.reload.pull(),
            }
        }
        running.stop().await;
        Ok(Exit::Done)
    })
}

/// A core dump would hold private keys and tokens (hardening B10). What the system does not grant is told and no reason
/// not to serve.
fn leave_no_core() {
    // The limit is for files; a collector behind a pipe heeds what `Options::closed` asks for.
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "core dumps cannot be turned off");
    }
}

/// One line an event: for people on a terminal, JSON for a collector.
fn log_to_stderr() {
    let filter = env::log_filter().unwrap_or_else(|| "info".to_owned());
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(filter);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let builder = builder.with_ansi(env::colour());
    // A second initialisation, as in a test that runs commands in one process, keeps the first.
    let _ = if std::io::stderr().is_terminal() { builder.try_init() } else { builder.json().try_init() };
}
