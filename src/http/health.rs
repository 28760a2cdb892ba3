//! The ops listener: `/livez`, `/readyz`, `/metrics`, in plain text on loopback, for operators and their machines.
//!
//! It answers only to its own name: a page in the operator's browser can make that browser send requests to loopback,
//! but under a name of the page's own (DNS rebinding).

use std::{net::SocketAddr, sync::Arc};

use ::http::{HeaderMap, StatusCode, header};
use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};

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

/// Serves until the listener fails.
pub async fn serve(listener: tokio::net::TcpListener, router: Router) -> std::io::Result<()> {
    axum::serve(listener, router).await
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

#[cfg(test)]
mod tests {
    use super::*;

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
