//! What it costs to tell a collector of every call: one gateway that does and one that does not, in turn.
//!
//! `cargo bench --bench traces` needs `h2load` (Debian: nghttp2-client). The collector is in the bench, on the same
//! cores, and reads what comes and keeps nothing: its share is in the rates, and not in the CPU time of the gate.

use std::net::SocketAddr;

mod figures;
mod load;
mod sample;
mod spawned;

fn main() {
    if load::has_h2load() {
        figures::run(measure());
    }
}

async fn measure() {
    let endpoint = format!("http://{}", collector().await);
    let gates = [
        spawned::Gate::start(&[("OTEL_SDK_DISABLED", "true")]),
        spawned::Gate::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]),
    ];
    let [without, with] = gates
        .each_ref()
        .map(|gate| load::Calls::new(gate.address(), gate.said("Bearer ", '\''), gate.process()));
    for protocol in load::PROTOCOLS {
        let [off, on] = load::in_turn(protocol, [&without, &with]).await;
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
}

/// Takes what comes to it, and keeps nothing.
async fn collector() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = axum::Router::new()
        .route("/v1/traces", axum::routing::post(|_: axum::body::Bytes| async {}))
        .layer(axum::extract::DefaultBodyLimit::disable());
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}
