//! What a fresh instance costs: made, called and dropped, under the settings that were considered.
//!
//! `env -u RUST_BACKTRACE cargo bench --bench sandbox`

mod minted;

use std::{
    hint::black_box,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use minted::Minted;
use rustix::time::{ClockId, clock_gettime};
use sandgate::{
    event::{ReplyRules, Validated},
    sandbox::{CompilerCommand, Limits, PoolLimits, Runner, Sandbox, Settings, Usage},
};
use tokio::runtime::Runtime;

const HELLO: &str = include_str!("../functions/acme/hello/hello.wat");

/// The components of a bench are compiled by the program that is measured.
fn settings() -> Settings {
    Settings { compiler: CompilerCommand::at(env!("CARGO_BIN_EXE_sandgate")), ..Settings::default() }
}

fn runner(pool: PoolLimits, component: &str) -> Runner {
    let sandbox = Sandbox::start(&Settings { pool, ..settings() }).expect("a sandbox");
    let component = sandbox.admit(component.as_bytes(), None).expect("a component");
    sandbox.runner(minted::function(), component, Limits::default())
}

/// What a guest built by a compiler with a heap and a stack of 1 MiB looks like: 17 pages at first, and it writes to
/// its stack just below 1 MiB, its static data above and its heap.
fn seventeen_pages() -> String {
    HELLO
        .replace("(memory (export \"memory\") 1)", "(memory (export \"memory\") 17)")
        .replace("(global $free (mut i32) (i32.const 1024))", "(global $free (mut i32) (i32.const 1052672))")
        .replace(
            "(local $at i32) (local $length i32) (local $body i32) (local $reply i32)",
            "(local $at i32) (local $length i32) (local $body i32) (local $reply i32)
             (i32.store (i32.const 1048000) (i32.const 1))
             (i32.store (i32.const 1044000) (i32.const 1))
             (i32.store (i32.const 1048600) (i32.const 1))",
        )
}

/// A component whose artefact is about 1 MiB.
fn large() -> Vec<u8> {
    let mut code = String::new();
    for f in 0..1_200 {
        code.push_str("(func (param i32) (result i32) (local.get 0)");
        for k in 0..40 {
            code.push_str(&format!("(i32.mul (i32.const {}))(i32.load offset={k})", f * 40 + k));
        }
        code.push(')');
    }
    let memory = "(memory (export \"memory\") 1)";
    wat::parse_str(HELLO.replace(memory, &format!("{memory} {code}"))).expect("a component")
}

const SCHEMA: &str = include_str!("../functions/acme/hello/event.schema.json");

/// Evidence for so many calls. Made before the clock starts: here only the last stage is measured.
fn events(runtime: &Runtime, minted: &Minted, count: u64) -> Vec<Validated> {
    let body = Bytes::from_static(br#"{"name":"Ada Lovelace"}"#);
    let event = async || {
        let authorized = minted.authorized(&body).await;
        minted.events.validate(authorized).await.expect("a valid event")
    };
    (0..count).map(|_| runtime.block_on(event())).collect()
}

fn call(runtime: &Runtime, replies: &ReplyRules, runner: &Runner, event: Validated) -> Usage {
    let mut usage = Usage::default();
    let outcome = runtime.block_on(runner.run(event, replies, &mut usage)).expect("a reply");
    black_box(outcome);
    usage
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// CPU time of this thread: what the machine does besides does not count.
fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).expect("nanoseconds"))
}

fn fresh(c: &mut Criterion) {
    let (runtime, (minted, replies)) = (runtime(), Minted::new(SCHEMA));
    let mut group = c.benchmark_group("instantiate + call + drop, CPU time");
    let base = PoolLimits::default();
    let keep =
        |kib: usize, scan_pages| PoolLimits { memory_keep_resident_bytes: kib << 10, scan_pages, ..base };
    let settings = [
        ("default", base),
        ("keep 0", PoolLimits { table_keep_resident_bytes: 0, ..keep(0, false) }),
        ("keep 4 KiB", keep(4, false)),
        ("keep 16 KiB", keep(16, false)),
        ("keep 64 KiB", keep(64, false)),
        ("keep 2 MiB", keep(2 << 10, false)),
        ("keep 16 KiB, scan", keep(16, true)),
        ("keep 64 KiB, scan", keep(64, true)),
        ("keep 256 KiB, scan", keep(256, true)),
        ("keep 2 MiB, scan", keep(2 << 10, true)),
        ("no copy-on-write, keep 64 KiB", PoolLimits { copy_on_write: false, ..keep(64, false) }),
        ("no copy-on-write, keep 64 KiB, scan", PoolLimits { copy_on_write: false, ..keep(64, true) }),
        ("keep 0, batch 8", PoolLimits { decommit_batch: 8, ..keep(0, false) }),
        ("keep 64 KiB, scan, batch 8", PoolLimits { decommit_batch: 8, ..keep(64, true) }),
        ("keep 64 KiB, scan, table 0", PoolLimits { table_keep_resident_bytes: 0, ..keep(64, true) }),
    ];
    for (guest, text) in [("hello, 1 page", HELLO.to_owned()), ("17 pages", seventeen_pages())] {
        for (name, pool) in settings {
            let runner = runner(pool, &text);
            group.bench_function(format!("{guest}: {name}"), |b| {
                b.iter_custom(|iterations| {
                    let events = events(&runtime, &minted, iterations);
                    let started = thread_cpu();
                    for event in events {
                        black_box(call(&runtime, &replies, &runner, event));
                    }
                    thread_cpu() - started
                })
            });
        }
    }
    group.finish();
}

/// The same on two threads at once: page-table locks, TLB shoot-downs and the pool's own locks show here.
fn contended(c: &mut Criterion) {
    let (minted, replies) = Minted::new(SCHEMA);
    let mut group = c.benchmark_group("two threads");
    let base = PoolLimits::default();
    let settings = [
        ("default", base),
        ("keep 0", PoolLimits { memory_keep_resident_bytes: 0, table_keep_resident_bytes: 0, ..base }),
        (
            "keep 64 KiB, no scan",
            PoolLimits { scan_pages: false, memory_keep_resident_bytes: 64 << 10, ..base },
        ),
        ("keep 2 MiB, scan", PoolLimits { scan_pages: true, memory_keep_resident_bytes: 2 << 20, ..base }),
        ("no copy-on-write", PoolLimits { copy_on_write: false, ..base }),
    ];
    for (guest, text) in [("hello, 1 page", HELLO.to_owned()), ("17 pages", seventeen_pages())] {
        for (name, pool) in settings {
            let runner = runner(pool, &text);
            group.bench_function(format!("{guest}: {name}"), |b| {
                b.iter_custom(|iterations| {
                    let halves = [(); 2].map(|()| events(&runtime(), &minted, iterations / 2 + 1));
                    let started = Instant::now();
                    thread::scope(|scope| {
                        for half in halves {
                            let (replies, runner) = (&replies, &runner);
                            scope.spawn(move || {
                                let runtime = runtime();
                                for event in half {
                                    black_box(call(&runtime, replies, runner, event));
                                }
                            });
                        }
                    });
                    started.elapsed()
                })
            });
        }
    }
    group.finish();
}

/// The same call in this process and through a worker's: time on the wall, one call at a time, and then what it costs in CPU time of
/// both processes.
fn isolated(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (minted, replies) = Minted::new(SCHEMA);
    let mut group = c.benchmark_group("one call, time on the wall");
    let sandbox = Sandbox::start(&settings()).expect("a sandbox");
    for (guest, text) in [("hello, 1 page", HELLO.to_owned()), ("17 pages", seventeen_pages())] {
        let component = || sandbox.admit(text.as_bytes(), None).expect("a component");
        let shared = sandbox.runner(minted::function(), component(), Limits::default());
        let isolated = sandbox.isolated_runner(minted::function(), component(), Limits::default());
        for (name, runner) in [("in this process", &shared), ("the same through a worker process", &isolated)]
        {
            let several = |count: u64| {
                let events = events(&runtime, &minted, count);
                let started = Instant::now();
                let mut worker = None;
                for event in events {
                    worker = black_box(call(&runtime, &replies, runner, event)).worker;
                }
                (started.elapsed(), worker)
            };
            group.bench_function(format!("{guest}: {name}"), |b| b.iter_custom(|count| several(count).0));
            let worker = several(1).1;
            let before = process_cpu(worker);
            let events = events(&runtime, &minted, CALLS);
            let ours = thread_cpu();
            for event in events {
                black_box(call(&runtime, &replies, runner, event));
            }
            let ours = thread_cpu() - ours;
            let theirs = process_cpu(worker).saturating_sub(before);
            println!(
                "{guest}: {name}: CPU time of a call {:?} here, {:?} there",
                per_call(ours),
                per_call(theirs)
            );
        }
    }
    group.finish();
}

/// CPU time of all threads of a process.
fn process_cpu(pid: Option<u32>) -> Duration {
    let Some(pid) = pid else { return Duration::ZERO };
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let spent = threads.map(|thread| {
        let told =
            std::fs::read_to_string(thread.expect("a thread").path().join("schedstat")).expect("its time");
        told.split(' ')
            .next()
            .and_then(|nanos| nanos.parse().ok())
            .map_or(Duration::ZERO, Duration::from_nanos)
    });
    spent.sum()
}

fn per_call(all: Duration) -> Duration {
    all / u32::try_from(CALLS).expect("a count")
}

const CALLS: u64 = 20_000;

/// A process started, the component compiled, the answer checked and loaded.
fn compile(c: &mut Criterion) {
    let sandbox = Sandbox::start(&settings()).expect("a sandbox");
    let mut n = 0;
    c.bench_function("compile process, hello", |b| {
        b.iter_batched(
            // Other bytes each time: equal ones are compiled once.
            || {
                n += 1;
                format!("{HELLO};; {n}")
            },
            |text| black_box(sandbox.admit(text.as_bytes(), None).expect("a component")),
            BatchSize::PerIteration,
        )
    });
}

/// The first call of a function whose artefact is stored.
fn cold(c: &mut Criterion) {
    let (runtime, (minted, replies)) = (runtime(), Minted::new(SCHEMA));
    let mut group = c.benchmark_group("first call, artefact stored");
    for (name, text) in [("hello", HELLO.as_bytes().to_vec()), ("artefact of 1 MiB", large())] {
        let dir = tempfile::tempdir().expect("a folder");
        let data_dir = Some(dir.path().to_owned());
        let sandbox = Sandbox::start(&Settings { data_dir, ..settings() }).expect("a sandbox");
        drop(sandbox.admit(&text, None).expect("a component"));
        let stored: u64 = std::fs::read_dir(dir.path().join("artefacts"))
            .expect("artefacts")
            .map(|entry| entry.and_then(|entry| entry.metadata()).map_or(0, |meta| meta.len()))
            .sum();
        println!("{name}: artefact of {} KiB", stored >> 10);
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    let component = sandbox.admit(&text, None).expect("a component");
                    let runner = sandbox.runner(minted::function(), component, Limits::default());
                    (runner, events(&runtime, &minted, 1))
                },
                |(runner, events)| {
                    for event in events {
                        assert!(call(&runtime, &replies, &runner, event).cold);
                    }
                },
                BatchSize::PerIteration,
            )
        });
        drop(Arc::clone(&sandbox));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = fresh, contended, isolated, cold, compile
}
criterion_main!(benches);
