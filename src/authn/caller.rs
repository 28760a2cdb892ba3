//! Who is calling: what a verified token says, in the platform's own words.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use crate::id::TenantName;

/// An authenticated principal. Only this stage makes one (INVARIANT Evidence).
///
/// It is shared by all requests that bear the same token, for as long as the token stays in the cache.
pub struct Caller {
    pub(super) tenant: TenantName,
    pub(super) issuer: Arc<str>,
    pub(super) subject: String,
    pub(super) id: Arc<str>,
    pub(super) key_id: Option<String>,
    pub(super) roles: Vec<Arc<str>>,
    pub(super) scopes: Vec<Arc<str>>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) authenticated_at: Option<SystemTime>,
    pub(super) binding: &'static str,
    pub(super) derived: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Caller {
    /// The tenant whose issuer vouches for the caller.
    pub fn tenant(&self) -> &TenantName {
        &self.tenant
    }

    /// `sub`, as the issuer wrote it.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// `acme/alice`, or `acme/partners/alice` where the issuer is named: unique on the platform.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// [`Self::id`], shared: records hold it.
    pub fn shared_id(&self) -> &Arc<str> {
        &self.id
    }

    /// `kid` of the key that signed the token, if the token named one.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// `iss`, as configured.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Full ids of the roles, `acme/billing`; sorted, each once.
    pub fn roles(&self) -> &[Arc<str>] {
        &self.roles
    }

    /// The scopes granted to the token; sorted, each once.
    pub fn scopes(&self) -> &[Arc<str>] {
        &self.scopes
    }

    /// The claims that `tags` in tenant.toml lists, as text.
    pub fn tags(&self) -> &BTreeMap<String, String> {
        &self.tags
    }

    /// When the caller proved who they are to the issuer (`auth_time`), if the token says so.
    pub fn authenticated_at(&self) -> Option<SystemTime> {
        self.authenticated_at
    }

    /// How the token is bound to its sender, who was asked about it on this request: `none`, `mtls` or `dpop`.
    pub fn binding(&self) -> &str {
        self.binding
    }

    /// What a later stage builds from this caller, kept as long as the caller is.
    ///
    /// There is one slot, for one type: a second type is built afresh at each call.
    pub(crate) fn derived<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let kept = || self.derived.get().and_then(|kept| Arc::clone(kept).downcast::<T>().ok());
        if let Some(kept) = kept() {
            return kept;
        }
        let made = Arc::new(make());
        match self.derived.set(Arc::clone(&made) as Arc<dyn Any + Send + Sync>) {
            Ok(()) => made,
            // Another request was faster: all share what it made.
            Err(_) => kept().unwrap_or(made),
        }
    }
}

/// Names and counts only: logs show who called, never what their token said (A22).
impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("id", &self.id)
            .field("roles", &self.roles.len())
            .finish_non_exhaustive()
    }
}

/// `/` and `%` percent-encoded: they would otherwise make one id out of two.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '/' => out.push_str("%2F"),
            '%' => out.push_str("%25"),
            c => out.push(c),
        }
    }
    out
}
