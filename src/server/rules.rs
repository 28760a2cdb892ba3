//! What holds for a connection: swapped by a reload, and kept by each connection as it was when it was accepted.

use std::{sync::Arc, time::Duration};

use super::descriptors;
use crate::site::{config, network::Network};

/// What a connection is judged by from its first byte to its last.
#[derive(Debug, Clone)]
pub struct Rules {
    /// How many, how long, how slow.
    pub bounds: Bounds,
    /// Who is believed who its client is.
    pub proxies: Vec<Network>,
    /// What is offered to whoever names no tenant's host.
    pub tls: Arc<rustls::ServerConfig>,
    /// Whether that is refused to whoever names a host that nobody here has.
    pub strict_sni: bool,
}

/// Bounds of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at once; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Connections of one client at once; further ones are refused.
    pub connections_per_client: u32,
    /// Handshakes that are worked on at once; further ones wait, in the time that each has.
    pub handshakes: usize,
    /// Handshakes of one client under way at once; further ones are refused.
    pub handshakes_per_client: u32,
    /// Bytes a second that a client must take of its replies once it has kept us waiting.
    pub min_rate: u64,
    /// From the first byte to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the first byte of a head to its last line; for a connection's first head from the end of the handshake.
    pub header: Duration,
    /// With nothing under way.
    pub idle: Duration,
    /// From a request's head to the end of its reply.
    pub request: Duration,
    /// For what is in flight at shutdown.
    pub drain: Duration,
}

impl Rules {
    /// As `sandgate.toml` has them, as far as there are files for connections beside those of so many components.
    pub fn new(config: &config::ServerConfig, components: u64, tls: Arc<rustls::ServerConfig>) -> Self {
        let server = &config.server;
        let connections = descriptors::connections(server.max_connections, components);
        let bounds = Bounds { connections, ..Bounds::of(server) };
        Self { bounds, proxies: server.proxies.clone(), tls, strict_sni: config.tls.strict_sni }
    }
}

impl Bounds {
    /// As `[server]` has them.
    pub fn of(server: &config::Server) -> Self {
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Self {
            connections: count(server.max_connections),
            connections_per_client: server.max_connections_per_client,
            handshakes: count(server.max_handshakes),
            handshakes_per_client: server.max_handshakes_per_client,
            min_rate: server.min_rate.0,
            handshake: server.handshake_timeout.0,
            header: server.header_timeout.0,
            idle: server.idle_timeout.0,
            request: server.request_timeout.0,
            drain: server.drain.0,
        }
    }
}
