//! Rules that are kept by a setting, a feature list or a gate.

use super::*;

#[test]
fn f01_the_engine_is_a_current_release_of_a_long_term_line() {
    let lock: toml::Table = toml::from_str(include_str!("../../../Cargo.lock")).unwrap();
    let version = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .find(|package| package["name"].as_str() == Some("wasmtime"))
        .and_then(|package| package["version"].as_str())
        .unwrap();
    assert_eq!(version, engine::VERSION);
    let parts: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
    assert!(parts[0].is_multiple_of(12), "{version} is not of a long-term line");
    assert!(parts >= vec![48, 0, 8], "{version} has known advisories");
}

#[test]
fn f04_f07_f17_nothing_is_compiled_in_that_is_not_needed() {
    let manifest: toml::Table = toml::from_str(include_str!("../../../Cargo.toml")).unwrap();
    let wasmtime = &manifest["dependencies"]["wasmtime"];
    assert_eq!(wasmtime["default-features"].as_bool(), Some(false));
    let features: Vec<&str> =
        wasmtime["features"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    assert_eq!(features, ["runtime", "component-model", "cranelift", "pooling-allocator", "std"]);
    // What the portable world adds: asynchronous calls of the host, and WASI 0.2 without a client for http.
    for (name, features) in
        [("wasmtime-wasi", "p2"), ("wasmtime-wasi-io", "std"), ("wasmtime-wasi-http", "p2")]
    {
        let added = &manifest["dependencies"][name];
        assert_eq!(
            (added["default-features"].as_bool(), added["optional"].as_bool()),
            (Some(false), Some(true))
        );
        assert_eq!(added["features"].as_array().unwrap(), &[toml::Value::from(features)]);
    }
    let portable = &manifest["features"]["portable"];
    let expected = ["dep:wasmtime-wasi", "dep:wasmtime-wasi-io", "dep:wasmtime-wasi-http", "wasmtime/async"]
        .map(toml::Value::from);
    assert_eq!(portable.as_array().unwrap(), &expected);
}

#[test]
fn f13_f15_f18_f23_f28_f32_f33_the_engine_is_set_as_stated() {
    let pool = PoolLimits::default();
    let config = engine::engine(&pool).unwrap();
    assert_eq!(config.get_wasm_features(), engine::PROPOSALS);
    assert!(config.get_signals_based_traps());
    assert!(config.get_guard_before_linear_memory());
    assert_eq!((config.get_memory_guard_size(), config.get_memory_reservation()), (32 << 20, 4 << 30));
    assert!(config.get_epoch_interruption() && !config.get_consume_fuel());
    assert!(!config.get_concurrency_support() && !config.get_shared_memory());
    assert_eq!(config.get_max_wasm_stack(), 512 << 10);
    let compiling = wasmtime::Engine::new(&engine::compiling(pool.copy_on_write)).unwrap();
    assert!(compiling.get_cranelift_flags_set().all(|(name, _)| !name.contains("spectre")));
    assert_eq!(engine::identity(&compiling), engine::identity(&config));
    let held = config.get_pooling_config().unwrap();
    assert_eq!(held.get_total_component_instances(), pool.instances);
    assert_eq!(held.get_total_memories(), pool.instances * pool.memories_per_component);
    assert_eq!(held.get_total_tables(), pool.instances * pool.tables_per_component);
    assert_eq!(held.get_total_core_instances(), pool.instances * pool.core_instances_per_component);
    assert_eq!(held.get_max_memory_size(), pool.max_memory_bytes);
    assert_eq!(held.get_max_memories_per_module(), 1);
    // The table beside the defaults says what these cost; here it is made sure that the engine was told.
    assert!(config.get_memory_init_cow() && pool.copy_on_write);
    assert_eq!(held.get_memory_keep_resident(), pool.memory_keep_resident_bytes);
    assert_eq!(held.get_table_keep_resident(), pool.table_keep_resident_bytes);
    assert_eq!(held.get_max_unused_warm_slots(), pool.unused_warm_slots);
    assert_eq!(held.get_decommit_batch_size(), pool.decommit_batch);
    // What the guest may not use of a portable stack is the host's, and nobody reads what was on it.
    #[cfg(feature = "portable")]
    {
        assert!(config.get_async_stack_zeroing());
        assert_eq!(config.get_async_stack_size(), 2 * config.get_max_wasm_stack());
        assert_eq!(held.get_total_stacks(), pool.instances);
    }
}

/// An unset deadline traps at once, and one that never comes is none: a store that is made is a store that is armed.
#[test]
fn f19_every_store_has_a_deadline_of_one_tick_and_the_engine_one_ticker() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sandbox");
    let mut text = fs::read_to_string(folder.with_extension("rs")).unwrap();
    for folder in [folder.join("portable"), folder] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                text += &fs::read_to_string(path).unwrap();
            }
        }
    }
    let count = |what: &str| text.matches(what).count();
    assert_eq!((count("Store::try_new("), count("Store::new(")), (2, 0));
    assert_eq!((count("set_epoch_deadline(1)"), count("set_epoch_deadline(")), (2, 2));
    assert_eq!((count("epoch_deadline_callback("), count("Ticker::start(")), (2, 1));
}

#[test]
fn f08_the_engine_that_serves_has_no_compiler() {
    let component = wat::parse_str(HELLO).unwrap();
    let serving = engine::engine(&PoolLimits { instances: 1, ..PoolLimits::default() }).unwrap();
    let refused = serving.precompile_component(&component).unwrap_err().to_string();
    assert_eq!(refused, "Engine was not configured with a compiler");
    assert!(wasmtime::component::Component::new(&serving, &component).is_err());
}

/// Starts an invocation that stays in flight until the future is dropped: its first poll uses up its slice and queues it.
macro_rules! in_flight {
    ($runner:expr, $usage:expr) => {{
        let place = &*Box::leak(Box::<Place>::default());
        let mut running = Box::pin($runner.run_event(event(b"{}"), place, $usage));
        tokio::select! {
            biased;
            _ = &mut running => panic!("it loops"),
            () = tokio::task::yield_now() => {}
        }
        running
    }};
}

#[tokio::test]
async fn f14_a_function_has_so_many_invocations_in_flight_and_no_more() {
    let sandbox = sandbox();
    let one = runner(&sandbox, "acme", &guest("loops"), limits(|l| l.concurrency = by_function(1)));
    let hello = runner(&sandbox, "acme", HELLO, limits(|_| ()));
    let mut usage = Usage::default();
    let running = in_flight!(one, &mut usage);
    let (result, second) = used(&one, b"{}").await;
    assert_eq!(
        message(result),
        "no room for another invocation: `concurrency` limit of 1 (set by the function)"
    );
    assert_eq!(second.hits.first().map(|hit| hit.name), Some(LimitName::Concurrency));
    assert!(run(&hello, b"{}").await.is_ok());
    drop(running);
}

#[tokio::test]
async fn f14_without_room_for_heavy_calls_they_are_shed_and_others_served() {
    let sandbox = sandbox_with(|settings| settings.cpu_queue = 0);
    let heavy = runner(&sandbox, "acme", &guest("loops"), limits(|_| ()));
    let hello = runner(&sandbox, "acme", HELLO, limits(|_| ()));
    for _ in 0..3 {
        let result = run(&heavy, b"{}").await;
        assert!(matches!(result, Err(SandboxError::Overloaded(Overload::Queue))), "{result:?}");
        assert!(run(&hello, b"{}").await.is_ok());
    }
}

#[tokio::test]
async fn f14_without_an_instance_a_call_is_shed() {
    let sandbox = sandbox();
    let hello = runner(&sandbox, "acme", HELLO, limits(|_| ()));
    let others: Vec<_> =
        (0..8).map(|n| sandbox.instances.share_of(&format!("other-{n}").parse().unwrap())).collect();
    let taken: Vec<_> = others.iter().map(|share| sandbox.instances.enter(share).unwrap()).collect();
    let result = run(&hello, b"{}").await;
    assert!(matches!(result, Err(SandboxError::Overloaded(Overload::Instances))), "{result:?}");
    drop(taken);
    assert!(run(&hello, b"{}").await.is_ok());
}

#[tokio::test]
async fn f12_a_guest_whose_caller_has_gone_is_stopped() {
    let sandbox = sandbox_with(|settings| settings.cpu_threads = NonZeroUsize::MIN);
    let endless = runner(
        &sandbox,
        "acme",
        &guest("loops"),
        limits(|l| {
            l.cpu = by_function(ms(86_400_000));
            l.wall = by_function(ms(86_400_000));
        }),
    );
    let mut usage = Usage::default();
    drop(in_flight!(endless, &mut usage));
    // The only CPU thread is free again, or this would wait for a day.
    let brief = runner(&sandbox, "acme", &guest("loops-at-start"), limits(|l| l.cpu = by_function(ms(5))));
    assert!(matches!(run(&brief, b"{}").await, Err(SandboxError::CpuExhausted(_))));
}

#[tokio::test]
async fn a_heavy_function_returns_to_the_io_thread_after_quick_calls() {
    let sandbox = sandbox();
    // Loops if the body is long, and answers if not.
    let text = guest("loops").replace(
        "(loop $again (br $again)) (unreachable)",
        "(loop $again (br_if $again (i32.gt_u (i32.load offset=76 (local.get 0)) (i32.const 8)))) (i32.const 0)",
    );
    let either = runner(&sandbox, "acme", &text, limits(|l| l.cpu = by_function(ms(8))));
    assert!(!used(&either, b"quick").await.1.retried);
    let (result, usage) = used(&either, b"not quick").await;
    assert!(result.is_err() && usage.retried);
    // Known to be heavy: no slice is wasted.
    let (result, usage) = used(&either, b"not quick").await;
    assert!(result.is_err() && !usage.retried);
    // A machine that is busy elsewhere may make a quick call look slow, so there is more than one chance.
    let mut returned = false;
    for _ in 0..20 {
        for _ in 0..20 {
            assert!(run(&either, b"quick").await.is_ok());
        }
        let (result, usage) = used(&either, b"not quick").await;
        assert!(result.is_err());
        returned |= usage.retried;
    }
    assert!(returned);
}

#[tokio::test]
async fn f11_one_linked_component_serves_the_empty_capability_set() {
    let sandbox = sandbox();
    let component = sandbox.admit(HELLO.as_bytes(), None).unwrap();
    let loaded = std::ptr::from_ref(component.ready().unwrap());
    let tenants = ["acme", "globex"]
        .map(|tenant| sandbox.runner(function(tenant), Arc::clone(&component), limits(|_| ())));
    for tenant in &tenants {
        assert!(run(tenant, b"{}").await.is_ok());
        assert!(std::ptr::eq(tenant.component().ready().unwrap(), loaded));
    }
}
