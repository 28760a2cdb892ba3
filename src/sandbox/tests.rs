//! Guests that behave, and guests that do not.

use super::*;

const HELLO: &[u8] = include_bytes!("../../functions/acme/hello/hello.wat");

fn sandbox() -> Arc<Sandbox> {
    let pool = PoolLimits { instances: 8, ..PoolLimits::default() };
    Sandbox::start(&Settings { pool, ..Settings::default() }).unwrap()
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
        raw: None,
        signals: &[],
    }
}

fn runner(sandbox: &Arc<Sandbox>, component: &[u8], limits: Limits) -> Runner {
    let component = sandbox.admit(component, None).unwrap();
    sandbox.runner(&"acme".parse().unwrap(), component, limits)
}

async fn run(runner: &Runner, body: &[u8]) -> Result<Reply, SandboxError> {
    runner.run_event(event(body), &mut Usage::default()).await
}

async fn greeting(runner: &Runner, body: &str) -> String {
    String::from_utf8(run(runner, body.as_bytes()).await.unwrap().body).unwrap()
}

#[tokio::test]
async fn hello_greets() {
    let hello = runner(&sandbox(), HELLO, Limits::default());
    let reply = run(&hello, br#"{"name":"Ada"}"#).await.unwrap();
    assert_eq!((reply.status, reply.content_type.as_str()), (200, "application/json"));
    assert_eq!(reply.body, br#"{"greeting":"Hello, Ada!"}"#);
    for (body, greeted) in [
        (r#"{"name":"a\"b\\"}"#, r#"a\"b\\"#),
        (r#"{"x":{"name":"no"},"y":["name","no"],"name":"yes"}"#, "yes"),
        (r#"{"x":"name","name":"yes"}"#, "yes"),
        (r#"{"name":3,"x":"no"}"#, "world"),
        (r#"{"name":["no"]}"#, "world"),
        (r#"{"name":"O’Brien ☕"}"#, "O’Brien ☕"),
        (r#"{"name":""}"#, ""),
        ("{}", "world"),
        ("", "world"),
    ] {
        assert_eq!(greeting(&hello, body).await, format!("{{\"greeting\":\"Hello, {greeted}!\"}}"), "{body}");
    }
}
