//! Why a request was refused, in an operator's terms.

use std::sync::Arc;

use crate::{
    authz::Decision,
    event::{EventError, Signal},
    id::TenantName,
    pipeline::Refusal,
    sandbox::SandboxError,
};

/// What a record says of a refusal.
pub(super) struct Reason {
    /// A word of ours, of which there are few: for aggregates.
    pub(super) word: &'static str,
    /// The whole chain of causes.
    pub(super) text: String,
    pub(super) decision: Option<Arc<Decision>>,
    pub(super) signals: Vec<Signal>,
    /// A tenant that the site has, though nothing of it serves.
    pub(super) tenant: Option<TenantName>,
    /// The event was larger than the function takes.
    pub(super) too_large: bool,
    /// There was no room to run it.
    pub(super) shed: bool,
}

impl Reason {
    pub(super) fn of(refusal: &Refusal) -> Self {
        let mut text = refusal.to_string();
        let mut cause = std::error::Error::source(refusal);
        while let Some(error) = cause {
            let told = error.to_string();
            // Some errors tell their cause themselves.
            if !text.ends_with(&told) {
                text.push_str(": ");
                text.push_str(&told);
            }
            cause = error.source();
        }
        let word = match refusal {
            Refusal::UnknownTenant(_) => "unknown tenant",
            Refusal::FaultyTenant(_) => "faulty tenant",
            Refusal::Authn(error) => error.check().name(),
            _ => "refused",
        };
        let decision = match refusal {
            Refusal::Authz(error) => error.decision().cloned(),
            _ => None,
        };
        let signals = match refusal {
            Refusal::Event(EventError::Injection { signals }) => signals.clone(),
            _ => Vec::new(),
        };
        let tenant = match refusal {
            Refusal::FaultyTenant(tenant) => Some(tenant.clone()),
            _ => None,
        };
        let too_large = matches!(refusal, Refusal::Event(EventError::TooLarge { .. }));
        let shed = matches!(refusal, Refusal::Sandbox(SandboxError::Overloaded(_)));
        Self { word, text, decision, signals, tenant, too_large, shed }
    }
}
