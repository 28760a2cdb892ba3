//! Tokens that are bound to a key: of use to whoever can prove to have it, for one request at a time.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Version;
use sandgate::{
    http::health::Mode,
    server::{Options, StartError, start},
};
use serde_json::{Value, json};

use crate::{
    authority::{Authority, GOOD},
    client::Reply,
    guest::echo,
    hosts::{ACME, certified, request},
    token::{IssuerKey, audience, issuer, segments, unix_now},
    world::{Live, World},
};

/// Policies see how the caller's token is bound, so this one is for bound tokens only.
const PERMIT_BOUND: &str = "@id(\"bound\")\npermit(principal, action == Action::\"invoke\", resource) when { context.binding == \"dpop\" };\n";

fn issuers(more: &str) -> String {
    format!(
        "[[issuers]]\nissuer = \"{}\"\naudiences = [\"{}\"]\nalgorithms = [\"ES256\"]\nkeys = \"jwks.json\"\n{more}\n",
        issuer("acme"),
        audience("acme")
    )
}

/// `acme` with an issuer that binds its tokens.
fn world() -> World {
    World::with("echo", &echo())
        .file("policies/acme/tenant.toml", &issuers("binding = \"dpop\""))
        .file("policies/acme/policies.cedar", PERMIT_BOUND)
}

/// SHA-256 over the required members in the order of their names (RFC 7638), by hand.
fn thumbprint(key: &IssuerKey) -> String {
    let jwk = key.jwk();
    let text = format!(
        r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
        jwk["x"].as_str().unwrap(),
        jwk["y"].as_str().unwrap()
    );
    hash(&text)
}

fn hash(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}

/// A caller with a token that is bound to its key.
struct Sender<'a> {
    live: &'a Live,
    key: IssuerKey,
    token: String,
    origin: String,
}

impl<'a> Sender<'a> {
    fn new(live: &'a Live) -> Self {
        let key = IssuerKey::generate("sender");
        let token = live.token("acme").claim("cnf", json!({"jkt": thumbprint(&key)})).sign();
        Self { live, key, token, origin: format!("https://localhost:{}", live.running.address.port()) }
    }

    /// Header and claims of a proof for a call of `acme/echo`, never the same twice.
    fn proof(&self) -> (Value, Value) {
        use std::sync::atomic::{AtomicU64, Ordering};
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let mut jwk = self.key.jwk();
        for name in ["kid", "alg", "use"] {
            jwk.as_object_mut().unwrap().remove(name);
        }
        let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk});
        let claims = json!({
            "jti": format!("jti-{}", SERIAL.fetch_add(1, Ordering::Relaxed)), "htm": "POST",
            "htu": format!("{}/acme/echo", self.origin), "iat": unix_now(), "ath": hash(&self.token),
        });
        (header, claims)
    }

    fn signed(&self, header: &Value, claims: &Value) -> String {
        self.key.sign(&segments(&header.to_string(), &claims.to_string()))
    }

    fn with_nonce(&self, nonce: &str) -> String {
        let (header, mut claims) = self.proof();
        claims["nonce"] = json!(nonce);
        self.signed(&header, &claims)
    }

    async fn send(&self, authorization: &str, proofs: &[&str]) -> Reply {
        let mut call = self.live.invoke("acme/echo").anonymous().header("authorization", authorization);
        for proof in proofs {
            call = call.header("dpop", proof);
        }
        call.send().await
    }

    async fn send_proof(&self, proof: &str) -> Reply {
        self.send(&format!("DPoP {}", self.token), &[proof]).await
    }

    /// What the first call is told.
    async fn nonce(&self) -> String {
        let (header, claims) = self.proof();
        let reply = self.send_proof(&self.signed(&header, &claims)).await;
        assert_eq!(reply.header("www-authenticate"), Some(USE_NONCE));
        reply.header("dpop-nonce").unwrap().to_owned()
    }
}

const USE_NONCE: &str = r#"DPoP error="use_dpop_nonce""#;
const INVALID: &str = r#"Bearer realm="sandgate", error="invalid_token""#;

#[tokio::test]
async fn a16_a_bound_token_is_served_after_the_nonce_was_asked_for() {
    let live = world().start().await;
    let sender = Sender::new(&live);
    let (header, mut claims) = sender.proof();
    let refused = sender.send_proof(&sender.signed(&header, &claims)).await;
    assert_eq!(refused.summary(), "401 unauthenticated");
    assert_eq!(refused.header("www-authenticate"), Some(USE_NONCE));
    assert_eq!(refused.header("cache-control"), Some("no-store"));
    let nonce = refused.header("dpop-nonce").unwrap().to_owned();
    claims["nonce"] = json!(nonce);
    let served = sender.send_proof(&sender.signed(&header, &claims)).await;
    assert_eq!(served.summary(), "200", "a proof without nonce was not used up");
    assert_eq!(served.header("dpop-nonce"), None, "it is still the one to use");
    let record = live.record(&served);
    assert_eq!(record["context"]["binding"], "dpop", "{record}");

    let http2 = live
        .invoke("acme/echo")
        .http2()
        .anonymous()
        .header("authorization", &format!("dpop {}", sender.token))
        .header("dpop", &sender.with_nonce(&nonce))
        .send()
        .await;
    assert_eq!(http2.summary(), "200");
}

#[tokio::test]
async fn a16_each_deviation_gets_the_one_answer_and_its_own_record() {
    let live = world().start().await;
    let sender = Sender::new(&live);
    let nonce = sender.nonce().await;
    let dpop = format!("DPoP {}", sender.token);
    let bend = |name: &str, value: Value| {
        let (header, mut claims) = sender.proof();
        claims["nonce"] = json!(nonce);
        claims[name] = value;
        vec![sender.signed(&header, &claims)]
    };
    let bend_header = |name: &str, value: Value| {
        let (mut header, mut claims) = sender.proof();
        claims["nonce"] = json!(nonce);
        header[name] = value;
        vec![sender.signed(&header, &claims)]
    };
    let hmac = {
        let (mut header, claims) = sender.proof();
        header["alg"] = json!("HS256");
        let message = segments(&header.to_string(), &claims.to_string());
        let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &sender.key.public_der());
        let tag = aws_lc_rs::hmac::sign(&secret, message.as_bytes());
        vec![format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))]
    };
    let private = {
        let mut jwk = sender.proof().0["jwk"].clone();
        jwk["d"] = json!("c2VjcmV0");
        bend_header("jwk", jwk)
    };
    let thief = {
        let thief = Sender {
            key: IssuerKey::generate("thief"),
            token: sender.token.clone(),
            origin: sender.origin.clone(),
            live: &live,
        };
        vec![thief.with_nonce(&nonce)]
    };
    let used = sender.with_nonce(&nonce);
    assert_eq!(sender.send_proof(&used).await.summary(), "200");
    let good = || vec![sender.with_nonce(&nonce)];
    let unbound = live.token("acme").sign();
    let now = unix_now();
    let cases: Vec<(&str, String, Vec<String>, &str)> = vec![
        ("another method", dpop.clone(), bend("htm", json!("GET")), "proof method"),
        (
            "another url",
            dpop.clone(),
            bend("htu", json!(format!("{}/acme/other", sender.origin))),
            "proof url",
        ),
        ("another host", dpop.clone(), bend("htu", json!("https://evil.example/acme/echo")), "proof url"),
        ("stale", dpop.clone(), bend("iat", json!(now - 120)), "proof time"),
        ("from the future", dpop.clone(), bend("iat", json!(now + 60)), "proof time"),
        ("replayed", dpop.clone(), vec![used], "replay"),
        ("another token's", dpop.clone(), bend("ath", json!(hash("x"))), "proof token"),
        ("another key", dpop.clone(), thief, "proof key"),
        ("HS256", dpop.clone(), hmac, "proof"),
        ("a private key", dpop.clone(), private, "proof key"),
        ("two proofs", dpop.clone(), [good(), good()].concat(), "proof"),
        ("no proof", dpop.clone(), vec![], "proof"),
        ("typ JWT", dpop.clone(), bend_header("typ", json!("JWT")), "proof"),
        ("bound as bearer", format!("Bearer {}", sender.token), good(), "binding"),
        ("unbound as DPoP", format!("DPoP {unbound}"), good(), "binding"),
        ("unbound as bearer", format!("Bearer {unbound}"), vec![], "binding"),
    ];
    let mut bodies = Vec::new();
    for (what, authorization, proofs, reason) in &cases {
        let proofs: Vec<&str> = proofs.iter().map(String::as_str).collect();
        let reply = sender.send(authorization, &proofs).await;
        assert_eq!(reply.summary(), "401 unauthenticated", "{what}");
        assert_eq!(reply.header("www-authenticate"), Some(INVALID), "{what}");
        assert_eq!(reply.header("dpop-nonce"), None, "{what}");
        let record = live.record(&reply);
        assert_eq!(record["outcome"]["reason"], *reason, "{what}: {record}");
        assert!(record["caller"].is_null());
        let mut body = reply.json();
        body["instance"] = json!("");
        bodies.push(body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
    assert_eq!(sender.send_proof(&sender.with_nonce(&nonce)).await.summary(), "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn a16_of_fifty_calls_at_once_with_one_proof_one_is_served() {
    let live = world().start().await;
    let sender = Sender::new(&live);
    let proof = sender.with_nonce(&sender.nonce().await);
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..50 {
        let call = live
            .invoke("acme/echo")
            .anonymous()
            .header("authorization", &format!("DPoP {}", sender.token))
            .header("dpop", &proof);
        let (client, version, request) = if n % 2 == 0 { call } else { call.http2() }.finish();
        calls.spawn(async move { client.send(version, request).await.summary() });
    }
    let mut told = calls.join_all().await;
    told.sort();
    assert_eq!(
        (told[0].as_str(), told[1].as_str(), told[49].as_str()),
        ("200", "401 unauthenticated", "401 unauthenticated")
    );
}

#[tokio::test]
async fn a16_a_nonce_of_another_process_is_answered_with_one_of_this() {
    let (live, other) = (world().start().await, world().start().await);
    let (sender, elsewhere) = (Sender::new(&live), Sender::new(&other));
    let refused = sender.send_proof(&sender.with_nonce(&elsewhere.nonce().await)).await;
    assert_eq!(refused.header("www-authenticate"), Some(USE_NONCE));
    let nonce = refused.header("dpop-nonce").unwrap().to_owned();
    assert_eq!(sender.send_proof(&sender.with_nonce(&nonce)).await.summary(), "200");
    let record = live.record(&refused);
    assert_eq!(record["outcome"]["reason"], "nonce", "{record}");
}

#[tokio::test]
async fn a16_a_proof_is_for_the_origin_that_is_configured_whatever_the_host_header_says() {
    let live = world().file("sandgate.toml", "[server]\norigin = \"https://gate.example\"\n").start().await;
    let mut sender = Sender::new(&live);
    let (header, claims) = sender.proof();
    let here = sender.send_proof(&sender.signed(&header, &claims)).await;
    assert_eq!(
        here.header("www-authenticate"),
        Some(INVALID),
        "the address it was sent to is not what it is called"
    );
    sender.origin = "https://gate.example".to_owned();
    let nonce = sender.nonce().await;
    assert_eq!(sender.send_proof(&sender.with_nonce(&nonce)).await.summary(), "200");
}

#[tokio::test]
async fn a16_at_a_tenants_host_a_proof_is_for_that_host() {
    let authority = Authority::new("hosts");
    let toml = format!("hosts = [\"{ACME}\"]\n{}", issuers("binding = \"dpop\""));
    let site = world().file("policies/acme/tenant.toml", &toml);
    let live = certified(site, ACME, &authority.server(&[ACME], GOOD)).start().await;
    let client = live.client.trusting(&authority.pem).named(ACME);
    let (sender, port) = (Sender::new(&live), live.running.address.port());
    let send = async |url: &str, nonce: Option<&str>| {
        let (header, mut claims) = sender.proof();
        claims["htu"] = json!(url);
        if let Some(nonce) = nonce {
            claims["nonce"] = json!(nonce);
        }
        let mut request = request(Version::HTTP_2, ACME, "/echo", None);
        let headers = request.headers_mut();
        headers.insert("authorization", format!("DPoP {}", sender.token).parse().unwrap());
        headers.insert("dpop", sender.signed(&header, &claims).parse().unwrap());
        client.send(Version::HTTP_2, request).await
    };
    let here = format!("https://{ACME}:{port}/echo");
    let nonce = send(&here, None).await.header("dpop-nonce").unwrap().to_owned();
    assert_eq!(send(&here, Some(&nonce)).await.summary(), "200");
    for elsewhere in [
        format!("https://localhost:{port}/echo"),
        format!("https://localhost:{port}/acme/echo"),
        format!("https://{ACME}:{port}/acme/echo"),
        format!("https://api.globex.example:{port}/echo"),
    ] {
        let reply = send(&elsewhere, Some(&nonce)).await;
        assert_eq!(reply.summary(), "401 unauthenticated", "{elsewhere}");
        assert_eq!(live.record(&reply)["outcome"]["reason"], "proof url", "{elsewhere}");
    }
}

#[tokio::test]
async fn a16_a_bound_token_is_refused_where_nothing_is_said_of_bindings() {
    let live = World::with("echo", &echo()).start().await;
    let sender = Sender::new(&live);
    for scheme in ["Bearer", "DPoP"] {
        let (header, claims) = sender.proof();
        let proof = sender.signed(&header, &claims);
        let reply = sender.send(&format!("{scheme} {}", sender.token), &[&proof]).await;
        assert_eq!(reply.header("www-authenticate"), Some(INVALID));
        assert_eq!(live.record(&reply)["outcome"]["reason"], "binding");
    }
    let unbound = format!("DPoP {}", live.token("acme").sign());
    assert_eq!(sender.send(&unbound, &[]).await.summary(), "401 unauthenticated");
    assert_eq!(live.invoke("acme/echo").send().await.summary(), "200");
}

/// What README shows.
#[tokio::test]
async fn two_commands_and_a_call_are_a_client() {
    let dev = "[[issuers]]\nissuer = \"https://dev.acme.example\"\naudiences = [\"a\"]\nalgorithms = [\"ES256\"]\nkeys = \"dev\"\n\
               dev = true\nbinding = \"dpop\"\n";
    let live = world().file("policies/acme/tenant.toml", dev).start().await;
    let path = |name: &str| live.path().join(name).to_str().unwrap().to_owned();
    let (key, token_file) = (path("client.pem"), path("token.txt"));
    let mint =
        ["token", "mint", "--site", live.path().to_str().unwrap(), "--tenant", "acme", "--subject", "alice"];
    let token = sandgate(&[&mint[..], &["--dpop-key", &key]].concat());
    std::fs::write(Path::new(&token_file), &token).unwrap();
    let url = format!("https://localhost:{}/acme/echo", live.running.address.port());
    let proof = ["token", "proof", "--key", &key, "--method", "POST", "--url", &url, "--token", &token_file];
    let authorization = format!("DPoP {token}");
    let send = async |proof: String| {
        let call = live.invoke("acme/echo").anonymous().header("authorization", &authorization);
        call.header("dpop", &proof).send().await
    };
    let first = send(sandgate(&proof)).await;
    let nonce = first.header("dpop-nonce").unwrap();
    let reply = send(sandgate(&[&proof[..], &["--nonce", nonce]].concat())).await;
    assert_eq!(reply.summary(), "200");
    assert_eq!(live.record(&reply)["caller"]["id"], "acme/alice");
    let site = live.path().to_str().unwrap();
    let openapi: Value =
        serde_json::from_str(&sandgate(&["openapi", "--site", site, "--tenant", "acme"])).unwrap();
    assert_eq!(openapi["security"], json!([{"dpop": []}]));
    assert_eq!(openapi["components"]["securitySchemes"]["dpop"]["scheme"], "DPoP");
    let site = site.to_owned();
    let inspect = move || sandgate(&["token", "inspect", "--site", &site, "--tenant", "acme", &token_file]);
    let inspected = tokio::task::spawn_blocking(inspect).await.unwrap();
    assert!(inspected.contains("✔ binding       dpop\n"), "{inspected}");
    assert!(
        inspected.contains("→ proof url     `htu` is https://localhost:8443/acme/FUNCTION\n"),
        "{inspected}"
    );
}

/// What a command prints, without its last line end.
fn sandgate(args: &[&str]) -> String {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = std::iter::once("sandgate").chain(args.iter().copied()).map(Into::into);
    let code = sandgate::cli::run(args, &mut out, &mut err);
    assert_eq!(code, 0, "{}", String::from_utf8_lossy(&err));
    String::from_utf8(out).unwrap().trim_end().to_owned()
}

#[tokio::test]
async fn serve_refuses_an_issuer_that_binds_by_proofs_when_nobody_says_what_the_gateway_is_called() {
    let faults = async |site: World| {
        let options = Options { mode: Mode::Production, strict: true, ..Options::local(site.path()) };
        match start(options).await {
            Err(StartError::Faulty(told)) => told.iter().map(|told| told.render(false)).collect::<String>(),
            // With its policies sound, the next that it lacks is a certificate.
            Err(StartError::Tls(_)) => String::new(),
            other => panic!("{:?}", other.err()),
        }
    };
    let told = faults(world()).await;
    assert!(
        told.contains("binding `dpop` needs `[server] origin` in sandgate.toml, and it is not set"),
        "{told}"
    );
    let sound = world().file("sandgate.toml", "[server]\norigin = \"https://gate.example\"\n");
    assert_eq!(faults(sound).await, "");
}
