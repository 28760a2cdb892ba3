//! A tenant's own policies: compiled apart from every other tenant's, consulted for its own functions only.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use super::{
    platform::{BUILTIN, GUARDRAILS, Platform},
    policies::{Draft, Indexed, compile},
    reads::Reads,
    vocabulary::owner,
};
use crate::{
    id::{FunctionId, FunctionName, TenantName},
    site::diagnostic::{Diagnostic, Source},
};

/// What exists at a tenant, so that policies naming something else can be told so.
#[derive(Debug, Clone, Default)]
pub struct KnownNames {
    /// Its functions with their labels.
    pub functions: BTreeMap<FunctionName, BTreeSet<Arc<str>>>,
    /// Tags that its issuers fill; `None` when that is not known.
    pub tags: Option<BTreeSet<String>>,
}

/// The compiled policies of one tenant.
///
/// Holds texts and an index of them; syntax trees are made for the slices that are used.
#[derive(Debug)]
pub struct TenantPolicies {
    pub(super) platform: Arc<Platform>,
    pub(super) tenant: TenantName,
    pub(super) sources: Vec<Source>,
    pub(super) index: Vec<Indexed>,
}

impl TenantPolicies {
    /// Compiles a tenant's `*.cedar`. Without a fault there are policies; there may be warnings beside them.
    ///
    /// No sources at all is no fault: nothing is permitted then (invariant **Closed**).
    pub fn compile(
        platform: &Arc<Platform>,
        tenant: &TenantName,
        sources: &[Source],
        known: &KnownNames,
    ) -> (Option<Arc<Self>>, Vec<Diagnostic>) {
        let mut diagnostics = Vec::new();
        if [GUARDRAILS, BUILTIN].contains(&tenant.as_str()) {
            diagnostics.push(
                Diagnostic::fault(format!("a tenant may not be called `{tenant}`"))
                    .hint("its policies could not be told from the operator's in a record"),
            );
            return (None, diagnostics);
        }
        let (index, _) = compile(
            &platform.validator,
            &platform.names,
            tenant.as_str(),
            sources,
            &mut diagnostics,
            |draft, diagnostics| {
                names_of_others(draft, tenant, known, diagnostics);
                names_of_nothing(draft, known, diagnostics);
            },
        );
        if diagnostics.iter().any(Diagnostic::is_fault) {
            return (None, diagnostics);
        }
        let policies =
            Self { platform: Arc::clone(platform), tenant: tenant.clone(), sources: sources.to_vec(), index };
        (Some(Arc::new(policies)), diagnostics)
    }

    /// The tenant.
    pub fn tenant(&self) -> &TenantName {
        &self.tenant
    }

    /// How many policies there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Functions that no policy of the tenant could ever permit: nobody can call them.
    pub fn uncallable<'a>(&self, functions: impl Iterator<Item = &'a FunctionName>) -> Vec<FunctionId> {
        functions
            .map(|function| FunctionId { tenant: self.tenant.clone(), function: function.clone() })
            .filter(|id| !self.index.iter().any(|policy| !policy.note.forbids && policy.door_in.covers(id)))
            .collect()
    }

    /// File and line of a policy, by the id that decisions give.
    pub fn locate(&self, id: &str) -> Option<(&Source, Range<usize>)> {
        let policy = self.index.iter().find(|policy| *policy.note.id == *id)?;
        Some((self.sources.get(usize::from(policy.source))?, policy.start as usize..policy.end as usize))
    }

    /// The policies that could match at this function's door in.
    pub(super) fn at_door_in<'a>(&'a self, function: &'a FunctionId) -> impl Iterator<Item = &'a Indexed> {
        self.index.iter().filter(|policy| policy.door_in.covers(function))
    }
}

/// INVARIANT (Alone): a policy that names another tenant's things is refused, wherever the name stands. It could match
/// nothing, since the tenant rule forbids it, but its author believes otherwise.
fn names_of_others(
    draft: &Draft<'_>,
    tenant: &TenantName,
    known: &KnownNames,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for literal in draft.policy.entity_literals() {
        let (ty, id) = (literal.type_name().to_string(), literal.id().unescaped());
        let place = || draft.find(&format!("\"{id}\""));
        let belongs_to = match ty.as_str() {
            "Tenant" => Some(id),
            "Role" | "Caller" | "Function" | "Store" | "Secret" => owner(id),
            _ => continue,
        };
        match belongs_to {
            Some(name) if name == tenant.as_str() => {}
            Some(_) => {
                diagnostics.push(
                    Diagnostic::fault(format!("`{literal}` is not `{tenant}`'s"))
                        .at(draft.source, place())
                        .hint("a tenant's policies speak of its own callers, roles, functions, stores and secrets only"),
                );
                continue;
            }
            None => diagnostics.push(
                Diagnostic::warning(format!("`{literal}` is the name of nothing"))
                    .at(draft.source, place())
                    .hint(format!("ids begin with the tenant: `{ty}::\"{tenant}/{id}\"`")),
            ),
        }
        if ty == "Function" {
            let name = id.split_once('/').map_or(id, |(_, name)| name);
            if !known.functions.contains_key(name) && belongs_to.is_some() {
                let warning =
                    Diagnostic::warning(format!("there is no function `{id}`")).at(draft.source, place());
                diagnostics.push(match nearest(name, known.functions.keys().map(FunctionName::as_str)) {
                    Some(near) => warning.hint(format!("did you mean `{tenant}/{near}`?")),
                    None => warning,
                });
            }
        }
    }
}

/// Labels that no function has and tags that no issuer fills. Needs a walk over the policy, so only where its text
/// speaks of either.
fn names_of_nothing(draft: &Draft<'_>, known: &KnownNames, diagnostics: &mut Vec<Diagnostic>) {
    let text = draft.source.text.get(draft.span.clone()).unwrap_or_default();
    if !(text.contains("Tag") || text.contains("labels")) {
        return;
    }
    let reads = Reads::of([draft.policy]);
    for label in &reads.labels {
        if !known.functions.values().any(|labels| labels.contains(label.as_str())) {
            let warning = Diagnostic::warning(format!("no function has the label `{label}`"))
                .at(draft.source, draft.find(&format!("\"{label}\"")));
            let labels = known.functions.values().flatten().map(|label| &**label);
            diagnostics.push(match nearest(label, labels) {
                Some(near) => warning.hint(format!("did you mean `{near}`?")),
                None => warning,
            });
        }
    }
    let Some(tags) = &known.tags else { return };
    for tag in reads.tags.iter().filter(|tag| !tags.contains(*tag)) {
        diagnostics.push(
            Diagnostic::warning(format!("no issuer of the tenant fills the tag `{tag}`"))
                .at(draft.source, draft.find(&format!("\"{tag}\"")))
                .hint("list it under `tags` of an issuer in `tenant.toml`"),
        );
    }
}

/// The known name that a mistyped one most resembles.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
