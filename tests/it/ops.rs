//! The ops listener, as a supervisor, a scraper and a page in the operator's browser meet it.

use sandgate::http::health::Mode;
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream};

use crate::{
    client::PATIENCE,
    guest::echo,
    world::{Live, World, eventually},
};

#[tokio::test]
async fn it_is_alive_and_ready_and_says_how_it_stands() {
    let world = World::with("echo", &echo()).start().await;
    let alive = get(&world, "/livez").await;
    assert_eq!((alive.status, alive.body.as_str()), (200, "ok\n"));
    let ready = get(&world, "/readyz").await;
    let revision = world.running.gateway.revision().id().clone();
    let expected = format!(
        "mode: DEVELOPMENT (keys and certificates of this machine; not for production)\nready\nrevision: {revision}\n"
    );
    assert_eq!((ready.status, ready.body), (200, expected));
    assert_eq!(get(&world, "/").await.status, 404);
    assert_eq!(get(&world, "/acme/echo").await.status, 404);

    // A balancer looks elsewhere; who is alive is not killed.
    world.running.gateway.begin_closing();
    let closing = get(&world, "/readyz").await;
    assert_eq!((closing.status, closing.body.contains("\nclosing\n")), (503, true));
    assert_eq!(get(&world, "/livez").await.status, 200);
}

#[tokio::test]
async fn in_earnest_readiness_does_not_speak_of_development() {
    let world = World::new();
    // The files of local work, named as an operator names their own.
    sandgate::site::dev::ensure(world.path(), &[]).unwrap();
    let world = world
        .file(
            "sandgate.toml",
            "[tls]\ncertificate = \"certs/dev/server.pem\"\nkey = \"certs/dev/server.key\"\n",
        )
        .start_with(|options| options.mode = Mode::Production)
        .await;
    let ready = get(&world, "/readyz").await;
    assert_eq!((ready.status, ready.body.starts_with("ready\n")), (200, true), "{}", ready.body);
}

#[tokio::test]
async fn it_tells_the_faults_of_a_tenant_and_stays_ready_for_the_others() {
    let world = World::with("echo", &echo())
        .tenant("globex")
        .file("policies/globex/policies.cedar", "permit(")
        .start_with(|_| ())
        .await;
    let ready = get(&world, "/readyz").await;
    assert_eq!(ready.status, 200);
    let told = "tenant globex (unavailable): policies/globex/policies.cedar:1: ";
    assert!(ready.body.lines().any(|line| line.starts_with(told)), "{}", ready.body);
    assert!(!ready.body.contains("tenant acme"), "{}", ready.body);
    let fault = "sandgate_site_faults{tenant=\"globex\"} 1";
    assert!(get(&world, "/metrics").await.body.lines().any(|line| line == fault));

    world.write("policies/acme/policies.cedar", "permit(");
    world.write("policies/globex/policies.cedar", "");
    eventually("acme's fault is told, and globex's no more", || async {
        let (ready, metrics) = (get(&world, "/readyz").await.body, get(&world, "/metrics").await.body);
        ready.contains("tenant acme (last good part serves): policies/acme/policies.cedar:1: ")
            && !ready.contains("tenant globex")
            && metrics.contains("sandgate_site_faults{tenant=\"acme\"} 1")
            && !metrics.contains("tenant=\"globex\"")
    })
    .await;
}

#[tokio::test]
async fn metrics_count_what_was_answered_and_name_no_text_of_a_request() {
    let world = World::with("echo", &echo()).start().await;
    assert_eq!(world.invoke("acme/echo").send().await.summary(), "200");
    assert_eq!(world.invoke("acme/echo").text("{").send().await.summary(), "400 malformed");
    assert_eq!(world.invoke("acme/echo").anonymous().send().await.summary(), "401 unauthenticated");
    let unheard = world.invoke("acme/unheard-of").send().await;
    assert_eq!(unheard.summary(), "404 not_found");
    assert_eq!(world.invoke("unheard-of/echo").bearer("x").send().await.summary(), "401 unauthenticated");
    let answer = get(&world, "/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    for line in [
        "sandgate_requests_total{tenant=\"acme\",function=\"echo\",code=\"ok\"} 1",
        "sandgate_requests_total{tenant=\"acme\",function=\"echo\",code=\"malformed\"} 1",
        "sandgate_refusals_total{code=\"unauthenticated\"} 2",
        "sandgate_refusals_total{code=\"not_found\"} 1",
        "sandgate_stage_seconds_count{stage=\"run\"} 1",
        "sandgate_audit_errors_total 0",
        "# EOF",
    ] {
        assert!(answer.body.lines().any(|told| told == line), "{line} is not told:\n{}", answer.body);
    }
    assert!(!answer.body.contains("unheard-of"), "{}", answer.body);
}

/// A page can make the operator's browser send requests here, but not under our name (DNS rebinding).
#[tokio::test]
async fn it_answers_to_its_own_name_only() {
    let world = World::with("echo", &echo()).start().await;
    let address = world.running.ops_address;
    for path in ["/livez", "/readyz", "/metrics", "/other"] {
        for host in ["evil.example", "127.0.0.1", "localhost", &format!("evil.example:{}", address.port())] {
            let answer = ask(&world, &format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n")).await;
            assert_eq!(answer.status, 421, "{path} as {host}");
            assert!(!answer.body.contains("revision"), "{}", answer.body);
        }
    }
    let twice = format!("GET /livez HTTP/1.1\r\nhost: {address}\r\nhost: evil.example\r\n");
    assert_eq!(ask(&world, &twice).await.status, 421);
    assert_eq!(ask(&world, "GET /livez HTTP/1.1\r\n").await.status, 421);
    let local = format!("GET /livez HTTP/1.1\r\nhost: localhost:{}\r\n", address.port());
    assert_eq!(ask(&world, &local).await.status, 200);
}

struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

async fn get(world: &Live, path: &str) -> Answer {
    ask(world, &format!("GET {path} HTTP/1.1\r\nhost: {}\r\n", world.running.ops_address)).await
}

/// One request in plain HTTP; `head` has no last line yet.
async fn ask(world: &Live, head: &str) -> Answer {
    let exchange = async {
        let mut stream = TcpStream::connect(world.running.ops_address).await.unwrap();
        stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        content_type: header("content-type: ").unwrap_or_default().to_owned(),
        body: body.to_owned(),
    }
}

#[tokio::test]
async fn b08_metrics_say_until_when_the_certificate_is_good() {
    let world = World::new().start().await;
    let pem = std::fs::read_to_string(world.path().join("certs/dev/server.pem")).unwrap();
    let told = pem.lines().find_map(|line| line.strip_prefix("not after: ")).unwrap();
    let expires = told.parse::<jiff::Timestamp>().unwrap().as_second();
    let line = format!("sandgate_certificate_expiry_timestamp_seconds{{certificate=\"default\"}} {expires}");
    let metrics = get(&world, "/metrics").await.body;
    assert!(metrics.lines().any(|told| told == line), "{line} is not told:\n{metrics}");
}
