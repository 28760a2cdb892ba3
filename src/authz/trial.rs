//! Policy unit tests: `policies/<tenant>/tests.toml`.
//!
//! ```toml
//! [callers.alice]                       # callers that several tests share
//! subject = "alice"                     # required; `acme/alice`
//! issuer = "https://idp.acme.example"   # what policies see as `principal.issuer`; "" by default
//! issuer-name = "partners"              # then the id is `acme/partners/alice`; none by default
//! roles = ["billing"]                   # `acme/billing`; none by default
//! scopes = ["invoice:write"]            # none by default
//! tags = { department = "finance" }     # none by default
//!
//! [[test]]
//! name = "billing writes invoices"      # says the claim; shown when it does not hold
//! caller = "alice"                      # one of `callers`, or a table like it
//! function = "invoice"                  # with the labels of its manifest
//! request = { method = "POST", path = "/acme/invoice", tls = "1.3", client = "192.0.2.1", binding = "none",
//!             now = 2026-01-05T12:00:00Z, authenticated-at = 2026-01-05T09:00:00Z, bytes = 200 }
//! expect = "allow"                      # or "deny"
//! policies = ["acme/invoice-billing"]   # exactly these determined it; left out, any may have
//! ```
//!
//! Every key of `request` may be left out. The defaults are those above, but for `path` (`/<tenant>/<function>`),
//! `authenticated-at` and `bytes` (absent). `now` is a Monday noon and never the clock, so that a test that holds today
//! holds tomorrow.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Deserialize;
use toml::{Spanned, value::Datetime};

use super::{
    Authorizer,
    decide::Decision,
    entities::{CallerFacts, Principal},
    request::RequestFacts,
    tenant::{KnownNames, TenantPolicies},
};
use crate::{
    id::TenantName,
    site::diagnostic::{Diagnostic, Source},
};

/// Most tests of one tenant.
const MAX_TRIALS: usize = 1_000;
/// Largest `tests.toml`.
const MAX_BYTES: usize = 256 * 1024;
/// Longest that one tenant's tests may take together: they hold up its reload. A thousand take a tenth of it.
const MAX_TIME: Duration = Duration::from_secs(2);
/// 2026-01-05T12:00:00Z, a Monday, in seconds of Unix time.
const NOON: Duration = Duration::from_secs(1_767_614_400);
/// An address for documentation (RFC 5737): no private network.
pub(super) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// When tests and the matrix take place, if they do not say.
pub(super) fn noon() -> SystemTime {
    UNIX_EPOCH + NOON
}

/// What came of one test.
#[derive(Debug, Clone)]
pub struct Trial {
    /// As its author called it.
    pub name: String,
    /// Whether it holds.
    pub passed: bool,
    /// What was decided.
    pub decision: Decision,
}

/// What came of a tenant's tests.
#[derive(Debug, Clone, Default)]
pub struct TrialReport {
    /// Each test that ran, in the order of the file.
    pub trials: Vec<Trial>,
    /// A fault for each that failed, and for what is wrong with the file.
    pub diagnostics: Vec<Diagnostic>,
}

/// Why a tenant's policy tests cannot be read, if they cannot: what is told of them while its policies are faulty.
pub fn unreadable_trials(tests: &Source) -> Option<Diagnostic> {
    read(tests).err()
}

/// Runs a tenant's policy tests, within a bound of number and time.
pub fn run_trials(policies: &Arc<TenantPolicies>, known: &KnownNames, tests: &Source) -> TrialReport {
    let mut report = TrialReport::default();
    let raw = match read(tests) {
        Ok(raw) => raw,
        Err(fault) => {
            report.diagnostics.push(fault);
            return report;
        }
    };
    let started = Instant::now();
    let mut authorizers: HashMap<String, Authorizer> = HashMap::new();
    for (number, test) in raw.test.iter().enumerate() {
        if number == MAX_TRIALS || started.elapsed() > MAX_TIME {
            let limit = format!("policy tests may be {MAX_TRIALS} and take {} s", MAX_TIME.as_secs());
            report.diagnostics.push(Diagnostic::fault(limit).at(tests, test.name.span()));
            break;
        }
        match test.run(policies, known, &raw.callers, &mut authorizers) {
            Ok(trial) => {
                if !trial.passed {
                    report.diagnostics.push(failure(test, &trial, tests));
                }
                report.trials.push(trial);
            }
            Err(Wrong { message, span }) => report
                .diagnostics
                .push(Diagnostic::fault(message).at(tests, span.unwrap_or_else(|| test.name.span()))),
        }
    }
    report
}

fn read(tests: &Source) -> Result<RawTests, Diagnostic> {
    if tests.text.len() > MAX_BYTES {
        return Err(Diagnostic::fault(format!("policy tests may have {MAX_BYTES} bytes")).in_file(tests));
    }
    toml::from_str(&tests.text).map_err(|error| {
        let fault = Diagnostic::fault(error.message().to_owned());
        match error.span() {
            Some(span) => fault.at(tests, span),
            None => fault.in_file(tests),
        }
    })
}

/// A call that the tests say is allowed: whom it is made by, and what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleCall {
    /// `sub`.
    pub subject: String,
    /// Name of the caller's issuer, if it has one.
    pub issuer_name: Option<String>,
    /// Roles, without the tenant.
    pub roles: Vec<String>,
    /// Scopes.
    pub scopes: Vec<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// The function.
    pub function: String,
    /// The method.
    pub method: String,
}

/// The first call that a tenant's tests say is allowed, whoever and whenever it is made: what `dev` prints as an example.
pub fn sample_call(tests: &Source) -> Option<SampleCall> {
    let raw: RawTests = toml::from_str(&tests.text).ok()?;
    let plain = |test: &&RawTest| {
        let request = &test.request;
        *test.expect.get_ref() == Expectation::Allow
            && request.now.is_none()
            && request.authenticated_at.is_none()
    };
    raw.test.iter().filter(plain).find_map(|test| {
        let caller = match test.caller.get_ref() {
            RawWho::Inline(caller) => caller,
            RawWho::Named(name) => raw.callers.get(name)?,
        };
        Some(SampleCall {
            subject: caller.subject.clone(),
            issuer_name: caller.issuer_name.clone(),
            roles: caller.roles.clone(),
            scopes: caller.scopes.clone(),
            tags: caller.tags.clone(),
            function: test.function.get_ref().clone(),
            method: test.request.method.clone().unwrap_or_else(|| "POST".to_owned()),
        })
    })
}

fn failure(test: &RawTest, trial: &Trial, tests: &Source) -> Diagnostic {
    let decision = &trial.decision;
    let got = if decision.allowed { "allow" } else { "deny" };
    let by =
        if decision.policies.is_empty() { "no policy".to_owned() } else { decision.policies.join("`, `") };
    let fault = Diagnostic::fault(format!("policy test `{}` does not hold: {got} by `{by}`", trial.name));
    let wrong_effect = decision.allowed != (*test.expect.get_ref() == Expectation::Allow);
    let fault = match (&test.policies, wrong_effect) {
        (Some(policies), false) => fault.at(tests, policies.span()),
        _ => fault.at(tests, test.expect.span()),
    };
    match decision.errors.first() {
        Some(error) => fault.hint(format!("`{}` failed to evaluate: {}", error.policy, error.message)),
        None => match decision.hints.first() {
            Some(hint) => fault.hint(hint.to_string()),
            None => fault,
        },
    }
}

/// Why a test could not be run.
struct Wrong {
    message: String,
    span: Option<std::ops::Range<usize>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawTests {
    #[serde(default)]
    callers: BTreeMap<String, RawCaller>,
    #[serde(default)]
    test: Vec<RawTest>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawCaller {
    subject: String,
    #[serde(default)]
    issuer: String,
    issuer_name: Option<String>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawTest {
    name: Spanned<String>,
    caller: Spanned<RawWho>,
    function: Spanned<String>,
    #[serde(default)]
    request: RawRequest,
    expect: Spanned<Expectation>,
    policies: Option<Spanned<Vec<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a name of `callers`, or a table with `subject` and perhaps `roles`, `scopes`, `tags`"
)]
enum RawWho {
    Named(String),
    Inline(RawCaller),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawRequest {
    method: Option<String>,
    path: Option<String>,
    tls: Option<String>,
    client: Option<IpAddr>,
    now: Option<Spanned<Datetime>>,
    authenticated_at: Option<Spanned<Datetime>>,
    binding: Option<String>,
    bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expectation {
    Allow,
    Deny,
}

impl RawTest {
    fn run(
        &self,
        policies: &Arc<TenantPolicies>,
        known: &KnownNames,
        callers: &BTreeMap<String, RawCaller>,
        authorizers: &mut HashMap<String, Authorizer>,
    ) -> Result<Trial, Wrong> {
        let name = self.function.get_ref();
        let wrong = |message: String, span| Wrong { message, span: Some(span) };
        if !authorizers.contains_key(name) {
            let Some((function, labels)) = known.functions.get_key_value(name.as_str()) else {
                return Err(wrong(format!("there is no function `{name}`"), self.function.span()));
            };
            authorizers.insert(name.clone(), Authorizer::new(policies, function.clone(), labels.clone()));
        }
        let Some(authorizer) = authorizers.get(name) else {
            return Err(wrong(format!("there is no function `{name}`"), self.function.span()));
        };
        let caller = match self.caller.get_ref() {
            RawWho::Inline(caller) => caller,
            RawWho::Named(name) => callers
                .get(name)
                .ok_or_else(|| wrong(format!("there is no caller `{name}`"), self.caller.span()))?,
        };
        let tenant = policies.tenant();
        let request = &self.request;
        let path = request.path.clone().unwrap_or_else(|| format!("/{tenant}/{name}"));
        let facts = RequestFacts {
            method: request.method.as_deref().unwrap_or("POST"),
            path: &path,
            tls: request.tls.as_deref().unwrap_or("1.3"),
            client: request.client.unwrap_or(CLIENT),
            now: request.now.as_ref().map(instant).transpose()?.unwrap_or_else(noon),
            authenticated_at: request.authenticated_at.as_ref().map(instant).transpose()?,
            binding: request.binding.as_deref().unwrap_or("none"),
            bytes: request.bytes,
        };
        let decision = authorizer
            .decide(&Principal::new(caller.facts(tenant)), &facts)
            .map_err(|error| Wrong { message: error.to_string(), span: None })?;
        let as_expected = decision.allowed == (*self.expect.get_ref() == Expectation::Allow);
        let by_expected = self.policies.as_ref().is_none_or(|expected| {
            let mut expected: Vec<&str> = expected.get_ref().iter().map(String::as_str).collect();
            expected.sort_unstable();
            decision.policies.iter().map(|id| &**id).eq(expected)
        });
        Ok(Trial { name: self.name.get_ref().clone(), passed: as_expected && by_expected, decision })
    }
}

impl RawCaller {
    fn facts(&self, tenant: &TenantName) -> CallerFacts {
        let subject = escaped(&self.subject);
        let id = match &self.issuer_name {
            Some(issuer) => format!("{tenant}/{issuer}/{subject}"),
            None => format!("{tenant}/{subject}"),
        };
        CallerFacts {
            tenant: tenant.clone(),
            id,
            subject: self.subject.clone(),
            issuer: self.issuer.clone(),
            roles: self.roles.iter().map(|role| format!("{tenant}/{role}")).collect(),
            scopes: self.scopes.clone(),
            tags: self.tags.clone(),
        }
    }
}

/// `/` and `%` as in caller ids (design.md §5).
fn escaped(subject: &str) -> String {
    subject.replace('%', "%25").replace('/', "%2F")
}

fn instant(written: &Spanned<Datetime>) -> Result<SystemTime, Wrong> {
    let text = written.get_ref().to_string();
    let parsed = text.parse::<jiff::Timestamp>().ok().and_then(|at| SystemTime::try_from(at).ok());
    parsed.ok_or_else(|| Wrong {
        message: format!("`{text}` is not a time with a date and an offset, such as `2026-01-05T12:00:00Z`"),
        span: Some(written.span()),
    })
}
