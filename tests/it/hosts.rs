//! Tenants' own host names: whom each serves, with which certificate, and what may not come by it.

use std::sync::Arc;

use http::{Method, Request, Version};
use rustls::{
    AlertDescription, HandshakeKind,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::{
    authority::{Authority, EXPIRED, GOOD, Pair},
    client::{Body, Client, Reply, exchange, full},
    guest::echo,
    token::{audience, issuer},
    world::{Live, World, eventually},
};

pub(crate) const ACME: &str = "api.acme.example";
pub(crate) const GLOBEX: &str = "api.globex.example";
/// No SNI goes with an address (RFC 6066 §3).
const NO_NAME: &str = "127.0.0.1";

/// tenant.toml of a tenant, with more at its head and in its issuer.
pub(crate) fn toml(tenant: &str, head: &str, of_issuer: &str) -> String {
    format!(
        "{head}\n[[issuers]]\nissuer = \"{}\"\naudiences = [\"{}\"]\nalgorithms = [\"ES256\"]\nkeys = \"jwks.json\"\n{of_issuer}\n",
        issuer(tenant),
        audience(tenant)
    )
}

fn hosts(names: &[&str]) -> String {
    format!("hosts = {names:?}")
}

/// Two tenants, each with a host of its own.
fn world(authority: &Authority) -> World {
    let mut world = World::with("echo", &echo()).tenant("globex").function("globex", "echo", &echo());
    for (tenant, host) in [("acme", ACME), ("globex", GLOBEX)] {
        world = world.file(&format!("policies/{tenant}/tenant.toml"), &toml(tenant, &hosts(&[host]), ""));
        world = certified(world, host, &authority.server(&[host], GOOD));
    }
    world
}

pub(crate) fn certified(world: World, host: &str, (chain, key): &Pair) -> World {
    world.file(&format!("certs/{host}.pem"), chain).file(&format!("certs/{host}.key"), key)
}

fn install(live: &Live, host: &str, (chain, key): &Pair) {
    live.write(&format!("certs/{host}.key"), key);
    live.write(&format!("certs/{host}.pem"), chain);
}

pub(crate) fn request(version: Version, authority: &str, path: &str, token: Option<&str>) -> Request<Body> {
    let builder = Request::builder().method(Method::POST).header("content-type", "application/json");
    let builder = match version {
        Version::HTTP_2 => builder.uri(format!("https://{authority}{path}")),
        _ => builder.uri(path).header("host", authority),
    };
    let builder = match token {
        Some(token) => builder.header("authorization", format!("Bearer {token}")),
        None => builder,
    };
    builder.body(full("{}")).unwrap()
}

pub(crate) async fn call(
    client: &Client,
    version: Version,
    authority: &str,
    path: &str,
    token: &str,
) -> Reply {
    client.send(version, request(version, authority, path, Some(token))).await
}

/// The certificate that a server shows.
async fn shown(client: &Client) -> Option<CertificateDer<'static>> {
    let stream = client.tls(&[b"h2"]).await.ok()?;
    Some(stream.get_ref().1.peer_certificates()?.first()?.clone().into_owned())
}

pub(crate) fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

pub(crate) const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

#[tokio::test]
async fn b05_a_tenants_host_serves_that_tenant_alone_with_its_own_certificate() {
    let authority = Authority::new("hosts");
    let live = world(&authority).start().await;
    let (acme, globex) = (live.token("acme").sign(), live.token("globex").sign());
    let client = live.client.trusting(&authority.pem);
    for host in [ACME, GLOBEX] {
        let pem = std::fs::read_to_string(live.path().join(format!("certs/{host}.pem"))).unwrap();
        assert_eq!(shown(&client.named(host)).await, Some(der(&pem)), "{host}");
        assert_eq!(shown(&client.named(&host.to_uppercase())).await, Some(der(&pem)), "{host}");
    }
    let default = std::fs::read_to_string(live.path().join("certs/dev/server.pem")).unwrap();
    for name in ["localhost", NO_NAME] {
        assert_eq!(shown(&client.named(name)).await, Some(der(&default)), "{name}");
    }
    for version in VERSIONS {
        let by_host = client.named(ACME);
        let served = call(&by_host, version, ACME, "/echo", &acme).await;
        assert_eq!(served.summary(), "200");
        let record = live.record(&served);
        assert_eq!((&record["tenant"], &record["function"]), (&json!("acme"), &json!("echo")), "{record}");
        for (path, token, answer) in [
            ("/echo", &globex, "401 unauthenticated"),
            ("/globex/echo", &globex, "401 unauthenticated"),
            ("/globex/echo", &acme, "404 not_found"),
            ("/acme/echo", &acme, "404 not_found"),
            ("/echo/rest", &acme, "404 not_found"),
            ("/", &acme, "404 not_found"),
            ("/echo/%2e%2e/x", &acme, "400 malformed"),
        ] {
            assert_eq!(call(&by_host, version, ACME, path, token).await.summary(), answer, "{path}");
        }
        for name in ["localhost", NO_NAME] {
            let by_path = client.named(name);
            assert_eq!(call(&by_path, version, name, "/acme/echo", &acme).await.summary(), "200");
            assert_eq!(call(&by_path, version, name, "/globex/echo", &globex).await.summary(), "200");
            assert_eq!(call(&by_path, version, name, "/echo", &acme).await.summary(), "404 not_found");
        }
    }
}

#[tokio::test]
async fn b05_a_name_and_an_authority_that_disagree_are_misdirected_before_anybody_is_asked_who_they_are() {
    let authority = Authority::new("hosts");
    let live = world(&authority).start().await;
    let client = live.client.trusting(&authority.pem);
    let agreed = |name: &str, authority: &str| match (name, authority) {
        // Without a name all is well but what has a connection of its own.
        (NO_NAME, ACME | GLOBEX) => false,
        (NO_NAME, authority) => !authority.to_lowercase().starts_with("api.acme"),
        (name, authority) => {
            let host = authority.split(':').next().unwrap().trim_end_matches('.').to_lowercase();
            name == host
        }
    };
    let authorities = [
        ACME,
        GLOBEX,
        "API.Acme.Example",
        "api.acme.example:8443",
        "api.acme.example.",
        "localhost",
        "localhost:1",
        "127.0.0.1",
        "other.example",
        "acme.example",
        "x.api.acme.example",
    ];
    let (mut misdirected, mut answered) = (0u8, 0u8);
    for version in VERSIONS {
        for name in [ACME, GLOBEX, "localhost", NO_NAME] {
            for authority in authorities {
                let request = request(version, authority, "/echo/x", None);
                // Refusals of one client are counted together beyond a rate.
                let from = [127, 0, misdirected + answered + 1, 1];
                let reply = client.named(name).from(from).send(version, request).await;
                let expected = match agreed(name, authority) {
                    false => "421 misdirected",
                    // `/echo/x` names a function at a host, and a tenant `echo` that nobody is.
                    true => "401 unauthenticated",
                };
                assert_eq!(reply.summary(), expected, "{version:?}: {name} asked for {authority}");
                if expected.starts_with("421") {
                    misdirected += 1;
                    let record = live.record(&reply);
                    assert_eq!(record["outcome"]["reason"], "misdirected", "{record}");
                } else {
                    answered += 1;
                }
            }
        }
    }
    assert!(misdirected > 40 && answered > 20, "{misdirected} {answered}");
    // A credential, a hostile path or a preflight changes nothing.
    for (path, token) in [("/echo", Some("x")), ("/../x", None), ("/globex/echo", None)] {
        let reply =
            client.named(ACME).send(Version::HTTP_11, request(Version::HTTP_11, GLOBEX, path, token)).await;
        assert_eq!(reply.summary(), "421 misdirected", "{path}");
        assert_eq!(reply.header("www-authenticate"), None);
    }
}

/// HTTP/2 clients send requests for several names on one connection where its certificate covers them.
#[tokio::test]
async fn b05_requests_for_another_host_on_one_connection_are_sent_elsewhere_one_by_one() {
    let authority = Authority::new("hosts");
    // One certificate for both, as an operator may well have.
    let both = authority.server(&[ACME, GLOBEX], GOOD);
    let live = certified(certified(world(&authority), ACME, &both), GLOBEX, &both).start().await;
    let stream = live.client.trusting(&authority.pem).named(ACME).tls(&[b"h2"]).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let (acme, globex) = (live.token("acme").sign(), live.token("globex").sign());
    let mut told = Vec::new();
    for (host, token) in [(ACME, &acme), (GLOBEX, &globex), ("localhost", &acme), (ACME, &acme)] {
        let request = request(Version::HTTP_2, host, "/echo", Some(token));
        told.push(sender.send_request(request).await.unwrap().status().as_u16());
    }
    assert_eq!(told, [200, 421, 421, 200]);
}

#[tokio::test]
async fn b05_strict_sni_refuses_names_that_nobody_here_has() {
    let authority = Authority::new("hosts");
    for (strict, refusal) in [(true, Some(AlertDescription::AccessDenied)), (false, None)] {
        let live =
            world(&authority).file("sandgate.toml", &format!("[tls]\nstrict-sni = {strict}\n")).start().await;
        let client = live.client.trusting(&authority.pem);
        for name in [ACME, GLOBEX, "localhost", NO_NAME] {
            assert!(client.named(name).tls(&[b"h2"]).await.is_ok(), "{name}");
        }
        for name in ["other.example", "acme.example", "x.api.acme.example"] {
            assert_eq!(client.named(name).alert().await, refusal, "{name}");
        }
    }
}

/// One drawer for the sessions of all servers, as no client has it.
#[derive(Debug)]
struct OneDrawer(ClientSessionMemoryCache);

impl OneDrawer {
    fn name() -> ServerName<'static> {
        ServerName::try_from("drawer").unwrap()
    }
}

impl ClientSessionStore for OneDrawer {
    fn set_kx_hint(&self, _: ServerName<'static>, group: rustls::NamedGroup) {
        self.0.set_kx_hint(Self::name(), group);
    }
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        self.0.kx_hint(&Self::name())
    }
    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(Self::name(), value);
    }
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&Self::name())
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&Self::name());
    }
    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(Self::name(), value);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&Self::name())
    }
}

#[tokio::test]
async fn b09_a_session_is_resumed_by_the_host_that_began_it_and_by_no_other() {
    let authority = Authority::new("hosts");
    let live = world(&authority).start().await;
    let client = live.client.trusting(&authority.pem);
    for version in [&TLS13, &TLS12] {
        for first in [ACME, "localhost"] {
            for second in [ACME, GLOBEX, "localhost"] {
                let mut config = client.config(default_provider(), &[version]);
                config.resumption = Resumption::store(Arc::new(OneDrawer(ClientSessionMemoryCache::new(8))));
                let config = Arc::new(config);
                let mut kinds = Vec::new();
                for name in [first, second] {
                    let mut stream = client.named(name).handshake(Arc::clone(&config)).await.unwrap();
                    let head = format!("GET / HTTP/1.1\r\nhost: {name}\r\n\r\n");
                    // Tickets come with the first answer.
                    let answer = exchange(&mut stream, head.as_bytes()).await;
                    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
                    kinds.push(kind(&stream));
                }
                let expected = if first == second { HandshakeKind::Resumed } else { HandshakeKind::Full };
                assert_eq!(kinds, [HandshakeKind::Full, expected], "{version:?} {first} {second}");
            }
        }
    }
}

fn kind(stream: &TlsStream<TcpStream>) -> HandshakeKind {
    stream.get_ref().1.handshake_kind().unwrap()
}

#[tokio::test]
async fn b08_a_hosts_certificate_is_swapped_when_it_is_good_and_kept_when_the_next_is_not() {
    let authority = Authority::new("hosts");
    let live = world(&authority).start().await;
    let client = live.client.trusting(&authority.pem).named(ACME);
    let expiry = |days: i64| {
        let at = (crate::token::unix_now() / 86_400 + days) * 86_400;
        format!("sandgate_certificate_expiry_timestamp_seconds{{certificate=\"{ACME}\"}} {at}")
    };
    assert!(live.metric(&expiry(30)));
    let next = authority.server(&[ACME], -1..60);
    install(&live, ACME, &next);
    eventually("the next certificate is shown", || async { shown(&client).await == Some(der(&next.0)) })
        .await;
    eventually("its end is told", || async { live.metric(&expiry(60)) }).await;

    let other = authority.server(&[ACME], GOOD);
    let broken: [(&str, Pair, &str); 5] = [
        ("expired", authority.server(&[ACME], EXPIRED), "expired at"),
        ("not yet valid", authority.server(&[ACME], 2..30), "is not valid before"),
        ("of another name", authority.server(&[GLOBEX], GOOD), "is not for `api.acme.example`"),
        ("with another key", (other.0.clone(), next.1.clone()), "does not fit"),
        ("none", (String::new(), next.1.clone()), "holds no certificate"),
    ];
    for (what, pair, told) in broken {
        install(&live, ACME, &pair);
        live.running.reload.pull();
        eventually(what, || async { live.running.gateway.readiness().to_string().contains(told) }).await;
        assert_eq!(shown(&client).await, Some(der(&next.0)), "{what}");
        // Its tenant's policies are not held up by a certificate.
        let by_path = live.invoke("acme/echo").send().await;
        assert_eq!(by_path.summary(), "200", "{what}");
        assert!(live.metric(&expiry(60)), "{what}");
    }
    install(&live, ACME, &other);
    let key = live.path().join(format!("certs/{ACME}.key"));
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    live.running.reload.pull();
    eventually("others can read the key", || async {
        live.running.gateway.readiness().to_string().contains("is not its owner's alone (mode 644)")
    })
    .await;
    assert_eq!(shown(&client).await, Some(der(&next.0)));
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    eventually("a mended mode is noticed", || async { shown(&client).await == Some(der(&other.0)) }).await;
}

#[tokio::test]
async fn b08_a_host_that_is_taken_out_is_served_no_more_and_its_connections_neither() {
    let authority = Authority::new("hosts");
    let live = world(&authority).start().await;
    let client = live.client.trusting(&authority.pem).named(ACME);
    let token = live.token("acme").sign();
    let stream = client.tls(&[b"h2"]).await.unwrap();
    let (io, executor) = (hyper_util::rt::TokioIo::new(stream), hyper_util::rt::TokioExecutor::new());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let again = || request(Version::HTTP_2, ACME, "/echo", Some(&token));
    assert_eq!(sender.send_request(again()).await.unwrap().status(), 200);
    // Another of its certificates does not end a connection.
    let renewed = authority.server(&[ACME], -1..90);
    install(&live, ACME, &renewed);
    eventually("it is renewed", || async { shown(&client).await == Some(der(&renewed.0)) }).await;
    assert_eq!(sender.send_request(again()).await.unwrap().status(), 200);

    live.write("policies/acme/tenant.toml", toml("acme", "", ""));
    eventually("the name is unlisted", || async { shown(&client).await.is_none() }).await;
    assert_eq!(sender.send_request(again()).await.unwrap().status(), 421);
    let by_path = live.invoke("acme/echo").send().await;
    assert_eq!(by_path.summary(), "200");
    assert!(!live.running.gateway.metrics_text().contains(&format!("certificate=\"{ACME}\"")));

    // The same name at another tenant is another host.
    let by_globex = toml("globex", &hosts(&[ACME]), "");
    live.write("policies/globex/tenant.toml", &by_globex);
    eventually("it is globex's", || async { shown(&client).await == Some(der(&renewed.0)) }).await;
    assert_eq!(sender.send_request(again()).await.unwrap().status(), 421);
    let globex = live.token("globex").sign();
    assert_eq!(call(&client, Version::HTTP_2, ACME, "/echo", &globex).await.summary(), "200");
    assert_eq!(call(&client, Version::HTTP_2, ACME, "/echo", &token).await.summary(), "401 unauthenticated");
}

#[tokio::test]
async fn a_host_of_two_tenants_is_a_fault_of_the_platform() {
    let authority = Authority::new("hosts");
    let site =
        world(&authority).file("policies/globex/tenant.toml", &toml("globex", &hosts(&[GLOBEX, ACME]), ""));
    let (code, told) = check(&site);
    assert_eq!(code, 1);
    assert!(told.contains("host `api.acme.example` is also tenant `acme`'s"), "{told}");
    assert!(told.contains("policies/globex/tenant.toml:1:"), "{told}");
    // While served, the revision before stays whole.
    let live = world(&authority).start().await;
    live.write("policies/globex/tenant.toml", toml("globex", &hosts(&[GLOBEX, ACME]), ""));
    eventually("it is told", || async {
        live.running
            .gateway
            .readiness()
            .to_string()
            .contains("platform part refused: policies/globex/tenant.toml")
    })
    .await;
    let client = live.client.trusting(&authority.pem).named(ACME);
    let token = live.token("acme").sign();
    assert_eq!(call(&client, Version::HTTP_2, ACME, "/echo", &token).await.summary(), "200");
}

#[tokio::test]
async fn check_tells_what_is_wrong_with_hosts() {
    let authority = Authority::new("hosts");
    let good = authority.server(&[ACME], GOOD);
    for (what, head, files, told) in [
        ("an address", hosts(&["192.0.2.1"]), vec![], "a host is a DNS name in lower case"),
        ("a wildcard", hosts(&["*.acme.example"]), vec![], "a host is a DNS name in lower case"),
        ("upper case", hosts(&["API.acme.example"]), vec![], "a host is a DNS name in lower case"),
        ("twice", hosts(&[ACME, ACME]), vec![], "host `api.acme.example` is listed twice"),
        ("the platform's", hosts(&["gate.example"]), vec![], "is the gateway's own"),
        (
            "an authority for no host",
            "client-ca = \"ca.pem\"".to_owned(),
            vec![],
            "of no use without `hosts`",
        ),
        (
            "a list for no authority",
            format!("{}\nclient-crl = \"ca.crl\"", hosts(&[ACME])),
            vec![],
            "of no use without `client-ca`",
        ),
        (
            "a path that leaves the folder",
            format!("{}\nclient-ca = \"../ca.pem\"", hosts(&[ACME])),
            vec![],
            "is no file under `certs/`",
        ),
        (
            "a list that is out of date",
            format!("{}\nclient-ca = \"ca.pem\"\nclient-crl = \"ca.crl\"", hosts(&[ACME])),
            vec![("certs/ca.pem", authority.pem.clone()), ("certs/ca.crl", authority.revoked(&[], EXPIRED))],
            "holds a list that is out of date",
        ),
        (
            "no authority",
            format!("{}\nclient-ca = \"ca.pem\"", hosts(&[ACME])),
            vec![("certs/ca.pem", "junk".to_owned())],
            "holds no certificate",
        ),
    ] {
        let mut site = World::with("echo", &echo())
            .file("policies/acme/tenant.toml", &toml("acme", &head, ""))
            .file("sandgate.toml", "[server]\norigin = \"https://gate.example:8443\"\n");
        site = certified(site, ACME, &good);
        for (path, text) in files {
            site = site.file(path, &text);
        }
        let (code, all) = check(&site);
        assert!(code == 1 && all.contains(told), "{what}: {all}");
    }
    // Keys are in no repository: on a workbench that is no fault.
    let site =
        World::with("echo", &echo()).file("policies/acme/tenant.toml", &toml("acme", &hosts(&[ACME]), ""));
    let (code, all) = check(&site);
    assert!(code == 0 && all.contains("there is no `certs/api.acme.example.pem`"), "{all}");
}

#[tokio::test]
async fn openapi_lists_a_tenants_hosts_as_its_servers() {
    let authority = Authority::new("hosts");
    let site = world(&authority).file("sandgate.toml", "[server]\norigin = \"https://gate.example:8443\"\n");
    let document = |site: &World| {
        let (code, text) =
            sandgate(&["openapi", "--tenant", "acme", "--site", site.path().to_str().unwrap()]);
        assert_eq!(code, 0, "{text}");
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let paths = document["paths"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        (document["servers"].clone(), paths)
    };
    let by_host = (json!([{"url": "https://api.acme.example:8443"}]), vec!["/echo".to_owned()]);
    assert_eq!(document(&site), by_host);
    let site = site.file("policies/acme/tenant.toml", &toml("acme", "", ""));
    let by_path = (json!([{"url": "https://gate.example:8443"}]), vec!["/acme/echo".to_owned()]);
    assert_eq!(document(&site), by_path);
}

/// What `sandgate check` says of a site.
fn check(site: &World) -> (u8, String) {
    sandgate(&["check", "--site", site.path().to_str().unwrap()])
}

fn sandgate(args: &[&str]) -> (u8, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = std::iter::once("sandgate").chain(args.iter().copied()).map(Into::into);
    let code = sandgate::cli::run(args, &mut out, &mut err);
    (code, String::from_utf8_lossy(&[out, err].concat()).into_owned())
}
