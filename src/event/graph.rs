//! A JSON Schema as a graph of its subschemas: what may stand in it, and what it may cost.
//!
//! Whoever writes a schema is not trusted with cost (D9). A validator follows `$ref` and the combining keywords blindly:
//! a cycle among them never ends, nesting eats the stack, and branches that recurse multiply at every level of the
//! value. So each is bounded here, before a validator is built.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::{error::push_segment, sanitize::Op};

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
        let mut reader = Reader::default();
        reader.subschema(schema, String::new());
        reader.link();
        // Properties first: what is additional to them is then known.
        for node in &mut reader.nodes {
            node.steps.sort_by_key(|(step, _)| !matches!(step, Step::Property(_)));
        }
        let Reader { nodes, mut findings, .. } = reader;
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

    /// The nodes ordered so that each comes after those it leads to on the same value; or one of a cycle.
    fn in_order(&self) -> Result<Vec<usize>, usize> {
        let mut waits: Vec<usize> = vec![0; self.nodes.len()];
        let mut leads_here: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (from, node) in self.nodes.iter().enumerate() {
            for (step, to) in &node.steps {
                if step.stays() {
                    if let Some(count) = waits.get_mut(from) {
                        *count += 1;
                    }
                    if let Some(sources) = leads_here.get_mut(*to) {
                        sources.push(from);
                    }
                }
            }
        }
        let mut order: Vec<usize> = (0..self.nodes.len()).filter(|at| waits.get(*at) == Some(&0)).collect();
        let mut next = 0;
        while let Some(done) = order.get(next).copied() {
            next += 1;
            for from in leads_here.get(done).into_iter().flatten() {
                if let Some(count) = waits.get_mut(*from) {
                    *count -= 1;
                    if *count == 0 {
                        order.push(*from);
                    }
                }
            }
        }
        match waits.iter().position(|count| *count > 0) {
            Some(at) => Err(at),
            None => Ok(order),
        }
    }

    /// Bounds nesting on one value, and how many subschemas can apply along one path into a value.
    fn measure(&self, order: &[usize], depth: u32, findings: &mut Vec<Finding>) {
        let mut nesting: Vec<usize> = vec![1; self.nodes.len()];
        for at in order {
            let deepest = self.steps(*at).iter().filter(|(step, _)| step.stays());
            let deepest = deepest.filter_map(|(_, to)| nesting.get(*to)).max().copied().unwrap_or(0) + 1;
            if let Some(own) = nesting.get_mut(*at) {
                *own = deepest;
            }
        }
        if let Some(at) = nesting.iter().position(|n| *n > MAX_NESTING) {
            findings.push(self.fault(
                at,
                format!("more than {MAX_NESTING} subschemas nest here on one value"),
                "flatten `allOf`, `anyOf`, `oneOf` and chains of `$ref`",
            ));
            return;
        }
        match self.applications(order, depth) {
            Some(count) if count <= MAX_APPLICATIONS => {}
            _ => findings.push(self.fault(
                0,
                format!("more than {MAX_APPLICATIONS} subschemas may apply along one path of an event"),
                "recurse in one branch of `anyOf` and `oneOf` only, choose by `if` and `then`, or lower `max-depth`",
            )),
        }
    }

    /// Upper bound of subschemas applied along the worst path of that depth; none if even counting is too long.
    ///
    /// `F(s, d) = A(s) + max over members m of Σ F(c, d − 1)`, where `A(s)` counts the subschemas on one value and the
    /// sum is over all subschemas that these put on the member `m`.
    fn applications(&self, order: &[usize], depth: u32) -> Option<u64> {
        let mut budget = MAX_COUNTING;
        let mut below: Vec<u64> = vec![0; self.nodes.len()];
        for _ in 0..=depth {
            // For every node: subschemas on this value; on members by name; on any other member; on items.
            let mut all: Vec<Reach<'s>> = (0..self.nodes.len()).map(|_| Reach::default()).collect();
            for at in order {
                let mut reach = Reach { here: 1, ..Reach::default() };
                for (step, to) in self.steps(*at) {
                    budget = budget.checked_sub(1)?;
                    let weight = below.get(*to).copied().unwrap_or(0);
                    match step {
                        Step::Property(name) => reach.add_named(name, weight),
                        Step::Items | Step::SomeItems => reach.items = reach.items.saturating_add(weight),
                        Step::Additional => reach.add_others(weight, |name| !self.names(*at, name)),
                        Step::Members => reach.add_others(weight, |_| true),
                        Step::Ref | Step::Combine | Step::Ask => {
                            if let Some(other) = all.get(*to) {
                                budget = budget.checked_sub(other.named.len() + reach.named.len())?;
                                reach.merge(other);
                            }
                        }
                    }
                }
                if let Some(own) = all.get_mut(*at) {
                    *own = reach;
                }
            }
            let now: Vec<u64> = all.iter().map(Reach::worst).collect();
            if now == below {
                break;
            }
            below = now;
        }
        below.first().copied()
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

/// Weights of what one node puts on its value and on what is in it.
#[derive(Debug, Default)]
struct Reach<'s> {
    here: u64,
    /// By name, the weight of `others` included.
    named: BTreeMap<&'s str, u64>,
    others: u64,
    items: u64,
}

impl<'s> Reach<'s> {
    fn add_named(&mut self, name: &'s str, weight: u64) {
        let others = self.others;
        let own = self.named.entry(name).or_insert(others);
        *own = own.saturating_add(weight);
    }

    fn add_others(&mut self, weight: u64, applies: impl Fn(&str) -> bool) {
        self.others = self.others.saturating_add(weight);
        for (name, own) in &mut self.named {
            if applies(name) {
                *own = own.saturating_add(weight);
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        self.here = self.here.saturating_add(other.here);
        self.items = self.items.saturating_add(other.items);
        let before = self.others;
        for (name, own) in &mut self.named {
            *own = own.saturating_add(other.named.get(name).copied().unwrap_or(other.others));
        }
        for (name, weight) in &other.named {
            self.named.entry(name).or_insert_with(|| before.saturating_add(*weight));
        }
        self.others = before.saturating_add(other.others);
    }

    fn worst(&self) -> u64 {
        let inside = self.named.values().copied().max().unwrap_or(0).max(self.others).max(self.items);
        self.here.saturating_add(inside)
    }
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

/// Nesting of subschemas on one value: with 32 levels of the value it bounds the validator's stack to 512 frames.
const MAX_NESTING: usize = 16;

/// Subschemas along one path of an event: a flat `oneOf` of some hundred kinds stays below, two recursing branches
/// (2^32) do not.
const MAX_APPLICATIONS: u64 = 10_000;

/// Steps spent on counting, so that `check` stays quick whatever it is given.
const MAX_COUNTING: usize = 20_000_000;

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
