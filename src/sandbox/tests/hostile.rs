//! Each hostile guest meets its limit, is told from the others, and harms no neighbour.

use super::*;
use Breach::{ReservedHeader, Status, Value};

/// A small pool, so that a slot that is lost is missed at once.
fn house() -> (Arc<Sandbox>, Runner) {
    let sandbox = sandbox_with(|settings| settings.pool.instances = 4);
    let hello = runner(&sandbox, "globex", HELLO, limits(|_| ()));
    (sandbox, hello)
}

async fn is_unharmed(neighbour: &Runner) {
    for _ in 0..8 {
        assert_eq!(greeting(neighbour, r#"{"name":"Bo"}"#).await, r#"{"greeting":"Hello, Bo!"}"#);
    }
}

/// Runs a guest under these limits, while and after which the neighbour is served.
async fn met(name: &str, body: &[u8], limits: Limits) -> (Result<Reply, SandboxError>, Usage) {
    met_as(&guest(name), body, limits).await
}

async fn met_as(component: &str, body: &[u8], limits: Limits) -> (Result<Reply, SandboxError>, Usage) {
    let (sandbox, hello) = house();
    let hostile = runner(&sandbox, "acme", component, limits);
    let (first, ()) = tokio::join!(used(&hostile, body), is_unharmed(&hello));
    is_unharmed(&hello).await;
    // The same again: nothing is remembered but how long it took.
    let (again, _) = used(&hostile, body).await;
    assert_eq!(format!("{:?}", first.0), format!("{again:?}"));
    is_unharmed(&hello).await;
    first
}

#[tokio::test]
async fn f20_loops_meet_their_cpu_limit_wherever_they_are() {
    let after_return = guest("loops-after-return").replace(
        "(memory (core memory $guest",
        "(post-return (core func $guest \"after\")) (memory (core memory $guest",
    );
    let guests = ["loops", "loops-at-start", "loops-in-realloc"].map(guest);
    for component in guests.iter().chain([&after_return]) {
        let (result, usage) = met_as(component, b"{}", limits(|l| l.cpu = by_function(ms(12)))).await;
        assert_eq!(message(result), "the function met its `cpu` limit of 12ms (set by the function)");
        assert!(usage.retried && usage.cpu.as_millis() >= 12, "{usage:?}");
        assert_eq!(usage.hits.iter().map(|hit| hit.name).collect::<Vec<_>>(), [LimitName::Cpu]);
    }
}

/// Which is the runtime's only one meanwhile: a tick that had to wait for it would never come (F21).
#[tokio::test]
async fn f20_f21_a_cpu_limit_below_a_slice_holds_on_the_io_thread() {
    let (result, usage) = met("loops", b"{}", limits(|l| l.cpu = by_function(ms(1)))).await;
    assert_eq!(message(result), "the function met its `cpu` limit of 1ms (set by the function)");
    assert!(!usage.retried);
}

#[tokio::test]
async fn f20_loops_meet_their_wall_limit() {
    let (result, usage) = met("loops", b"{}", limits(|l| l.wall = by_function(ms(40)))).await;
    assert_eq!(message(result), "the function met its `wall` limit of 40ms (set by the function)");
    // On which thread the time ran out is the machine's to say.
    assert!(usage.wall.as_millis() >= 40, "{usage:?}");
    assert_eq!(usage.hits.iter().map(|hit| hit.name).collect::<Vec<_>>(), [LimitName::Wall]);
}

#[tokio::test]
async fn f22_bulk_instructions_on_large_memories_stay_off_io_threads() {
    let (result, usage) = met("fills", b"{}", limits(|l| l.cpu = by_function(ms(20)))).await;
    assert_eq!(message(result), "the function met its `cpu` limit of 20ms (set by the function)");
    assert!(usage.retried && usage.peak_memory > 32 << 20);
}

/// No tick interrupts the engine while it makes an instance, so it must not be made on an I/O thread again and again.
#[tokio::test]
async fn f20_an_instance_that_takes_long_to_make_is_made_on_a_cpu_thread() {
    let types = "(type (resource (rep i32)))".repeat(60_000);
    let text = guest("begins-large").replacen("(component", &format!("(component {types}"), 1);
    let text = text.replace("(memory (export \"memory\") 512)", "(memory (export \"memory\") 1)");
    let component = wat::parse_str(&text).unwrap();
    let sandbox = sandbox();
    let slow = runner_of(&sandbox, "acme", &component, limits(|_| ()));
    assert!(used(&slow, b"{}").await.0.is_ok());
    // On an I/O thread what no tick saw is told as one tick at most, here as what it was.
    let (result, usage) = used(&slow, b"{}").await;
    assert!(result.is_ok() && !usage.retried && usage.cpu > ms(2).0, "{usage:?}");
}

#[tokio::test]
async fn a_large_memory_is_served_from_a_cpu_thread() {
    let (result, usage) = met("begins-large", b"{}", limits(|_| ())).await;
    assert_eq!(result.unwrap().status, 200);
    assert!(usage.retried);
    assert_eq!((usage.peak_memory, usage.hits.len()), (32 << 20, 0));
}

#[tokio::test]
async fn f12_traps_are_told_apart() {
    for (name, told) in [
        ("traps", "unreachable"),
        ("traps-at-start", "unreachable"),
        ("reads-out-of-bounds", "out of bounds memory access"),
        ("divides-by-zero", "integer divide by zero"),
    ] {
        let (result, _) = met(name, b"{}", limits(|_| ())).await;
        assert!(matches!(result, Err(SandboxError::Trapped { .. })), "{name}: {result:?}");
        assert!(message(result).contains(told), "{name}");
    }
}

#[tokio::test]
async fn f28_recursion_meets_the_stack_limit() {
    let (result, _) = met("recurses", b"{}", limits(|_| ())).await;
    assert_eq!(message(result), "the function trapped: wasm trap: call stack exhausted");
}

#[tokio::test]
async fn f24_memory_meets_its_limit() {
    let tight = limits(|l| l.memory = by_function(Bytes(4 << 20)));
    let (result, usage) = met("grows-and-gives-up", b"{}", tight).await;
    let told = "the function failed after it met its `memory` limit of 4MiB (set by the function)";
    assert_eq!(message(result), told);
    assert_eq!(usage.peak_memory, 4 << 20);
    assert_eq!(usage.hits.iter().map(|hit| hit.name).collect::<Vec<_>>(), [LimitName::Memory]);

    let (result, usage) = met("grows-and-answers", b"{}", tight).await;
    assert_eq!(result.unwrap().status, 200);
    assert_eq!(usage.hits.iter().map(|hit| hit.name).collect::<Vec<_>>(), [LimitName::Memory]);

    let (result, _) = met("begins-large", b"{}", tight).await;
    assert_eq!(message(result), told);

    let (result, usage) = met("grows-forever", b"{}", Limits { cpu: by_function(ms(12)), ..tight }).await;
    assert_eq!(message(result), "the function met its `cpu` limit of 12ms (set by the function)");
    assert_eq!(
        usage.hits.iter().map(|hit| hit.name).collect::<Vec<_>>(),
        [LimitName::Memory, LimitName::Cpu]
    );
}

#[tokio::test]
async fn f24_the_pools_own_slot_is_a_memory_limit_too() {
    let (result, usage) =
        met("grows-and-gives-up", b"{}", limits(|l| l.memory = by_function(Bytes(1 << 40)))).await;
    assert!(matches!(result, Err(SandboxError::OutOfMemory(_))), "{result:?}");
    assert_eq!(usage.peak_memory, 64 << 20);
}

/// As many as sleep or compute at once would otherwise have the kernel end the gateway.
#[tokio::test]
async fn f14_f24_what_all_guests_have_together_is_bounded_and_of_one_tenant_to_half() {
    let sandbox = sandbox_with(|settings| settings.memory = Bytes::mib(16));
    let hello = runner(&sandbox, "globex", HELLO, limits(|_| ()));
    let greedy = runner(&sandbox, "acme", &guest("grows-and-gives-up"), limits(|_| ()));
    for _ in 0..3 {
        let (result, usage) = used(&greedy, b"{}").await;
        assert_eq!(message(result), "no room for another invocation: no memory is left for the function");
        assert_eq!((usage.peak_memory, usage.hits.len()), (8 << 20, 0), "no limit of its own was met");
        is_unharmed(&hello).await;
    }
    let modest = limits(|l| l.memory = by_function(Bytes::mib(4)));
    let (result, _) = used(&runner(&sandbox, "acme", &guest("grows-and-gives-up"), modest), b"{}").await;
    assert!(matches!(result, Err(SandboxError::OutOfMemory(_))), "{result:?}");
}

#[tokio::test]
async fn f24_tables_count_as_memory() {
    let tight = limits(|l| l.memory = by_function(Bytes(192 << 10)));
    let (result, usage) = met("grows-tables", b"{}", tight).await;
    assert!(matches!(result, Err(SandboxError::OutOfMemory(_))), "{result:?}");
    assert!(usage.peak_memory > 190 << 10 && usage.peak_memory <= 192 << 10, "{}", usage.peak_memory);

    // With memory to spare it is the pool's slots that end it, and they are named as well.
    let (result, usage) = met("grows-tables", b"{}", limits(|_| ())).await;
    let told = "the function failed after it met its `table-elements` limit of 20000 (set by the platform)";
    assert_eq!(message(result), told);
    assert_eq!(usage.hits.iter().map(|hit| hit.name).collect::<Vec<_>>(), [LimitName::TableElements]);
}

#[tokio::test]
async fn f24_memories_of_several_core_instances_are_summed() {
    let two = "(core module $other (memory 200))
        (core instance (instantiate $other))
        (core instance (instantiate $other))
        (core instance $guest";
    let component = guest("traps").replace("(core instance $guest", two);
    let tight = |mib: u64| limits(|l| l.memory = by_function(Bytes(mib << 20)));
    let (result, _) = met_as(&component, b"{}", tight(20)).await;
    assert!(matches!(result, Err(SandboxError::OutOfMemory(_))), "{result:?}");
    let (result, usage) = met_as(&component, b"{}", tight(30)).await;
    assert!(matches!(result, Err(SandboxError::Trapped { .. })), "{result:?}");
    assert_eq!(usage.peak_memory, 401 << 16);
}

#[tokio::test]
async fn f26_answers_beyond_their_limit_are_refused_before_they_are_copied() {
    let tight = limits(|l| l.response = by_function(Bytes(64 << 10)));
    for name in ["floods-memory", "floods-little", "floods-headers", "floods-one-header"] {
        let (result, usage) = met(name, b"{}", tight).await;
        assert_eq!(
            message(result),
            "the function's answer exceeded its `response` limit of 64KiB (set by the function)",
            "{name}"
        );
        assert_eq!(
            usage.hits.iter().map(|hit| hit.name).collect::<Vec<_>>(),
            [LimitName::Response],
            "{name}"
        );
    }
    let roomy = limits(|l| l.response = by_function(Bytes(65_537)));
    assert_eq!(met("floods-little", b"{}", roomy).await.0.unwrap().body.len(), 65_537);
}

#[tokio::test]
async fn f31_lengths_that_lie_are_refused() {
    for name in ["floods-4gib", "answers-bad-utf8", "answers-nowhere", "answers-unaligned"] {
        let (result, _) = met(name, b"{}", limits(|_| ())).await;
        assert!(matches!(result, Err(SandboxError::ContractBroken(Value(_)))), "{name}: {result:?}");
    }
}

#[tokio::test]
async fn f31_an_allocator_that_lies_harms_itself() {
    for name in ["reallocs-nowhere", "reallocs-unaligned"] {
        let (result, _) = met(name, b"{}", limits(|_| ())).await;
        assert!(matches!(result, Err(SandboxError::ContractBroken(Value(_)))), "{name}: {result:?}");
    }
    assert_eq!(met("reallocs-onto-itself", b"{}", limits(|_| ())).await.0.unwrap().status, 200);
}

#[tokio::test]
async fn f31_status_and_headers_out_of_form_break_the_contract() {
    let (sandbox, hello) = house();
    let statuses = runner(&sandbox, "acme", &guest("answers-status"), limits(|_| ()));
    for status in [0_u16, 99, 100, 199, 600, 999, 1000, u16::MAX] {
        let result = run(&statuses, &status.to_le_bytes()).await;
        assert!(
            matches!(&result, Err(SandboxError::ContractBroken(Status(s))) if *s == status),
            "{result:?}"
        );
    }
    for status in [200_u16, 404, 599] {
        assert_eq!(run(&statuses, &status.to_le_bytes()).await.unwrap().status, status);
    }
    let headers = runner(&sandbox, "acme", &guest("answers-header"), limits(|_| ()));
    for name in ["transfer-encoding", "content-length", "sandgate-request-id", "connection"] {
        let result = run(&headers, name.as_bytes()).await;
        assert!(
            matches!(result, Err(SandboxError::ContractBroken(ReservedHeader { index: 0 }))),
            "{result:?}"
        );
    }
    for name in ["", "a b", "a:b", "X-Upper", "a\r\nb", "a\0", "é"] {
        let result = run(&headers, name.as_bytes()).await;
        assert!(
            matches!(result, Err(SandboxError::ContractBroken(Breach::Header { index: 0 }))),
            "{result:?}"
        );
    }
    assert_eq!(run(&headers, b"x-good").await.unwrap().headers, [("x-good".to_owned(), "v".to_owned())]);
    is_unharmed(&hello).await;
}

#[tokio::test]
async fn f25_resource_handles_are_bounded() {
    let component = guest("hoards-handles").replace(
        "(core instance $guest (instantiate $guest))",
        "(type $thing (resource (rep i32)))
         (core func $new (canon resource.new $thing))
         (core instance $host (export \"new\" (func $new)))
         (core instance $guest (instantiate $guest (with \"host\" (instance $host))))",
    );
    let (result, _) = met_as(&component, b"{}", limits(|_| ())).await;
    assert!(!matches!(result, Ok(_) | Err(SandboxError::CpuExhausted(_))), "{result:?}");
}

#[tokio::test]
async fn f12_a_thousand_failures_of_each_kind_leave_the_pool_whole() {
    let (sandbox, hello) = house();
    let tight = limits(|l| {
        l.memory = by_function(Bytes(1 << 20));
        l.response = by_function(Bytes(1 << 10));
    });
    for name in FAILURES {
        let hostile = runner(&sandbox, "acme", &guest(name), tight);
        for _ in 0..1_000 {
            let failed = run(&hostile, b"{}").await.unwrap_err();
            assert!(
                !matches!(failed, SandboxError::Internal { .. } | SandboxError::Overloaded(_)),
                "{name}: {failed:?}"
            );
        }
        is_unharmed(&hello).await;
    }
    // Each of these costs a tick, on an I/O thread and on a CPU thread.
    for (name, cpu) in [("loops", 1), ("loops-at-start", 3)] {
        let hostile = runner(&sandbox, "acme", &guest(name), limits(|l| l.cpu = by_function(ms(cpu))));
        for _ in 0..100 {
            assert!(matches!(run(&hostile, b"{}").await, Err(SandboxError::CpuExhausted(_))));
        }
        is_unharmed(&hello).await;
    }
}

/// Alone in its process, whose memory it measures: `cargo test --lib -- --ignored --nocapture f12_ten_thousand`.
#[tokio::test]
#[ignore = "a minute, and memory can be measured only while nothing else runs"]
async fn f12_ten_thousand_failures_of_each_kind_leave_memory_flat() {
    let (sandbox, hello) = house();
    let tight = limits(|l| {
        l.memory = by_function(Bytes(1 << 20));
        l.response = by_function(Bytes(1 << 10));
    });
    let ticks = |cpu| limits(|l| l.cpu = by_function(ms(cpu)));
    let quick = FAILURES.map(|name| (name, tight, 10_000));
    // Each of these costs some ticks.
    for (name, limits, times) in
        quick.into_iter().chain([("loops", ticks(1), 1_000), ("loops-at-start", ticks(3), 1_000)])
    {
        let hostile = runner(&sandbox, "acme", &guest(name), limits);
        for _ in 0..500 {
            run(&hostile, b"{}").await.unwrap_err();
        }
        let before = resident_kib();
        for _ in 0..times {
            run(&hostile, b"{}").await.unwrap_err();
        }
        let after = resident_kib();
        println!("{name}: {times} failures, {before} KiB before, {after} KiB after");
        // A page for each would be 40 MiB.
        assert!(after < before + 2_048, "{name}: {before} KiB before, {after} KiB after");
        is_unharmed(&hello).await;
    }
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Guests that fail for a reason of their own, by memory or by what they answer.
const FAILURES: [&str; 10] = [
    "traps",
    "traps-at-start",
    "reads-out-of-bounds",
    "recurses",
    "grows-and-gives-up",
    "begins-large",
    "floods-little",
    "floods-4gib",
    "answers-bad-utf8",
    "reallocs-nowhere",
];

#[tokio::test]
async fn f16_no_invocation_sees_what_another_left() {
    let base = PoolLimits { instances: 1, ..PoolLimits::default() };
    for pool in [
        base,
        PoolLimits { memory_keep_resident_bytes: 0, table_keep_resident_bytes: 0, ..base },
        PoolLimits { memory_keep_resident_bytes: 2 << 20, table_keep_resident_bytes: 1 << 20, ..base },
        PoolLimits { scan_pages: true, ..base },
        PoolLimits { scan_pages: false, ..base },
        PoolLimits { copy_on_write: false, ..base },
        PoolLimits { decommit_batch: 8, ..base },
        PoolLimits { unused_warm_slots: 0, ..base },
    ] {
        let sandbox = sandbox_with(|settings| settings.pool = pool);
        // With one slot, two modules and a third that traps half-way take turns in the same memory.
        let text = guest("remembers");
        let one = runner(&sandbox, "acme", &text, limits(|_| ()));
        let two =
            runner(&sandbox, "globex", &text.replace("(i32.const 20)", "(i32.const 30)"), limits(|_| ()));
        let three = runner(
            &sandbox,
            "acme",
            &guest("grows-and-gives-up"),
            limits(|l| l.memory = by_function(Bytes(8 << 20))),
        );
        for _ in 0..6 {
            for clean in [&one, &one, &two, &one] {
                assert_eq!(run(clean, b"{}").await.unwrap().status, 200, "{pool:?}");
            }
            run(&three, b"{}").await.unwrap_err();
            assert_eq!(run(&two, b"{}").await.unwrap().status, 200, "{pool:?}");
        }
    }
}

#[tokio::test]
async fn f16_f36_a_guest_comes_to_the_same_in_a_used_slot_as_in_a_fresh_one() {
    let tight = limits(|l| {
        l.memory = by_function(Bytes(1 << 20));
        l.response = by_function(Bytes(1 << 10));
    });
    let alone = || sandbox_with(|settings| settings.pool.instances = 1);
    let told = async |guest: &Runner| format!("{:?}", run(guest, b"{}").await);
    let used = alone();
    let mut guests = Vec::new();
    for name in FAILURES.into_iter().chain(["remembers", "grows-and-answers", "tells", "fills"]) {
        let tight = if name == "fills" { limits(|l| l.cpu = by_function(ms(2))) } else { tight };
        let fresh = told(&runner(&alone(), "acme", &guest(name), tight)).await;
        guests.push((name, runner(&used, "acme", &guest(name), tight), fresh));
    }
    // A fixed sequence (a linear congruence), so that a failure repeats.
    let mut seed = 36_u64;
    for _ in 0..400 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (name, guest, fresh) = &guests[(seed >> 33) as usize % guests.len()];
        assert_eq!(&told(guest).await, fresh, "{name}");
    }
}

#[tokio::test]
async fn f27_with_nothing_granted_a_guest_costs_its_memory_and_no_more() {
    let (result, usage) =
        met("answers-header", b"x-a", limits(|l| l.memory = by_function(Bytes(64 << 10)))).await;
    assert_eq!(result.unwrap().status, 200);
    assert_eq!(usage.peak_memory, 64 << 10);
}
