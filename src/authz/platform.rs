//! The operator's part of authorization: the schema and the guardrails, with the rules that are compiled in.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use cedar_policy::{Effect, Policy, Schema, SchemaWarning, Validator, ffi::DetailedError};
use quick_cache::{Weighter, sync::Cache};

use super::{
    entities::{self, CallerFacts, Principal},
    policies::{self, Indexed, Note, compile},
    reads::Reads,
    request::{self, RequestFacts},
    scope::DoorIn,
    slice::Slice,
    vocabulary::{Vocabulary, owner},
};
use crate::{
    id::{FunctionId, TenantName},
    site::diagnostic::{Diagnostic, Source},
};

/// First part of the ids of the operator's policies.
pub(super) const GUARDRAILS: &str = "guardrails";
/// First part of the ids of the rules compiled in.
pub(super) const BUILTIN: &str = "builtin";

/// What holds before any file is read (design.md §6): a tenant's things are reached by its own callers through its own
/// functions. The same is compared in Rust before Cedar is asked; here it also holds for whoever asks Cedar by another
/// way, and `prove` can see it.
const BUILTIN_RULES: &str = r#"
@id("invoke-own-tenant") @code("tenant") @hint("a function is called by its own tenant's callers only")
forbid (principal, action == Action::"invoke", resource)
unless { principal.tenant == resource.tenant };

@id("kv-own-tenant") @code("tenant") @hint("a store is reached for its own tenant's callers only")
forbid (principal, action in [Action::"kv:read", Action::"kv:write"], resource)
unless { principal.tenant == resource.tenant && context.caller.tenant == resource.tenant };

@id("secret-own-tenant") @code("tenant") @hint("a secret is used for its own tenant's callers only")
forbid (principal, action in [Action::"secret:use", Action::"secret:reveal"], resource)
unless { principal.tenant == resource.tenant && context.caller.tenant == resource.tenant };

@id("call-own-tenant") @code("tenant") @hint("a function calls its own tenant's functions only")
forbid (principal, action == Action::"function:call", resource)
unless { principal.tenant == resource.tenant && context.caller.tenant == resource.tenant };
"#;

/// Most policies held as syntax trees in slices, over all functions of all tenants: about 6 KiB each.
const MAX_SLICED_POLICIES: u64 = 50_000;

/// Tells platforms apart, so that nothing built by one schema is ever used with another.
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// The schema, the compiled-in rules and the guardrails of one revision, shared by all its tenants.
pub struct Platform {
    pub(super) serial: u64,
    pub(super) validator: Validator,
    pub(super) names: Vocabulary,
    pub(super) constants: request::Constants,
    pub(super) cedar: cedar_policy::Authorizer,
    /// Rules compiled in, then guardrails.
    pub(super) rails: Vec<Rail>,
    guardrails: Source,
    /// Slices by authorizer (invariant **Bounded**).
    pub(super) slices: Cache<u64, Arc<Slice>, SliceWeight>,
}

/// A `forbid` that binds every tenant, parsed: slices share its syntax tree, and what it reads, for which Cedar parses it
/// once more.
#[derive(Debug, Clone)]
pub(super) struct Rail {
    pub(super) note: Arc<Note>,
    pub(super) door_in: DoorIn,
    pub(super) policy: Policy,
    pub(super) reads: Reads,
}

/// A slice weighs as many policies as it holds.
#[derive(Debug, Clone)]
pub(super) struct SliceWeight;

impl Weighter<u64, Arc<Slice>> for SliceWeight {
    fn weight(&self, _: &u64, slice: &Arc<Slice>) -> u64 {
        slice.len() as u64
    }
}

impl std::fmt::Debug for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Platform").field("serial", &self.serial).field("rails", &self.rails.len()).finish()
    }
}

impl Platform {
    /// Compiles the operator's two files. Without a fault there is a platform; there may be warnings beside it.
    pub fn compile(schema: &Source, guardrails: &Source) -> (Option<Arc<Self>>, Vec<Diagnostic>) {
        let mut diagnostics = Vec::new();
        let platform = Self::try_compile(schema, guardrails, &mut diagnostics);
        let sound = !diagnostics.iter().any(Diagnostic::is_fault);
        (platform.filter(|_| sound).map(Arc::new), diagnostics)
    }

    /// Names in the guardrails that no tenant or function of the site has: warnings. `has` says whether there is such a
    /// tenant, or such a function of it; it is asked as often as guardrails name something, however large the site is.
    pub fn unknown_names(&self, has: impl Fn(&str, Option<&str>) -> bool) -> Vec<Diagnostic> {
        let mut diagnostics = Vec::new();
        for rail in self.rails.iter().filter(|rail| rail.note.id.starts_with("guardrails/")) {
            for literal in rail.policy.entity_literals() {
                let (ty, id) = (literal.type_name().to_string(), literal.id().unescaped());
                let known = match ty.as_str() {
                    "Tenant" => has(id, None),
                    "Function" => id.split_once('/').is_some_and(|(t, f)| has(t, Some(f))),
                    "Role" | "Caller" | "Store" | "Secret" => owner(id).is_some_and(|t| has(t, None)),
                    _ => true,
                };
                if !known {
                    let at = self.guardrails.text.find(&format!("\"{id}\"")).unwrap_or_default();
                    diagnostics.push(
                        Diagnostic::warning(format!(
                            "`{}` names `{literal}`, which this site does not have",
                            rail.note.id
                        ))
                        .at(&self.guardrails, at..(at + id.len() + 2).min(self.guardrails.text.len())),
                    );
                }
            }
        }
        diagnostics
    }

    fn try_compile(schema: &Source, guardrails: &Source, diagnostics: &mut Vec<Diagnostic>) -> Option<Self> {
        let parsed = parse_schema(schema, diagnostics)?;
        let names = match Vocabulary::of(&parsed) {
            Ok(names) => names,
            Err(missing) => {
                for message in missing {
                    diagnostics.push(
                        Diagnostic::fault(message)
                            .in_file(schema)
                            .hint("add to the schema what you need; what it came with must stay"),
                    );
                }
                return None;
            }
        };
        let validator = Validator::new(parsed);
        let mut wrong = Vec::new();
        let builtin = [Source::new("(compiled in)", BUILTIN_RULES)];
        let (builtin_index, builtin_set) =
            compile(&validator, &names, BUILTIN, &builtin, &mut wrong, |_, _| {});
        for fault in wrong.iter().filter(|d| d.is_fault()) {
            diagnostics.push(
                Diagnostic::fault(format!("the tenant rule does not fit this schema: {}", fault.message))
                    .in_file(schema)
                    .hint("add to the schema what you need; what it came with must stay"),
            );
        }
        let files = [guardrails.clone()];
        let (index, set) =
            compile(&validator, &names, GUARDRAILS, &files, diagnostics, |draft, diagnostics| {
                if draft.policy.effect() == Effect::Permit {
                    diagnostics.push(
                        Diagnostic::fault(
                            "a guardrail only forbids: a `permit` here would reach past every tenant",
                        )
                        .at(draft.source, draft.find("permit"))
                        .hint("permits belong into the tenant's own policies"),
                    );
                }
            });
        let rails = rails(&builtin_index, &builtin_set).chain(rails(&index, &set)).collect();
        let platform = Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            validator,
            names,
            constants: request::Constants::new(),
            cedar: cedar_policy::Authorizer::new(),
            rails,
            guardrails: guardrails.clone(),
            slices: Cache::with_weighter(10_000, MAX_SLICED_POLICIES, SliceWeight),
        };
        if let Err(error) = platform.rehearse() {
            diagnostics.push(
                Diagnostic::fault(format!("what the gateway asks is not valid by this schema: {error}"))
                    .in_file(schema)
                    .hint("attributes that are added must be optional: the gateway does not know them"),
            );
        }
        Some(platform)
    }

    /// Builds a caller, a function and both extremes of a request, as each call will, to see them pass the schema.
    fn rehearse(&self) -> Result<(), String> {
        let (full, bare) = &*PROBES;
        let function = FunctionId {
            tenant: full.tenant.clone(),
            function: "probe".parse().map_err(|_| "no probe".to_owned())?,
        };
        let labels = BTreeSet::from(["probe".into()]);
        let entity = entities::function(self, &function, &labels).map_err(|error| error.detail)?;
        for (facts, request) in [(full, &RequestFacts::FULLEST), (bare, &RequestFacts::BAREST)] {
            let known =
                Principal::new(facts.clone()).known(self, 0, &entity).map_err(|error| error.detail)?;
            request::build(self, &known.uid, &entity.uid, request).map_err(|error| error.detail)?;
        }
        Ok(())
    }
}

static PROBES: LazyLock<(CallerFacts, CallerFacts)> = LazyLock::new(|| {
    let mut full = CallerFacts::new(probe_tenant(), "probe");
    full.roles.push("probe/role".into());
    full.scopes.push("scope".into());
    full.tags.insert("tag".into(), "value".into());
    (full, CallerFacts::new(probe_tenant(), "probe"))
});

#[expect(clippy::expect_used, reason = "a constant that is a name")]
fn probe_tenant() -> TenantName {
    "probe".parse().expect("`probe` is a name")
}

fn rails<'a>(index: &'a [Indexed], set: &'a cedar_policy::PolicySet) -> impl Iterator<Item = Rail> + 'a {
    index.iter().filter_map(|indexed| {
        let policy = set.policy(&cedar_policy::PolicyId::new(&*indexed.note.id))?.clone();
        let reads = Reads::of([&policy]);
        Some(Rail { note: Arc::clone(&indexed.note), door_in: indexed.door_in.clone(), policy, reads })
    })
}

fn parse_schema(source: &Source, diagnostics: &mut Vec<Diagnostic>) -> Option<Schema> {
    let whole = 0..source.text.len();
    match Schema::from_cedarschema_str(&source.text) {
        Ok((schema, warnings)) => {
            for warning in warnings {
                let warning: SchemaWarning = warning;
                policies::report(&DetailedError::from(&warning), source, &whole, 0, false, diagnostics);
            }
            Some(schema)
        }
        Err(error) => {
            policies::report(&DetailedError::from(&error), source, &whole, 0, true, diagnostics);
            None
        }
    }
}
