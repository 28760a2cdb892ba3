//! Verified tokens, so that a caller who comes again costs a hash instead of a signature.
//!
//! Only good verdicts are kept: refusals are cheap to repeat up to the signature, and a cache that strangers can fill
//! would push callers out. What can change while a token is cached (`exp`, `nbf`, revocations, the key set) is looked at
//! again on every request (A21).

use std::{fmt, sync::Arc};

use quick_cache::{Weighter, sync::Cache};

use super::{
    bearer::BearerToken,
    claims::Verified,
    keys::{Sha256, sha256},
};

/// Names a token under one tenant's rules.
///
/// `authenticator` is another number for every compiled tenant part, so it stands for the tenant and its issuer records; the
/// record and the key set's generation are in the entry and compared on each hit. The whole token is hashed, signature
/// included, since two tokens may differ in that alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    authenticator: u64,
    sha256: Sha256,
}

impl TokenKey {
    pub(super) fn new(authenticator: u64, token: BearerToken<'_>) -> Self {
        Self { authenticator, sha256: sha256(token.danger_text().as_bytes()) }
    }

    /// What a proof beside the token must name as its `ath` (RFC 9449 §4.2).
    pub(super) fn token_hash(&self) -> &Sha256 {
        &self.sha256
    }
}

/// One for the process: a bound for each tenant would be a thousand bounds.
pub(super) struct TokenCache(Cache<TokenKey, Entry, Weight>);

#[derive(Clone)]
struct Entry {
    verified: Arc<Verified>,
    bytes: u64,
}

#[derive(Clone)]
struct Weight;

impl Weighter<TokenKey, Entry> for Weight {
    fn weight(&self, _key: &TokenKey, entry: &Entry) -> u64 {
        entry.bytes
    }
}

impl TokenCache {
    /// A cache that holds about this many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let entries = usize::try_from(bytes / TYPICAL_ENTRY_BYTES).unwrap_or(usize::MAX).clamp(64, 1 << 20);
        Self(Cache::with_weighter(entries, bytes, Weight))
    }

    pub(super) fn find(&self, key: &TokenKey) -> Option<Arc<Verified>> {
        self.0.get(key).map(|entry| entry.verified)
    }

    pub(super) fn keep(&self, key: TokenKey, token: BearerToken<'_>, verified: &Arc<Verified>) {
        // Claims repeat once decoded, in ids and in what `authz` derives; four times the token covers what was measured.
        let bytes = ENTRY_BYTES + 4 * u64::try_from(token.danger_text().len()).unwrap_or(u64::MAX / 8);
        self.0.insert(key, Entry { verified: Arc::clone(verified), bytes });
    }

    pub(super) fn forget(&self, key: &TokenKey) {
        self.0.remove(key);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").field("entries", &self.0.len()).finish_non_exhaustive()
    }
}

/// The fixed part of an entry: its structs, the map's slot, allocator overhead.
const ENTRY_BYTES: u64 = 1024;
/// Sizes the map to begin with.
const TYPICAL_ENTRY_BYTES: u64 = 4096;
