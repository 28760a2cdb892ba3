//! From a directory to a gateway that serves it, and back: start, reload, shutdown.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{net::TcpListener, task::JoinHandle};
use tracing::{error, info};

use super::{Bounds, Server, Shutdown, descriptors, reload::Reloader};
use crate::{
    authn::{self, KeyFetch},
    event,
    http::health::{self, Mode},
    pipeline::{Blocks, Builder, FaultyPlatform, Gateway, Patience},
    record::{
        self, AuditError, AuditLog, CheckpointKey, Metrics,
        trace::{ExportError, TraceSettings, Traces},
    },
    sandbox::{self, AdmissionLimits, CompileLimits, PoolLimits, Sandbox, Settings},
    site::{
        PlatformSources, Site,
        blocked::Blocked,
        config::{Durability, ServerConfig},
        dev::{DevError, DevMaterial},
        diagnostic::Diagnostic,
        units::Span,
        watch::{Trigger, Watch},
    },
    tls::{self, Certificates, TlsError},
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
    tls: Arc<rustls::ServerConfig>,
    shutdown: Shutdown,
    drain: Duration,
    server: JoinHandle<()>,
    helpers: Vec<JoinHandle<()>>,
}

impl Running {
    /// What the data plane offers by TLS.
    pub fn tls(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.tls)
    }

    /// Not ready any more; requests in flight finish within the drain time, then the audit log is closed, and what is left
    /// of that time is for traces that were not sent yet.
    pub async fn stop(self) {
        let until = Instant::now() + self.drain;
        self.gateway.begin_closing();
        self.shutdown.begin();
        if let Err(error) = self.server.await {
            error!(%error, "the accept loop ended badly");
        }
        for helper in self.helpers {
            helper.abort();
        }
        if let Err(error) = self.gateway.audit().close(SystemTime::now()).await {
            error!(%error, "the audit log was not closed properly");
        }
        if let Some(traces) = self.gateway.traces() {
            traces.close(until.saturating_duration_since(Instant::now()).max(FLUSH_AT_LEAST)).await;
        }
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
    let material = development(&options, &site)?;

    let metrics = Arc::new(Metrics::new());
    let builder = Builder {
        sandbox: Sandbox::start(&sandbox_settings(&config, Some(data.clone())))?,
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
    let (certificate, key) = match &material {
        Some(material) => (material.certificate.clone(), material.key.clone()),
        None => (options.site.join(&config.tls.certificate), options.site.join(&config.tls.key)),
    };
    let certificates = Certificates::read(&certificate, &key, Arc::clone(&metrics))?;
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
    let components = site.tenants.values().map(|tenant| tenant.functions.len() as u64).sum();
    let bounds = Bounds {
        connections: descriptors::connections(config.server.max_connections, components),
        connections_per_client: config.server.max_connections_per_client,
        handshakes: usize::try_from(config.server.max_handshakes).unwrap_or(usize::MAX),
        handshakes_per_client: config.server.max_handshakes_per_client,
        min_rate: config.server.min_rate.0,
        handshake: config.server.handshake_timeout.0,
        header: config.server.header_timeout.0,
        idle: config.server.idle_timeout.0,
        request: config.server.request_timeout.0,
        drain: config.server.drain.0,
    };
    let proxies = config.server.proxies.clone();
    let server = Server::new(listener, Arc::clone(&tls), Arc::clone(&gateway), bounds, proxies);
    let failed = |source| StartError::Io { what: "a listener has no address".into(), source };
    let (address, ops_address) = (server.address().map_err(failed)?, ops.local_addr().map_err(failed)?);
    if options.mode == Mode::Development {
        builder.shared.listens_at(address.port());
    }
    let shutdown = Shutdown::new();
    let router = health::router(Arc::clone(&gateway), options.mode, ops_address);
    let reload = watch.trigger();
    let reloader = Reloader {
        gateway: Arc::clone(&gateway),
        builder,
        site,
        watch,
        certificates,
        certificate,
        key,
        certificate_fault: None,
    };
    let helpers = vec![
        tokio::spawn(health::serve(ops, router)),
        tokio::spawn(keep_audit(Arc::clone(&gateway))),
        tokio::spawn(super::blocklist::watch(Arc::clone(&gateway), options.site.clone())),
        tokio::spawn(reloader.run()),
    ];
    let drain = bounds.drain;
    let server = tokio::spawn(server.serve(shutdown.clone()));
    info!(%address, ops.address = %ops_address, revision = %gateway.revision().id(), "serving");
    Ok(Running { address, ops_address, gateway, diagnostics, reload, tls, shutdown, drain, server, helpers })
}

/// What local work needs; nothing in earnest.
fn development(options: &Options, site: &Site) -> Result<Option<DevMaterial>, StartError> {
    if options.mode == Mode::Production {
        return Ok(None);
    }
    let material = DevMaterial::ensure(&options.site)?;
    let keys = options.site.join(authn::dev::DIRECTORY);
    for tenant in site.tenants.values() {
        if let Some(raw) = &tenant.raw {
            authn::dev::DevIssuer::create_all(&keys, &tenant.name, raw)?;
        }
    }
    Ok(Some(material))
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
    Settings { pool, admission, portable: config.sandbox.portable, compile, data_dir, memory, ..usual }
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
        let pem = fs::read_to_string(&path).map_err(|source| StartError::Io { what, source })?;
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
