//! Client certificates: who is let in by a tenant's host, and whose token it is (RFC 8705).

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Version;
use rustls::{AlertDescription, HandshakeKind, crypto::aws_lc_rs::default_provider};
use serde_json::json;

use crate::{
    authority::{Authority, EXPIRED, GOOD, Pair},
    client::{Client, exchange},
    guest::echo,
    hosts::{ACME, GLOBEX, VERSIONS, call, certified, der, toml},
    world::{Live, World, eventually},
};

const MTLS: &str = "binding = \"mtls\"";
/// Policies see how the caller's token is bound, so this one is for bound tokens only.
const PERMIT_BOUND: &str = "@id(\"bound\")\npermit(principal, action == Action::\"invoke\", resource) when { context.binding == \"mtls\" };\n";

/// Who vouches for the hosts, and who for their clients.
struct Authorities {
    hosts: Authority,
    clients: Authority,
}

impl Authorities {
    fn new() -> Self {
        Self { hosts: Authority::new("hosts"), clients: Authority::new("clients of acme") }
    }

    /// `acme`, whose host takes the certificates of its clients.
    fn world(&self, head: &str, of_issuer: &str) -> World {
        let head = format!("hosts = [\"{ACME}\"]\nclient-ca = \"acme-clients.pem\"\n{head}");
        let world = World::with("echo", &echo())
            .file("policies/acme/tenant.toml", &toml("acme", &head, of_issuer))
            .file("certs/acme-clients.pem", &self.clients.pem);
        certified(world, ACME, &self.hosts.server(&[ACME], GOOD))
    }

    fn client(&self, live: &Live) -> Client {
        live.client.trusting(&self.hosts.pem).named(ACME)
    }
}

/// A token that is of use to whoever has that certificate.
fn bound(live: &Live, (chain, _): &Pair) -> String {
    let thumbprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, &der(chain)));
    live.token("acme").claim("cnf", json!({"x5t#S256": thumbprint})).sign()
}

#[tokio::test]
async fn a17_a_token_is_served_to_the_certificate_that_it_is_bound_to_and_to_no_other() {
    let authorities = Authorities::new();
    let live = authorities.world("", MTLS).file("policies/acme/policies.cedar", PERMIT_BOUND).start().await;
    let (alice, bob) = (authorities.clients.client(1, GOOD), authorities.clients.client(2, GOOD));
    let token = bound(&live, &alice);
    let client = authorities.client(&live);
    let refused = async |client: &Client, version, host, path, token: &str, reason| {
        let reply = call(client, version, host, path, token).await;
        assert_eq!(reply.summary(), "401 unauthenticated", "{host}{path}: {reason}");
        assert_eq!(
            reply.header("www-authenticate"),
            Some(r#"Bearer realm="sandgate", error="invalid_token""#)
        );
        let record = live.record(&reply);
        assert_eq!(record["outcome"]["reason"], reason, "{record}");
    };
    for version in VERSIONS {
        // The second time the verdict is kept, and says nothing of who sends it.
        for _ in 0..2 {
            let served = call(&client.showing(&alice), version, ACME, "/echo", &token).await;
            assert_eq!(served.summary(), "200");
            assert_eq!(live.record(&served)["context"]["binding"], "mtls");
            refused(&client.showing(&bob), version, ACME, "/echo", &token, "certificate").await;
        }
        let unbound = live.token("acme").sign();
        refused(&client.showing(&alice), version, ACME, "/echo", &unbound, "binding").await;
        // By path nobody is asked for a certificate, so nobody has one.
        let by_path = client.showing(&alice).named("localhost");
        refused(&by_path, version, "localhost", "/acme/echo", &token, "certificate").await;
        let misdirected = call(&by_path, version, ACME, "/echo", &token).await;
        assert_eq!(misdirected.summary(), "421 misdirected");
    }
    assert_eq!(client.alert().await, Some(AlertDescription::CertificateRequired), "a client without one");
}

#[tokio::test]
async fn b07_a_host_lets_in_whoever_its_tenants_authorities_vouch_for() {
    let authorities = Authorities::new();
    let (theirs, clients) = (Authority::new("clients of globex"), &authorities.clients);
    let world = authorities
        .world("client-crl = \"acme-clients.crl\"", MTLS)
        .file("certs/acme-clients.crl", &clients.revoked(&[3], GOOD))
        .tenant("globex")
        .file("certs/globex-clients.pem", &theirs.pem)
        .file(
            "policies/globex/tenant.toml",
            &toml("globex", &format!("hosts = [\"{GLOBEX}\"]\nclient-ca = \"globex-clients.pem\""), MTLS),
        );
    let live = certified(world, GLOBEX, &authorities.hosts.server(&[GLOBEX], GOOD)).start().await;
    let client = authorities.client(&live);
    use AlertDescription as A;
    for (what, pair, refusal) in [
        ("good", clients.client(1, GOOD), None),
        ("expired", clients.client(2, EXPIRED), Some(A::CertificateExpired)),
        ("not yet valid", clients.client(2, 2..9), Some(A::CertificateExpired)),
        ("revoked", clients.client(3, GOOD), Some(A::CertificateRevoked)),
        ("of another tenant's authority", theirs.client(1, GOOD), Some(A::UnknownCA)),
        ("of the hosts' authority", authorities.hosts.client(1, GOOD), Some(A::UnknownCA)),
    ] {
        let told = client.showing(&pair).alert().await;
        // What a validity that lies ahead is called differs between libraries.
        assert!(told == refusal || (what == "not yet valid" && told.is_some()), "{what}: {told:?}");
    }
    // For servers only: not what the certificate is for (RFC 5280 §4.2.1.12).
    assert!(client.showing(&clients.server(&["client"], GOOD)).alert().await.is_some());
    assert_eq!(client.named(GLOBEX).showing(&theirs.client(1, GOOD)).alert().await, None);
    assert_eq!(client.named(GLOBEX).showing(&clients.client(1, GOOD)).alert().await, Some(A::UnknownCA));
    // By the gateway's own name nobody is asked.
    assert_eq!(client.named("localhost").showing(&clients.client(3, GOOD)).alert().await, None);
}

#[tokio::test]
async fn b07_whoever_is_revoked_is_out_and_so_are_their_connections() {
    let authorities = Authorities::new();
    let live = authorities
        .world("client-crl = \"acme-clients.crl\"", MTLS)
        .file("certs/acme-clients.crl", &authorities.clients.revoked(&[], GOOD))
        .start()
        .await;
    let alice = authorities.clients.client(7, GOOD);
    let client = authorities.client(&live).showing(&alice);
    let token = bound(&live, &alice);
    let stream = client.tls(&[b"h2"]).await.unwrap();
    let (io, executor) = (hyper_util::rt::TokioIo::new(stream), hyper_util::rt::TokioExecutor::new());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let again = || crate::hosts::request(Version::HTTP_2, ACME, "/echo", Some(&token));
    assert_eq!(sender.send_request(again()).await.unwrap().status(), 200);
    // A list that cannot be read takes nobody's place.
    live.write("certs/acme-clients.crl", "junk");
    eventually("it is told", || async {
        live.running.gateway.readiness().to_string().contains("holds no list of revoked certificates")
    })
    .await;
    assert_eq!(client.alert().await, None);
    live.write("certs/acme-clients.crl", authorities.clients.revoked(&[7], GOOD));
    eventually("the list is in force", || async {
        client.alert().await == Some(AlertDescription::CertificateRevoked)
    })
    .await;
    assert_eq!(sender.send_request(again()).await.unwrap().status(), 421);
}

/// The TLS library would take its word for ever.
#[tokio::test]
async fn b07_an_authority_that_has_ended_vouches_for_nobody() {
    let (authorities, next) = (Authorities::new(), Authority::new("the next clients of acme"));
    let ended = authorities.clients.signed_until(-1);
    let both = ended.clone() + &next.pem;
    let live = authorities.world("", MTLS).file("certs/acme-clients.pem", &both).start().await;
    let client = authorities.client(&live);
    assert_eq!(client.showing(&next.client(1, GOOD)).alert().await, None);
    let of_ended = client.showing(&authorities.clients.client(1, GOOD));
    assert_eq!(of_ended.alert().await, Some(AlertDescription::UnknownCA));
    let told = live.running.diagnostics.iter().map(sandgate::site::diagnostic::Diagnostic::one_line);
    let left_out =
        |line: &String| line.contains("an authority of clients is left out") && line.contains("expired at");
    assert!(told.into_iter().any(|line| left_out(&line)));
    // With none left the host keeps what it had.
    live.write("certs/acme-clients.pem", ended);
    eventually("it is told", || async {
        live.running.gateway.readiness().to_string().contains("acme-clients.pem` expired at")
    })
    .await;
    assert_eq!(client.showing(&next.client(1, GOOD)).alert().await, None);
    assert_eq!(of_ended.alert().await, Some(AlertDescription::UnknownCA));
}

#[tokio::test]
async fn b07_where_no_token_is_bound_to_certificates_none_is_needed() {
    let authorities = Authorities::new();
    let live = authorities.world("", "").start().await;
    let client = authorities.client(&live);
    let token = live.token("acme").sign();
    let good = authorities.clients.client(1, GOOD);
    for client in [&client, &client.showing(&good)] {
        assert_eq!(call(client, Version::HTTP_2, ACME, "/echo", &token).await.summary(), "200");
    }
    let foreign = authorities.hosts.client(1, GOOD);
    assert_eq!(client.showing(&foreign).alert().await, Some(AlertDescription::UnknownCA));
}

/// A resumed session would bring a certificate that nobody looked at again.
#[tokio::test]
async fn b09_where_certificates_are_asked_for_no_session_is_resumed() {
    let authorities = Authorities::new();
    let live = authorities.world("", MTLS).start().await;
    let client = authorities.client(&live).showing(&authorities.clients.client(1, GOOD));
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = std::sync::Arc::new(client.config(default_provider(), &[version]));
        for _ in 0..2 {
            let mut stream = client.handshake(std::sync::Arc::clone(&config)).await.unwrap();
            let answer =
                exchange(&mut stream, format!("GET / HTTP/1.1\r\nhost: {ACME}\r\n\r\n").as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full), "{version:?}");
        }
    }
}
