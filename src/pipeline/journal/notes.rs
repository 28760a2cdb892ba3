//! What is known of a request, and the record, the refusal and the span that are made of it.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::reason::Reason;
use crate::{
    authn::Caller,
    authz::{Decision, Reads},
    event::Signal,
    id::{FunctionName, RequestId, TenantName},
    pipeline::{
        Gateway,
        revision::{Function, Tenant},
    },
    record::{
        self, AuditError, CallerEntry, DecisionEntry, LimitHit, Outcome, Pairs, Record, SetBy, SignalEntry,
        Stage, Start, Told,
        trace::{Story, Trace, TraceId},
    },
    sandbox::{self, LimitValue, Usage},
};

/// What is known of a request so far.
pub(super) struct Notes {
    pub(super) request_id: RequestId,
    pub(super) tenant_name: TenantName,
    pub(super) function_name: FunctionName,
    pub(super) arrived: SystemTime,
    pub(super) started: Instant,
    pub(super) stage: Stage,
    pub(super) stage_started: Instant,
    pub(super) client: IpAddr,
    pub(super) tls: &'static str,
    pub(super) method: http::Method,
    pub(super) path: String,
    pub(super) bytes_declared: Option<u64>,
    pub(super) tenant: Option<Arc<Tenant>>,
    pub(super) function: Option<Arc<Function>>,
    pub(super) caller: Option<Arc<Caller>>,
    pub(super) decision: Option<Arc<Decision>>,
    pub(super) signals: Vec<Signal>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) usage: Usage,
    pub(super) ran: bool,
    /// `None` where nobody asked for traces, or not for this one.
    pub(super) trace: Option<Box<Trace>>,
}

impl Notes {
    /// Counts how it ended, and records and traces it.
    pub(super) async fn tell(
        mut self: Box<Self>,
        gateway: Arc<Gateway>,
        status: u16,
        code: &'static str,
        reason: Option<Reason>,
    ) -> Result<(), AuditError> {
        let metrics = gateway.metrics();
        let now = Instant::now();
        metrics.stage(self.stage, now - self.stage_started);
        let trace_id = self.trace.as_ref().map(|trace| trace.id());
        let traced = self.trace.take().map(|mut trace| {
            trace.stage(self.stage, self.stage_started, now);
            (trace, self.story(status, code, reason.as_ref().is_some_and(|reason| reason.shed)))
        });
        match &self.function {
            Some(function) => {
                function.metrics.invoked(code, self.usage.cpu);
                function.metrics.dropped(self.usage.dropped);
            }
            None => metrics.refused(code),
        }
        let Some(caller) = self.caller.clone() else {
            let (word, text, faulty) = match reason {
                Some(reason) => (reason.word, Some(reason.text), reason.tenant),
                None => ("client gone", None, None),
            };
            let refusal = record::Refusal {
                request_id: self.request_id,
                trace_id,
                time: self.arrived,
                client: self.client,
                status,
                code,
                reason: word,
                detail: text,
                // A name that the site does not have is the caller's text, and as many as it likes.
                tenant: self.tenant.as_ref().map(|tenant| tenant.name.clone()).or(faulty),
                stage: self.stage,
            };
            let told = gateway.audit().refused_unauthenticated(refusal).await;
            // Beyond the rate at which refusals are recorded one by one, a flood is no trace's affair either.
            if let (Told::Recorded(_), Some(traces), Some((trace, story))) = (told, gateway.traces(), traced)
            {
                traces.end(trace, story);
            }
            return Ok(());
        };
        let record = self.record(&gateway, &caller, trace_id, status, code, reason);
        if record.decision.as_ref().is_some_and(|decision| !decision.errors.is_empty()) {
            gateway.metrics().evaluation_error(&record.tenant);
        }
        let told = gateway.audit().append(record).await.map(drop);
        if let (Some(traces), Some((trace, mut story))) = (gateway.traces(), traced) {
            if told.is_err() {
                (story.status, story.code) = NOT_RECORDED;
            }
            traces.end(trace, story);
        }
        told
    }

    /// What a span tells. Names that the site does not have are left out: they are the caller's text.
    fn story(&self, status: u16, code: &'static str, shed: bool) -> Story {
        Story {
            request_id: self.request_id,
            tenant: self.tenant.as_ref().map(|tenant| tenant.name.clone()),
            function: self.function.as_ref().map(|_| self.function_name.clone()),
            revision: self.tenant.as_ref().map(|tenant| Arc::clone(&tenant.revision)),
            method: self.method.clone(),
            status,
            code,
            start: self.start(shed),
            cpu: self.usage.cpu,
            arrived: (self.arrived, self.started),
        }
    }

    /// A call that was shed had no instance; after its slice had one, and lost it, it had.
    fn start(&self, shed: bool) -> Option<Start> {
        let instance = self.ran && (!shed || self.usage.retried);
        instance.then_some(if self.usage.cold { Start::Cold } else { Start::Warm })
    }

    fn record(
        self,
        gateway: &Gateway,
        caller: &Caller,
        trace_id: Option<TraceId>,
        status: u16,
        code: &'static str,
        reason: Option<Reason>,
    ) -> Record {
        let (too_large, shed) = reason.as_ref().map_or((false, false), |r| (r.too_large, r.shed));
        let (reason, denied, blocked) = match reason {
            Some(reason) => (Some(reason.text), reason.decision, reason.signals),
            None => (None, None, Vec::new()),
        };
        let mut limits: Vec<LimitHit> = self.usage.hits.iter().map(limit_hit).collect();
        limits.extend(self.function.as_ref().filter(|_| too_large).map(|function| {
            let event = function.runner.limits().event;
            LimitHit { name: "max-bytes", value: event.value.0, set_by: set_by(event.set_by) }
        }));
        let decision = self.decision.clone().or(denied);
        let reads = decision.as_ref().map(|decision| Arc::clone(&decision.reads));
        let signals = if blocked.is_empty() { &self.signals } else { &blocked };
        Record {
            request_id: self.request_id,
            trace_id,
            time: self.arrived,
            revision: self.tenant.as_ref().map_or_else(|| "".into(), |tenant| Arc::clone(&tenant.revision)),
            tenant: self.tenant_name.clone(),
            function: self.function_name.clone(),
            caller: CallerEntry {
                id: Arc::clone(caller.shared_id()),
                roles: caller.roles().to_vec(),
                scopes: caller.scopes().to_vec(),
                tags: reads.as_ref().map(|reads| self.tags(gateway, caller, reads)).unwrap_or_default(),
            },
            context: reads.as_ref().map(|reads| self.context(caller, reads)).unwrap_or_default(),
            via: Vec::new(),
            stage: self.stage,
            outcome: Outcome {
                status,
                code,
                reason,
                policy_codes: decision.as_ref().map(|decision| decision.codes.clone()).unwrap_or_default(),
            },
            decision: decision.map(|decision| DecisionEntry {
                allowed: decision.allowed,
                policies: decision.policies.clone(),
                errors: decision
                    .errors
                    .iter()
                    .map(|e| format!("{}: {}", e.policy, e.message).into())
                    .collect(),
            }),
            grants: Vec::new(),
            signals: signals
                .iter()
                .map(|signal| SignalEntry {
                    pointer: signal.pointer.as_str().into(),
                    kind: signal.kind.as_str(),
                })
                .collect(),
            limits,
            cpu_us: micros(self.usage.cpu),
            wall_us: micros(self.started.elapsed()),
            peak_memory: self.usage.peak_memory,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            start: self.start(shed),
            worker: self.usage.worker,
        }
    }

    /// Only the tags that the slice reads (all, if it computes their names); those under `redact` as keyed hashes.
    fn tags(&self, gateway: &Gateway, caller: &Caller, reads: &Reads) -> Pairs {
        let redact = self.tenant.as_ref().map_or(&[][..], |tenant| &tenant.redact);
        let shown =
            caller.tags().iter().filter(|(name, _)| reads.any_tag || reads.tags.contains(name.as_str()));
        shown
            .map(|(name, value)| {
                let value = if redact.iter().any(|redacted| **redacted == **name) {
                    gateway.audit().redactor().hash(&self.tenant_name, name, value)
                } else {
                    value.as_str().into()
                };
                (name.as_str().into(), value)
            })
            .collect()
    }

    /// Only the circumstances that the slice reads, and that the record does not hold anyway.
    fn context(&self, caller: &Caller, reads: &Reads) -> Pairs {
        let mut pairs = Pairs::new();
        for field in &reads.context {
            let value: Arc<str> = match &**field {
                "method" => self.method.as_str().into(),
                "path" => self.path.as_str().into(),
                "tls" => self.tls.into(),
                "client" => self.client.to_string().into(),
                "binding" => caller.binding().into(),
                "bytes" => match self.bytes_declared {
                    Some(bytes) => bytes.to_string().into(),
                    None => continue,
                },
                "authenticatedAt" => match caller.authenticated_at() {
                    Some(at) => unix_ms(at).to_string().into(),
                    None => continue,
                },
                _ => continue,
            };
            pairs.push(((&**field).into(), value));
        }
        pairs
    }
}

fn limit_hit(hit: &sandbox::LimitHit) -> LimitHit {
    LimitHit {
        name: hit.name.as_str(),
        value: match hit.value {
            LimitValue::Time(span) => u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX),
            LimitValue::Size(bytes) => bytes.0,
            LimitValue::Count(count) => u64::from(count),
        },
        set_by: set_by(hit.set_by),
    }
}

fn set_by(who: sandbox::SetBy) -> SetBy {
    match who {
        sandbox::SetBy::Platform => SetBy::Platform,
        sandbox::SetBy::Tenant => SetBy::Tenant,
        sandbox::SetBy::Function => SetBy::Function,
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What is answered in place of a reply that could not be recorded.
const NOT_RECORDED: (u16, &str) = (503, "unavailable");
