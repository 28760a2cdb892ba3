//! How the key sets are, for readiness.

use super::{
    KeySetError,
    issuer::{IssuerRecord, Keys},
};
use crate::id::TenantName;

/// How one key set is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct KeySetHealth {
    /// The tenant.
    pub tenant: TenantName,
    /// The issuer.
    pub issuer: String,
    /// What can be said of it.
    pub state: KeySetState,
    /// How many keys there are.
    pub keys: usize,
    /// Seconds since a remote set was last fetched.
    pub age_seconds: Option<u64>,
    /// Why the last fetch failed, if it did.
    pub last_error: Option<String>,
}

/// The state of a key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeySetState {
    /// At hand.
    Ready,
    /// Remote, and not asked for yet.
    Waiting,
    /// At hand, though the last fetch failed.
    Stale,
    /// Not to be had.
    Unavailable,
}

pub(super) fn health(tenant: &TenantName, record: &IssuerRecord) -> KeySetHealth {
    let (state, keys, age, last_error) = match &record.keys {
        Keys::Fixed(set) => (KeySetState::Ready, set.keys().len(), None, None),
        Keys::Absent => (KeySetState::Unavailable, 0, None, Some(KeySetError::Absent.to_string())),
        Keys::Remote(remote) => match remote.health() {
            (Some((keys, age, true)), None) => (KeySetState::Ready, keys, Some(age), None),
            (Some((keys, age, true)), error) => (KeySetState::Stale, keys, Some(age), error),
            (Some((keys, age, false)), error) => (KeySetState::Unavailable, keys, Some(age), error),
            (None, None) => (KeySetState::Waiting, 0, None, None),
            (None, error) => (KeySetState::Unavailable, 0, None, error),
        },
    };
    let issuer = record.issuer.to_string();
    KeySetHealth {
        tenant: tenant.clone(),
        issuer,
        state,
        keys,
        age_seconds: age.map(|age| age.as_secs()),
        last_error,
    }
}
