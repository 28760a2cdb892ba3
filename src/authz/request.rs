//! What is asked of Cedar at the door in: who, `invoke`, which function, and under which circumstances.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cedar_policy::{Context, EntityUid, Request, RestrictedExpression};
use jiff::{Timestamp, tz::Offset};
use quick_cache::sync::Cache;

use super::{platform::Platform, vocabulary::chain};

/// The fields of the schema's `Request`, for whoever names what a slice reads.
pub(super) const CONTEXT_FIELDS: [&str; 9] =
    ["method", "path", "tls", "client", "now", "via", "authenticatedAt", "binding", "bytes"];

/// Why a request could not be put to Cedar; never for what the schema's own rehearsal passed.
///
/// What is wrong is for the operator who loads a schema; it quotes the request, so `Display` leaves it out.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the request does not conform to the schema")]
pub struct RequestError {
    /// Cedar's words.
    pub(super) detail: String,
}

/// The circumstances of a request: all from the connection, the request line, the verified token and the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestFacts<'a> {
    /// `POST`.
    pub method: &'a str,
    /// As received, still percent-encoded.
    pub path: &'a str,
    /// `1.3` or `1.2`.
    pub tls: &'a str,
    /// The peer.
    pub client: IpAddr,
    /// When the request arrived. Policies see it to the second.
    pub now: SystemTime,
    /// When the caller last proved who it is (`auth_time`), if its issuer says.
    pub authenticated_at: Option<SystemTime>,
    /// How the token is bound to its sender: `none`, `mtls`, `dpop`.
    pub binding: &'a str,
    /// Declared length of the body.
    pub bytes: Option<u64>,
}

impl RequestFacts<'static> {
    /// With every optional field: what a schema must take.
    pub(super) const FULLEST: Self = Self {
        method: "POST",
        path: "/probe/probe",
        tls: "1.3",
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        now: UNIX_EPOCH,
        authenticated_at: Some(UNIX_EPOCH),
        binding: "none",
        bytes: Some(1),
    };
    /// With none.
    pub(super) const BAREST: Self = Self { authenticated_at: None, bytes: None, ..Self::FULLEST };
}

/// Expressions that many requests share. Cedar parses the name of its constructor each time one of `datetime` or `ip` is
/// made, which costs more than all the rest of a request; clones are cheap.
pub(super) struct Constants {
    nothing: RestrictedExpression,
    tls_13: RestrictedExpression,
    unbound: RestrictedExpression,
    /// By seconds of Unix time.
    instants: Cache<u64, RestrictedExpression>,
    peers: Cache<IpAddr, RestrictedExpression>,
}

impl Constants {
    pub(super) fn new() -> Self {
        Self {
            nothing: RestrictedExpression::new_set([]),
            tls_13: RestrictedExpression::new_string("1.3".to_owned()),
            unbound: RestrictedExpression::new_string("none".to_owned()),
            instants: Cache::new(MAX_SHARED),
            peers: Cache::new(MAX_SHARED),
        }
    }

    /// `datetime("2026-01-31T12:00:00Z")`, to the second: `auth_time` is no finer, and one text serves all requests of a
    /// second.
    fn instant(&self, time: SystemTime) -> Result<RestrictedExpression, RequestError> {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        if let Some(shared) = self.instants.get(&seconds) {
            return Ok(shared);
        }
        let made = RestrictedExpression::new_datetime(instant(seconds)?);
        self.instants.insert(seconds, made.clone());
        Ok(made)
    }

    /// An IPv4 peer of a dual-stack socket is written as IPv4, or no rule about `10.0.0.0/8` would see it.
    fn peer(&self, client: IpAddr) -> RestrictedExpression {
        let client = client.to_canonical();
        if let Some(shared) = self.peers.get(&client) {
            return shared;
        }
        let made = RestrictedExpression::new_ip(client.to_string());
        self.peers.insert(client, made.clone());
        made
    }
}

/// Builds the request and has the schema judge it.
pub(super) fn build(
    platform: &Platform,
    principal: &EntityUid,
    resource: &EntityUid,
    facts: &RequestFacts<'_>,
) -> Result<Request, RequestError> {
    let constants = &platform.constants;
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let required = [
        ("method".to_owned(), text(facts.method)),
        ("path".to_owned(), text(facts.path)),
        ("tls".to_owned(), if facts.tls == "1.3" { constants.tls_13.clone() } else { text(facts.tls) }),
        ("client".to_owned(), constants.peer(facts.client)),
        ("now".to_owned(), constants.instant(facts.now)?),
        ("via".to_owned(), constants.nothing.clone()),
        (
            "binding".to_owned(),
            if facts.binding == "none" { constants.unbound.clone() } else { text(facts.binding) },
        ),
    ];
    let authenticated_at = facts.authenticated_at.map(|at| constants.instant(at)).transpose()?;
    let bytes = facts.bytes.map(|n| RestrictedExpression::new_long(i64::try_from(n).unwrap_or(i64::MAX)));
    let optional = [("authenticatedAt", authenticated_at), ("bytes", bytes)];
    let given = optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let context = Context::from_pairs(required.into_iter().chain(given))
        .map_err(|error| RequestError { detail: chain(&error) })?;
    let schema = platform.validator.schema();
    Request::new(principal.clone(), platform.names.invoke.clone(), resource.clone(), context, Some(schema))
        .map_err(|error| RequestError { detail: chain(&error) })
}

/// `2026-01-31T12:00:00Z`.
fn instant(seconds: u64) -> Result<String, RequestError> {
    let out_of_range = || RequestError { detail: "a time is out of range".to_owned() };
    let seconds = i64::try_from(seconds).map_err(|_| out_of_range())?;
    let at = Offset::UTC.to_datetime(Timestamp::from_second(seconds).map_err(|_| out_of_range())?);
    let (year, month, day) = (at.year(), at.month(), at.day());
    let (hour, minute, second) = (at.hour(), at.minute(), at.second());
    Ok(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

/// Most instants and most peers whose expressions are shared: about 300 bytes each (invariant **Bounded**).
const MAX_SHARED: usize = 4_096;
