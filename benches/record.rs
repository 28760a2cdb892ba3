//! What a record costs: `cargo bench --bench record`.
//!
//! `append` has the request's side and the writer's in one figure. The throughput runs compare who writes: the task
//! that comes first (`combining`), or a thread (`thread`), with as many tasks as the end-to-end bench has connections.
//!
//! On 2 cores (ext4, SHA extensions, other work beside it): make and append 5.0 µs, of which about half is write(2)
//! and a tenth SHA-256. Records a second with 2, 16 and 64 tasks: combining 154 000, 182 000, 144 000; thread 77 000,
//! 142 000, 372 000. The thread gains by larger batches only far beyond what a gateway on 2 cores serves; below, each
//! record pays for waking it. So requests write, and the thread takes over from one that would serve others for long.
//! fdatasync, 64 tasks: 11 700 a second. A counted refusal 0.17 µs, a recorded one 3.5 µs. Verification: 305 000
//! records a second.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sandgate::{
    id::RequestId,
    record::{
        AuditLog, CallerEntry, DecisionEntry, Durability, Metrics, Options, Outcome, Record, Refusal,
        RefusedLimits, Stage, Start, verify,
    },
};
use tokio::runtime::{Builder, Runtime};

fn record(n: u64) -> Record {
    Record {
        request_id: RequestId::new(1_760_000_000_000 + n, u128::from(n)),
        trace_id: None,
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_760_000_000_000 + n),
        revision: "0198c2f1a7b34d21".into(),
        tenant: if n.is_multiple_of(2) { "acme" } else { "globex" }.parse().expect("a name"),
        function: "invoice".parse().expect("a name"),
        caller: CallerEntry {
            id: "acme/alice".into(),
            roles: vec!["acme/billing".into(), "acme/reader".into()],
            scopes: vec!["invoices:write".into()],
            tags: vec![("department".into(), "sales".into())],
        },
        context: vec![],
        via: vec![],
        stage: Stage::Reply,
        decision: Some(DecisionEntry {
            allowed: true,
            policies: vec!["acme/billing-may-invoice".into()],
            errors: vec![],
        }),
        grants: vec![],
        signals: vec![],
        limits: vec![],
        cpu_us: 12,
        wall_us: 340,
        peak_memory: 65_536,
        bytes_in: 300,
        bytes_out: 210,
        start: Some(Start::Warm),
        worker: None,
        outcome: Outcome::ok(200),
    }
}

fn refusal(n: u64) -> Refusal {
    Refusal {
        request_id: RequestId::new(n, 7),
        trace_id: None,
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_760_000_000_000 + n),
        client: "192.0.2.9".parse().expect("an address"),
        status: 401,
        code: "unauthenticated",
        reason: "expired",
        detail: None,
        tenant: None,
        stage: Stage::Authenticate,
    }
}

fn log(options: Options) -> (tempfile::TempDir, Arc<AuditLog>) {
    let dir = tempfile::tempdir().expect("a directory");
    let log = AuditLog::open(&dir.path().join("audit"), options).expect("a log");
    (dir, Arc::new(log))
}

/// Time that `tasks` tasks take for `records` records between them.
fn many(runtime: &Runtime, log: &Arc<AuditLog>, tasks: u64, records: u64) -> Duration {
    let start = Instant::now();
    runtime.block_on(async {
        let mut set = tokio::task::JoinSet::new();
        for task in 0..tasks {
            let log = log.clone();
            set.spawn(async move {
                for n in 0..records.div_ceil(tasks) {
                    log.append(record(n * tasks + task)).await.expect("written");
                    // A request ends; another one has its turn.
                    tokio::task::yield_now().await;
                }
            });
        }
        while set.join_next().await.is_some() {}
    });
    start.elapsed()
}

fn bench(criterion: &mut Criterion) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");

    let mut alone = criterion.benchmark_group("record");
    alone.bench_function("make", |bencher| bencher.iter(|| black_box(record(7))));
    let (_dir, one) = log(Options::default());
    let mut n = 0;
    alone.bench_function("make and append, one task", |bencher| {
        bencher.to_async(&runtime).iter(|| {
            n += 1;
            let one = one.clone();
            async move { one.append(record(n)).await.expect("written") }
        });
    });
    let (_dir, crowd) = log(Options::default());
    alone.bench_function("refusal, counted", |bencher| {
        bencher.to_async(&runtime).iter(|| crowd.refused_unauthenticated(refusal(1)));
    });
    let (_dir, crowd) = log(Options {
        refused: RefusedLimits { burst: u32::MAX, total_burst: u32::MAX, ..RefusedLimits::default() },
        ..Options::default()
    });
    alone.bench_function("refusal, recorded", |bencher| {
        bencher.to_async(&runtime).iter(|| crowd.refused_unauthenticated(refusal(1)));
    });
    let metrics = Metrics::new();
    let function = metrics.function(&"acme".parse().expect("a name"), &"invoice".parse().expect("a name"));
    alone.bench_function("metrics of one invocation", |bencher| {
        bencher.iter(|| {
            for stage in Stage::ALL {
                metrics.stage(stage, Duration::from_micros(30));
            }
            function.invoked("ok", Duration::from_micros(12));
        });
    });
    alone.finish();

    let mut group = criterion.benchmark_group("records a second, 2 threads");
    group.throughput(Throughput::Elements(1)).sample_size(20).measurement_time(Duration::from_secs(4));
    for tasks in [2, 16, 64] {
        for (name, inline_batches) in [("combining", 4), ("thread", 0)] {
            let (_dir, log) = log(Options { inline_batches, ..Options::default() });
            group.bench_function(format!("{tasks} tasks, {name}"), |bencher| {
                bencher.iter_custom(|records| many(&runtime, &log, tasks, records));
            });
        }
    }
    let (_dir, machine) = log(Options { durability: Durability::Machine, ..Options::default() });
    group.bench_function("64 tasks, fdatasync", |bencher| {
        bencher.iter_custom(|records| many(&runtime, &machine, 64, records));
    });
    group.finish();

    let (dir, full) = log(Options::default());
    many(&runtime, &full, 16, 50_000);
    drop(full);
    let mut group = criterion.benchmark_group("verify");
    group.throughput(Throughput::Elements(50_000)).sample_size(10);
    group.bench_function("50 000 records", |bencher| {
        bencher.iter(|| assert!(verify(&dir.path().join("audit"), None).expect("readable").sound));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
