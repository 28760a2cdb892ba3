//! Where a policy could match, read from its scope alone: what slices are cut by.
//!
//! Erring on the side of "could match" costs a microsecond; erring on the other side would lose a `forbid`. So
//! whatever is not plainly elsewhere is kept.

use cedar_policy::{ActionConstraint, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};

use super::vocabulary::Vocabulary;
use crate::id::FunctionId;

/// The functions at whose door in (`invoke`) a policy could match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DoorIn {
    /// No function's: its action, principal or resource is of another kind.
    Never,
    /// Every function's.
    Any,
    /// Those of one tenant.
    Tenant(Box<str>),
    /// That of one function, by its id `tenant/name`.
    Function(Box<str>),
}

impl DoorIn {
    /// Reads the scope of a policy.
    pub(super) fn of(policy: &Policy, names: &Vocabulary) -> Self {
        let invokes = match policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(action) => action == names.invoke,
            ActionConstraint::In(actions) => actions.iter().any(|a| names.invoke_and_groups.contains(a)),
        };
        let by_callers = match policy.principal_constraint() {
            PrincipalConstraint::Any => true,
            PrincipalConstraint::Is(ty) => ty == names.caller,
            PrincipalConstraint::Eq(uid) => *uid.type_name() == names.caller,
            PrincipalConstraint::In(uid) => holds_callers(&uid, names),
            PrincipalConstraint::IsIn(ty, uid) => ty == names.caller && holds_callers(&uid, names),
        };
        if !(invokes && by_callers) {
            return Self::Never;
        }
        match policy.resource_constraint() {
            ResourceConstraint::Any => Self::Any,
            ResourceConstraint::Is(ty) if ty == names.function => Self::Any,
            ResourceConstraint::Is(_) => Self::Never,
            ResourceConstraint::Eq(uid) if *uid.type_name() == names.function => Self::Function(id(&uid)),
            ResourceConstraint::Eq(_) => Self::Never,
            ResourceConstraint::In(uid) => within(&uid, names),
            ResourceConstraint::IsIn(ty, uid) if ty == names.function => within(&uid, names),
            ResourceConstraint::IsIn(..) => Self::Never,
        }
    }

    /// Whether the policy belongs into the slice of this function.
    pub(super) fn covers(&self, function: &FunctionId) -> bool {
        match self {
            Self::Never => false,
            Self::Any => true,
            Self::Tenant(tenant) => **tenant == *function.tenant.as_str(),
            Self::Function(id) => id
                .split_once('/')
                .is_some_and(|(t, f)| t == function.tenant.as_str() && f == function.function.as_str()),
        }
    }
}

/// `in` is reflexive, and the gateway gives callers no parents but roles and their tenant.
fn holds_callers(uid: &EntityUid, names: &Vocabulary) -> bool {
    let ty = uid.type_name();
    *ty == names.caller || *ty == names.role || *ty == names.tenant
}

/// The gateway gives functions no parent but their tenant.
fn within(uid: &EntityUid, names: &Vocabulary) -> DoorIn {
    if *uid.type_name() == names.tenant {
        DoorIn::Tenant(id(uid))
    } else if *uid.type_name() == names.function {
        DoorIn::Function(id(uid))
    } else {
        DoorIn::Never
    }
}

fn id(uid: &EntityUid) -> Box<str> {
    uid.id().unescaped().into()
}
