//! Guests that behave, guests that do not, and what the rules of hardening.md (F) say about both.

use std::{fs, path::Path};

use super::{limits::SetBy::Platform, *};
use crate::{event::Place, site::units::Span};

mod admission;
mod hostile;
mod rules;

const HELLO: &str = include_str!("../../functions/acme/hello/hello.wat");

pub(super) fn sandbox() -> Arc<Sandbox> {
    sandbox_with(|_| ())
}

pub(super) fn sandbox_with(adjust: impl FnOnce(&mut Settings)) -> Arc<Sandbox> {
    let pool = PoolLimits { instances: 8, ..PoolLimits::default() };
    let mut settings = Settings { pool, ..Settings::default() };
    adjust(&mut settings);
    Sandbox::start(&settings).unwrap()
}

/// Generous to time, so that a busy machine fails no test; tight where a guest is to meet a limit.
pub(super) fn limits(adjust: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits {
        cpu: Limit { value: ms(10_000), set_by: Platform },
        wall: Limit { value: ms(60_000), set_by: Platform },
        ..Limits::default()
    };
    adjust(&mut limits);
    limits
}

pub(super) fn ms(ms: u64) -> Span {
    Span(std::time::Duration::from_millis(ms))
}

pub(super) fn by_function<T>(value: T) -> Limit<T> {
    Limit { value, set_by: SetBy::Function }
}

/// Text of a hostile guest: `tests/fixtures/guests/<name>.wat` in its shell.
pub(super) fn guest(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/guests");
    let shell = fs::read_to_string(folder.join("shell.wat")).unwrap();
    shell.replace("@guest@", &fs::read_to_string(folder.join(format!("{name}.wat"))).unwrap())
}

fn event(body: &[u8]) -> EventInput<'_> {
    EventInput {
        request_id: "0190b6d5-7c1a-7c00-9000-0123456789ab",
        caller: CallerInput { id: "acme/alice", roles: &["acme/invoker"], scopes: &["greet"] },
        method: "POST",
        rest: "",
        query: "{}",
        headers: &[("accept", "application/json")],
        content_type: "application/json",
        body,
        raw: Some(b"raw"),
        signals: &[SignalInput { pointer: "/name", kind: "sql" }],
    }
}

fn runner(sandbox: &Arc<Sandbox>, tenant: &str, component: &str, limits: Limits) -> Runner {
    runner_of(sandbox, tenant, component.as_bytes(), limits)
}

pub(super) fn runner_of(sandbox: &Arc<Sandbox>, tenant: &str, component: &[u8], limits: Limits) -> Runner {
    let component = sandbox.admit(component, None).unwrap();
    sandbox.runner(function(tenant), component, limits)
}

fn function(tenant: &str) -> FunctionId {
    FunctionId { tenant: tenant.parse().unwrap(), function: "f".parse().unwrap() }
}

async fn run(runner: &Runner, body: &[u8]) -> Result<Reply, SandboxError> {
    used(runner, body).await.0
}

async fn used(runner: &Runner, body: &[u8]) -> (Result<Reply, SandboxError>, Usage) {
    used_by(runner, event(body)).await
}

pub(super) async fn used_by(runner: &Runner, event: EventInput<'_>) -> (Result<Reply, SandboxError>, Usage) {
    let mut usage = Usage::default();
    let result = runner.run_event(event, &Place::default(), &mut usage).await;
    (result, usage)
}

async fn greeting(hello: &Runner, body: &str) -> String {
    String::from_utf8(run(hello, body.as_bytes()).await.unwrap().body).unwrap()
}

fn message(result: Result<Reply, SandboxError>) -> String {
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn hello_greets() {
    let hello = runner(&sandbox(), "acme", HELLO, limits(|_| ()));
    let reply = run(&hello, br#"{"name":"Ada"}"#).await.unwrap();
    assert_eq!((reply.status, reply.content_type.as_str()), (200, "application/json"));
    for (body, greeted) in [
        (r#"{"name":"Ada"}"#, "Ada"),
        (r#"{"name":"a\"b\\"}"#, r#"a\"b\\"#),
        (r#"{"x":{"name":"no"},"y":["name","no"],"name":"yes"}"#, "yes"),
        (r#"{"x":"name","name":"yes"}"#, "yes"),
        (r#"{"x":"\\","name":"yes"}"#, "yes"),
        (r#"{"name":3,"x":"no"}"#, "world"),
        (r#"{"name":["no"]}"#, "world"),
        (r#"{"names":"no"}"#, "world"),
        (r#"{"name":"O’Brien ☕"}"#, "O’Brien ☕"),
        (r#"{"name":""}"#, ""),
        (r#"{"name":"#, "world"),
        ("{}", "world"),
        ("", "world"),
    ] {
        assert_eq!(greeting(&hello, body).await, format!("{{\"greeting\":\"Hello, {greeted}!\"}}"), "{body}");
    }
    let long = "x".repeat(200_000);
    assert_eq!(greeting(&hello, &format!("{{\"name\":\"{long}\"}}")).await.len(), long.len() + 23);
}

#[tokio::test]
async fn hello_greets_as_serde_would_over_generated_events() {
    let hello = runner(&sandbox(), "acme", HELLO, limits(|_| ()));
    // A fixed sequence (a linear congruence), so that a failure repeats.
    let mut seed = 1_u64;
    let mut next = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let alphabet: Vec<char> = "aZ0 \"\\/{}[]:,'\u{e9}\u{4e16}\u{1f600}\n\t\u{1f}".chars().collect();
    for _ in 0..100 {
        let mut text = |most| -> String {
            let length = next(most);
            (0..length).filter_map(|_| alphabet.get(next(alphabet.len() as u64) as usize)).collect()
        };
        let (before, name) = (text(12), text(40));
        let body = serde_json::json!({ "before": [before, { "name": before }], "name": name }).to_string();
        let reply: serde_json::Value = serde_json::from_str(&greeting(&hello, &body).await).unwrap();
        assert_eq!(reply, serde_json::json!({ "greeting": format!("Hello, {name}!") }), "{body}");
    }
}

#[tokio::test]
async fn usage_is_told() {
    let hello = runner(&sandbox(), "acme", HELLO, limits(|_| ()));
    let (reply, usage) = used(&hello, b"{}").await;
    assert!(reply.is_ok() && !usage.cold && !usage.retried);
    assert!(usage.cpu > std::time::Duration::ZERO && usage.wall > std::time::Duration::ZERO);
    assert_eq!((usage.peak_memory, usage.hits.len()), (65_536, 0));
}
