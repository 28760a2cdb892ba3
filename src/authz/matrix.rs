//! Who may do what, as a table that people read: a change of policy shows as a change of the table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use super::{
    Authorizer,
    entities::{CallerFacts, Principal},
    reads::Reads,
    request::RequestFacts,
    tenant::{KnownNames, TenantPolicies},
    trial::{CLIENT, noon},
};
use crate::id::TenantName;

/// Tenant × role × action, for every function of these tenants.
///
/// Each row is a caller of one role that the tenant's policies name (or of none), without scopes or tags, at a Monday
/// noon, freshly signed in, over TLS 1.3. Where scopes would change the answer there is a second row, `+ scopes`, for a
/// caller that has every scope that the tenant's policies name.
pub fn matrix(tenants: &[(&Arc<TenantPolicies>, &KnownNames)]) -> String {
    let rows: BTreeMap<&TenantName, Vec<Row>> =
        tenants.iter().map(|(policies, _)| (policies.tenant(), rows(policies))).collect();
    let all = || rows.iter().flat_map(|(tenant, rows)| rows.iter().map(move |row| (*tenant, row)));
    let tenant_width = rows.keys().map(|tenant| tenant.as_str().len()).max().unwrap_or_default();
    let role_width = all().map(|(_, row)| row.label.chars().count()).max().unwrap_or_default();
    let mut table = String::new();
    for (policies, known) in tenants {
        for (function, labels) in &known.functions {
            let authorizer = Authorizer::new(policies, function.clone(), labels.clone());
            let title = format!("Function::\"{}\"", authorizer.function());
            let width = (tenant_width + role_width + 4).max(title.chars().count());
            _ = writeln!(table, "{title:width$}  invoke");
            let mut last = None;
            for (tenant, row) in all() {
                let allowed = invoke(&authorizer, row);
                // A row for scopes that change nothing would only repeat the one above.
                if row.scoped && last == Some(allowed) {
                    continue;
                }
                last = Some(allowed);
                let name = format!("  {:tenant_width$}  {}", tenant.as_str(), row.label);
                _ = writeln!(table, "{name:width$}  {}", if allowed { '✔' } else { '✘' });
            }
            table.push('\n');
        }
    }
    table.truncate(table.trim_end().len());
    table.push('\n');
    table
}

struct Row {
    label: String,
    scoped: bool,
    principal: Principal,
}

fn rows(policies: &TenantPolicies) -> Vec<Row> {
    let mut roles: BTreeSet<String> = BTreeSet::new();
    let mut scopes: BTreeSet<String> = BTreeSet::new();
    for policy in policies.index.iter().filter_map(|indexed| indexed.parse(&policies.sources).ok()) {
        let literals = policy.entity_literals();
        let named = literals.iter().filter(|uid| *uid.type_name() == policies.platform.names.role);
        roles.extend(named.map(|uid| uid.id().unescaped().to_owned()));
        scopes.extend(Reads::of([&policy]).scopes);
    }
    let mut rows = Vec::new();
    for role in roles.iter().map(Some).chain([None]) {
        let label =
            role.map_or("(no role)", |role| role.split_once('/').map_or(role.as_str(), |(_, name)| name));
        let mut facts = CallerFacts::new(policies.tenant().clone(), "matrix");
        facts.roles.extend(role.cloned());
        rows.push(Row { label: label.to_owned(), scoped: false, principal: Principal::new(facts.clone()) });
        facts.scopes.extend(scopes.iter().cloned());
        let label = format!("{label} + scopes");
        rows.push(Row { label, scoped: true, principal: Principal::new(facts) });
    }
    rows
}

/// Whether a plain request is allowed; no answer is no.
fn invoke(authorizer: &Authorizer, row: &Row) -> bool {
    let path = format!("/{}", authorizer.function());
    let facts = RequestFacts {
        method: "POST",
        path: &path,
        tls: "1.3",
        client: CLIENT,
        now: noon(),
        authenticated_at: Some(noon()),
        binding: "none",
        bytes: None,
    };
    authorizer.decide(&row.principal, &facts).is_ok_and(|decision| decision.allowed)
}
