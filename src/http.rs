//! HTTP on the outside of the pipeline: routes in, status codes out. Nothing below this module knows either.

pub mod authority;
mod cors;
pub mod head;
pub mod headers;
pub mod health;
mod named;
pub mod openapi;
pub mod problem;
pub mod route;

use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::Poll,
    time::{Instant, SystemTime},
};

use ::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header, request::Parts};
use bytes::Bytes;
use http_body_util::Full;
use tracing::error;

use self::{
    head::BadHead,
    problem::{Code, Problem},
    route::{Route, RouteError},
};
use crate::{
    authn::{ClientCertificate, Head, Received},
    event::UnreadBody,
    id::{RequestId, TenantName},
    pipeline::{Gateway, Journal, Refusal},
    record::{self, Stage},
    sandbox::Outcome,
    site::host::HostName,
    tls::Host,
};

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address; one from an IPv4 socket in IPv4 form.
    pub client: IpAddr,
    /// `1.2` or `1.3`.
    pub tls: &'static str,
    /// Whether it may say which trace its requests belong to: it is itself one of the listed proxies.
    pub listed: bool,
    /// Its certificate, where it was asked for one and has proven to own it.
    pub certificate: Option<ClientCertificate>,
    /// The name that it opened the connection for, in lower case (SNI).
    pub server_name: Option<Arc<str>>,
    /// The tenant's host of that name, as it was then.
    pub host: Option<Arc<Host>>,
}

/// Answers a head that never became a request: a status, and nothing else. Its kind is counted (INVARIANT Told).
pub fn refuse(gateway: &Gateway, version: Version, bad: BadHead) -> Response<Full<Bytes>> {
    gateway.metrics().unparsed(bad.kind());
    let mut response = Response::new(Full::default());
    *response.status_mut() = match bad {
        BadHead::TargetTooLong => StatusCode::URI_TOO_LONG,
        BadHead::FieldsTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        BadHead::Slow => StatusCode::REQUEST_TIMEOUT,
        BadHead::LineEnd
        | BadHead::RequestLine
        | BadHead::Target
        | BadHead::Method
        | BadHead::Version
        | BadHead::Field
        | BadHead::Host
        | BadHead::Framing
        | BadHead::Upgrade
        | BadHead::Expectation => StatusCode::BAD_REQUEST,
    };
    if version < Version::HTTP_2 {
        close_after(&mut response);
    }
    response
}

/// Answers a request that there is no room for, and reads nothing of it.
pub async fn shed(gateway: &Gateway, peer: &Peer, version: Version) -> Response<Full<Bytes>> {
    let now = SystemTime::now();
    let request_id = gateway.next_request_id(now);
    let shed = Astray {
        code: Code::Overloaded,
        reason: "requests",
        detail: "more requests are under way than there is room for".to_owned(),
    };
    let tenant = peer.host.as_ref().map(|host| host.tenant().clone());
    let mut response = shed.refuse(gateway, request_id, now, peer.client, tenant).await;
    headers::finish(response.headers_mut(), request_id);
    if version < Version::HTTP_2 {
        close_after(&mut response);
    }
    response
}

/// Answers one request, and never leaves one unanswered: a panic below becomes a 500 (hardening F29).
pub async fn answer(
    gateway: Arc<Gateway>,
    peer: Peer,
    request: Request<UnreadBody>,
) -> Response<Full<Bytes>> {
    // HTTP/2 has no raw head: what its frames say is judged once the library has put it together.
    if request.version() == Version::HTTP_2
        && let Err(bad) = head::check_http2(&request)
    {
        return refuse(&gateway, Version::HTTP_2, bad);
    }
    let http1 = request.version() < Version::HTTP_2;
    // Only its chunks tell where a chunked body ends, and nothing after them is looked for (hardening C3).
    let last = http1 && request.headers().contains_key(header::TRANSFER_ENCODING);
    let asks = http1 && request.headers().contains_key(header::EXPECT);
    let now = SystemTime::now();
    let request_id = gateway.next_request_id(now);
    let client = peer.client;
    let mut response = match catch_panic(reply(&gateway, peer, request, request_id, now)).await {
        Some(response) => response,
        // One of the five steps is caught within; this is a panic of what is around them.
        None => {
            error!(request.id = %request_id, "a request ended in a panic");
            let astray = Astray {
                code: Code::Internal,
                reason: "panic",
                detail: "a panic outside of the stages".to_owned(),
            };
            astray.refuse(&gateway, request_id, now, client, None).await
        }
    };
    headers::finish(response.headers_mut(), request_id);
    // Who waits for a word before the body and is refused may send it all the same, or another request in its place: a
    // proxy that reuses the connection would have that one's beginning read as the body (RFC 9110 §10.1.1).
    if last || asks && !response.status().is_success() {
        close_after(&mut response);
    }
    response
}

/// No further request is read from this connection.
fn close_after(response: &mut Response<Full<Bytes>>) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// Route, invoke, record, reply. Nothing is answered before it is recorded (INVARIANT Told).
async fn reply(
    gateway: &Arc<Gateway>,
    peer: Peer,
    request: Request<UnreadBody>,
    request_id: RequestId,
    now: SystemTime,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let begun = Instant::now();
    let (host, route) = match find(gateway, &peer, &parts) {
        Ok(found) => found,
        Err(astray) => {
            gateway.metrics().stage(Stage::Route, begun.elapsed());
            let tenant = peer.host.as_ref().map(|host| host.tenant().clone());
            return astray.refuse(gateway, request_id, now, peer.client, tenant).await;
        }
    };
    let origin = listed_origin(gateway, &route.tenant, &parts.headers);
    if let Some(origin) = &origin
        && cors::is_preflight(&parts.method, &parts.headers)
    {
        return cors::preflight(&parts.headers, origin.clone());
    }
    let offered = parts.headers.contains_key(header::AUTHORIZATION);
    let received = Received {
        request_id,
        tenant: route.tenant,
        function: route.function,
        head: Head {
            path: parts.uri.path().to_owned(),
            method: parts.method,
            rest: route.rest,
            query: route.query,
            headers: parts.headers,
            client: peer.client,
            tls: peer.tls,
            client_certificate: peer.certificate,
            host,
            now,
        },
        body,
    };
    let mut journal = Journal::open(gateway, &received, begun, peer.listed);
    let (trace_id, trace_response) = (journal.trace_id(), journal.trace_response());
    let result = catch_panic(gateway.invoke(received, &mut journal)).await.unwrap_or(Err(Refusal::Panicked));
    let nonce = journal.take_nonce();
    let (response, told) = match result {
        Ok(outcome) => {
            let response = success(outcome);
            let status = response.status().as_u16();
            (response, journal.close(status, "ok", None).await)
        }
        Err(refusal) => {
            let problem = Problem { offered, ..Problem::from(&refusal) };
            if problem.code == Code::Internal {
                error!(request.id = %request_id, trace.id = trace_id.map(tracing::field::display), error = %refusal, "a fault of the gateway's own");
            }
            let told =
                journal.close(problem.code.status().as_u16(), problem.code.as_str(), Some(&refusal)).await;
            (problem.response(request_id), told)
        }
    };
    let mut response = match told {
        Ok(()) => response,
        Err(error) => {
            error!(request.id = %request_id, trace.id = trace_id.map(tracing::field::display), %error, "a request is refused because it could not be recorded");
            Problem::from(&Refusal::from(error)).response(request_id)
        }
    };
    if let Some(nonce) = nonce {
        headers::renew_nonce(response.headers_mut(), &nonce);
    }
    if let Some(trace_response) = trace_response {
        headers::tell_trace(response.headers_mut(), &trace_response);
    }
    if let Some(origin) = origin {
        cors::allow(response.headers_mut(), origin);
    }
    response
}

/// A request that never came to a tenant's gate.
struct Astray {
    code: Code,
    reason: &'static str,
    detail: String,
}

impl Astray {
    /// Counted, recorded and answered, in this order.
    async fn refuse(
        self,
        gateway: &Gateway,
        request_id: RequestId,
        time: SystemTime,
        client: IpAddr,
        tenant: Option<TenantName>,
    ) -> Response<Full<Bytes>> {
        let problem = Problem::plain(self.code);
        let refusal = record::Refusal {
            request_id,
            trace_id: None,
            time,
            client,
            status: problem.code.status().as_u16(),
            code: problem.code.as_str(),
            reason: self.reason,
            detail: Some(self.detail),
            tenant,
            stage: Stage::Route,
        };
        gateway.metrics().refused(problem.code.as_str());
        gateway.audit().refused_unauthenticated(refusal).await;
        problem.response(request_id)
    }
}

/// The tenant's host that a request is for, if it is for one, and what it names there.
fn find(gateway: &Gateway, peer: &Peer, parts: &Parts) -> Result<(Option<HostName>, Route), Astray> {
    let revision = gateway.revision();
    let host = named::host(peer, &revision, parts).map_err(|error| Astray {
        code: Code::Misdirected,
        reason: "misdirected",
        detail: error.to_string(),
    })?;
    let (path, query) = (parts.uri.path(), parts.uri.query());
    let route = match host {
        Some(host) => route::route_at_host(host.tenant(), path, query),
        None => route::route(path, query),
    };
    let astray =
        |error: RouteError| Astray { code: Code::from(error), reason: "route", detail: error.to_string() };
    Ok((host.map(|host| host.name().clone()), route.map_err(astray)?))
}

/// The origin that a browser names, if the tenant lists it.
fn listed_origin(gateway: &Gateway, tenant: &TenantName, headers: &HeaderMap) -> Option<HeaderValue> {
    if !headers.contains_key(header::ORIGIN) {
        return None;
    }
    let revision = gateway.revision();
    cors::listed(headers, &revision.tenant(tenant).ok()?.origins)
}

fn success(outcome: Outcome) -> Response<Full<Bytes>> {
    let (status, content_type, fields, body) = outcome.into_reply().into_parts();
    let mut response = Response::new(Full::new(body));
    // The sandbox's stage lets 200 to 599 through; all of them are statuses.
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    for (name, value) in fields {
        headers.append(name, value);
    }
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    response
}

/// The future's value, or `None` if it panicked. What it shares with other requests is not left half changed: those parts
/// are atomics, or locks that a panic poisons and that recover.
async fn catch_panic<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(move |context| {
        match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Some(value)),
            Err(_) => Poll::Ready(None),
        }
    })
    .await
}
