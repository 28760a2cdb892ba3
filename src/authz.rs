//! Authorize: may this caller invoke this function, now and from there?
//!
//! Policies are Cedar's; this is the only stage that speaks to `cedar_policy`. The operator writes a schema and
//! guardrails ([`Platform`]), each tenant its permits and forbids ([`TenantPolicies`]), and each function gets an
//! [`Authorizer`] that consults the slice of both that can match there.
//!
//! What holds, by the names of the crate's invariants:
//! - **Closed**: without a permit nothing is allowed; any failure while deciding, a policy that does not evaluate
//!   included, is a deny.
//! - **Alone**: a tenant's texts are compiled apart and consulted for its own functions only. Callers and functions of
//!   different tenants are told apart in Rust, before Cedar is asked, and by compiled-in policies as well.
//! - **Evidence**: [`Authorized`] is made here only, from [`Authenticated`], and is not `Clone`.
//! - **Once**: a caller's entities live with its cached token, a function's with its slice.

mod decide;
mod entities;
mod explain;
pub mod fuzz;
mod matrix;
mod memo;
mod platform;
mod policies;
mod reads;
mod request;
mod scope;
mod slice;
mod statements;
mod tenant;
mod trial;
mod vocabulary;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub use self::{
    decide::{Decision, PolicyError},
    entities::{CallerFacts, EntityError, Principal},
    explain::{Considered, Explanation, Outcome},
    matrix::matrix,
    platform::Platform,
    reads::Reads,
    request::{RequestError, RequestFacts},
    slice::SliceError,
    tenant::{KnownNames, TenantPolicies},
    trial::{SampleCall, Trial, TrialReport, run_trials, sample_call, unreadable_trials},
};
use self::{entities::Known, memo::Memo, slice::Slice};
use crate::{
    authn::{Authenticated, Caller, Head, Received},
    id::{FunctionId, FunctionName, RequestId},
};

/// Tells authorizers apart: a function whose labels changed on reload is another one.
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Why a request was not authorized.
#[derive(Debug, thiserror::Error)]
pub enum AuthzError {
    /// Policy says no.
    #[error("policy forbids `{function}` to this caller")]
    Forbidden {
        /// What was asked for.
        function: FunctionId,
        /// Who said so.
        decision: Arc<Decision>,
    },
    /// A policy that was consulted failed to evaluate.
    #[error("a policy failed to evaluate for `{function}`")]
    Evaluation {
        /// What was asked for.
        function: FunctionId,
        /// Which policies failed.
        decision: Arc<Decision>,
    },
    /// Caller or request of another tenant or function than this authorizer's: the gateway's own mistake.
    #[error("evidence for `{given}` was brought to `{function}`")]
    TenantMismatch {
        /// Whose authorizer it is.
        function: FunctionId,
        /// What the evidence is for.
        given: String,
    },
    /// The request could not be put to Cedar.
    #[error("the request is not valid by the schema")]
    Request(#[source] RequestError),
    /// The caller could not be put to Cedar.
    #[error("the caller is not valid by the schema")]
    Caller(#[source] EntityError),
    /// The policies could not be put to Cedar.
    #[error("the policies of `{function}` could not be consulted")]
    Slice {
        /// Whose they are.
        function: FunctionId,
        /// What failed.
        #[source]
        source: SliceError,
    },
}

impl AuthzError {
    /// The decision, where there was one.
    pub fn decision(&self) -> Option<&Arc<Decision>> {
        match self {
            Self::Forbidden { decision, .. } | Self::Evaluation { decision, .. } => Some(decision),
            Self::TenantMismatch { .. } | Self::Request(_) | Self::Caller(_) | Self::Slice { .. } => None,
        }
    }
}

/// Decides about one function.
///
/// Light until it is first asked, so that a hundred thousand functions fit beside each other.
#[derive(Debug)]
pub struct Authorizer {
    serial: u64,
    policies: Arc<TenantPolicies>,
    function: FunctionId,
    labels: BTreeSet<Arc<str>>,
}

impl Authorizer {
    /// An authorizer for a function of the policies' tenant.
    pub fn new(policies: &Arc<TenantPolicies>, function: FunctionName, labels: BTreeSet<Arc<str>>) -> Self {
        Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            function: FunctionId { tenant: policies.tenant().clone(), function },
            policies: Arc::clone(policies),
            labels,
        }
    }

    /// The function that it decides about.
    pub fn function(&self) -> &FunctionId {
        &self.function
    }

    /// Which tags and circumstances its policies read.
    pub fn reads(&self) -> Result<Arc<Reads>, AuthzError> {
        Ok(Arc::clone(&self.slice()?.reads))
    }

    /// Asks policy. A deny is an answer, not an error.
    pub fn decide(&self, caller: &Principal, request: &RequestFacts<'_>) -> Result<Decision, AuthzError> {
        let slice = self.slice()?;
        self.decide_on(&slice, &*self.known(&slice, caller)?, request)
    }

    /// As [`Self::decide`], but a caller's last decision is recalled where nothing that policies read has changed.
    fn decide_or_recall(
        &self,
        caller: &Principal,
        facts: &RequestFacts<'_>,
    ) -> Result<Arc<Decision>, AuthzError> {
        let slice = self.slice()?;
        let known = self.known(&slice, caller)?;
        if let Some(decision) = known.memo.load().as_ref().and_then(|memo| memo.recall(facts)) {
            return Ok(decision);
        }
        let decision = Arc::new(self.decide_on(&slice, &known, facts)?);
        let memo = Memo::new(slice.read_fields, facts, Arc::clone(&decision));
        known.memo.store(Some(Arc::new(memo)));
        Ok(decision)
    }

    /// The caller's entities, united with the function's.
    fn known(&self, slice: &Slice, caller: &Principal) -> Result<Arc<Known>, AuthzError> {
        // INVARIANT (Alone): compared here before Cedar is asked; policies alone would be one slip away from a breach.
        if caller.facts().tenant != self.function.tenant {
            return Err(self.mismatch(&caller.facts().tenant));
        }
        caller.known(&self.policies.platform, self.serial, &slice.function).map_err(AuthzError::Caller)
    }

    fn decide_on(
        &self,
        slice: &Slice,
        known: &Known,
        request: &RequestFacts<'_>,
    ) -> Result<Decision, AuthzError> {
        let platform = &*self.policies.platform;
        let request = request::build(platform, &known.uid, &slice.function.uid, request)
            .map_err(AuthzError::Request)?;
        Ok(decide::decide(platform, slice, &request, known))
    }

    /// Lets an authenticated request through, if policy allows it.
    pub fn authorize<B>(&self, authenticated: Authenticated<B>) -> Result<Authorized<B>, AuthzError> {
        let (received, caller) = authenticated.into_parts();
        if received.tenant != self.function.tenant || received.function != self.function.function {
            return Err(self.mismatch(&format_args!("{}/{}", received.tenant, received.function)));
        }
        let principal = caller.derived(|| Principal::new(facts_of(&caller)));
        let head = &received.head;
        let bytes = head.headers.get(http::header::CONTENT_LENGTH);
        let facts = RequestFacts {
            method: head.method.as_str(),
            path: &head.path,
            tls: head.tls,
            client: head.client,
            now: head.now,
            authenticated_at: caller.authenticated_at(),
            binding: caller.binding(),
            bytes: bytes.and_then(|value| value.to_str().ok()?.parse().ok()),
        };
        let decision = self.decide_or_recall(&principal, &facts)?;
        let function = || self.function.clone();
        if !decision.errors.is_empty() {
            return Err(AuthzError::Evaluation { function: function(), decision });
        }
        if !decision.allowed {
            return Err(AuthzError::Forbidden { function: function(), decision });
        }
        Ok(Authorized { received, caller, decision })
    }

    fn slice(&self) -> Result<Arc<Slice>, AuthzError> {
        let cut = || Slice::cut(&self.policies, &self.function, &self.labels).map(Arc::new);
        self.policies
            .platform
            .slices
            .get_or_insert_with(&self.serial, cut)
            .map_err(|source| AuthzError::Slice { function: self.function.clone(), source })
    }

    fn mismatch(&self, given: &dyn std::fmt::Display) -> AuthzError {
        AuthzError::TenantMismatch { function: self.function.clone(), given: given.to_string() }
    }
}

/// A request that policy lets through; its body is still unread.
///
/// INVARIANT (Evidence): made by [`Authorizer::authorize`] only, consumed by the next stage.
#[derive(Debug)]
pub struct Authorized<B> {
    received: Received<B>,
    caller: Arc<Caller>,
    decision: Arc<Decision>,
}

/// An [`Authorized`] taken apart by the stage that consumes it.
#[derive(Debug)]
pub(crate) struct AuthorizedParts<B> {
    pub(crate) received: Received<B>,
    pub(crate) caller: Arc<Caller>,
    pub(crate) decision: Arc<Decision>,
}

impl<B> Authorized<B> {
    /// Names the request.
    pub fn request_id(&self) -> RequestId {
        self.received.request_id
    }

    /// Everything but the body.
    pub fn head(&self) -> &Head {
        &self.received.head
    }

    /// What may be invoked.
    pub fn function(&self) -> FunctionId {
        FunctionId { tenant: self.received.tenant.clone(), function: self.received.function.clone() }
    }

    /// Who may.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// Who said so.
    pub fn decision(&self) -> &Arc<Decision> {
        &self.decision
    }

    pub(crate) fn into_parts(self) -> AuthorizedParts<B> {
        AuthorizedParts { received: self.received, caller: self.caller, decision: self.decision }
    }
}

fn facts_of(caller: &Caller) -> CallerFacts {
    CallerFacts {
        tenant: caller.tenant().clone(),
        id: caller.id().to_owned(),
        subject: caller.subject().to_owned(),
        issuer: caller.issuer().to_owned(),
        roles: caller.roles().iter().map(ToString::to_string).collect(),
        scopes: caller.scopes().iter().map(ToString::to_string).collect(),
        tags: caller.tags().clone(),
    }
}

#[cfg(test)]
mod tests;
