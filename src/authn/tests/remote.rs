//! A18, A19: key sets of a real HTTPS server on loopback, its behaviour changed from test to test, its clock ours.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use super::world::*;
use crate::authn::{
    Authenticator, AuthnError, DEFAULT_TOKEN_CACHE_BYTES, DevKeys, KeyFetch, KeySetState, Shared,
    issuer::Keys,
    remote::{Clock, Remote, Timing},
};

/// An identity provider that answers as it is told.
struct Provider {
    address: SocketAddr,
    root: Vec<u8>,
    pages: Arc<Mutex<HashMap<String, (u16, String)>>>,
    /// Requests so far.
    asked: watch::Receiver<u64>,
    /// Each answer takes one; tests that hold answers back take all of them.
    answers: Arc<Semaphore>,
}

impl Provider {
    async fn start() -> Self {
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let root = certified.cert.der().to_vec();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.into())
            .unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pages = Arc::new(Mutex::new(HashMap::<String, (u16, String)>::new()));
        let answers = Arc::new(Semaphore::new(1000));
        let (counter, asked) = watch::channel(0);
        let (served, held) = (Arc::clone(&pages), Arc::clone(&answers));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, served, held, counter) =
                    (tls.clone(), Arc::clone(&served), Arc::clone(&held), counter.clone());
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (served, held, counter) =
                            (Arc::clone(&served), Arc::clone(&held), counter.clone());
                        async move {
                            counter.send_modify(|count| *count += 1);
                            held.acquire().await.unwrap().forget();
                            let page = served.lock().unwrap().get(request.uri().path()).cloned();
                            let (status, body) = page.unwrap_or((404, String::new()));
                            let reply = Response::builder().status(StatusCode::from_u16(status).unwrap());
                            let reply = if status == 302 { reply.header("location", &body) } else { reply };
                            Ok::<_, Infallible>(reply.body(Full::new(Bytes::from(body))).unwrap())
                        }
                    });
                    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, root, pages, asked, answers }
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    fn page(&self, path: &str, status: u16, body: impl ToString) {
        self.pages.lock().unwrap().insert(path.to_owned(), (status, body.to_string()));
    }

    fn keys(&self, keys: &[Value]) {
        self.page("/jwks", 200, jwks(keys));
    }

    fn asked(&self) -> u64 {
        *self.asked.borrow()
    }
}

/// A tenant whose issuer's keys are at a provider, and a clock that stands still until it is told.
struct Gate {
    provider: Provider,
    authenticator: Arc<Authenticator>,
    offset_ms: Arc<AtomicU64>,
}

impl Gate {
    async fn new() -> Self {
        Self::at(Provider::start().await, |provider| provider.url("/jwks"), Timing::default())
    }

    async fn discovering() -> Self {
        Self::at(Provider::start().await, |_| "discover".to_owned(), Timing::default())
    }

    fn at(provider: Provider, keys: impl Fn(&Provider) -> String, timing: Timing) -> Self {
        let fetch =
            KeyFetch { allow_private: true, platform_roots: false, extra_roots: vec![provider.root.clone()] };
        Self::fetching(provider, keys, timing, fetch)
    }

    fn fetching(
        provider: Provider,
        keys: impl Fn(&Provider) -> String,
        timing: Timing,
        fetch: KeyFetch,
    ) -> Self {
        let text = TENANT
            .replace("\"jwks.json\"", &format!("\"{}\"", keys(&provider)))
            .replace(ISSUER, &provider.url("/realm"))
            .replace("\"1h\"", "\"7d\"");
        let offset_ms = Arc::new(AtomicU64::new(0));
        let (begin, offset) = (Instant::now(), Arc::clone(&offset_ms));
        let clock = Clock::new(move || begin + Duration::from_millis(offset.load(Ordering::Relaxed)));
        let shared = Shared::with(DEFAULT_TOKEN_CACHE_BYTES, fetch, clock, timing);
        let (authenticator, found) = try_compile("acme", &text, &[], DevKeys::Refused, &shared);
        let authenticator = Arc::new(authenticator.unwrap_or_else(|| panic!("{found:?}")));
        Self { provider, authenticator, offset_ms }
    }

    fn pass(&self, seconds: u64) {
        self.offset_ms.fetch_add(seconds * 1000, Ordering::Relaxed);
    }

    /// A token good for days, since the key set's clock runs ahead of the wall clock here.
    fn token(&self, key_id: &str, signer: &Signer) -> String {
        Token::new()
            .claim("iss", self.provider.url("/realm"))
            .header("kid", key_id)
            .at("exp", 6 * 24 * 3600)
            .sign(signer)
    }

    async fn ask(&self, key_id: &str, signer: &Signer) -> Result<String, AuthnError> {
        ask(&self.authenticator, &self.token(key_id, signer)).await.map(|caller| caller.id().to_owned())
    }

    fn remote(&self) -> &Arc<Remote> {
        match &self.authenticator.records[0].keys {
            Keys::Remote(remote) => remote,
            _ => unreachable!("the keys are remote"),
        }
    }

    /// Does something that begins a fetch in the background, and waits until that has landed.
    async fn landing(&self, act: impl AsyncFnOnce()) {
        let mut landed = self.remote().landed();
        act().await;
        landed.changed().await.unwrap();
    }

    fn state(&self) -> KeySetState {
        self.authenticator.health()[0].state
    }
}

fn unavailable(result: Result<String, AuthnError>) -> (Duration, String) {
    match result {
        Err(AuthnError::KeysUnavailable { retry_after, source, .. }) => (retry_after, source.to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a18_keys_are_fetched_when_first_needed_and_then_kept() {
    let gate = Gate::new().await;
    let signer = Signer::es256();
    gate.provider.keys(&[signer.listed("k1")]);
    assert_eq!((gate.state(), gate.provider.asked()), (KeySetState::Waiting, 0));
    for _ in 0..3 {
        assert_eq!(gate.ask("k1", &signer).await.unwrap(), "acme/alice");
    }
    assert_eq!((gate.state(), gate.provider.asked()), (KeySetState::Ready, 1));
}

#[tokio::test]
async fn a18_requests_that_come_together_share_one_fetch() {
    let gate = Arc::new(Gate::new().await);
    let signer = Arc::new(Signer::es256());
    gate.provider.keys(&[signer.listed("k1")]);
    gate.provider.answers.forget_permits(1000);
    let requests: Vec<_> = (0..20)
        .map(|_| {
            let (gate, signer) = (Arc::clone(&gate), Arc::clone(&signer));
            tokio::spawn(async move { gate.ask("k1", &signer).await })
        })
        .collect();
    // The provider has been asked, and does not answer yet; some requests give up meanwhile, the first among them.
    gate.provider.asked.clone().wait_for(|count| *count > 0).await.unwrap();
    requests[0].abort();
    gate.provider.answers.add_permits(1);
    for request in requests.into_iter().skip(1) {
        assert!(request.await.unwrap().is_ok());
    }
    assert_eq!(gate.provider.asked(), 1);
}

#[tokio::test]
async fn a18_a_new_key_is_found_and_an_old_one_ends_at_the_next_good_fetch() {
    let gate = Gate::new().await;
    let (old, new) = (Signer::es256(), Signer::es256());
    gate.provider.keys(&[old.listed("old")]);
    assert!(gate.ask("old", &old).await.is_ok());
    gate.provider.keys(&[new.listed("new"), old.listed("old")]);
    assert!(gate.ask("new", &new).await.is_ok());
    assert!(gate.ask("old", &old).await.is_ok(), "both, while both are listed");
    gate.provider.keys(&[new.listed("new")]);
    gate.pass(301);
    // The refresh is due: this request is still served, the fetch goes on behind it.
    gate.landing(async || assert!(gate.ask("old", &old).await.is_ok())).await;
    assert!(
        matches!(gate.ask("old", &old).await, Err(AuthnError::UnknownKey { .. })),
        "though it was cached"
    );
    assert!(gate.ask("new", &new).await.is_ok());
}

#[tokio::test]
async fn a18_an_uneventful_refresh_keeps_cached_verdicts() {
    let gate = Gate::new().await;
    let signer = Signer::es256();
    gate.provider.keys(&[signer.listed("k1")]);
    let token = gate.token("k1", &signer);
    let first = ask(&gate.authenticator, &token).await.unwrap();
    gate.pass(301);
    gate.landing(async || assert!(ask(&gate.authenticator, &token).await.is_ok())).await;
    assert_eq!(gate.provider.asked(), 2);
    assert!(Arc::ptr_eq(&first, &ask(&gate.authenticator, &token).await.unwrap()));
}

#[tokio::test]
async fn a18_unknown_key_ids_cause_one_fetch_a_minute() {
    let gate = Gate::new().await;
    let (signer, stranger) = (Signer::es256(), Signer::es256());
    gate.provider.keys(&[signer.listed("k1")]);
    assert!(gate.ask("k1", &signer).await.is_ok());
    for id in 0..10 {
        let refused = gate.ask(&format!("x{id}"), &stranger).await;
        assert!(matches!(refused, Err(AuthnError::UnknownKey { .. })));
    }
    assert_eq!(gate.provider.asked(), 2);
    // One that was fetched for in vain does not use up the next fetch; another does.
    gate.pass(61);
    assert!(gate.ask("x0", &stranger).await.is_err());
    assert_eq!(gate.provider.asked(), 2);
    gate.provider.keys(&[signer.listed("k1"), stranger.listed("k2")]);
    assert!(gate.ask("k2", &stranger).await.is_ok());
    assert_eq!(gate.provider.asked(), 3);
}

#[tokio::test]
async fn a18_last_good_keys_serve_while_fetches_fail_but_not_for_ever() {
    let gate = Gate::new().await;
    let signer = Signer::es256();
    gate.provider.keys(&[signer.listed("k1")]);
    assert!(gate.ask("k1", &signer).await.is_ok());
    gate.provider.page("/jwks", 500, "down");
    gate.pass(301);
    gate.landing(async || assert!(gate.ask("k1", &signer).await.is_ok())).await;
    assert_eq!(gate.state(), KeySetState::Stale);
    assert!(gate.authenticator.health()[0].last_error.as_ref().unwrap().contains("answered 500"));
    gate.pass(23 * 3600);
    gate.landing(async || assert!(gate.ask("k1", &signer).await.is_ok())).await;
    gate.pass(3600);
    let (retry_after, why) = unavailable(gate.ask("k1", &signer).await);
    assert!(why.contains("answered 500") && retry_after >= Duration::from_secs(1), "{retry_after:?} {why}");
    assert_eq!(gate.state(), KeySetState::Unavailable);
    gate.provider.keys(&[signer.listed("k1")]);
    gate.pass(301);
    assert!(gate.ask("k1", &signer).await.is_ok());
    assert_eq!(gate.state(), KeySetState::Ready);
}

#[tokio::test]
async fn a18_what_is_no_key_set_never_becomes_one_and_is_asked_for_again_later() {
    let gate = Gate::new().await;
    let signer = Signer::es256();
    let mut private = signer.listed("k1");
    private["d"] = json!("AAAA");
    let elsewhere = gate.provider.url("/real");
    gate.provider.page("/real", 200, jwks(&[signer.listed("k1")]));
    for (status, body, why) in [
        (503, jwks(&[signer.listed("k1")]), "answered 503"),
        (404, String::new(), "answered 404"),
        (302, elsewhere, "answered 302"),
        (200, "<html>".to_owned(), "no key set"),
        (200, "{\"keys\": []}".to_owned(), "no key in the set"),
        (200, jwks(&[json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"})]), "no key in the set"),
        (200, jwks(&[private]), "is private"),
        (200, format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(300 * 1024)), "larger than"),
    ] {
        gate.provider.page("/jwks", status, body);
        let before = gate.provider.asked();
        let (retry_after, told) = unavailable(gate.ask("k1", &signer).await);
        assert!(told.contains(why), "{told}");
        // Within the pause, nobody asks again.
        unavailable(gate.ask("k1", &signer).await);
        assert_eq!(gate.provider.asked(), before + 1);
        gate.pass(retry_after.as_secs() + 1);
    }
    gate.provider.keys(&[signer.listed("k1")]);
    assert!(gate.ask("k1", &signer).await.is_ok());
}

#[tokio::test]
async fn a18_neither_private_addresses_nor_strange_certificates_are_trusted() {
    let signer = Signer::es256();
    let provider = Provider::start().await;
    provider.keys(&[signer.listed("k1")]);
    let fetch =
        KeyFetch { allow_private: false, platform_roots: false, extra_roots: vec![provider.root.clone()] };
    let gate = Gate::fetching(provider, |provider| provider.url("/jwks"), Timing::default(), fetch);
    assert!(unavailable(gate.ask("k1", &signer).await).1.contains("no public address"));
    assert_eq!(gate.provider.asked(), 0);

    let (provider, other) = (Provider::start().await, Provider::start().await);
    let fetch = KeyFetch { allow_private: true, platform_roots: false, extra_roots: vec![other.root] };
    let gate = Gate::fetching(provider, |provider| provider.url("/jwks"), Timing::default(), fetch);
    unavailable(gate.ask("k1", &signer).await);
    assert_eq!(gate.provider.asked(), 0);
}

#[tokio::test]
async fn a18_a_used_key_set_is_refreshed_in_the_background_until_its_tenant_is_gone() {
    let timing = Timing { refresh: Duration::from_millis(5), ..Timing::default() };
    let gate = Gate::at(Provider::start().await, |provider| provider.url("/jwks"), timing);
    let signer = Signer::es256();
    gate.provider.keys(&[signer.listed("k1")]);
    gate.authenticator.start(&tokio::runtime::Handle::current());
    assert!(gate.ask("k1", &signer).await.is_ok());
    gate.pass(1);
    gate.remote().keys().await.unwrap();
    gate.provider.asked.clone().wait_for(|count| *count >= 2).await.unwrap();
    let tasks: Vec<_> =
        gate.authenticator.refreshing.get().unwrap().iter().map(|task| task.abort_handle()).collect();
    assert!(!tasks.is_empty() && tasks.iter().all(|task| !task.is_finished()));
    drop(gate);
    for task in tasks {
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a18_when_one_revision_ends_the_next_keeps_its_key_sets_fresh() {
    let timing = Timing { refresh: Duration::from_millis(5), ..Timing::default() };
    let mut gate = Gate::at(Provider::start().await, |provider| provider.url("/jwks"), timing);
    let signer = Signer::es256();
    gate.provider.keys(&[signer.listed("k1")]);
    let handle = tokio::runtime::Handle::current();
    let text = TENANT
        .replace("\"jwks.json\"", &format!("\"{}\"", gate.provider.url("/jwks")))
        .replace(ISSUER, &gate.provider.url("/realm"));
    let (next, _) = try_compile("acme", &text, &[], DevKeys::Refused, &gate.authenticator.shared);
    let next = Arc::new(next.unwrap());
    gate.authenticator.start(&handle);
    next.start(&handle);
    assert!(gate.ask("k1", &signer).await.is_ok());
    gate.authenticator = next;
    tokio::task::yield_now().await;
    gate.pass(1);
    gate.remote().keys().await.unwrap();
    gate.provider.asked.clone().wait_for(|count| *count >= 2).await.unwrap();
}

#[tokio::test]
async fn a02_a_fetched_key_that_two_algorithms_fit_is_not_used() {
    let provider = Provider::start().await;
    let signer = Signer::rsa();
    let mut bare = signer.jwk();
    bare.insert("kid".to_owned(), json!("k1"));
    provider.keys(&[bare.into()]);
    let root = provider.root.clone();
    let fetch = KeyFetch { allow_private: true, platform_roots: false, extra_roots: vec![root] };
    let text = TENANT
        .replace("\"jwks.json\"", &format!("\"{}\"", provider.url("/jwks")))
        .replace("\"RS256\"]", "\"RS256\", \"PS256\"]");
    let shared = Shared::new(DEFAULT_TOKEN_CACHE_BYTES, fetch);
    let (authenticator, _) = try_compile("acme", &text, &[], DevKeys::Refused, &shared);
    let refused = ask(&authenticator.unwrap(), &Token::new().sign(&signer)).await;
    assert!(matches!(refused, Err(AuthnError::AmbiguousKey { .. })));
}

#[tokio::test]
async fn a18_revisions_and_tenants_share_the_key_set_of_an_issuer() {
    let gate = Gate::new().await;
    let signer = Signer::es256();
    gate.provider.keys(&[signer.listed("k1")]);
    assert!(gate.ask("k1", &signer).await.is_ok());
    let text = TENANT
        .replace("\"jwks.json\"", &format!("\"{}\"", gate.provider.url("/jwks")))
        .replace(ISSUER, &gate.provider.url("/realm"));
    let (next, _) = try_compile("acme", &text, &[], DevKeys::Refused, &gate.authenticator.shared);
    assert!(
        ask(&next.unwrap(), &Token::new().claim("iss", gate.provider.url("/realm")).sign(&signer))
            .await
            .is_ok()
    );
    assert_eq!(gate.provider.asked(), 1);
}

#[tokio::test]
async fn a19_the_discovery_document_must_be_the_issuers_own() {
    let gate = Gate::discovering().await;
    let signer = Signer::es256();
    gate.provider.keys(&[signer.listed("k1")]);
    let (issuer, keys) = (gate.provider.url("/realm"), gate.provider.url("/jwks"));
    let openid = "/realm/.well-known/openid-configuration";
    for (issuer, jwks_uri, why) in [
        (format!("{issuer}/"), keys.clone(), "for another issuer"),
        ("https://evil.example".to_owned(), keys.clone(), "for another issuer"),
        (issuer.clone(), keys.replace("https", "http"), "only https is fetched"),
        (issuer.clone(), "/jwks".to_owned(), "not a URL"),
        (issuer.clone(), "file:///etc/passwd".to_owned(), "only https is fetched"),
    ] {
        gate.provider.page(openid, 200, json!({"issuer": issuer, "jwks_uri": jwks_uri}));
        let (retry_after, told) = unavailable(gate.ask("k1", &signer).await);
        assert!(told.contains(why), "{told}");
        gate.pass(retry_after.as_secs() + 1);
    }
    gate.provider.page(openid, 200, json!({"issuer": issuer}));
    let (retry_after, told) = unavailable(gate.ask("k1", &signer).await);
    assert!(told.contains("no usable `jwks_uri`"), "{told}");
    gate.pass(retry_after.as_secs() + 1);
    gate.provider.page(openid, 200, json!({"issuer": issuer, "jwks_uri": keys}));
    assert!(gate.ask("k1", &signer).await.is_ok());
}

#[tokio::test]
async fn a19_an_issuer_of_rfc_8414_is_discovered_too() {
    let gate = Gate::discovering().await;
    let signer = Signer::es256();
    gate.provider.keys(&[signer.listed("k1")]);
    let metadata = json!({"issuer": gate.provider.url("/realm"), "jwks_uri": gate.provider.url("/jwks")});
    gate.provider.page("/.well-known/oauth-authorization-server/realm", 200, metadata);
    assert!(gate.ask("k1", &signer).await.is_ok());
    assert_eq!(gate.provider.asked(), 3);
}
