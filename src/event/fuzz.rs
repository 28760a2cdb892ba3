//! Entry points for fuzzing: plain functions of bytes that panic where a promise is broken. `fuzz/` wraps each for
//! cargo-fuzz; a test runs each over its corpus.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header::CONTENT_TYPE};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Value, json};

use super::{
    BodyBounds, Event, EventError, EventRules, Signal, Written, cloudevents,
    error::Part,
    graph::Graph,
    html, injection,
    json::{self, JsonLimits},
    plan::Plan,
    query,
    rules::EventHead,
    text,
};
use crate::{
    id::FunctionId,
    site::{
        diagnostic::{Diagnostic, Source},
        manifest::RawManifest,
    },
};

/// Strict JSON against `serde_json`: what we accept it reads to the same value, and what we write we read again.
pub fn strict_json(data: &[u8]) {
    let Ok(parsed) = json::parse_bytes(data, &JsonLimits::MAX) else { return };
    let Ok(theirs) = serde_json::from_slice::<Value>(data) else {
        panic!("serde_json refuses what we accept");
    };
    assert_eq!(normal(theirs), parsed.value, "the two readings differ");
    let written = parsed.value.to_string();
    let again = json::parse(&written, &JsonLimits::MAX);
    assert_eq!(again.as_ref().map(|p| &p.value), Ok(&parsed.value), "what we write reads differently");
    injection::scan(&parsed.value, &mut String::new(), &mut Vec::new());
}

/// Query and path: what we accept holds the text rules and stays within the function's path.
pub fn path_and_query(data: &[u8]) {
    let Ok(encoded) = std::str::from_utf8(data) else { return };
    if let Ok(rest) = query::rest(encoded, &JsonLimits::MAX) {
        assert!(!rest.contains(['\0', '\\']), "a separator came through");
        assert_eq!(rest.matches('/').count(), encoded.matches('/').count(), "segments were made");
        assert!(rest.split('/').all(|s| !matches!(s, "" | "." | "..")), "a dot segment came through");
        assert_eq!(text::refused_at(&rest), None, "a control character came through");
    }
    let schema = json!({"properties": {
        "n": {"type": "integer"}, "x": {"type": "number"}, "b": {"type": "boolean"}, "a": {"type": "array"}
    }});
    let plan = Plan::of(&Graph::of(&schema, JsonLimits::MAX.depth).0);
    if let Ok(parsed) = query::object(encoded, Part::Query, &plan, &JsonLimits::MAX) {
        let again = json::parse(&parsed.value.to_string(), &JsonLimits::MAX);
        assert_eq!(again.map(|p| p.value), Ok(parsed.value), "the query's object reads differently");
    }
    assert!(!html::strip(encoded).contains(['<', '>']), "a tag came through");
}

/// A manifest and, after a NUL, an event schema: whatever they say, compiling ends, and what compiles can be used.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (toml, schema) = text.split_once('\0').unwrap_or((text, "{}"));
    let (Ok(manifest), Ok(tenant), Ok(name)) =
        (toml::from_str::<RawManifest>(toml), "t".parse(), "f".parse())
    else {
        return;
    };
    let schema = Source::new("event.schema.json", schema);
    let written = Written {
        function: &FunctionId { tenant, function: name },
        manifest: &manifest,
        manifest_source: &Source::new("function.toml", toml),
        event_schema: Some(&schema),
        query_schema: Some(&schema),
        response_schema: Some(&schema),
    };
    let (rules, diagnostics) = EventRules::compile(written, BodyBounds::default());
    assert_eq!(
        rules.is_none(),
        diagnostics.iter().any(Diagnostic::is_fault),
        "rules with a fault, or none without"
    );
    for diagnostic in &diagnostics {
        let _ = diagnostic.render(false);
    }
    if let Some(rules) = rules {
        let _ = rules.check_json(br#"{"a":[{"b":"c"},-1,2.5,null],"d":{"e":true}}"#);
    }
}

/// A CloudEvent, as a structured body or, if it begins with `ce-`, as lines of headers, an empty line and a body: the one
/// that is accepted is the same event when it is sent again in either mode.
pub fn cloudevents(data: &[u8]) {
    let Some(rules) = any_cloudevent() else { panic!("the rules have a fault") };
    let mut headers = HeaderMap::new();
    let mut body = Bytes::copy_from_slice(data);
    if data.starts_with(b"ce-") {
        let end = data.windows(2).position(|w| w == b"\n\n").unwrap_or(data.len());
        let (lines, after) = data.split_at(end);
        body = Bytes::copy_from_slice(after.get(2..).unwrap_or_default());
        for line in lines.split(|b| *b == b'\n') {
            let Some(colon) = line.iter().position(|b| *b == b':') else { return };
            let (name, value) = line.split_at(colon);
            let value = HeaderValue::from_bytes(value.get(1..).unwrap_or_default().trim_ascii());
            let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) else { return };
            if name != CONTENT_TYPE && !name.as_str().starts_with(cloudevents::PREFIX) {
                return;
            }
            headers.append(name, value);
        }
    } else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(cloudevents::STRUCTURED));
    }
    let Ok(event) = event_of(&rules, &headers, body) else { return };
    for (headers, body) in [in_binary_mode(&event), in_structured_mode(&event)] {
        match event_of(&rules, &headers, body) {
            Ok(again) => assert_eq!(seen(&again), seen(&event), "the modes give two events"),
            Err(error) => panic!("the same event is refused: {error}"),
        }
    }
}

/// All of an event that is the same in both content modes: all but the bytes that were received, and their number.
#[derive(Debug, PartialEq)]
pub(super) struct Seen<'a> {
    headers: &'a [(HeaderName, String)],
    content_type: &'a str,
    body: &'a [u8],
    signals: &'a [Signal],
}

pub(super) fn seen(event: &Event) -> Seen<'_> {
    Seen {
        headers: event.headers(),
        content_type: event.content_type(),
        body: event.body(),
        signals: event.signals(),
    }
}

/// An event through rules, without a connection.
pub(super) fn event_of(rules: &EventRules, headers: &HeaderMap, body: Bytes) -> Result<Event, EventError> {
    let head = EventHead { method: &Method::POST, rest: None, query: None, headers };
    let begun = rules.begin(head, Some(body.len() as u64), body.is_empty())?;
    rules.finish(begun, body)
}

/// An event as a sender of the binary mode writes it (HTTP protocol binding §3.1).
pub(super) fn in_binary_mode(event: &Event) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    for (name, text) in event.headers() {
        let encoded = utf8_percent_encode(text, NOT_IN_HEADER).to_string();
        headers.append(name, HeaderValue::from_str(&encoded).unwrap_or(HeaderValue::from_static("")));
    }
    if let Ok(media_type) = HeaderValue::from_str(event.content_type()) {
        headers.insert(CONTENT_TYPE, media_type);
    }
    (headers, event.body().clone())
}

/// An event as a sender of the structured mode writes it (JSON format §3).
pub(super) fn in_structured_mode(event: &Event) -> (HeaderMap, Bytes) {
    let attributes = event.headers().iter().filter_map(|(name, text)| {
        Some((name.as_str().strip_prefix(cloudevents::PREFIX)?.to_owned(), Value::from(text.as_str())))
    });
    let mut members: serde_json::Map<String, Value> = attributes.collect();
    members.insert("datacontenttype".into(), event.content_type().into());
    let (name, data) = match event.content_type() {
        "application/json" => ("data", serde_json::from_slice(event.body()).unwrap_or_default()),
        "text/plain" => ("data", String::from_utf8_lossy(event.body()).into()),
        _ => ("data_base64", BASE64_STANDARD.encode(event.body()).into()),
    };
    members.insert(name.into(), data);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(cloudevents::STRUCTURED));
    (headers, Value::Object(members).to_string().into())
}

/// Rules of a function that takes CloudEvents with any data.
pub(super) fn any_cloudevent() -> Option<EventRules> {
    let toml = "component = \"a.wasm\"\nmethods = [\"POST\"]\n[event]\nenvelope = \"cloudevents\"\nschema = \"event.schema.json\"\n\
                media-types = [\"application/json\", \"text/plain\", \"application/octet-stream\"]\n";
    let (Ok(manifest), Ok(tenant), Ok(name)) =
        (toml::from_str::<RawManifest>(toml), "t".parse(), "f".parse())
    else {
        return None;
    };
    let written = Written {
        function: &FunctionId { tenant, function: name },
        manifest: &manifest,
        manifest_source: &Source::new("function.toml", toml),
        event_schema: Some(&Source::new("event.schema.json", "{}")),
        query_schema: None,
        response_schema: None,
    };
    // Room for what JSON and base64 make of the bytes that a fuzzer sends.
    EventRules::compile(written, BodyBounds { max_bytes: 1 << 24, ..BodyBounds::default() }).0
}

/// What a header's value cannot hold as it is (HTTP protocol binding §3.1.3.2).
const NOT_IN_HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// The value with all names and strings in normal form C.
fn normal(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text::nfc(&text).into_owned()),
        Value::Array(items) => Value::Array(items.into_iter().map(normal).collect()),
        Value::Object(members) => Value::Object(
            members.into_iter().map(|(name, value)| (text::nfc(&name).into_owned(), normal(value))).collect(),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    fn over_corpus(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let entries: Vec<_> = fs::read_dir(folder).unwrap().collect();
        assert!(entries.len() > 5);
        for entry in entries {
            run(&fs::read(entry.unwrap().path()).unwrap());
        }
    }

    #[test]
    fn d15_strict_json_keeps_its_promises_over_its_corpus() {
        over_corpus("strict_json", strict_json);
    }

    #[test]
    fn d15_manifests_keep_their_promises_over_their_corpus() {
        over_corpus("manifest", manifest);
    }

    #[test]
    fn d13_d15_cloudevents_keep_their_promises_over_their_corpus() {
        over_corpus("cloudevents", cloudevents);
    }

    #[test]
    fn d15_path_and_query_keep_their_promises_over_their_corpus() {
        over_corpus("path_and_query", path_and_query);
    }
}
