//! What becomes known of a request on its way, and the record that it ends in.
//!
//! INVARIANT (Told): a journal that is dropped before it was closed, because the client went away and took the
//! request's task with it, closes itself.

mod notes;
mod reason;

use std::{sync::Arc, time::Instant};

use self::{notes::Notes, reason::Reason};
use super::{
    Gateway, Refusal,
    revision::{Function, Tenant},
};
use crate::{
    authn::{Caller, Received},
    authz::Decision,
    event::{Event, EventError},
    record::{AuditError, Stage, trace::TraceId},
    sandbox::Usage,
};

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

impl Journal {
    /// Opens the journal of a request that has been looked at since `begun`. `believed` says whether its peer may say
    /// which trace it belongs to.
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

/// Status and code of a reply that nobody was there to receive; 499 is what access logs of other servers say too.
const CLIENT_GONE: (u16, &str) = (499, "client_gone");
