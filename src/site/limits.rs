//! The limits of a function: the smallest of what platform, tenant and function say, and who said it.

use std::fmt;

use toml::Spanned;

use super::{
    config::ServerConfig,
    diagnostic::{Diagnostic, Source},
    manifest::{RawLimits, RawManifest},
    units::{Bytes, Span},
};

/// Who set a limit: a record of a limit that was hit says whom to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SetBy {
    /// `sandgate.toml`, or its default.
    Platform,
    /// `tenant.toml`, `[ceilings]`.
    Tenant,
    /// `function.toml`, `[limits]`.
    Function,
}

impl SetBy {
    /// The word for records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Tenant => "tenant",
            Self::Function => "function",
        }
    }
}

/// A limit in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit<T> {
    /// How much.
    pub value: T,
    /// Who says so.
    pub set_by: SetBy,
}

/// All limits in force for one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Thread CPU time.
    pub cpu: Limit<Span>,
    /// Time on the wall.
    pub wall: Limit<Span>,
    /// All linear memories and tables together.
    pub memory: Limit<Bytes>,
    /// The reply's body.
    pub response: Limit<Bytes>,
    /// Invocations in flight at once.
    pub concurrency: Limit<u32>,
    /// The request's body.
    pub event: Limit<Bytes>,
}

impl Limits {
    /// What holds for a function of that manifest, of a tenant with those ceilings.
    pub fn in_force(platform: &ServerConfig, ceilings: &RawLimits, manifest: &RawManifest) -> Self {
        let (most, usual, own) = (&platform.limits, &platform.defaults, &manifest.limits);
        Self {
            cpu: smallest(most.cpu, &ceilings.cpu, &own.cpu, usual.cpu),
            wall: smallest(most.wall, &ceilings.wall, &own.wall, usual.wall),
            memory: smallest(most.memory, &ceilings.memory, &own.memory, usual.memory),
            response: smallest(most.response, &ceilings.response, &own.response, usual.response),
            concurrency: smallest(
                most.concurrency,
                &ceilings.concurrency,
                &own.concurrency,
                usual.concurrency,
            ),
            event: smallest(platform.events.max_bytes, &None, &manifest.event.max_bytes, DEFAULT_EVENT),
        }
    }
}

impl Default for Limits {
    /// What holds where nobody wrote anything.
    fn default() -> Self {
        let none = RawLimits::default();
        let (most, usual) = (ServerConfig::default(), ServerConfig::default().defaults);
        Self {
            cpu: smallest(most.limits.cpu, &none.cpu, &none.cpu, usual.cpu),
            wall: smallest(most.limits.wall, &none.wall, &none.wall, usual.wall),
            memory: smallest(most.limits.memory, &none.memory, &none.memory, usual.memory),
            response: smallest(most.limits.response, &none.response, &none.response, usual.response),
            concurrency: smallest(
                most.limits.concurrency,
                &none.concurrency,
                &none.concurrency,
                usual.concurrency,
            ),
            event: smallest(most.events.max_bytes, &None, &None, DEFAULT_EVENT),
        }
    }
}

/// Warns of limits that a ceiling cuts, and faults limits with which nothing could run.
pub(super) fn check(
    source: &Source,
    own: &RawLimits,
    most: &[(&RawLimits, &str)],
    diagnostics: &mut Vec<Diagnostic>,
) {
    let mut told = Vec::new();
    for (ceiling, whose) in most {
        cut(source, "cpu", &own.cpu, &ceiling.cpu, whose, &mut told);
        cut(source, "wall", &own.wall, &ceiling.wall, whose, &mut told);
        cut(source, "memory", &own.memory, &ceiling.memory, whose, &mut told);
        cut(source, "response", &own.response, &ceiling.response, whose, &mut told);
        cut(source, "concurrency", &own.concurrency, &ceiling.concurrency, whose, &mut told);
    }
    let zero = [
        ("cpu", own.cpu.as_ref().filter(|v| v.get_ref().0.is_zero()).map(Spanned::span)),
        ("wall", own.wall.as_ref().filter(|v| v.get_ref().0.is_zero()).map(Spanned::span)),
        ("memory", own.memory.as_ref().filter(|v| v.get_ref().0 == 0).map(Spanned::span)),
        ("concurrency", own.concurrency.as_ref().filter(|v| *v.get_ref() == 0).map(Spanned::span)),
    ];
    for (name, span) in zero {
        if let Some(span) = span {
            told.push(
                Diagnostic::fault(format!("with a limit `{name}` of nothing, nothing can run"))
                    .at(source, span),
            );
        }
    }
    diagnostics.append(&mut told);
}

/// Warns if a limit is above a ceiling.
pub(super) fn cut<T: PartialOrd + fmt::Display>(
    source: &Source,
    name: &str,
    own: &Option<Spanned<T>>,
    ceiling: &Option<Spanned<T>>,
    whose: &str,
    told: &mut Vec<Diagnostic>,
) {
    let (Some(own), Some(ceiling)) = (own, ceiling) else { return };
    if own.get_ref() > ceiling.get_ref() {
        let message =
            format!("`{name}` is {}, but {whose} ceiling of {} holds", own.get_ref(), ceiling.get_ref());
        told.push(Diagnostic::warning(message).at(source, own.span()));
    }
}

/// The platform's ceilings in the form of a tenant's.
pub(super) fn ceilings_of(platform: &ServerConfig) -> RawLimits {
    let most = &platform.limits;
    RawLimits {
        cpu: Some(Spanned::new(0..0, most.cpu)),
        wall: Some(Spanned::new(0..0, most.wall)),
        memory: Some(Spanned::new(0..0, most.memory)),
        response: Some(Spanned::new(0..0, most.response)),
        concurrency: Some(Spanned::new(0..0, most.concurrency)),
    }
}

/// What the function asks for, else the usual, cut by tenant and platform; of equals, the nearest to the function
/// is named, since it is the one that must change first.
fn smallest<T: Copy + PartialOrd>(
    platform: T,
    tenant: &Option<Spanned<T>>,
    function: &Option<Spanned<T>>,
    usual: T,
) -> Limit<T> {
    let mut limit = match function {
        Some(own) => Limit { value: *own.get_ref(), set_by: SetBy::Function },
        None => Limit { value: usual, set_by: SetBy::Platform },
    };
    if let Some(tenant) = tenant.as_ref().map(|v| *v.get_ref()).filter(|tenant| *tenant < limit.value) {
        limit = Limit { value: tenant, set_by: SetBy::Tenant };
    }
    if platform < limit.value {
        limit = Limit { value: platform, set_by: SetBy::Platform };
    }
    limit
}

/// What a body may have that no manifest speaks of: design.md §8 shows the same.
const DEFAULT_EVENT: Bytes = Bytes::kib(64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::parse::parse_toml;

    fn manifest(rest: &str) -> RawManifest {
        parse_toml(&Source::new("f", format!("component = \"a\"\nmethods = [\"GET\"]\n{rest}"))).unwrap()
    }

    #[test]
    fn the_smallest_limit_holds_and_says_whose_it_is() {
        let platform = ServerConfig::default();
        let ceilings: RawLimits =
            parse_toml(&Source::new("t", "cpu = \"20ms\"\nmemory = \"1MiB\"\nwall = \"1h\"")).unwrap();
        let own = manifest(
            "[event]\nmax-bytes = \"1GiB\"\n[limits]\ncpu = \"1s\"\nmemory = \"64KiB\"\nwall = \"2h\"",
        );
        let limits = Limits::in_force(&platform, &ceilings, &own);
        assert_eq!(limits.cpu, Limit { value: Span::ms(20), set_by: SetBy::Tenant });
        assert_eq!(limits.memory, Limit { value: Bytes::kib(64), set_by: SetBy::Function });
        assert_eq!(limits.wall, Limit { value: platform.limits.wall, set_by: SetBy::Platform });
        assert_eq!(limits.response, Limit { value: platform.defaults.response, set_by: SetBy::Platform });
        assert_eq!(limits.event, Limit { value: platform.events.max_bytes, set_by: SetBy::Platform });
    }

    #[test]
    fn limits_at_the_ceiling_warn_and_limits_of_nothing_are_faults() {
        let text = "cpu = \"2s\"\nmemory = \"0B\"\nwall = \"1s\"\n";
        let source = Source::new("functions/acme/echo/function.toml", text);
        let own: RawLimits = parse_toml(&source).unwrap();
        let mut told = Vec::new();
        check(&source, &own, &[(&ceilings_of(&ServerConfig::default()), "the platform's")], &mut told);
        let told: String = told.iter().map(|d| d.one_line() + "\n").collect();
        insta::assert_snapshot!(told, @r#"
        functions/acme/echo/function.toml:1: `cpu` is 2s, but the platform's ceiling of 1s holds
        functions/acme/echo/function.toml:2: with a limit `memory` of nothing, nothing can run
        "#);
    }
}
