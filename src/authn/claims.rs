//! From verified claims to a `Caller`. Nothing here runs before the signature has been verified.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value};

use super::{
    AuthnError, Caller, binding::Confirmation, caller::encode, issuer::IssuerRecord, json::StrictObject,
    keys::Key,
};
use crate::id::TenantName;

/// What is kept of a verified token: its verdict, its caller, and what must be looked at again on every request.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) caller: Arc<Caller>,
    pub(super) times: Times,
    pub(super) token_id: Option<String>,
    /// To whom it is bound.
    pub(super) confirmation: Option<Confirmation>,
    /// Which of the tenant's records vouches for it.
    pub(super) record: usize,
    /// The key set that gave the verdict.
    pub(super) generation: u64,
}

/// When a token is good, in Unix seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    expires_at: u64,
    not_before: Option<u64>,
    pub(super) issued_at: Option<u64>,
    leeway: u64,
}

impl Times {
    /// `exp` and `nbf` against the clock of the request (RFC 7519 §4.1.4–5).
    pub(super) fn check(&self, now: SystemTime) -> Result<(), AuthnError> {
        let now = unix(now);
        if now >= self.expires_at.saturating_add(self.leeway) {
            return Err(AuthnError::Expired);
        }
        if self.not_before.is_some_and(|not_before| not_before > now.saturating_add(self.leeway)) {
            return Err(AuthnError::NotYetValid);
        }
        Ok(())
    }

    /// The issuer's, in seconds.
    pub(super) fn leeway(&self) -> u64 {
        self.leeway
    }

    /// Time left until `exp`.
    pub(super) fn remaining(&self, now: SystemTime) -> Duration {
        Duration::from_secs(self.expires_at.saturating_sub(unix(now)))
    }
}

/// Reads the payload of a token whose signature, `exp`, `nbf`, `iss` and `aud` are good under `record`.
pub(super) fn read(
    payload: &[u8],
    tenant: &TenantName,
    record: &IssuerRecord,
    key: &Key,
    generation: u64,
    now: SystemTime,
) -> Result<Verified, AuthnError> {
    let StrictObject(claims) =
        StrictObject::parse(payload).map_err(|reason| AuthnError::MalformedClaims { reason })?;
    let authenticated_at = time(&claims, "auth_time")?;
    let token_id = text(&claims, "jti")?.map(str::to_owned);
    let confirmation = Confirmation::read(&claims)?;
    let subject = text(&claims, "sub")?.ok_or(AuthnError::Claim { claim: "sub" })?;
    let times = Times {
        expires_at: time(&claims, "exp")?.ok_or(AuthnError::Claim { claim: "exp" })?,
        not_before: time(&claims, "nbf")?,
        issued_at: time(&claims, "iat")?,
        leeway: record.leeway.as_secs(),
    };
    if record.issued_at_required && times.issued_at.is_none() {
        return Err(AuthnError::Claim { claim: "iat" });
    }
    times.check(now)?;
    check_lifetime(&times, record, now)?;
    if subject.is_empty() || subject.len() > MAX_SUBJECT_BYTES || subject.chars().any(char::is_control) {
        return Err(AuthnError::Subject);
    }
    if let Some((pointer, value)) = &record.tenant_claim
        && pointer.find(&claims).and_then(Value::as_str) != Some(value)
    {
        return Err(AuthnError::TenantClaim { tenant: tenant.clone() });
    }
    let space = match &record.name {
        None => tenant.to_string(),
        Some(name) => format!("{tenant}/{name}"),
    };
    let role_space = if record.share_roles { tenant.as_str() } else { &space };
    let mut roles = words(record.roles.as_ref().and_then(|at| at.find(&claims)), MAX_ROLES)
        .ok_or(AuthnError::Attributes { what: "roles" })?;
    for role in &mut roles {
        *role = format!("{role_space}/{}", encode(role));
    }
    roles.sort_unstable();
    let scopes = words(record.scopes.as_ref().and_then(|at| at.find(&claims)), MAX_SCOPES)
        .ok_or(AuthnError::Attributes { what: "scopes" })?;
    let caller = Caller {
        tenant: tenant.clone(),
        issuer: Arc::clone(&record.issuer),
        id: format!("{space}/{}", encode(subject)).into(),
        key_id: key.id.clone(),
        subject: subject.to_owned(),
        roles: roles.into_iter().map(Arc::from).collect(),
        scopes: scopes.into_iter().map(Arc::from).collect(),
        tags: tags(&claims, record).ok_or(AuthnError::Attributes { what: "tags" })?,
        authenticated_at: authenticated_at.and_then(|at| UNIX_EPOCH.checked_add(Duration::from_secs(at))),
        binding: record.binding.name(),
        derived: OnceLock::new(),
    };
    Ok(Verified { caller: Arc::new(caller), times, token_id, confirmation, record: record.place, generation })
}

/// `iat` is not to come, and the token does not live longer than its issuer may let it. A token without `iat` is
/// measured from now.
fn check_lifetime(times: &Times, record: &IssuerRecord, now: SystemTime) -> Result<(), AuthnError> {
    let latest = unix(now).saturating_add(times.leeway);
    let begin = match times.issued_at {
        Some(issued_at) if issued_at > latest => return Err(AuthnError::IssuedInFuture),
        Some(issued_at) => issued_at,
        None => latest,
    };
    if times.expires_at.saturating_sub(begin) > record.max_lifetime.as_secs() {
        return Err(AuthnError::LivesTooLong { issuer: Arc::clone(&record.issuer) });
    }
    Ok(())
}

/// An array of strings, or one string of words (RFC 8693 §4.2): sorted, each once. `None` if it is anything else, if
/// it is too much, or if a word is empty, too long or has control characters. Never truncated: a missing role could be
/// one that a `forbid` asks for.
fn words(value: Option<&Value>, most: usize) -> Option<Vec<String>> {
    let mut words: Vec<String> = match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => {
            text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
        }
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>()?
        }
        Some(_) => return None,
    };
    if words.len() > most || words.iter().any(|word| word.is_empty() || !is_plain(word)) {
        return None;
    }
    words.sort_unstable();
    words.dedup();
    Some(words)
}

/// The listed claims as text; `None` if one is an array or object, or too long.
fn tags(claims: &Map<String, Value>, record: &IssuerRecord) -> Option<BTreeMap<String, String>> {
    let mut tags = BTreeMap::new();
    for (name, pointer) in &record.tags {
        let value = match pointer.find(claims) {
            None | Some(Value::Null) => continue,
            Some(Value::String(text)) => text.clone(),
            Some(Value::Bool(value)) => value.to_string(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Array(_) | Value::Object(_)) => return None,
        };
        if !is_plain(&value) {
            return None;
        }
        tags.insert(name.clone(), value);
    }
    Some(tags)
}

fn is_plain(text: &str) -> bool {
    text.len() <= MAX_VALUE_BYTES && !text.chars().any(char::is_control)
}

/// A NumericDate (RFC 7519 §2): a number, whole or not, from 0 up; anything else is refused (CVE-2026-25537).
pub(super) fn time(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<u64>, AuthnError> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    if let Some(seconds) = value.as_u64() {
        return Ok(Some(seconds));
    }
    match value.as_f64() {
        // Above 2^53 a double no longer tells seconds apart, and no clock gets there.
        Some(seconds) if (0.0..=9_007_199_254_740_992.0).contains(&seconds) =>
        {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the range is checked above"
            )]
            Ok(Some(seconds as u64))
        }
        _ => Err(AuthnError::Claim { claim }),
    }
}

fn text<'a>(claims: &'a Map<String, Value>, claim: &'static str) -> Result<Option<&'a str>, AuthnError> {
    match claims.get(claim) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(AuthnError::Claim { claim }),
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// RFC 7519 sets no bound; OpenID Connect Core §2 has 255 for `sub`.
const MAX_SUBJECT_BYTES: usize = 255;
const MAX_ROLES: usize = 64;
const MAX_SCOPES: usize = 256;
/// Longest role, scope or tag value.
const MAX_VALUE_BYTES: usize = 256;
