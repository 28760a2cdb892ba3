//! A client that trusts one certificate and hides nothing: real TLS, HTTP/1.1 or HTTP/2, or raw bytes.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Longest that a test waits for an answer: far beyond what any should take, so that a hang fails and not the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A body that comes as the test sends it, and ends when the sender is dropped.
pub(crate) fn held() -> (mpsc::UnboundedSender<Bytes>, Body) {
    let (send, receive) = mpsc::unbounded_channel();
    (send, Held(receive).boxed())
}

struct Held(mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<http_body::Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}

#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    from: Option<IpAddr>,
    /// What it asks for; an address goes without SNI.
    name: String,
    roots: Arc<rustls::RootCertStore>,
    /// Chain and key, as PEM.
    identity: Option<(String, String)>,
    /// Sent before the TLS handshake: what a balancer would say.
    prelude: Vec<u8>,
}

/// A reply, read whole.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// `401 unauthenticated`, or the status alone.
    pub(crate) fn summary(&self) -> String {
        if self.header("content-type") == Some("application/problem+json") {
            format!("{} {}", self.status, self.code())
        } else {
            self.status.to_string()
        }
    }
}

impl Client {
    pub(crate) fn new(address: SocketAddr, ca_pem: &str) -> Self {
        use rustls::pki_types::pem::PemObject;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
        Self {
            address,
            from: None,
            name: "localhost".to_owned(),
            roots: Arc::new(roots),
            identity: None,
            prelude: Vec::new(),
        }
    }

    /// The same client, asking for another name.
    pub(crate) fn named(&self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self.clone() }
    }

    /// The same client, showing this certificate where it is asked for one.
    pub(crate) fn showing(&self, (chain, key): &(String, String)) -> Self {
        Self { identity: Some((chain.clone(), key.clone())), ..self.clone() }
    }

    /// The same client, trusting another authority too.
    pub(crate) fn trusting(&self, ca_pem: &str) -> Self {
        use rustls::pki_types::pem::PemObject;
        let mut roots = (*self.roots).clone();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
        Self { roots: Arc::new(roots), ..self.clone() }
    }

    pub(crate) fn prelude(&self, bytes: Vec<u8>) -> Self {
        Self { prelude: bytes, ..self.clone() }
    }

    /// The same client at another address: all of 127.0.0.0/8 is this machine.
    pub(crate) fn from(&self, address: impl Into<IpAddr>) -> Self {
        Self { from: Some(address.into()), ..self.clone() }
    }

    /// What it offers, to be bent by a test.
    pub(crate) fn config(
        &self,
        provider: rustls::crypto::CryptoProvider,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> rustls::ClientConfig {
        use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(Arc::clone(&self.roots));
        match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        }
    }

    pub(crate) async fn tls(&self, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = self.config(rustls::crypto::aws_lc_rs::default_provider(), rustls::DEFAULT_VERSIONS);
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        self.handshake(Arc::new(config)).await
    }

    pub(crate) async fn handshake(
        &self,
        config: Arc<rustls::ClientConfig>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut stream = self.tcp().await?;
        stream.write_all(&self.prelude).await?;
        TlsConnector::from(config).connect(ServerName::try_from(self.name.clone()).unwrap(), stream).await
    }

    /// What a handshake is refused with, if it is.
    pub(crate) async fn alert(&self) -> Option<rustls::AlertDescription> {
        let error = match self.tls(&[b"h2"]).await {
            Err(error) => error,
            // By TLS 1.3 a client is done before the server has judged its certificate. Whoever is let in hears the
            // server's settings at once (RFC 9113 §3.4).
            Ok(mut stream) => {
                tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("an answer in time").err()?
            }
        };
        match error.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::AlertReceived(alert) => Some(*alert),
            _ => None,
        }
    }

    pub(crate) async fn tcp(&self) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(from) = self.from {
            socket.bind((from, 0).into())?;
        }
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, version: Version, request: Request<Body>) -> Reply {
        tokio::time::timeout(PATIENCE, self.try_send(version, request))
            .await
            .expect("an answer in time")
            .unwrap()
    }

    pub(crate) async fn try_send(&self, version: Version, request: Request<Body>) -> hyper::Result<Reply> {
        let response: Response<hyper::body::Incoming> = if version == Version::HTTP_2 {
            let io = TokioIo::new(self.tls(&[b"h2"]).await.unwrap());
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            sender.send_request(request).await?
        } else {
            let io = TokioIo::new(self.tls(&[b"http/1.1"]).await.unwrap());
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
            tokio::spawn(connection);
            sender.send_request(request).await?
        };
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    /// Raw bytes in, raw bytes out until the server closes or has been silent after a whole head.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.tls(&[b"http/1.1"]).await.unwrap();
        exchange(&mut stream, bytes).await
    }
}

/// Bytes in, and bytes out until a head is whole or the other end closes.
pub(crate) async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) -> String {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut out = Vec::new();
    let mut chunk = [0; 4096];
    let read = async {
        while let Ok(n) = stream.read(&mut chunk).await {
            if n == 0 {
                break;
            }
            out.extend_from_slice(&chunk[..n]);
            if out.windows(4).any(|w| w == b"\r\n\r\n") {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("an answer in time");
    String::from_utf8_lossy(&out).into_owned()
}
