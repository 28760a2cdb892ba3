//! What a schema says about single places of a value, beyond validity: `x-sanitize`, and integers wider than 2^53 − 1.
//!
//! A place is reached through `properties`, `items` and `$ref` alone, so that it is the same whatever the value; the
//! combining keywords choose by value, and a value must not choose how it is read.

use std::collections::HashMap;

use serde_json::{Number, Value};

use super::{
    error::{Violation, push_segment},
    graph::{Graph, Step},
    json::JsonLimits,
    number::MAX_SAFE,
    sanitize::Op,
};

/// Places of a schema; the first is the whole value. Made from an acyclic-on-one-value [`Graph`], so that a walk ends
/// with the value's depth.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    places: Vec<Place>,
    sanitizes: bool,
}

#[derive(Debug, Default)]
struct Place {
    ops: Vec<Op>,
    wide: Wide,
    kind: Kind,
    same: Option<usize>,
    properties: HashMap<String, usize>,
    items: Option<usize>,
    /// Whether a sanitizer is here or below: other places are not walked.
    sanitizes: bool,
}

/// Integers beyond ±(2^53 − 1) that a place takes: `type` is `integer` (or that and `null`), and a `minimum` or
/// `maximum` lies beyond as well. Whoever states such a bound knows that readers of doubles will round.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Wide {
    below: bool,
    above: bool,
}

/// What a place takes, for texts that have no types of their own (query, forms).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Strings, or several types.
    #[default]
    Text,
    /// `"type": "integer"`.
    Integer,
    /// `"type": "number"`.
    Number,
    /// `"type": "boolean"`.
    Boolean,
    /// `"type": "array"`.
    Array,
}

impl Plan {
    /// The plan of a schema whose graph has no faults.
    pub(crate) fn of(graph: &Graph<'_>) -> Self {
        let mut places: Vec<Place> = Vec::with_capacity(graph.nodes.len());
        for node in &graph.nodes {
            let mut place = Place {
                ops: node.ops.clone(),
                wide: Wide::of(node.schema),
                kind: Kind::of(node.schema),
                sanitizes: !node.ops.is_empty(),
                ..Place::default()
            };
            for (step, to) in &node.steps {
                match step {
                    Step::Ref => place.same = Some(*to),
                    Step::Property(name) => {
                        place.properties.insert((*name).to_owned(), *to);
                    }
                    Step::Items => place.items = Some(*to),
                    _ => {}
                }
            }
            places.push(place);
        }
        // A place sanitizes if one that it leads to does; each round settles one more step.
        loop {
            let mut settled = true;
            for at in 0..places.len() {
                let leads = |to: &usize| places.get(*to).is_some_and(|p| p.sanitizes);
                let now = places.get(at).is_some_and(|p| {
                    !p.sanitizes && p.same.iter().chain(&p.items).chain(p.properties.values()).any(leads)
                });
                if now && let Some(place) = places.get_mut(at) {
                    place.sanitizes = true;
                    settled = false;
                }
            }
            if settled {
                break;
            }
        }
        let sanitizes = places.first().is_some_and(|p| p.sanitizes);
        Self { places, sanitizes }
    }

    /// Applies every sanitizer and tells where a string could not be what one asks for.
    pub(crate) fn sanitize(&self, value: &mut Value) -> Vec<Violation> {
        let mut violations = Vec::new();
        if self.sanitizes {
            self.sanitize_at(0, value, &mut String::new(), &mut violations);
        }
        violations
    }

    /// Whether strings can have changed.
    pub(crate) fn sanitizes(&self) -> bool {
        self.sanitizes
    }

    fn sanitize_at(
        &self,
        at: usize,
        value: &mut Value,
        pointer: &mut String,
        violations: &mut Vec<Violation>,
    ) {
        let Some(place) = self.places.get(at).filter(|p| p.sanitizes) else { return };
        if let Some(same) = place.same {
            self.sanitize_at(same, value, pointer, violations);
        }
        let length = pointer.len();
        match value {
            Value::String(text) => {
                for op in &place.ops {
                    if !op.apply(text) {
                        violations.push(Violation {
                            pointer: pointer.clone(),
                            keyword: "x-sanitize".to_owned(),
                            limit: Some("identifier".to_owned()),
                        });
                    }
                }
            }
            Value::Object(members) if !place.properties.is_empty() => {
                for (name, member) in members {
                    if let Some(to) = place.properties.get(name) {
                        push_segment(pointer, name);
                        self.sanitize_at(*to, member, pointer, violations);
                        pointer.truncate(length);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(to) = place.items {
                    for (index, item) in items.iter_mut().enumerate() {
                        push_segment(pointer, &index.to_string());
                        self.sanitize_at(to, item, pointer, violations);
                        pointer.truncate(length);
                    }
                }
            }
            _ => {}
        }
    }

    /// Pointer to an integer beyond ±(2^53 − 1) that no place takes.
    pub(crate) fn too_wide(&self, value: &Value) -> Option<String> {
        let mut pointer = String::new();
        self.too_wide_at(&[0], value, &mut pointer).then_some(pointer)
    }

    fn too_wide_at(&self, at: &[usize], value: &Value, pointer: &mut String) -> bool {
        let places = self.with_same(at);
        let length = pointer.len();
        let into = |to: &dyn Fn(&Place) -> Option<usize>| -> Vec<usize> {
            places.iter().filter_map(|p| to(p)).collect()
        };
        match value {
            Value::Number(number) => {
                !places.iter().any(|p| p.wide.takes(number)) && !Wide::none_needed(number)
            }
            Value::Array(items) => {
                let below = into(&|p| p.items);
                items.iter().enumerate().any(|(index, item)| {
                    pointer.truncate(length);
                    push_segment(pointer, &index.to_string());
                    self.too_wide_at(&below, item, pointer)
                })
            }
            Value::Object(members) => members.iter().any(|(name, member)| {
                pointer.truncate(length);
                push_segment(pointer, name);
                let below = into(&|p| p.properties.get(name).copied());
                self.too_wide_at(&below, member, pointer)
            }),
            _ => false,
        }
    }

    /// The places and all that they refer to for the same value.
    fn with_same(&self, at: &[usize]) -> Vec<&Place> {
        let mut places = Vec::new();
        for start in at {
            let mut next = Some(*start);
            while let Some(place) = next.and_then(|n| self.places.get(n)) {
                places.push(place);
                next = place.same;
            }
        }
        places
    }

    /// What the property of that name takes, and what its items take if it is an array.
    pub(crate) fn property_kind(&self, name: &str) -> (Kind, Kind) {
        let to = self.with_same(&[0]).iter().find_map(|p| p.properties.get(name).copied());
        let Some(to) = to else { return (Kind::Text, Kind::Text) };
        let places = self.with_same(&[to]);
        let items = places.iter().find_map(|p| p.items);
        (kind_of(&places), items.map(|i| kind_of(&self.with_same(&[i]))).unwrap_or_default())
    }
}

fn kind_of(places: &[&Place]) -> Kind {
    places.iter().map(|p| p.kind).find(|k| *k != Kind::Text).unwrap_or_default()
}

impl Kind {
    fn of(schema: &Value) -> Self {
        match schema.get("type").and_then(Value::as_str) {
            Some("integer") => Self::Integer,
            Some("number") => Self::Number,
            Some("boolean") => Self::Boolean,
            Some("array") => Self::Array,
            _ => Self::Text,
        }
    }
}

impl Wide {
    fn of(schema: &Value) -> Self {
        let integer = match schema.get("type") {
            Some(Value::String(one)) => one == "integer",
            Some(Value::Array(types)) => types.iter().all(|t| t == "integer" || t == "null"),
            _ => false,
        };
        let beyond = |key: &str, negative: bool| {
            let bound = schema.get(key).and_then(Value::as_number);
            bound.is_some_and(|n| !Self::none_needed(n) && is_negative(n) == negative)
        };
        Self {
            below: integer && (beyond("minimum", true) || beyond("exclusiveMinimum", true)),
            above: integer && (beyond("maximum", false) || beyond("exclusiveMaximum", false)),
        }
    }

    fn takes(self, number: &Number) -> bool {
        if is_negative(number) { self.below } else { self.above }
    }

    /// Whether a number is a double or an integer that doubles have exactly.
    fn none_needed(number: &Number) -> bool {
        match (number.as_i64(), number.as_u64()) {
            (Some(n), _) => n.unsigned_abs() <= MAX_SAFE,
            (None, Some(_)) => false,
            (None, None) => true,
        }
    }
}

fn is_negative(number: &Number) -> bool {
    number.as_i64().is_some_and(i64::is_negative)
}

/// Bounds once more, after strings were changed: pointer of the first string that is too long now.
pub(crate) fn too_long(value: &Value, limits: &JsonLimits) -> Option<String> {
    fn walk(value: &Value, limits: &JsonLimits, pointer: &mut String) -> bool {
        let length = pointer.len();
        match value {
            Value::String(text) => text.len() > limits.string_bytes,
            Value::Array(items) => items.iter().enumerate().any(|(index, item)| {
                pointer.truncate(length);
                push_segment(pointer, &index.to_string());
                walk(item, limits, pointer)
            }),
            Value::Object(members) => members.iter().any(|(name, member)| {
                pointer.truncate(length);
                push_segment(pointer, name);
                walk(member, limits, pointer)
            }),
            _ => false,
        }
    }
    let mut pointer = String::new();
    walk(value, limits, &mut pointer).then_some(pointer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(schema: &Value) -> Plan {
        let (graph, findings) = Graph::of(schema, 32);
        assert!(findings.iter().all(|f| !f.is_fault), "{findings:?}");
        Plan::of(&graph)
    }

    #[test]
    fn sanitizers_hold_through_properties_items_and_references() {
        let plan = plan(&json!({
            "properties": {
                "name": {"x-sanitize": ["trim", "single-line"]},
                "tags": {"items": {"$ref": "#/$defs/tag"}},
                "child": {"$ref": "#"}
            },
            "$defs": {"tag": {"type": "string", "x-sanitize": "trim"}}
        }));
        let mut value =
            json!({"name": " a\nb ", "tags": [" x ", 1, "y"], "other": " z ", "child": {"name": " c "}});
        assert!(plan.sanitize(&mut value).is_empty());
        assert_eq!(
            value,
            json!({"name": "a b", "tags": ["x", 1, "y"], "other": " z ", "child": {"name": "c"}})
        );
    }

    #[test]
    fn d06_a_string_that_is_no_identifier_is_told_by_its_place() {
        let plan = plan(&json!({"properties": {"a/b": {"items": {"x-sanitize": ["trim", "identifier"]}}}}));
        let violations = plan.sanitize(&mut json!({"a/b": [" ok ", "not ok"]}));
        assert_eq!(violations.len(), 1);
        assert_eq!(violations.first().unwrap().pointer, "/a~1b/1");
    }

    #[test]
    fn d05_wide_integers_need_a_wide_bound() {
        let plan = plan(&json!({
            "properties": {
                "bounded": {"type": "integer", "minimum": 0, "maximum": u64::MAX},
                "plain": {"type": "integer"},
                "signed": {"items": {"$ref": "#/$defs/i64"}}
            },
            "$defs": {"i64": {"type": ["integer", "null"], "minimum": i64::MIN, "maximum": i64::MAX}}
        }));
        assert_eq!(plan.too_wide(&json!({"bounded": u64::MAX, "signed": [i64::MIN, i64::MAX, 0]})), None);
        assert_eq!(plan.too_wide(&json!({"plain": 1_u64 << 53})).as_deref(), Some("/plain"));
        assert_eq!(plan.too_wide(&json!({"bounded": i64::MIN})).as_deref(), Some("/bounded"));
        assert_eq!(plan.too_wide(&json!({"x": [1, 2, i64::MAX]})).as_deref(), Some("/x/2"));
    }
}
