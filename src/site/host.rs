//! A tenant's own host name, `api.acme.example`: parsed once, and from then on compared byte by byte.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, de::Error as _};

/// A DNS name in its one spelling: lower case, international labels as `xn--`, at least two of them, no dot at the end.
///
/// Invariant: no IP address (its last label holds a letter) and no wildcard: what serves one tenant is named, not matched.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

/// Why a text is no host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a host is a DNS name in lower case, such as `api.acme.example`: no wildcard, no address, no port, no dot at its end"
)]
pub struct HostNameError;

impl HostName {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its certificate chain, under `certs/` of the site.
    pub fn certificate_file(&self) -> String {
        format!("{}.pem", self.0)
    }

    /// Its private key, under `certs/` of the site.
    pub fn key_file(&self) -> String {
        format!("{}.key", self.0)
    }
}

impl FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, HostNameError> {
        let is_label = |label: &str| {
            (1..=MAX_LABEL_BYTES).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let (_, last) = text.rsplit_once('.').ok_or(HostNameError)?;
        // What ends in digits alone, some programs read as an IPv4 address (WHATWG URL, "ends in a number").
        let sound = text.len() <= MAX_NAME_BYTES
            && text.split('.').all(is_label)
            && last.bytes().any(|b| b.is_ascii_lowercase());
        // `0x7f` is such a number too.
        let number = last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
        if sound && !number { Ok(Self(text.into())) } else { Err(HostNameError) }
    }
}

impl<'de> Deserialize<'de> for HostName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

// A map of hosts is asked with the text of a hello or a head, without an allocation.
impl Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// RFC 1035 §2.3.4, without the last dot.
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_plain_dns_name() {
        for good in
            ["a.b", "api.acme.example", "xn--bcher-kva.example", "1.2.3.example", "a-b.localhost", "x.0xg"]
        {
            let host: HostName = good.parse().unwrap();
            assert_eq!((host.as_str(), host.key_file()), (good, format!("{good}.key")));
        }
        let label = format!("{}.example", "a".repeat(64));
        let name = format!("{}example", "a.".repeat(124));
        for bad in [
            "",
            "localhost",
            ".",
            "a..b",
            ".a.b",
            "a.b.",
            "*.acme.example",
            "API.acme.example",
            "api.acme.example:443",
            "192.0.2.1",
            "a.0x7f",
            "[2001:db8::1]",
            "-a.example",
            "a-.example",
            "under_score.example",
            "b\u{fc}cher.example",
            "a.b/../c",
            " a.b",
            &label,
            &name,
        ] {
            assert_eq!(bad.parse::<HostName>(), Err(HostNameError), "{bad}");
        }
    }
}
