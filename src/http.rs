//! HTTP on the outside of the pipeline: routes in, status codes out. Nothing below this module knows either.

pub mod health;
pub mod headers;
pub mod problem;
pub mod route;

use std::{net::IpAddr, panic::AssertUnwindSafe, sync::Arc, time::SystemTime};

use ::http::{HeaderValue, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use tracing::error;

use self::problem::{Code, Problem};
use crate::{
    authn::{Head, Received},
    event::UnreadBody,
    id::RequestId,
    pipeline::{Gateway, Journal},
    sandbox::Outcome,
};

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Its address; one from an IPv4 socket in IPv4 form.
    pub client: IpAddr,
    /// `1.2` or `1.3`.
    pub tls: &'static str,
}

/// Answers one request, and never leaves one unanswered: a panic below becomes a 500 (hardening F29).
pub async fn answer(gateway: Arc<Gateway>, peer: Peer, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let now = SystemTime::now();
    let request_id = gateway.next_request_id(now);
    let mut response = match catch_panic(reply(&gateway, peer, request, request_id, now)).await {
        Some(response) => response,
        None => {
            error!(request.id = %request_id, "a request ended in a panic");
            Problem::plain(Code::Internal).response(request_id)
        }
    };
    headers::finish(response.headers_mut(), request_id);
    response
}
