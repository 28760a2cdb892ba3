//! The ops listener: `/livez`, `/readyz`, `/metrics`, in plain text on loopback, for operators and their machines.
//!
//! It answers only to its own name: a page in the operator's browser can make that browser send requests to loopback,
//! but under a name of the page's own (DNS rebinding).
//!
//! Whoever reaches it must not reach the data plane through it: descriptors and memory are shared. So its connections are
//! few, short, and carry one request each (INVARIANT Bounded).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ::http::{HeaderMap, StatusCode, header};
use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tracing::warn;

use crate::pipeline::Gateway;

/// What `/readyz` says beside the gateway's own state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `sandgate dev`: keys and certificates were made on this machine, for this machine.
    Development,
    /// `sandgate serve`.
    Production,
}

#[derive(Clone)]
struct Ops {
    gateway: Arc<Gateway>,
    mode: Mode,
    address: SocketAddr,
}

/// The ops listener's routes; `address` is where it listens.
pub fn router(gateway: Arc<Gateway>, mode: Mode, address: SocketAddr) -> Router {
    let ops = Ops { gateway, mode, address };
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn_with_state(ops.clone(), own_name_only))
        .with_state(ops)
}

/// Serves for ever.
pub async fn serve(listener: TcpListener, router: Router) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Nobody closes it.
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "a connection to the ops listener could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = http1::Builder::new()
            .keep_alive(false)
            // One time for all of it, below.
            .header_read_timeout(None)
            .max_buf_size(MAX_BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            // However it ends, there is nobody to tell.
            let _ = timeout(PATIENCE, connection).await;
            drop(place);
        });
    }
}

async fn own_name_only(State(ops): State<Ops>, request: Request, next: Next) -> Response {
    if is_own_name(request.headers(), ops.address) {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, "the ops listener answers only to its own address\n")
            .into_response()
    }
}

fn is_own_name(headers: &HeaderMap, address: SocketAddr) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    host == address.to_string() || host == format!("localhost:{}", address.port())
}

/// Ready is 200: the data plane may send traffic. What is wrong all the same stands in the text.
async fn readyz(State(ops): State<Ops>) -> Response {
    let report = ops.gateway.readiness();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mode = match ops.mode {
        Mode::Development => {
            "mode: DEVELOPMENT (keys and certificates of this machine; not for production)\n"
        }
        Mode::Production => "",
    };
    (status, format!("{mode}{report}")).into_response()
}

async fn metrics(State(ops): State<Ops>) -> Response {
    let text = ops.gateway.metrics_text();
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
        .into_response()
}

/// Connections at once; further ones wait in the kernel's queue. Operators, a scraper and a supervisor need a handful.
const MAX_CONNECTIONS: usize = 64;
/// For a connection from its first byte to its last: all who have business here are near.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of a request's head, and of an answer that is not taken yet.
const MAX_BUFFER_BYTES: usize = 16 << 10;
/// Long enough for a connection to end, short enough that nobody notices.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_holds_connections_to_the_ops_listener_gives_them_back_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Router::new().route("/livez", get(|| async { "ok\n" }))));
        let begun = tokio::time::Instant::now();
        let mut slow = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /livez HTTP/1.1\r\nhost: lo").await.unwrap();
            slow.push(stream);
        }
        // One more waits until there is room, and is served then.
        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        next.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok\n"), "{answer}");
        assert!(begun.elapsed() >= PATIENCE, "there was room for more than there should be");
        for mut stream in slow {
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        }
    }

    #[test]
    fn the_ops_listener_answers_only_to_its_own_name() {
        let address = SocketAddr::from(([127, 0, 0, 1], 9443));
        let asked = |hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, host.parse().unwrap());
            }
            is_own_name(&headers, address)
        };
        assert!(asked(&["127.0.0.1:9443"]) && asked(&["localhost:9443"]));
        for other in [
            &[][..],
            &["evil.example"],
            &["127.0.0.1"],
            &["localhost:9443", "localhost:9443"],
            &["evil.example:9443"],
        ] {
            assert!(!asked(other), "{other:?}");
        }
    }
}
