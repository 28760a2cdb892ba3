//! Where callers find the data plane, as they write it: `https://gate.example`.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::host::HostName;

/// An https origin in its one spelling (RFC 6454 §6.2): lower case, international names as `xn--`, no default port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

/// Why a text is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an origin is `https://`, a host in lower case and perhaps a port other than 443, such as `https://gate.example`"
)]
pub struct OriginError;

impl Origin {
    /// What `sandgate dev` on this port is called on its own machine.
    pub fn local(port: u16) -> Self {
        Self(if port == 443 { "https://localhost".to_owned() } else { format!("https://localhost:{port}") })
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Host, and port unless it is 443.
    pub fn authority(&self) -> &str {
        self.0.strip_prefix(SCHEME).unwrap_or_default()
    }

    /// Host without its port.
    pub fn host(&self) -> &str {
        let authority = self.authority();
        match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => host,
            _ => authority,
        }
    }

    /// A tenant's host as callers of it find the data plane: behind the same port.
    #[must_use]
    pub fn at_host(&self, host: &HostName) -> Self {
        Self(format!("{SCHEME}{}", self.authority_at(host)))
    }

    /// The authority of a tenant's host behind the same port.
    pub fn authority_at<'a>(&self, host: &'a HostName) -> Cow<'a, str> {
        match self.authority().get(self.host().len()..).unwrap_or_default() {
            "" => Cow::Borrowed(host.as_str()),
            port => Cow::Owned(format!("{host}{port}")),
        }
    }

    /// Whether the authority of a URL is this origin's. Case does not count, nor a default port that is written, or left
    /// empty (RFC 3986 §3.2.3, §6.2.2.1, §6.2.3).
    pub fn is_named_by(&self, authority: &str) -> bool {
        let ours = self.authority();
        let has_port = !ours.ends_with(']') && ours.contains(':');
        let host = match has_port {
            true => None,
            false => authority.strip_suffix(":443").or(authority.strip_suffix(':')),
        };
        host.unwrap_or(authority).eq_ignore_ascii_case(ours)
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    /// Takes what is spelt as browsers spell an origin, and nothing that would first have to be normalised.
    fn from_str(text: &str) -> Result<Self, OriginError> {
        let url = url::Url::parse(text).map_err(|_| OriginError)?;
        // A URL may have `*` in its host; a place has not.
        if text.starts_with(SCHEME) && !text.contains('*') && url.origin().ascii_serialization() == text {
            Ok(Self(text.to_owned()))
        } else {
            Err(OriginError)
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

const SCHEME: &str = "https://";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_spell_an_origin_otherwise() {
        let plain: Origin = "https://gate.example".parse().unwrap();
        let ported: Origin = "https://gate.example:8443".parse().unwrap();
        let address: Origin = "https://[2001:db8::1]".parse().unwrap();
        for (origin, authority, named) in [
            (&plain, "gate.example", true),
            (&plain, "GATE.Example", true),
            (&plain, "gate.example:443", true),
            (&plain, "gate.example:", true),
            (&plain, "gate.example:0443", false),
            (&plain, "gate.example:8443", false),
            (&plain, "gate.example:443:443", false),
            (&plain, "gate.example.", false),
            (&plain, "user@gate.example", false),
            (&plain, "", false),
            (&ported, "gate.example:8443", true),
            (&ported, "gate.example", false),
            (&ported, "gate.example:8443:443", false),
            (&ported, "gate.example:8443:", false),
            (&address, "[2001:DB8::1]:443", true),
            (&address, "[2001:db8::1", false),
        ] {
            assert_eq!(origin.is_named_by(authority), named, "{origin} {authority}");
        }
    }

    #[test]
    fn an_origin_has_one_spelling() {
        for text in [
            "https://gate.example",
            "https://gate.example:8443",
            "https://192.0.2.1",
            "https://[2001:db8::1]:8443",
            "https://xn--bcher-kva.example",
        ] {
            let origin: Origin = text.parse().unwrap();
            assert_eq!((origin.as_str(), origin.authority()), (text, &text[8..]));
        }
        for text in [
            "",
            "gate.example",
            "http://gate.example",
            "https://",
            "https://gate.example/",
            "https://gate.example:443",
            "https://gate.example:",
            "https://gate.example:08443",
            "https://gate.example:65536",
            "https://GATE.example",
            "HTTPS://gate.example",
            "https://bücher.example",
            "https://gate.example/path",
            "https://gate.example?q",
            "https://gate.example#f",
            "https://user@gate.example",
            "https://user:secret@gate.example",
            " https://gate.example",
            "https://gate.example\n",
            "https://0x7f.1",
            "https://[2001:DB8::1]",
            "https://gate%2eexample",
        ] {
            assert_eq!(text.parse::<Origin>(), Err(OriginError), "{text}");
        }
        for (text, host, at_host) in [
            ("https://gate.example", "gate.example", "https://api.acme.example"),
            ("https://gate.example:8443", "gate.example", "https://api.acme.example:8443"),
            ("https://[2001:db8::1]", "[2001:db8::1]", "https://api.acme.example"),
            ("https://[2001:db8::1]:444", "[2001:db8::1]", "https://api.acme.example:444"),
        ] {
            let origin: Origin = text.parse().unwrap();
            assert_eq!(origin.host(), host);
            assert_eq!(origin.at_host(&"api.acme.example".parse().unwrap()).as_str(), at_host);
        }
        assert_eq!(Origin::local(8443).as_str(), "https://localhost:8443");
        assert_eq!(Origin::local(443), "https://localhost".parse().unwrap());
    }
}
