//! One question to Cedar and what is made of the answer.

use std::sync::Arc;

use cedar_policy::{AuthorizationError, Request};
use serde::Serialize;

use super::{entities::Known, platform::Platform, reads::Reads, slice::Slice};

/// Longest message of an evaluation error that is kept, in bytes: Cedar quotes operands in them.
const MAX_ERROR_BYTES: usize = 256;

/// What policy said, and which policies said so. A deny without policies is the default: nothing permitted it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Whether the function may run.
    pub allowed: bool,
    /// Ids of the policies that determined it, sorted: the permits of an allow, the forbids of a deny.
    pub policies: Vec<Arc<str>>,
    /// Policies that failed to evaluate. Any of them makes it a deny.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<PolicyError>,
    /// `@code`s of the determining policies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<Arc<str>>,
    /// `@hint`s of the determining policies, for people.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<Arc<str>>,
    /// What the consulted policies read: a record shows these tags and circumstances and no others.
    #[serde(skip)]
    pub reads: Arc<Reads>,
}

/// A policy that failed to evaluate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyError {
    /// Its id.
    pub policy: Arc<str>,
    /// What failed.
    pub message: String,
}

/// Asks Cedar about a request that the schema has passed.
pub(super) fn decide(platform: &Platform, slice: &Slice, request: &Request, known: &Known) -> Decision {
    let response = platform.cedar.is_authorized(request, &slice.set, &known.entities);
    let diagnostics = response.diagnostics();
    let errors: Vec<PolicyError> = diagnostics
        .errors()
        .map(|error| {
            let AuthorizationError::PolicyEvaluationError(inner) = error;
            PolicyError { policy: name(slice, inner.policy_id().as_ref()), message: message(error) }
        })
        .collect();
    // Cedar skips a policy that fails to evaluate, even a `forbid`: so any error means deny.
    let allowed = response.decision() == cedar_policy::Decision::Allow && errors.is_empty();
    let mut decision = Decision {
        allowed,
        policies: Vec::new(),
        errors,
        codes: Vec::new(),
        hints: Vec::new(),
        reads: Arc::clone(&slice.reads),
    };
    // Permits that errors overrule determined nothing.
    if allowed || response.decision() == cedar_policy::Decision::Deny {
        for id in diagnostics.reason() {
            decision.policies.push(name(slice, id.as_ref()));
        }
        decision.policies.sort_unstable();
        let notes = decision.policies.iter().filter_map(|id| slice.notes.get(id));
        for note in notes {
            decision.codes.extend(note.code.clone());
            decision.hints.extend(note.hint.clone());
        }
    }
    decision
}

fn name(slice: &Slice, id: &str) -> Arc<str> {
    slice.notes.get(id).map_or_else(|| id.into(), |note| Arc::clone(&note.id))
}

/// What failed, without the policy's name, cut at a character.
pub(super) fn message(error: &AuthorizationError) -> String {
    let AuthorizationError::PolicyEvaluationError(error) = error;
    let mut message = error.inner().to_string();
    if message.len() > MAX_ERROR_BYTES {
        message.truncate(message.floor_char_boundary(MAX_ERROR_BYTES));
    }
    message
}
