//! What it costs to let a client in: handshakes by the gateway's accept path (limits, SNI, ALPN, its own TLS settings), and by
//! a bare tokio-rustls acceptor with the same certificate and provider, in turn.
//!
//! `cargo bench --bench handshake`. The clients are a process of their own on the same cores, that believes whatever
//! certificate it sees, so that most of the time is the servers'. Rates have the clients in them; CPU time has not, and is
//! the figure to compare. Each connection is a handshake, and an end to which both sides agree.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, HandshakeKind, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::NoServerSessionStorage,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

mod figures;
mod sample;
mod spawned;

/// As in the gateway's own binary; the bare acceptor has it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CLIENTS: &str = "--clients";
/// Connections of one round, by so many clients at once.
const CONNECTIONS: usize = 4_800;
const AT_ONCE: usize = 16;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.as_slice() {
        [_, mode, address, from, kind] if mode == CLIENTS => clients(address, from, kind),
        _ => figures::run(measure()),
    }
}

/// The clients of one round.
fn clients(address: &str, from: &str, kind: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let kind = KINDS.into_iter().find(|known| known.name == kind).expect("a kind");
    let (address, from) = (address.parse().expect("an address"), from.parse().expect("an address"));
    println!("{}", runtime.block_on(connect(address, from, kind)));
}

/// A kind of handshake.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    version: &'static SupportedProtocolVersion,
    resumed: bool,
}

const KINDS: [Kind; 4] = [
    Kind { name: "1.3, full", version: &rustls::version::TLS13, resumed: false },
    Kind { name: "1.3, resumed", version: &rustls::version::TLS13, resumed: true },
    Kind { name: "1.2, full", version: &rustls::version::TLS12, resumed: false },
    Kind { name: "1.2, resumed", version: &rustls::version::TLS12, resumed: true },
];

async fn measure() {
    let gate = spawned::Gate::start(&[]);
    let this = std::process::id();
    let servers = [
        ("bare rustls", bare(bare_config(&gate)).await, this),
        ("bare, tickets as the gate's", bare(with_tickets(&gate)).await, this),
        ("sandgate", gate.address(), gate.process()),
    ];
    println!("{:>14} {:36} {:>12} {:>14}", "", "", "handshakes/s", "CPU");
    for kind in KINDS {
        let mut rounds = servers.map(|_| Vec::new());
        // The first is for whatever is made once.
        for _ in 0..=figures::ROUNDS {
            for ((_, address, process), rounds) in servers.iter().zip(&mut rounds) {
                rounds.push(round(*address, *process, kind).await);
            }
        }
        let medians = rounds.map(|rounds| {
            let all = rounds.iter().skip(1);
            (figures::median(all.clone().map(|(rate, _)| *rate)), figures::median(all.map(|(_, cpu)| *cpu)))
        });
        let (_, bare) = medians[0];
        for ((name, ..), (rate, cpu)) in servers.iter().zip(medians) {
            println!(
                "{:>14} {name:36} {rate:12.0} {cpu:8.1} µs {:+5.1} %",
                kind.name,
                100.0 * (cpu / bare - 1.0)
            );
        }
    }
}

/// Handshakes a second, and CPU time of the process that serves for each, in microseconds.
async fn round(address: SocketAddr, process: u32, kind: Kind) -> (f64, f64) {
    // Sixty thousand ports of one address are soon all in TIME_WAIT.
    static ROUND: AtomicU32 = AtomicU32::new(0);
    let from = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + 1 + ROUND.fetch_add(1, Ordering::Relaxed));
    let before = figures::cpu(process);
    let out = tokio::process::Command::from(Command::new(std::env::current_exe().expect("this program")))
        .args([CLIENTS, &address.to_string(), &from.to_string(), kind.name])
        .output()
        .await
        .expect("clients");
    let cpu = (figures::cpu(process) - before).as_secs_f64() * 1e6 / CONNECTIONS as f64;
    let said = String::from_utf8_lossy(&out.stdout);
    let rate = said.trim().parse().unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr)));
    (rate, cpu)
}

/// As the library comes, but for the protocols that are offered.
fn bare_config(gate: &spawned::Gate) -> Arc<ServerConfig> {
    Arc::new(offered(gate))
}

/// Sessions in tickets, and none in memory.
fn with_tickets(gate: &spawned::Gate) -> Arc<ServerConfig> {
    let mut config = offered(gate);
    config.ticketer = aws_lc_rs::Ticketer::new().expect("a ticketer");
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}

fn offered(gate: &spawned::Gate) -> ServerConfig {
    let made = Path::new(gate.said("--cacert ", ' '));
    let chain = CertificateDer::pem_file_iter(made.with_file_name("server.pem")).expect("a chain");
    let chain = chain.collect::<Result<_, _>>().expect("a chain");
    let key = PrivateKeyDer::from_pem_file(made.with_file_name("server.key")).expect("a key");
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Accepts, shakes hands, and waits for the client to go.
async fn bare(config: Arc<ServerConfig>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let tls = TlsAcceptor::from(config);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let Ok(mut stream) = tls.accept(stream).await else { return };
                let _ = stream.read(&mut [0; 1]).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

/// Connects again and again; handshakes a second.
async fn connect(address: SocketAddr, from: Ipv4Addr, kind: Kind) -> f64 {
    let started = Instant::now();
    let clients: Vec<_> = (0..AT_ONCE)
        .map(|n| {
            let count = CONNECTIONS / AT_ONCE;
            tokio::spawn(client(address, from, kind, count, n))
        })
        .collect();
    for client in clients {
        client.await.expect("a client");
    }
    CONNECTIONS as f64 / started.elapsed().as_secs_f64()
}

async fn client(address: SocketAddr, from: Ipv4Addr, kind: Kind, count: usize, number: usize) {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[kind.version])
        .expect("a version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believing(aws_lc_rs::default_provider())))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if !kind.resumed {
        config.resumption = Resumption::disabled();
    }
    let tls = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").expect("a name");
    for n in 0..count {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((from, 0).into()).expect("a port");
        let stream = socket.connect(address).await.expect("a connection");
        let _ = stream.set_nodelay(true);
        let mut stream = tls.connect(name.clone(), stream).await.expect("a handshake");
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        assert_eq!(resumed, kind.resumed && n > 0, "client {number}, connection {n}");
        stream.shutdown().await.expect("it can be told");
        // Tickets come after the handshake of TLS 1.3; then the end.
        let _ = stream.read(&mut [0; 1]).await;
    }
}

/// Believes whatever it sees: what a client spends on doubts is not what is measured.
#[derive(Debug)]
struct Believing(CryptoProvider);

impl ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
