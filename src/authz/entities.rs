//! Callers and functions as Cedar entities: built once, validated by the schema, and kept with what they are of.
//!
//! Building and validating four entities costs more than a decision, so a caller's live with its cached token
//! (`Caller::derived`) and a function's with its slice; the union for one caller at one function is kept beside the
//! caller's, a few at a time (invariant **Bounded**).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use arc_swap::ArcSwapOption;
use cedar_policy::{Entities, Entity, EntityUid, RestrictedExpression};

use super::{
    memo::Memo,
    platform::Platform,
    vocabulary::{chain, owner, uid},
};
use crate::id::{FunctionId, TenantName};

/// Most functions whose union with one caller's entities is kept: a token is mostly used for a handful.
const MAX_KNOWN: usize = 8;

/// Why entities could not be made; never for what authentication let through and the schema's own rehearsal passed.
///
/// What is wrong is for the operator who loads a schema; it may quote a claim, so `Display` leaves it out.
#[derive(Debug, Clone, thiserror::Error)]
#[error("an entity does not conform to the schema")]
pub struct EntityError {
    /// Cedar's words.
    pub(super) detail: String,
}

impl EntityError {
    fn new(error: &dyn std::error::Error) -> Self {
        Self { detail: chain(error) }
    }
}

/// What a decision may know of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerFacts {
    /// The tenant that it authenticated to.
    pub tenant: TenantName,
    /// `acme/alice` or `acme/partners/alice`.
    pub id: String,
    /// `sub`, as the issuer wrote it.
    pub subject: String,
    /// `iss`.
    pub issuer: String,
    /// Full ids of its roles, `acme/billing`.
    pub roles: Vec<String>,
    /// What its token is good for.
    pub scopes: Vec<String>,
    /// Claims that policies may read.
    pub tags: BTreeMap<String, String>,
}

impl CallerFacts {
    /// A caller with no role, scope or tag; `subject` needs no encoding in an id.
    pub fn new(tenant: TenantName, subject: &str) -> Self {
        Self {
            id: format!("{tenant}/{subject}"),
            subject: subject.to_owned(),
            issuer: String::new(),
            roles: Vec::new(),
            scopes: Vec::new(),
            tags: BTreeMap::new(),
            tenant,
        }
    }
}

/// A caller as Cedar knows it, made from its facts when first needed. Lives as long as its cached token.
#[derive(Debug)]
pub struct Principal {
    facts: CallerFacts,
    made: RwLock<Made>,
}

#[derive(Debug, Default)]
struct Made {
    /// The caller's own entities, by the platform whose schema they passed.
    own: Option<(u64, Arc<Known>)>,
    /// United with a function's, by authorizer.
    with: Vec<(u64, Arc<Known>)>,
    /// Which of `with` gives way next.
    next: usize,
}

/// A principal and everything that policies may ask of it and of the function.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) uid: EntityUid,
    pub(super) entities: Entities,
    /// What was decided last about this caller and this function.
    pub(super) memo: ArcSwapOption<Memo>,
}

/// A function as Cedar knows it.
#[derive(Debug)]
pub(super) struct FunctionEntity {
    pub(super) uid: EntityUid,
    entity: Entity,
}

impl Principal {
    /// A principal of these facts; nothing is built yet.
    pub fn new(facts: CallerFacts) -> Self {
        Self { facts, made: RwLock::default() }
    }

    /// What it was made from.
    pub fn facts(&self) -> &CallerFacts {
        &self.facts
    }

    /// Its entities united with a function's; `authorizer` tells apart functions and their revisions.
    pub(super) fn known(
        &self,
        platform: &Platform,
        authorizer: u64,
        function: &FunctionEntity,
    ) -> Result<Arc<Known>, EntityError> {
        {
            let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, known)) = made.with.iter().find(|(serial, _)| *serial == authorizer) {
                return Ok(Arc::clone(known));
            }
        }
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        let own = match &made.own {
            Some((serial, own)) if *serial == platform.serial => Arc::clone(own),
            _ => {
                let own = Arc::new(caller(platform, &self.facts)?);
                made.own = Some((platform.serial, Arc::clone(&own)));
                own
            }
        };
        let entities = own
            .entities
            .clone()
            .add_entities([function.entity.clone()], None)
            .map_err(|error| EntityError::new(&error))?;
        let known = Arc::new(Known { uid: own.uid.clone(), entities, memo: ArcSwapOption::empty() });
        let entry = (authorizer, Arc::clone(&known));
        let next = made.next;
        match made.with.get_mut(next) {
            Some(slot) => *slot = entry,
            None => made.with.push(entry),
        }
        made.next = (next + 1) % MAX_KNOWN;
        Ok(known)
    }
}

/// The entities of a caller: itself, its roles, its tenant.
fn caller(platform: &Platform, facts: &CallerFacts) -> Result<Known, EntityError> {
    let names = &platform.names;
    let caller = uid(&names.caller, &facts.id);
    let tenant = uid(&names.tenant, facts.tenant.as_str());
    let mut parents = HashSet::from([tenant.clone()]);
    let mut all = Vec::with_capacity(facts.roles.len() + 2);
    let roles: BTreeSet<&String> = facts.roles.iter().collect();
    for role in roles {
        // INVARIANT (Alone): a role of another tenant would carry its callers past that tenant's permits.
        if owner(role) != Some(facts.tenant.as_str()) {
            return Err(EntityError {
                detail: format!("a role of caller `{}` is not of its tenant", facts.id),
            });
        }
        let role = uid(&names.role, role);
        parents.insert(role.clone());
        let attributes =
            HashMap::from([("tenant".to_owned(), RestrictedExpression::new_entity_uid(tenant.clone()))]);
        all.push(
            Entity::new(role, attributes, HashSet::from([tenant.clone()]))
                .map_err(|error| EntityError::new(&error))?,
        );
    }
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let attributes = [
        ("tenant".to_owned(), RestrictedExpression::new_entity_uid(tenant.clone())),
        ("subject".to_owned(), text(&facts.subject)),
        ("issuer".to_owned(), text(&facts.issuer)),
        ("scopes".to_owned(), RestrictedExpression::new_set(facts.scopes.iter().map(|scope| text(scope)))),
    ];
    let tags = facts.tags.iter().map(|(name, value)| (name.clone(), text(value)));
    all.push(
        Entity::new_with_tags(caller.clone(), attributes, parents, tags)
            .map_err(|error| EntityError::new(&error))?,
    );
    all.push(Entity::new_no_attrs(tenant, HashSet::new()));
    Ok(Known { uid: caller, entities: validated(platform, all)?, memo: ArcSwapOption::empty() })
}

/// The entity of a function.
pub(super) fn function(
    platform: &Platform,
    id: &FunctionId,
    labels: &BTreeSet<Arc<str>>,
) -> Result<FunctionEntity, EntityError> {
    let names = &platform.names;
    let tenant = uid(&names.tenant, id.tenant.as_str());
    let function = uid(&names.function, &id.to_string());
    let labels = labels.iter().map(|label| RestrictedExpression::new_string(label.to_string()));
    let attributes = HashMap::from([
        ("tenant".to_owned(), RestrictedExpression::new_entity_uid(tenant.clone())),
        ("labels".to_owned(), RestrictedExpression::new_set(labels)),
    ]);
    let entity = Entity::new(function.clone(), attributes, HashSet::from([tenant]))
        .map_err(|error| EntityError::new(&error))?;
    validated(platform, vec![entity.clone()])?;
    Ok(FunctionEntity { uid: function, entity })
}

/// The entities, if the schema has nothing against them, with the actions of the schema that `invoke` is in.
fn validated(platform: &Platform, all: Vec<Entity>) -> Result<Entities, EntityError> {
    let schema = platform.validator.schema();
    let valid = Entities::from_entities(all, Some(schema)).map_err(|error| EntityError::new(&error))?;
    // Validation adds every action of the schema; only `invoke` and its groups are ever looked up at this door.
    let invoke = &platform.names.invoke_and_groups;
    let actions = &platform.names.invoke;
    let wanted = valid
        .iter()
        .filter(|entity| entity.uid().type_name() != actions.type_name() || invoke.contains(&entity.uid()))
        .cloned();
    Entities::from_entities(wanted, None).map_err(|error| EntityError::new(&error))
}
