//! What a decision costs, all of it: request built and validated, entities, policies, guardrails.
//!
//! `cargo bench --bench authz`; `RUST_BACKTRACE` unset, since Cedar makes an error for every policy that fails.

use std::{
    collections::BTreeSet,
    hint::black_box,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use sandgate::{
    authz::{Authorizer, CallerFacts, KnownNames, Platform, Principal, RequestFacts, TenantPolicies},
    id::TenantName,
    site::diagnostic::Source,
};

const SCHEMA: &str = include_str!("../policies/schema.cedarschema");
const GUARDRAILS: &str = include_str!("../policies/guardrails.cedar");

fn platform(guardrails: &str) -> Arc<Platform> {
    let schema = Source::new("schema.cedarschema", SCHEMA);
    Platform::compile(&schema, &Source::new("guardrails.cedar", guardrails)).0.expect("the sample compiles")
}

fn known() -> KnownNames {
    let functions = (0..10).map(|n| (format!("f{n}").parse().expect("a name"), BTreeSet::new())).collect();
    KnownNames { functions, tags: None }
}

fn tenant(n: usize) -> TenantName {
    format!("t{n}").parse().expect("a name")
}

fn compile(platform: &Arc<Platform>, n: usize, text: String) -> Arc<TenantPolicies> {
    let source = Source::new(format!("policies/t{n}/all.cedar"), text);
    TenantPolicies::compile(platform, &tenant(n), &[source], &known()).0.expect("the text compiles")
}

fn authorizer(policies: &Arc<TenantPolicies>, function: &str) -> Authorizer {
    Authorizer::new(policies, function.parse().expect("a name"), BTreeSet::from(["money".into()]))
}

fn caller(n: usize) -> Principal {
    let mut facts = CallerFacts::new(tenant(n), "alice");
    facts.issuer = "https://idp.example".to_owned();
    facts.roles = ["billing", "editor", "invoker"].map(|role| format!("t{n}/{role}")).to_vec();
    facts.scopes = vec!["invoice:write".to_owned(), "openid".to_owned()];
    facts.tags.insert("department".to_owned(), "finance".to_owned());
    Principal::new(facts)
}

fn request() -> RequestFacts<'static> {
    RequestFacts {
        method: "POST",
        path: "/t0/f0",
        tls: "1.3",
        client: IpAddr::from([192, 0, 2, 1]),
        now: UNIX_EPOCH + Duration::from_millis(1_767_614_400_123),
        authenticated_at: None,
        binding: "none",
        bytes: Some(200),
    }
}

/// A policy of function `f` of tenant `n`, of a usual size.
fn policy(n: usize, f: usize, id: usize) -> String {
    format!(
        "@id(\"p{f}-{id}\")\npermit (\n  principal in Role::\"t{n}/billing\",\n  action == Action::\"invoke\",\n  \
         resource == Function::\"t{n}/f{f}\"\n)\nwhen {{ principal.scopes.contains(\"invoice:write\") }};\n\n"
    )
}

/// A policy that is weighed and does not match.
fn further(n: usize, id: usize) -> String {
    format!(
        "@id(\"q{id}\")\npermit (\n  principal,\n  action == Action::\"invoke\",\n  resource == Function::\"t{n}/f0\"\n)\n\
         when {{ principal.scopes.contains(\"other:{id}\") }};\n\n"
    )
}

/// The slice holds the compiled-in rule, two guardrails or none, and the tenant's own.
fn warm(c: &mut Criterion) {
    let two_rails = GUARDRAILS.split_inclusive("};\n").take(2).collect::<String>();
    let mut group = c.benchmark_group("authz/decide");
    // Three in all: the compiled-in rule, a guardrail's and a tenant's.
    let one_rail = GUARDRAILS.split_inclusive("};\n").take(1).collect::<String>();
    for (name, rails, own) in [
        ("slice of 3", &*one_rail, 1),
        ("3 own, no guardrail", "", 3),
        ("3 own, sample guardrails", GUARDRAILS, 3),
        ("3 own, 2 guardrails", &*two_rails, 3),
        ("13 own, no guardrail", "", 13),
        ("103 own, no guardrail", "", 103),
    ] {
        let text = policy(0, 0, 0) + &(1..own).map(|id| further(0, id)).collect::<String>();
        let policies = compile(&platform(rails), 0, text);
        let (authorizer, caller) = (authorizer(&policies, "f0"), caller(0));
        assert!(authorizer.decide(&caller, &request()).expect("an answer").allowed);
        group.bench_function(name, |b| b.iter(|| authorizer.decide(black_box(&caller), &request())));
    }
    group.finish();
}

/// At equal slice length: the same decision beside more and more policies of others.
fn scale(c: &mut Criterion) {
    let mut group = c.benchmark_group("authz/decide at scale");
    let platform = platform(GUARDRAILS);
    for (tenants, functions, each) in [(1, 3, 3), (100, 3, 3), (10_000, 3, 3)] {
        let all: Vec<_> = (0..tenants)
            .map(|n| {
                let mut text = String::new();
                for f in 0..functions {
                    text.extend((0..each).map(|id| policy(n, f, id)));
                }
                text.push_str(&format!("@id(\"x\") forbid(principal, action == Action::\"use\", resource == Facility::\"random\");"));
                compile(&platform, n, text)
            })
            .collect();
        let count: usize = all.iter().map(|policies| policies.len()).sum();
        let functions: Vec<_> = all.iter().map(|policies| authorizer(policies, "f0")).collect();
        let (mine, caller) = (functions.last().expect("one"), caller(tenants - 1));
        group.bench_function(
            BenchmarkId::new("one function", format!("{count} policies, {tenants} tenants")),
            |b| {
                b.iter(|| mine.decide(black_box(&caller), &request()));
            },
        );
    }
    group.finish();
}

/// Loading: what a tenant's ten policies cost at start, and the first decision of a function.
fn load(c: &mut Criterion) {
    let mut group = c.benchmark_group("authz/load");
    let platform = platform(GUARDRAILS);
    let text: String = (0..10).map(|f| policy(0, f, 0)).collect();
    group.bench_function("compile 10 policies", |b| b.iter(|| compile(&platform, 0, text.clone())));
    let policies = compile(&platform, 0, text.clone());
    group.bench_function("first decision", |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let (authorizer, caller) = (authorizer(&policies, "f0"), caller(0));
                let started = Instant::now();
                _ = black_box(authorizer.decide(&caller, &request()));
                spent += started.elapsed();
            }
            spent
        });
    });
    let warm = authorizer(&policies, "f0");
    group.bench_function("first decision for a caller", |b| {
        b.iter_batched(
            || caller(0),
            |caller| warm.decide(&caller, &request()),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, warm, scale, load);
criterion_main!(benches);
