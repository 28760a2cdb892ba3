//! What reading an event costs, beside `serde_json`'s parse alone: the goal is 3 times, schema and all.

mod minted;

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use minted::Minted;
use sandgate::event::{JsonLimits, json};
use serde_json::Value;

const SCHEMA: &str = r##"{
    "type": "object", "additionalProperties": false, "required": ["orders"],
    "properties": {"orders": {"type": "array", "maxItems": 1000, "items": {"$ref": "#/$defs/order"}}},
    "$defs": {"order": {
        "type": "object", "additionalProperties": false, "required": ["id", "customer", "lines"],
        "properties": {
            "id": {"type": "string", "pattern": "^[A-Z0-9-]{1,40}$"},
            "customer": {"type": "string", "maxLength": 80, "x-sanitize": "trim"},
            "note": {"type": "string", "maxLength": 2000},
            "paid": {"type": "boolean"},
            "lines": {"type": "array", "items": {
                "type": "object", "additionalProperties": false, "required": ["sku", "quantity"],
                "properties": {
                    "sku": {"type": "string", "maxLength": 40},
                    "quantity": {"type": "integer", "minimum": 1, "maximum": 1000},
                    "price": {"type": "number", "minimum": 0}
                }
            }}
        }
    }}
}"##;

/// Orders of some 290 bytes each, up to about that many bytes.
fn event(bytes: usize) -> Vec<u8> {
    let order = |n: usize| {
        format!(
            r#"{{"id":"ORD-{n:06}","customer":"Anne-Marie O'Neill","note":"leave it with the neighbour on the left, please","paid":true,"lines":[{{"sku":"AB-1234-XL","quantity":2,"price":19.99}},{{"sku":"CD-9876-S","quantity":11,"price":3.5}}]}}"#
        )
    };
    let mut orders = vec![order(0)];
    let mut length = orders.iter().map(String::len).sum::<usize>();
    while length + 240 < bytes {
        let next = order(orders.len());
        length += next.len() + 1;
        orders.push(next);
    }
    format!("{{\"orders\":[{}]}}", orders.join(",")).into_bytes()
}

fn parse(c: &mut Criterion) {
    let (minted, _) = Minted::new(SCHEMA);
    let rules = &minted.events;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let mut group = c.benchmark_group("event");
    for size in [300, 64 * 1024] {
        let body = event(size);
        assert!(rules.check_json(&body).is_ok(), "the event of {size} bytes is valid");
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::new("serde_json_alone", size), &body, |b, body| {
            b.iter(|| serde_json::from_slice::<Value>(black_box(body)))
        });
        group.bench_with_input(BenchmarkId::new("strict_parse_and_text", size), &body, |b, body| {
            b.iter(|| json::parse_bytes(black_box(body), &JsonLimits::MAX))
        });
        group.bench_with_input(BenchmarkId::new("strict_parse_text_and_schema", size), &body, |b, body| {
            b.iter(|| rules.check_json(black_box(body)))
        });
        let body = Bytes::from(body);
        group.bench_function(BenchmarkId::new("whole_event", size), |b| {
            b.iter_batched(
                || runtime.block_on(minted.authorized(&body)),
                |authorized| runtime.block_on(rules.validate(authorized)).expect("a valid event"),
                BatchSize::SmallInput,
            )
        });
    }
    group.finish();
}

criterion_group!(benches, parse);
criterion_main!(benches);
