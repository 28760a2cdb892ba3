//! Traces: what the record says of an invocation, as spans that a collector of OpenTelemetry puts beside those of others.
//!
//! One span is the invocation, one child of it each stage that it came to. Nothing is measured for them that the metrics do
//! not measure anyway. They leave by a queue with a bound after the reply was recorded: a collector that is slow or gone costs
//! spans, which are counted, and never a caller's time. Without an endpoint there is neither queue nor task, and an invocation
//! asks once whether there is.
//!
//! A span names tenant and function only where the site has them: what a caller made up is theirs, and as much as they like.
//! Tokens, values of events and callers' tags have no place in a [`Story`], so none can be sent.

mod context;
mod export;
mod settings;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use http::HeaderMap;
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanKind, TraceContextExt, TraceFlags, TraceState},
};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample};
use serde::{Serialize, Serializer};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};

pub use self::{
    export::ExportError,
    settings::{SettingsError, TraceSettings},
};
use super::{Metrics, Stage, Start};
use crate::id::{FunctionName, RequestId, TenantName};

/// Names a trace, in records and replies as in spans.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId(opentelemetry::TraceId);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where spans are made and sent from.
pub struct Traces {
    sampler: Sampler,
    ids: RandomIdGenerator,
    queue: mpsc::Sender<Ended>,
    closing: Arc<Notify>,
    task: Mutex<Option<JoinHandle<()>>>,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").field("sampler", &self.sampler).finish_non_exhaustive()
    }
}

/// A trace that an invocation is part of, from its beginning on.
#[derive(Debug)]
pub struct Trace {
    context: SpanContext,
    /// Whom the caller's span is, if they are believed.
    parent: Option<SpanContext>,
    /// What the caller claimed, if they are not.
    claimed: Option<SpanContext>,
    stages: [Option<(Instant, Instant)>; Stage::ALL.len()],
}

/// What a span tells of an invocation.
#[derive(Debug)]
pub struct Story {
    /// The id that the reply bears.
    pub request_id: RequestId,
    /// The tenant, if the site has it.
    pub tenant: Option<TenantName>,
    /// The function, if the site has it and the caller proved who they are.
    pub function: Option<FunctionName>,
    /// The revision that decided.
    pub revision: Option<Arc<str>>,
    /// The method of the request.
    pub method: http::Method,
    /// Status of the reply.
    pub status: u16,
    /// The public code.
    pub code: &'static str,
    /// Whether the component was loaded already, if an instance was made.
    pub start: Option<Start>,
    /// CPU time of the guest.
    pub cpu: Duration,
    /// When the request arrived, by the calendar and by the clock that the stages are measured with.
    pub arrived: (SystemTime, Instant),
}

/// A trace that is over.
#[derive(Debug)]
struct Ended {
    trace: Box<Trace>,
    story: Story,
    at: Instant,
}

impl Traces {
    /// Begins to send what `settings` ask for. Within a runtime, which the sending task lives in.
    pub fn start(settings: TraceSettings, metrics: Arc<Metrics>) -> Result<Self, ExportError> {
        let (queue, ended) = mpsc::channel(QUEUE);
        let closing = Arc::new(Notify::new());
        let sampler = settings.sampler.clone();
        let export = export::Export::new(settings, Arc::clone(&metrics))?;
        let task = tokio::spawn(export.run(ended, Arc::clone(&closing)));
        let ids = RandomIdGenerator::default();
        Ok(Self { sampler, ids, queue, closing, task: Mutex::new(Some(task)), metrics })
    }

    /// The trace that a request begins or goes on with, unless it is not to be traced. `believed` says whether its peer may
    /// choose the trace and whether it is sampled: anybody else begins a new one, with a link to what they claimed.
    pub fn begin(&self, headers: &HeaderMap, believed: bool) -> Option<Box<Trace>> {
        let claimed = context::read(headers, believed);
        let (parent, claimed) = if believed { (claimed, None) } else { (None, claimed) };
        let trace_id = parent.as_ref().map_or_else(|| self.ids.new_trace_id(), SpanContext::trace_id);
        let around = parent.clone().map(|parent| Context::new().with_remote_span_context(parent));
        let sampled =
            self.sampler.should_sample(around.as_ref(), trace_id, SPAN_NAME, &SpanKind::Server, &[], &[]);
        if sampled.decision != SamplingDecision::RecordAndSample {
            return None;
        }
        let state = parent.as_ref().map_or_else(TraceState::default, |parent| parent.trace_state().clone());
        let span_id = self.ids.new_span_id();
        let context = SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, false, state);
        Some(Box::new(Trace { context, parent, claimed, stages: [None; Stage::ALL.len()] }))
    }

    /// The invocation is over and recorded. Never waits: without room in the queue its spans are dropped, and counted.
    pub fn end(&self, trace: Box<Trace>, story: Story) {
        if self.queue.try_send(Ended { trace, story, at: Instant::now() }).is_err() {
            self.metrics.trace_dropped("queue_full", 1);
        }
    }

    /// Sends what is in the queue, for so long and no longer.
    pub async fn close(&self, within: Duration) {
        self.closing.notify_one();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else { return };
        if tokio::time::timeout(within, &mut task).await.is_err() {
            task.abort();
            tracing::warn!("the last traces could not be sent in time");
        }
    }
}

impl Trace {
    /// Its name.
    pub fn id(&self) -> TraceId {
        TraceId(self.context.trace_id())
    }

    /// A stage has ended.
    pub fn stage(&mut self, stage: Stage, started: Instant, ended: Instant) {
        if let Some(at) = self.stages.get_mut(stage as usize) {
            *at = Some((started, ended));
        }
    }

    /// What a peer that is believed is told: under which ids its request was served (W3C Trace Context Level 2, `traceresponse`).
    pub fn response(&self) -> Option<String> {
        self.parent.as_ref()?;
        Some(format!("00-{}-{}-01", self.context.trace_id(), self.context.span_id()))
    }
}

/// One name for all: names of tenants and functions are attributes.
const SPAN_NAME: &str = "invoke";
/// Invocations whose spans wait to be sent, some 1 KiB each.
const QUEUE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn story() -> Story {
        Story {
            request_id: RequestId::new(1, 1),
            tenant: None,
            function: None,
            revision: None,
            method: http::Method::POST,
            status: 200,
            code: "ok",
            start: None,
            cpu: Duration::ZERO,
            arrived: (SystemTime::now(), Instant::now()),
        }
    }

    /// The sending task gets no turn on this runtime before the test waits for something, as if the collector hung.
    #[tokio::test]
    async fn a_full_queue_drops_and_counts_and_nobody_waits() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let settings =
            TraceSettings::read(|name| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| endpoint.clone()));
        let metrics = Arc::new(Metrics::new());
        let traces = Traces::start(settings.unwrap().unwrap(), Arc::clone(&metrics)).unwrap();
        for _ in 0..QUEUE + 3 {
            traces.end(traces.begin(&HeaderMap::new(), false).unwrap(), story());
        }
        let line = "sandgate_traces_dropped_total{kind=\"queue_full\"} 3";
        assert!(metrics.encode().lines().any(|told| told == line), "{}", metrics.encode());
        // The end waits no longer than it is told to, though nobody ever answers.
        traces.close(Duration::from_millis(1)).await;
        assert!(traces.task.lock().unwrap().is_none());
    }
}
