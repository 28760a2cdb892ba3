//! All five steps over TLS, beside a bare axum + rustls echo: requests a second on the same cores, in one run.
//!
//! `cargo bench --bench end_to_end` needs `h2load` (Debian: nghttp2-client). Where there is an Envoy (`$ENVOY`, or on the path)
//! it is measured too. The servers take turns, so that a machine whose speed drifts slows all; the figures to quote are
//! ratios of medians.

mod envoy;

use std::{net::SocketAddr, path::Path, process::Command};

use axum::{Router, routing::post};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sandgate::{
    http::health::Mode,
    server::{Options, Running, start},
};
use tokio_rustls::TlsAcceptor;

/// As in the gateway's own binary; the bare echo has it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: &str = "16";
const ROUNDS: usize = 5;
const SECONDS: &str = "4";

fn main() {
    // `cargo bench` and `cargo test --benches` pass flags of their own.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    if Command::new("h2load").arg("--version").output().is_err() {
        println!("h2load is not installed (Debian: nghttp2-client): nothing measured");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure());
}

async fn measure() {
    let site = tempfile::tempdir().expect("a folder");
    copy_sample(site.path());
    sandgate::sandbox::CompilerCommand::set_default(env!("CARGO_BIN_EXE_sandgate"));
    let gate = start(Options { mode: Mode::Development, ..Options::local(site.path()) })
        .await
        .expect("the sample starts");
    let token = sandgate::cli::token::mint_sample(site.path()).expect("a token").2;
    let bare = bare_echo(&gate).await;
    let body = site.path().join("event.json");
    std::fs::write(&body, br#"{"name":"Ada"}"#).expect("an event");
    let work = tempfile::tempdir().expect("a folder");
    let envoy = envoy::start(site.path(), work.path()).await;
    for protocol in ["--h1", "--max-concurrent-streams=1"] {
        let (mut bares, mut gates, mut envoys) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bares.push(load(protocol, &format!("https://{bare}/"), &token, &body).await);
            gates.push(load(protocol, &format!("https://{}/acme/hello", gate.address), &token, &body).await);
            if let Some(envoy) = &envoy {
                let url = format!("https://{}/acme/hello", envoy.address);
                envoys.push(load(protocol, &url, &token, &body).await);
            }
        }
        let (bare, gate) = (median(&mut bares), median(&mut gates));
        println!(
            "{protocol:24} bare echo {bare:8.0} req/s   sandgate {gate:8.0} req/s   ratio {:.2}",
            gate / bare
        );
        if envoy.is_some() {
            let envoy = median(&mut envoys);
            println!("{:24} Envoy, no function {envoy:8.0} req/s   sandgate to it {:.2}", "", gate / envoy);
        }
    }
}

async fn load(protocol: &str, url: &str, token: &str, body: &Path) -> f64 {
    let mut command = tokio::process::Command::new("h2load");
    command
        .args([protocol, "-c", CONNECTIONS, "-t", "1", "-D", SECONDS, "--warm-up-time", "1"])
        .args(["-H", &format!("authorization: Bearer {token}"), "-H", "content-type: application/json", "-d"])
        .arg(body)
        .arg(url);
    let out = command.output().await.expect("h2load runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let field = |label: &str| text.lines().find(|l| l.contains(label)).map(str::to_owned).unwrap_or_default();
    let failed = field("requests:");
    assert!(failed.contains(" 0 failed") && field("status codes:").contains(" 0 4xx, 0 5xx"), "{text}");
    let finished = field("finished in");
    finished.split(", ").nth(1).and_then(|rate| rate.trim_end_matches(" req/s").parse().ok()).expect("a rate")
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

/// The repository's own site, without what an earlier start left there.
fn copy_sample(to: &Path) {
    for folder in ["policies", "functions"] {
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &to.join(folder));
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder of the sample") {
        let entry = entry.expect("an entry");
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a file");
        }
    }
}

/// The same listener and TLS as the gateway's, and nothing behind it.
async fn bare_echo(gate: &Running) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let tls = TlsAcceptor::from(gate.tls());
    let router = Router::new().route("/", post(|body: axum::body::Bytes| async { body }));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, router) = (tls.clone(), router.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = hyper_util::service::TowerToHyperService::new(router);
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}
