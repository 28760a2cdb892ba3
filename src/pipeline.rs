//! The life of an invocation, in order. Each step takes the evidence of the step before by value, and only that step
//! can make it: leaving one out is a type error (INVARIANT Evidence).

mod admitting;
mod block;
mod build;
mod journal;
mod readiness;
mod refusal;
mod revision;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;

pub use self::{
    admitting::Patience,
    block::{Blocks, difference},
    build::{Builder, FaultyPlatform, known_names},
    journal::Journal,
    readiness::Readiness,
    refusal::Refusal,
    revision::{Function, Revision, Tenant},
};
use crate::{
    authn::Received,
    event::UnreadBody,
    id::{RequestId, TenantName},
    record::{AuditLog, Metrics, trace::Traces},
    sandbox::{DeathKind, Outcome, Sandbox},
    site::diagnostic::Diagnostic,
};

/// Everything that a request needs, shared by all of them without a lock.
pub struct Gateway {
    revision: ArcSwap<Revision>,
    audit: AuditLog,
    metrics: Arc<Metrics>,
    sandbox: Arc<Sandbox>,
    /// Why the newest platform part is not in force.
    platform_faults: ArcSwap<Vec<Diagnostic>>,
    blocks: Blocks,
    traces: Option<Traces>,
    closing: AtomicBool,
}

impl Gateway {
    /// A gateway that serves `revision`, whose functions run in `sandbox`, records in `audit`, and tells `traces`, if
    /// anybody asked for them.
    pub fn new(
        revision: Arc<Revision>,
        audit: AuditLog,
        metrics: Arc<Metrics>,
        sandbox: Arc<Sandbox>,
        blocks: Blocks,
        traces: Option<Traces>,
    ) -> Arc<Self> {
        metrics.revision(revision.id());
        count_faults(&metrics, &revision, &[]);
        for host in revision.hosts() {
            metrics.certificate(host.name().as_str(), Some(host.expires()));
        }
        Arc::new(Self {
            revision: ArcSwap::from(revision),
            audit,
            metrics,
            sandbox,
            platform_faults: ArcSwap::default(),
            blocks,
            traces,
            closing: AtomicBool::new(false),
        })
    }

    /// Takes one request through all five steps; `journal` learns what each of them found.
    pub async fn invoke(
        &self,
        received: Received<UnreadBody>,
        journal: &mut Journal,
    ) -> Result<Outcome, Refusal> {
        // The revision of the beginning is that of the end: a reload swaps the pointer, not what it points to.
        let revision = self.revision.load_full();
        let tenant = revision.tenant(&received.tenant)?;
        journal.routed(tenant);

        let authenticated = tenant.authenticator.authenticate(received).await?;
        journal.authenticated(authenticated.caller(), authenticated.fresh_nonce());

        let function = tenant.function(authenticated.function())?;
        journal.found(function);

        self.blocks.refuse(&function.id, authenticated.caller())?;
        let authorized = function.authorizer.authorize(authenticated)?;
        journal.authorized(authorized.decision());

        // A body may take its time to come, and a guest its own: neither outlasts a block.
        let caller = Arc::clone(authorized.caller());
        let reading = function.events.validate(authorized);
        let validated = self.blocks.unless_stopped(&function.id, &caller, reading).await??;
        journal.validated(validated.event());

        let running = function.runner.run(validated, &function.replies, journal.usage());
        let outcome = self.blocks.unless_stopped(&function.id, &caller, running).await??;
        journal.ran(outcome.reply().body().len());
        Ok(outcome)
    }

    /// The revision in force.
    pub fn revision(&self) -> Arc<Revision> {
        self.revision.load_full()
    }

    /// Puts another revision in force; requests in flight finish on the one they began with.
    pub fn swap(&self, revision: Arc<Revision>) {
        self.metrics.revision(revision.id());
        count_faults(&self.metrics, &revision, &[]);
        let before = self.revision.swap(Arc::clone(&revision));
        for gone in before.hosts().filter(|host| revision.host(host.name().as_str()).is_none()) {
            self.metrics.certificate(gone.name().as_str(), None);
        }
        for host in revision.hosts() {
            self.metrics.certificate(host.name().as_str(), Some(host.expires()));
        }
        self.platform_faults.store(Arc::default());
    }

    /// Keeps the revision in force, and tells why a newer one is not.
    pub fn keep(&self, faults: Vec<Diagnostic>) {
        count_faults(&self.metrics, &self.revision(), &faults);
        self.platform_faults.store(Arc::new(faults));
    }

    /// Why the newest platform part is not in force.
    pub fn platform_faults(&self) -> Arc<Vec<Diagnostic>> {
        self.platform_faults.load_full()
    }

    /// What the operator has blocked.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// No longer ready: a balancer should look elsewhere. Requests are served all the same.
    pub fn begin_closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether it is about to end.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Ends what functions of isolated tenants run in.
    pub fn end_workers(&self) {
        self.sandbox.end_workers();
    }

    /// Where invocations are recorded.
    pub fn audit(&self) -> &AuditLog {
        &self.audit
    }

    /// Where spans go, if they go anywhere.
    pub fn traces(&self) -> Option<&Traces> {
        self.traces.as_ref()
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// All metrics, those of the audit log and of the pool brought up to date.
    pub fn metrics_text(&self) -> String {
        self.metrics.audit(self.audit.stats());
        let (in_use, size) = self.sandbox.occupancy();
        self.metrics.pool(in_use.into(), size.into());
        let workers = self.sandbox.workers();
        let deaths = DeathKind::ALL.iter().map(|kind| kind.as_str()).zip(workers.deaths);
        self.metrics.workers(workers.alive.into(), workers.most.into(), deaths);
        self.metrics.compiling(self.sandbox.compiling());
        self.metrics.encode()
    }

    /// A fresh id for a request that arrived at `now`.
    pub fn next_request_id(&self, now: SystemTime) -> RequestId {
        let unix_ms = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let mut entropy = [0; 16];
        // Without randomness ids would repeat within a millisecond, which costs uniqueness but no secret.
        let _ = aws_lc_rs::rand::fill(&mut entropy);
        RequestId::new(unix_ms, u128::from_le_bytes(entropy))
    }
}

/// Told to the metrics as `/readyz` tells it: each tenant's faults, and those of a refused platform part.
fn count_faults(metrics: &Metrics, revision: &Revision, platform: &[Diagnostic]) {
    let mut counts: BTreeMap<&TenantName, u64> = BTreeMap::new();
    for (tenant, _) in revision.diagnostics().filter(|(_, diagnostic)| diagnostic.is_fault()) {
        *counts.entry(tenant).or_default() += 1;
    }
    let refused = platform.iter().filter(|diagnostic| diagnostic.is_fault()).count() as u64;
    let refused = (refused > 0).then_some((None, refused));
    metrics.site_faults(counts.into_iter().map(|(tenant, count)| (Some(tenant), count)).chain(refused));
}
