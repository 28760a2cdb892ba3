//! How lines hold together.
//!
//! A line is one JSON object: its place (`seq`, `prev` and, for a record of a tenant, `tenant` and `tenant_prev`),
//! its fields, and last its `hash`: SHA-256 of all the line's bytes before `,"hash":`. `prev` is the hash of the
//! line before, `tenant_prev` that of the tenant's line before; 64 zeros where there is none. So any line checks
//! against itself, against its neighbour, and a tenant's lines against each other without anybody else's.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    io::Write as _,
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::TenantName;

/// SHA-256, printed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Stands before the first line.
    pub const NONE: Self = Self([0; 32]);

    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        Self(digest.as_ref().try_into().unwrap_or_default())
    }

    fn hex(self) -> [u8; HEX_BYTES] {
        let mut hex = [0; HEX_BYTES];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            if let [high, low] = pair {
                *high = hex_digit(byte >> 4);
                *low = hex_digit(byte & 0xf);
            }
        }
        hex
    }
}

fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.hex()).unwrap_or_default())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 64 of 0-9 and a-f")]
pub struct HashError;

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        let nibble = |b: u8| match b {
            b'0'..=b'9' => Ok(b - b'0'),
            b'a'..=b'f' => Ok(b - b'a' + 10),
            _ => Err(HashError),
        };
        let mut bytes = [0; 32];
        if text.len() != HEX_BYTES {
            return Err(HashError);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let [high, low] = pair else { return Err(HashError) };
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The last line of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number; the first line is 1, and 0 means no line.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

impl Head {
    pub(super) const NONE: Self = Self { seq: 0, hash: Hash::NONE };
}

/// Where the chain ends, for everybody and for each tenant.
#[derive(Debug)]
pub(super) struct Chain {
    head: Head,
    tenants: HashMap<TenantName, Hash>,
    saved: Head,
    /// Heads of tenants before the lines since [`Chain::begin`], latest last.
    undo: Vec<(TenantName, Option<Hash>)>,
}

impl Chain {
    pub(super) fn new(head: Head, tenants: HashMap<TenantName, Hash>) -> Self {
        Self { head, tenants, saved: head, undo: Vec::new() }
    }

    pub(super) fn head(&self) -> Head {
        self.head
    }

    pub(super) fn tenants(&self) -> &HashMap<TenantName, Hash> {
        &self.tenants
    }

    /// Whether there is room for a record of this tenant.
    ///
    /// INVARIANT (Bounded): one head a tenant, and names of tenants come from the site. The bound holds even if the
    /// operator names ever new ones; the next new tenant is then refused, since a dropped head would break its chain.
    pub(super) fn admits(&self, tenant: Option<&TenantName>) -> bool {
        self.tenants.len() < MAX_TENANTS || tenant.is_none_or(|tenant| self.tenants.contains_key(tenant))
    }

    /// What is linked from here on can be taken back until the next `begin`.
    pub(super) fn begin(&mut self) {
        self.saved = self.head;
        self.undo.clear();
    }

    /// Takes back everything since [`Chain::begin`]: it was not written.
    pub(super) fn roll_back(&mut self) {
        self.head = self.saved;
        while let Some((tenant, before)) = self.undo.pop() {
            match before {
                Some(hash) => self.tenants.insert(tenant, hash),
                None => self.tenants.remove(&tenant),
            };
        }
    }

    /// Appends the next line to `out` and returns its number.
    pub(super) fn link(&mut self, tenant: Option<&TenantName>, body: &[u8], out: &mut Vec<u8>) -> u64 {
        let start = out.len();
        let seq = self.head.seq + 1;
        // Writing to a `Vec` cannot fail.
        let _ = write!(out, "{{\"seq\":{seq},\"prev\":\"");
        out.extend_from_slice(&self.head.hash.hex());
        if let Some(tenant) = tenant {
            let before = self.tenants.get(tenant).copied().unwrap_or(Hash::NONE);
            out.extend_from_slice(b"\",\"tenant\":\"");
            out.extend_from_slice(tenant.as_str().as_bytes());
            out.extend_from_slice(b"\",\"tenant_prev\":\"");
            out.extend_from_slice(&before.hex());
        }
        out.extend_from_slice(b"\",");
        out.extend_from_slice(body);
        let hash = Hash::of(out.get(start..).unwrap_or_default());
        out.extend_from_slice(HASH_OPEN);
        out.extend_from_slice(&hash.hex());
        out.extend_from_slice(HASH_CLOSE);
        out.push(b'\n');
        self.head = Head { seq, hash };
        if let Some(tenant) = tenant {
            let before = self.tenants.insert(tenant.clone(), hash);
            self.undo.push((tenant.clone(), before));
        }
        seq
    }
}

/// A line's place in the chain, and what verification reads of it.
#[derive(Debug, Deserialize)]
pub(super) struct Line {
    pub(super) seq: u64,
    pub(super) prev: Hash,
    pub(super) tenant: Option<TenantName>,
    pub(super) tenant_prev: Option<Hash>,
    pub(super) kind: String,
    pub(super) time: Option<String>,
    /// Of a `segment` line: every tenant's head before it.
    pub(super) heads: Option<BTreeMap<TenantName, Hash>>,
    /// Of a `tombstone` line.
    pub(super) removed: Option<Removed>,
    pub(super) hash: Hash,
}

/// What a tombstone stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Removed {
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    pub(super) last_hash: Hash,
    pub(super) segments: usize,
    pub(super) bytes: u64,
}

impl Line {
    /// Reads a line without its newline. The hash it states is `hash`; whether it is right is [`intact`]'s answer.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// The tenant in whose chain this line stands.
    pub(super) fn link_of_tenant(&self) -> Option<(&TenantName, Hash)> {
        self.tenant.as_ref().zip(self.tenant_prev)
    }
}

/// Whether a line, without its newline, bears its own hash.
pub(super) fn intact(line: &[u8]) -> bool {
    let suffix_bytes = HASH_OPEN.len() + HEX_BYTES + HASH_CLOSE.len();
    let Some((content, suffix)) =
        line.len().checked_sub(suffix_bytes).and_then(|content| line.split_at_checked(content))
    else {
        return false;
    };
    let hex = Hash::of(content).hex();
    suffix.strip_prefix(HASH_OPEN).and_then(|rest| rest.strip_suffix(HASH_CLOSE)) == Some(hex.as_slice())
}

const HEX_BYTES: usize = 64;
const HASH_OPEN: &[u8] = b",\"hash\":\"";
const HASH_CLOSE: &[u8] = b"\"}";
/// Tenants that one log knows: ten times the site that we measure, about 15 MiB of heads.
const MAX_TENANTS: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_bears_its_hash_and_names_those_before() {
        let mut chain = Chain::new(Head::NONE, HashMap::new());
        let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let mut out = Vec::new();
        chain.link(Some(&acme), b"\"kind\":\"invocation\"", &mut out);
        chain.link(Some(&globex), b"\"kind\":\"invocation\"", &mut out);
        chain.link(Some(&acme), b"\"kind\":\"invocation\"", &mut out);
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().map(|line| Line::parse(line.as_bytes()).unwrap()).collect();
        assert!(text.lines().all(|line| intact(line.as_bytes())));
        assert_eq!(lines[0].prev, Hash::NONE);
        assert_eq!(lines[1].prev, lines[0].hash);
        assert_eq!(lines[1].tenant_prev, Some(Hash::NONE));
        assert_eq!(lines[2].prev, lines[1].hash);
        assert_eq!(lines[2].tenant_prev, Some(lines[0].hash));
        assert_eq!(chain.head(), Head { seq: 3, hash: lines[2].hash });
    }

    #[test]
    fn what_was_not_written_is_taken_back() {
        let mut chain = Chain::new(Head::NONE, HashMap::new());
        let acme: TenantName = "acme".parse().unwrap();
        let mut out = Vec::new();
        chain.begin();
        chain.link(Some(&acme), b"\"kind\":\"a\"", &mut out);
        let (head, heads) = (chain.head(), chain.tenants().clone());
        chain.begin();
        chain.link(Some(&acme), b"\"kind\":\"b\"", &mut out);
        chain.link(Some(&acme), b"\"kind\":\"c\"", &mut out);
        chain.link(Some(&"globex".parse().unwrap()), b"\"kind\":\"d\"", &mut out);
        chain.roll_back();
        assert_eq!((chain.head(), chain.tenants()), (head, &heads));
    }

    #[test]
    fn a_hash_reads_back() {
        let hash = Hash::of(b"abc");
        assert_eq!(hash.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for bad in ["", "BA", &"g".repeat(64), &"A".repeat(64), &"é".repeat(32)] {
            assert_eq!(bad.parse::<Hash>(), Err(HashError), "{bad}");
        }
    }
}
