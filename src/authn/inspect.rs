//! Why a token is, or is not, valid here: check by check, for its holder's terminal. The token itself is never shown.

use std::{fmt, sync::Arc, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    Authenticator, AuthnError, Check, bearer::BearerToken, binding::Demand, claims::Verified, dpop,
    keys::sha256,
};

/// What became of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// As it should be.
    Passed,
    /// The token is refused for this.
    Failed,
    /// A check before it failed.
    NotReached,
    /// Asked of each request that bears the token, and not of the token.
    EachRequest,
}

/// One line of an inspection.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CheckResult {
    /// Which check.
    pub check: Check,
    /// What became of it.
    pub state: State,
    /// What was found, or what is wrong.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// All checks of one token, in order.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Inspection {
    /// Whether a request with this token would be authenticated: if its sender shows what the checks of state `each-request` ask
    /// for.
    pub valid: bool,
    /// Who would be calling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// The caller's roles.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// The caller's scopes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// The checks.
    pub checks: Vec<CheckResult>,
}

/// Inspects a token as the tenant's authenticator would judge it at `now`. The cache is neither asked nor filled.
pub async fn inspect(token: &str, authenticator: &Authenticator, now: SystemTime) -> Inspection {
    let token = token.trim();
    let outcome = match BearerToken::from_text(token) {
        Ok(bearer) => authenticator.verify(bearer, now).await.and_then(|verified| {
            authenticator.admit(&verified, now)?;
            Ok(verified)
        }),
        Err(error) => Err(error),
    };
    // Shown as the token claims it, escaped: its holder may read it, and a terminal must not obey it.
    let header = BearerToken::from_text(token).and_then(BearerToken::open).ok().map(|open| open.header);
    let claimed = header.map(|header| {
        let or_none = |text: Option<String>| text.map_or("none".to_owned(), |text| format!("{text:?}"));
        let (kind, key) = (or_none(header.token_type), or_none(header.key_id));
        (format!("alg {:?}, typ {kind}, kid {key}", header.algorithm), kind)
    });
    let failed = outcome.as_ref().err().map(AuthnError::check);
    let of_token = Check::ALL.into_iter().filter(|check| *check <= Check::Binding);
    let mut checks: Vec<CheckResult> = of_token
        .map(|check| {
            let state = match failed {
                Some(failed) if check == failed => State::Failed,
                Some(failed) if check > failed => State::NotReached,
                _ => State::Passed,
            };
            let detail = match (state, &outcome) {
                (State::Failed, Err(error)) => {
                    explain(error, claimed.as_ref().map(|(_, kind)| kind.as_str()))
                }
                (State::Passed, _) if check == Check::Form => {
                    format!("{} bytes in three segments", token.len())
                }
                (State::Passed, _) if check == Check::Header => {
                    claimed.as_ref().map_or(String::new(), |(header, _)| header.clone())
                }
                (State::Passed, Ok(verified)) => confirm(check, verified, now),
                _ => String::new(),
            };
            CheckResult { check, state, detail }
        })
        .collect();
    if let Ok(demand) =
        outcome.as_ref().map_err(|_| ()).and_then(|verified| authenticator.demand(verified).map_err(|_| ()))
    {
        checks.extend(of_each_request(&demand, token, authenticator));
    }
    let caller = outcome.ok().map(|verified| verified.caller);
    Inspection {
        valid: caller.is_some(),
        roles: caller.as_ref().map_or_else(Vec::new, |caller| texts(caller.roles())),
        scopes: caller.as_ref().map_or_else(Vec::new, |caller| texts(caller.scopes())),
        caller: caller.map(|caller| caller.id().to_owned()),
        checks,
    }
}

fn texts(shared: &[Arc<str>]) -> Vec<String> {
    shared.iter().map(ToString::to_string).collect()
}

fn explain(error: &AuthnError, claimed_type: Option<&str>) -> String {
    let cause = std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
    let hint = match (error, claimed_type) {
        (AuthnError::TokenType { .. }, Some(claimed)) => {
            format!(" (its `typ` is {claimed}; `token-types` of the issuer lists what is taken)")
        }
        (AuthnError::UnknownIssuer { .. }, _) => {
            " (`iss` must equal an `issuer` of tenant.toml byte for byte)".into()
        }
        (AuthnError::Audience, _) => " (`aud` must contain one of the issuer's `audiences`)".into(),
        (AuthnError::BoundUnasked { .. }, _) => {
            " (it has a `cnf`: `binding = \"dpop\"` or `\"mtls\"` of the issuer takes tokens that are bound so)".into()
        }
        (AuthnError::NotBound { binding: "dpop", .. }, _) => " (`cnf` must be `jkt` and nothing else)".into(),
        (AuthnError::NotBound { .. }, _) => " (`cnf` must be `x5t#S256` and nothing else)".into(),
        (AuthnError::LivesTooLong { .. }, _) => " (`max-lifetime` of the issuer, 24h unless written)".into(),
        _ => String::new(),
    };
    format!("{error}{cause}{hint}")
}

fn confirm(check: Check, verified: &Verified, now: SystemTime) -> String {
    match check {
        Check::Issuer => verified.caller.issuer().to_owned(),
        Check::Key => verified
            .caller
            .key_id
            .as_ref()
            .map_or("the only one that fits".to_owned(), |id| format!("{id:?}")),
        Check::Expiry => format!("in {} s", verified.times.remaining(now).as_secs()),
        Check::Subject => format!("{:?}", verified.caller.subject()),
        Check::Tenant => verified.caller.tenant().to_string(),
        Check::Binding => verified.caller.binding().to_owned(),
        Check::Attributes => {
            let caller = &verified.caller;
            let (roles, scopes, tags) = (caller.roles().len(), caller.scopes().len(), caller.tags().len());
            format!("{roles} roles, {scopes} scopes, {tags} tags")
        }
        _ => String::new(),
    }
}

/// What the sender of a bound token has to show, and with which values.
fn of_each_request(demand: &Demand<'_>, token: &str, authenticator: &Authenticator) -> Vec<CheckResult> {
    let asked: Vec<(Check, String)> = match demand {
        Demand::Nothing => Vec::new(),
        Demand::Certificate(thumbprint) => {
            vec![(
                Check::Certificate,
                format!("the connection's client certificate has SHA-256 {thumbprint}"),
            )]
        }
        Demand::Proof(key, _) => {
            let origin =
                authenticator.origin().map_or("https://GATEWAY".to_owned(), |origin| format!("{origin}"));
            vec![
                (
                    Check::Proof,
                    "`Authorization: DPoP TOKEN`, and one `DPoP` header: `typ` dpop+jwt".to_owned(),
                ),
                (Check::ProofKey, format!("`jwk` has thumbprint {key}")),
                (Check::ProofMethod, "`htm` is the method".to_owned()),
                (Check::ProofUrl, format!("`htu` is {origin}/{}/FUNCTION", authenticator.tenant)),
                (Check::ProofToken, format!("`ath` is {}", URL_SAFE_NO_PAD.encode(sha256(token.as_bytes())))),
                (Check::ProofTime, format!("`iat` is at most {} s ago", dpop::MAX_AGE.as_secs())),
                (Check::Nonce, "`nonce` is the last `DPoP-Nonce`; the first comes with a 401".to_owned()),
                (Check::Replay, "`jti` is never the same".to_owned()),
            ]
        }
    };
    asked
        .into_iter()
        .map(|(check, detail)| CheckResult { check, state: State::EachRequest, detail })
        .collect()
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|checked| checked.check.name().len()).max().unwrap_or(0) + 1;
        for CheckResult { check, state, detail } in &self.checks {
            let mark = match state {
                State::Passed => "✔",
                State::Failed => "✘",
                State::NotReached => "·",
                State::EachRequest => "→",
            };
            let line = format!("{mark} {:<width$} {detail}", check.name());
            writeln!(f, "{}", line.trim_end())?;
        }
        match &self.caller {
            Some(caller) => write!(f, "valid: the caller is `{}`", caller.escape_debug()),
            None => write!(f, "not valid"),
        }
    }
}
