//! Properties of composition: texts of several tenants and guardrails, out of parts that conflict.

use proptest::prelude::*;

use super::*;

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
