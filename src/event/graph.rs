//! A JSON Schema as a graph of its subschemas: what may stand in it, and what it may cost.
//!
//! Whoever writes a schema is not trusted with cost (D9). A validator follows `$ref` and the combining keywords blindly:
//! a cycle among them never ends, nesting eats the stack, and branches that recurse multiply at every level of the
//! value. So each is bounded here, before a validator is built.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::sanitize::Op;

mod cost;
mod read;

/// Something wrong with a schema, by JSON pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) pointer: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) is_fault: bool,
}

/// How one subschema leads to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step<'s> {
    /// `$ref`: the same value.
    Ref,
    /// `allOf`, `anyOf`, `oneOf`, `then`, `else`, `dependentSchemas`: the same value.
    Combine,
    /// `not`, `if`: the same value, asked and not asserted.
    Ask,
    /// A property of that name.
    Property(&'s str),
    /// Every item, past those of `prefixItems`.
    Items,
    /// Members that the subschema itself does not name: `additionalProperties`, `unevaluatedProperties`.
    Additional,
    /// Members whatever their name: `patternProperties`, `propertyNames`.
    Members,
    /// Some items: `prefixItems`, `contains`, `unevaluatedItems`.
    SomeItems,
}

impl Step<'_> {
    fn stays(self) -> bool {
        matches!(self, Self::Ref | Self::Combine | Self::Ask)
    }

    /// Whether sanitizing follows it.
    pub(crate) fn is_plain(self) -> bool {
        matches!(self, Self::Ref | Self::Property(_) | Self::Items)
    }
}

/// One subschema.
#[derive(Debug)]
pub(crate) struct Node<'s> {
    pub(crate) pointer: String,
    pub(crate) schema: &'s Value,
    pub(crate) steps: Vec<(Step<'s>, usize)>,
    pub(crate) ops: Vec<Op>,
}

/// All subschemas; the first is the whole.
#[derive(Debug)]
pub(crate) struct Graph<'s> {
    pub(crate) nodes: Vec<Node<'s>>,
}

impl<'s> Graph<'s> {
    /// Reads a schema; `depth` is how deeply values may nest.
    pub(crate) fn of(schema: &'s Value, depth: u32) -> (Self, Vec<Finding>) {
        let (nodes, mut findings) = read::nodes(schema);
        let graph = Self { nodes };
        if findings.is_empty() {
            match graph.in_order() {
                Err(at) => findings.push(graph.fault(
                    at,
                    "the subschema leads back to itself without going into the value",
                    "a `$ref` may recurse under `properties` or `items` only",
                )),
                Ok(order) => graph.measure(&order, depth, &mut findings),
            }
            graph.find_stray_sanitizers(&mut findings);
            graph.find_open_objects(&mut findings);
        }
        (graph, findings)
    }

    fn fault(&self, at: usize, message: impl Into<String>, hint: &str) -> Finding {
        let pointer = self.nodes.get(at).map(|n| n.pointer.clone()).unwrap_or_default();
        Finding { pointer, message: message.into(), hint: Some(hint.to_owned()), is_fault: true }
    }

    fn steps(&self, at: usize) -> &[(Step<'s>, usize)] {
        self.nodes.get(at).map(|n| n.steps.as_slice()).unwrap_or_default()
    }

    /// Whether the subschema has a property of that name itself.
    fn names(&self, at: usize, name: &str) -> bool {
        self.nodes.get(at).and_then(|n| n.schema.get("properties")).is_some_and(|p| p.get(name).is_some())
    }

    /// `x-sanitize` that a value may meet by another way than `properties`, `items` and `$ref`: it would not hold there.
    fn find_stray_sanitizers(&self, findings: &mut Vec<Finding>) {
        let mut strays = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![(0, false)];
        while let Some((at, stray)) = open.pop() {
            if !seen.insert((at, stray)) {
                continue;
            }
            if stray && self.nodes.get(at).is_some_and(|n| !n.ops.is_empty()) {
                strays.insert(at);
            }
            open.extend(self.steps(at).iter().map(|(step, to)| (*to, stray || !step.is_plain())));
        }
        for at in strays {
            findings.push(self.fault(
                at,
                "`x-sanitize` is reached by other keywords than `properties`, `items` and `$ref`",
                "put it on the property itself, outside `allOf`, `anyOf`, `oneOf`, `if` and their like",
            ));
        }
    }

    /// Objects that take any further member (D8).
    fn find_open_objects(&self, findings: &mut Vec<Finding>) {
        let mut seen = BTreeSet::new();
        let mut told = BTreeSet::new();
        let mut open = vec![(0, false)];
        while let Some((at, closed_above)) = open.pop() {
            if !seen.insert((at, closed_above)) {
                continue;
            }
            let Some(Value::Object(schema)) = self.nodes.get(at).map(|n| n.schema) else { continue };
            let limits = |key| schema.get(key).is_some_and(|v| !is_anything(v));
            let closed = limits("additionalProperties") || limits("unevaluatedProperties");
            if takes_objects(schema) && !closed && !closed_above && told.insert(at) {
                findings.push(Finding {
                    is_fault: false,
                    ..self.fault(
                        at,
                        "the schema takes objects with members that it does not name",
                        "add `\"additionalProperties\": false`, or `unevaluatedProperties` beside `allOf` and `$ref`",
                    )
                });
            }
            let closed_beside = closed_above || limits("unevaluatedProperties");
            for (step, to) in self.steps(at) {
                match step {
                    Step::Ask => {}
                    Step::Ref | Step::Combine => open.push((*to, closed_beside)),
                    _ => open.push((*to, false)),
                }
            }
        }
    }
}

fn is_anything(schema: &Value) -> bool {
    match schema {
        Value::Bool(taken) => *taken,
        Value::Object(keywords) => keywords.is_empty(),
        _ => false,
    }
}

fn takes_objects(schema: &Map<String, Value>) -> bool {
    match schema.get("type") {
        Some(Value::Array(types)) => types.iter().any(|t| t == "object"),
        Some(one) => one == "object",
        None => schema.contains_key("properties"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn messages(schema: &Value) -> Vec<String> {
        let findings = Graph::of(schema, 32).1;
        findings.iter().filter(|f| f.is_fault).map(|f| format!("{}: {}", f.pointer, f.message)).collect()
    }

    fn warnings(schema: &Value) -> Vec<String> {
        let findings = Graph::of(schema, 32).1;
        findings.iter().filter(|f| !f.is_fault).map(|f| f.pointer.clone()).collect()
    }

    #[test]
    fn d09_a_cycle_on_one_value_is_a_fault() {
        for schema in [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}]}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"not": {"$ref": "#/$defs/b"}}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}}),
        ] {
            assert!(messages(&schema).iter().any(|m| m.contains("back to itself")), "{schema}");
        }
        assert_eq!(messages(&json!({"properties": {"child": {"$ref": "#"}}})), Vec::<String>::new());
    }

    #[test]
    fn d09_branches_that_multiply_are_a_fault() {
        let doubling: Map<String, Value> = (0..12)
            .map(|n| {
                let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
                (format!("d{n}"), json!({"allOf": [next, next]}))
            })
            .chain([("d12".to_owned(), json!(true))])
            .collect();
        let wide = json!({"$ref": "#/$defs/d5", "$defs": doubling});
        assert!(messages(&wide).iter().any(|m| m.contains("apply") || m.contains("nest")), "{wide}");
        let recursing = json!({"oneOf": [
            {"properties": {"left": {"$ref": "#"}}}, {"properties": {"left": {"$ref": "#"}}}
        ]});
        assert!(messages(&recursing).iter().any(|m| m.contains("along one path")));
        let binary_tree = json!({"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}});
        assert_eq!(messages(&binary_tree), Vec::<String>::new());
        let map = json!({"properties": {"a": {"$ref": "#"}}, "additionalProperties": {"$ref": "#"}});
        assert_eq!(messages(&map), Vec::<String>::new());
        let kinds: Vec<Value> = (0..200).map(|n| json!({"properties": {"kind": {"const": n}}})).collect();
        assert_eq!(messages(&json!({"oneOf": kinds})), Vec::<String>::new());
    }

    #[test]
    fn d09_references_stay_in_the_file() {
        for target in
            ["https://example.com/s.json", "other.json", "#/$defs/none", "file:///etc/passwd", "#nowhere"]
        {
            assert_eq!(
                messages(&json!({"$ref": target})),
                ["/$ref: `$ref` leads to no subschema of this file"],
                "{target}"
            );
        }
        assert!(messages(&json!({"$dynamicRef": "#a"})).iter().any(|m| m.contains("not taken")));
        assert!(messages(&json!({"properties": {"a": {"$id": "x"}}})).iter().any(|m| m.contains("$id")));
        assert!(messages(&json!({"$ref": "#a", "$defs": {"x": {"$anchor": "a"}}})).is_empty());
    }

    #[test]
    fn d10_a_format_that_nobody_asserts_is_a_fault() {
        assert!(messages(&json!({"format": "date-time"})).is_empty());
        for format in ["regex", "phone", "idn-email"] {
            assert!(!messages(&json!({ "format": format })).is_empty(), "{format}");
        }
    }

    #[test]
    fn a_sanitizer_in_the_wrong_place_is_a_fault() {
        let trim = json!({"type": "string", "x-sanitize": "trim"});
        assert!(messages(&json!({"properties": {"a": trim}})).is_empty());
        assert!(messages(&json!({"items": {"$ref": "#/$defs/t"}, "$defs": {"t": trim}})).is_empty());
        for schema in [
            json!({"allOf": [{"properties": {"a": trim}}]}),
            json!({"prefixItems": [trim]}),
            json!({"additionalProperties": trim}),
            json!({"properties": {"a": {"$ref": "#/$defs/t"}, "b": {"anyOf": [{"$ref": "#/$defs/t"}]}}, "$defs": {"t": trim}}),
            json!({"properties": {"a": {"x-sanitize": "scrub"}}}),
            json!({"properties": {"a": {"x-sanitize": ["trim", "trim"]}}}),
            json!({"properties": {"a": {"type": "integer", "x-sanitize": "trim"}}}),
        ] {
            assert_eq!(messages(&schema).len(), 1, "{schema}");
        }
    }

    #[test]
    fn d08_an_object_open_to_extra_members_is_told() {
        assert_eq!(warnings(&json!({"type": "object"})), [""]);
        assert_eq!(warnings(&json!({"type": "object", "additionalProperties": true})), [""]);
        assert!(warnings(&json!({"type": "object", "additionalProperties": false})).is_empty());
        assert!(
            warnings(&json!({"allOf": [{"properties": {"a": true}}], "unevaluatedProperties": false}))
                .is_empty()
        );
        assert_eq!(
            warnings(
                &json!({"additionalProperties": false, "properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"type": "object"}}})
            ),
            ["/$defs/x"]
        );
        assert!(warnings(&json!({"not": {"type": "object"}})).is_empty());
    }
}
