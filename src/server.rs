//! The accept loop: who may connect, how long they may take, and how the last of them is let go.
//!
//! Every wait has its bound: a connection for its handshake, a head for its last line, a body and a reply for their bytes,
//! a request for its end, an idle connection for the next one. A slow client costs one task and a few kilobytes, and the
//! loop itself never waits for any of them (hardening B4, C1). What it goes by is the [`Door`]'s, which a reload may change.

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
mod places;
mod proxy;
mod raw;
mod reload;
mod rules;
mod start;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tracing::{info, warn};

use self::{
    clients::Clients,
    connection::{Connection, Shared},
    places::Places,
};
pub use self::{
    descriptors::OTHER_DESCRIPTORS,
    rules::{Bounds, Rules},
    start::{Options, Running, StartError, key_fetch, sandbox_settings, start, token_cache_bytes},
};
use crate::pipeline::Gateway;

/// The data plane.
pub struct Server {
    listener: TcpListener,
    gateway: Arc<Gateway>,
    door: Arc<Door>,
}

/// What is asked of whoever connects. Each connection loads the rules once, so a swap costs those that are open nothing.
#[derive(Debug)]
pub struct Door {
    rules: ArcSwap<Rules>,
    connections: Arc<Places>,
    handshakes: Arc<Places>,
}

impl Door {
    /// With these rules.
    pub fn new(rules: Rules) -> Arc<Self> {
        Arc::new(Self {
            connections: Places::new(rules.bounds.connections),
            handshakes: Places::new(rules.bounds.handshakes),
            rules: ArcSwap::from_pointee(rules),
        })
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Puts others in force, for connections that are accepted from now on. One reload at a time.
    pub fn replace(&self, rules: Rules) {
        self.connections.resize(rules.bounds.connections);
        self.handshakes.resize(rules.bounds.handshakes);
        self.rules.store(Arc::new(rules));
    }
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
    /// A server on a socket that is bound already.
    pub fn new(listener: TcpListener, gateway: Arc<Gateway>, door: Arc<Door>) -> Self {
        Self { listener, gateway, door }
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` begins, then lets requests in flight finish, within the drain time.
    pub async fn serve(self, shutdown: Shutdown) {
        let shared = Arc::new(Shared {
            gateway: self.gateway,
            shutdown: shutdown.clone(),
            clients: Clients::new(),
            handshakes: Arc::clone(&self.door.handshakes),
        });
        loop {
            // The place comes before the connection: past the cap, clients wait in the kernel and not in our memory.
            let place = tokio::select! {
                place = self.door.connections.enter() => place,
                () = shutdown.begun() => break,
            };
            let Some(place) = place else { break };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.begun() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let connection = Connection { shared: Arc::clone(&shared), rules: self.door.rules() };
                    tokio::spawn(connection.serve(stream, peer, place));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: closing connections will free some.
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        match timeout(self.door.rules().bounds.drain, self.door.connections.emptied()).await {
            Ok(()) => info!("all connections finished"),
            Err(_) => warn!("connections were cut at the end of the drain time"),
        }
    }
}

/// Long enough for a connection to end, short enough that nobody notices.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
