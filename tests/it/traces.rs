//! What a collector of OpenTelemetry is told, by OTLP over HTTP, and what callers notice of it: nothing.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;
use http::HeaderMap;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode as Code},
};
use prost::Message as _;
use sandgate::record::trace::TraceSettings;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

use crate::{
    client::Reply,
    guest::echo,
    world::{Live, World},
};

const CLAIMED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const CLAIMED_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLAIMED_SPAN: &str = "b7ad6b7169203331";

/// Takes what is sent to `/v1/traces`.
struct Collector {
    address: SocketAddr,
    messages: mpsc::UnboundedReceiver<(HeaderMap, Bytes)>,
    server: JoinHandle<()>,
}

impl Collector {
    async fn start() -> Self {
        let (sender, messages) = mpsc::unbounded_channel();
        let take = move |headers: HeaderMap, body: Bytes| async move {
            sender.send((headers, body)).unwrap();
        };
        let router = axum::Router::new().route("/v1/traces", axum::routing::post(take));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, messages, server }
    }

    /// All that came, after the gateway has stopped.
    async fn told(mut self, world: Live) -> Told {
        world.running.stop().await;
        self.server.abort();
        let mut told = Told::default();
        while let Ok((headers, body)) = self.messages.try_recv() {
            let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
            for resource in request.resource_spans {
                told.resource = attributes(&resource.resource.unwrap().attributes);
                told.spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
            told.headers = headers;
            told.bytes.extend_from_slice(&body);
        }
        told
    }
}

#[derive(Default)]
struct Told {
    headers: HeaderMap,
    bytes: Vec<u8>,
    resource: BTreeMap<String, String>,
    spans: Vec<Span>,
}

impl Told {
    /// The span of a reply, and those of its stages by time.
    fn of(&self, reply: &Reply) -> (&Span, Vec<&Span>) {
        let id = reply.header("sandgate-request-id").unwrap();
        let named =
            |span: &&Span| attributes(&span.attributes).get("sandgate.request_id").is_some_and(|i| i == id);
        let roots: Vec<_> = self.spans.iter().filter(named).collect();
        assert_eq!(roots.len(), 1, "one span for {id}");
        let root = roots[0];
        let child = |span: &&Span| span.trace_id == root.trace_id && span.parent_span_id == root.span_id;
        let mut children: Vec<_> = self.spans.iter().filter(child).collect();
        children.sort_by_key(|span| (span.start_time_unix_nano, span.end_time_unix_nano));
        (root, children)
    }

    /// What is told of a reply, as a person would write it down.
    fn text(&self, reply: &Reply) -> String {
        let (root, children) = self.of(reply);
        let names: Vec<_> = children.iter().map(|span| span.name.as_str()).collect();
        let told: Vec<_> = attributes(&root.attributes)
            .into_iter()
            .filter(|(name, _)| {
                !matches!(name.as_str(), "sandgate.request_id" | "sandgate.revision" | "sandgate.cpu_us")
            })
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let failed = root.status.as_ref().is_some_and(|status| status.code == Code::Error as i32);
        format!(
            "{} > {}\n{}{}",
            root.name,
            names.join(" "),
            told.join(" "),
            if failed { " FAILED" } else { "" }
        )
    }
}

fn attributes(all: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &KeyValue| match value.value.as_ref().unwrap().value.as_ref().unwrap() {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    all.iter().map(|value| (value.key.clone(), text(value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn start(world: World, collector: &Collector, more: &[(&str, &str)]) -> Live {
    start_at(world, collector.address, more).await
}

async fn start_at(world: World, address: SocketAddr, more: &[(&str, &str)]) -> Live {
    let endpoint = format!("http://{address}");
    let settings = TraceSettings::read(|name| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(endpoint.clone()),
        _ => more.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()),
    });
    let settings = settings.unwrap().unwrap();
    world.start_with(|options| options.traces = Some(settings)).await
}

#[tokio::test]
async fn one_span_an_invocation_with_one_child_a_stage_whatever_became_of_it() {
    let collector = Collector::start().await;
    let more = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=s%20s"),
        ("OTEL_SERVICE_NAME", "gate"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
    ];
    let world = start(World::with("echo", &echo()), &collector, &more).await;
    let token = world.token("acme").subject("zoe").sign();
    let allowed = world.invoke("acme/echo").bearer(&token).text(r#"{"name":"Quetzalcoatl"}"#).send().await;
    let again = world.invoke("acme/echo").send().await;
    let refused = world.invoke("acme/echo").bearer("no-token-at-all").send().await;
    let unheard = world.invoke("acme/made-up-by-caller").send().await;
    let nobody = world.invoke("not-a-tenant/echo").bearer("x").send().await;
    let malformed = world.invoke("acme/echo").text("{").send().await;
    let record = world.record(&allowed);
    let of_refused = world.record(&refused);
    let told = collector.told(world).await;

    let texts = [&allowed, &again, &refused, &unheard, &nobody, &malformed].map(|reply| told.text(reply));
    insta::assert_snapshot!(texts.join("\n"), @"
    invoke > route authenticate authorize validate run reply
    http.request.method=POST http.response.status_code=200 sandgate.code=ok sandgate.function=echo sandgate.start=warm sandgate.tenant=acme
    invoke > route authenticate authorize validate run reply
    http.request.method=POST http.response.status_code=200 sandgate.code=ok sandgate.function=echo sandgate.start=warm sandgate.tenant=acme
    invoke > route authenticate
    http.request.method=POST http.response.status_code=401 sandgate.code=unauthenticated sandgate.tenant=acme
    invoke > route authenticate authorize
    http.request.method=POST http.response.status_code=404 sandgate.code=not_found sandgate.tenant=acme
    invoke > route
    http.request.method=POST http.response.status_code=401 sandgate.code=unauthenticated
    invoke > route authenticate authorize validate
    http.request.method=POST http.response.status_code=400 sandgate.code=malformed sandgate.function=echo sandgate.tenant=acme
    ");

    for (reply, record) in [(&allowed, &record), (&refused, &of_refused)] {
        let (root, children) = told.of(reply);
        assert_eq!(record["trace_id"], *hex(&root.trace_id));
        assert!(root.parent_span_id.is_empty() && root.links.is_empty());
        assert!(root.start_time_unix_nano <= children[0].start_time_unix_nano);
        assert!(children.last().unwrap().end_time_unix_nano <= root.end_time_unix_nano);
        for pair in children.windows(2) {
            assert_eq!(pair[0].end_time_unix_nano, pair[1].start_time_unix_nano, "stages follow each other");
        }
    }
    let (root, _) = told.of(&allowed);
    let told_of = attributes(&root.attributes);
    assert_eq!(told_of["sandgate.revision"], record["revision"].as_str().unwrap());
    assert_eq!(told_of["sandgate.cpu_us"], record["cpu_us"].to_string());
    assert_ne!(told.of(&again).0.trace_id, root.trace_id);
    assert_eq!(told.headers["x-key"], "s s");
    assert_eq!(told.headers["content-type"], "application/x-protobuf");
    let resource: Vec<_> =
        ["service.name", "deployment.environment.name"].map(|name| &*told.resource[name]).into();
    assert_eq!(resource, ["gate", "test"]);
    // Neither credentials nor what callers sent.
    let text = String::from_utf8_lossy(&told.bytes);
    for secret in [&*token, "no-token-at-all", "Quetzalcoatl", "zoe", "made-up-by-caller", "not-a-tenant"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn a_claimed_context_of_anybody_begins_a_new_trace_with_a_link_to_it() {
    let collector = Collector::start().await;
    let world = start(World::with("echo", &echo()), &collector, &[]).await;
    let call = |parent: &str| {
        world.invoke("acme/echo").header("traceparent", parent).header("tracestate", "vendor=x").send()
    };
    let linked = call(CLAIMED).await;
    // Whether it is sampled is not the caller's to say either.
    let unsampled = call(&CLAIMED.replace("-01", "-00")).await;
    let garbled = call(&CLAIMED.to_uppercase()).await;
    assert_eq!(linked.header("traceresponse"), None);
    let told = collector.told(world).await;
    for (reply, links) in [(&linked, 1), (&unsampled, 1), (&garbled, 0)] {
        assert_eq!(reply.status, 200);
        let (root, children) = told.of(reply);
        assert_eq!((root.parent_span_id.len(), children.len()), (0, 6));
        assert_ne!(hex(&root.trace_id), CLAIMED_TRACE);
        assert_eq!((root.trace_state.as_str(), root.links.len()), ("", links));
        for link in &root.links {
            assert_eq!((&*hex(&link.trace_id), &*hex(&link.span_id)), (CLAIMED_TRACE, CLAIMED_SPAN));
            assert_eq!(link.trace_state, "");
        }
    }
}

/// The PROXY protocol's way to say that a proxy speaks for itself.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[tokio::test]
async fn a_listed_proxy_says_which_trace_its_own_requests_belong_to_and_its_clients_do_not() {
    let collector = Collector::start().await;
    let world =
        World::with("echo", &echo()).file("sandgate.toml", "[server]\nproxies = [\"127.0.0.1/32\"]\n");
    let world = start(world, &collector, &[]).await;
    let send = async |prelude: Vec<u8>, parent: &str| {
        let call = world.invoke("acme/echo").header("traceparent", parent).header("tracestate", "vendor=x");
        let (client, version, request) = call.finish();
        client.prelude(prelude).send(version, request).await
    };
    let own = send(LOCAL.to_vec(), CLAIMED).await;
    let unsampled = send(LOCAL.to_vec(), &CLAIMED.replace("-01", "-00")).await;
    let passed_on =
        [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &[192, 0, 2, 7][..], &[127, 0, 0, 1, 1, 2, 3, 4]].concat();
    let passed_on = send(passed_on, CLAIMED).await;
    assert_eq!(world.record(&own)["trace_id"], CLAIMED_TRACE);
    assert_eq!(world.record(&unsampled)["trace_id"], serde_json::Value::Null);
    assert_eq!((unsampled.header("traceresponse"), passed_on.header("traceresponse")), (None, None));
    let told = collector.told(world).await;

    let (root, children) = told.of(&own);
    assert_eq!((&*hex(&root.trace_id), &*hex(&root.parent_span_id)), (CLAIMED_TRACE, CLAIMED_SPAN));
    assert_eq!((root.trace_state.as_str(), root.links.len(), children.len()), ("vendor=x", 0, 6));
    let response = format!("00-{CLAIMED_TRACE}-{}-01", hex(&root.span_id));
    assert_eq!(own.header("traceresponse"), Some(&*response));
    let (root, _) = told.of(&passed_on);
    assert_ne!(hex(&root.trace_id), CLAIMED_TRACE);
    assert_eq!(told.spans.len(), 14, "nothing of the one that its proxy did not sample");
}

#[tokio::test]
async fn what_the_sampler_leaves_out_is_neither_sent_nor_noted() {
    for sampler in [
        &[("OTEL_TRACES_SAMPLER", "always_off")][..],
        &[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0")],
    ] {
        let collector = Collector::start().await;
        let world = start(World::with("echo", &echo()), &collector, sampler).await;
        let reply = world.invoke("acme/echo").header("traceparent", CLAIMED).send().await;
        assert_eq!(reply.status, 200);
        assert_eq!(world.record(&reply).get("trace_id"), None);
        assert_eq!(collector.told(world).await.bytes, b"");
    }
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_spans_that_are_counted_and_nobody_a_call() {
    let gone = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let world = World::with("echo", &echo());
    let world = start_at(world, gone, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "200")]).await;
    for _ in 0..3 {
        assert_eq!(world.invoke("acme/echo").send().await.summary(), "200");
    }
    let gateway = std::sync::Arc::clone(&world.running.gateway);
    world.running.stop().await;
    let lost = "sandgate_traces_dropped_total{kind=\"not_sent\"} 3";
    let text = gateway.metrics_text();
    assert!(text.lines().any(|line| line == lost), "{text}");
}
