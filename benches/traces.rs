//! What it costs to tell a collector of every call: one gateway that does and one that does not, in turn.
//!
//! `cargo bench --bench traces` needs `h2load` (Debian: nghttp2-client). The collector is a process of its own on the same
//! cores, that reads what comes and keeps nothing: its share is in the rates, and not in the CPU time.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use sandgate::{record::trace::TraceSettings, server::Options};

mod gate;
mod load;

/// As in the gateway's own binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const COLLECTOR: &str = "--collector";

fn main() {
    if std::env::args().any(|argument| argument == COLLECTOR) {
        collect();
    } else if load::has_h2load() {
        gate::run(measure());
    }
}

async fn measure() {
    let (mut collector, endpoint) = collector();
    let variable = |name| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| endpoint.clone());
    let traces = TraceSettings::read(variable).expect("an endpoint");
    let without = gate::Gate::start(|options| options).await;
    let with = gate::Gate::start(|options| Options { traces, ..options }).await;
    let [without, with] = [without, with].map(|gate| (load::Calls::new(&gate, gate.running.address), gate));
    for protocol in load::PROTOCOLS {
        let [off, on] = load::in_turn(protocol, [&without.0, &with.0]).await;
        println!(
            "{protocol:26} traces off {:6.0} req/s {:5.1} µs   on {:6.0} req/s {:5.1} µs   {:+.1} % req/s, {:+.1} µs CPU",
            off.rate,
            off.cpu_us,
            on.rate,
            on.cpu_us,
            100.0 * (on.rate / off.rate - 1.0),
            on.cpu_us - off.cpu_us
        );
    }
    for line in with.1.running.gateway.metrics_text().lines().filter(|l| l.starts_with("sandgate_traces")) {
        println!("{line}");
    }
    collector.kill().expect("the collector ends");
}

/// This program once more, as a collector.
fn collector() -> (Child, String) {
    let this = std::env::current_exe().expect("this program");
    let mut child =
        Command::new(this).arg(COLLECTOR).stdout(Stdio::piped()).spawn().expect("a collector starts");
    let mut address = String::new();
    let out = child.stdout.take().expect("its output");
    BufReader::new(out).read_line(&mut address).expect("its address");
    (child, format!("http://{}", address.trim()))
}

fn collect() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        let router = axum::Router::new()
            .route("/v1/traces", axum::routing::post(|_: axum::body::Bytes| async {}))
            .layer(axum::extract::DefaultBodyLimit::disable());
        axum::serve(listener, router).await.expect("it serves");
    });
}
