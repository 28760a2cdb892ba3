//! What `sandgate check` says of a site that could be served, and is not what its author meant.

use serde_json::Value;

use crate::{
    guest::echo,
    world::{MANIFEST, PERMIT_ALL, SCHEMA, World},
};

/// All warnings of a site, as `severity file:line: message (hint)`; a site with warnings alone passes.
fn told(world: &World) -> String {
    let run = |more: &[&str]| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let site = world.path().to_str().unwrap();
        let args = ["sandgate", "check", "--json", "--site", site]
            .into_iter()
            .chain(more.iter().copied())
            .map(Into::into);
        let code = sandgate::cli::run(args, &mut out, &mut err);
        (code, serde_json::from_slice::<Value>(&out).unwrap())
    };
    let (code, report) = run(&[]);
    assert_eq!((code, &report["faults"]), (0, &Value::from(0)), "{report:#}");
    let lines = report["diagnostics"].as_array().unwrap();
    assert_eq!(report["warnings"], lines.len());
    assert_eq!(run(&["--deny-warnings"]).0, u8::from(!lines.is_empty()));
    let line = |line: &Value| {
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let hint = Some(text("hint")).filter(|hint| !hint.is_empty());
        let hint = hint.map_or_else(String::new, |hint| format!(" ({hint})"));
        let place = match (line["file"].as_str(), line["line"].as_u64()) {
            (Some(file), Some(line)) => format!("{file}:{line}: "),
            (Some(file), None) => format!("{file}: "),
            _ => String::new(),
        };
        format!("{} {place}{}{hint}\n", text("severity"), text("message"))
    };
    lines.iter().map(line).collect()
}

fn with_policy(text: &str) -> World {
    World::with("echo", &echo()).file("policies/acme/policies.cedar", text)
}

#[test]
fn a_sound_site_is_told_nothing() {
    assert_eq!(told(&World::with("echo", &echo())), "");
}

#[test]
fn a_schema_open_to_extra_properties_is_told_at_each_object() {
    let world = World::with("echo", &echo()).file(
        "functions/acme/echo/event.schema.json",
        "{\n  \"type\": \"object\",\n  \"additionalProperties\": false,\n  \"properties\": {\n    \"to\": {\n      \
         \"type\": \"object\",\n      \"properties\": { \"name\": { \"type\": \"string\" } }\n    }\n  }\n}\n",
    );
    insta::assert_snapshot!(told(&world), @r#"warning functions/acme/echo/event.schema.json:5: the schema takes objects with members that it does not name (add `"additionalProperties": false`, or `unevaluatedProperties` beside `allOf` and `$ref`)"#);
    let open = World::with("echo", &echo())
        .file("functions/acme/echo/event.schema.json", r#"{"type":"object","properties":{}}"#);
    insta::assert_snapshot!(told(&open), @r#"warning functions/acme/echo/event.schema.json: the schema takes objects with members that it does not name (add `"additionalProperties": false`, or `unevaluatedProperties` beside `allOf` and `$ref`)"#);
}

#[test]
fn a_policy_that_can_never_apply_is_told() {
    let never = with_policy(&format!(
        "{PERMIT_ALL}@id(\"never\")\npermit(principal, action == Action::\"invoke\", resource)\n\
         when {{ context.tls == \"1.3\" && false }};\n"
    ));
    insta::assert_snapshot!(told(&never), @r#"warning policies/acme/policies.cedar:3: for policy `acme/never`, policy is impossible: the policy expression evaluates to false for all valid requests"#);
    let nowhere = with_policy(&format!(
        "{PERMIT_ALL}@id(\"nowhere\")\npermit(principal is Function, action == Action::\"invoke\", resource);\n"
    ));
    insta::assert_snapshot!(told(&nowhere), @r#"warning policies/acme/policies.cedar:3: for policy `acme/nowhere`, policy is impossible: the policy expression evaluates to false for all valid requests"#);
}

#[test]
fn a_function_that_no_policy_permits_is_told() {
    let world =
        with_policy("@id(\"other\")\npermit(principal, action, resource == Function::\"acme/other\");\n")
            .function("acme", "other", &echo());
    insta::assert_snapshot!(told(&world), @r#"warning functions/acme/echo/function.toml: no policy permits anybody to invoke `acme/echo` (a `permit` in `policies/acme/` makes it callable)"#);
    insta::assert_snapshot!(told(&with_policy("")), @r#"warning functions/acme/echo/function.toml: no policy permits anybody to invoke `acme/echo` (a `permit` in `policies/acme/` makes it callable)"#);
}

#[test]
fn names_that_do_not_exist_are_told_with_the_nearest_that_do() {
    let functions = with_policy(&format!(
        "{PERMIT_ALL}@id(\"f\")\nforbid(principal, action, resource == Function::\"acme/ecoh\");\n\
         @id(\"n\")\nforbid(principal == Caller::\"alice\", action, resource);\n"
    ));
    insta::assert_snapshot!(told(&functions), @r#"
    warning policies/acme/policies.cedar:4: there is no function `acme/ecoh` (did you mean `acme/echo`?)
    warning policies/acme/policies.cedar:6: `Caller::"alice"` is the name of nothing (ids begin with the tenant: `Caller::"acme/alice"`)
    "#);
    let labels = with_policy(&format!(
        "{PERMIT_ALL}@id(\"l\")\nforbid(principal, action == Action::\"invoke\", resource)\n\
         when {{ resource.labels.contains(\"mony\") }};\n\
         @id(\"t\")\nforbid(principal, action == Action::\"invoke\", resource)\n\
         when {{ principal.hasTag(\"departmnt\") && principal.getTag(\"departmnt\") == \"x\" }};\n"
    ))
    .file("functions/acme/echo/function.toml", &format!("labels = [\"money\"]\n{MANIFEST}"));
    insta::assert_snapshot!(told(&labels), @r#"
    warning policies/acme/policies.cedar:5: no function has the label `mony` (did you mean `money`?)
    warning policies/acme/policies.cedar:8: no issuer of the tenant fills the tag `departmnt` (list it under `tags` of an issuer in `tenant.toml`)
    "#);
    let world = World::with("echo", &echo());
    let rails = std::fs::read_to_string(world.path().join("policies/guardrails.cedar")).unwrap();
    let world = world.file(
        "policies/guardrails.cedar",
        &format!(
            "@id(\"gone\")\nforbid(principal in Tenant::\"initech\", action, resource);\n\
             @id(\"lost\")\nforbid(principal, action, resource == Function::\"acme/lost\");\n{rails}"
        ),
    );
    insta::assert_snapshot!(told(&world), @r#"
    warning policies/guardrails.cedar:2: `guardrails/gone` names `Tenant::"initech"`, which this site does not have
    warning policies/guardrails.cedar:4: `guardrails/lost` names `Function::"acme/lost"`, which this site does not have
    "#);
}

#[test]
fn a_limit_above_its_ceiling_is_told_with_the_ceiling_and_whose_it_is() {
    let world = World::with("echo", &echo())
        .file(
            "functions/acme/echo/function.toml",
            &format!(
                "{MANIFEST}max-bytes = \"2MiB\"\n[limits]\ncpu = \"30ms\"\nwall = \"1h\"\nmemory = \"1MiB\"\nconcurrency = 257\n"
            ),
        )
        .file("sandgate.toml", "[limits]\nresponse = \"1KiB\"\n");
    let tenant = std::fs::read_to_string(world.path().join("policies/acme/tenant.toml")).unwrap();
    let world = world.file(
        "policies/acme/tenant.toml",
        &format!("{tenant}[ceilings]\ncpu = \"20ms\"\nmemory = \"1MiB\"\nresponse = \"2KiB\"\n"),
    );
    insta::assert_snapshot!(told(&world), @r#"
    warning sandgate.toml: `defaults.response` is 1MiB, but the ceiling `limits.response` of 1KiB holds
    warning policies/acme/tenant.toml:11: `response` is 2KiB, but the platform's ceiling of 1KiB holds
    warning functions/acme/echo/function.toml:7: `cpu` is 30ms, but the tenant's ceiling of 20ms holds
    warning functions/acme/echo/function.toml:8: `wall` is 1h, but the platform's ceiling of 30s holds
    warning functions/acme/echo/function.toml:10: `concurrency` is 257, but the platform's ceiling of 256 holds
    warning functions/acme/echo/function.toml:5: `max-bytes` is 2MiB, but the platform's ceiling of 1MiB holds
    "#);
}

#[test]
fn a_function_that_gets_exact_bytes_too_is_told() {
    let world = World::with("echo", &echo())
        .file("functions/acme/echo/function.toml", &format!("{MANIFEST}raw = true\n"));
    insta::assert_snapshot!(told(&world), @r#"warning functions/acme/echo/function.toml:4: the function gets the exact bytes besides the validated event (only for checking a signature over them: a second parser may read them differently)"#);
}

#[test]
fn a_schema_that_is_never_used_is_told() {
    let world = World::with("echo", &echo())
        .file("functions/acme/echo/function.toml", &format!("{MANIFEST}media-types = [\"text/plain\"]\n"))
        .file("functions/acme/echo/event.schema.json", SCHEMA);
    insta::assert_snapshot!(told(&world), @r#"warning functions/acme/echo/function.toml:5: the schema is never used (list `application/json`, or remove `schema`)"#);
}

#[test]
fn a_tenant_without_issuers_and_a_folder_of_nobody_are_told() {
    let world = World::with("echo", &echo())
        .file("policies/acme/tenant.toml", "")
        .file("functions/nobody/echo/function.toml", MANIFEST);
    insta::assert_snapshot!(told(&world), @r#"
    warning `functions/nobody/` has functions of a tenant that does not exist (`policies/nobody/tenant.toml` makes it a tenant's)
    warning policies/acme/tenant.toml: tenant `acme` has no issuers, so nobody can call its functions (add an `[[issuers]]` table)
    "#);
}
