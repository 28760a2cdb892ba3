//! Why an invocation did not end in a function's reply, and the public code that stands for it.

use crate::{
    authn::AuthnError,
    authz::AuthzError,
    event::EventError,
    id::{FunctionId, TenantName},
    record::AuditError,
    sandbox::SandboxError,
    site::blocked::Target,
};

/// Everything that can end an invocation early.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The site has no such tenant: the same answer as for a bad token, so that nobody learns who is here.
    #[error("no tenant `{0}`")]
    UnknownTenant(TenantName),
    /// The tenant's part is faulty and there is no earlier one.
    #[error("the part of tenant `{0}` is faulty")]
    FaultyTenant(TenantName),
    /// Nobody was authenticated.
    #[error(transparent)]
    Authn(#[from] AuthnError),
    /// The tenant has no such function.
    #[error("no function `{0}`")]
    UnknownFunction(FunctionId),
    /// The operator has blocked it.
    #[error("{target} is blocked{}", because(why))]
    Blocked {
        /// What of the list.
        target: Target,
        /// In the operator's words; may be empty.
        why: String,
    },
    /// Policy does not allow it.
    #[error(transparent)]
    Authz(#[from] AuthzError),
    /// The input is not an event of this function.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The function did not give a reply.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A stage panicked. What it said is in the log alone: it may quote the event.
    #[error("a stage panicked")]
    Panicked,
    /// It could not be recorded, so it is not answered (INVARIANT Told).
    #[error(transparent)]
    Audit(#[from] AuditError),
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}
