//! The names of the schema that the gateway itself uses, and the proof that a site's schema has them.
//!
//! The schema is the operator's file: types, attributes and actions may be added to it, and policies may use them.
//! What the gateway builds (callers, functions, requests) must be valid by it, so that is tried once when it is loaded.

use std::str::FromStr;

use cedar_policy::{Entities, EntityId, EntityTypeName, EntityUid, Schema};

/// Every action that the gateway asks about, as Cedar ids.
pub(super) const ACTIONS: [&str; 9] = [
    "reach",
    "invoke",
    "http:send",
    "kv:read",
    "kv:write",
    "secret:use",
    "secret:reveal",
    "function:call",
    "use",
];

/// Every entity type that the gateway builds or that policies of a site may name.
pub(super) const TYPES: [&str; 8] =
    ["Tenant", "Role", "Caller", "Function", "Store", "Secret", "Host", "Facility"];

/// Parsed once (invariant **Once**): a name parsed for each request would cost more than the decision.
#[derive(Debug, Clone)]
pub(super) struct Vocabulary {
    pub(super) tenant: EntityTypeName,
    pub(super) role: EntityTypeName,
    pub(super) caller: EntityTypeName,
    pub(super) function: EntityTypeName,
    /// `Action::"invoke"`.
    pub(super) invoke: EntityUid,
    /// `Action::"invoke"` and the groups it is in: an operator may add some.
    pub(super) invoke_and_groups: Vec<EntityUid>,
}

impl Vocabulary {
    /// Finds the names in a schema; else says which are missing.
    pub(super) fn of(schema: &Schema) -> Result<Self, Vec<String>> {
        let mut missing = Vec::new();
        for name in TYPES {
            let known =
                EntityTypeName::from_str(name).is_ok_and(|ty| schema.entity_types().any(|t| *t == ty));
            if !known {
                missing.push(format!("the schema has no entity type `{name}`"));
            }
        }
        let action = |id: &str| {
            EntityTypeName::from_str("Action").map(|ty| uid(&ty, id)).map_err(|error| vec![error.to_string()])
        };
        for id in ACTIONS {
            let wanted = action(id)?;
            if !schema.actions().any(|known| *known == wanted) {
                missing.push(format!("the schema has no action `{id}`"));
            }
        }
        if !missing.is_empty() {
            return Err(missing);
        }
        let parse = |name: &str| EntityTypeName::from_str(name).map_err(|error| vec![error.to_string()]);
        let invoke = action("invoke")?;
        let actions: Entities = schema.action_entities().map_err(|error| vec![error.to_string()])?;
        let mut invoke_and_groups = vec![invoke.clone()];
        invoke_and_groups.extend(actions.ancestors(&invoke).into_iter().flatten().cloned());
        Ok(Self {
            tenant: parse("Tenant")?,
            role: parse("Role")?,
            caller: parse("Caller")?,
            function: parse("Function")?,
            invoke,
            invoke_and_groups,
        })
    }
}

/// `Type::"id"`, without a parse.
pub(super) fn uid(ty: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(ty.clone(), EntityId::new(id))
}

/// The tenant that an id such as `acme/invoice` belongs to.
pub(super) fn owner(id: &str) -> Option<&str> {
    id.split_once('/').map(|(tenant, _)| tenant)
}

/// An error with what lies behind it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
