//! What TLS is offered, and which certificate: as clients of today and of yesterday meet it.

use std::sync::Arc;

use rustls::{
    AlertDescription, HandshakeKind, ProtocolVersion, SupportedCipherSuite,
    crypto::aws_lc_rs::{ALL_CIPHER_SUITES, default_provider, kx_group},
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::client::TlsStream;

use crate::{
    client::{Client, PATIENCE, exchange},
    guest::echo,
    world::{Live, World, eventually},
};

#[tokio::test]
async fn b01_tls_1_3_comes_first_and_1_2_has_ecdhe_and_aead_only() {
    let world = World::new().start().await;
    let both = world.client.config(default_provider(), &[&TLS12, &TLS13]);
    let stream = world.client.handshake(Arc::new(both)).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let old = world.client.config(default_provider(), &[&TLS12]);
    let stream = world.client.handshake(Arc::new(old)).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));

    let offered = world.running.tls().crypto_provider().cipher_suites.clone();
    let old = || offered.iter().filter(|suite| matches!(suite, SupportedCipherSuite::Tls12(_)));
    assert!(old().count() >= 2 && old().count() < offered.len(), "{offered:?}");
    for suite in old() {
        let name = format!("{:?}", suite.suite());
        assert!(name.starts_with("TLS_ECDHE_"), "{name}");
        assert!(name.contains("_GCM_") || name.ends_with("_CHACHA20_POLY1305_SHA256"), "{name}");
    }
}

/// No library offers these any more, so they are offered byte by byte.
#[tokio::test]
async fn b01_older_versions_and_weaker_suites_are_refused() {
    let world = World::new().start().await;
    // ECDHE-ECDSA-AES128-GCM by TLS 1.2 is taken: what refuses the others is not the form of the hello.
    assert_eq!(answer(&world, TLS_1_2, &[0xc02b]).await, Answer::ServerHello);
    for (version, alert) in
        [(TLS_1_1, AlertDescription::ProtocolVersion), (TLS_1_0, AlertDescription::ProtocolVersion)]
    {
        assert_eq!(answer(&world, version, &[0xc02b, 0xc009, 0x002f]).await, Answer::Alert(alert));
    }
    for (what, suite) in [
        ("ECDHE-ECDSA-AES128-CBC-SHA256", 0xc023),
        ("ECDHE-ECDSA-AES128-CBC-SHA", 0xc009),
        ("RSA-AES128-GCM, without forward secrecy", 0x009c),
        ("RSA-AES128-CBC-SHA", 0x002f),
        ("DHE-RSA-AES128-GCM", 0x009e),
        ("ECDHE-RSA-RC4", 0xc011),
        ("ECDHE-ECDSA-NULL", 0xc006),
    ] {
        let refused = Answer::Alert(AlertDescription::HandshakeFailure);
        assert_eq!(answer(&world, TLS_1_2, &[suite]).await, refused, "{what}");
    }
}

#[tokio::test]
async fn b01_the_suite_is_the_servers_choice_and_not_the_clients() {
    let world = World::new().start().await;
    for version in [&TLS13, &TLS12] {
        let mut negotiated = Vec::new();
        for backwards in [false, true] {
            let mut provider = default_provider();
            provider.cipher_suites = ALL_CIPHER_SUITES.to_vec();
            if backwards {
                provider.cipher_suites.reverse();
            }
            let config = world.client.config(provider, &[version]);
            let stream = world.client.handshake(Arc::new(config)).await.unwrap();
            negotiated.push(stream.get_ref().1.negotiated_cipher_suite().unwrap().suite());
        }
        assert_eq!(negotiated[0], negotiated[1], "{version:?}");
    }
}

/// A client that would send early data gets a ticket, resumes by it, and may still send none.
#[tokio::test]
async fn b02_early_data_is_never_taken() {
    let world = World::with("echo", &echo()).start().await;
    assert_eq!(world.running.tls().max_early_data_size, 0);
    let mut config = world.client.config(default_provider(), &[&TLS13]);
    config.enable_early_data = true;
    let config = Arc::new(config);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let name = "localhost".try_into().unwrap();
        let mut ready = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
        assert!(ready.early_data().is_none(), "a ticket allows early data");
        let mut stream = world.client.handshake(Arc::clone(&config)).await.unwrap();
        // Tickets come with the first answer.
        let answer = exchange(&mut stream, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        kinds.push(stream.get_ref().1.handshake_kind().unwrap());
    }
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
}

#[tokio::test]
async fn b03_the_hybrid_group_comes_first_and_the_old_ones_are_kept() {
    let world = World::new().start().await;
    let group = |stream: TlsStream<tokio::net::TcpStream>| {
        stream.get_ref().1.negotiated_key_exchange_group().unwrap().name()
    };
    let all = world.client.handshake(Arc::new(world.client.config(default_provider(), &[&TLS13]))).await;
    assert_eq!(group(all.unwrap()), rustls::NamedGroup::X25519MLKEM768);
    for only in [kx_group::X25519, kx_group::SECP256R1] {
        let provider = rustls::crypto::CryptoProvider { kx_groups: vec![only], ..default_provider() };
        let stream = world.client.handshake(Arc::new(world.client.config(provider, &[&TLS13]))).await;
        assert_eq!(group(stream.unwrap()), only.name());
    }
}

#[tokio::test]
async fn b06_without_a_common_protocol_there_is_no_connection() {
    let world = World::new().start().await;
    for (offered, taken) in [
        (&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])),
        (&[b"http/1.1", b"h2"], Some(b"h2")),
        (&[b"http/1.0", b"http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let stream = world.client.tls(offered).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), taken, "{offered:?}");
    }
    for offered in [&[&b"http/1.0"[..]][..], &[b"h2c"], &[b"spdy/3", b"h3"]] {
        let error = world.client.tls(offered).await.unwrap_err();
        let told = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        let refused = rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
        assert_eq!(told, Some(&refused), "{offered:?}: {error}");
    }
}

#[tokio::test]
async fn b08_a_new_pair_is_for_new_handshakes_and_a_broken_one_for_none() {
    let world = World::with("echo", &echo()).start().await;
    let in_flight = world.invoke("acme/echo").hold().await;
    let good = pair();
    install(&world, &good);
    world.running.reload.pull();
    let new = Client::new(world.running.address, &good.0);
    eventually("handshakes have the new certificate", || async { new.tls(&[b"h2"]).await.is_ok() }).await;
    assert!(world.client.tls(&[b"h2"]).await.is_err(), "the old one is still served");
    // Who was here before is not thrown out.
    assert_eq!(in_flight.finish("{}").await.summary(), "200");

    let broken = [
        ("a key of another certificate", (good.0.clone(), pair().1)),
        ("a certificate of another key", (pair().0, good.1.clone())),
        ("no key", (good.0.clone(), String::new())),
        ("no certificate", (String::new(), good.1.clone())),
        ("a certificate that is none", (good.0.replace("MI", "XX"), good.1.clone())),
    ];
    for (n, (what, pair)) in broken.into_iter().enumerate() {
        install(&world, &pair);
        looked_at(&world, &format!("broken-{n}")).await;
        assert!(new.tls(&[b"h2"]).await.is_ok(), "{what}: the pair in use is not served any more");
        let told = |faulty: bool| {
            let gateway = &world.running.gateway;
            move || async move { gateway.platform_faults().is_empty() != faulty }
        };
        eventually("`/readyz` tells it", told(true)).await;
        install(&world, &good);
        looked_at(&world, &format!("mended-{n}")).await;
        eventually("`/readyz` tells it no more", told(false)).await;
    }
}

/// A self-signed certificate for `localhost` and its key, as PEM.
fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn install(world: &Live, (certificate, key): &(String, String)) {
    world.write("certs/dev/server.pem", certificate);
    world.write("certs/dev/server.key", key);
}

/// Waits until all that was written before is in force, or refused.
async fn looked_at(world: &Live, marker: &str) {
    let before = world.running.gateway.revision().id().clone();
    world.write(
        "policies/acme/policies.cedar",
        format!("@id(\"{marker}\")\npermit(principal, action, resource);\n"),
    );
    world.running.reload.pull();
    eventually("the site was read again", || async { *world.running.gateway.revision().id() != before })
        .await;
}

/// What a server says first.
#[derive(Debug, PartialEq)]
enum Answer {
    ServerHello,
    Alert(AlertDescription),
    Other(Vec<u8>),
}

const TLS_1_0: u16 = 0x0301;
const TLS_1_1: u16 = 0x0302;
const TLS_1_2: u16 = 0x0303;

/// Sends a hello of that version (RFC 5246 §7.4.1.2) with those suites, and reads the first record of the answer.
async fn answer(world: &Live, version: u16, suites: &[u16]) -> Answer {
    fn sized(bytes: Vec<u8>) -> Vec<u8> {
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length[..], &bytes].concat()
    }
    let two = |values: &[u16]| values.iter().flat_map(|v| v.to_be_bytes()).collect::<Vec<u8>>();
    let extension = |kind: u16, content: Vec<u8>| [two(&[kind]), sized(content)].concat();
    let extensions = [
        // secp256r1 and x25519; uncompressed points; ECDSA with P-256, RSA-PSS and RSA with SHA-256.
        extension(10, sized(two(&[0x0017, 0x001d]))),
        extension(11, vec![1, 0]),
        extension(13, sized(two(&[0x0403, 0x0804, 0x0401]))),
    ];
    let body =
        [two(&[version]), vec![7; 32], vec![0], sized(two(suites)), vec![1, 0], sized(extensions.concat())];
    let body = body.concat();
    let handshake = [vec![1, 0], sized(body)].concat();
    let record = [vec![22], two(&[TLS_1_0]), sized(handshake)].concat();
    let mut stream = world.client.tcp().await.unwrap();
    stream.write_all(&record).await.unwrap();
    let mut head = [0; 7];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut head));
    read.await.expect("an answer in time").unwrap();
    match head {
        [22, _, _, _, _, 2, _] => Answer::ServerHello,
        [21, _, _, 0, 2, 2, alert] => Answer::Alert(AlertDescription::from(alert)),
        other => Answer::Other(other.to_vec()),
    }
}
