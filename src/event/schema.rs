//! A JSON Schema 2020-12 as the author wrote it, compiled once: `format` asserted, patterns in linear time, nothing
//! fetched.

use std::{ops::Range, sync::LazyLock};

use jsonschema::{PatternOptions, ValidationError, Validator, error::ValidationErrorKind as Kind};
use percent_encoding::{AsciiSet, CONTROLS};
use serde_json::Value;

use super::{
    error::{MAX_VIOLATIONS, Malformed, Violation, push_segment, shorten},
    graph::{Finding, Graph, Step},
    json::{self, JsonLimits},
    locate::locate,
    plan::Plan,
};
use crate::site::diagnostic::{Diagnostic, Source};

/// A compiled schema.
#[derive(Debug)]
pub(crate) struct Schema {
    value: Value,
    validator: Validator,
    plan: Plan,
}

impl Schema {
    /// Compiles a schema for values nested up to `depth`, and tells all its faults.
    pub(crate) fn compile(source: &Source, depth: u32, diagnostics: &mut Vec<Diagnostic>) -> Option<Self> {
        if source.text.len() > MAX_SCHEMA_BYTES {
            let message = format!("the schema is larger than {MAX_SCHEMA_BYTES} bytes");
            diagnostics.push(Diagnostic::fault(message).in_file(source));
            return None;
        }
        let value = match json::parse(&source.text, &SCHEMA_LIMITS) {
            Ok(parsed) => parsed.value,
            Err(fault) => {
                diagnostics.push(unreadable(source, &fault));
                return None;
            }
        };
        if !value.is_object() {
            diagnostics.push(
                Diagnostic::fault("the schema is not an object")
                    .in_file(source)
                    .hint("say at least `{\"type\": …}`: `true` would let anything in"),
            );
            return None;
        }
        let (graph, findings) = Graph::of(&value, depth);
        let faulty = findings.iter().any(|f| f.is_fault);
        diagnostics.extend(findings.into_iter().map(|f| found(source, f)));
        if faulty {
            return None;
        }
        let plan = Plan::of(&graph);
        let built = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .should_validate_formats(true)
            .should_ignore_unknown_formats(false)
            .offline()
            .with_pattern_options(
                PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES),
            )
            .build(&value);
        match built {
            Ok(validator) => Some(Self { validator, plan, value }),
            Err(error) => {
                let pointer = error.instance_path().to_string();
                let message = format!("the schema is not valid: {error}");
                diagnostics.push(at(source, Diagnostic::fault(message), &pointer));
                None
            }
        }
    }

    /// The schema as written.
    pub(crate) fn value(&self) -> &Value {
        &self.value
    }

    /// The schema for a document in which it stands at `base`, such as `#/components/schemas/order`: what its references
    /// lead to is named from there, since a `#` of its own would mean the document's root.
    pub(crate) fn value_at(&self, base: &str) -> Value {
        let mut value = self.value.clone();
        let (graph, _) = Graph::of(&self.value, 0);
        for node in &graph.nodes {
            let Some(Value::Object(keywords)) = value.pointer_mut(&node.pointer) else { continue };
            // Names by which nothing refers to it any more; an `$id` would also move the base of every reference.
            keywords.remove("$id");
            keywords.remove("$anchor");
            let target = node.steps.iter().find(|(step, _)| matches!(step, Step::Ref));
            if let Some(target) = target.and_then(|(_, to)| graph.nodes.get(*to)) {
                keywords.insert("$ref".to_owned(), reference(base, &target.pointer).into());
            }
        }
        value
    }

    /// What it says about single places.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where a value breaks the schema, at most [`MAX_VIOLATIONS`] places.
    pub(crate) fn check(&self, value: &Value) -> Result<(), Vec<Violation>> {
        // Validity alone is much cheaper than a list of errors, and nearly every event is valid.
        if self.validator.is_valid(value) {
            return Ok(());
        }
        let told = self.validator.iter_errors(value).take(MAX_VIOLATIONS).map(|error| {
            let mut pointer = error.instance_path().to_string();
            shorten(&mut pointer);
            Violation { pointer, keyword: keyword(&error), limit: limit(error.kind()) }
        });
        Err(told.collect())
    }
}

/// Whether a text is a URI reference (RFC 3986 §4.1).
pub(crate) fn is_uri_reference(text: &str) -> bool {
    static FORMAT: LazyLock<Option<Validator>> = LazyLock::new(|| format("uri-reference"));
    FORMAT.as_ref().is_some_and(|format| format.is_valid(&Value::from(text)))
}

/// Whether a text is an absolute URI (RFC 3986 §4.3): one with a scheme and without a fragment.
pub(crate) fn is_absolute_uri(text: &str) -> bool {
    static FORMAT: LazyLock<Option<Validator>> = LazyLock::new(|| format("uri"));
    !text.contains('#') && FORMAT.as_ref().is_some_and(|format| format.is_valid(&Value::from(text)))
}

/// Nothing has a format that could not be built (INVARIANT Closed).
fn format(name: &str) -> Option<Validator> {
    let schema = serde_json::json!({ "type": "string", "format": name });
    jsonschema::options().should_validate_formats(true).offline().build(&schema).ok()
}

/// The keyword that was broken. A schema that is `false` has none of its own: it is told by the one that holds it.
fn keyword(error: &ValidationError<'_>) -> String {
    if !matches!(error.kind(), Kind::FalseSchema) {
        return error.kind().keyword().to_owned();
    }
    let path = error.schema_path().to_string();
    let mut segments = path.rsplit('/');
    let (last, holder) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    // The members and items of these are schemas, and have names of the author's.
    let holds_many =
        ["properties", "patternProperties", "dependentSchemas", "prefixItems", "allOf", "anyOf", "oneOf"];
    if holds_many.contains(&holder) { holder.to_owned() } else { last.to_owned() }
}

/// A reference to the property of that name of a schema that stands at `base`.
pub fn property_at(base: &str, name: &str) -> String {
    let mut pointer = "/properties".to_owned();
    push_segment(&mut pointer, name);
    reference(base, &pointer)
}

/// A reference to what a JSON pointer names below `base` (RFC 6901 §6).
fn reference(base: &str, pointer: &str) -> String {
    format!("{base}{}", percent_encoding::utf8_percent_encode(pointer, NOT_IN_FRAGMENT))
}

/// The schema's own bound behind an error; nothing of the value's.
fn limit(kind: &Kind) -> Option<String> {
    let text = match kind {
        Kind::MaxItems { limit }
        | Kind::MinItems { limit }
        | Kind::MaxLength { limit }
        | Kind::MinLength { limit }
        | Kind::MaxProperties { limit }
        | Kind::MinProperties { limit } => limit.to_string(),
        Kind::AdditionalItems { limit } => limit.to_string(),
        Kind::Maximum { limit }
        | Kind::Minimum { limit }
        | Kind::ExclusiveMaximum { limit }
        | Kind::ExclusiveMinimum { limit } => limit.to_string(),
        Kind::MultipleOf { multiple_of } => multiple_of.to_string(),
        Kind::Format { format } => format.clone(),
        Kind::Pattern { pattern } => pattern.clone(),
        Kind::Required { property } => property.as_str()?.to_owned(),
        Kind::Constant { expected_value } => expected_value.to_string(),
        Kind::Enum { options } => options.to_string(),
        Kind::Type { kind } => match kind {
            jsonschema::error::TypeKind::Single(one) => one.to_string(),
            jsonschema::error::TypeKind::Multiple(several) => {
                several.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(", ")
            }
        },
        _ => return None,
    };
    (text.len() <= MAX_LIMIT_BYTES).then_some(text)
}

fn unreadable(source: &Source, fault: &Malformed) -> Diagnostic {
    let diagnostic = Diagnostic::fault(format!("the schema cannot be read: {}", fault.reason));
    match fault.offset {
        Some(offset) => diagnostic.at(source, one_char(&source.text, offset)),
        None => diagnostic.in_file(source),
    }
}

fn one_char(text: &str, offset: usize) -> Range<usize> {
    let start = offset.min(text.len());
    start..(start + 1..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(start)
}

fn found(source: &Source, finding: Finding) -> Diagnostic {
    let Finding { pointer, message, hint, is_fault } = finding;
    let diagnostic = if is_fault { Diagnostic::fault(message) } else { Diagnostic::warning(message) };
    let diagnostic = at(source, diagnostic, &pointer);
    match hint {
        Some(hint) => diagnostic.hint(hint),
        None => diagnostic,
    }
}

fn at(source: &Source, diagnostic: Diagnostic, pointer: &str) -> Diagnostic {
    match locate(&source.text, pointer) {
        // The whole file underlined helps nobody.
        Some(_) if pointer.is_empty() => diagnostic.in_file(source),
        Some(span) => {
            let line = source.text.get(span.clone()).and_then(|t| t.find('\n'));
            let end = line.map_or(span.end, |length| span.start + length);
            diagnostic.at(source, span.start..end)
        }
        None => diagnostic.in_file(source),
    }
}

/// All that a fragment cannot hold as it is (RFC 3986 §3.5).
const NOT_IN_FRAGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Schemas of large public APIs stay well below.
const MAX_SCHEMA_BYTES: usize = 256 * 1024;

/// A schema nests twice as deeply as its values, and has long lists of definitions.
const SCHEMA_LIMITS: JsonLimits =
    JsonLimits { depth: 64, nodes: 50_000, string_bytes: 16 * 1024, items: 4_096, members: 4_096 };

/// Largest compiled pattern: some thousand character classes.
const PATTERN_BYTES: usize = 1 << 20;

/// Longest limit that is told: beyond, an `enum` or a pattern is no help to a caller.
const MAX_LIMIT_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn compile(text: &str) -> Result<Schema, Vec<Diagnostic>> {
        let mut diagnostics = Vec::new();
        let schema = Schema::compile(&Source::new("event.schema.json", text), 32, &mut diagnostics);
        schema.ok_or(diagnostics)
    }

    fn one_fault(text: &str) -> String {
        let diagnostics = compile(text).unwrap_err();
        diagnostics.iter().map(Diagnostic::one_line).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn d09_patterns_that_need_backtracking_are_a_fault() {
        for pattern in [r"(?=a)b", r"(a)\\1", r"(?<!x)y"] {
            let schema = format!(r#"{{"type": "string", "pattern": "{pattern}"}}"#);
            assert!(compile(&schema).is_err(), "{pattern}");
        }
        let slow = compile(r#"{"type": "string", "pattern": "^(a+)+$"}"#).unwrap();
        assert!(slow.check(&json!("a".repeat(50_000) + "b")).is_err());
    }

    #[test]
    fn d09_sizes_are_bounded() {
        assert!(one_fault(&" ".repeat(MAX_SCHEMA_BYTES + 1)).contains("larger"));
        let pattern = "a".repeat(1_025);
        assert!(one_fault(&format!(r#"{{"pattern": "{pattern}"}}"#)).contains("longer than 1024"));
        assert!(compile(r#"{"type": "string", "pattern": "((a{1000}){1000}){1000}"}"#).is_err());
    }

    #[test]
    fn d10_formats_are_asserted() {
        let schema = compile(r#"{"type": "string", "format": "date"}"#).unwrap();
        assert!(schema.check(&json!("2026-02-28")).is_ok());
        let violations = schema.check(&json!("2026-02-30")).unwrap_err();
        assert_eq!(
            violations,
            [Violation { pointer: String::new(), keyword: "format".into(), limit: Some("date".into()) }]
        );
    }

    #[test]
    fn d11_violations_tell_place_keyword_and_limit_and_never_the_value() {
        let schema = compile(
            r#"{"type": "object", "required": ["id"], "additionalProperties": false,
                "properties": {"n": {"maximum": 5}, "s": {"maxLength": 3}, "e": {"enum": ["x"]}, "t": {"type": "integer"}}}"#,
        )
        .unwrap();
        let value = json!({"n": 987_654, "s": "hunter2", "e": "hunter3", "t": "hunter4", "extra": "hunter5"});
        let violations = schema.check(&value).unwrap_err();
        let told = format!("{violations:?}");
        assert!(!told.contains("hunter") && !told.contains("987654"), "{told}");
        let mut lines: Vec<String> = violations
            .iter()
            .map(|v| format!("{} {} {}", v.pointer, v.keyword, v.limit.as_deref().unwrap_or("-")))
            .collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                " additionalProperties -",
                " required id",
                "/e enum [\"x\"]",
                "/n maximum 5",
                "/s maxLength 3",
                "/t type integer",
            ]
        );
        let many = compile(r#"{"items": {"type": "integer"}}"#).unwrap();
        assert_eq!(many.check(&json!(vec!["x"; 100])).unwrap_err().len(), MAX_VIOLATIONS);
    }

    #[test]
    fn a_schema_that_is_false_is_told_by_the_keyword_that_holds_it() {
        for (schema, value, pointer, keyword) in [
            (r#"{"additionalProperties": false}"#, json!({"a": 1}), "", "additionalProperties"),
            (r#"{"properties": {"a": false}}"#, json!({"a": 1}), "/a", "properties"),
            (r#"{"properties": {"a": {"items": false}}}"#, json!({"a": [1]}), "/a/0", "items"),
            (r#"{"patternProperties": {"^a": false}}"#, json!({"a": 1}), "/a", "patternProperties"),
            (r#"{"prefixItems": [true, false]}"#, json!([1, 2]), "/1", "prefixItems"),
        ] {
            let violations = compile(schema).unwrap().check(&value).unwrap_err();
            let told: Vec<_> = violations.iter().map(|v| (v.pointer.as_str(), v.keyword.as_str())).collect();
            assert_eq!(told, [(pointer, keyword)], "{schema}");
        }
    }

    #[test]
    fn in_another_document_references_lead_to_the_same_places() {
        let schema = compile(
            r##"{"$id": "https://a.example/s", "properties": {
                "a": {"$ref": "#/$defs/x%20%25y"}, "b": {"$ref": "#n"}, "c": {"$ref": "#"}, "$ref": {"const": {"$ref": "#"}}},
                "$defs": {"x %y": {"type": "string"}, "n": {"$anchor": "n", "type": "null"}}}"##,
        )
        .unwrap();
        assert_eq!(
            schema.value_at("#/components/schemas/s"),
            json!({"properties": {
                "a": {"$ref": "#/components/schemas/s/$defs/x%20%25y"},
                "b": {"$ref": "#/components/schemas/s/$defs/n"},
                "c": {"$ref": "#/components/schemas/s"},
                "$ref": {"const": {"$ref": "#"}}},
                "$defs": {"x %y": {"type": "string"}, "n": {"type": "null"}}})
        );
    }

    #[test]
    fn a_fault_is_shown_where_it_stands() {
        let fault = one_fault("{\n  \"properties\": {\n    \"a\": {\"format\": \"phone\"}\n  }\n}");
        assert_eq!(fault.split(": ").next(), Some("event.schema.json:3"), "{fault}");
        assert!(
            one_fault("{\"a\": 1,\n \"a\": 2}").starts_with("event.schema.json:2: the schema cannot be read")
        );
        assert!(
            one_fault(r#"{"type": "strin"}"#).starts_with("event.schema.json:1: the schema is not valid")
        );
        assert!(one_fault("true").contains("not an object"));
    }
}
