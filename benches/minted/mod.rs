//! Evidence for the later stages, minted as in production: a signed token, a decision, a read event. No stage has a door
//! for benches (INVARIANT Evidence), so that what they measure is what a request costs.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use sandgate::{
    authn::{Authenticator, DEFAULT_TOKEN_CACHE_BYTES, DevKeys, Head, KeyFetch, Received, Shared},
    authz::{Authorized, Authorizer, KnownNames, Platform, TenantPolicies},
    event::{BodyBounds, EventRules, ReplyRules, UnreadBody, Written},
    id::{FunctionId, FunctionName, RequestId, TenantName},
    site::{diagnostic::Source, manifest::RawManifest, tenant::RawTenant},
};
use serde_json::json;

const TENANT: &str = r#"
[[issuers]]
issuer     = "https://idp.acme.example"
audiences  = ["https://gate.example/acme"]
algorithms = ["EdDSA"]
keys       = "jwks.json"
roles      = "/roles"
scopes     = "/scope"
"#;
const MANIFEST: &str = "component = \"a.wasm\"\nmethods = [\"POST\"]\n[event]\nschema = \"event.schema.json\"\ninjection = \"off\"\n";
const POLICY: &str = "@id(\"billing\") permit (principal in Role::\"acme/billing\", action == Action::\"invoke\", \
                      resource == Function::\"acme/bench\");";

/// The stages before the last of one function, `acme/bench`, and a token for it.
pub(crate) struct Minted {
    pub(crate) events: EventRules,
    authenticator: Authenticator,
    authorizer: Authorizer,
    authorization: HeaderValue,
}

pub(crate) fn function() -> FunctionId {
    FunctionId { tenant: tenant(), function: name() }
}

fn tenant() -> TenantName {
    "acme".parse().expect("a name")
}

fn name() -> FunctionName {
    "bench".parse().expect("a name")
}

impl Minted {
    /// A function that takes JSON of this schema, and the rules of its replies.
    pub(crate) fn new(schema: &str) -> (Self, ReplyRules) {
        let key = Ed25519KeyPair::generate().expect("an Ed25519 key");
        let (events, replies) = rules(schema);
        let minted = Self {
            events,
            authenticator: authenticator(&key),
            authorizer: authorizer(),
            authorization: HeaderValue::try_from(format!("Bearer {}", token(&key))).expect("a header"),
        };
        (minted, replies)
    }

    /// A request that may bring its event.
    pub(crate) async fn authorized(&self, body: &Bytes) -> Authorized<UnreadBody> {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let received = Received {
            request_id: RequestId::new(0, 0),
            tenant: tenant(),
            function: name(),
            head: Head { headers, ..Head::new(Method::POST, "/acme/bench") },
            body: UnreadBody::of(body.clone()),
        };
        let authenticated = self.authenticator.authenticate(received).await.expect("a caller");
        self.authorizer.authorize(authenticated).expect("an allowed call")
    }
}

fn rules(schema: &str) -> (EventRules, ReplyRules) {
    let manifest: RawManifest = toml::from_str(MANIFEST).expect("a manifest");
    let written = Written {
        function: &function(),
        manifest: &manifest,
        manifest_source: &Source::new("function.toml", MANIFEST),
        event_schema: Some(&Source::new("event.schema.json", schema)),
        query_schema: None,
        response_schema: None,
    };
    let bounds = BodyBounds { max_bytes: 1 << 20, time: Duration::from_secs(10), min_rate: 1024 };
    let events = EventRules::compile(written, bounds).0.expect("a manifest without fault");
    (events, ReplyRules::compile(written, 1 << 20).0.expect("a manifest without fault"))
}

fn authenticator(key: &Ed25519KeyPair) -> Authenticator {
    let raw: RawTenant = toml::from_str(TENANT).expect("a tenant");
    let source = Source::new("policies/acme/tenant.toml", TENANT);
    let shared = Shared::new(DEFAULT_TOKEN_CACHE_BYTES, KeyFetch::default());
    let x = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
    let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "k1", "x": x}]});
    let files = |name: &str| Some(Source::new(name, keys.to_string()));
    let (authenticator, found) =
        Authenticator::compile(&tenant(), &raw, &source, &files, DevKeys::Refused, None, &shared);
    authenticator.unwrap_or_else(|| panic!("{found:?}"))
}

fn authorizer() -> Authorizer {
    let schema = Source::new("schema.cedarschema", include_str!("../../policies/schema.cedarschema"));
    let guardrails = Source::new("guardrails.cedar", include_str!("../../policies/guardrails.cedar"));
    let platform = Platform::compile(&schema, &guardrails).0.expect("the sample's platform part");
    let known = KnownNames { functions: [(name(), BTreeSet::new())].into(), tags: None };
    let policy = Source::new("policies/acme/all.cedar", POLICY);
    let policies = TenantPolicies::compile(&platform, &tenant(), &[policy], &known).0.expect("a policy");
    Authorizer::new(&policies, name(), BTreeSet::new())
}

fn token(key: &Ed25519KeyPair) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k1"});
    let claims = json!({
        "iss": "https://idp.acme.example", "aud": "https://gate.example/acme", "sub": "alice", "iat": now,
        "exp": now + 3600, "jti": "73WakrfVbNJBaAmhQtEeDv", "roles": ["billing"], "scope": "greet",
    });
    let encode = |part: serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()).as_ref());
    format!("{message}.{signature}")
}
