//! By which name a request came: what its connection was opened for, and what its head says, must agree.
//!
//! A connection that was opened for one host proves that host's certificate to its client, and carries what that host asks
//! of clients; a head that names another host would have it judged by the wrong one (RFC 9110 §7.4, hardening B5). HTTP/2
//! clients may send requests for several names on one connection (RFC 9113 §9.1.1): those of others are told to open one
//! of their own by 421 (RFC 9110 §15.5.20).

use std::sync::Arc;

use http::{header, request::Parts};

use super::{Peer, authority::Authority};
use crate::{pipeline::Revision, tls::Host};

/// Why a request is on the wrong connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misdirected {
    #[error("the connection was opened for another name than the request is for")]
    AnotherName,
    #[error("the request is for a tenant's host, and its connection was opened for no name")]
    NoName,
    #[error("what the connection was opened for has changed since")]
    Changed,
}

/// The tenant's host that a request is for; `None` where its path names the tenant.
pub(super) fn host<'r>(
    peer: &Peer,
    revision: &'r Revision,
    parts: &Parts,
) -> Result<Option<&'r Arc<Host>>, Misdirected> {
    let named = authority(parts).map(|authority| without_dot(authority.host()));
    if let Some(name) = &peer.server_name
        && !named.is_some_and(|named| named.eq_ignore_ascii_case(without_dot(name.as_bytes())))
    {
        return Err(Misdirected::AnotherName);
    }
    let now = named.and_then(|named| find(revision, named));
    match (&peer.host, now) {
        (None, None) => Ok(None),
        (Some(greeted), Some(now)) if now.admits_like(greeted) => Ok(Some(now)),
        (None, Some(_)) if peer.server_name.is_none() => Err(Misdirected::NoName),
        // A host came or went, changed its tenant, or judges its clients otherwise.
        _ => Err(Misdirected::Changed),
    }
}

/// The tenant's host of that name, however it is written.
fn find<'r>(revision: &'r Revision, name: &[u8]) -> Option<&'r Arc<Host>> {
    let name = std::str::from_utf8(name).ok()?;
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return revision.host(&name.to_ascii_lowercase());
    }
    revision.host(name)
}

/// Whom the head names: its parts were found to agree (hardening C5).
fn authority(parts: &Parts) -> Option<Authority<'_>> {
    match (parts.uri.authority(), parts.headers.get(header::HOST)) {
        (Some(authority), _) => Authority::parse(authority.as_str().as_bytes()),
        (None, Some(host)) => Authority::parse(host.as_bytes()),
        (None, None) => None,
    }
}

/// A name with its last dot is the same name (RFC 1034 §3.1); hellos never have one (RFC 6066 §3).
fn without_dot(name: &[u8]) -> &[u8] {
    name.strip_suffix(b".").unwrap_or(name)
}
