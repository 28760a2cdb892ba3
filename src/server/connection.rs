//! One connection: who its client is, its handshake, and requests until one of its bounds or its client ends it.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ProtocolVersion;
use tokio::{net::TcpStream, time::timeout};
use tracing::{debug, info};

use super::{
    Rules, Shutdown,
    clients::{Clients, Full, Place},
    cut::Cut,
    exchange::{Exchanges, Late, ReplyBody},
    frames::Frames,
    greet::{Greeted, greet},
    pace::Paced,
    places::{Inside, Places},
    proxy::{self, ProxyError},
    raw::Raw,
};
use crate::{
    authn::{CertificateThumbprint, ClientCertificate},
    event::UnreadBody,
    http::{self, Peer},
    pipeline::Gateway,
    record::Metrics,
};

/// What every connection shares.
pub(super) struct Shared {
    pub(super) gateway: Arc<Gateway>,
    pub(super) shutdown: Shutdown,
    pub(super) clients: Arc<Clients>,
    pub(super) handshakes: Arc<Places>,
}

/// One connection, by the rules that were in force when it was accepted.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) rules: Arc<Rules>,
}

impl Connection {
    /// Serves it to its end; `place` is its place among all.
    pub(super) async fn serve(self, stream: TcpStream, address: SocketAddr, place: Inside) {
        // Replies are written whole: waiting for more to send only delays them.
        let _ = stream.set_nodelay(true);
        let _open = Open::new(self.shared.gateway.metrics());
        match timeout(self.rules.bounds.handshake, self.admit(stream, address.ip().to_canonical())).await {
            Ok(Ok((greeted, client, of_client))) => {
                // In a box of its own, once it is needed: a task is moved as it is made, with room for all that it may become,
                // and many a one ends at its handshake.
                if let Err(error) = Box::pin(self.speak(greeted, client, &of_client)).await {
                    debug!(%error, %client, "connection ended early");
                }
                drop(of_client);
            }
            Ok(Err(error)) => {
                self.shared.gateway.metrics().turned_away(error.kind());
                debug!(error = &error as &dyn std::error::Error, peer = %address.ip(), "connection refused");
            }
            Err(_) => {
                self.shared.gateway.metrics().turned_away("handshake_slow");
                debug!(peer = %address.ip(), "TLS handshake took too long");
            }
        }
        drop(place);
    }

    /// Who the client is, a place for it, and its handshake, in this order: each costs more than the one before.
    async fn admit(
        &self,
        mut stream: TcpStream,
        peer: IpAddr,
    ) -> Result<(Greeted, IpAddr, Place), NotAdmitted> {
        let client = if self.rules.proxies.iter().any(|network| network.contains(peer)) {
            proxy::client(&mut stream).await?.unwrap_or(peer)
        } else {
            peer
        };
        let mut place = self.shared.clients.connect(client, &self.rules.bounds)?;
        let greeting = greet(stream, &self.shared.gateway, &self.rules.tls, &self.shared.handshakes);
        let greeted = greeting.await.map_err(NotAdmitted::Tls)?;
        place.shaken();
        Ok((greeted, client, place))
    }

    async fn speak(&self, greeted: Greeted, client: IpAddr, place: &Place) -> hyper::Result<()> {
        let exchanges = Exchanges::new();
        let ended = self.drive(greeted, client, place, &exchanges).await;
        match exchanges.was_cut() {
            None => {}
            Some(Cut::Slow) => self.shared.gateway.metrics().unparsed(Cut::Slow.kind()),
            Some(cut) => {
                self.shared.gateway.metrics().turned_away(cut.kind());
                info!(client.address = %client, "a connection was cut: {cut}");
            }
        }
        ended
    }

    /// What the handshake and a listed proxy have said of the client.
    fn peer(&self, greeted: &Greeted, client: IpAddr) -> Peer {
        let (_, session) = greeted.stream.get_ref();
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        Peer {
            client,
            tls: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "1.3",
                _ => "1.2",
            },
            // What a listed proxy passes on is its client's; only what it sends in its own name is believed.
            listed: self.rules.proxies.iter().any(|network| network.contains(client)),
            // One that does not say until when it is good is none.
            certificate: leaf.and_then(|der| {
                Some(ClientCertificate {
                    thumbprint: CertificateThumbprint::of(der),
                    expires: crate::tls::expiry(der)?,
                })
            }),
            server_name: greeted.server_name.clone(),
            host: greeted.host.clone(),
        }
    }

    async fn drive(
        &self,
        greeted: Greeted,
        client: IpAddr,
        place: &Place,
        exchanges: &Arc<Exchanges>,
    ) -> hyper::Result<()> {
        let peer = self.peer(&greeted, client);
        let http2 = greeted.stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let stream = Paced::new(greeted.stream, Arc::clone(exchanges), self.rules.bounds.min_rate);
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let (gateway, peer) = (Arc::clone(&self.shared.gateway), peer.clone());
            let verdict = if http2 { Ok(()) } else { exchanges.verdict() };
            let exchange = exchanges.begin(place.request());
            async move {
                let reply = match verdict {
                    // Boxed: a connection has room for its request's state for as long as it is open, and this is most of it.
                    Ok(()) if exchange.has_room() => {
                        let of = if http2 { UnreadBody::of_stream } else { UnreadBody::from };
                        Box::pin(http::answer(gateway, peer, request.map(of))).await
                    }
                    Ok(()) => Box::pin(http::shed(&gateway, &peer, request.version())).await,
                    Err(bad) => http::refuse(&gateway, request.version(), bad),
                };
                Ok::<_, Infallible>(reply.map(|body| ReplyBody::new(body, exchange)))
            }
        });
        // The two kinds of connection share their ways but not a type.
        macro_rules! drive {
            ($connection:expr) => {{
                let mut connection = std::pin::pin!($connection);
                tokio::select! {
                    biased;
                    ended = &mut connection => return ended,
                    late = exchanges.late(&self.rules.bounds) => {
                        if let Late::Cut(cut) = late {
                            exchanges.cut(cut);
                            return Ok(());
                        }
                    }
                    () = self.shared.shutdown.begun() => {}
                }
                // What is under way may finish; nothing new begins.
                connection.as_mut().graceful_shutdown();
                // A client of HTTP/2 is asked to go, and need not answer: with nothing under way nobody waits for it.
                match timeout(self.rules.bounds.header, &mut connection).await {
                    Ok(ended) => return ended,
                    Err(_) if exchanges.is_quiet() => return Ok(()),
                    Err(_) => {}
                }
                timeout(self.rules.bounds.request, connection).await.unwrap_or(Ok(()))
            }};
        }
        if http2 {
            let metrics = Arc::clone(self.shared.gateway.metrics());
            let frames = Frames::new(stream, Arc::clone(exchanges), metrics, self.rules.bounds.header);
            drive!(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(MAX_STREAMS)
                    .max_header_list_size(MAX_HEAD_BYTES)
                    .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
                    .max_local_error_reset_streams(MAX_RESET_STREAMS)
                    .keep_alive_interval(Some(KEEP_ALIVE))
                    .keep_alive_timeout(KEEP_ALIVE)
                    .initial_stream_window_size(STREAM_WINDOW_BYTES)
                    .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                    .max_frame_size(MAX_FRAME_BYTES)
                    .max_send_buf_size(MAX_BUFFER_BYTES)
                    .serve_connection(TokioIo::new(frames), service)
            )
        } else {
            let raw = Raw::new(stream, Arc::clone(exchanges), self.rules.bounds.header);
            drive!(
                hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    // Heads and idle connections have their times before the library hears of them.
                    .header_read_timeout(None)
                    .max_buf_size(MAX_BUFFER_BYTES)
                    .serve_connection(TokioIo::new(raw), service)
            )
        }
    }
}

/// Why a connection ends before its first request.
#[derive(Debug, thiserror::Error)]
enum NotAdmitted {
    #[error("a listed proxy did not say who its client is")]
    Proxy(#[from] ProxyError),
    #[error(transparent)]
    Full(#[from] Full),
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
}

impl NotAdmitted {
    /// The word under which it is counted.
    fn kind(&self) -> &'static str {
        match self {
            Self::Proxy(_) => "proxy_header",
            Self::Full(Full::Connections) => "client_connections",
            Self::Full(Full::Handshakes) => "client_handshakes",
            Self::Tls(_) => "handshake",
        }
    }
}

/// Counts a connection as open for as long as this lives, however it ends.
struct Open<'a>(&'a Metrics);

impl<'a> Open<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.connections().inc();
        Self(metrics)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections().dec();
    }
}

/// Names and values of an HTTP/2 head, in bytes as RFC 9113 §6.5.2 counts them (hardening C2).
const MAX_HEAD_BYTES: u32 = 16 << 10;
/// What the library may buffer: of HTTP/1, the longest head that passes the check, and more of a body at once; of
/// HTTP/2, what one stream has to send.
pub(super) const MAX_BUFFER_BYTES: usize = 64 << 10;
const _: () = assert!(http::head::MAX_HEAD_BYTES < MAX_BUFFER_BYTES);
/// Streams at once on one HTTP/2 connection (hardening C8).
pub(super) const MAX_STREAMS: u32 = 100;
/// Reset streams that may wait before the connection is closed (CVE-2023-44487).
const MAX_RESET_STREAMS: usize = 20;
/// Body of one stream that may come before anybody reads it: a body is not read before the decision.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// The same of all streams of a connection: what a client can make us hold for nothing.
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;
/// The smallest that may be set (RFC 9113 §4.2).
const MAX_FRAME_BYTES: u32 = 16 << 10;
/// Between pings on a silent HTTP/2 connection, and for their answers.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_shakes_hands_has_no_room_for_requests() {
        fn size_of_task<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
            size_of::<F>()
        }
        let size = size_of_task(Connection::serve);
        assert!(size <= 3 << 10, "{size} bytes");
    }
}
