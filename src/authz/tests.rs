//! What policies mean, and what is refused of them.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use super::{slice::Slice, statements::MAX_LINKS, trial::noon, *};
use crate::{
    id::TenantName,
    site::diagnostic::{Diagnostic, Source},
};

mod composition;
mod refused;
mod trials;

const SCHEMA: &str = include_str!("../../policies/schema.cedarschema");
const GUARDRAILS: &str = include_str!("../../policies/guardrails.cedar");

/// An operator's part and any number of tenants; each test bends one thing.
struct World {
    platform: Arc<Platform>,
}

impl World {
    fn new() -> Self {
        Self::with_guardrails(GUARDRAILS)
    }

    fn with_guardrails(text: &str) -> Self {
        let (platform, diagnostics) = platform(SCHEMA, text);
        assert_eq!(told(&diagnostics), "");
        Self { platform: platform.unwrap() }
    }

    fn compile(&self, owner: &str, text: &str) -> (Option<Arc<TenantPolicies>>, Vec<Diagnostic>) {
        TenantPolicies::compile(&self.platform, &tenant(owner), &[file(text)], &known())
    }

    fn told(&self, text: &str) -> String {
        told(&self.compile("acme", text).1)
    }

    fn policies(&self, owner: &str, text: &str) -> Arc<TenantPolicies> {
        let (policies, diagnostics) = self.compile(owner, text);
        policies.unwrap_or_else(|| panic!("{}", told(&diagnostics)))
    }

    fn authorizer(&self, text: &str) -> Authorizer {
        self.authorizer_of("acme", "hello", text)
    }

    fn authorizer_of(&self, owner: &str, function: &str, text: &str) -> Authorizer {
        let labels = known().functions.get(function).cloned().unwrap_or_default();
        Authorizer::new(&self.policies(owner, text), function.parse().unwrap(), labels)
    }

    fn decide(&self, text: &str) -> Decision {
        self.authorizer(text).decide(&alice(), &request()).unwrap()
    }
}

fn platform(schema: &str, guardrails: &str) -> (Option<Arc<Platform>>, Vec<Diagnostic>) {
    let schema = Source::new("policies/schema.cedarschema", schema);
    Platform::compile(&schema, &Source::new("policies/guardrails.cedar", guardrails))
}

fn file(text: &str) -> Source {
    Source::new("policies/acme/x.cedar", text)
}

fn tenant(name: &str) -> TenantName {
    name.parse().unwrap()
}

fn known() -> KnownNames {
    let function = |name: &str, labels: &[&str]| {
        (name.parse().unwrap(), labels.iter().map(|label| (*label).into()).collect::<BTreeSet<Arc<str>>>())
    };
    KnownNames {
        functions: [function("hello", &[]), function("invoice", &["money"]), function("render", &[])].into(),
        tags: Some(BTreeSet::from(["department".to_owned()])),
    }
}

fn alice() -> Principal {
    let mut facts = CallerFacts::new(tenant("acme"), "alice");
    facts.roles.push("acme/billing".to_owned());
    facts.scopes.push("invoice:write".to_owned());
    facts.tags.insert("department".to_owned(), "finance".to_owned());
    Principal::new(facts)
}

fn request() -> RequestFacts<'static> {
    RequestFacts {
        method: "POST",
        path: "/acme/hello",
        tls: "1.3",
        client: IpAddr::from([192, 0, 2, 1]),
        now: noon(),
        authenticated_at: Some(noon()),
        binding: "none",
        bytes: Some(100),
    }
}

/// One line for each diagnostic.
fn told(diagnostics: &[Diagnostic]) -> String {
    let line = |d: &Diagnostic| format!("{}{}", if d.is_fault() { "" } else { "warning: " }, d.one_line());
    diagnostics.iter().map(line).collect::<Vec<_>>().join("\n")
}

const PERMIT_ALL: &str = "@id(\"all\") permit(principal, action, resource);\n";
/// Valid by the schema, and fails for every request that declares a length: the sum overflows.
const ERRING: &str = "when { context has bytes && context.bytes + 9223372036854775807 > 0 };";

#[test]
fn e01_nothing_is_permitted_by_default() {
    let decision = World::new().decide("");
    assert!(!decision.allowed);
    assert!(decision.policies.is_empty() && decision.errors.is_empty());
}

#[test]
fn e01_a_forbid_wins_over_a_permit() {
    let decision =
        World::new().decide(&format!("{PERMIT_ALL}@id(\"no\") forbid(principal, action, resource);"));
    assert!(!decision.allowed);
    assert_eq!(decision.policies, ["acme/no".into()]);
}

#[test]
fn e01_a_forbid_that_fails_to_evaluate_denies() {
    let text =
        format!("{PERMIT_ALL}@id(\"e\") forbid(principal, action == Action::\"invoke\", resource) {ERRING}");
    let decision = World::new().decide(&text);
    assert!(!decision.allowed, "Cedar alone skips the policy and allows");
    assert_eq!(&*decision.errors[0].policy, "acme/e");
    assert!(decision.policies.is_empty(), "the permit determined nothing");
}

#[test]
fn e01_a_permit_that_fails_to_evaluate_denies_though_another_permits() {
    let text =
        format!("{PERMIT_ALL}@id(\"e\") permit(principal, action == Action::\"invoke\", resource) {ERRING}");
    assert!(!World::new().decide(&text).allowed);
}

#[test]
fn e01_a_guardrail_that_fails_to_evaluate_denies() {
    let rail = format!("@id(\"e\") forbid(principal, action == Action::\"invoke\", resource) {ERRING}");
    let decision = World::with_guardrails(&rail).decide(PERMIT_ALL);
    assert!(!decision.allowed);
    assert_eq!(&*decision.errors[0].policy, "guardrails/e");
}

#[test]
fn e01_an_attribute_of_a_thing_outside_the_request_fails_and_denies() {
    let text = r#"@id("e") permit(principal, action == Action::"invoke", resource)
        when { Function::"acme/invoice".labels.contains("money") };"#;
    let decision = World::new().decide(text);
    assert!(!decision.allowed && !decision.errors.is_empty());
}

#[test]
fn e02_a_request_that_breaks_the_schema_is_refused() {
    let schema = SCHEMA.replace("binding: String,", "binding: Long,");
    let (platform, diagnostics) = platform(&schema, "");
    assert!(platform.is_none());
    insta::assert_snapshot!(told(&diagnostics), @r#"policies/schema.cedarschema: what the gateway asks is not valid by this schema: context `{authenticatedAt: datetime("1970-01-01T00:00:00Z"), binding: "none", bytes: 1, client: ip("127.0.0.1"), method: "POST", .. }` is not valid for `Action::"invoke"`"#);
}

#[test]
fn e02_a_caller_that_breaks_the_schema_is_refused() {
    let world = World::new();
    let mut facts = alice().facts().clone();
    facts.roles.push("globex/planner".to_owned());
    let error = world.authorizer(PERMIT_ALL).decide(&Principal::new(facts), &request()).unwrap_err();
    assert!(matches!(error, AuthzError::Caller(_)), "{error}");
}

#[test]
fn e03_a_caller_of_another_tenant_is_refused_before_cedar_is_asked() {
    let world = World::new();
    let authorizer = world.authorizer(PERMIT_ALL);
    let stranger = Principal::new(CallerFacts::new(tenant("globex"), "alice"));
    let error = authorizer.decide(&stranger, &request()).unwrap_err();
    assert!(matches!(error, AuthzError::TenantMismatch { .. }));
    // And if it were asked, the compiled-in rule forbids it.
    let slice = authorizer.slice().unwrap();
    let known = stranger.known(&world.platform, 0, &slice.function).unwrap();
    let asked = request::build(&world.platform, &known.uid, &slice.function.uid, &request()).unwrap();
    let decision = decide::decide(&world.platform, &slice, &asked, &known);
    assert!(!decision.allowed);
    assert_eq!(decision.policies, ["builtin/invoke-own-tenant".into()]);
    assert_eq!(decision.codes, ["tenant".into()]);
}

#[test]
fn e04_a_tenants_permit_cannot_widen_past_a_guardrail() {
    let world = World::new();
    let authorizer = world.authorizer_of("acme", "invoice", PERMIT_ALL);
    assert!(authorizer.decide(&alice(), &request()).unwrap().allowed);
    let old_tls = RequestFacts { tls: "1.2", ..request() };
    let decision = authorizer.decide(&alice(), &old_tls).unwrap();
    assert!(!decision.allowed);
    assert_eq!(decision.policies, ["guardrails/money-tls13".into()]);
    assert_eq!(decision.codes, ["tls".into()]);
    let stale = RequestFacts { authenticated_at: Some(noon() - Duration::from_secs(13 * 3600)), ..request() };
    assert_eq!(authorizer.decide(&alice(), &stale).unwrap().codes, ["stale-login".into()]);
}

#[test]
fn an_explanation_says_of_each_policy_what_became_of_it() {
    let world = World::new();
    let (policies, known) = world.sample("acme");
    let name: FunctionName = "invoice".parse().unwrap();
    let authorizer = Authorizer::new(&policies, name.clone(), known.functions[&name].clone());
    let explain = |caller: &Principal, request| authorizer.explain(caller, &request).unwrap().to_string();
    insta::assert_snapshot!(explain(&alice(), request()), @r#"
allow: a policy permits it and none forbids it
  permit  acme/invoice-billing           matches         policies/acme/invoice.cedar:2
  forbid  acme/invoice-contractor-hours  does not match  policies/acme/invoice.cedar:12
  forbid  builtin/invoke-own-tenant      does not match
  forbid  guardrails/internal-network    does not match
  forbid  guardrails/money-fresh-login   does not match
  forbid  guardrails/money-tls13         does not match
"#);
    let mut without = alice().facts().clone();
    without.scopes.clear();
    insta::assert_snapshot!(explain(&Principal::new(without), RequestFacts { tls: "1.2", ..request() }), @r#"
deny: a policy forbids it
  forbid  guardrails/money-tls13         matches
          hint: call functions labelled `money` over TLS 1.3
  permit  acme/invoice-billing           does not match  policies/acme/invoice.cedar:2
          hint: acme/invoice wants role `billing` and scope `invoice:write`
  forbid  acme/invoice-contractor-hours  does not match  policies/acme/invoice.cedar:12
  forbid  builtin/invoke-own-tenant      does not match
  forbid  guardrails/internal-network    does not match
  forbid  guardrails/money-fresh-login   does not match
"#);
}

#[test]
fn a_slice_knows_what_its_policies_read() {
    let text = r#"
@id("a") permit(principal, action == Action::"invoke", resource) when { principal.hasTag("department") && context.method == "GET" };
@id("b") forbid(principal, action == Action::"invoke", resource) when { context has bytes && context.bytes > 10 };
@id("c") forbid(principal, action == Action::"invoke", resource == Function::"acme/render") when { context.path like "/x/*" };
"#;
    let reads = World::with_guardrails("").authorizer(text).reads().unwrap();
    assert_eq!(reads.tags, BTreeSet::from(["department".to_owned()]));
    assert!(!reads.any_tag);
    assert_eq!(reads.context, BTreeSet::from(["method".to_owned(), "bytes".to_owned()]));
    let computed = r#"@id("a") permit(principal, action == Action::"invoke", resource) when { principal.hasTag(context.method) };"#;
    let reads = World::with_guardrails("").authorizer(computed).reads().unwrap();
    assert!(reads.any_tag);
    assert_eq!(reads.context, BTreeSet::from(["method".to_owned()]));
}

#[test]
fn a_slice_has_the_policies_whose_scope_can_match_and_no_others() {
    let text = r#"
@id("any") permit(principal, action, resource);
@id("tenant") permit(principal in Tenant::"acme", action == Action::"invoke", resource in Tenant::"acme");
@id("own") permit(principal == Caller::"acme/alice", action in [Action::"invoke", Action::"kv:read"], resource);
@id("type") permit(principal is Caller in Role::"acme/billing", action, resource is Function in Function::"acme/hello");
@id("other") permit(principal, action == Action::"invoke", resource == Function::"acme/render");
@id("out") permit(principal, action == Action::"use", resource);
@id("out2") permit(principal is Function, action in Action::"reach", resource);
@id("store") permit(principal, action, resource is Store);
"#;
    let authorizer = World::new().authorizer(text);
    let slice = authorizer.slice().unwrap();
    let mut ids: Vec<&str> = slice.notes.keys().map(|id| &**id).collect();
    ids.sort_unstable();
    insta::assert_snapshot!(ids.join("\n"), @r#"
acme/any
acme/own
acme/tenant
acme/type
builtin/invoke-own-tenant
guardrails/internal-network
guardrails/money-fresh-login
guardrails/money-tls13
"#);
}

#[test]
fn entities_of_one_revision_never_answer_for_another() {
    let world = World::new();
    let caller = alice();
    let text = "@id(\"m\") permit(principal, action, resource is Function) when { resource.labels.contains(\"money\") };";
    let policies = world.policies("acme", text);
    let authorizer = |labels: &[&str]| {
        let labels = labels.iter().map(|label| (*label).into()).collect();
        Authorizer::new(&policies, "hello".parse().unwrap(), labels)
    };
    assert!(authorizer(&["money"]).decide(&caller, &request()).unwrap().allowed);
    assert!(!authorizer(&[]).decide(&caller, &request()).unwrap().allowed);
    // More functions than a caller's entities are kept for.
    for _ in 0..20 {
        assert!(authorizer(&["money"]).decide(&caller, &request()).unwrap().allowed);
    }
}

#[test]
fn an_ipv4_peer_of_a_dual_stack_socket_is_seen_as_ipv4() {
    let world = World::new();
    let text = "@id(\"x\") permit(principal, action == Action::\"invoke\", resource) when { context.client.isInRange(ip(\"192.0.2.0/24\")) };";
    let mapped = RequestFacts { client: "::ffff:192.0.2.1".parse().unwrap(), ..request() };
    assert!(world.authorizer(text).decide(&alice(), &mapped).unwrap().allowed);
    for client in ["2001:db8::1", "::1", "::192.0.2.1", "fe80::1:2:3:4"] {
        let other = RequestFacts { client: client.parse().unwrap(), ..request() };
        assert!(!world.authorizer(text).decide(&alice(), &other).unwrap().allowed);
    }
}
