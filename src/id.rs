//! Names: parsed once, at the edge, and never again.
//!
//! A tenant's or function's name is also a folder name, a path segment of a URL and part of a Cedar id, so its
//! alphabet is the intersection of what is plain text in all of them: `[a-z0-9]([a-z0-9-]{0,62})`.

use std::{fmt, str::FromStr, sync::Arc};

/// Longest name of a tenant or function, in bytes: what a DNS label holds.
const MAX_NAME_BYTES: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a name is 1 to 63 of a-z, 0-9 and `-`, and does not begin with `-`")]
pub struct NameError;

fn parse_name(text: &str) -> Result<Arc<str>, NameError> {
    let bytes = text.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let starts_plain = bytes.first().is_some_and(plain);
    if starts_plain && bytes.len() <= MAX_NAME_BYTES && bytes.iter().all(|b| plain(b) || *b == b'-') {
        Ok(text.into())
    } else {
        Err(NameError)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                parse_name(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        // A map keyed by names is asked with the segment of a request path, without an allocation.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// Name of a tenant: its folder under `policies/` and `functions/`, and the first segment of its URLs.
    TenantName
);
name!(
    /// Name of a function within its tenant: its folder under `functions/<tenant>/`.
    FunctionName
);

/// A function's full name, `acme/invoice`: also its Cedar id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionId {
    /// The owner.
    pub tenant: TenantName,
    /// The name within the tenant.
    pub function: FunctionName,
}

impl fmt::Display for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.function)
    }
}

impl FromStr for FunctionId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (tenant, function) = text.split_once('/').ok_or(NameError)?;
        Ok(Self { tenant: tenant.parse()?, function: function.parse()? })
    }
}

impl serde::Serialize for FunctionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for FunctionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names one request in its reply, its record and the log: 128 bits, the first 48 of them Unix milliseconds, so
/// that ids sort by time (the layout of UUID version 7, RFC 9562 §5.7). Tells nothing and grants nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u128);

impl RequestId {
    /// An id for a request that arrived at `unix_ms`, with `entropy` for its other 80 bits.
    pub fn new(unix_ms: u64, entropy: u128) -> Self {
        let time = u128::from(unix_ms & 0xffff_ffff_ffff) << 80;
        let version = 0x7_u128 << 76;
        let variant = 0x2_u128 << 62;
        let random = entropy & !((0xffff_ffff_ffff_u128 << 80) | (0xf << 76) | (0x3 << 62));
        Self(time | version | variant | random)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0;
        let (a, b, c, d) = (v >> 96, (v >> 80) & 0xffff, (v >> 64) & 0xffff, (v >> 48) & 0xffff);
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{:012x}", v & 0xffff_ffff_ffff)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a request id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a request id looks like `0190b6d5-7c1a-7c00-9000-0123456789ab`")]
pub struct RequestIdError;

impl FromStr for RequestId {
    type Err = RequestIdError;

    fn from_str(text: &str) -> Result<Self, RequestIdError> {
        let dashed = text.len() == 36
            && text.bytes().enumerate().all(|(at, b)| match at {
                8 | 13 | 18 | 23 => b == b'-',
                _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
            });
        if !dashed {
            return Err(RequestIdError);
        }
        u128::from_str_radix(&text.replace('-', ""), 16).map(Self).map_err(|_| RequestIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["a", "acme", "a-b", "0", &"x".repeat(63)] {
            assert!(good.parse::<TenantName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a_b", "a/b", "a.b", "é", "a b", "a%2f", &"x".repeat(64)] {
            assert!(bad.parse::<TenantName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_id_is_a_uuid_of_version_7_and_reads_back() {
        let id = RequestId::new(0x0190_b6d5_7c1a, u128::MAX);
        assert_eq!(id.to_string(), "0190b6d5-7c1a-7fff-bfff-ffffffffffff");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("0190B6D5-7c1a-7fff-bfff-ffffffffffff".parse::<RequestId>(), Err(RequestIdError));
    }
}
