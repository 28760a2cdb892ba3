//! The life of an invocation, in order. Each step takes the evidence of the step before by value, and only that step
//! can make it: leaving one out is a type error (INVARIANT Evidence).

mod journal;
mod refusal;
mod revision;

use std::{sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;

pub use self::{
    journal::Journal,
    refusal::{Code, Refusal},
    revision::{Function, Revision, Tenant},
};
use crate::{
    authn::Received,
    event::UnreadBody,
    id::RequestId,
    record::{AuditLog, Metrics, Stage},
    sandbox::Outcome,
};

/// Everything that a request needs, shared by all of them without a lock.
pub struct Gateway {
    revision: ArcSwap<Revision>,
    audit: AuditLog,
    metrics: Arc<Metrics>,
}

impl Gateway {
    /// A gateway that serves `revision` and records in `audit`.
    pub fn new(revision: Arc<Revision>, audit: AuditLog, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { revision: ArcSwap::from(revision), audit, metrics })
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
        journal.reached(Stage::Authenticate, tenant);

        let authenticated = tenant.authenticator.authenticate(received).await?;
        journal.authenticated(authenticated.caller());

        let function = tenant.function(authenticated.function())?;
        let authorized = function.authorizer.authorize(authenticated)?;
        journal.authorized(&function.authorizer, &authorized);

        let validated = function.events.validate(authorized).await?;
        journal.validated(validated.event());

        let outcome = function.runner.run(validated).await?;
        journal.ran(&outcome);
        Ok(outcome)
    }

    /// The revision in force.
    pub fn revision(&self) -> Arc<Revision> {
        self.revision.load_full()
    }

    /// Puts another revision in force; requests in flight finish on the one they began with.
    pub fn swap(&self, revision: Arc<Revision>) {
        self.revision.store(revision);
    }

    /// Where invocations are recorded.
    pub fn audit(&self) -> &AuditLog {
        &self.audit
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
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
