//! `revoked.json`: tokens that are refused though their signature is good. In force on its own, as soon as it is read.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::claims::Verified;
use crate::site::diagnostic::{Diagnostic, Source};

/// What a tenant has revoked. Each entry holds for all issuers of the tenant: a `sub`, `jti` or `kid` that two of them
/// use is revoked at both.
#[derive(Debug, Clone, Default)]
pub struct Revocations {
    token_ids: HashSet<String>,
    /// Subject → tokens issued before this Unix time; `None`: all of them.
    subjects: HashMap<String, Option<u64>>,
    key_ids: HashSet<String>,
    issuers: HashSet<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    jti: Vec<String>,
    #[serde(default)]
    sub: Vec<RawSubject>,
    #[serde(default)]
    kid: Vec<String>,
    #[serde(default)]
    issuer: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawSubject {
    sub: String,
    issued_before: Option<u64>,
}

impl Revocations {
    /// Reads the file. A faulty file changes nothing: what was in force stays.
    pub fn parse(source: &Source) -> Result<Self, Diagnostic> {
        if source.text.len() > MAX_BYTES {
            return Err(Diagnostic::fault(format!("it is larger than {MAX_BYTES} bytes")).in_file(source).hint(
                "drop tokens that have expired, or revoke by `sub` with `issued-before` instead of by `jti`",
            ));
        }
        // serde would read an array as the fields in their order.
        if !source.text.trim_ascii_start().starts_with('{') {
            return Err(Diagnostic::fault("not a list of revocations: not an object")
                .in_file(source)
                .hint(FORM));
        }
        let raw: Raw = serde_json::from_str(&source.text).map_err(|error| {
            let line: usize =
                source.text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
            // serde counts columns in bytes, which may end inside a character.
            let at = source.text.floor_char_boundary(line + error.column().saturating_sub(1));
            Diagnostic::fault(format!("not a list of revocations: {error}")).at(source, at..at).hint(FORM)
        })?;
        let mut subjects = HashMap::with_capacity(raw.sub.len());
        for RawSubject { sub, issued_before } in raw.sub {
            // A subject that is listed twice is revoked as far as either entry says.
            subjects
                .entry(sub)
                .and_modify(|before: &mut Option<u64>| {
                    *before = before.zip(issued_before).map(|(a, b)| a.max(b));
                })
                .or_insert(issued_before);
        }
        Ok(Self {
            token_ids: raw.jti.into_iter().collect(),
            subjects,
            key_ids: raw.kid.into_iter().collect(),
            issuers: raw.issuer.into_iter().collect(),
        })
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.token_ids.len() + self.subjects.len() + self.key_ids.len() + self.issuers.len()
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// By which of its properties the token is revoked, if it is.
    pub(super) fn revoke(&self, token: &Verified) -> Option<&'static str> {
        let listed = |set: &HashSet<String>, value: &Option<String>| {
            !set.is_empty() && value.as_ref().is_some_and(|value| set.contains(value))
        };
        if listed(&self.token_ids, &token.token_id) {
            return Some("jti");
        }
        if listed(&self.key_ids, &token.caller.key_id) {
            return Some("kid");
        }
        if !self.issuers.is_empty() && self.issuers.contains(token.caller.issuer()) {
            return Some("issuer");
        }
        if !self.subjects.is_empty()
            && let Some(before) = self.subjects.get(token.caller.subject())
        {
            // A token that does not say when it was issued may have been issued before.
            let spared = before.zip(token.times.issued_at).is_some_and(|(before, issued)| issued >= before);
            return (!spared).then_some("sub");
        }
        None
    }
}

const FORM: &str = "the form is `{\"jti\": [], \"sub\": [{\"sub\": \"…\", \"issued-before\": 0}], \"kid\": [], \"issuer\": []}`";
/// Some ten thousand token ids, or as many subjects.
const MAX_BYTES: usize = 1024 * 1024;
