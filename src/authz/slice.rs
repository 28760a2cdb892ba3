//! The policies that a decision about one function consults: those of its tenant and of the operator whose scope can
//! match there, and no others. So a decision costs the same beside ten policies as beside a hundred thousand.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use cedar_policy::{Policy, PolicySet};

use super::{
    entities::{self, FunctionEntity},
    memo::ReadFields,
    platform::{Platform, Rail},
    policies::Note,
    reads::Reads,
    tenant::TenantPolicies,
};
use crate::id::FunctionId;

/// Why a slice could not be made; never for policies that compiled.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct SliceError(String);

/// A function's slice with what goes with it.
#[derive(Debug)]
pub(super) struct Slice {
    /// Builtin rules, guardrails and the tenant's policies: one set, one evaluation. A tenant's `permit` cannot widen
    /// past a guardrail, since guardrails only forbid and in Cedar any matching `forbid` wins.
    pub(super) set: PolicySet,
    pub(super) notes: HashMap<Arc<str>, Arc<Note>>,
    pub(super) reads: Arc<Reads>,
    pub(super) read_fields: ReadFields,
    pub(super) function: FunctionEntity,
}

impl Slice {
    /// Cuts the slice of a function.
    pub(super) fn cut(
        policies: &TenantPolicies,
        function: &FunctionId,
        labels: &BTreeSet<Arc<str>>,
    ) -> Result<Self, SliceError> {
        let chosen = policies.at_door_in(function).map(|indexed| {
            let policy = indexed.parse(&policies.sources).map_err(SliceError)?;
            Ok((Arc::clone(&indexed.note), policy))
        });
        let rails = policies.platform.rails.iter().filter(|rail| rail.door_in.covers(function));
        Self::of(&policies.platform, rails, chosen, function, labels)
    }

    /// Every policy, wherever it could match: what slices are tested against.
    #[cfg(test)]
    pub(super) fn whole(
        policies: &TenantPolicies,
        function: &FunctionId,
        labels: &BTreeSet<Arc<str>>,
    ) -> Result<Self, SliceError> {
        let chosen = policies.index.iter().map(|indexed| {
            let policy = indexed.parse(&policies.sources).map_err(SliceError)?;
            Ok((Arc::clone(&indexed.note), policy))
        });
        let rails = policies.platform.rails.iter();
        Self::of(&policies.platform, rails, chosen, function, labels)
    }

    /// How many policies a decision evaluates.
    pub(super) fn len(&self) -> usize {
        self.notes.len()
    }

    fn of<'a>(
        platform: &Platform,
        rails: impl Iterator<Item = &'a Rail>,
        chosen: impl Iterator<Item = Result<(Arc<Note>, Policy), SliceError>>,
        function: &FunctionId,
        labels: &BTreeSet<Arc<str>>,
    ) -> Result<Self, SliceError> {
        let mut set = PolicySet::new();
        let mut notes = HashMap::new();
        let mut reads = Reads::default();
        let mut add = |note: &Arc<Note>, policy: Policy| {
            notes.insert(Arc::clone(&note.id), Arc::clone(note));
            set.add(policy).map_err(|error| SliceError(error.to_string()))
        };
        for rail in rails {
            reads.merge(&rail.reads);
            add(&rail.note, rail.policy.clone())?;
        }
        for policy in chosen {
            let (note, policy) = policy?;
            reads.merge(&Reads::of([&policy]));
            add(&note, policy)?;
        }
        let reads = Arc::new(reads);
        let function =
            entities::function(platform, function, labels).map_err(|error| SliceError(error.to_string()))?;
        Ok(Self { set, notes, read_fields: ReadFields::of(&reads), reads, function })
    }
}
