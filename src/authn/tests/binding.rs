//! A16, A17: a token that is bound to its sender is of no use to anybody else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;
use serde_json::{Value, json};

use super::world::*;
use crate::{
    authn::{
        Authenticated, Authenticator, AuthnError, CertificateThumbprint, Check, ClientCertificate, DevKeys,
        KeyFetch, ProofError, Shared,
        binding::{Binding, Confirmation, KeyThumbprint},
        client::{ClientKey, ProofRequest},
        dev::{BoundTo, DevIssuer, MintError, MintRequest, mint},
        dpop::{self, Asked, Ledger, Proof},
        inspect, keys,
        remote::{Clock, Timing},
    },
    site::{
        diagnostic::{Diagnostic, Source},
        origin::Origin,
        tenant::RawTenant,
    },
};

/// A tenant whose issuer binds its tokens, and one of its callers.
struct Bound {
    authenticator: Authenticator,
    issuer: Signer,
    sender: Signer,
    shared: Arc<Shared>,
    /// Seconds that the monotonic clock shows.
    clock: Arc<AtomicU64>,
}

impl Bound {
    fn new() -> Self {
        Self::sent_by(Signer::es256())
    }

    fn sent_by(sender: Signer) -> Self {
        let (begin, clock) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let shown = Arc::clone(&clock);
        let now = Clock::new(move || begin + Duration::from_secs(shown.load(Ordering::Relaxed)));
        let fetch = KeyFetch { platform_roots: false, ..KeyFetch::default() };
        let shared = Shared::with(1 << 20, fetch, now, Timing::default());
        let issuer = Signer::es256();
        let authenticator = dpop_authenticator(&issuer, &shared);
        Self { authenticator, issuer, sender, shared, clock }
    }

    /// A token that is bound to the sender's key.
    fn token(&self) -> String {
        self.bound(json!({"jkt": self.thumbprint()}))
    }

    fn bound(&self, confirmation: Value) -> String {
        Token::new().claim("cnf", confirmation).sign(&self.issuer)
    }

    fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(keys::thumbprint(&self.sender.jwk()).unwrap())
    }

    async fn ask(&self, token: &str, proofs: &[String]) -> Result<Authenticated<()>, AuthnError> {
        self.ask_as("DPoP", token, proofs, SystemTime::now()).await
    }

    async fn ask_as(
        &self,
        scheme: &str,
        token: &str,
        proofs: &[String],
        now: SystemTime,
    ) -> Result<Authenticated<()>, AuthnError> {
        let authorization = format!("{scheme} {token}");
        let mut request = received(&[authorization.as_bytes()], now);
        for proof in proofs {
            request.head.headers.append("dpop", HeaderValue::try_from(proof).unwrap());
        }
        self.authenticator.authenticate(request).await
    }

    /// A nonce, as a first attempt learns it.
    async fn nonce(&self) -> String {
        let token = self.token();
        match self.ask(&token, &[ProofText::new(&token).sign(&self.sender)]).await {
            Err(AuthnError::Proof(ProofError::Nonce { fresh })) => fresh,
            other => panic!("{other:?}"),
        }
    }

    async fn refusal(&self, token: &str, proofs: &[String]) -> AuthnError {
        let refused = self.ask(token, proofs).await.expect_err("the proof was taken");
        assert_ne!(refused.check(), Check::Nonce, "{refused}");
        refused
    }
}

fn dpop_authenticator(issuer: &Signer, shared: &Arc<Shared>) -> Authenticator {
    let text = format!("{TENANT}binding = \"dpop\"\n");
    let files = [("jwks.json", jwks(&[issuer.listed("k1")]))];
    let (authenticator, found) = try_compile("acme", &text, &files, DevKeys::Refused, shared);
    authenticator.unwrap_or_else(|| panic!("{found:?}"))
}

/// A proof in the making: good until a test bends it, but for its nonce.
#[derive(Clone)]
struct ProofText {
    header: Value,
    claims: Value,
}

impl ProofText {
    fn new(token: &str) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Self {
            header: json!({"typ": "dpop+jwt"}),
            claims: json!({
                "jti": format!("proof-{}", SERIAL.fetch_add(1, Ordering::Relaxed)), "htm": "POST",
                "htu": "https://gate.example/acme/echo", "iat": seconds(SystemTime::now()),
                "ath": URL_SAFE_NO_PAD.encode(keys::sha256(token.as_bytes())),
            }),
        }
    }

    fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims[name] = value.into();
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.claims.as_object_mut().unwrap().remove(name);
        self
    }

    fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header[name] = value.into();
        self
    }

    fn sign(&self, signer: &Signer) -> String {
        let mut header = self.header.clone();
        for (name, value) in [("alg", json!(signer.algorithm())), ("jwk", Value::Object(signer.jwk()))] {
            if header.get(name).is_none() {
                header[name] = value;
            }
        }
        let algorithm = header["alg"].as_str().unwrap_or_default().to_owned();
        signer.seal(&algorithm, &header.to_string(), &self.claims.to_string())
    }
}

#[tokio::test]
async fn a16_a_bound_token_is_served_with_a_proof_and_the_nonce_that_was_told() {
    for sender in [Signer::es256(), Signer::es384(), Signer::ed25519(), Signer::rsa()] {
        let world = Bound::sent_by(sender);
        let (token, nonce) = (world.token(), world.nonce().await);
        let algorithms = match &world.sender {
            Signer::Rsa(_) => vec!["RS256", "PS256", "PS512"],
            other => vec![other.algorithm()],
        };
        for algorithm in algorithms {
            let proof = ProofText::new(&token).claim("nonce", nonce.as_str()).header("alg", algorithm);
            let authenticated = world.ask(&token, &[proof.sign(&world.sender)]).await.unwrap();
            let caller = authenticated.caller();
            assert_eq!((caller.id(), caller.binding()), ("acme/alice", "dpop"));
            assert_eq!(authenticated.fresh_nonce(), None);
            assert!(authenticated.head().headers.is_empty(), "credentials go no further");
        }
    }
}

#[tokio::test]
async fn a16_each_deviation_of_a_proof_is_refused_for_its_reason() {
    let world = Bound::new();
    let (token, nonce) = (world.token(), world.nonce().await);
    let good = || ProofText::new(&token).claim("nonce", nonce.as_str());
    let now = seconds(SystemTime::now());
    let signed = |proof: ProofText| vec![proof.sign(&world.sender)];
    let url = |url: &str| signed(good().claim("htu", url));
    let jwk = |more: Value| {
        let mut jwk = world.sender.jwk();
        jwk.extend(more.as_object().unwrap().clone());
        signed(good().header("jwk", jwk))
    };
    let secret = {
        let header = json!({"typ": "dpop+jwt", "alg": "HS256", "jwk": world.sender.jwk()}).to_string();
        let message = format!("{}.{}", encode(&header), encode(&good().claims.to_string()));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[0; 32]);
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, message.as_bytes())))
    };
    let twice = {
        let claims = good().claims.to_string();
        let doubled = format!("{},\"htm\":\"POST\"}}", claims.trim_end_matches('}'));
        let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": world.sender.jwk()}).to_string();
        world.sender.seal("ES256", &header, &doubled)
    };
    let forged = {
        let proof = good().sign(&world.sender);
        let (message, _) = proof.rsplit_once('.').unwrap();
        format!("{message}.{}", encode(&"s".repeat(64)))
    };
    let mut wide = good().header("kid", "x".repeat(4096));
    wide.header["alg"] = json!("ES256");
    let cases: Vec<(&str, Vec<String>, Check)> = vec![
        ("no proof", vec![], Check::Proof),
        ("two proofs", [signed(good()), signed(good())].concat(), Check::Proof),
        ("no JWS", vec!["x.y".into()], Check::Proof),
        ("padding", vec![good().sign(&world.sender).replacen('.', "=.", 1)], Check::Proof),
        ("too long", signed(wide), Check::Proof),
        ("typ JWT", signed(good().header("typ", "JWT")), Check::Proof),
        ("typ at+jwt", signed(good().header("typ", "at+jwt")), Check::Proof),
        ("typ of another type", signed(good().header("typ", 7)), Check::Proof),
        ("crit", signed(good().header("crit", json!(["b64"]))), Check::Proof),
        ("HS256", vec![secret], Check::Proof),
        ("alg none", signed(good().header("alg", "none")), Check::Proof),
        ("alg ES256K", signed(good().header("alg", "ES256K")), Check::Proof),
        ("jwk is text", signed(good().header("jwk", "x")), Check::Proof),
        ("private jwk", jwk(json!({"d": "c2VjcmV0"})), Check::ProofKey),
        ("another key", vec![good().sign(&Signer::es256())], Check::ProofKey),
        (
            "the token's key, another's signature",
            { vec![good().header("jwk", world.sender.jwk()).sign(&Signer::es256())] },
            Check::ProofSignature,
        ),
        ("a key for encryption", jwk(json!({"use": "enc"})), Check::ProofKey),
        ("a key of another alg", jwk(json!({"alg": "ES384"})), Check::ProofKey),
        ("alg of another family", signed(good().header("alg", "RS256")), Check::ProofKey),
        ("a forged signature", vec![forged], Check::ProofSignature),
        ("a claim twice", vec![twice], Check::ProofClaims),
        ("no jti", signed(good().without("jti")), Check::ProofClaims),
        ("empty jti", signed(good().claim("jti", "")), Check::ProofClaims),
        ("long jti", signed(good().claim("jti", "x".repeat(257))), Check::ProofClaims),
        ("jti is a number", signed(good().claim("jti", 7)), Check::ProofClaims),
        ("no htm", signed(good().without("htm")), Check::ProofClaims),
        ("no htu", signed(good().without("htu")), Check::ProofClaims),
        ("no iat", signed(good().without("iat")), Check::ProofClaims),
        ("iat is text", signed(good().claim("iat", now.to_string())), Check::ProofClaims),
        ("no ath", signed(good().without("ath")), Check::ProofClaims),
        ("nonce is a number", signed(good().claim("nonce", 7)), Check::ProofClaims),
        ("another method", signed(good().claim("htm", "GET")), Check::ProofMethod),
        ("method in lower case", signed(good().claim("htm", "post")), Check::ProofMethod),
        ("another path", url("https://gate.example/acme/other"), Check::ProofUrl),
        ("a longer path", url("https://gate.example/acme/echo/"), Check::ProofUrl),
        ("an encoded path", url("https://gate.example/acme/%65cho"), Check::ProofUrl),
        ("dot segments", url("https://gate.example/acme/x/../echo"), Check::ProofUrl),
        ("another host", url("https://evil.example/acme/echo"), Check::ProofUrl),
        ("another port", url("https://gate.example:8443/acme/echo"), Check::ProofUrl),
        ("plain http", url("http://gate.example/acme/echo"), Check::ProofUrl),
        ("a user", url("https://gate.example@evil.example/acme/echo"), Check::ProofUrl),
        ("no scheme", url("//gate.example/acme/echo"), Check::ProofUrl),
        ("a path alone", url("/acme/echo"), Check::ProofUrl),
        (
            "another token's",
            signed(good().claim("ath", ProofText::new("x").claims["ath"].clone())),
            Check::ProofToken,
        ),
        ("stale", signed(good().claim("iat", now - 95)), Check::ProofTime),
        ("from the future", signed(good().claim("iat", now + 35)), Check::ProofTime),
        ("expired by itself", signed(good().claim("exp", now - 40)), Check::ProofTime),
        ("not yet, by itself", signed(good().claim("nbf", now + 40)), Check::ProofTime),
    ];
    for (what, proofs, check) in cases {
        let refused = world.refusal(&token, &proofs).await;
        assert_eq!(refused.check(), check, "{what}: {refused}");
    }
    for text in [
        "HTTPS://GATE.example:443/acme/echo?query=1",
        "https://gate.example:/acme/echo#fragment",
        "https://gate.example/acme/echo?a=/b#c",
    ] {
        assert!(world.ask(&token, &url(text)).await.is_ok(), "{text}");
    }
    for (claim, value) in [("iat", now - 80), ("iat", now + 25)] {
        assert!(world.ask(&token, &signed(good().claim(claim, value))).await.is_ok(), "{value}");
    }
    assert!(world.ask(&token, &signed(good().header("typ", "application/DPoP+jwt"))).await.is_ok());
}

#[tokio::test]
async fn a16_a_proof_is_good_once_also_for_a_token_in_the_cache_and_after_a_reload() {
    let world = Bound::new();
    let (token, nonce) = (world.token(), world.nonce().await);
    let proof = [ProofText::new(&token).claim("nonce", nonce).sign(&world.sender)];
    assert!(world.ask(&token, &proof).await.is_ok());
    assert!(world.shared.cached_tokens() > 0);
    let again = world.refusal(&token, &proof).await;
    assert!(matches!(again, AuthnError::Proof(ProofError::Used)), "{again}");
    let without = world.refusal(&token, &[]).await;
    assert!(
        matches!(without, AuthnError::Proof(ProofError::Missing)),
        "a kept verdict skips no proof: {without}"
    );
    // A later revision of the tenant's part, while the former is still there.
    let Bound { authenticator: former, issuer, sender, shared, clock } = world;
    let later = dpop_authenticator(&issuer, &shared);
    drop(former);
    let world = Bound { authenticator: later, issuer, sender, shared, clock };
    let reloaded = world.refusal(&token, &proof).await;
    assert!(matches!(reloaded, AuthnError::Proof(ProofError::Used)), "{reloaded}");
}

#[tokio::test]
async fn a16_a_nonce_is_renewed_before_it_ends_and_asked_for_when_it_has_ended() {
    let world = Bound::new();
    let (token, nonce) = (world.token(), world.nonce().await);
    let with = |nonce: &str| [ProofText::new(&token).claim("nonce", nonce).sign(&world.sender)];
    assert_eq!(world.ask(&token, &with(&nonce)).await.unwrap().fresh_nonce(), None);
    world.clock.store(60, Ordering::Relaxed);
    let renewed = world.ask(&token, &with(&nonce)).await.unwrap().fresh_nonce().unwrap().to_owned();
    assert_ne!(renewed, nonce);
    assert_eq!(world.ask(&token, &with(&renewed)).await.unwrap().fresh_nonce(), None);
    world.clock.store(120, Ordering::Relaxed);
    match world.ask(&token, &with(&nonce)).await {
        Err(AuthnError::Proof(ProofError::Nonce { fresh })) => {
            assert!(world.ask(&token, &with(&fresh)).await.is_ok())
        }
        other => panic!("{other:?}"),
    }
    // Another process has another key, and so has another tenant's ledger.
    let theirs = Bound::new().nonce().await;
    assert!(matches!(
        world.ask(&token, &with(&theirs)).await,
        Err(AuthnError::Proof(ProofError::Nonce { .. }))
    ));
}

#[tokio::test]
async fn a16_only_who_holds_the_token_and_its_key_hears_a_nonce() {
    let world = Bound::new();
    let token = world.token();
    let proof = |token: &str| [ProofText::new(token).sign(&world.sender)];
    // A token that is not valid here, a key that is not the token's.
    let expired = Token::new().at("exp", -60).at("iat", -70).claim("cnf", json!({"jkt": world.thumbprint()}));
    let expired = expired.sign(&world.issuer);
    assert_eq!(world.refusal(&expired, &proof(&expired)).await.check(), Check::Expiry);
    let thief = [ProofText::new(&token).sign(&Signer::es256())];
    assert_eq!(world.refusal(&token, &thief).await.check(), Check::ProofKey);
}

#[tokio::test]
async fn a16_what_is_bound_and_how_it_comes_must_agree() {
    let world = Bound::new();
    let (token, nonce, now) = (world.token(), world.nonce().await, SystemTime::now());
    let proof = |token: &str| [ProofText::new(token).claim("nonce", nonce.as_str()).sign(&world.sender)];
    let as_bearer = world.ask_as("Bearer", &token, &proof(&token), now).await.unwrap_err();
    assert!(matches!(as_bearer, AuthnError::BoundAsBearer));
    let jkt = world.thumbprint();
    let digest = CertificateThumbprint::of(b"x").to_string();
    for (confirmation, expected) in [
        (json!({}), "not so bound"),
        (json!({"x5t#S256": digest}), "not so bound"),
        (json!({"jwk": world.sender.jwk()}), "not so bound"),
        (json!({"kid": "k1"}), "not so bound"),
        (json!({"jkt": jkt, "x5t#S256": digest}), "not so bound"),
        (json!(null), "claim `cnf`"),
        (json!(jkt), "claim `cnf`"),
        (json!({"jkt": null}), "claim `cnf`"),
        (json!({"jkt": &jkt[1..]}), "claim `cnf`"),
        (json!({"jkt": format!("{jkt}=")}), "claim `cnf`"),
    ] {
        let token = world.bound(confirmation.clone());
        let refused = world.ask(&token, &proof(&token)).await.unwrap_err().to_string();
        assert!(refused.contains(expected), "{confirmation}: {refused}");
    }
    let unbound = Token::new().sign(&world.issuer);
    for scheme in ["Bearer", "DPoP"] {
        let refused = world.ask_as(scheme, &unbound, &proof(&unbound), now).await.unwrap_err();
        assert!(matches!(refused, AuthnError::NotBound { binding: "dpop", .. }), "{scheme}: {refused}");
    }

    // An issuer that binds nothing takes no token that is bound, and none under the scheme for those.
    let plain = World::with(world.issuer);
    for confirmation in [json!({"jkt": jkt}), json!({"x5t#S256": digest}), json!({"kid": "k"}), json!({})] {
        let refused = plain.refusal(Token::new().claim("cnf", confirmation)).await;
        assert!(matches!(refused, AuthnError::BoundUnasked { .. }), "{refused}");
    }
    let header = format!("DPoP {}", Token::new().sign(&plain.signer));
    let refused = plain.authenticator.authenticate(received(&[header.as_bytes()], now)).await.unwrap_err();
    assert!(matches!(refused, AuthnError::UnboundAsDpop));
}

#[test]
fn a16_a_tenant_without_room_for_proofs_sheds_and_serves_again_later() {
    let seconds_shown = Arc::new(AtomicU64::new(0));
    let (begin, shown) = (Instant::now(), Arc::clone(&seconds_shown));
    let clock = Clock::new(move || begin + Duration::from_secs(shown.load(Ordering::Relaxed)));
    let ledger = Ledger::new(clock, 16).unwrap();
    let (sender, origin) = (Signer::es256(), ORIGIN.parse::<Origin>().unwrap());
    let hash = keys::sha256(b"token");
    let thumbprint = KeyThumbprint(keys::thumbprint(&sender.jwk()).unwrap());
    let asked = Asked {
        method: &http::Method::POST,
        origin: &origin,
        path: "/acme/echo",
        token: &hash,
        leeway: 30,
        now: SystemTime::now(),
    };
    let present = |proof: &ProofText| {
        let mut headers = http::HeaderMap::new();
        headers.insert("dpop", HeaderValue::try_from(proof.sign(&sender)).unwrap());
        dpop::check(&headers, &thumbprint, &ledger, &asked)
    };
    let nonce = || match present(&ProofText::new("token")) {
        Err(ProofError::Nonce { fresh }) => fresh,
        other => panic!("{other:?}"),
    };
    let proofs: Vec<_> = (0..100).map(|_| ProofText::new("token").claim("nonce", nonce())).collect();
    let answers: Vec<_> = proofs.iter().map(present).collect();
    let served = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!(served > 0 && served <= 16, "{served}");
    assert!(answers.iter().all(|answer| matches!(answer, Ok(None) | Err(ProofError::Full))));
    assert!(proofs.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()).all(|(proof, _)| present(
        proof
    ) == Err(
        ProofError::Used
    )));
    seconds_shown.store(120, Ordering::Relaxed);
    assert!(
        matches!(present(&proofs[0]), Err(ProofError::Nonce { .. })),
        "nothing is replayed when room is made"
    );
    assert_eq!(present(&ProofText::new("token").claim("nonce", nonce())), Ok(None));
}

/// `tests/fixtures/authn/rfc/dpop.json`: proofs as RFC 9449 prints them, each with its section.
#[test]
fn a16_the_examples_of_rfc_9449_are_read_verified_and_hashed_as_it_says() {
    let examples: Value =
        serde_json::from_str(include_str!("../../../tests/fixtures/authn/rfc/dpop.json")).unwrap();
    let text = |example: &Value, name: &str| example[name].as_str().unwrap().to_owned();
    let proofs = examples["proofs"].as_array().unwrap();
    assert_eq!(proofs.len(), 2);
    for example in proofs {
        let proof = Proof::open(example["proof"].as_str().unwrap()).unwrap();
        let thumbprint = URL_SAFE_NO_PAD.encode(proof.thumbprint().unwrap());
        assert_eq!(thumbprint, text(&examples["thumbprint"], "jkt"), "{}", example["section"]);
        let verified = proof.verify(example["proof"].as_str().unwrap());
        let Some(token) = example["token"].as_str() else {
            // For a token endpoint there is no token yet to be named.
            assert_eq!(verified.unwrap_err(), ProofError::Claim { claim: "ath" });
            continue;
        };
        let hash = keys::sha256(token.as_bytes());
        assert_eq!(URL_SAFE_NO_PAD.encode(hash), text(example, "ath"));
        let (origin, path) = ("https://resource.example.org".parse().unwrap(), "/protectedresource");
        let made = example["iat"].as_u64().unwrap();
        let at = |seconds| Asked {
            method: &http::Method::GET,
            origin: &origin,
            path,
            token: &hash,
            leeway: 0,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        };
        let claims = verified.unwrap();
        assert_eq!(claims.fit(&at(made)), Ok(()));
        assert_eq!(claims.fit(&at(made + 61)), Err(ProofError::Time { when: "stale" }));
    }
}

#[tokio::test]
async fn a17_a_token_that_is_bound_to_a_certificate_needs_that_of_this_connection() {
    let mut world = World::new();
    world.authenticator.records[0].binding = Binding::Mtls;
    let now = SystemTime::now();
    let certificate =
        |der: &[u8], expires| ClientCertificate { thumbprint: CertificateThumbprint::of(der), expires };
    let ours = certificate(b"our certificate", now);
    let ask = async |confirmation: Option<Value>, scheme: &str, certificate| {
        let token = match confirmation {
            Some(confirmation) => Token::new().claim("cnf", confirmation),
            None => Token::new(),
        };
        let header = format!("{scheme} {}", token.sign(&world.signer));
        let mut request = received(&[header.as_bytes()], now);
        request.head.client_certificate = certificate;
        world.authenticator.authenticate(request).await
    };
    let bound = || Some(json!({"x5t#S256": ours.thumbprint.to_string()}));
    let authenticated = ask(bound(), "Bearer", Some(ours)).await.unwrap();
    assert_eq!(authenticated.caller().binding(), "mtls");
    // The handshake was good, and the connection lasted longer than the certificate.
    let expired = certificate(b"our certificate", now - Duration::from_secs(1));
    let late = ask(bound(), "Bearer", Some(expired)).await;
    assert!(matches!(late, Err(AuthnError::Certificate { has: "an expired one" })), "{late:?}");
    let another = certificate(b"another certificate", now);
    assert!(matches!(
        ask(bound(), "Bearer", Some(another)).await,
        Err(AuthnError::Certificate { has: "another" })
    ));
    assert!(matches!(ask(bound(), "Bearer", None).await, Err(AuthnError::Certificate { has: "none" })));
    assert!(matches!(ask(bound(), "DPoP", Some(ours)).await, Err(AuthnError::UnboundAsDpop)));
    for other in [
        None,
        Some(json!({"jkt": ours.thumbprint.to_string()})),
        Some(json!({"x5t#S256": ours.thumbprint.to_string(), "kid": "k"})),
    ] {
        assert!(matches!(
            ask(other, "Bearer", Some(ours)).await,
            Err(AuthnError::NotBound { binding: "mtls", .. })
        ));
    }
    let malformed = ask(Some(json!({"x5t#S256": "AAAA"})), "Bearer", Some(ours)).await;
    assert!(matches!(malformed, Err(AuthnError::Claim { claim: "cnf" })));
}

/// RFC 8705, appendix A.
#[test]
fn a17_the_example_of_rfc_8705_has_the_thumbprint_that_it_says() {
    let example: Value =
        serde_json::from_str(include_str!("../../../tests/fixtures/authn/rfc/mtls.json")).unwrap();
    let der =
        base64::engine::general_purpose::STANDARD.decode(example["certificate"].as_str().unwrap()).unwrap();
    assert_eq!(CertificateThumbprint::of(&der).to_string(), example["cnf"]["x5t#S256"].as_str().unwrap());
    let claims = json!({"cnf": example["cnf"]});
    let read = Confirmation::read(claims.as_object().unwrap()).unwrap();
    assert!(matches!(read, Some(Confirmation::Certificate(_))), "{read:?}");
}

#[test]
fn a16_a17_a_binding_that_cannot_be_kept_is_a_fault() {
    let signer = Signer::es256();
    let compile = |binding: &str, origin: Option<&str>, dev: DevKeys<'_>| {
        let text = format!("{TENANT}binding = \"{binding}\"\n");
        let raw: RawTenant = toml::from_str(&text).unwrap();
        let source = Source::new("policies/acme/tenant.toml", text);
        let files = |_: &str| Some(Source::new("jwks.json", jwks(&[signer.listed("k1")])));
        let origin: Option<Origin> = origin.map(|origin| origin.parse().unwrap());
        let tenant = "acme".parse().unwrap();
        let (compiled, found) =
            Authenticator::compile(&tenant, &raw, &source, &files, dev, origin.as_ref(), &shared());
        (compiled.is_some(), found.iter().map(Diagnostic::one_line).collect::<Vec<_>>().join("\n"))
    };
    let at = "policies/acme/tenant.toml:11:";
    assert_eq!(compile("dpop", Some(ORIGIN), DevKeys::Refused), (true, String::new()));
    assert_eq!(compile("none", None, DevKeys::Refused), (true, String::new()));
    let needs = format!("{at} binding `dpop` needs `[server] origin` in sandgate.toml, and it is not set");
    assert_eq!(compile("dpop", None, DevKeys::Refused), (false, needs.clone()));
    let warned = (true, format!("{needs}: `sandgate serve` will refuse it"));
    assert_eq!(compile("dpop", None, DevKeys::Allowed(&|_| None)), warned);
    let mtls = format!("{at} binding `mtls` is of no use: the tenant has no `hosts`");
    assert_eq!(compile("mtls", Some(ORIGIN), DevKeys::Refused), (false, mtls));
    let unknown = format!("{at} binding `DPoP` is not known");
    assert_eq!(compile("DPoP", Some(ORIGIN), DevKeys::Refused), (false, unknown));
}

#[tokio::test]
async fn a_dev_issuer_that_binds_mints_for_a_key_whose_proofs_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (tenant, issuers) = ("acme".parse().unwrap(), dir.path().join("issuers"));
    let text = "[[issuers]]\nissuer = \"https://dev.acme.example\"\naudiences = [\"a\"]\nalgorithms = [\"ES256\"]\n\
                keys = \"dev\"\ndev = true\nbinding = \"dpop\"\n";
    let raw: RawTenant = toml::from_str(text).unwrap();
    DevIssuer::create_all(&issuers, &tenant, &raw).unwrap();
    let path = dir.path().join("client.pem");
    let key = ClientKey::open_or_create(&path).unwrap();
    assert_eq!(key.thumbprint(), ClientKey::open_or_create(&path).unwrap().thumbprint(), "made once");
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let unbound = mint(&issuers, &tenant, &raw, &MintRequest::new("alice"));
    assert!(matches!(unbound, Err(MintError::NeedsKey)));
    let request = MintRequest { bound_to: Some(BoundTo::Key(key.thumbprint())), ..MintRequest::new("alice") };
    let token = mint(&issuers, &tenant, &raw, &request).unwrap();

    let read =
        |name: &str| std::fs::read_to_string(issuers.join(name)).ok().map(|text| Source::new(name, text));
    let source = Source::new("tenant.toml", text);
    let shared = shared();
    let (authenticator, found) =
        Authenticator::compile(&tenant, &raw, &source, &|_| None, DevKeys::Allowed(&read), None, &shared);
    assert!(found.is_empty(), "{found:?}");
    let authenticator = authenticator.unwrap();
    let ask = async |nonce: Option<&str>| {
        let (url, now) = ("https://localhost:8443/acme/echo?q=1", SystemTime::now());
        let request = ProofRequest { method: "POST", url, token: &token, nonce, now };
        let header = format!("DPoP {token}");
        let mut received = received(&[header.as_bytes()], now);
        let proof = key.prove(&request).unwrap();
        received.head.headers.insert("dpop", HeaderValue::try_from(proof).unwrap());
        authenticator.authenticate(received).await
    };
    let nowhere = ask(None).await.unwrap_err();
    assert!(
        matches!(nowhere, AuthnError::Proof(ProofError::NoOrigin)),
        "before the port is known: {nowhere}"
    );
    shared.listens_at(8443);
    let Err(AuthnError::Proof(ProofError::Nonce { fresh })) = ask(None).await else {
        panic!("a nonce is asked for")
    };
    assert_eq!(ask(Some(&fresh)).await.unwrap().caller().id(), "acme/alice");

    let inspected = inspect(&token, &authenticator, SystemTime::now()).await.to_string();
    for told in ["✔ binding       dpop\n", "https://localhost:8443/acme/FUNCTION", &key.thumbprint()] {
        assert!(inspected.contains(told), "{told}:\n{inspected}");
    }
    let plain: RawTenant = toml::from_str(&text.replace("binding = \"dpop\"\n", "")).unwrap();
    assert!(matches!(mint(&issuers, &tenant, &plain, &request), Err(MintError::NotBound)));
    let not = |url| ProofRequest { method: "POST", url, token: &token, nonce: None, now: SystemTime::now() };
    assert!(key.prove(&not("http://localhost/")).is_err() && key.prove(&not("localhost")).is_err());
}
