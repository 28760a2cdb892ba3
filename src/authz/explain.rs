//! Why a decision is as it is: every policy that was consulted, and what became of it.

use std::{fmt, sync::Arc};

use cedar_policy::PolicySet;
use serde::Serialize;

use super::{
    Authorizer, AuthzError, decide,
    decide::Decision,
    entities::Principal,
    request::{self, RequestFacts},
};

/// A decision with all that was weighed.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// What it came to.
    pub decision: Decision,
    /// Every policy of the slice: those that matched first, then by id.
    pub considered: Vec<Considered>,
}

/// One policy of the slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// Its id.
    pub policy: Arc<str>,
    /// `forbid` or `permit`.
    pub forbids: bool,
    /// What became of it.
    pub outcome: Outcome,
    /// File and line, for a tenant's own policy.
    pub place: Option<String>,
    /// Its `@hint`.
    pub hint: Option<Arc<str>>,
}

/// What became of one policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It failed to evaluate.
    Failed(String),
    /// Its scope and conditions hold.
    Matched,
    /// They do not.
    NotMatched,
}

impl Authorizer {
    /// Decides again, and says of every policy what became of it. For people: each policy is evaluated twice.
    pub fn explain(&self, caller: &Principal, facts: &RequestFacts<'_>) -> Result<Explanation, AuthzError> {
        let slice = self.slice()?;
        let decision = self.decide_on(&slice, &*self.known(&slice, caller)?, facts)?;
        let platform = &*self.policies.platform;
        let known = caller.known(platform, self.serial, &slice.function).map_err(AuthzError::Caller)?;
        let request =
            request::build(platform, &known.uid, &slice.function.uid, facts).map_err(AuthzError::Request)?;
        let mut considered = Vec::with_capacity(slice.len());
        for policy in slice.set.policies() {
            let Some(note) = slice.notes.get(AsRef::<str>::as_ref(policy.id())) else { continue };
            let Ok(alone) = PolicySet::from_policies([policy.clone()]) else { continue };
            let response = platform.cedar.is_authorized(&request, &alone, &known.entities);
            let outcome = match response.diagnostics().errors().next() {
                Some(error) => Outcome::Failed(decide::message(error)),
                None if response.diagnostics().reason().next().is_some() => Outcome::Matched,
                None => Outcome::NotMatched,
            };
            let place = self.policies.locate(&note.id);
            considered.push(Considered {
                policy: Arc::clone(&note.id),
                forbids: note.forbids,
                outcome,
                place: place.map(|(source, span)| format!("{}:{}", source.path, source.line(span.start))),
                hint: note.hint.clone(),
            });
        }
        considered.sort_by(|a, b| (&a.outcome, &a.policy).cmp(&(&b.outcome, &b.policy)));
        Ok(Explanation { decision, considered })
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decision = &self.decision;
        let why = if decision.allowed {
            "allow: a policy permits it and none forbids it"
        } else if !decision.errors.is_empty() {
            "deny: a policy failed to evaluate"
        } else if decision.policies.is_empty() {
            "deny: no policy permits it"
        } else {
            "deny: a policy forbids it"
        };
        writeln!(f, "{why}")?;
        let width = self.considered.iter().map(|one| one.policy.len()).max().unwrap_or_default();
        for one in &self.considered {
            let effect = if one.forbids { "forbid" } else { "permit" };
            let outcome = match &one.outcome {
                Outcome::Matched => "matches",
                Outcome::NotMatched => "does not match",
                Outcome::Failed(_) => "fails",
            };
            let place = one.place.as_deref().unwrap_or_default();
            let line = format!("  {effect}  {:width$}  {outcome:14}  {place}", one.policy);
            writeln!(f, "{}", line.trim_end())?;
            if let Outcome::Failed(message) = &one.outcome {
                writeln!(f, "          {message}")?;
            }
            // A permit's hint helps whom it did not let through, a forbid's whom it stopped.
            let refused = !decision.allowed && one.forbids == (one.outcome == Outcome::Matched);
            if let Some(hint) = one.hint.as_ref().filter(|_| refused) {
                writeln!(f, "          hint: {hint}")?;
            }
        }
        Ok(())
    }
}
