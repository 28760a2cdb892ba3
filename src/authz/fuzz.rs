//! Policy loading under arbitrary text, as a plain function: run over its corpus in CI and by cargo-fuzz.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

use super::{
    Authorizer, CallerFacts, KnownNames, Platform, Principal, RequestFacts, TenantPolicies, run_trials,
};
use crate::{
    id::{FunctionName, TenantName},
    site::diagnostic::Source,
};

const SCHEMA: &str = include_str!("../../policies/schema.cedarschema");
const GUARDRAILS: &str = include_str!("../../policies/guardrails.cedar");

static PLATFORM: LazyLock<Option<Arc<Platform>>> = LazyLock::new(|| {
    let schema = Source::new("schema.cedarschema", SCHEMA);
    Platform::compile(&schema, &Source::new("guardrails.cedar", GUARDRAILS)).0
});

/// Takes any bytes as each of the files of this stage. Nothing may panic, overflow the stack or hang; every report can be
/// rendered; and what compiles can be asked.
pub fn policy_loading(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (Some(platform), Ok(tenant), Ok(function)) =
        (&*PLATFORM, "acme".parse::<TenantName>(), "hello".parse::<FunctionName>())
    else {
        return;
    };
    let source = Source::new("fuzz", text);
    let good = Source::new("schema.cedarschema", SCHEMA);
    let mut diagnostics = Platform::compile(&source, &Source::new("guardrails.cedar", "")).1;
    diagnostics.extend(Platform::compile(&good, &source).1);
    let known = KnownNames {
        functions: [(function.clone(), BTreeSet::from(["money".into()]))].into(),
        tags: Some(BTreeSet::from(["department".to_owned()])),
    };
    let (policies, told) = TenantPolicies::compile(platform, &tenant, std::slice::from_ref(&source), &known);
    diagnostics.extend(told);
    if let Some(policies) = policies {
        let authorizer = Authorizer::new(&policies, function, BTreeSet::new());
        let mut caller = CallerFacts::new(tenant, "alice");
        caller.roles.push("acme/billing".to_owned());
        let caller = Principal::new(caller);
        for request in [RequestFacts::FULLEST, RequestFacts::BAREST] {
            _ = authorizer.explain(&caller, &request).map(|explanation| explanation.to_string());
        }
        diagnostics.extend(run_trials(&policies, &known, &source).diagnostics);
    }
    for diagnostic in &diagnostics {
        _ = diagnostic.render(false);
    }
}
