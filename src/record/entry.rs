//! What one invocation leaves behind: plain data that the pipeline fills and the chain carries.
//!
//! The serialised names are the same in logs and metrics. A token, a secret or a value of the event has no field
//! here, so none can be written.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::SystemTime};

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{time::Rfc3339, trace::TraceId};
use crate::id::{FunctionName, RequestId, TenantName};

/// One invocation, allowed or not, of a caller who proved who they are.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// The id that the reply bears.
    #[serde(serialize_with = "displayed")]
    pub request_id: RequestId,
    /// The trace that its spans are in, if it is traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<TraceId>,
    /// When the request arrived.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// The revision that decided.
    #[serde(serialize_with = "text")]
    pub revision: Arc<str>,
    /// The tenant; the chain writes it ahead of the other fields.
    #[serde(skip)]
    pub tenant: TenantName,
    /// The function that was asked for; the site need not have it.
    pub function: FunctionName,
    /// Who asked.
    pub caller: CallerEntry,
    /// Context fields that the function's slice reads.
    #[serde(serialize_with = "pairs", skip_serializing_if = "Vec::is_empty")]
    pub context: Pairs,
    /// Functions through which the call came, outermost first.
    #[serde(serialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<Arc<str>>,
    /// The stage that answered.
    pub stage: Stage,
    /// The decision at the door in, if it came to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionEntry>,
    /// Authority asked for at the door out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<GrantEntry>,
    /// Strings of the event that look like attacks: where, never what.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<SignalEntry>,
    /// Limits that the invocation met.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitHit>,
    /// CPU time of the guest, in microseconds.
    pub cpu_us: u64,
    /// Time from arrival to reply, in microseconds.
    pub wall_us: u64,
    /// Largest sum of the guest's memories and tables, in bytes.
    pub peak_memory: u64,
    /// Bytes of the event as received.
    pub bytes_in: u64,
    /// Bytes of the reply's body.
    pub bytes_out: u64,
    /// Whether the component was loaded already; `None` if no instance was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// The worker process that it ran in, if its tenant is isolated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<u32>,
    /// What the caller got.
    pub outcome: Outcome,
}

/// Names and values, in the order given.
pub type Pairs = Vec<(Arc<str>, Arc<str>)>;

/// A caller, as far as a record may know one.
#[derive(Debug, Clone, Serialize)]
pub struct CallerEntry {
    /// `acme/alice` or `acme/partners/alice`.
    #[serde(serialize_with = "text")]
    pub id: Arc<str>,
    /// Full ids of roles.
    #[serde(serialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Arc<str>>,
    /// Scopes of the token.
    #[serde(serialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Arc<str>>,
    /// Tags that the function's slice reads; those under `redact` as keyed hashes ([`super::Redactor`]).
    #[serde(serialize_with = "pairs", skip_serializing_if = "Vec::is_empty")]
    pub tags: Pairs,
}

/// How far a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Finding tenant and function.
    Route,
    /// Who asks.
    Authenticate,
    /// Who may.
    Authorize,
    /// Reading, sanitizing and validating the event.
    Validate,
    /// The sandbox.
    Run,
    /// Checking and sending the reply.
    Reply,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 6] =
        [Self::Route, Self::Authenticate, Self::Authorize, Self::Validate, Self::Run, Self::Reply];

    /// The name in records, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Authenticate => "authenticate",
            Self::Authorize => "authorize",
            Self::Validate => "validate",
            Self::Run => "run",
            Self::Reply => "reply",
        }
    }
}

/// What policy said at the door in.
#[derive(Debug, Clone, Serialize)]
pub struct DecisionEntry {
    /// Allow or deny.
    pub allowed: bool,
    /// Ids of the policies that determined it.
    #[serde(serialize_with = "texts")]
    pub policies: Vec<Arc<str>>,
    /// Policies that failed to evaluate, with the reason: any of them means deny.
    #[serde(serialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Arc<str>>,
}

/// Authority that an invocation asked for at the door out.
#[derive(Debug, Clone, Serialize)]
pub struct GrantEntry {
    /// Such as `kv:read`.
    pub action: &'static str,
    /// Such as `acme/orders`.
    #[serde(serialize_with = "text")]
    pub resource: Arc<str>,
    /// Whether it was granted.
    pub allowed: bool,
    /// How often it was used, or refused.
    pub times: u64,
}

/// A string of the event that looks like an attack.
#[derive(Debug, Clone, Serialize)]
pub struct SignalEntry {
    /// JSON pointer into the body, or `?name` for a parameter of the query.
    #[serde(serialize_with = "text")]
    pub pointer: Arc<str>,
    /// `sql` or `script`.
    pub kind: &'static str,
}

/// A limit that an invocation met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LimitHit {
    /// Such as `cpu` or `response`.
    pub name: &'static str,
    /// In the unit of the limit: bytes, milliseconds or a count.
    pub value: u64,
    /// Whose value held.
    pub set_by: SetBy,
}

/// Whose limit was the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SetBy {
    /// sandgate.toml or the built-in ceiling.
    Platform,
    /// tenant.toml.
    Tenant,
    /// function.toml.
    Function,
}

/// Whether the component was loaded when it was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// It was loaded for this call.
    Cold,
    /// It was there.
    Warm,
}

/// What the caller got, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Status of the reply.
    pub status: u16,
    /// The public code, such as `forbidden`; `ok` for a function's reply.
    pub code: &'static str,
    /// For the operator only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `@code` annotations of the policies that denied.
    #[serde(serialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub policy_codes: Vec<Arc<str>>,
}

impl Outcome {
    /// A function's own reply.
    pub fn ok(status: u16) -> Self {
        Self { status, code: "ok", reason: None, policy_codes: Vec::new() }
    }

    /// A refusal, with its reason for the operator.
    pub fn refused(status: u16, code: &'static str, reason: impl Into<String>) -> Self {
        Self { status, code, reason: Some(reason.into()), policy_codes: Vec::new() }
    }
}

/// A request that was refused before anybody proved who they are.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The id that the reply bears.
    pub request_id: RequestId,
    /// The trace that its spans are in, if it is traced.
    pub trace_id: Option<TraceId>,
    /// When the request arrived.
    pub time: SystemTime,
    /// The peer; counted by its /24 or /48.
    pub client: IpAddr,
    /// Status of the reply.
    pub status: u16,
    /// The public code, such as `unauthenticated`.
    pub code: &'static str,
    /// The step that refused, such as `expired`: a word of ours, so that there are few.
    pub reason: &'static str,
    /// More for the operator.
    pub detail: Option<String>,
    /// The tenant that was addressed, only if the site has it.
    pub tenant: Option<TenantName>,
    /// The stage that refused.
    pub stage: Stage,
}

/// The fields of a line between its place in the chain and its hash, without the outer braces.
pub(super) type Body = Vec<u8>;

impl Record {
    /// Serialised on the task of the request, so that the writer only splices.
    pub(super) fn body(mut self) -> Body {
        if let Some(reason) = &mut self.outcome.reason {
            clip(reason);
        }
        let body = body_of("invocation", &self);
        if body.len() <= MAX_BODY_BYTES {
            return body;
        }
        self.shorten();
        body_of("invocation", &Shortened { shortened: true, record: self })
    }

    /// INVARIANT (Bounded): what a caller or a policy author can grow is dropped from a record that would be too
    /// long. Names and numbers stay, and `shortened` says what happened.
    fn shorten(&mut self) {
        self.context.clear();
        self.caller.tags.clear();
        self.caller.roles.truncate(SHORTENED_ITEMS);
        self.caller.scopes.truncate(SHORTENED_ITEMS);
        self.via.truncate(SHORTENED_ITEMS);
        self.grants.truncate(SHORTENED_ITEMS);
        self.signals.truncate(SHORTENED_ITEMS);
        self.outcome.policy_codes.truncate(SHORTENED_ITEMS);
        let lists =
            [&mut self.caller.roles, &mut self.caller.scopes, &mut self.via, &mut self.outcome.policy_codes];
        lists.into_iter().flatten().for_each(clip_shared);
        if let Some(decision) = &mut self.decision {
            decision.policies.truncate(SHORTENED_ITEMS);
            decision.errors.truncate(SHORTENED_ITEMS);
            decision.policies.iter_mut().chain(&mut decision.errors).for_each(clip_shared);
        }
        self.grants.iter_mut().for_each(|grant| clip_shared(&mut grant.resource));
        self.signals.iter_mut().for_each(|signal| clip_shared(&mut signal.pointer));
        clip_shared(&mut self.caller.id);
    }
}

#[derive(Serialize)]
struct Shortened {
    shortened: bool,
    #[serde(flatten)]
    record: Record,
}

impl Refusal {
    pub(super) fn body(&self) -> Body {
        #[derive(Serialize)]
        struct Written<'a> {
            #[serde(serialize_with = "displayed")]
            request_id: RequestId,
            #[serde(skip_serializing_if = "Option::is_none")]
            trace_id: Option<TraceId>,
            #[serde(serialize_with = "rfc3339")]
            time: SystemTime,
            #[serde(skip_serializing_if = "Option::is_none")]
            tenant: Option<&'a TenantName>,
            client: IpAddr,
            stage: Stage,
            outcome: RefusedOutcome<'a>,
        }
        #[derive(Serialize)]
        struct RefusedOutcome<'a> {
            status: u16,
            code: &'static str,
            reason: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            detail: Option<&'a str>,
        }
        body_of(
            "refused",
            &Written {
                request_id: self.request_id,
                trace_id: self.trace_id,
                time: self.time,
                tenant: self.tenant.as_ref(),
                client: self.client,
                stage: self.stage,
                outcome: RefusedOutcome {
                    status: self.status,
                    code: self.code,
                    reason: self.reason,
                    detail: self.detail.as_deref().map(|detail| clipped(detail, MAX_TEXT_BYTES)),
                },
            },
        )
    }
}

/// A line's fields: its kind, then those of `fields`, which serialises as a map.
pub(super) fn body_of(kind: &'static str, fields: &impl Serialize) -> Body {
    let mut body = Vec::with_capacity(USUAL_BODY_BYTES);
    body.extend_from_slice(b"\"kind\":\"");
    body.extend_from_slice(kind.as_bytes());
    body.push(b'"');
    let before = body.len();
    // The maps above have text keys and no fallible parts; if one ever fails, the kind alone is still a line.
    if serde_json::to_writer(&mut body, fields).is_err() {
        body.truncate(before);
        return body;
    }
    match body.get_mut(before) {
        Some(brace) if *brace == b'{' => *brace = b',',
        _ => body.truncate(before),
    }
    body.pop();
    if body.last() == Some(&b',') {
        body.pop();
    }
    body
}

pub(super) fn clipped(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

fn clip(text: &mut String) {
    text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
}

fn clip_shared(text: &mut Arc<str>) {
    if text.len() > SHORTENED_TEXT_BYTES {
        *text = clipped(text, SHORTENED_TEXT_BYTES).into();
    }
}

pub(super) fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Rfc3339(*time))
}

fn displayed<S: Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn texts<S: Serializer>(texts: &[Arc<str>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(texts.iter().map(|text| &**text))
}

fn pairs<S: Serializer>(pairs: &[(Arc<str>, Arc<str>)], serializer: S) -> Result<S::Ok, S::Error> {
    let unique: BTreeMap<&str, &str> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
    let mut map = serializer.serialize_map(Some(unique.len()))?;
    for (name, value) in unique {
        map.serialize_entry(name, value)?;
    }
    map.end()
}

/// What most records need, so that one allocation does.
const USUAL_BODY_BYTES: usize = 1024;
/// Longest body; a record is shortened to stay below it.
pub(super) const MAX_BODY_BYTES: usize = 32 << 10;
/// Longest free text in a record.
const MAX_TEXT_BYTES: usize = 1024;
/// Longest text, and most items in a list, of a shortened record: seven lists stay well below the bound.
const SHORTENED_TEXT_BYTES: usize = 256;
const SHORTENED_ITEMS: usize = 12;

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub(in crate::record) fn record(tenant: &str, n: u64) -> Record {
        Record {
            request_id: RequestId::new(1_760_000_000_000 + n, u128::from(n)),
            trace_id: None,
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_760_000_000_000 + n),
            revision: "r-1".into(),
            tenant: tenant.parse().unwrap(),
            function: "invoice".parse().unwrap(),
            caller: CallerEntry {
                id: format!("{tenant}/alice").into(),
                roles: vec![format!("{tenant}/billing").into()],
                scopes: vec!["invoices:write".into()],
                tags: vec![("department".into(), "sales".into())],
            },
            context: vec![("tls".into(), "1.3".into())],
            via: vec![],
            stage: Stage::Reply,
            decision: Some(DecisionEntry {
                allowed: true,
                policies: vec![format!("{tenant}/billing-may-invoice").into()],
                errors: vec![],
            }),
            grants: vec![],
            signals: vec![],
            limits: vec![],
            cpu_us: 120,
            wall_us: 340,
            peak_memory: 65_536,
            bytes_in: 300,
            bytes_out: 210,
            start: Some(Start::Warm),
            worker: None,
            outcome: Outcome::ok(200),
        }
    }

    fn object(body: &[u8]) -> serde_json::Value {
        serde_json::from_slice(&[b"{".as_slice(), body, b"}"].concat()).unwrap()
    }

    #[test]
    fn a_record_keeps_its_field_names() {
        let mut record = record("acme", 1);
        record.stage = Stage::Run;
        record.limits = vec![LimitHit { name: "cpu", value: 50, set_by: SetBy::Function }];
        record.grants =
            vec![GrantEntry { action: "kv:read", resource: "acme/orders".into(), allowed: true, times: 2 }];
        record.outcome = Outcome::refused(504, "function_timeout", "out of cpu time");
        insta::assert_snapshot!(
            String::from_utf8(record.body()).unwrap(),
            @r#""kind":"invocation","request_id":"0199c82c-c001-7000-8000-000000000001","time":"2025-10-09T08:53:20.001Z","revision":"r-1","function":"invoice","caller":{"id":"acme/alice","roles":["acme/billing"],"scopes":["invoices:write"],"tags":{"department":"sales"}},"context":{"tls":"1.3"},"stage":"run","decision":{"allowed":true,"policies":["acme/billing-may-invoice"]},"grants":[{"action":"kv:read","resource":"acme/orders","allowed":true,"times":2}],"limits":[{"name":"cpu","value":50,"set_by":"function"}],"cpu_us":120,"wall_us":340,"peak_memory":65536,"bytes_in":300,"bytes_out":210,"start":"warm","outcome":{"status":504,"code":"function_timeout","reason":"out of cpu time"}"#
        );
    }

    #[test]
    fn a_record_that_would_be_too_long_is_shortened_and_says_so() {
        let mut record = record("acme", 1);
        let long: Arc<str> = "\u{1}x".repeat(4000).into();
        record.caller.roles = vec![long.clone(); 900];
        record.caller.scopes = vec![long.clone(); 900];
        record.caller.tags = vec![(long.clone(), long.clone())];
        record.caller.id = long.clone();
        record.outcome.reason = Some(long.to_string());
        record.outcome.policy_codes = vec![long.clone(); 900];
        record.decision = Some(DecisionEntry {
            allowed: false,
            policies: vec![long.clone(); 900],
            errors: vec![long; 900],
        });
        let body = record.body();
        assert!(body.len() <= MAX_BODY_BYTES * 2, "{}", body.len());
        let value = object(&body);
        assert_eq!(value["shortened"], true);
        assert_eq!(value["caller"]["roles"].as_array().unwrap().len(), SHORTENED_ITEMS);
        assert_eq!(value["outcome"]["status"], 200);
    }

    #[test]
    fn a_refusal_has_no_field_for_what_the_client_sent() {
        let refusal = Refusal {
            request_id: RequestId::new(1, 2),
            trace_id: None,
            time: SystemTime::UNIX_EPOCH,
            client: "192.0.2.1".parse().unwrap(),
            status: 401,
            code: "unauthenticated",
            reason: "expired",
            detail: None,
            tenant: Some("acme".parse().unwrap()),
            stage: Stage::Authenticate,
        };
        insta::assert_snapshot!(
            String::from_utf8(refusal.body()).unwrap(),
            @r#""kind":"refused","request_id":"00000000-0001-7000-8000-000000000002","time":"1970-01-01T00:00:00.000Z","tenant":"acme","client":"192.0.2.1","stage":"authenticate","outcome":{"status":401,"code":"unauthenticated","reason":"expired"}"#
        );
    }
}
