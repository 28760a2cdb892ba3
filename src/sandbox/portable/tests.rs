//! What a component of another host's making does here, and what it cannot do. The guests are `tests/guests`, of which
//! `hostile` does one thing for each path.

use std::{fs, path::Path, time::Duration};

use super::super::{
    tests::{by_function, limits, ms, runner_of, sandbox, sandbox_with, used_by},
    world::{CallerInput, EventInput},
    *,
};
use crate::{event::Place, site::units::Bytes};

fn guest(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/guests/{name}/{name}.wasm"));
    fs::read(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"))
}

fn hostile(adjust: impl FnOnce(&mut Limits)) -> Runner {
    runner_of(&sandbox(), "acme", &guest("hostile"), limits(adjust))
}

fn at<'a>(rest: &'a str, body: &'a [u8]) -> EventInput<'a> {
    EventInput {
        request_id: "0190b6d5-7c1a-7c00-9000-0123456789ab",
        caller: CallerInput { id: "acme/alice", roles: &["acme/invoker"], scopes: &["greet"] },
        method: "POST",
        rest,
        query: "{}",
        headers: &[],
        content_type: if body.is_empty() { "" } else { "text/plain" },
        body,
        raw: None,
        signals: &[],
    }
}

async fn told(runner: &Runner, rest: &str) -> (Result<String, String>, Usage) {
    let (result, usage) = used_by(runner, at(rest, b"")).await;
    let text = result.map(|reply| String::from_utf8_lossy(&reply.body).into_owned());
    (text.map_err(|error| error.to_string()), usage)
}

#[tokio::test]
async fn a_component_made_for_another_host_answers() {
    let count = runner_of(&sandbox(), "acme", &guest("count"), limits(|_| ()));
    let body = "a b\nc d\n".repeat(20_000);
    let (result, usage) = used_by(&count, at("", body.as_bytes())).await;
    let reply = result.unwrap();
    assert_eq!((reply.status, reply.content_type.as_str()), (200, "application/json"));
    assert_eq!(String::from_utf8(reply.body).unwrap(), r#"{"lines":40000,"words":80000,"bytes":160000}"#);
    assert!(usage.cpu > Duration::ZERO && usage.peak_memory >= 65_536 && usage.hits.is_empty(), "{usage:?}");
}

#[tokio::test]
async fn f06_f27_the_base_leads_nowhere() {
    let hostile = hostile(|_| ());
    for (path, answer) in [
        // Variables, arguments, folders and terminals together.
        ("nothing", "0"),
        ("stdin", "closed"),
        ("stdout", "written"),
    ] {
        assert_eq!(told(&hostile, path).await.0, Ok(answer.to_owned()), "{path}");
    }
    assert_eq!(told(&hostile, "stdout").await.1.dropped, 32 * 65_536);
    assert_eq!(told(&hostile, "nothing").await.1.dropped, 0);
    let left = |status| Err(format!("the function trapped: it left by `wasi:cli/exit` with status {status}"));
    assert_eq!(told(&hostile, "exit").await.0, left(1));
    assert_eq!(told(&hostile, "exit-well").await.0, left(0));
}

#[tokio::test]
async fn f06_what_runtimes_import_without_use_is_denied_when_it_is_called() {
    let hostile = hostile(|_| ());
    for (path, called) in [
        ("wall-clock", "wasi:clocks/wall-clock.now"),
        ("secret", "wasi:random/random.get-random-u64"),
        ("network", "wasi:sockets/instance-network.instance-network"),
    ] {
        let refused = told(&hostile, path).await.0.unwrap_err();
        let expected =
            format!("it called `{called}`, which takes a capability, and none can be declared yet");
        assert_eq!(refused, format!("the function trapped: {expected}"));
    }
    // Where the interface has an error for it, that is told.
    assert_eq!(told(&hostile, "socket").await.0, Ok("denied".to_owned()));
    let inspected = inspect(&guest("hostile")).unwrap();
    assert!(inspected.is_served() && inspected.denied.len() >= 4, "{inspected}");
}

#[tokio::test]
async fn f34_the_clock_is_coarse_begins_at_zero_and_waits() {
    let hostile = hostile(|_| ());
    for (path, answer) in [("clock", "coarse"), ("nap", "slept"), ("past", "at once")] {
        assert_eq!(told(&hostile, path).await.0, Ok(answer.to_owned()), "{path}");
    }
    let (_, usage) = told(&hostile, "nap").await;
    assert!(usage.cpu < usage.wall, "waiting is not computing: {usage:?}");
}

#[tokio::test]
async fn f25_f34_numbers_are_bounded_and_of_the_invocation() {
    let hostile = hostile(|_| ());
    let first = told(&hostile, "random").await.0.unwrap();
    assert_eq!(told(&hostile, "random").await.0.unwrap(), first, "the same invocation, the same numbers");
    let other = EventInput { request_id: "0190b6d5-7c1a-7c00-9000-0123456789ac", ..at("random", b"") };
    assert_ne!(used_by(&hostile, other).await.0.unwrap().body, first.as_bytes());
    let refused = told(&hostile, "random-without-end").await.0.unwrap_err();
    assert!(
        refused.contains("asked `wasi:random/insecure` for 9223372036854775807 bytes at once"),
        "{refused}"
    );
}

#[tokio::test]
async fn f20_who_waits_for_ever_meets_the_wall_and_who_computes_for_ever_the_budget() {
    let waits = hostile(|limits| limits.wall = by_function(ms(60)));
    for path in ["never", "sleep", "sleep-at-the-end-of-time", "naps"] {
        let (result, usage) = told(&waits, path).await;
        assert_eq!(
            result,
            Err("the function met its `wall` limit of 60ms (set by the function)".to_owned()),
            "{path}"
        );
        assert_eq!(usage.hits.len(), 1, "{path}");
        assert!(usage.cpu < Duration::from_millis(60), "parked time is free: {usage:?}");
    }
    let computes = hostile(|limits| limits.cpu = by_function(ms(20)));
    // What the host does for a guest counts as the guest's own.
    for path in ["spin", "flood", "poll-without-end", "empty-writes", "flushes"] {
        let (result, usage) = told(&computes, path).await;
        assert_eq!(
            result,
            Err("the function met its `cpu` limit of 20ms (set by the function)".to_owned()),
            "{path}"
        );
        assert!(usage.cpu >= Duration::from_millis(20), "{usage:?}");
    }
}

#[tokio::test]
async fn f25_resources_headers_and_single_calls_are_bounded() {
    let hostile = hostile(|_| ());
    for path in ["resources", "responses"] {
        let (result, usage) = told(&hostile, path).await;
        let refused = result.unwrap_err();
        assert!(refused.contains("resource") || refused.contains("handle"), "{path}: {refused}");
        assert!(usage.peak_memory < 4 << 20);
    }
    let refused = told(&hostile, "headers").await.0.unwrap_err();
    assert_eq!(refused, "the function trapped: it put more than 32768 bytes of headers into one map");
    let refused = told(&hostile, "flood-at-once").await.0.unwrap_err();
    assert_eq!(refused, "the function trapped: it passed more than 262144 bytes in one call");
    let refused = told(&hostile, "header-of-a-mebibyte").await.0.unwrap_err();
    assert_eq!(refused, "the function trapped: it passed more than 262144 bytes in one call");
}

#[tokio::test]
async fn f26_no_call_makes_the_host_take_what_the_guest_only_names() {
    let hostile = hostile(|_| ());
    for path in ["zeroes", "zeroes-of-the-reply"] {
        let refused = told(&hostile, path).await.0.unwrap_err();
        assert!(refused.contains("cannot write more zeroes"), "{path}: {refused}");
    }
    assert!(told(&hostile, "poll-nothing").await.0.is_err());
    assert_eq!(told(&hostile, "poll-copies").await.0, Ok("200".to_owned()));
    let (result, usage) = told(&hostile, "buffers").await;
    assert_eq!(result, Ok("120".to_owned()));
    assert!(usage.peak_memory < 4 << 20, "{usage:?}");
    let body = "0123456789".repeat(20_000);
    for (path, answer) in [("skip", "200000"), ("splice", body.as_str())] {
        let (result, _) = used_by(&hostile, at(path, body.as_bytes())).await;
        assert!(result.unwrap().body == answer.as_bytes(), "{path}");
    }
}

#[tokio::test]
async fn f12_what_a_guest_holds_is_had_once_and_given_back_in_order_or_it_traps() {
    let hostile = hostile(|_| ());
    assert_eq!(told(&hostile, "twice-over").await.0, Ok("4".to_owned()));
    for (path, reason) in [
        ("finished-with-its-stream", "children"),
        ("dropped-with-its-stream", "children"),
        ("dropped-twice", "handle"),
        ("forged", "handle"),
        ("mistaken", "handle"),
    ] {
        let refused = told(&hostile, path).await.0.unwrap_err();
        assert!(refused.contains(reason) && !refused.contains("internal"), "{path}: {refused}");
    }
}

#[tokio::test]
async fn f28_at_the_end_of_its_stack_a_guest_leaves_the_host_enough() {
    let hostile = hostile(|_| ());
    for _ in 0..3 {
        let refused = told(&hostile, "descend").await.0.unwrap_err();
        // The shadow stack in its memory, or the machine's: whichever ends first.
        assert!(refused.contains("out of bounds memory access") || refused.contains("stack"), "{refused}");
    }
}

#[tokio::test]
async fn f16_every_invocation_finds_what_the_first_one_found() {
    let sandbox = sandbox_with(|settings| settings.pool.instances = 1);
    let [acme, globex] =
        ["acme", "globex"].map(|tenant| runner_of(&sandbox, tenant, &guest("hostile"), limits(|_| ())));
    let first = told(&acme, "canary").await.0.unwrap();
    assert!(first.starts_with("0 ") && first.ends_with(" young"), "{first}");
    for path in ["spin", "descend", "grow", "buffers"] {
        let tight = limits(|limits| {
            limits.cpu = by_function(ms(5));
            limits.memory = by_function(Bytes::mib(4));
        });
        // Whoever was there before, and however it ended.
        told(&runner_of(&sandbox, "globex", &guest("hostile"), tight), path).await.0.ok();
        for tenant in [&acme, &globex, &acme] {
            assert_eq!(told(tenant, "canary").await.0.as_ref(), Ok(&first), "after {path}");
        }
    }
}

/// A component that passes a denied function a value of the deepest type there may be, under the longest name.
fn calls_what_is_denied(levels: usize) -> String {
    let deep = format!("{}u8{}", "(option ".repeat(levels), ")".repeat(levels));
    let name = format!("a{}", "-b".repeat(1_000));
    format!(
        r#"(component
          (import "wasi:http/types@0.2.0" (instance $types
            (export "incoming-request" (type (sub resource))) (export "response-outparam" (type (sub resource)))))
          (alias export $types "incoming-request" (type $request))
          (alias export $types "response-outparam" (type $out))
          (import "wasi:random/random@0.2.0" (instance $random (export "{name}" (func (param "value" {deep})))))
          (core module $memory (memory (export "memory") 1) (data (i32.const 0) "{ones}"))
          (core instance $memory (instantiate $memory))
          (alias core export $memory "memory" (core memory $m))
          (core func $deny (canon lower (func $random "{name}") (memory $m)))
          (core module $guest
            (import "" "deny" (func $deny (param i32)))
            (func (export "handle") (param i32 i32) (call $deny (i32.const 0))))
          (core instance $guest (instantiate $guest (with "" (instance (export "deny" (func $deny))))))
          (func $handle (param "request" (own $request)) (param "response-out" (own $out))
            (canon lift (core func $guest "handle")))
          (instance $handler (export "handle" (func $handle)))
          (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#,
        ones = "\\01".repeat(levels + 1),
    )
}

#[tokio::test]
async fn f28_f35_a_denial_takes_values_as_deep_as_types_may_be_and_tells_no_name_without_end() {
    let levels =
        (1..100).rev().find(|levels| sandbox().admit(calls_what_is_denied(*levels).as_bytes(), None).is_ok());
    let component = calls_what_is_denied(levels.unwrap());
    assert!(levels.unwrap() > 50, "{levels:?}");
    let denied = runner_of(&sandbox(), "acme", component.as_bytes(), limits(|_| ()));
    let refused = told(&denied, "").await.0.unwrap_err();
    assert!(refused.starts_with("the function trapped: it called `wasi:random/random.a-b-b"), "{refused}");
    assert!(refused.len() < 1_000, "{} bytes", refused.len());
}

#[tokio::test]
async fn f14_guests_that_sleep_leave_places_to_other_tenants() {
    let sandbox = sandbox();
    let sleeps =
        runner_of(&sandbox, "acme", &guest("hostile"), limits(|limits| limits.concurrency = by_function(64)));
    let other = runner_of(&sandbox, "globex", &guest("hostile"), limits(|_| ()));
    let mut asleep = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let sleeps = sleeps.clone();
        asleep.spawn(async move { told(&sleeps, "sleep").await.0 });
    }
    let mut shed = 0;
    while shed < 12 {
        let refused = asleep.join_next().await.unwrap().unwrap().unwrap_err();
        assert!(refused.ends_with("the tenant's share of the instances is in use"), "{refused}");
        shed += 1;
    }
    assert_eq!(sandbox.occupancy(), (4, 8));
    assert_eq!(told(&other, "").await.0, Ok("hostile".to_owned()));
}

#[tokio::test]
async fn f20_who_goes_early_is_charged_for_what_was_computed() {
    let sandbox = sandbox();
    let spins = runner_of(&sandbox, "acme", &guest("hostile"), limits(|_| ()));
    let charged = async || {
        let (place, mut usage) = (Place::default(), Usage::default());
        let mut call = Box::pin(spins.run_event(at("spin", b""), &place, &mut usage));
        until_it_runs(&sandbox, &mut call).await;
        drop(call);
        while sandbox.occupancy().0 > 0 {
            tokio::task::yield_now().await;
        }
        usage.cpu
    };
    // Sooner or later one has seen a tick before its caller went.
    while charged().await == Duration::ZERO {}
}

#[tokio::test]
async fn f26_an_endless_reply_ends_at_the_limit() {
    let hostile = hostile(|limits| limits.response = by_function(Bytes(100_000)));
    let (result, usage) = told(&hostile, "endless").await;
    assert_eq!(
        result,
        Err("the function's answer exceeded its `response` limit of 100000B (set by the function)".to_owned())
    );
    assert_eq!(usage.hits.len(), 1);
}

#[tokio::test]
async fn f31_a_reply_out_of_form_is_a_broken_contract() {
    let hostile = hostile(|_| ());
    for (path, breach) in [
        ("silent", "it returned without finishing its answer"),
        ("declined", "it did not answer"),
        ("unfinished", "it returned without finishing its answer"),
        ("dropped", "it returned without finishing its answer"),
        ("status", "status 199 is not within 200 to 599"),
        ("status-999", "status 999 is not within 200 to 599"),
        ("length-too-short", "it returned without finishing its answer"),
        ("length", "it returned without finishing its answer"),
        ("many-headers", "40 headers, of 32 allowed"),
        ("sandgate-caller", "header 0 is the gateway's to set"),
        ("latin", "header 1 is malformed"),
    ] {
        let refused = told(&hostile, path).await.0.unwrap_err();
        assert!(refused.contains(breach), "{path}: {refused}");
    }
    // What could split a message is refused to the guest itself, which goes on without.
    for path in ["split", "transfer-encoding", "nul", "nul-in-a-name"] {
        assert_eq!(told(&hostile, path).await.0, Ok("no".to_owned()), "{path}");
    }
    assert_eq!(told(&hostile, "status-of-none").await.0, Ok("3".to_owned()));
    let headers = async |path: &str| used_by(&hostile, at(path, b"")).await.0.unwrap().headers;
    assert_eq!(headers("upper-case").await, [("x-upper".to_owned(), "v".to_owned())]);
    assert_eq!(headers("trailers").await, [], "trailers are no headers");
}

#[tokio::test]
async fn f12_a_trap_after_the_answer_is_a_trap() {
    let hostile = hostile(|_| ());
    for path in ["late", "twice"] {
        let refused = told(&hostile, path).await.0.unwrap_err();
        assert!(
            refused.starts_with("the function trapped: ") || refused.contains("contract"),
            "{path}: {refused}"
        );
    }
    assert_eq!(told(&hostile, "").await.0, Ok("hostile".to_owned()));
}

#[tokio::test]
async fn f24_memory_is_bounded_as_in_the_narrow_world() {
    let hostile = hostile(|limits| limits.memory = by_function(Bytes::mib(4)));
    let (result, usage) = told(&hostile, "grow").await;
    let expected = "the function failed after it met its `memory` limit of 4MiB (set by the function)";
    assert_eq!(result, Err(expected.to_owned()));
    assert!(usage.peak_memory <= 4 << 20, "{usage:?}");
}

/// Polls a call until its guest has an instance.
async fn until_it_runs<F: Future>(sandbox: &Sandbox, call: &mut std::pin::Pin<Box<F>>) {
    std::future::poll_fn(|cx| {
        assert!(call.as_mut().poll(cx).is_pending());
        match sandbox.occupancy() {
            (1, _) => std::task::Poll::Ready(()),
            _ => {
                cx.waker().wake_by_ref();
                std::task::Poll::Pending
            }
        }
    })
    .await;
}

#[tokio::test]
async fn f12_who_stops_waiting_stops_the_guest_and_frees_its_place() {
    let sandbox = sandbox();
    let hostile =
        runner_of(&sandbox, "acme", &guest("hostile"), limits(|limits| limits.concurrency = by_function(1)));
    for path in ["spin", "sleep"] {
        let mut usage = Usage::default();
        let place = Place::default();
        let mut call = Box::pin(hostile.run_event(at(path, b""), &place, &mut usage));
        until_it_runs(&sandbox, &mut call).await;
        drop(call);
        while sandbox.occupancy().0 > 0 {
            tokio::task::yield_now().await;
        }
        // The function's own place is left a moment after the pool's.
        let mut answer = told(&hostile, "").await.0;
        while answer.as_ref().is_err_and(|error| error.starts_with("no room")) {
            tokio::task::yield_now().await;
            answer = told(&hostile, "").await.0;
        }
        assert_eq!(answer, Ok("hostile".to_owned()), "after {path}");
    }
}

/// Polls a call once.
fn begun<F: Future>(call: &mut std::pin::Pin<Box<F>>) -> Option<F::Output> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match call.as_mut().poll(&mut cx) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn f20_who_is_quick_answers_at_once_and_who_computes_leaves_the_thread_of_its_request() {
    let hostile = hostile(|limits| limits.cpu = by_function(ms(900)));
    assert_eq!(told(&hostile, "").await.0, Ok("hostile".to_owned()), "and it is loaded");
    // A machine that is busy elsewhere may let any one call run into a second tick.
    let at_once = (0..1000).any(|_| begun(&mut Box::pin(told(&hostile, ""))).is_some());
    assert!(at_once);
    for path in ["spin", "flood", "sleep", "never"] {
        let place = Place::default();
        let mut usage = Usage::default();
        let mut call = Box::pin(hostile.run_event(at(path, b""), &place, &mut usage));
        assert!(begun(&mut call).is_none(), "{path} goes on elsewhere");
        drop(call);
    }
}

#[tokio::test]
async fn f22_a_guest_of_much_memory_is_tried_again_off_the_thread_of_its_request() {
    let hostile = hostile(|_| ());
    let (result, usage) = told(&hostile, "grow").await;
    assert!(result.unwrap_err().contains("`memory` limit of 64MiB"), "it got as far as it may");
    assert!(usage.retried && usage.peak_memory > 32 << 20, "{usage:?}");
    // And where it began elsewhere, it need not be.
    let (_, usage) = told(&hostile, "grow").await;
    assert!(!usage.retried && usage.peak_memory > 32 << 20, "{usage:?}");
}

#[tokio::test]
async fn f12_guests_that_compute_let_others_run() {
    let sandbox = sandbox_with(|settings| settings.cpu_threads = std::num::NonZeroUsize::MIN);
    let spins = runner_of(&sandbox, "acme", &guest("hostile"), limits(|_| ()));
    let mut usage = Usage::default();
    let place = Place::default();
    let mut endless = Box::pin(spins.run_event(at("spin", b""), &place, &mut usage));
    until_it_runs(&sandbox, &mut endless).await;
    // On the one thread there is, beside a guest that never stops.
    assert_eq!(told(&spins, "nap").await.0, Ok("slept".to_owned()));
    drop(endless);
}

#[test]
fn f06_what_is_beyond_the_base_is_refused_by_name() {
    let component = |import: &str| {
        format!(
            "(component (import \"{import}\" (instance)) (instance $i) \
             (export \"wasi:http/incoming-handler@0.2.3\" (instance $i)))"
        )
    };
    let refused = |import: &str| sandbox().admit(component(import).as_bytes(), None).unwrap_err().to_string();
    let told = refused("wasi:http/outgoing-handler@0.2.12");
    let sends = "the component imports `wasi:http/outgoing-handler@0.2.12` (sending requests); that takes a capability";
    assert!(told.starts_with(sends) && told.contains("disableFeatures"), "{told}");
    for import in [
        "wasi:io/streams@0.3.0",
        "wasi:keyvalue/store@0.2.0",
        "sandgate:kv/store@0.1.0",
        "wasi:cli/run@0.2.0",
    ] {
        let told = refused(import);
        assert!(
            told.starts_with(&format!("the component imports `{import}`")) && told.contains("README"),
            "{told}"
        );
    }
    let inspected = inspect(component("wasi:http/outgoing-handler@0.2.0").as_bytes()).unwrap();
    assert!(inspected.world == World::Portable && !inspected.is_served());
    assert!(
        inspected.to_string().contains("\nmissing     `wasi:http/outgoing-handler@0.2.0` ("),
        "{inspected}"
    );
    assert!(inspect(&guest("count")).unwrap().is_served());
}

#[test]
fn a_site_that_has_none_refuses_the_world_also_from_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let start = |portable| {
        sandbox_with(|settings| {
            settings.portable = portable;
            settings.data_dir = Some(dir.path().to_owned());
        })
    };
    let off = "the component is made for `wasi:http/proxy`, which this site does not serve: `[sandbox] portable = false` in \
               `sandgate.toml`";
    for _ in 0..2 {
        assert_eq!(start(false).admit(&guest("count"), None).unwrap_err().to_string(), off);
        start(true).admit(&guest("count"), None).unwrap();
    }
    // The narrow world is not concerned.
    assert!(start(false).admit(include_bytes!("../../../functions/acme/hello/hello.wat"), None).is_ok());
}

#[test]
fn a_component_of_wasi_http_0_3_is_refused_in_words() {
    let told = sandbox()
        .admit(
            b"(component (type (stream u8)) (instance $i) (export \"wasi:http/handler@0.3.0\" (instance $i)))",
            None,
        )
        .unwrap_err()
        .to_string();
    assert!(told.starts_with("the component is made for `wasi:http` 0.3"), "{told}");
}
