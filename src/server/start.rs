//! From a directory to a gateway that serves it, and back: start and shutdown.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::{net::TcpListener, task::JoinHandle};
use tracing::{error, info, warn};

use super::{Door, Rules, Server, Shutdown, reload::Reloader};
use crate::{
    authn::{self, KeyFetch},
    event,
    http::health::{self, Mode},
    pipeline::{Blocks, Builder, FaultyPlatform, Gateway, Patience},
    record::{
        self, AuditError, AuditLog, CheckpointKey, Metrics,
        trace::{ExportError, TraceSettings, Traces},
    },
    sandbox::{self, AdmissionLimits, CompileLimits, PoolLimits, Sandbox, Settings, WorkerLimits},
    site::{
        PlatformSources, Site,
        blocked::Blocked,
        config::{Durability, ServerConfig},
        dev::{self, DevError},
        diagnostic::Diagnostic,
        host::HostName,
        secret::{self, SecretError},
        units::Span,
        watch::{Trigger, Watch},
    },
    tls::{self, Certificates, OwnPair, TlsError},
};

/// What is to be served, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The site's directory.
    pub site: PathBuf,
    /// Instead of `[server] listen`.
    pub listen: Option<SocketAddr>,
    /// Instead of `[server] ops-listen`.
    pub ops_listen: Option<SocketAddr>,
    /// Instead of `.sandgate/` in the site.
    pub data: Option<PathBuf>,
    /// For local work, or in earnest.
    pub mode: Mode,
    /// Whether any fault keeps it from starting.
    pub strict: bool,
    /// Where traces go; nowhere by default.
    pub traces: Option<TraceSettings>,
    /// Whether the process is the gateway's alone, and is closed to dumps and debuggers before it reads a site's keys.
    pub closed: bool,
}

impl Options {
    /// A site on free ports of loopback.
    pub fn local(site: &Path) -> Self {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            site: site.into(),
            listen: Some(free),
            ops_listen: Some(free),
            data: None,
            mode: Mode::Production,
            strict: false,
            traces: None,
            closed: false,
        }
    }
}

/// Why a site cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The platform part is faulty, or any part with `--strict`.
    #[error("the site has faults")]
    Faulty(Vec<Diagnostic>),
    /// Keys of development, offered to others.
    #[error("`dev` serves on loopback only, and {0} is not: `serve` is for others")]
    NotLoopback(SocketAddr),
    /// A port or folder.
    #[error("{what}")]
    Io {
        /// What could not be done.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The engine.
    #[error(transparent)]
    Sandbox(#[from] sandbox::StartError),
    /// Material for development.
    #[error(transparent)]
    Dev(#[from] DevError),
    /// Keys of dev issuers.
    #[error(transparent)]
    DevIssuer(#[from] authn::dev::MintError),
    /// The collector of traces.
    #[error(transparent)]
    Traces(#[from] ExportError),
    /// The key that signs checkpoints.
    #[error("the checkpoint key `{path}` cannot be used")]
    CheckpointKey {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: record::KeyError,
    },
}

/// A gateway that serves.
pub struct Running {
    /// The data plane.
    pub address: SocketAddr,
    /// The ops listener.
    pub ops_address: SocketAddr,
    /// What serves.
    pub gateway: Arc<Gateway>,
    /// What is wrong with the site, faults of tenants and all warnings.
    pub diagnostics: Vec<Diagnostic>,
    /// Asks for the whole site to be read again.
    pub reload: Trigger,
    door: Arc<Door>,
    shutdown: Shutdown,
    server: JoinHandle<()>,
    helpers: Vec<JoinHandle<()>>,
}

impl Running {
    /// What the data plane offers by TLS.
    pub fn tls(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.door.rules().tls)
    }

    /// Not ready any more; requests in flight finish within the drain time, then the audit log is closed, and what is left
    /// of that time is for traces that were not sent yet.
    pub async fn stop(self) {
        let until = Instant::now() + self.door.rules().bounds.drain;
        self.gateway.begin_closing();
        self.shutdown.begin();
        if let Err(error) = self.server.await {
            error!(%error, "the accept loop ended badly");
        }
        for helper in self.helpers {
            helper.abort();
        }
        self.gateway.end_workers();
        if let Err(error) = self.gateway.audit().close(SystemTime::now()).await {
            error!(%error, "the audit log was not closed properly");
        }
        if let Some(traces) = self.gateway.traces() {
            traces.close(until.saturating_duration_since(Instant::now()).max(FLUSH_AT_LEAST)).await;
        }
    }
}

/// Closes the process to core dumps, and its memory to others of its user (hardening B10).
///
/// After the engine was made: of a process that is closed `/proc/self/pagemap` is root's, and without it the engine gives back
/// every page of a used memory in place of those that were written. The kernel has no reason to refuse, and if it does all
/// the same, that is told and no reason not to serve.
fn close() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warn!(%error, "core dumps cannot be turned off");
    }
}

/// Reads, compiles, binds and serves.
pub async fn start(options: Options) -> Result<Running, StartError> {
    let data = options.data.clone().unwrap_or_else(|| options.site.join(".sandgate"));
    private_dir(&data)?;
    let config = PlatformSources::read(&options.site).config;
    let listen = options.listen.unwrap_or(config.server.listen);
    let ops_listen = options.ops_listen.unwrap_or(config.server.ops_listen);
    // Whoever can reach a development gateway may know its keys: they lie in the site.
    if options.mode == Mode::Development
        && let Some(address) = [listen, ops_listen].into_iter().find(|address| !address.ip().is_loopback())
    {
        return Err(StartError::NotLoopback(address));
    }
    // Watching begins before the site is read, so that no change falls between.
    let watch = Watch::start(&options.site, &data, &config);
    let site = Site::read(&options.site);
    development(&options, &site)?;

    let metrics = Arc::new(Metrics::new());
    let sandbox = Sandbox::start(&sandbox_settings(&config, Some(data.clone())))?;
    if options.closed {
        close();
    }
    let builder = Builder {
        sandbox,
        shared: authn::Shared::new(token_cache_bytes(&config), key_fetch(&options.site, &config)),
        metrics: Arc::clone(&metrics),
        development: options.mode == Mode::Development,
        schemas: event::Schemas::default(),
        patience: match options.mode {
            Mode::Development => Patience::DEVELOPING,
            Mode::Production => Patience::SERVING,
        },
    };
    let compiled = watch.trigger();
    builder.sandbox.when_compiled(move |tenants| compiled.changed(tenants));
    let (builder, site, built) = blocking(move || {
        let built = builder.build(&site, None);
        (builder, site, built)
    })
    .await?;
    let (revision, mut diagnostics) = built.map_err(|FaultyPlatform(faults)| StartError::Faulty(faults))?;
    diagnostics.extend(revision.diagnostics().map(|(_, diagnostic)| diagnostic.clone()));
    let strays = site.strays.values().filter(|_| options.strict).cloned();
    if options.strict && (diagnostics.iter().any(Diagnostic::is_fault) || !site.strays.is_empty()) {
        return Err(StartError::Faulty(diagnostics.into_iter().chain(strays).collect()));
    }

    // A list that cannot be read may have blocked anything: nothing is served before somebody looks.
    let blocks =
        Blocked::read(&options.site).map_err(|error| StartError::Faulty(vec![error.diagnostic()]))?;
    let blocks = Blocks::new(blocks);
    let certificates = Certificates::read(&own_pair(&options, &config), Arc::clone(&metrics))?;
    let tls = tls::server_config(Arc::clone(&certificates), config.tls.strict_sni)?;
    let audit_options = audit_options(&options.site, &config)?;
    let audit_dir = data.join("audit");
    let audit = blocking(move || AuditLog::open(&audit_dir, audit_options)).await??;
    for tenant in revision.serving() {
        tenant.authenticator.start(&tokio::runtime::Handle::current());
    }
    let traces = options.traces.clone().map(|settings| Traces::start(settings, Arc::clone(&metrics)));
    let traces = traces.transpose()?;
    let gateway = Gateway::new(revision, audit, metrics, Arc::clone(&builder.sandbox), blocks, traces);

    let listener = bind(listen, "the data plane").await?;
    let ops = bind(ops_listen, "the ops listener").await?;
    let door = Door::new(Rules::new(&config, components(&site), tls));
    let server = Server::new(listener, Arc::clone(&gateway), Arc::clone(&door));
    let failed = |source| StartError::Io { what: "a listener has no address".into(), source };
    let (address, ops_address) = (server.address().map_err(failed)?, ops.local_addr().map_err(failed)?);
    if options.mode == Mode::Development {
        builder.shared.listens_at(address.port());
    }
    let shutdown = Shutdown::new();
    let router = health::router(Arc::clone(&gateway), options.mode, ops_address);
    let reload = watch.trigger();
    let blocklist = super::blocklist::watch(Arc::clone(&gateway), options.site.clone());
    let reloader = Reloader {
        gateway: Arc::clone(&gateway),
        builder,
        site,
        watch,
        certificates,
        certificate_fault: None,
        door: Arc::clone(&door),
        admitted: config.clone(),
        started: config,
        held: Vec::new(),
        options,
    };
    let helpers = vec![
        tokio::spawn(health::serve(ops, router)),
        tokio::spawn(keep_audit(Arc::clone(&gateway))),
        tokio::spawn(blocklist),
        tokio::spawn(reloader.run()),
    ];
    let server = tokio::spawn(server.serve(shutdown.clone()));
    info!(%address, ops.address = %ops_address, revision = %gateway.revision().id(), "serving");
    Ok(Running { address, ops_address, gateway, diagnostics, reload, door, shutdown, server, helpers })
}

/// Makes what local work needs and is missing; nothing in earnest.
pub(super) fn development(options: &Options, site: &Site) -> Result<(), StartError> {
    if options.mode == Mode::Production {
        return Ok(());
    }
    let keys = options.site.join(authn::dev::DIRECTORY);
    let mut hosts = Vec::new();
    for tenant in site.tenants.values() {
        if let Some(raw) = &tenant.raw {
            authn::dev::DevIssuer::create_all(&keys, &tenant.name, raw)?;
            let without = |host: &&HostName| !site.has_pair_of(host);
            hosts.extend(raw.hosts.iter().map(toml::Spanned::get_ref).filter(without).cloned());
        }
    }
    dev::ensure(&options.site, &hosts)?;
    Ok(())
}

/// How many may be in use at once: each has a file open.
pub(super) fn components(site: &Site) -> u64 {
    site.tenants.values().map(|tenant| tenant.functions.len() as u64).sum()
}

/// Chain and key of the gateway's own name: on a workbench those of `localhost`, whatever it is called elsewhere.
pub(super) fn own_pair(options: &Options, config: &ServerConfig) -> OwnPair {
    match options.mode {
        Mode::Development => {
            let (certificate, key) = dev::server_pair(&options.site);
            OwnPair { certificate, key, name: None }
        }
        Mode::Production => OwnPair::of(&options.site, config),
    }
}

/// How the sandbox is set up by `sandgate.toml`.
pub fn sandbox_settings(config: &ServerConfig, data_dir: Option<PathBuf>) -> Settings {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let pool = PoolLimits {
        instances: config.sandbox.instances,
        max_memory_bytes: size(config.limits.memory.0),
        memory_keep_resident_bytes: size(config.sandbox.keep_resident.0),
        ..PoolLimits::default()
    };
    let admission =
        AdmissionLimits { binary_bytes: size(config.sandbox.component.0), ..AdmissionLimits::default() };
    let compile = CompileLimits {
        memory: config.sandbox.compile_memory,
        cpu: config.sandbox.compile_cpu,
        // A busy machine gives a compilation a fifth of a core.
        wall: Span(config.sandbox.compile_cpu.0.saturating_mul(5)),
    };
    let usual = Settings::default();
    let memory = config.sandbox.memory.unwrap_or(usual.memory);
    let workers = WorkerLimits {
        most: config.sandbox.workers,
        instances: config.sandbox.worker_instances,
        idle: config.sandbox.worker_idle.0,
    };
    let portable = config.sandbox.portable;
    Settings { pool, admission, portable, compile, data_dir, memory, workers, ..usual }
}

/// How remote key sets are fetched by `sandgate.toml`.
pub fn key_fetch(site: &Path, config: &ServerConfig) -> KeyFetch {
    let roots = config.keys.extra_roots.as_ref().map(|path| site.join(path));
    let extra_roots = roots.and_then(|path| match tls::read_roots(&path) {
        Ok(roots) => Some(roots),
        Err(error) => {
            error!(%error, path = %path.display(), "the extra roots for key sets cannot be read");
            None
        }
    });
    KeyFetch {
        allow_private: config.keys.allow_private,
        platform_roots: true,
        extra_roots: extra_roots.unwrap_or_default(),
    }
}

/// The cache's size as its weigher counts it.
pub fn token_cache_bytes(config: &ServerConfig) -> u64 {
    u64::from(config.cache.tokens) * TOKEN_BYTES
}

fn audit_options(site: &Path, config: &ServerConfig) -> Result<record::Options, StartError> {
    let checkpoint_key = config.audit.checkpoint_key.as_ref().map(|path| {
        let path = site.join(path);
        let what = format!("the checkpoint key `{}` cannot be read", path.display());
        let pem = secret::read(&path).map_err(|error| match error {
            SecretError::Io(source) => StartError::Io { what, source },
            SecretError::Shared(_) => StartError::Io { what, source: io::Error::other(error) },
        })?;
        CheckpointKey::from_pem(&pem).map_err(|source| StartError::CheckpointKey { path, source })
    });
    Ok(record::Options {
        durability: match config.audit.durability {
            Durability::Process => record::Durability::Process,
            Durability::Machine => record::Durability::Machine,
        },
        retain: record::Retain { bytes: Some(config.audit.retain.0), age: None },
        segment_bytes: config.audit.segment.0,
        checkpoint_key: checkpoint_key.transpose()?,
        ..record::Options::default()
    })
}

fn private_dir(dir: &Path) -> Result<(), StartError> {
    let what = format!("the data directory `{}` cannot be made", dir.display());
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| StartError::Io { what, source })
}

async fn bind(address: SocketAddr, what: &str) -> Result<TcpListener, StartError> {
    let failed = |source| StartError::Io { what: format!("{what} cannot listen on {address}"), source };
    TcpListener::bind(address).await.map_err(failed)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StartError> {
    let failed = |panic| StartError::Io {
        what: "a part of the start ended badly".into(),
        source: io::Error::other(panic),
    };
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

/// Writes what is due: aggregates, checkpoints, the end of what is not kept.
async fn keep_audit(gateway: Arc<Gateway>) {
    let mut ticks = tokio::time::interval(AUDIT_TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = gateway.audit().tick(SystemTime::now()).await {
            error!(%error, "housekeeping of the audit log failed");
        }
    }
}

/// For the last traces, though connections took the whole drain time.
const FLUSH_AT_LEAST: Duration = Duration::from_secs(1);
/// How often the audit log looks at what is due.
const AUDIT_TICK: Duration = Duration::from_secs(1);
/// What a cached token weighs about, in bytes: the unit of `[cache] tokens`.
const TOKEN_BYTES: u64 = 2048;
