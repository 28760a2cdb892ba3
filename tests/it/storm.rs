//! Clients that go away by the hundred while their functions run: nothing stays behind but their records.

use std::{num::NonZeroUsize, thread};

use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    client::{PATIENCE, Reply},
    guest::{echo, guest},
    world::{Live, World, eventually},
};

/// Functions of acme; each is left in the lurch once.
const FUNCTIONS: usize = 25;
/// Calls of one function that leave together. The queue takes sixteen of one tenant on a machine with one core.
const TOGETHER: usize = 8;

/// A guest that nothing but its caller's absence ends while a test lasts.
const ENDLESS: &str = "component = \"component.wat\"\nmethods = [\"POST\"]\n[event]\nmedia-types = [\"application/octet-stream\"]\n\
                       [limits]\ncpu = \"60s\"\nwall = \"30m\"\nconcurrency = 8\n";
const ROOM_FOR_THEM: &str = "[limits]\ncpu = \"60s\"\nwall = \"30m\"\n[sandbox]\ninstances = ";

#[tokio::test]
async fn two_hundred_clients_that_go_away_leave_a_record_each_and_every_instance_free() {
    // For one tenant, which gets half, one for each thread that runs guests: an instance that is lost once a round is missed
    // long before the end.
    let instances = 2 * (1 + thread::available_parallelism().map_or(1, NonZeroUsize::get));
    let mut world = World::with("short", &guest("loops"))
        .file("functions/acme/short/function.toml", &ENDLESS.replace("60s", "5ms"))
        .file("sandgate.toml", &format!("{ROOM_FOR_THEM}{instances}\n"))
        .tenant("globex")
        .function("globex", "echo", &echo());
    for n in 0..FUNCTIONS {
        world = world
            .function("acme", &format!("endless-{n}"), &guest("loops"))
            .file(&format!("functions/acme/endless-{n}/function.toml"), ENDLESS);
    }
    let world = world.start().await;
    for n in 0..FUNCTIONS {
        let function = format!("endless-{n}");
        let gone = all_in_flight(&world, &function).await;
        is_served(&world, n).await;
        drop(gone);
        eventually("everyone who went away has a record", || async {
            coded(&world.records(), &function, "client_gone") == TOGETHER
        })
        .await;
        // Jobs of a tenant are taken in turn: once this one was, the line holds none of those that were left.
        let after = octets(&world, "short").await;
        assert_eq!(after.summary(), "504 function_timeout");
    }

    let records = world.records();
    let calls: Vec<&Value> = records.iter().filter(|r| function_of(r).starts_with("endless-")).collect();
    assert_eq!(calls.len(), FUNCTIONS * (TOGETHER + 1), "one record for each call");
    let gone: Vec<&&Value> = calls.iter().filter(|r| r["outcome"]["code"] == "client_gone").collect();
    assert_eq!(gone.len(), FUNCTIONS * TOGETHER);
    for record in gone {
        assert_eq!(
            (&record["stage"], &record["outcome"]["status"]),
            (&json!("run"), &json!(499)),
            "{record}"
        );
        assert_eq!(record["caller"]["id"], "acme/alice");
    }
    eventually("every instance is free", || async {
        let text = world.running.gateway.metrics_text();
        let says = |line: &str| text.lines().any(|l| l == line);
        says("sandgate_pool_in_use 0") && says(&format!("sandgate_pool_size {instances}"))
    })
    .await;
    // All places of a function that was left are taken again, and no more than those.
    drop(all_in_flight(&world, "endless-0").await);
    is_served(&world, FUNCTIONS).await;
}

/// Calls of `function`, every other one over HTTP/2, of which none has an answer, and all have a place.
///
/// One more was turned away, and a function turns a call away only when all its places are taken.
async fn all_in_flight(world: &Live, function: &str) -> JoinSet<hyper::Result<Reply>> {
    let mut calls = JoinSet::new();
    for n in 0..=TOGETHER {
        let call = world.invoke(&format!("acme/{function}"));
        let call = if n % 2 == 0 { call } else { call.http2() };
        let (client, version, request) =
            call.content_type(Some("application/octet-stream")).text("x").finish();
        calls.spawn(async move { client.try_send(version, request).await });
    }
    let first = timeout(PATIENCE, calls.join_next()).await.expect("a call is turned away in time");
    let shed = first.unwrap().unwrap().unwrap();
    assert_eq!(shed.summary(), "503 overloaded", "{function}");
    let full = json!([{"name": "concurrency", "value": TOGETHER, "set_by": "function"}]);
    assert_eq!(world.record(&shed)["limits"], full, "{function}");
    assert_eq!(calls.len(), TOGETHER);
    calls
}

/// A neighbour's call while others' guests run.
async fn is_served(world: &Live, n: usize) {
    let reply = world.invoke("globex/echo").json(json!({"n": n})).send().await;
    assert_eq!((reply.summary().as_str(), reply.json()), ("200", json!({"n": n})));
}

async fn octets(world: &Live, function: &str) -> Reply {
    let call = world.invoke(&format!("acme/{function}"));
    call.content_type(Some("application/octet-stream")).text("x").send().await
}

fn function_of(record: &Value) -> &str {
    record["function"].as_str().unwrap_or_default()
}

fn coded(records: &[Value], function: &str, code: &str) -> usize {
    records.iter().filter(|r| function_of(r) == function && r["outcome"]["code"] == code).count()
}
