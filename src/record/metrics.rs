//! Metrics in the OpenMetrics text format, under the names that records use.
//!
//! INVARIANT (Bounded): a label is a name of the site or a word of ours, never text from a request; functions beyond
//! a bound share one series. Handles are kept by their users, so that counting is an atomic addition.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use self::labels::{
    CacheLabels, CertificateLabel, CodeLabel, FunctionLabels, KindLabel, RequestLabels, ResultLabel,
    RevisionLabel, StageLabel, StateLabel, TenantLabel,
};
use super::{Stage, Stats, histogram::Histogram, writer::lock};
use crate::{
    id::{FunctionName, TenantName},
    sandbox::Compiling,
};

mod labels;

type Seconds = Counter<f64, std::sync::atomic::AtomicU64>;

/// All metrics of the gateway.
pub struct Metrics {
    registry: Registry,
    families: Arc<Families>,
    stages: [Histogram; Stage::ALL.len()],
    refusals: Family<CodeLabel, Counter>,
    unparsed: Family<KindLabel, Counter>,
    turned_away: Family<KindLabel, Counter>,
    evaluation_errors: Family<TenantLabel, Counter>,
    caches: Family<CacheLabels, Counter>,
    traces_dropped: Family<KindLabel, Counter>,
    audit_queue_depth: Gauge,
    audit_errors: Counter,
    audit_head: Gauge,
    pool_in_use: Gauge,
    pool_size: Gauge,
    workers: Gauge,
    workers_most: Gauge,
    worker_deaths: Family<KindLabel, Counter>,
    compiling: Family<StateLabel, Gauge>,
    compilations: Family<ResultLabel, Counter>,
    compile_time: Seconds,
    connections: Gauge,
    certificate_expiry: Family<CertificateLabel, Gauge>,
    revision: Family<RevisionLabel, Gauge>,
    site_faults: Family<TenantLabel, Gauge>,
}

/// Series of single functions.
#[derive(Debug, Default)]
struct Families {
    requests: Family<RequestLabels, Counter>,
    cpu: Family<FunctionLabels, Seconds>,
    dropped: Family<FunctionLabels, Counter>,
    /// Functions with series of their own.
    own: Mutex<HashSet<FunctionLabels>>,
}

/// One function's counters; made with the revision, used for each invocation.
#[derive(Debug)]
pub struct FunctionMetrics {
    families: Arc<Families>,
    wanted: FunctionLabels,
    used: OnceLock<Used>,
}

/// Looked up at the first invocation, so that a function that nobody calls has no series.
#[derive(Debug)]
struct Used {
    labels: FunctionLabels,
    cpu: Seconds,
    requests: [OnceLock<Counter>; CODES.len()],
    other: Counter,
}

/// One cache's counters.
#[derive(Debug, Clone)]
pub struct CacheMetrics {
    hits: Counter,
    misses: Counter,
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Self {
        let stage_seconds: Family<StageLabel, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(&STAGE_SECONDS));
        let stages =
            Stage::ALL.map(|stage| stage_seconds.get_or_create_owned(&StageLabel { stage: stage.as_str() }));
        let mut metrics = Self {
            registry: Registry::with_prefix("sandgate"),
            families: Arc::default(),
            stages,
            refusals: Family::default(),
            unparsed: Family::default(),
            turned_away: Family::default(),
            evaluation_errors: Family::default(),
            caches: Family::default(),
            traces_dropped: Family::default(),
            audit_queue_depth: Gauge::default(),
            audit_errors: Counter::default(),
            audit_head: Gauge::default(),
            pool_in_use: Gauge::default(),
            pool_size: Gauge::default(),
            workers: Gauge::default(),
            workers_most: Gauge::default(),
            worker_deaths: Family::default(),
            compiling: Family::default(),
            compilations: Family::default(),
            compile_time: Seconds::default(),
            connections: Gauge::default(),
            certificate_expiry: Family::default(),
            revision: Family::default(),
            site_faults: Family::default(),
        };
        metrics.register(stage_seconds);
        metrics
    }

    fn register(&mut self, stage_seconds: Family<StageLabel, Histogram, fn() -> Histogram>) {
        let Self { registry, families, .. } = self;
        let seconds = || Unit::Seconds;
        registry.register(
            "requests",
            "Invocations by tenant, function and public code",
            families.requests.clone(),
        );
        registry.register_with_unit("cpu", "CPU time of guests", seconds(), families.cpu.clone());
        registry.register(
            "dropped_output_bytes",
            "Bytes that guests wrote to standard output and error, which lead nowhere",
            families.dropped.clone(),
        );
        registry.register_with_unit("stage", "Time that each stage took", seconds(), stage_seconds);
        registry.register("refusals", "Refusals by public code, of any request", self.refusals.clone());
        registry.register("unparsed", "Requests that never parsed, by kind", self.unparsed.clone());
        registry.register(
            "turned_away",
            "Connections refused before their first request, or cut, by kind",
            self.turned_away.clone(),
        );
        registry.register(
            "policy_evaluation_errors",
            "Decisions denied because a policy failed to evaluate",
            self.evaluation_errors.clone(),
        );
        registry.register("cache_lookups", "Lookups in caches", self.caches.clone());
        registry.register(
            "traces_dropped",
            "Traced invocations whose spans did not reach the collector, by kind",
            self.traces_dropped.clone(),
        );
        registry.register(
            "audit_queue_depth",
            "Audit records waiting to be written",
            self.audit_queue_depth.clone(),
        );
        registry.register(
            "audit_errors",
            "Audit records that could not be written",
            self.audit_errors.clone(),
        );
        registry.register("audit_head", "Number of the last audit record", self.audit_head.clone());
        registry.register("pool_in_use", "Instances that run now", self.pool_in_use.clone());
        registry.register("pool_size", "Instances that can run at once", self.pool_size.clone());
        registry.register("workers", "Worker processes of isolated tenants", self.workers.clone());
        registry.register("workers_most", "Worker processes that there may be", self.workers_most.clone());
        registry.register(
            "worker_deaths",
            "Worker processes that ended without being told to, by kind",
            self.worker_deaths.clone(),
        );
        registry.register(
            "compiling",
            "Components that are being compiled, or wait for it",
            self.compiling.clone(),
        );
        registry.register(
            "compilations",
            "Components offered, by what came of it",
            self.compilations.clone(),
        );
        registry.register_with_unit(
            "compile",
            "Time that compiling took",
            seconds(),
            self.compile_time.clone(),
        );
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When a certificate expires, in Unix time",
            self.certificate_expiry.clone(),
        );
        registry.register("revision", "The revision that serves; always 1", self.revision.clone());
        registry.register(
            "site_faults",
            "Faults of a tenant's part, or of the platform's (empty tenant), in the last load",
            self.site_faults.clone(),
        );
    }

    /// Counters of one function.
    pub fn function(&self, tenant: &TenantName, function: &FunctionName) -> FunctionMetrics {
        FunctionMetrics {
            families: self.families.clone(),
            wanted: FunctionLabels { tenant: tenant.to_string(), function: function.to_string() },
            used: OnceLock::new(),
        }
    }

    /// Counters of a cache, such as `tokens`.
    pub fn cache(&self, cache: &'static str) -> CacheMetrics {
        let counter = |result| self.caches.get_or_create_owned(&CacheLabels { cache, result });
        CacheMetrics { hits: counter("hit"), misses: counter("miss") }
    }

    /// A stage took so long.
    pub fn stage(&self, stage: Stage, took: Duration) {
        if let Some(histogram) = self.stages.get(stage as usize) {
            histogram.observe(took);
        }
    }

    /// A request was refused, with this public code.
    pub fn refused(&self, code: &'static str) {
        self.refusals.get_or_create(&CodeLabel { code }).inc();
    }

    /// A request never parsed; `kind` is a word of ours.
    pub fn unparsed(&self, kind: &'static str) {
        self.unparsed.get_or_create(&KindLabel { kind }).inc();
    }

    /// A connection was refused before its first request, or cut; `kind` is a word of ours.
    pub fn turned_away(&self, kind: &'static str) {
        self.turned_away.get_or_create(&KindLabel { kind }).inc();
    }

    /// Spans of so many invocations were lost; `kind` is a word of ours.
    pub fn trace_dropped(&self, kind: &'static str, invocations: u64) {
        self.traces_dropped.get_or_create(&KindLabel { kind }).inc_by(invocations);
    }

    /// A decision was denied because a policy failed to evaluate.
    pub fn evaluation_error(&self, tenant: &TenantName) {
        self.evaluation_errors.get_or_create(&TenantLabel { tenant: tenant.to_string() }).inc();
    }

    /// State of the audit log, asked for when metrics are.
    pub fn audit(&self, stats: Stats) {
        self.audit_queue_depth.set(signed(stats.queue_depth as u64));
        self.audit_head.set(signed(stats.head_seq));
        self.audit_errors.inc_by(stats.failures.saturating_sub(self.audit_errors.get()));
    }

    /// Instances that run, of those that can.
    pub fn pool(&self, in_use: u64, size: u64) {
        self.pool_in_use.set(signed(in_use));
        self.pool_size.set(signed(size));
    }

    /// Worker processes that live, of those that may, and how many died, by kind: words of ours.
    pub fn workers(&self, alive: u64, most: u64, deaths: impl IntoIterator<Item = (&'static str, u64)>) {
        self.workers.set(signed(alive));
        self.workers_most.set(signed(most));
        for (kind, count) in deaths {
            let counter = self.worker_deaths.get_or_create_owned(&KindLabel { kind });
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }

    /// How compiling goes, asked for when metrics are.
    pub fn compiling(&self, now: Compiling) {
        for (state, components) in [("running", now.running), ("waiting", now.waiting)] {
            self.compiling.get_or_create(&StateLabel { state }).set(signed(components as u64));
        }
        let results = [
            ("compiled", now.compiled),
            ("refused", now.refused),
            ("failed", now.failed),
            ("remembered", now.remembered),
        ];
        for (result, count) in results {
            let counter = self.compilations.get_or_create(&ResultLabel { result });
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        let more = now.taken.as_secs_f64() - self.compile_time.get();
        // A counter never falls, not even by what rounding leaves.
        self.compile_time.inc_by(more.max(0.0));
    }

    /// Open connections: `inc` and `dec` it.
    pub fn connections(&self) -> &Gauge {
        &self.connections
    }

    /// When a certificate that is served expires, by its name; `None` once it is served no more.
    pub fn certificate(&self, name: &str, expires: Option<SystemTime>) {
        let label = CertificateLabel { certificate: name.to_owned() };
        let Some(expires) = expires else {
            self.certificate_expiry.remove(&label);
            return;
        };
        let expires = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.certificate_expiry.get_or_create(&label).set(signed(expires));
    }

    /// Another revision serves.
    pub fn revision(&self, revision: &str) {
        self.revision.clear();
        self.revision.get_or_create(&RevisionLabel { revision: revision.to_owned() }).set(1);
    }

    /// Faults that the last load found, by tenant; `None` is the platform. Parts not named have none.
    pub fn site_faults<'a>(&self, faults: impl IntoIterator<Item = (Option<&'a TenantName>, u64)>) {
        self.site_faults.clear();
        for (tenant, count) in faults {
            let tenant = tenant.map(ToString::to_string).unwrap_or_default();
            self.site_faults.get_or_create(&TenantLabel { tenant }).set(signed(count));
        }
    }

    /// The text that `/metrics` answers.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a `String` cannot fail, and labels are plain text.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics(…)")
    }
}

impl FunctionMetrics {
    /// An invocation ended with this public code after so much CPU time.
    pub fn invoked(&self, code: &'static str, cpu: Duration) {
        let used = self.used.get_or_init(|| self.look_up());
        match CODES.iter().position(|known| *known == code).and_then(|at| used.requests.get(at)) {
            Some(counter) => counter.get_or_init(|| self.families.counter(&used.labels, code)).inc(),
            None => used.other.inc(),
        };
        if !cpu.is_zero() {
            used.cpu.inc_by(cpu.as_secs_f64());
        }
    }

    /// So much of what a guest wrote led nowhere.
    pub fn dropped(&self, bytes: u64) {
        if bytes > 0 {
            let labels = &self.used.get_or_init(|| self.look_up()).labels;
            self.families.dropped.get_or_create(labels).inc_by(bytes);
        }
    }

    fn look_up(&self) -> Used {
        let mut own = lock(&self.families.own);
        let labels = if own.contains(&self.wanted) || own.len() < MAX_FUNCTIONS {
            own.insert(self.wanted.clone());
            self.wanted.clone()
        } else {
            FunctionLabels { tenant: OTHER.to_owned(), function: OTHER.to_owned() }
        };
        Used {
            cpu: self.families.cpu.get_or_create_owned(&labels),
            requests: [const { OnceLock::new() }; CODES.len()],
            other: self.families.counter(&labels, OTHER),
            labels,
        }
    }
}

impl Families {
    fn counter(&self, labels: &FunctionLabels, code: &'static str) -> Counter {
        let FunctionLabels { tenant, function } = labels.clone();
        self.requests.get_or_create_owned(&RequestLabels { tenant, function, code })
    }
}

impl CacheMetrics {
    /// The cache had it.
    pub fn hit(&self) {
        self.hits.inc();
    }

    /// The cache did not have it.
    pub fn miss(&self) {
        self.misses.inc();
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The label of what has no series of its own.
const OTHER: &str = "other";
/// Functions with series of their own, about 1 KiB each.
const MAX_FUNCTIONS: usize = 10_000;
/// Public codes (design §4) with a counter at hand, and what stands for one where nobody waits for the answer.
const CODES: [&str; 19] = [
    "ok",
    "unauthenticated",
    "unavailable",
    "not_found",
    "forbidden",
    "method_not_allowed",
    "too_large",
    "unsupported_media_type",
    "malformed",
    "invalid_event",
    "misdirected",
    "timeout",
    "rate_limited",
    "overloaded",
    "function_failed",
    "function_timeout",
    "internal",
    "use_dpop_nonce",
    "client_gone",
];
/// From a cached token's 2 µs to the longest wall limit.
const STAGE_SECONDS: [f64; 18] =
    [2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5, 2.0, 10.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_read_as_open_metrics() {
        let metrics = Metrics::new();
        let (acme, invoice) = ("acme".parse().unwrap(), "invoice".parse().unwrap());
        let function = metrics.function(&acme, &invoice);
        function.invoked("ok", Duration::from_millis(2));
        function.invoked("ok", Duration::from_millis(1));
        function.invoked("forbidden", Duration::ZERO);
        metrics.stage(Stage::Run, Duration::from_micros(300));
        metrics.refused("forbidden");
        metrics.evaluation_error(&acme);
        metrics.cache("tokens").hit();
        metrics.cache("tokens").miss();
        metrics.audit(Stats { queue_depth: 3, failures: 2, head_seq: 9 });
        metrics.audit(Stats { queue_depth: 0, failures: 5, head_seq: 10 });
        metrics.compiling(Compiling {
            running: 1,
            waiting: 2,
            taken: Duration::from_millis(1500),
            compiled: 5,
            refused: 3,
            failed: 1,
            remembered: 7,
        });
        metrics.revision("r-1");
        metrics.revision("r-2");
        metrics.certificate("default", Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000)));
        metrics.site_faults([(None, 0), (Some(&acme), 2)]);
        let text = metrics.encode();
        let kept = |line: &&str| !line.starts_with('#') && !line.contains("_bucket") && !line.ends_with(" 0");
        let mut lines: Vec<_> = text.lines().filter(kept).filter(|line| !line.ends_with(" 0.0")).collect();
        lines.sort_unstable();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        sandgate_audit_errors_total 5
        sandgate_audit_head 10
        sandgate_cache_lookups_total{cache="tokens",result="hit"} 1
        sandgate_cache_lookups_total{cache="tokens",result="miss"} 1
        sandgate_certificate_expiry_timestamp_seconds{certificate="default"} 1900000000
        sandgate_compilations_total{result="compiled"} 5
        sandgate_compilations_total{result="failed"} 1
        sandgate_compilations_total{result="refused"} 3
        sandgate_compilations_total{result="remembered"} 7
        sandgate_compile_seconds_total 1.5
        sandgate_compiling{state="running"} 1
        sandgate_compiling{state="waiting"} 2
        sandgate_cpu_seconds_total{tenant="acme",function="invoice"} 0.003
        sandgate_policy_evaluation_errors_total{tenant="acme"} 1
        sandgate_refusals_total{code="forbidden"} 1
        sandgate_requests_total{tenant="acme",function="invoice",code="forbidden"} 1
        sandgate_requests_total{tenant="acme",function="invoice",code="ok"} 2
        sandgate_revision{revision="r-2"} 1
        sandgate_site_faults{tenant="acme"} 2
        sandgate_stage_seconds_count{stage="run"} 1
        sandgate_stage_seconds_sum{stage="run"} 0.0003
        "#);
    }

    #[test]
    fn functions_beyond_the_bound_share_a_series() {
        let metrics = Metrics::new();
        let acme = "acme".parse().unwrap();
        for n in 0..MAX_FUNCTIONS + 50 {
            metrics.function(&acme, &format!("f{n}").parse().unwrap()).invoked("ok", Duration::ZERO);
        }
        let text = metrics.encode();
        assert!(text.contains("sandgate_requests_total{tenant=\"other\",function=\"other\",code=\"ok\"} 50"));
        assert!(!text.contains(&format!("\"f{MAX_FUNCTIONS}\"")));
    }
}
