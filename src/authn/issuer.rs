//! One `[[issuers]]` of tenant.toml, as meant: whom we believe, about what, and with which keys.

use std::{ops::Range, sync::Arc, time::Duration};

use jsonwebtoken::{Algorithm, Validation};

use super::{
    binding::Binding,
    keys::{Fit, Key, KeySet, KeySetError},
    pointer::Pointer,
    remote::{Remote, Unavailable},
};

/// What a tenant believes of one issuer.
#[derive(Debug)]
pub(super) struct IssuerRecord {
    /// Its place in tenant.toml.
    pub(super) place: usize,
    pub(super) issuer: Arc<str>,
    pub(super) name: Option<String>,
    pub(super) allowed: Vec<Algorithm>,
    /// One for each allowed algorithm: jsonwebtoken refuses a list of several families (A2).
    pub(super) validations: Vec<(Algorithm, Validation)>,
    pub(super) leeway: Duration,
    pub(super) max_lifetime: Duration,
    /// Whether the author asked for `max-lifetime`: then a token must say when its life began.
    pub(super) issued_at_required: bool,
    /// Lower case, without `application/`.
    pub(super) token_types: Vec<String>,
    pub(super) roles: Option<Pointer>,
    pub(super) scopes: Option<Pointer>,
    pub(super) tags: Vec<(String, Pointer)>,
    pub(super) tenant_claim: Option<(Pointer, String)>,
    pub(super) share_roles: bool,
    pub(super) binding: Binding,
    pub(super) dev: bool,
    pub(super) keys: Keys,
    pub(super) span: Range<usize>,
}

/// Where the keys are.
#[derive(Debug)]
pub(super) enum Keys {
    /// In a file: they change with the tenant's part.
    Fixed(Arc<KeySet>),
    /// Elsewhere.
    Remote(Arc<Remote>),
    /// A dev issuer whose key has not been made.
    Absent,
}

/// An issuer, and the tenant value that goes with it: belongs to one tenant of the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerPair {
    /// `iss`.
    pub issuer: Arc<str>,
    /// The value of the tenant claim; `None`: every token of the issuer.
    pub tenant_value: Option<String>,
    /// Where in tenant.toml.
    pub span: Range<usize>,
}

impl IssuerPair {
    /// Whether one token could be of both: two tenants with such pairs are a fault of the platform part.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.issuer == other.issuer
            && (self.tenant_value.is_none()
                || other.tenant_value.is_none()
                || self.tenant_value == other.tenant_value)
    }
}

impl IssuerRecord {
    pub(super) fn pair(&self) -> IssuerPair {
        IssuerPair {
            issuer: Arc::clone(&self.issuer),
            tenant_value: self.tenant_claim.as_ref().map(|(_, value)| value.clone()),
            span: self.span.clone(),
        }
    }

    /// Whether a token of this `typ` may be used here.
    pub(super) fn takes_type(&self, token_type: Option<&str>) -> bool {
        token_type.is_some_and(|given| self.token_types.contains(&media_type(given)))
    }

    /// What jsonwebtoken checks for a key of this algorithm.
    pub(super) fn validation(&self, algorithm: Algorithm) -> Option<&Validation> {
        self.validations.iter().find(|(one, _)| *one == algorithm).map(|(_, validation)| validation)
    }

    /// The keys, fetched if need be.
    pub(super) async fn key_set(&self) -> Result<Arc<KeySet>, Unavailable> {
        match &self.keys {
            Keys::Fixed(set) => Ok(Arc::clone(set)),
            Keys::Remote(remote) => remote.keys().await,
            Keys::Absent => Err(Unavailable {
                source: Arc::new(KeySetError::Absent),
                retry_after: Duration::from_secs(RETRY_ABSENT_SECONDS),
            }),
        }
    }

    /// Whether a verdict that a set of this generation gave still stands.
    pub(super) fn vouches(&self, generation: u64) -> bool {
        match &self.keys {
            Keys::Fixed(set) => set.generation() == generation,
            Keys::Remote(remote) => remote.vouches(generation),
            Keys::Absent => false,
        }
    }

    /// The algorithm that this record gives the key.
    pub(super) fn fit(&self, key: &Key) -> Fit {
        key.algorithm(&self.allowed)
    }
}

/// `typ` is a media type: case does not count, and `application/` may be left out where no other `/` follows
/// (RFC 7515 §4.1.9).
pub(super) fn media_type(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    match text.strip_prefix("application/") {
        Some(rest) if !rest.contains('/') => rest.to_owned(),
        _ => text,
    }
}

const RETRY_ABSENT_SECONDS: u64 = 5;
