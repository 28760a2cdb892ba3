//! From the text of a schema to its graph: which keyword leads where, and what no schema may say.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{Finding, Node, Step};
use crate::event::{error::push_segment, sanitize::Op};

/// All subschemas, the whole one first, and what is wrong with them one by one.
pub(super) fn nodes(schema: &Value) -> (Vec<Node<'_>>, Vec<Finding>) {
    let mut reader = Reader::default();
    reader.subschema(schema, String::new());
    reader.link();
    // Properties first: what is additional to them is then known.
    for node in &mut reader.nodes {
        node.steps.sort_by_key(|(step, _)| !matches!(step, Step::Property(_)));
    }
    (reader.nodes, reader.findings)
}

/// Collects nodes, then the targets of `$ref`.
#[derive(Default)]
struct Reader<'s> {
    nodes: Vec<Node<'s>>,
    findings: Vec<Finding>,
    by_pointer: HashMap<String, usize>,
    anchors: HashMap<&'s str, usize>,
    refs: Vec<(usize, &'s str)>,
    patterns: usize,
}

impl<'s> Reader<'s> {
    fn fault(&mut self, pointer: &str, message: impl Into<String>, hint: &str) {
        self.findings.push(Finding {
            pointer: pointer.to_owned(),
            message: message.into(),
            hint: (!hint.is_empty()).then(|| hint.to_owned()),
            is_fault: true,
        });
    }

    /// The stack is bounded by the depth of the schema's own text.
    fn subschema(&mut self, schema: &'s Value, pointer: String) -> usize {
        let at = self.nodes.len();
        self.by_pointer.insert(pointer.clone(), at);
        self.nodes.push(Node { pointer: pointer.clone(), schema, steps: Vec::new(), ops: Vec::new() });
        if let Value::Object(keywords) = schema {
            for (keyword, value) in keywords {
                let mut below = pointer.clone();
                push_segment(&mut below, keyword);
                self.keyword(at, keyword, value, below);
            }
            self.sanitize(at, keywords, &pointer);
        }
        at
    }

    fn keyword(&mut self, at: usize, keyword: &'s str, value: &'s Value, pointer: String) {
        match keyword {
            "allOf" | "anyOf" | "oneOf" => self.each_in_array(at, value, &pointer, Step::Combine),
            "then" | "else" => self.single(at, value, pointer, Step::Combine),
            "not" | "if" => self.single(at, value, pointer, Step::Ask),
            "dependentSchemas" => self.each_in_object(at, value, &pointer, |_| Some(Step::Combine)),
            "properties" => self.each_in_object(at, value, &pointer, |name| Some(Step::Property(name))),
            "patternProperties" => {
                for pattern in value.as_object().into_iter().flat_map(Map::keys) {
                    self.pattern(pattern, &pointer);
                }
                self.each_in_object(at, value, &pointer, |_| Some(Step::Members));
            }
            "additionalProperties" | "unevaluatedProperties" => {
                self.single(at, value, pointer, Step::Additional);
            }
            "propertyNames" => self.single(at, value, pointer, Step::Members),
            "items" => self.single(at, value, pointer, Step::Items),
            "prefixItems" => self.each_in_array(at, value, &pointer, Step::SomeItems),
            "contains" | "unevaluatedItems" => {
                self.single(at, value, pointer, Step::SomeItems);
            }
            // Reached by `$ref` alone.
            "$defs" | "definitions" => self.each_in_object(at, value, &pointer, |_| None),
            "$ref" => match value.as_str() {
                Some(target) => self.refs.push((at, target)),
                None => self.fault(&pointer, "`$ref` must be a string", ""),
            },
            "$anchor" => {
                if let Some(name) = value.as_str() {
                    self.anchors.insert(name, at);
                }
            }
            "$schema" if at != 0 || value.as_str().map(|v| v.trim_end_matches('#')) != Some(DIALECT) => {
                self.fault(&pointer, format!("`$schema` may only be `{DIALECT}`, at the top"), "");
            }
            "$id" if at != 0 => {
                self.fault(&pointer, "`$id` may stand at the top only", "give parts names under `$defs`");
            }
            "$dynamicRef" | "$dynamicAnchor" | "$recursiveRef" | "$recursiveAnchor" | "$vocabulary" => {
                self.fault(&pointer, format!("`{keyword}` is not taken"), "use `$ref` into `$defs`");
            }
            "pattern" => {
                if let Some(pattern) = value.as_str() {
                    self.pattern(pattern, &pointer);
                }
            }
            "format" => {
                let known = value.as_str().is_some_and(|name| FORMATS.contains(&name));
                if !known {
                    let hint = format!("known formats: {}", FORMATS.join(", "));
                    self.fault(&pointer, "this format cannot be asserted", &hint);
                }
            }
            _ => {}
        }
    }

    fn single(&mut self, at: usize, schema: &'s Value, pointer: String, step: Step<'s>) {
        let to = self.subschema(schema, pointer);
        self.step(at, step, to);
    }

    fn each_in_array(&mut self, at: usize, schemas: &'s Value, pointer: &str, step: Step<'s>) {
        for (index, schema) in schemas.as_array().into_iter().flatten().enumerate() {
            self.single(at, schema, format!("{pointer}/{index}"), step);
        }
    }

    fn each_in_object(
        &mut self,
        at: usize,
        schemas: &'s Value,
        pointer: &str,
        step: impl Fn(&'s str) -> Option<Step<'s>>,
    ) {
        for (name, schema) in schemas.as_object().into_iter().flatten() {
            let mut below = pointer.to_owned();
            push_segment(&mut below, name);
            let to = self.subschema(schema, below);
            if let Some(step) = step(name) {
                self.step(at, step, to);
            }
        }
    }

    fn step(&mut self, from: usize, step: Step<'s>, to: usize) {
        if let Some(node) = self.nodes.get_mut(from) {
            node.steps.push((step, to));
        }
    }

    fn pattern(&mut self, pattern: &str, pointer: &str) {
        self.patterns += 1;
        if pattern.len() > MAX_PATTERN_BYTES {
            self.fault(pointer, format!("the pattern is longer than {MAX_PATTERN_BYTES} bytes"), "");
        }
        if self.patterns == MAX_PATTERNS + 1 {
            self.fault(pointer, format!("the schema has more than {MAX_PATTERNS} patterns"), "");
        }
    }

    fn sanitize(&mut self, at: usize, keywords: &'s Map<String, Value>, pointer: &str) {
        let Some(value) = keywords.get("x-sanitize") else { return };
        let below = format!("{pointer}/x-sanitize");
        let names: Vec<&Value> = match value {
            Value::Array(names) => names.iter().collect(),
            other => vec![other],
        };
        let mut ops = Vec::new();
        for name in names {
            match name.as_str().and_then(Op::named) {
                Some(op) if !ops.contains(&op) => ops.push(op),
                _ => self.fault(&below, "`x-sanitize` is one or several names, each once", Op::NAMES),
            }
        }
        let takes_strings = match keywords.get("type") {
            Some(Value::Array(types)) => types.iter().any(|t| t == "string"),
            Some(one) => one == "string",
            None => true,
        };
        if !takes_strings {
            self.fault(&below, "`x-sanitize` is for strings, and `type` has another", "");
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.ops = ops;
        }
    }

    fn link(&mut self) {
        for (from, target) in std::mem::take(&mut self.refs) {
            let pointer = self.nodes.get(from).map(|n| format!("{}/$ref", n.pointer)).unwrap_or_default();
            let to = target.strip_prefix('#').and_then(|fragment| {
                let fragment = percent_encoding::percent_decode_str(fragment).decode_utf8().ok()?;
                self.by_pointer.get(&*fragment).or_else(|| self.anchors.get(&*fragment)).copied()
            });
            match to {
                Some(to) => self.step(from, Step::Ref, to),
                None => self.fault(
                    &pointer,
                    "`$ref` leads to no subschema of this file",
                    "references stay within the file: `#/$defs/name`",
                ),
            }
        }
        if self.nodes.len() > MAX_SUBSCHEMAS {
            self.fault("", format!("the schema has more than {MAX_SUBSCHEMAS} subschemas"), "");
        }
    }
}

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Formats that the validator asserts in linear time. `regex` would compile the caller's own text.
const FORMATS: &[&str] = &[
    "date",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "iri",
    "iri-reference",
    "json-pointer",
    "relative-json-pointer",
    "time",
    "uri",
    "uri-reference",
    "uri-template",
    "uuid",
];

/// A schema of a large public API has some hundreds.
const MAX_SUBSCHEMAS: usize = 4_096;
const MAX_PATTERNS: usize = 256;
const MAX_PATTERN_BYTES: usize = 1_024;
