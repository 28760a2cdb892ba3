//! Who is connected, by address: one client must not take all places.
//!
//! A client is an IPv4 address or an IPv6 /64, which is what one subscriber gets (RFC 6177). INVARIANT (Bounded): there is
//! an entry only for clients that have a connection, and connections are bounded.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Bounds;
use crate::site::network::first_bits;

/// Connections of every client.
#[derive(Debug, Default)]
pub(super) struct Clients(Mutex<HashMap<Client, Counts>>);

type Client = (bool, u128);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    connections: u32,
    /// Those among them whose handshake is not done: they cost the most and have shown the least.
    handshakes: u32,
}

/// Why a client gets no further connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    /// It has as many as a client may have.
    #[error("the client has too many connections")]
    Connections,
    /// Too many of them are in their handshake.
    #[error("the client has too many handshakes under way")]
    Handshakes,
}

impl Clients {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A place for a connection that begins with its handshake.
    pub(super) fn connect(self: &Arc<Self>, address: IpAddr, bounds: &Bounds) -> Result<Place, Full> {
        let client = client(address);
        let mut counts = self.lock();
        let of = counts.get(&client).copied().unwrap_or_default();
        if of.connections >= bounds.connections_per_client {
            return Err(Full::Connections);
        }
        if of.handshakes >= bounds.handshakes_per_client {
            return Err(Full::Handshakes);
        }
        let more = Counts { connections: of.connections + 1, handshakes: of.handshakes + 1 };
        counts.insert(client, more);
        Ok(Place { clients: Arc::clone(self), client, shaking: true })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Client, Counts>> {
        // Each change is one insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place; dropping it frees it.
#[derive(Debug)]
pub(super) struct Place {
    clients: Arc<Clients>,
    client: Client,
    shaking: bool,
}

impl Place {
    /// The handshake is done.
    pub(super) fn shaken(&mut self) {
        if std::mem::take(&mut self.shaking)
            && let Some(counts) = self.clients.lock().get_mut(&self.client)
        {
            counts.handshakes = counts.handshakes.saturating_sub(1);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shaken();
        if let Entry::Occupied(mut entry) = self.clients.lock().entry(self.client) {
            let counts = entry.get_mut();
            counts.connections = counts.connections.saturating_sub(1);
            if counts.connections == 0 {
                entry.remove();
            }
        }
    }
}

fn client(address: IpAddr) -> Client {
    let address = address.to_canonical();
    let bits = if address.is_ipv4() { 32 } else { 64 };
    (address.is_ipv4(), first_bits(address, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place for a client of that address, where one has so many connections and handshakes.
    fn connect(clients: &Arc<Clients>, address: &str, most: (u32, u32)) -> Result<Place, Full> {
        let server = crate::site::config::Server {
            max_connections_per_client: most.0,
            max_handshakes_per_client: most.1,
            ..Default::default()
        };
        clients.connect(address.parse().unwrap(), &Bounds::of(&server))
    }

    #[test]
    fn c15_a_client_has_so_many_places_and_leaves_no_trace() {
        let clients = Clients::new();
        let first = connect(&clients, "192.0.2.1", (2, 2)).unwrap();
        let second = connect(&clients, "::ffff:192.0.2.1", (2, 2)).unwrap();
        assert_eq!(connect(&clients, "192.0.2.1", (2, 2)).unwrap_err(), Full::Connections);
        let other = connect(&clients, "192.0.2.2", (2, 2)).unwrap();
        // A bound that was lowered meanwhile ends nobody's connection, and one that was raised lets others in.
        assert_eq!(connect(&clients, "192.0.2.2", (1, 1)).unwrap_err(), Full::Connections);
        drop(connect(&clients, "192.0.2.1", (3, 3)).unwrap());
        drop(first);
        let again = connect(&clients, "192.0.2.1", (2, 2)).unwrap();
        drop((second, other, again));
        assert!(clients.lock().is_empty());
    }

    #[test]
    fn b04_a_client_has_so_many_handshakes_under_way() {
        let clients = Clients::new();
        let mut first = connect(&clients, "2001:db8::1", (9, 1)).unwrap();
        assert_eq!(
            connect(&clients, "2001:db8::2:1", (9, 1)).unwrap_err(),
            Full::Handshakes,
            "one /64 is one client"
        );
        assert!(connect(&clients, "2001:db8:0:1::1", (9, 1)).is_ok());
        first.shaken();
        first.shaken();
        drop(connect(&clients, "2001:db8::1", (9, 1)).unwrap());
        drop(first);
        assert!(clients.lock().is_empty());
    }
}
