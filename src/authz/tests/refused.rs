//! What is refused or warned of when policies are loaded, and where it is told.

use super::*;

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
