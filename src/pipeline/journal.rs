//! What becomes known of a request on its way, and the record that it ends in.
//!
//! INVARIANT (Told): a journal that is dropped before it was closed, because the client went away and took the
//! request's task with it, closes itself.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Gateway, Refusal,
    revision::{Function, Tenant},
};
use crate::{
    authn::{Caller, Received},
    authz::{Decision, Reads},
    event::{Event, EventError, Signal},
    id::{FunctionName, RequestId, TenantName},
    record::{
        self, AuditError, CallerEntry, DecisionEntry, LimitHit, Outcome, Pairs, Record, SetBy, SignalEntry,
        Stage, Start, Told,
        trace::{Story, Trace, TraceId},
    },
    sandbox::{self, LimitValue, SandboxError, Usage},
};

/// Status and code of a reply that nobody was there to receive; 499 is what access logs of other servers say too.
const CLIENT_GONE: (u16, &str) = (499, "client_gone");
/// What is answered in place of a reply that could not be recorded.
const NOT_RECORDED: (u16, &str) = (503, "unavailable");

/// Notes of one request; ends in its record.
pub struct Journal {
    gateway: Arc<Gateway>,
    /// `None` once closed.
    notes: Option<Box<Notes>>,
    /// What the sandbox used up; beside the notes, since it is lent while the guest runs.
    usage: Usage,
    /// For the reply, whatever it is: see [`crate::authn::Authenticated::fresh_nonce`].
    nonce: Option<String>,
}

struct Notes {
    request_id: RequestId,
    tenant_name: TenantName,
    function_name: FunctionName,
    arrived: SystemTime,
    started: Instant,
    stage: Stage,
    stage_started: Instant,
    client: IpAddr,
    tls: &'static str,
    method: http::Method,
    path: String,
    bytes_declared: Option<u64>,
    tenant: Option<Arc<Tenant>>,
    function: Option<Arc<Function>>,
    caller: Option<Arc<Caller>>,
    decision: Option<Arc<Decision>>,
    signals: Vec<Signal>,
    bytes_in: u64,
    bytes_out: u64,
    usage: Usage,
    ran: bool,
    /// `None` where nobody asked for traces, or not for this one.
    trace: Option<Box<Trace>>,
}

impl Journal {
    /// Opens the journal of a request that has been looked at since `begun`. `believed` says whether its peer may say which trace it belongs to.
    pub fn open<B>(gateway: &Arc<Gateway>, received: &Received<B>, begun: Instant, believed: bool) -> Self {
        let head = &received.head;
        let length = head.headers.get(http::header::CONTENT_LENGTH);
        let notes = Notes {
            request_id: received.request_id,
            tenant_name: received.tenant.clone(),
            function_name: received.function.clone(),
            arrived: head.now,
            started: begun,
            stage: Stage::Route,
            stage_started: begun,
            client: head.client,
            tls: head.tls,
            method: head.method.clone(),
            path: head.path.clone(),
            bytes_declared: length.and_then(|value| value.to_str().ok()?.parse().ok()),
            tenant: None,
            function: None,
            caller: None,
            decision: None,
            signals: Vec::new(),
            bytes_in: 0,
            bytes_out: 0,
            usage: Usage::default(),
            ran: false,
            trace: gateway.traces().and_then(|traces| traces.begin(&head.headers, believed)),
        };
        let usage = Usage::default();
        Self { gateway: Arc::clone(gateway), notes: Some(Box::new(notes)), usage, nonce: None }
    }

    /// The tenant is known; next: who asks.
    pub(super) fn routed(&mut self, tenant: &Arc<Tenant>) {
        self.note(Stage::Authenticate, |notes| notes.tenant = Some(Arc::clone(tenant)));
    }

    /// The caller is known; next: may they.
    pub(super) fn authenticated(&mut self, caller: &Arc<Caller>, fresh_nonce: Option<&str>) {
        self.nonce = fresh_nonce.map(str::to_owned);
        self.note(Stage::Authorize, |notes| notes.caller = Some(Arc::clone(caller)));
    }

    /// The function is known.
    pub(super) fn found(&mut self, function: &Arc<Function>) {
        if let Some(notes) = &mut self.notes {
            notes.function = Some(Arc::clone(function));
        }
    }

    /// Policy allows it; next: is it an event.
    pub(super) fn authorized(&mut self, decision: &Arc<Decision>) {
        self.note(Stage::Validate, |notes| notes.decision = Some(Arc::clone(decision)));
    }

    /// It is an event; next: run.
    pub(super) fn validated(&mut self, event: &Event) {
        self.note(Stage::Run, |notes| {
            notes.bytes_in = event.bytes_in();
            notes.signals = event.signals().to_vec();
            notes.ran = true;
        });
    }

    /// What the sandbox uses up, whether or not there is a reply.
    pub(super) fn usage(&mut self) -> &mut Usage {
        &mut self.usage
    }

    /// The nonce that the reply tells its caller, if it tells one.
    pub fn take_nonce(&mut self) -> Option<String> {
        self.nonce.take()
    }

    /// The trace that it is part of, if it is traced.
    pub fn trace_id(&self) -> Option<TraceId> {
        Some(self.notes.as_ref()?.trace.as_ref()?.id())
    }

    /// What a peer that said which trace it belongs to is told.
    pub fn trace_response(&self) -> Option<String> {
        self.notes.as_ref()?.trace.as_ref()?.response()
    }

    /// The notes, with what was used up, once.
    fn take(&mut self) -> Option<Box<Notes>> {
        let mut notes = self.notes.take()?;
        notes.usage = std::mem::take(&mut self.usage);
        Some(notes)
    }

    /// There is a reply; next: send it.
    pub(super) fn ran(&mut self, bytes_out: usize) {
        self.note(Stage::Reply, |notes| notes.bytes_out = bytes_out as u64);
    }

    fn note(&mut self, next: Stage, what: impl FnOnce(&mut Notes)) {
        let Some(notes) = &mut self.notes else { return };
        let now = Instant::now();
        self.gateway.metrics().stage(notes.stage, now - notes.stage_started);
        if let Some(trace) = &mut notes.trace {
            trace.stage(notes.stage, notes.stage_started, now);
        }
        notes.stage = next;
        notes.stage_started = now;
        what(notes);
    }

    /// Records how it ended; only then may the reply go. `refusal` is why there is no reply of a function's. Where its client
    /// is gone, status and code are those that say so.
    pub async fn close(
        mut self,
        status: u16,
        code: &'static str,
        refusal: Option<&Refusal>,
    ) -> Result<(), AuditError> {
        let Some(notes) = self.take() else { return Ok(()) };
        let gone = matches!(refusal, Some(Refusal::Event(EventError::ClientGone { .. })));
        let (status, code) = if gone { CLIENT_GONE } else { (status, code) };
        let reason = refusal.map(Reason::of);
        let gateway = Arc::clone(&self.gateway);
        notes.tell(gateway, status, code, reason).await
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Whoever catches a panic tells of it, before it is answered.
        if std::thread::panicking() {
            return;
        }
        let Some(notes) = self.take() else { return };
        let gateway = Arc::clone(&self.gateway);
        // Without a runtime the process is ending, and its connections with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let (status, code) = CLIENT_GONE;
                if let Err(error) = notes.tell(gateway, status, code, None).await {
                    tracing::error!(%error, "a request whose client went away could not be recorded");
                }
            });
        }
    }
}

/// Why a request was refused, in an operator's terms.
struct Reason {
    /// A word of ours, of which there are few: for aggregates.
    word: &'static str,
    /// The whole chain of causes.
    text: String,
    decision: Option<Arc<Decision>>,
    signals: Vec<Signal>,
    /// A tenant that the site has, though nothing of it serves.
    tenant: Option<TenantName>,
    /// The event was larger than the function takes.
    too_large: bool,
    /// There was no room to run it.
    shed: bool,
}

impl Reason {
    fn of(refusal: &Refusal) -> Self {
        let mut text = refusal.to_string();
        let mut cause = std::error::Error::source(refusal);
        while let Some(error) = cause {
            let told = error.to_string();
            // Some errors tell their cause themselves.
            if !text.ends_with(&told) {
                text.push_str(": ");
                text.push_str(&told);
            }
            cause = error.source();
        }
        let word = match refusal {
            Refusal::UnknownTenant(_) => "unknown tenant",
            Refusal::FaultyTenant(_) => "faulty tenant",
            Refusal::Authn(error) => error.check().name(),
            _ => "refused",
        };
        let decision = match refusal {
            Refusal::Authz(error) => error.decision().cloned(),
            _ => None,
        };
        let signals = match refusal {
            Refusal::Event(EventError::Injection { signals }) => signals.clone(),
            _ => Vec::new(),
        };
        let tenant = match refusal {
            Refusal::FaultyTenant(tenant) => Some(tenant.clone()),
            _ => None,
        };
        let too_large = matches!(refusal, Refusal::Event(EventError::TooLarge { .. }));
        let shed = matches!(refusal, Refusal::Sandbox(SandboxError::Overloaded(_)));
        Self { word, text, decision, signals, tenant, too_large, shed }
    }
}

impl Notes {
    async fn tell(
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
