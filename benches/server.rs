//! What the raw-head adapter and all limits of a connection cost: one gateway behind its own server, and behind the
//! library's as it comes, with the same TLS and the same five steps.
//!
//! `cargo bench --bench server` needs `h2load` (Debian: nghttp2-client).

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use sandgate::{
    event::UnreadBody,
    http::{self, Peer},
    server::Running,
};
use tokio_rustls::TlsAcceptor;

mod figures;
mod gate;
mod load;
mod sample;

/// As in the gateway's own binary; both forms have it.
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
    let plain = load::Calls::new(plain(&gate.running).await, &gate.token, std::process::id());
    for protocol in load::PROTOCOLS {
        let [plain, ours] = load::in_turn(protocol, [&plain, &ours]).await;
        println!(
            "{protocol:26} plain {:6.0} req/s {:5.1} µs   with adapter and limits {:6.0} req/s {:5.1} µs   \
             {:+.1} % req/s, {:+.1} % CPU",
            plain.rate,
            plain.cpu_us,
            ours.rate,
            ours.cpu_us,
            100.0 * (ours.rate / plain.rate - 1.0),
            100.0 * (ours.cpu_us / plain.cpu_us - 1.0)
        );
    }
}

/// The gateway without its server: no bound on connections, handshakes, heads, idleness or frames, and no second look at a
/// head. What is measured only; nobody is served so.
async fn plain(running: &Running) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (tls, gateway) = (TlsAcceptor::from(running.tls()), Arc::clone(&running.gateway));
    tokio::spawn(async move {
        while let Ok((stream, from)) = listener.accept().await {
            let (tls, gateway) = (tls.clone(), Arc::clone(&gateway));
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let Ok(stream) = tls.accept(stream).await else { return };
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let peer = Peer {
                    client: from.ip(),
                    tls: "1.3",
                    listed: false,
                    certificate: None,
                    server_name: None,
                    host: None,
                };
                let service = service_fn(|request: hyper::Request<Incoming>| {
                    let of = if http2 { UnreadBody::of_stream } else { UnreadBody::from };
                    let request = request.map(of);
                    let answer = Box::pin(http::answer(Arc::clone(&gateway), peer.clone(), request));
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let stream = TokioIo::new(stream);
                let _ = match http2 {
                    true => {
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(stream, service)
                            .await
                    }
                    false => {
                        hyper::server::conn::http1::Builder::new()
                            .timer(TokioTimer::new())
                            .serve_connection(stream, service)
                            .await
                    }
                };
            });
        }
    });
    address
}
