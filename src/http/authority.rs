//! Host and port of a request, as `Host`, `:authority` and the absolute form of a target write them (RFC 9110 §7.2).
//!
//! Stricter than the generic syntax: no user, no percent-encoding, no empty host and no empty port. What names a gate is
//! a DNS name or an address, and text that two programs may read differently is no name (hardening C5, C16).

use std::net::Ipv6Addr;

/// A host and its port; compared without regard to case.
#[derive(Debug, Clone, Copy)]
pub struct Authority<'a> {
    host: &'a [u8],
    port: u16,
}

impl<'a> Authority<'a> {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`; `None` for anything else.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let host_end = match text.first()? {
            b'[' => memchr::memchr(b']', text)? + 1,
            _ => memchr::memchr(b':', text).unwrap_or(text.len()),
        };
        let (host, rest) = text.split_at_checked(host_end)?;
        let port = match rest.split_first() {
            None => HTTPS,
            Some((b':', digits)) => port(digits)?,
            Some(_) => return None,
        };
        is_host(host).then_some(Self { host, port })
    }

    /// The host, as it was written.
    pub fn host(&self) -> &'a [u8] {
        self.host
    }
}

impl PartialEq for Authority<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.port == other.port && self.host.eq_ignore_ascii_case(other.host)
    }
}

impl Eq for Authority<'_> {}

fn is_host(host: &[u8]) -> bool {
    if let Some(inner) = host.strip_prefix(b"[").and_then(|inner| inner.strip_suffix(b"]")) {
        // Zones are for the machine that has the interface (RFC 6874), so an address with one does not parse.
        return std::str::from_utf8(inner).is_ok_and(|inner| inner.parse::<Ipv6Addr>().is_ok());
    }
    let name = host.strip_suffix(b".").unwrap_or(host);
    let mut label = 0;
    for b in name {
        match b {
            // Underscores are no host names, but names in use have them.
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => label += 1,
            b'.' if label > 0 => label = 0,
            _ => return false,
        }
    }
    label > 0 && host.len() <= MAX_HOST_BYTES
}

fn port(digits: &[u8]) -> Option<u16> {
    // `parse` alone would take a sign.
    let plain = !digits.is_empty() && digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit);
    let port = plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok())?;
    port.filter(|port| *port != 0)
}

/// What `https` means without a port.
const HTTPS: u16 = 443;
/// Longest DNS name with its last dot (RFC 1035 §2.3.4), in bytes.
const MAX_HOST_BYTES: usize = 254;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c16_an_authority_is_a_name_or_an_address_and_a_port() {
        for good in [
            "localhost",
            "a.example",
            "a.example.",
            "A.Example:8443",
            "127.0.0.1:1",
            "[::1]",
            "[2001:db8::1]:65535",
            "under_score.example",
        ] {
            assert!(Authority::parse(good.as_bytes()).is_some(), "{good}");
        }
        for bad in [
            "",
            ".",
            ":443",
            "a..b",
            ".a",
            "a:",
            "a:0",
            "a:65536",
            "a:+80",
            "a:80:80",
            "a:080000",
            "user@a",
            "a/b",
            "a b",
            "a,b",
            "a%2eb",
            "[::1",
            "[::1]x",
            "[::1%25eth0]",
            "[]",
            "::1",
            "h\u{e9}",
            "a\tb",
            "a#b",
            "a?b",
            "a\\b",
        ] {
            assert!(Authority::parse(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(Authority::parse("a".repeat(255).as_bytes()).is_none());
    }

    #[test]
    fn c05_authorities_agree_by_host_and_effective_port() {
        let same = |a: &str, b: &str| {
            Authority::parse(a.as_bytes()).unwrap() == Authority::parse(b.as_bytes()).unwrap()
        };
        assert!(same("Gate.Example", "gate.example:443"));
        assert!(!same("gate.example", "gate.example:80"));
        assert!(!same("gate.example", "gate.example."));
        assert!(!same("gate.example", "other.example"));
    }
}
