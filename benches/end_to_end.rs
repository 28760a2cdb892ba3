//! All five steps over TLS, beside a bare axum + rustls echo: requests a second on the same cores, in one run.
//!
//! `cargo bench --bench end_to_end` needs `h2load` (Debian: nghttp2-client). Where there is an Envoy (`$ENVOY`, or on the path) it
//! takes its turn too.

use std::net::SocketAddr;

use axum::{Router, routing::post};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sandgate::server::Running;
use tokio_rustls::TlsAcceptor;

mod envoy;
mod figures;
mod gate;
mod load;
mod sample;

/// As in the gateway's own binary; the bare echo has it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    if load::has_h2load() {
        figures::run(measure());
    }
}

async fn measure() {
    let site = sample::site();
    let gate = gate::Gate::start(site.path()).await;
    let ours = load::Calls::new(gate.running.address, &gate.token, std::process::id());
    let bare = load::Calls::new(bare_echo(&gate.running).await, &gate.token, std::process::id());
    let envoy = envoy::start(site.path()).await;
    let envoys = envoy.as_ref().map(|envoy| load::Calls::new(envoy.address, &gate.token, envoy.process()));
    for protocol in load::PROTOCOLS {
        let (bare, ours, theirs) = match &envoys {
            Some(envoys) => {
                let [bare, ours, theirs] = load::in_turn(protocol, [&bare, &ours, envoys]).await;
                (bare, ours, Some(theirs))
            }
            None => {
                let [bare, ours] = load::in_turn(protocol, [&bare, &ours]).await;
                (bare, ours, None)
            }
        };
        println!(
            "{protocol:26} bare echo {:6.0} req/s {:5.1} µs   sandgate {:6.0} req/s {:5.1} µs   ratio {:.2}",
            bare.rate,
            bare.cpu_us,
            ours.rate,
            ours.cpu_us,
            ours.rate / bare.rate
        );
        if let Some(theirs) = theirs {
            println!(
                "{:26} Envoy, without a function, {:6.0} req/s {:5.1} µs   sandgate to it {:.2}",
                "",
                theirs.rate,
                theirs.cpu_us,
                ours.rate / theirs.rate
            );
        }
    }
}

/// The same listener and TLS as the gateway's, and nothing behind it.
async fn bare_echo(running: &Running) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let tls = TlsAcceptor::from(running.tls());
    let router = Router::new().fallback(post(|body: axum::body::Bytes| async { body }));
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
