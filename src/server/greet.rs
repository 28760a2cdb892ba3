//! The handshake: by the name that a client asks for, with that host's certificate and none of another's sessions.

use std::{io, pin::pin, sync::Arc, time::Duration};

use rustls::{ServerConfig, server::Acceptor};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::places::Places;
use crate::{pipeline::Gateway, tls::Host};

/// A connection whose handshake is done.
pub(super) struct Greeted {
    pub(super) stream: TlsStream<TcpStream>,
    /// The name that the client asked for, in lower case; an address is none (RFC 6066 §3).
    pub(super) server_name: Option<Arc<str>>,
    /// The tenant's host of that name.
    pub(super) host: Option<Arc<Host>>,
}

/// Shakes hands as the revision in force has it, or as `default` for whoever names no tenant's host.
///
/// `turns` bounds what is worked on at once. A turn begins with the client's hello and is soon taken back: clients at a
/// few addresses that say nothing, or nothing more, would otherwise have all turns, and everybody else would wait.
pub(super) async fn greet(
    stream: TcpStream,
    gateway: &Gateway,
    default: &Arc<ServerConfig>,
    turns: &Arc<Places>,
) -> io::Result<Greeted> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let turn = turns.enter().await;
    let hello = start.client_hello();
    let server_name: Option<Arc<str>> = hello.server_name().map(|name| name.to_ascii_lowercase().into());
    let host = server_name.as_deref().and_then(|name| {
        // The revision is let go of again: connections outlive it.
        gateway.revision().host(name.strip_suffix('.').unwrap_or(name)).cloned()
    });
    let config = host.as_ref().map_or(default, |host| host.config());
    let mut shaken = pin!(start.into_stream(Arc::clone(config)));
    let stream = match timeout(TURN, &mut shaken).await {
        Ok(shaken) => shaken?,
        Err(_) => {
            drop(turn);
            shaken.await?
        }
    };
    Ok(Greeted { stream, server_name, host })
}

/// Two round trips around the world: most handshakes need one after the hello.
const TURN: Duration = Duration::from_secs(1);
