//! From the queue to the collector: spans in batches, by OTLP over HTTP in protobuf.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags},
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    resource::TelemetryResourceDetector,
    trace::{IdGenerator, RandomIdGenerator, SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use tokio::sync::{Notify, mpsc};

use super::{Ended, SPAN_NAME, Story, TraceSettings};
use crate::record::{Metrics, Stage, Start};

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be sent: {reason}")]
pub struct ExportError {
    reason: String,
}

/// The sending side.
pub(super) struct Export {
    exporter: SpanExporter,
    scope: InstrumentationScope,
    ids: RandomIdGenerator,
    metrics: Arc<Metrics>,
    /// So that an outage is one line in the log.
    failing: bool,
}

impl Export {
    pub(super) fn new(settings: TraceSettings, metrics: Arc<Metrics>) -> Result<Self, ExportError> {
        // The client looks for the process's provider and panics without one. An `Err` says that there is one already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(settings.timeout)
            .timeout(settings.timeout)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("sandgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ExportError { reason: error.to_string() })?;
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(settings.endpoint)
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(settings.timeout)
            .with_headers(settings.headers)
            .build()
            .map_err(|error| ExportError { reason: error.to_string() })?;
        let resource = settings.resource.into_iter().map(|(name, value)| KeyValue::new(name, value));
        let resource = Resource::builder_empty()
            .with_detector(Box::new(TelemetryResourceDetector))
            .with_attributes(resource)
            .build();
        exporter.set_resource(&resource);
        let scope = InstrumentationScope::builder("sandgate").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { exporter, scope, ids: RandomIdGenerator::default(), metrics, failing: false })
    }

    /// Sends until it is told to close, and then what is left.
    pub(super) async fn run(mut self, mut ended: mpsc::Receiver<Ended>, closing: Arc<Notify>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut open = true;
        loop {
            tokio::select! {
                got = ended.recv_many(&mut batch, BATCH) => if got == 0 { return },
                () = closing.notified(), if open => {
                    open = false;
                    ended.close();
                    continue;
                }
            }
            // What comes within a moment goes along.
            let mut moment = std::pin::pin!(tokio::time::sleep(GATHER));
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                tokio::select! {
                    biased;
                    got = ended.recv_many(&mut batch, room) => if got == 0 { break },
                    () = closing.notified(), if open => {
                        open = false;
                        ended.close();
                    }
                    () = &mut moment => break,
                }
            }
            self.send(&mut batch).await;
        }
    }

    async fn send(&mut self, batch: &mut Vec<Ended>) {
        let traces = batch.len() as u64;
        let spans = batch.drain(..).flat_map(|ended| self.spans(ended)).collect();
        match self.exporter.export(spans).await {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.metrics.trace_dropped("not_sent", traces);
                if !self.failing {
                    tracing::warn!(%error, "traces cannot be sent; those to come are tried all the same");
                }
                self.failing = true;
            }
        }
    }

    fn spans(&self, ended: Ended) -> Vec<SpanData> {
        let Ended { trace, story, at } = ended;
        let (arrived, since) = story.arrived;
        let time = |at: Instant| arrived + at.saturating_duration_since(since);
        let mut spans = Vec::with_capacity(1 + Stage::ALL.len());
        let of_trace = |span_id| {
            let state = trace.context.trace_state().clone();
            SpanContext::new(trace.context.trace_id(), span_id, TraceFlags::SAMPLED, false, state)
        };
        for (stage, times) in Stage::ALL.iter().zip(&trace.stages) {
            let Some((started, ended)) = *times else { continue };
            let context = of_trace(self.ids.new_span_id());
            let times = (time(started), time(ended));
            spans.push(self.span(
                context,
                trace.context.span_id(),
                stage.as_str(),
                SpanKind::Internal,
                times,
            ));
        }
        let parent = trace.parent.as_ref().map_or(SpanId::INVALID, SpanContext::span_id);
        let times = (arrived, time(at));
        let mut root = self.span(trace.context.clone(), parent, SPAN_NAME, SpanKind::Server, times);
        root.parent_span_is_remote = trace.parent.is_some();
        root.links.links.extend(trace.claimed.clone().map(|claimed| Link::new(claimed, Vec::new(), 0)));
        // A caller's mistake is no error of the server's span (semantic conventions for HTTP).
        if story.status >= 500 {
            root.status = Status::error(story.code);
        }
        root.attributes = attributes(story);
        spans.push(root);
        spans
    }

    fn span(
        &self,
        span_context: SpanContext,
        parent_span_id: SpanId,
        name: &'static str,
        span_kind: SpanKind,
        (start_time, end_time): (SystemTime, SystemTime),
    ) -> SpanData {
        SpanData {
            span_context,
            parent_span_id,
            parent_span_is_remote: false,
            span_kind,
            name: name.into(),
            start_time,
            end_time,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

/// Under the names of records, but for what the semantic conventions have a name for.
fn attributes(story: Story) -> Vec<KeyValue> {
    let start = story.start.map(|start| match start {
        Start::Cold => "cold",
        Start::Warm => "warm",
    });
    let text = |name: &'static str, value: Option<String>| value.map(|value| KeyValue::new(name, value));
    [
        text("sandgate.request_id", Some(story.request_id.to_string())),
        text("sandgate.tenant", story.tenant.map(|tenant| tenant.to_string())),
        text("sandgate.function", story.function.map(|function| function.to_string())),
        text("sandgate.revision", story.revision.map(|revision| revision.to_string())),
        text("sandgate.start", start.map(str::to_owned)),
        text("sandgate.code", Some(story.code.to_owned())),
        text("http.request.method", Some(story.method.to_string())),
        Some(KeyValue::new("http.response.status_code", i64::from(story.status))),
        Some(KeyValue::new("sandgate.cpu_us", i64::try_from(story.cpu.as_micros()).unwrap_or(i64::MAX))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Invocations in one message: up to seven spans each, some 1 MiB at most.
const BATCH: usize = 512;
/// What a trace is late for those who watch, against a request to the collector for every call.
const GATHER: Duration = Duration::from_secs(1);
