//! The handshake: by the name that a client asks for, with that host's certificate and none of another's sessions.

use std::{io, sync::Arc};

use rustls::{ServerConfig, server::Acceptor};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

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
pub(super) async fn greet(
    stream: TcpStream,
    gateway: &Gateway,
    default: &Arc<ServerConfig>,
) -> io::Result<Greeted> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let hello = start.client_hello();
    let server_name: Option<Arc<str>> = hello.server_name().map(|name| name.to_ascii_lowercase().into());
    let host = server_name.as_deref().and_then(|name| {
        // The revision is let go of again: connections outlive it.
        gateway.revision().host(name.strip_suffix('.').unwrap_or(name)).cloned()
    });
    let config = host.as_ref().map_or(default, |host| host.config());
    let stream = start.into_stream(Arc::clone(config)).await?;
    Ok(Greeted { stream, server_name, host })
}
