//! The accept loop: who may connect, how long they may take, and how the last of them is let go.
//!
//! Every wait has its bound: a connection for its handshake, a head for its last line, a body and a reply for their bytes,
//! a request for its end, an idle connection for the next one. A slow client costs one task and a few kilobytes, and the
//! loop itself never waits for any of them (hardening B4, C1).

mod alarm;
mod blocklist;
mod budgets;
mod clients;
mod connection;
mod cut;
mod descriptors;
mod exchange;
mod frames;
pub mod fuzz;
mod greet;
mod pace;
mod proxy;
mod raw;
mod reload;
mod start;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::timeout,
};
use tracing::{info, warn};

pub use self::descriptors::OTHER_DESCRIPTORS;
pub use self::start::{Options, Running, StartError, key_fetch, sandbox_settings, start, token_cache_bytes};
use self::{
    clients::{Clients, PerClient},
    connection::Connection,
};
use crate::{pipeline::Gateway, site::network::Network};

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

/// The data plane.
pub struct Server {
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    gateway: Arc<Gateway>,
    bounds: Bounds,
    proxies: Vec<Network>,
}

/// Tells every connection to finish.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Sender<bool>);

impl Shutdown {
    /// Nobody was told yet.
    pub fn new() -> Self {
        Self(watch::channel(false).0)
    }

    /// Tells them.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Ends when they were told.
    pub async fn begun(&self) {
        let mut receiver = self.0.subscribe();
        // The sender is alive in `self`, so waiting can only end with the value.
        let _ = receiver.wait_for(|told| *told).await;
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    /// A server on a socket that is bound already; `proxies` are believed who their clients are.
    pub fn new(
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        gateway: Arc<Gateway>,
        bounds: Bounds,
        proxies: Vec<Network>,
    ) -> Self {
        Self { listener, tls, gateway, bounds, proxies }
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` begins, then lets requests in flight finish, within the drain time.
    pub async fn serve(self, shutdown: Shutdown) {
        let room = Arc::new(Semaphore::new(self.bounds.connections));
        let connection = Arc::new(Connection {
            tls: self.tls,
            gateway: self.gateway,
            bounds: self.bounds,
            shutdown: shutdown.clone(),
            proxies: self.proxies,
            clients: Clients::new(
                u32::try_from(self.bounds.connections).unwrap_or(u32::MAX),
                PerClient {
                    connections: self.bounds.connections_per_client,
                    handshakes: self.bounds.handshakes_per_client,
                },
            ),
            handshakes: Semaphore::new(self.bounds.handshakes.min(Semaphore::MAX_PERMITS)),
        });
        loop {
            // The permit comes before the connection: past the cap, clients wait in the kernel and not in our memory.
            let permit = tokio::select! {
                permit = Arc::clone(&room).acquire_owned() => permit,
                () = shutdown.begun() => break,
            };
            let Ok(permit) = permit else { break };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.begun() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    tokio::spawn(Arc::clone(&connection).serve(stream, peer, permit));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: closing connections will free some.
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        let all = u32::try_from(self.bounds.connections).unwrap_or(u32::MAX);
        match timeout(self.bounds.drain, room.acquire_many(all)).await {
            Ok(_) => info!("all connections finished"),
            Err(_) => warn!("connections were cut at the end of the drain time"),
        }
    }
}

/// Long enough for a connection to end, short enough that nobody notices.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
