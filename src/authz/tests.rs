use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::{slice::Slice, statements::MAX_LINKS, trial::noon, *};
use crate::{
    id::TenantName,
    site::diagnostic::{Diagnostic, Source},
};

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
fn what_a_policy_breaks_of_the_schema_is_told_where_it_stands_among_others() {
    let fine = |id: &str| format!("// before {id}\n@id(\"{id}\")\npermit(principal, action, resource);\n");
    let odd = "@id(\"odd\")\npermit(principal, action == Action::\"invoke\", resource)\nwhen { principal.shoe == 42 };\n";
    // Whether or not a slip elsewhere sends every policy to be parsed alone.
    for last in [fine("c"), "@id(\"c\")\npermit(principal, action);\n".to_owned()] {
        let text = format!("{}{odd}{}{last}", fine("a"), fine("b"));
        let (_, diagnostics) = World::new().compile("acme", &text);
        let shoe = diagnostics.iter().find(|d| d.message.contains("shoe")).unwrap();
        let (source, span) = shoe.source.clone().unwrap();
        assert_eq!(&source.text[span.unwrap()], "principal.shoe", "{}", told(&diagnostics));
    }
}

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
fn e02_a_policy_is_judged_by_the_schema_and_its_fault_has_a_place() {
    let text = "// acme\n@id(\"x\")\npermit(principal, action == Action::\"invoke\", resource)\nwhen { principal.rank > 3 };";
    let (policies, diagnostics) = World::new().compile("acme", text);
    assert!(policies.is_none());
    insta::assert_snapshot!(diagnostics[0].render(false), @r#"
error: for policy `acme/x`, attribute `rank` on entity type `Caller` not found
 --> policies/acme/x.cedar:4:8
  |
4 | when { principal.rank > 3 };
  |        ^^^^^^^^^^^^^^
  |
  = help: did you mean `tenant`?
"#);
}

#[test]
fn e02_text_that_is_no_policy_is_refused_where_it_goes_wrong() {
    let text = "@id(\"a\") permit(principal, action, resource);\n@id(\"b\") permit(principal action, resource);\n@id(\"c\") permit(principal, action, resource) when { context.nothing };";
    insta::assert_snapshot!(World::new().told(text), @r#"
policies/acme/x.cedar:2: unexpected token `action`: expected `!=`, `)`, `,`, `:`, `<`, `<=`, `==`, `>`, `>=`, `in`, or `is`
policies/acme/x.cedar:3: for policy `acme/c`, attribute `nothing` in context for Action::"function:call" not found
"#);
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
fn e02_a_schema_may_grow_but_not_shrink() {
    let world = |schema: &str| platform(schema, GUARDRAILS);
    let grown = SCHEMA
        .replace("tags String;", "tags String;\nentity Team;")
        .replace("bytes?: Long", "bytes?: Long, region?: String")
        .replace("action invoke applies", "action anything;\naction invoke in [anything] applies");
    assert_eq!(told(&world(&grown).1), "");
    for (gone, said) in [
        ("action \"function:call\" in [reach]", "no action `function:call`"),
        ("entity Store in [Tenant] = { tenant: Tenant };", "Store"),
        ("bytes?: Long", "bytes"),
        (" tags String;", "tag"),
        ("labels: Set<String>", "labels"),
        ("entity Secret in [Tenant] = { tenant: Tenant };", "Secret"),
    ] {
        let put = if gone.starts_with("action") {
            "action other in [reach]"
        } else if gone.ends_with("tags String;") {
            ";"
        } else if gone.contains("Secret") {
            "entity Secret;"
        } else {
            ""
        };
        let (platform, diagnostics) = world(&SCHEMA.replace(gone, put));
        assert!(platform.is_none(), "{gone}");
        assert!(told(&diagnostics).contains(said), "{gone}: {}", told(&diagnostics));
    }
    let demanding = SCHEMA.replace("issuer: String,", "issuer: String, rank: Long,");
    assert!(world(&demanding).0.is_none(), "the gateway cannot fill an attribute that it does not know");
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
fn e04_a_permit_among_the_guardrails_is_a_fault() {
    let (platform, diagnostics) = platform(SCHEMA, PERMIT_ALL);
    assert!(platform.is_none());
    insta::assert_snapshot!(told(&diagnostics), @r#"policies/guardrails.cedar:1: a guardrail only forbids: a `permit` here would reach past every tenant"#);
}

#[test]
fn e04_templates_are_refused_everywhere() {
    let template = "@id(\"t\") forbid(principal == ?principal, action, resource);";
    insta::assert_snapshot!(World::new().told(template), @r#"policies/acme/x.cedar:1: a template is not allowed: nothing links it, so it would never apply"#);
    assert!(platform(SCHEMA, template).0.is_none());
}

#[test]
fn a_policy_has_an_id_of_its_own() {
    let text = "permit(principal, action, resource);\n@id(\"a\") permit(principal, action, resource);\n@id(\"a\") forbid(principal, action, resource);\n@id(\"a b\") permit(principal, action, resource);\n@id permit(principal, action, resource);";
    insta::assert_snapshot!(World::new().told(text), @r#"
policies/acme/x.cedar:1: a policy has no `@id`
policies/acme/x.cedar:3: two policies have the id `acme/a`
policies/acme/x.cedar:4: a policy id is 1 to 64 letters, digits, `-`, `_` and `.`
policies/acme/x.cedar:5: a policy id is 1 to 64 letters, digits, `-`, `_` and `.`
"#);
}

#[test]
fn a_policy_that_names_another_tenants_things_is_refused() {
    for named in [
        "permit(principal in Tenant::\"globex\", action, resource);",
        "permit(principal in Role::\"globex/planner\", action, resource);",
        "permit(principal == Caller::\"globex/alice\", action, resource);",
        "permit(principal, action, resource == Function::\"globex/calendar\");",
        "permit(principal, action, resource in Tenant::\"globex\");",
        "permit(principal, action == Action::\"kv:read\", resource == Store::\"globex/orders\");",
        "permit(principal, action, resource) when { [Tenant::\"acme\", Tenant::\"globex\"].contains(resource.tenant) };",
        "forbid(principal, action, resource) when { resource has labels && principal in Role::\"globex/planner\" };",
        "permit(principal, action == Action::\"secret:use\", resource) when { resource == Secret::\"globex/stripe\" };",
    ] {
        let told = World::new().told(&format!("@id(\"x\") {named}"));
        assert!(told.contains("is not `acme`'s"), "{named}: {told}");
    }
    let own = "@id(\"x\") permit(principal in Tenant::\"acme\", action == Action::\"invoke\", resource) when { principal.subject == \"globex/bob\" };";
    assert_eq!(World::new().told(own), "");
}

#[test]
fn names_of_nothing_are_warnings() {
    let text = r#"
@id("typo") permit(principal, action, resource == Function::"acme/helo");
@id("bare") permit(principal in Role::"billing", action, resource);
@id("label") permit(principal, action, resource is Function) when { resource.labels.contains("mony") };
@id("tag") permit(principal is Caller, action, resource) when { principal.hasTag("team") && principal.getTag("team") == "a" };
@id("never") permit(principal, action == Action::"invoke", resource) when { principal.subject == "a" && false };
@id("odd") permit(principal, action == Action::"invoke", resource) when { principal.subject == "pаypal" };
"#;
    let (policies, diagnostics) = World::new().compile("acme", text);
    assert!(policies.is_some(), "warnings refuse nothing");
    insta::assert_snapshot!(told(&diagnostics), @r#"
warning: policies/acme/x.cedar:2: there is no function `acme/helo`
warning: policies/acme/x.cedar:3: `Role::"billing"` is the name of nothing
warning: policies/acme/x.cedar:4: no function has the label `mony`
warning: policies/acme/x.cedar:5: no issuer of the tenant fills the tag `team`
warning: policies/acme/x.cedar:6: for policy `acme/never`, policy is impossible: the policy expression evaluates to false for all valid requests
warning: policies/acme/x.cedar:7: for policy `acme/odd`, string `"pаypal"` contains mixed scripts
"#);
}

#[test]
fn guardrails_about_tenants_that_do_not_exist_are_warned_of() {
    let world = World::with_guardrails(
        "@id(\"x\") forbid(principal, action == Action::\"invoke\", resource in Tenant::\"acne\");
@id(\"y\") forbid(principal, action == Action::\"invoke\", resource == Function::\"acme/helo\");
@id(\"z\") forbid(principal in Role::\"acme/billing\", action == Action::\"invoke\", resource == Function::\"acme/hello\");",
    );
    let asked = std::cell::RefCell::new(Vec::new());
    let has = |tenant: &str, function: Option<&str>| {
        asked.borrow_mut().push((tenant.to_owned(), function.map(str::to_owned)));
        tenant == "acme" && function.is_none_or(|function| function == "hello")
    };
    insta::assert_snapshot!(told(&world.platform.unknown_names(has)), @r#"
    warning: policies/guardrails.cedar:1: `guardrails/x` names `Tenant::"acne"`, which this site does not have
    warning: policies/guardrails.cedar:2: `guardrails/y` names `Function::"acme/helo"`, which this site does not have
    "#);
    // Once for each name that stands there, whatever else the site has.
    assert_eq!(asked.borrow().len(), 4, "{asked:?}");
}

#[test]
fn a_tenant_cannot_take_the_name_of_the_operators_policies() {
    for name in ["guardrails", "builtin"] {
        assert!(World::new().compile(name, "").0.is_none());
    }
}

#[test]
fn the_sample_site_is_sound_and_its_tests_hold() {
    let world = World::new();
    let acme = world.sample("acme");
    let globex = world.sample("globex");
    insta::assert_snapshot!(matrix(&[(&acme.0, &acme.1), (&globex.0, &globex.1)]), @r#"
Function::"acme/hello"        invoke
  acme    billing             ✔
  acme    editor              ✔
  acme    invoker             ✔
  acme    (no role)           ✘
  globex  planner             ✘
  globex  (no role)           ✘

Function::"acme/invoice"      invoke
  acme    billing             ✘
  acme    billing + scopes    ✔
  acme    editor              ✘
  acme    invoker             ✘
  acme    (no role)           ✘
  globex  planner             ✘
  globex  (no role)           ✘

Function::"acme/render"       invoke
  acme    billing             ✘
  acme    editor              ✔
  acme    invoker             ✘
  acme    (no role)           ✘
  globex  planner             ✘
  globex  (no role)           ✘

Function::"globex/calendar"   invoke
  acme    billing             ✘
  acme    editor              ✘
  acme    invoker             ✘
  acme    (no role)           ✘
  globex  planner             ✔
  globex  (no role)           ✘
  globex  (no role) + scopes  ✔
"#);
}

impl World {
    fn sample(&self, name: &str) -> (Arc<TenantPolicies>, KnownNames) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policies").join(name);
        let mut sources = Vec::new();
        let mut paths: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|ext| ext == "cedar")) {
            let file = path.file_name().unwrap().to_str().unwrap();
            sources
                .push(Source::new(format!("policies/{name}/{file}"), std::fs::read_to_string(path).unwrap()));
        }
        let mut known = known();
        if name == "globex" {
            known.functions = [("calendar".parse().unwrap(), BTreeSet::new())].into();
        }
        let (policies, diagnostics) =
            TenantPolicies::compile(&self.platform, &tenant(name), &sources, &known);
        assert_eq!(told(&diagnostics), "");
        let policies = policies.unwrap();
        let tests = std::fs::read_to_string(folder.join("tests.toml")).unwrap();
        let report =
            run_trials(&policies, &known, &Source::new(format!("policies/{name}/tests.toml"), tests));
        assert_eq!(told(&report.diagnostics), "");
        assert!(report.trials.len() >= 3 && report.trials.iter().all(|trial| trial.passed));
        assert_eq!(policies.uncallable(known.functions.keys()), []);
        (policies, known)
    }
}

#[test]
fn a_policy_test_that_does_not_hold_is_a_fault_with_its_place() {
    let world = World::new();
    let policies = world.policies("acme", PERMIT_ALL);
    let tests = Source::new(
        "policies/acme/tests.toml",
        "[[test]]\nname = \"nobody\"\ncaller = { subject = \"bob\" }\nfunction = \"hello\"\nexpect = \"deny\"\n\n\
         [[test]]\nname = \"by whom\"\ncaller = { subject = \"bob\" }\nfunction = \"hello\"\nexpect = \"allow\"\npolicies = [\"acme/other\"]\n\n\
         [[test]]\nname = \"where\"\ncaller = \"bob\"\nfunction = \"nowhere\"\nexpect = \"allow\"\n",
    );
    let report = run_trials(&policies, &known(), &tests);
    insta::assert_snapshot!(told(&report.diagnostics), @r#"
policies/acme/tests.toml:5: policy test `nobody` does not hold: allow by `acme/all`
policies/acme/tests.toml:12: policy test `by whom` does not hold: allow by `acme/all`
policies/acme/tests.toml:17: there is no function `nowhere`
"#);
    insta::assert_snapshot!(report.diagnostics[1].render(false), @r#"
error: policy test `by whom` does not hold: allow by `acme/all`
  --> policies/acme/tests.toml:12:12
   |
12 | policies = ["acme/other"]
   |            ^^^^^^^^^^^^^^
"#);
    let unknown_key = Source::new("policies/acme/tests.toml", "[[test]]\nname = \"x\"\nrole = 1\n");
    insta::assert_snapshot!(told(&run_trials(&policies, &known(), &unknown_key).diagnostics), @r#"policies/acme/tests.toml:3: unknown field `role`, expected one of `name`, `caller`, `function`, `request`, `expect`, `policies`"#);
}

#[test]
fn policy_tests_are_bounded() {
    let world = World::new();
    let policies = world.policies("acme", "");
    let one =
        "[[test]]\nname = \"n\"\ncaller = { subject = \"b\" }\nfunction = \"hello\"\nexpect = \"deny\"\n";
    let report = run_trials(&policies, &known(), &Source::new("tests.toml", one.repeat(1_001)));
    assert_eq!(report.trials.len(), 1_000);
    assert_eq!(report.diagnostics.len(), 1);
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

#[test]
fn text_that_nests_as_deep_as_it_may_neither_overflows_nor_hangs() {
    // On a stack as small as a worker's: Cedar's trees are walked and dropped recursively.
    let texts = [
        format!(
            "@id(\"a\") permit(principal,action,resource) when {{ principal{} == 1 }};",
            ".a".repeat(MAX_LINKS - 4)
        ),
        format!(
            "@id(\"a\") permit(principal,action,resource) when {{ {}1 > 0 }};",
            "1+".repeat(MAX_LINKS - 4)
        ),
        format!(
            "@id(\"a\") permit(principal,action,resource) when {{ {}true }};",
            "true&&".repeat(MAX_LINKS / 2 - 2)
        ),
        format!(
            "@id(\"a\") permit(principal,action,resource) when {{ {}true }};",
            "if true then false else ".repeat(MAX_LINKS - 4)
        ),
        format!(
            "@id(\"a\") permit(principal,action,resource) when {{ {}true{} }};",
            "(".repeat(20),
            ")".repeat(20)
        ),
        format!(
            "@id(\"a\") permit(principal,action,resource) when {{ {}1{} == 1 }};",
            "[".repeat(20),
            "]".repeat(20)
        ),
        format!(
            "@id(\"a\") permit(principal,action,resource) when {{ {}1{} == 1 }};",
            "{a:".repeat(20),
            "}".repeat(20)
        ),
        "(".repeat(100_000),
        format!("@id(\"a\") permit(principal,action,resource) {};", "when { true }".repeat(MAX_LINKS - 1)),
        format!("@id(\"a\") permit(principal,action,resource) when {{ {}true }};", "!".repeat(MAX_LINKS - 1)),
        format!(
            "@id(\"a\") permit(principal,action,resource) when {{ {}1 == 1 }};",
            "-".repeat(MAX_LINKS - 5)
        ),
        format!("entity A = {{ {} }};", "a: { ".repeat(2_000)),
    ];
    let small = std::thread::Builder::new().stack_size(2 << 20);
    let all = move || texts.iter().for_each(|text| fuzz::policy_loading(text.as_bytes()));
    small.spawn(all).unwrap().join().unwrap();
}

/// A policy's text out of parts that say something, often enough about the same things to conflict.
fn policy(owner: &'static str) -> impl Strategy<Value = String> {
    let effect = prop::sample::select(vec!["permit", "forbid"]);
    let principal = prop::sample::select(vec![
        "principal".to_owned(),
        format!("principal in Role::\"{owner}/billing\""),
        format!("principal in Tenant::\"{owner}\""),
        format!("principal == Caller::\"{owner}/alice\""),
        "principal is Caller".to_owned(),
        "principal is Function".to_owned(),
    ]);
    let action = prop::sample::select(vec![
        "action",
        "action == Action::\"invoke\"",
        "action in [Action::\"invoke\", Action::\"kv:read\"]",
        "action in Action::\"reach\"",
    ]);
    let resource = prop::sample::select(vec![
        "resource".to_owned(),
        format!("resource == Function::\"{owner}/hello\""),
        format!("resource == Function::\"{owner}/render\""),
        format!("resource in Tenant::\"{owner}\""),
        "resource is Function".to_owned(),
    ]);
    let condition = prop::sample::select(vec![
        String::new(),
        "when { resource has labels && resource.labels.contains(\"money\") }".to_owned(),
        "unless { context has tls && context.tls == \"1.3\" }".to_owned(),
        format!("when {{ principal in Role::\"{owner}/editor\" }}"),
        "when { context has bytes && context.bytes + 9223372036854775807 > 0 }".to_owned(),
        "when { context has bytes && context.bytes > 10 }".to_owned(),
    ]);
    (effect, principal, action, resource, condition).prop_map(
        |(effect, principal, action, resource, condition)| {
            format!("{effect}({principal}, {action}, {resource}) {condition};")
        },
    )
}

/// Several policies, numbered; only those that compile stay, since a fault would empty the whole set.
fn texts(owner: &'static str) -> impl Strategy<Value = String> {
    prop::collection::vec(policy(owner), 0..6).prop_map(move |policies| {
        let world = world();
        let sound = |(n, text): (usize, String)| {
            let text = format!("@id(\"p{n}\") {text}\n");
            world.compile(owner, &text).0.map(|_| text)
        };
        policies.into_iter().enumerate().filter_map(sound).collect()
    })
}

fn world() -> &'static World {
    static WORLD: std::sync::LazyLock<World> = std::sync::LazyLock::new(World::new);
    &WORLD
}

/// Callers and requests to ask about.
fn questions() -> Vec<(Principal, RequestFacts<'static>)> {
    let mut questions = Vec::new();
    for roles in [&[][..], &["acme/billing"], &["acme/editor"]] {
        for (tls, bytes) in [("1.3", None), ("1.2", Some(5)), ("1.3", Some(50))] {
            let mut facts = CallerFacts::new(tenant("acme"), "alice");
            facts.roles = roles.iter().map(|role| (*role).to_owned()).collect();
            questions.push((Principal::new(facts), RequestFacts { tls, bytes, ..request() }));
        }
    }
    questions
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_text_of_one_tenant_changes_a_decision_about_anothers_function(
        a in texts("acme"), b in texts("globex"), c in texts("globex"),
    ) {
        // Beside `b` or beside `c` on the same platform: `a`'s answers are the same, and so are they alone.
        let beside = |other: Option<&str>| {
            let world = World::new();
            let others = other.map(|text| world.authorizer_of("globex", "hello", text));
            let authorizer = world.authorizer_of("acme", "invoice", &a);
            questions().iter().map(|(caller, request)| {
                if let Some(other) = &others {
                    // What the other tenant's authorizer is asked in between leaves nothing behind.
                    assert!(other.decide(caller, request).is_err());
                    let own = Principal::new(CallerFacts::new(tenant("globex"), "alice"));
                    other.decide(&own, request).unwrap();
                }
                authorizer.decide(caller, request).unwrap()
            }).collect::<Vec<_>>()
        };
        let alone = beside(None);
        prop_assert_eq!(&alone, &beside(Some(&b)));
        prop_assert_eq!(&alone, &beside(Some(&c)));
    }

    #[test]
    fn a_slice_decides_as_the_whole_set_would(a in texts("acme"), function in prop::sample::select(vec!["hello", "render", "invoice"])) {
        let world = world();
        let authorizer = world.authorizer_of("acme", function, &a);
        let whole = Slice::whole(&authorizer.policies, &authorizer.function, &authorizer.labels).unwrap();
        for (caller, request) in questions() {
            let by_slice = authorizer.decide(&caller, &request).unwrap();
            let by_all = authorizer.decide_on(&whole, &authorizer.known(&whole, &caller).unwrap(), &request).unwrap();
            prop_assert_eq!(by_slice.allowed, by_all.allowed);
            prop_assert_eq!(by_slice.policies, by_all.policies);
            prop_assert_eq!(by_slice.errors.len(), by_all.errors.len());
        }
    }

    #[test]
    fn no_permit_widens_past_a_guardrail(a in texts("acme")) {
        let closed = World::with_guardrails(
            "@id(\"closed\") forbid(principal, action == Action::\"invoke\", resource in Tenant::\"acme\");",
        );
        let authorizer = closed.authorizer(&format!("{PERMIT_ALL}{a}"));
        for (caller, request) in questions() {
            prop_assert!(!authorizer.decide(&caller, &request).unwrap().allowed);
        }
    }

    #[test]
    fn a_forbid_that_fails_denies_whatever_else_is_said(a in texts("acme")) {
        let erring = format!("@id(\"e\") forbid(principal, action == Action::\"invoke\", resource) {ERRING}");
        let authorizer = world().authorizer(&format!("{PERMIT_ALL}{a}{erring}"));
        for (caller, request) in questions().iter().filter(|(_, request)| request.bytes.is_some()) {
            prop_assert!(!authorizer.decide(caller, request).unwrap().allowed);
        }
    }

    #[test]
    fn any_text_is_taken_or_refused_without_a_panic(text in "\\PC{0,200}") {
        fuzz::policy_loading(text.as_bytes());
    }
}
