//! The sample functions, through the whole gateway, against oracles that share no code with them (`tests/oracle`).

use std::{fs, path::Path};

use serde_json::Value;

use crate::{client::Reply, sample, world::World};

#[tokio::test]
async fn invoice_answers_as_exact_decimals_have_it() {
    agrees("acme", "invoice", "application/json", |reply| reply.json()).await;
}

#[tokio::test]
async fn render_answers_as_another_parser_and_sanitizer_have_it() {
    agrees("acme", "render", "application/json", |reply| {
        let mut body = reply.json();
        if let Some(html) = body.get_mut("html") {
            *html = normal(html.as_str().unwrap()).into();
        }
        body
    })
    .await;
}

#[tokio::test]
async fn calendar_answers_as_rfc_5545_has_it() {
    agrees("globex", "calendar", "text/calendar; charset=utf-8", |reply| {
        String::from_utf8(reply.body.to_vec()).unwrap().into()
    })
    .await;
}

/// Where `functions/build.sh globex/triage` was run: an interpreter is too large to be committed.
#[cfg(feature = "portable")]
#[tokio::test]
async fn triage_answers_as_another_reader_of_its_model_has_it() {
    if Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/globex/triage/function.toml").exists() {
        agrees("globex", "triage", "application/json", |reply| reply.json()).await;
    } else {
        eprintln!("skipped: `functions/build.sh globex/triage` was never run here");
    }
}

/// Sends each event of the oracle to the built component, under its own manifest and schemas.
async fn agrees(tenant: &str, function: &str, content_type: &str, body: fn(&Reply) -> Value) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cases = fs::read_to_string(root.join(format!("tests/oracle/{function}.jsonl"))).unwrap();
    let cases = cases.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>();
    assert_eq!(cases.len(), 100);
    let world = World::new().tenant(tenant);
    sample::copy(root, world.path(), &format!("functions/{tenant}/{function}"));
    let world = world.start().await;
    for (index, case) in cases.iter().enumerate() {
        let reply = world.invoke(&format!("{tenant}/{function}")).json(case["event"].clone()).send().await;
        assert_eq!(reply.status, case["status"], "event {index}: {}", reply.summary());
        if reply.status == 200 {
            assert_eq!(reply.header("content-type"), Some(content_type), "event {index}");
            assert_eq!(body(&reply), case["body"], "event {index}");
        } else {
            assert_eq!(reply.json(), case["body"], "event {index}");
        }
    }
}

/// No line feed directly after `>` or directly before `<`: where they stand is the writer's choice.
fn normal(html: &str) -> String {
    let mut html = html.to_owned();
    for (between, joined) in [(">\n", ">"), ("\n<", "<")] {
        while html.contains(between) {
            html = html.replace(between, joined);
        }
    }
    html
}
