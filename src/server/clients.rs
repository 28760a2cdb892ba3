//! Who is connected, by address, and what they ask at once: one client must not take all places, nor all together more
//! memory than there is.
//!
//! A client is an IPv4 address or an IPv6 /64, which is what one subscriber gets (RFC 6177). INVARIANT (Bounded): there is
//! an entry only for clients that have a connection, and connections are bounded.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{Bounds, connection::MAX_STREAMS};
use crate::site::network::first_bits;

/// Connections and requests of every client.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// Requests of all clients that are under way.
    under_way: AtomicU32,
    counts: Mutex<HashMap<Client, Counts>>,
}

type Client = (bool, u128);

#[derive(Debug, Default)]
struct Counts {
    connections: u32,
    /// Those among them whose handshake is not done: they cost the most and have shown the least.
    handshakes: u32,
    requests: Arc<AtomicU32>,
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

    /// A place for a connection that begins with its handshake, and is judged by these bounds to its end.
    pub(super) fn connect(self: &Arc<Self>, address: IpAddr, bounds: &Bounds) -> Result<Place, Full> {
        let client = client(address);
        let mut counts = self.lock();
        let (connections, handshakes) =
            counts.get(&client).map_or((0, 0), |of| (of.connections, of.handshakes));
        if connections >= bounds.connections_per_client {
            return Err(Full::Connections);
        }
        if handshakes >= bounds.handshakes_per_client {
            return Err(Full::Handshakes);
        }
        let of = counts.entry(client).or_default();
        of.connections += 1;
        of.handshakes += 1;
        let requests = Arc::clone(&of.requests);
        Ok(Place {
            clients: Arc::clone(self),
            client,
            shaking: true,
            requests,
            most_of_client: share(bounds.connections_per_client),
            most_of_all: share(u32::try_from(bounds.connections).unwrap_or(u32::MAX)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Client, Counts>> {
        // Each change is of numbers that stay whole, or one removal.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place; dropping it frees it.
#[derive(Debug)]
pub(super) struct Place {
    clients: Arc<Clients>,
    client: Client,
    shaking: bool,
    requests: Arc<AtomicU32>,
    /// Requests that this client may have under way.
    most_of_client: u32,
    /// Those that all may have together.
    most_of_all: u32,
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

    /// Room for one more request, among this client's and among all.
    pub(super) fn request(&self) -> Option<Room> {
        let room = Room { clients: Arc::clone(&self.clients), requests: Arc::clone(&self.requests) };
        let of_client = room.requests.fetch_add(1, Ordering::Relaxed);
        let of_all = room.clients.under_way.fetch_add(1, Ordering::Relaxed);
        // One that is too many is dropped, and counts no more.
        (of_client < self.most_of_client && of_all < self.most_of_all).then_some(room)
    }
}

/// Room for one request; dropping it frees it.
#[derive(Debug)]
pub(super) struct Room {
    clients: Arc<Clients>,
    requests: Arc<AtomicU32>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
        self.clients.under_way.fetch_sub(1, Ordering::Relaxed);
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

/// Requests that may be under way on so many connections: streams of HTTP/2 multiply what a connection costs, and few
/// clients use all of them on all of theirs.
fn share(connections: u32) -> u32 {
    connections.saturating_mul(REQUESTS_A_CONNECTION).max(2 * MAX_STREAMS)
}

fn client(address: IpAddr) -> Client {
    let address = address.to_canonical();
    let bits = if address.is_ipv4() { 32 } else { 64 };
    (address.is_ipv4(), first_bits(address, bits))
}

/// A request under way costs some 20 KiB, and so four of them about what a connection may.
const REQUESTS_A_CONNECTION: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// So many connections in all, and so many connections and handshakes of one client.
    fn of(all: u32, connections: u32, handshakes: u32) -> Bounds {
        Bounds::of(&crate::site::config::Server {
            max_connections: all,
            max_connections_per_client: connections,
            max_handshakes_per_client: handshakes,
            ..Default::default()
        })
    }

    #[test]
    fn c15_a_client_has_so_many_places_and_leaves_no_trace() {
        let (clients, bounds) = (Clients::new(), of(9, 2, 2));
        let first = clients.connect(at("192.0.2.1"), &bounds).unwrap();
        let second = clients.connect(at("::ffff:192.0.2.1"), &bounds).unwrap();
        assert_eq!(clients.connect(at("192.0.2.1"), &bounds).unwrap_err(), Full::Connections);
        let other = clients.connect(at("192.0.2.2"), &bounds).unwrap();
        // A bound that was lowered meanwhile ends nobody's connection, and one that was raised lets others in.
        let (fewer, more) = (of(9, 1, 1), of(9, 3, 3));
        assert_eq!(clients.connect(at("192.0.2.2"), &fewer).unwrap_err(), Full::Connections);
        drop(clients.connect(at("192.0.2.1"), &more).unwrap());
        drop(first);
        let again = clients.connect(at("192.0.2.1"), &bounds).unwrap();
        drop((second, other, again));
        assert!(clients.lock().is_empty());
    }

    #[test]
    fn b04_a_client_has_so_many_handshakes_under_way() {
        let (clients, bounds) = (Clients::new(), of(9, 9, 1));
        let mut first = clients.connect(at("2001:db8::1"), &bounds).unwrap();
        assert_eq!(
            clients.connect(at("2001:db8::2:1"), &bounds).unwrap_err(),
            Full::Handshakes,
            "one /64 is one client"
        );
        assert!(clients.connect(at("2001:db8:0:1::1"), &bounds).is_ok());
        first.shaken();
        first.shaken();
        drop(clients.connect(at("2001:db8::1"), &bounds).unwrap());
        drop(first);
        assert!(clients.lock().is_empty());
    }

    #[test]
    fn c15_a_client_has_so_many_requests_under_way_and_all_together_have_so_many() {
        let (clients, bounds) = (Clients::new(), of(100, 75, 75));
        let (one, other) = (
            clients.connect(at("192.0.2.1"), &bounds).unwrap(),
            clients.connect(at("192.0.2.2"), &bounds).unwrap(),
        );
        let again = clients.connect(at("192.0.2.1"), &bounds).unwrap();
        let mut rooms: Vec<Room> = std::iter::from_fn(|| one.request()).collect();
        assert_eq!(rooms.len(), 300);
        assert!(again.request().is_none(), "another connection is the same client");
        rooms.extend(std::iter::from_fn(|| other.request()));
        assert_eq!(rooms.len(), 400);
        rooms.clear();
        assert!(one.request().is_some() && other.request().is_some());
        assert_eq!(clients.under_way.load(Ordering::Relaxed), 0);
    }
}
