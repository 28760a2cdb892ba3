//! Who is calling? A bearer token becomes a [`Caller`], or the request ends here.
//!
//! One [`Authenticator`] serves one tenant. It believes the issuers that the tenant's `tenant.toml` lists, each about the
//! tenant's own callers only, and nobody else. The rules are those of RFC 8725 (best practice for JWTs), RFC 9068 (JWTs as
//! access tokens) and RFC 6750 (bearer tokens); hardening.md cites them as A1 to A22, and so do the tests.
//!
//! Words: a *record* is one `[[issuers]]` of a tenant; a *key set* is an issuer's JWKS, in a file or fetched; its
//! *generation* is another number for each set ever read; a *verdict* is what is kept of a token once it was verified.
//!
//! How a token is read:
//! 1. `bearer`: found in the one `Authorization` header, bounded, decoded strictly. Of its claims only `iss` is read, to
//!    choose the record (`bearer::UnverifiedIssuer`).
//! 2. The record gives the key set, the header's `kid` the key, the key its one algorithm. jsonwebtoken verifies the
//!    signature, `exp`, `nbf`, `iss` and `aud` by a `Validation` made for that algorithm.
//! 3. `claims`: the rest, with what the crate leaves alone.
//! 4. `cache`: a good verdict is kept. `exp`, `nbf`, revocation and the key set are looked at on every request.
//! 5. `binding`: the request comes from whom the token is bound to, by its connection's certificate or by a proof (`dpop`,
//!    with `nonce` and `replay`). Asked on every request too.
//!
//! INVARIANT (Evidence): an [`Authenticated`] is made by [`Authenticator::authenticate`] only.
//! INVARIANT (Bounded): token, key id, claims, key sets, cache and revocations have their constants beside their use.

mod bearer;
mod binding;
mod cache;
mod caller;
mod claims;
pub mod client;
mod compile;
pub mod dev;
mod dpop;
mod error;
mod evidence;
mod fetch;
pub mod fuzz;
mod health;
mod inspect;
mod issuer;
mod json;
mod jws;
mod keys;
mod nonce;
mod pointer;
mod remote;
mod replay;
mod revocation;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use http::header::AUTHORIZATION;
use jsonwebtoken::errors::ErrorKind;
use serde::de::IgnoredAny;

pub use binding::{CertificateThumbprint, ClientCertificate};
pub use caller::Caller;
pub use dpop::{MAX_PROOF_BYTES, ProofError};
pub use error::{AuthnError, Check};
pub use evidence::{Authenticated, Head, Received};
pub use fetch::KeyFetch;
pub use health::{KeySetHealth, KeySetState};
pub use inspect::{CheckResult, Inspection, State, inspect};
pub use issuer::IssuerPair;
pub use jws::Malformed;
pub use keys::KeySetError;
pub use revocation::Revocations;

use crate::{
    id::TenantName,
    site::{
        diagnostic::{Diagnostic, Source},
        origin::Origin,
        tenant::RawTenant,
    },
};
use bearer::{BearerToken, OpenToken};
use binding::{Binding, Demand};
use cache::{TokenCache, TokenKey};
use claims::Verified;
use compile::Compiler;
use dpop::Ledgers;
use issuer::{IssuerRecord, Keys};
use keys::{Fit, Key, KeySet};
use remote::{Clock, Remotes, Timing, Unavailable};

/// What all authenticators of a process share: the cache of verified tokens, the remote key sets and how these are fetched,
/// and the proofs that were used.
#[derive(Debug)]
pub struct Shared {
    tokens: TokenCache,
    remotes: Remotes,
    ledgers: Ledgers,
    local_origin: OnceLock<Origin>,
}

impl Shared {
    /// A cache of about `token_cache_bytes`, and key sets fetched as the operator allows.
    pub fn new(token_cache_bytes: u64, fetch: KeyFetch) -> Arc<Self> {
        Self::with(token_cache_bytes, fetch, Clock::system(), Timing::default())
    }

    fn with(token_cache_bytes: u64, fetch: KeyFetch, clock: Clock, timing: Timing) -> Arc<Self> {
        let remotes = Remotes::new(fetch::Fetcher::new(fetch), clock.clone(), timing);
        Arc::new(Self {
            tokens: TokenCache::new(token_cache_bytes),
            remotes,
            ledgers: Ledgers::new(clock),
            local_origin: OnceLock::new(),
        })
    }

    /// For local work: what the gateway is called where `[server] origin` says nothing, now that its port is known.
    pub fn listens_at(&self, port: u16) {
        self.local_origin.get_or_init(|| Origin::local(port));
    }

    /// How many verified tokens are kept, for the metric.
    pub fn cached_tokens(&self) -> usize {
        self.tokens.len()
    }
}

/// Whether issuers of local work are taken, and where their key sets are.
#[derive(Clone, Copy)]
pub enum DevKeys<'a> {
    /// `serve`: a dev issuer is a fault.
    Refused,
    /// `dev` and `check`: reads a file of `certs/dev/issuers/` by name. One that is missing is a warning.
    Allowed(&'a dyn Fn(&str) -> Option<Source>),
}

/// Tells who is calling one tenant.
pub struct Authenticator {
    /// Another number for each that was ever compiled: verdicts of a former revision are never found by a later one.
    id: u64,
    tenant: TenantName,
    records: Vec<IssuerRecord>,
    revocations: ArcSwap<Revocations>,
    /// `[server] origin`.
    origin: Option<Origin>,
    shared: Arc<Shared>,
    refreshing: OnceLock<Vec<tokio::task::JoinHandle<()>>>,
}

impl Authenticator {
    /// Reads a tenant's issuers. Without faults there is an authenticator; warnings do not hinder it.
    ///
    /// `files` reads a file of the tenant's own folder; `origin` is where callers find the gateway. Nothing is fetched yet, and nothing is revoked: call
    /// [`Self::revoke`] before the first request.
    pub fn compile(
        tenant: &TenantName,
        raw: &RawTenant,
        source: &Source,
        files: &dyn Fn(&str) -> Option<Source>,
        dev: DevKeys<'_>,
        origin: Option<&Origin>,
        shared: &Arc<Shared>,
    ) -> (Option<Self>, Vec<Diagnostic>) {
        let mut compiler = Compiler { tenant, raw, source, files, dev, origin, shared, found: Vec::new() };
        let records = compiler.issuers();
        let mut found = compiler.found;
        found.sort_by_key(|found| {
            let place = found.source.as_ref();
            let span = place.and_then(|(_, span)| span.as_ref()).map(|span| span.start);
            (place.map(|(file, _)| Arc::clone(&file.path)), span)
        });
        if found.iter().any(Diagnostic::is_fault) {
            return (None, found);
        }
        let authenticator = Self {
            id: AUTHENTICATORS.fetch_add(1, Ordering::Relaxed),
            tenant: tenant.clone(),
            records,
            revocations: ArcSwap::default(),
            origin: origin.cloned(),
            shared: Arc::clone(shared),
            refreshing: OnceLock::new(),
        };
        (Some(authenticator), found)
    }

    /// Tells who sent the request, or why nobody knows.
    pub async fn authenticate<B>(&self, mut received: Received<B>) -> Result<Authenticated<B>, AuthnError> {
        if received.tenant != self.tenant {
            return Err(AuthnError::Misrouted { asked: received.tenant, here: self.tenant.clone() });
        }
        let (scheme, token) = BearerToken::from_headers(&received.head.headers)?;
        let key = TokenKey::new(self.id, token);
        let verified = self.verified(&key, token, received.head.now).await?;
        let fresh_nonce = self.sender(&verified, scheme, &key, &received.head)?;
        // Nothing behind this line needs token or proof, so nothing can leak them.
        received.head.headers.remove(AUTHORIZATION);
        received.head.headers.remove(dpop::HEADER);
        Ok(Authenticated { received, caller: Arc::clone(&verified.caller), fresh_nonce })
    }

    /// Replaces what is revoked, at once and for tokens in the cache too.
    pub fn revoke(&self, revocations: Revocations) {
        self.revocations.store(Arc::new(revocations));
    }

    /// What is revoked now.
    pub fn revocations(&self) -> Arc<Revocations> {
        self.revocations.load_full()
    }

    /// Whose tokens this tenant takes: no other tenant may have a pair that overlaps one of these.
    pub fn issuer_pairs(&self) -> Vec<IssuerPair> {
        self.records.iter().map(IssuerRecord::pair).collect()
    }

    /// Whether it takes tokens of an issuer whose key lies in `certs/dev/`.
    pub fn has_dev_issuer(&self) -> bool {
        self.records.iter().any(|record| record.dev)
    }

    /// The schemes under which its tokens come (`Bearer`, `DPoP`), each once.
    pub fn schemes(&self) -> Vec<&'static str> {
        let by_proof = |record: &&IssuerRecord| matches!(record.binding, Binding::Dpop(_));
        let dpop = self.records.iter().filter(by_proof).count();
        let bearer = (dpop == 0 || dpop < self.records.len()).then_some("Bearer");
        bearer.into_iter().chain((dpop > 0).then_some("DPoP")).collect()
    }

    /// Keeps remote key sets fresh in the background until this is dropped: a task for each, asleep until its issuer's first
    /// token. Without it they are fetched when a request needs them.
    pub fn start(&self, handle: &tokio::runtime::Handle) {
        self.refreshing.get_or_init(|| {
            let remotes = self.records.iter().filter_map(|record| match &record.keys {
                Keys::Remote(remote) => Some(handle.spawn(Arc::clone(remote).keep_fresh())),
                Keys::Fixed(_) | Keys::Absent => None,
            });
            remotes.collect()
        });
    }

    /// How the key sets are, for readiness.
    pub fn health(&self) -> Vec<KeySetHealth> {
        self.records.iter().map(|record| health::health(&self.tenant, record)).collect()
    }

    /// The verdict on a token, kept or new. It says nothing of who sent the token.
    async fn verified(
        &self,
        key: &TokenKey,
        token: BearerToken<'_>,
        now: SystemTime,
    ) -> Result<Arc<Verified>, AuthnError> {
        if let Some(verified) = self.shared.tokens.find(key) {
            let stands =
                self.records.get(verified.record).is_some_and(|record| record.vouches(verified.generation));
            if stands {
                self.admit(&verified, now)?;
                return Ok(verified);
            }
            self.shared.tokens.forget(key);
        }
        let verified = Arc::new(self.verify(token, now).await?);
        self.admit(&verified, now)?;
        self.shared.tokens.keep(*key, token, &verified);
        Ok(verified)
    }

    /// What is asked of a verdict on every request, kept or new (A20, A21). Gives what remains to be asked of the sender.
    fn admit<'a>(&'a self, verified: &'a Verified, now: SystemTime) -> Result<Demand<'a>, AuthnError> {
        verified.times.check(now)?;
        if let Some(by) = self.revocations.load().revoke(verified) {
            return Err(AuthnError::Revoked { by });
        }
        self.demand(verified)
    }

    /// Verifies a token from the beginning.
    async fn verify(&self, token: BearerToken<'_>, now: SystemTime) -> Result<Verified, AuthnError> {
        let open = token.open()?;
        let unknown = || AuthnError::UnknownIssuer { tenant: self.tenant.clone() };
        let claimed = open.unverified_issuer().ok_or_else(unknown)?;
        // Records of one issuer differ in their tenant value, and at most one can take the token. If none does, the refusal
        // that came furthest says most.
        let mut refusal = unknown();
        for record in self.records.iter().filter(|record| claimed.is(&record.issuer)) {
            match self.verify_by(record, token, &open, now).await {
                Ok(verified) => return Ok(verified),
                Err(error) if error.check() >= refusal.check() => refusal = error,
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    async fn verify_by(
        &self,
        record: &IssuerRecord,
        token: BearerToken<'_>,
        open: &OpenToken,
        now: SystemTime,
    ) -> Result<Verified, AuthnError> {
        let issuer = || Arc::clone(&record.issuer);
        if !record.takes_type(open.header.token_type.as_deref()) {
            return Err(AuthnError::TokenType { issuer: issuer() });
        }
        let (set, key) = find_key(record, open).await?;
        // A1: the key's algorithm; the token's own claim only has to agree with it.
        let algorithm = match record.fit(&key) {
            Fit::One(algorithm) => algorithm,
            Fit::None => return Err(AuthnError::Algorithm { issuer: issuer() }),
            Fit::Several => return Err(AuthnError::AmbiguousKey { issuer: issuer() }),
        };
        if keys::algorithm_name(algorithm) != open.header.algorithm {
            return Err(AuthnError::Algorithm { issuer: issuer() });
        }
        let validation =
            record.validation(algorithm).ok_or_else(|| AuthnError::Algorithm { issuer: issuer() })?;
        jsonwebtoken::decode::<IgnoredAny>(token.danger_text(), &key.verifier, validation)
            .map_err(|error| refusal(error.kind(), record))?;
        claims::read(open.danger_payload(), &self.tenant, record, &key, set.generation(), now)
    }
}

impl Drop for Authenticator {
    fn drop(&mut self) {
        for task in self.refreshing.get().into_iter().flatten() {
            task.abort();
        }
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("tenant", &self.tenant)
            .field("issuers", &self.records.len())
            .finish_non_exhaustive()
    }
}

/// The key that the token names, or the only one that fits a token that names none. Only the issuer's own set is looked at.
async fn find_key(record: &IssuerRecord, open: &OpenToken) -> Result<(Arc<KeySet>, Arc<Key>), AuthnError> {
    let issuer = || Arc::clone(&record.issuer);
    let set = record.key_set().await.map_err(|Unavailable { source, retry_after }| {
        AuthnError::KeysUnavailable { issuer: issuer(), retry_after, source }
    })?;
    let unknown = || AuthnError::UnknownKey { issuer: issuer() };
    if let Some(id) = open.header.key_id.as_deref() {
        if let Some(key) = set.by_id(id).cloned() {
            return Ok((set, key));
        }
        let Keys::Remote(remote) = &record.keys else { return Err(unknown()) };
        let set = remote.keys_with(id).await.ok_or_else(unknown)?;
        let key = set.by_id(id).cloned().ok_or_else(unknown)?;
        return Ok((set, key));
    }
    // Each key has one algorithm already; the token's may choose among keys, never among algorithms.
    let fits = |key: &&Arc<Key>| matches!(record.fit(key), Fit::One(algorithm) if keys::algorithm_name(algorithm) == open.header.algorithm);
    let mut fitting = set.keys().iter().filter(fits);
    match (fitting.next().cloned(), fitting.next()) {
        (Some(key), None) => Ok((set, key)),
        (Some(_), Some(_)) => Err(AuthnError::AmbiguousKey { issuer: issuer() }),
        (None, _) => Err(unknown()),
    }
}

/// Our word for what jsonwebtoken refused. Its error kinds are open-ended: what we do not know is a bad signature, the most
/// that can be wrong.
fn refusal(kind: &ErrorKind, record: &IssuerRecord) -> AuthnError {
    let named = |claim: &str| CLAIMS.iter().find(|known| **known == claim).copied().unwrap_or("claim");
    match kind {
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            AuthnError::Claim { claim: named(claim) }
        }
        ErrorKind::ExpiredSignature => AuthnError::Expired,
        ErrorKind::ImmatureSignature => AuthnError::NotYetValid,
        ErrorKind::InvalidAudience => AuthnError::Audience,
        ErrorKind::InvalidIssuer => AuthnError::Claim { claim: "iss" },
        ErrorKind::InvalidSubject => AuthnError::Claim { claim: "sub" },
        ErrorKind::Json(_) | ErrorKind::Utf8(_) => AuthnError::MalformedClaims { reason: "not strict JSON" },
        ErrorKind::InvalidAlgorithm | ErrorKind::MissingAlgorithm => {
            AuthnError::Algorithm { issuer: Arc::clone(&record.issuer) }
        }
        _ => AuthnError::Signature { issuer: Arc::clone(&record.issuer) },
    }
}

/// Longest token (A13).
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Longest key id (A6).
const MAX_KEY_ID_BYTES: usize = 256;
/// A cache for some ten thousand callers: what [`Shared::new`] is given unless the operator says otherwise.
pub const DEFAULT_TOKEN_CACHE_BYTES: u64 = 64 * 1024 * 1024;
const CLAIMS: [&str; 5] = ["exp", "nbf", "iss", "aud", "sub"];
static AUTHENTICATORS: AtomicU64 = AtomicU64::new(0);
