//! Entry points for fuzzing: plain functions of bytes that panic where a promise is broken. `fuzz/` wraps each for
//! cargo-fuzz; a test runs each over its corpus.

use serde_json::{Value, json};

use super::{
    BodyBounds, EventRules, Written,
    error::Part,
    graph::Graph,
    html, injection,
    json::{self, JsonLimits},
    plan::Plan,
    query, text,
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
    fn d15_path_and_query_keep_their_promises_over_their_corpus() {
        over_corpus("path_and_query", path_and_query);
    }
}
