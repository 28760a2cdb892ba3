//! Events through a function's rules, whole: the order of refusals and what the function gets.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{
    BodyBounds, Event, EventError, EventRules, InjectionMode, Part, Reason, SignalKind, UnreadBody, Written,
    rules::EventHead,
};
use crate::{
    id::FunctionId,
    site::{
        diagnostic::{Diagnostic, Source},
        manifest::RawManifest,
    },
};

const SCHEMA: &str = r##"{
    "type": "object", "additionalProperties": false,
    "properties": {
        "name": {"type": "string", "maxLength": 8, "x-sanitize": ["trim", "single-line"]},
        "bio": {"type": "string", "x-sanitize": "html-escape"},
        "id": {"type": "string", "x-sanitize": "identifier"},
        "n": {"type": "number"},
        "big": {"type": "integer", "maximum": 18446744073709551615},
        "tags": {"type": "array", "items": {"type": "string"}}
    }
}"##;

const QUERY: &str = r#"{"type": "object", "additionalProperties": false, "required": ["page"],
    "properties": {"page": {"type": "integer", "minimum": 1}, "tag": {"type": "array", "items": {"type": "string"}}}}"#;

/// A function's manifest and schemas.
struct Function {
    event: String,
    schema: Option<&'static str>,
    query: Option<&'static str>,
}

impl Function {
    fn new(event: &str) -> Self {
        Self { event: event.to_owned(), schema: None, query: None }
    }

    fn schema(mut self, schema: &'static str) -> Self {
        self.event.push_str("\nschema = \"event.schema.json\"");
        self.schema = Some(schema);
        self
    }

    fn query(mut self, query: &'static str) -> Self {
        self.event.push_str("\nquery = \"query.schema.json\"");
        self.query = Some(query);
        self
    }

    fn compile(&self) -> (Option<EventRules>, Vec<Diagnostic>) {
        let toml =
            format!("component = \"a.wasm\"\nmethods = [\"GET\", \"POST\"]\n[event]\n{}\n", self.event);
        let manifest: RawManifest = toml::from_str(&toml).unwrap();
        let function = FunctionId { tenant: "acme".parse().unwrap(), function: "f".parse().unwrap() };
        let schema = self.schema.map(|text| Source::new("event.schema.json", text));
        let query = self.query.map(|text| Source::new("query.schema.json", text));
        let written = Written {
            function: &function,
            manifest: &manifest,
            manifest_source: &Source::new("function.toml", toml),
            event_schema: schema.as_ref(),
            query_schema: query.as_ref(),
            response_schema: None,
        };
        EventRules::compile(
            written,
            BodyBounds { max_bytes: 1024, time: Duration::from_secs(5), min_rate: 1 },
        )
    }

    fn rules(&self) -> EventRules {
        let (rules, diagnostics) = self.compile();
        rules.unwrap_or_else(|| panic!("{diagnostics:?}"))
    }

    fn faults(&self) -> Vec<String> {
        let (rules, diagnostics) = self.compile();
        let faults: Vec<String> =
            diagnostics.iter().filter(|d| d.is_fault()).map(Diagnostic::one_line).collect();
        assert_eq!(rules.is_none(), !faults.is_empty());
        faults
    }
}

/// A request in the making.
struct Call {
    method: Method,
    rest: Option<&'static str>,
    query: Option<&'static str>,
    headers: HeaderMap,
    body: Bytes,
}

fn get() -> Call {
    Call { method: Method::GET, rest: None, query: None, headers: HeaderMap::new(), body: Bytes::new() }
}

fn post(media_type: &str, body: impl Into<Vec<u8>>) -> Call {
    let call = Call { method: Method::POST, body: Bytes::from(body.into()), ..get() };
    call.header("content-type", media_type)
}

fn json(body: &str) -> Call {
    post("application/json", body)
}

impl Call {
    fn header(mut self, name: &str, value: &str) -> Self {
        self.headers
            .append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        self
    }

    async fn to(self, rules: &EventRules) -> Result<Event, EventError> {
        let head =
            EventHead { method: &self.method, rest: self.rest, query: self.query, headers: &self.headers };
        rules.read_event(head, UnreadBody::of(self.body)).await
    }

    async fn malformed(self, rules: &EventRules) -> (Part, Reason) {
        match self.to(rules).await {
            Err(EventError::Malformed(fault)) => (fault.part, fault.reason),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn d01_refusals_come_in_the_order_of_the_contract() {
    let rules = Function::new("").schema(SCHEMA).rules();
    // Wrong in every way: each step undone shows the next.
    let mut call = post("text/plain", vec![b'x'; 2_000]).header("content-encoding", "gzip");
    call.method = Method::PUT;
    call.rest = Some("a");
    call.query = Some("a=1");
    match again(&call).to(&rules).await {
        Err(EventError::MethodNotAllowed { allow }) => assert_eq!(&*allow, "GET, POST"),
        other => panic!("{other:?}"),
    }
    call.method = Method::POST;
    assert!(matches!(again(&call).to(&rules).await, Err(EventError::NoRest)));
    call.rest = None;
    assert!(matches!(again(&call).to(&rules).await, Err(EventError::TooLarge { limit: 1024 })));
    call.body = Bytes::from_static(b"{");
    assert!(matches!(again(&call).to(&rules).await, Err(EventError::UnsupportedMediaType)));
    call.headers.insert("content-type", HeaderValue::from_static("application/json"));
    assert!(matches!(again(&call).to(&rules).await, Err(EventError::UnsupportedEncoding)));
    call.headers.remove("content-encoding");
    assert_eq!(again(&call).malformed(&rules).await, (Part::Query, Reason::Unexpected));
    call.query = None;
    assert_eq!(again(&call).malformed(&rules).await, (Part::Body, Reason::Syntax));
    call.body = Bytes::from_static(b"{\"x\": 1}");
    assert!(matches!(again(&call).to(&rules).await, Err(EventError::Invalid { .. })));
    call.body = Bytes::from_static(b"{\"n\": 1}");
    assert!(again(&call).to(&rules).await.is_ok());
}

fn again(call: &Call) -> Call {
    Call { method: call.method.clone(), headers: call.headers.clone(), body: call.body.clone(), ..*call }
}

#[tokio::test]
async fn c10_a_content_coding_is_refused() {
    let rules = Function::new("").schema(SCHEMA).rules();
    for coding in ["gzip", "br", "identity", ""] {
        let refused = json("{}").header("content-encoding", coding).to(&rules).await;
        assert!(matches!(refused, Err(EventError::UnsupportedEncoding)), "{coding}");
    }
}

#[tokio::test]
async fn the_function_gets_the_validated_value_written_anew() {
    let rules = Function::new("").schema(SCHEMA).rules();
    let body = " {\"name\" : \" e\u{301}\\r\\nx \", \"n\":1.50 , \"bio\":\"<b>\"} ";
    let event = json(body).to(&rules).await.unwrap();
    assert_eq!(event.body(), "{\"name\":\"é x\",\"n\":1.5,\"bio\":\"&lt;b&gt;\"}");
    assert_eq!(
        (event.content_type(), event.query(), event.rest(), event.raw()),
        ("application/json", "{}", "", None)
    );
    assert_eq!(event.bytes_in(), body.len() as u64);
    let raw = Function::new("raw = true").schema(SCHEMA);
    assert_eq!(json(" { } ").to(&raw.rules()).await.unwrap().raw().unwrap(), " { } ");
    assert!(raw.compile().1.iter().any(|d| d.message.contains("exact bytes")));
}

#[tokio::test]
async fn sanitizing_cannot_get_past_the_bounds() {
    let rules = Function::new("").schema(SCHEMA).rules();
    let grows = json(&format!("{{\"bio\":\"{}\"}}", "'".repeat(900))).to(&rules).await;
    assert!(matches!(grows, Err(EventError::TooLarge { .. })));
    let string = Function::new("max-string = \"16B\"").schema(SCHEMA).rules();
    assert_eq!(json(r#"{"bio":"''''''''"}"#).malformed(&string).await, (Part::Body, Reason::String(16)));
    let Err(EventError::Invalid { errors }) = json(r#"{"id":"a b"}"#).to(&rules).await else { panic!() };
    assert_eq!((errors[0].pointer.as_str(), errors[0].keyword.as_str()), ("/id", "x-sanitize"));
}

#[tokio::test]
async fn d05_wide_integers_are_taken_where_the_schema_says_so() {
    let rules = Function::new("").schema(SCHEMA).rules();
    let event = json("{\"big\":18446744073709551615}").to(&rules).await.unwrap();
    assert_eq!(event.body(), "{\"big\":18446744073709551615}");
    assert_eq!(json("{\"n\":9007199254740993}").malformed(&rules).await, (Part::Body, Reason::Wide));
    assert_eq!(
        json("{\"n\":12345678901234567890123}").malformed(&rules).await,
        (Part::Body, Reason::Rounded)
    );
    assert_eq!(json("{\"big\":18446744073709551616}").malformed(&rules).await, (Part::Body, Reason::Rounded));
}

#[tokio::test]
async fn without_a_schema_only_an_empty_body_is_taken() {
    let rules = Function::new("").rules();
    assert!(get().to(&rules).await.is_ok());
    assert!(post("application/json", "").to(&rules).await.is_ok());
    assert!(matches!(json("{}").to(&rules).await, Err(EventError::UnsupportedMediaType)));
}

#[tokio::test]
async fn with_a_schema_a_body_is_due_unless_the_method_has_none() {
    let rules = Function::new("").schema(SCHEMA).rules();
    assert_eq!(json("").malformed(&rules).await, (Part::Body, Reason::Empty));
    let event = get().to(&rules).await.unwrap();
    assert_eq!((event.content_type(), event.body().len()), ("", 0));
    let mut call = json("{\"x\":1}");
    call.method = Method::GET;
    assert!(matches!(call.to(&rules).await, Err(EventError::Invalid { .. })));
}

#[tokio::test]
async fn the_query_is_input_too() {
    let rules = Function::new("").query(QUERY).rules();
    let with = |query| Call { query: Some(query), ..get() };
    let event = with("page=2&tag=a&tag=%C3%A9").to(&rules).await.unwrap();
    assert_eq!(event.query(), "{\"page\":2,\"tag\":[\"a\",\"é\"]}");
    for (query, pointer, keyword) in [
        ("page=0", "?page", "minimum"),
        ("page=x", "?page", "type"),
        ("tag=a", "", "required"),
        ("page=1&x=1", "", "additionalProperties"),
    ] {
        let Err(EventError::Invalid { errors }) = with(query).to(&rules).await else { panic!("{query}") };
        assert_eq!((errors[0].pointer.as_str(), errors[0].keyword.as_str()), (pointer, keyword), "{query}");
    }
    assert_eq!(with("page=9007199254740993").malformed(&rules).await, (Part::Query, Reason::Wide));
    assert!(matches!(get().to(&rules).await, Err(EventError::Invalid { .. })));
    let none = Function::new("").rules();
    assert_eq!(with("page=1").malformed(&none).await, (Part::Query, Reason::Unexpected));
    assert!(with("").to(&none).await.is_ok());
}

#[tokio::test]
async fn the_rest_of_the_path_is_input_too() {
    let rules = Function::new("rest = true").rules();
    let event = Call { rest: Some("2026/%C3%A9"), ..get() }.to(&rules).await.unwrap();
    assert_eq!(event.rest(), "2026/é");
    for rest in ["", "a/../b", "a%2Fb", "%2e"] {
        assert_eq!(Call { rest: Some(rest), ..get() }.malformed(&rules).await, (Part::Rest, Reason::Segment));
    }
    let none = Function::new("").rules();
    assert!(matches!(Call { rest: Some(""), ..get() }.to(&none).await, Err(EventError::NoRest)));
}

#[tokio::test]
async fn other_media_types_are_read_by_their_kind() {
    let types =
        "media-types = [\"text/plain\", \"application/octet-stream\", \"application/x-www-form-urlencoded\"]";
    let rules = Function::new(types).schema(SCHEMA).rules();
    let text = post("text/plain; charset=utf-8", "e\u{301}\n").to(&rules).await.unwrap();
    assert_eq!((text.content_type(), text.body().as_ref()), ("text/plain", "é\n".as_bytes()));
    assert_eq!(post("text/plain", "a\0").malformed(&rules).await, (Part::Body, Reason::Control));
    assert_eq!(post("text/plain", vec![0xff]).malformed(&rules).await, (Part::Body, Reason::Utf8));
    let bytes = post("application/octet-stream", vec![0, 0xff]).to(&rules).await.unwrap();
    assert_eq!(bytes.body().as_ref(), [0, 0xff]);
    let form = post("application/x-www-form-urlencoded", "name=+a+&n=2.5&tags=x").to(&rules).await.unwrap();
    assert_eq!(
        (form.content_type(), form.body().as_ref()),
        ("application/json", br#"{"name":"a","n":2.5,"tags":["x"]}"#.as_slice())
    );
    let twice = post("application/x-www-form-urlencoded", "n=1&n=2").malformed(&rules).await;
    assert_eq!(twice, (Part::Body, Reason::Duplicate));
    assert!(matches!(json("{}").to(&rules).await, Err(EventError::UnsupportedMediaType)));
}

#[tokio::test]
async fn d12_signals_are_told_or_block_as_the_manifest_says() {
    let attack = || json(r#"{"bio":"1' OR '1'='1"}"#);
    let detect = Function::new("rest = true")
        .schema(r#"{"type":"object","additionalProperties":false,"properties":{"bio":{"type":"string"}}}"#);
    let mut call = attack();
    call.rest = Some("%3Cscript%3Ealert(1)");
    let event = call.to(&detect.rules()).await.unwrap();
    let told: Vec<(&str, SignalKind)> =
        event.signals().iter().map(|s| (s.pointer.as_str(), s.kind)).collect();
    assert_eq!(told, [("/bio", SignalKind::Sql), ("rest", SignalKind::Script)]);
    let plain = detect.event.clone();
    let off = Function { event: format!("injection = \"off\"\n{plain}"), ..detect };
    assert!(attack().to(&off.rules()).await.unwrap().signals().is_empty());
    // What `x-sanitize` has made harmless is no signal: `bio` of the other schema is escaped.
    let escaped = Function::new("injection = \"block\"").schema(SCHEMA).rules();
    assert!(attack().to(&escaped).await.is_ok());
    let block = Function { event: format!("injection = \"block\"\n{plain}"), ..off }.rules();
    assert_eq!(block.injection(), InjectionMode::Block);
    assert!(matches!(attack().to(&block).await, Err(EventError::Injection { .. })));
}

#[test]
fn every_fault_of_a_manifest_is_told_at_once_and_where() {
    let function = Function::new(
        "injection = \"maybe\"\nmax-depth = 33\nmax-string = \"1MiB\"\nheaders = [\"cookie\", \"x-ok\", \"sandgate-caller\"]\n\
         media-types = [\"*/*\", \"application/json\"]\nquery = \"missing.json\"",
    );
    let faults = function.faults();
    for (line, part) in [
        (4, "`injection` cannot be `maybe`"),
        (5, "`max-depth` is above"),
        (6, "`max-string` is above"),
        (7, "`cookie` carries a credential"),
        (7, "`sandgate-caller` would speak"),
        (8, "`*/*` is no media type"),
        (8, "`application/json` needs a schema"),
        (9, "`missing.json` could not be read"),
    ] {
        let told =
            faults.iter().any(|f| f.starts_with(&format!("function.toml:{line}: ")) && f.contains(part));
        assert!(told, "{line} {part}: {faults:#?}");
    }
    assert_eq!(faults.len(), 8, "{faults:#?}");
}
