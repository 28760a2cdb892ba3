//! Checkpoints: what the chain's head was at a time, signed with a key that the log's own machine account need not
//! be able to read later. Whoever keeps them elsewhere can tell a cut or rewritten log.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::SystemTime,
};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

use super::{
    chain::{Hash, Head},
    time::Rfc3339,
};
use crate::site::secret::pem_section;

/// An Ed25519 private key.
pub struct CheckpointKey(Ed25519KeyPair);

/// An Ed25519 public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey([u8; 32]);

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a PEM text of the kind that is asked for.
    #[error("expected a PEM block `{0}`")]
    NotPem(&'static str),
    /// Another algorithm, or damaged.
    #[error("the key is not an Ed25519 key")]
    NotEd25519,
}

impl CheckpointKey {
    /// Reads PKCS #8 in PEM, as `openssl genpkey -algorithm ed25519` writes it.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let der = pem_section(pem, PRIVATE_KEY).ok_or(KeyError::NotPem(PRIVATE_KEY))?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Self).map_err(|_| KeyError::NotEd25519)
    }

    /// The key that checks what this one signs.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.public_key().as_ref().try_into().unwrap_or_default())
    }

    /// Signs where `chain` ends.
    pub(super) fn sign(&self, chain: &str, head: Head, now: SystemTime) -> Checkpoint {
        let mut checkpoint = Checkpoint {
            chain: chain.to_owned(),
            seq: head.seq,
            hash: head.hash,
            time: Rfc3339(now).to_string(),
            key: self.verifying_key().id(),
            signature: String::new(),
        };
        checkpoint.signature = BASE64.encode(self.0.sign(checkpoint.signed().as_bytes()));
        checkpoint
    }
}

impl fmt::Debug for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckpointKey({})", self.verifying_key().id())
    }
}

impl VerifyingKey {
    /// Reads SubjectPublicKeyInfo in PEM, as `openssl pkey -pubout` writes it (RFC 8410 §4).
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let der = pem_section(pem.as_bytes(), PUBLIC_KEY).ok_or(KeyError::NotPem(PUBLIC_KEY))?;
        let raw = der.strip_prefix(SPKI_PREFIX).ok_or(KeyError::NotEd25519)?;
        raw.try_into().map(Self).map_err(|_| KeyError::NotEd25519)
    }

    /// The form that [`VerifyingKey::from_pem`] reads.
    pub fn to_pem(&self) -> String {
        let der = [SPKI_PREFIX, &self.0].concat();
        format!("-----BEGIN {PUBLIC_KEY}-----\n{}\n-----END {PUBLIC_KEY}-----\n", BASE64.encode(der))
    }

    /// Names the key in checkpoints: a few digits of its hash.
    pub fn id(&self) -> String {
        let mut id = Hash::of(&self.0).to_string();
        id.truncate(16);
        id
    }
}

/// One signed head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Checkpoint {
    pub(super) chain: String,
    pub(super) seq: u64,
    pub(super) hash: Hash,
    pub(super) time: String,
    pub(super) key: String,
    signature: String,
}

impl Checkpoint {
    /// What is signed: every field, one a line, under a first line that no other use of the key has.
    fn signed(&self) -> String {
        let Self { chain, seq, hash, time, key, .. } = self;
        format!("sandgate audit checkpoint 1\n{chain}\n{seq}\n{hash}\n{time}\n{key}\n")
    }

    pub(super) fn is_signed_by(&self, key: &VerifyingKey) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &key.0);
        BASE64.decode(&self.signature).is_ok_and(|bytes| key.verify(self.signed().as_bytes(), &bytes).is_ok())
    }
}

/// Appends to the file of checkpoints, durably. Beyond its bound, the older half goes.
pub(super) fn append(path: &Path, checkpoints: &[Checkpoint]) -> io::Result<()> {
    let mut text = String::new();
    for checkpoint in checkpoints {
        text.push_str(&serde_json::to_string(checkpoint)?);
        text.push('\n');
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    let mut file = options.open(path)?;
    let len = file.metadata()?.len();
    if len + text.len() as u64 > MAX_FILE_BYTES {
        let old = fs::read_to_string(path)?;
        let newer = old.get(old.ceil_char_boundary(old.len() / 2)..).unwrap_or_default();
        let kept = newer.split_once('\n').map_or("", |(_, kept)| kept);
        let fresh = path.with_extension("new");
        fs::write(&fresh, format!("{kept}{text}"))?;
        fs::set_permissions(&fresh, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        fs::File::open(&fresh)?.sync_all()?;
        return fs::rename(&fresh, path);
    }
    // A crash may have left half a line; a new line keeps it from swallowing this one.
    if len > 0 && !ends_with_newline(path, len)? {
        text.insert(0, '\n');
    }
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

fn ends_with_newline(path: &Path, len: u64) -> io::Result<bool> {
    let mut last = [0];
    std::os::unix::fs::FileExt::read_exact_at(&fs::File::open(path)?, &mut last, len - 1)?;
    Ok(last == *b"\n")
}

const PRIVATE_KEY: &str = "PRIVATE KEY";
const PUBLIC_KEY: &str = "PUBLIC KEY";
/// DER before the 32 bytes of the key: SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING } (RFC 8410 §4).
const SPKI_PREFIX: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// A month of checkpoints.
const MAX_FILE_BYTES: u64 = 16 << 20;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::record) fn key() -> CheckpointKey {
        let pkcs8 = Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            BASE64.encode(pkcs8.as_ref())
        );
        CheckpointKey::from_pem(pem.as_bytes()).unwrap()
    }

    #[test]
    fn e07_a_checkpoint_is_signed_and_any_change_is_seen() {
        let key = key();
        let public = VerifyingKey::from_pem(&key.verifying_key().to_pem()).unwrap();
        let checkpoint =
            key.sign("invocations", Head { seq: 7, hash: Hash::of(b"x") }, SystemTime::UNIX_EPOCH);
        assert!(checkpoint.is_signed_by(&public));
        assert!(!checkpoint.is_signed_by(&super::tests::key().verifying_key()));
        assert!(!Checkpoint { seq: 8, ..checkpoint.clone() }.is_signed_by(&public));
        assert!(!Checkpoint { chain: "refused".into(), ..checkpoint.clone() }.is_signed_by(&public));
        assert!(!Checkpoint { hash: Hash::NONE, ..checkpoint.clone() }.is_signed_by(&public));
        assert!(!Checkpoint { time: "2026".into(), ..checkpoint }.is_signed_by(&public));
    }

    #[test]
    fn the_file_of_checkpoints_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoints.jsonl");
        let checkpoint = key().sign("refused", Head::NONE, SystemTime::UNIX_EPOCH);
        let line = format!("{}\n", serde_json::to_string(&checkpoint).unwrap());
        fs::write(&path, line.repeat(MAX_FILE_BYTES as usize / line.len())).unwrap();
        append(&path, &[checkpoint]).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() < MAX_FILE_BYTES as usize * 2 / 3);
        assert!(text.lines().all(|line| serde_json::from_str::<Checkpoint>(line).is_ok()));
    }

    #[test]
    fn other_texts_are_not_keys() {
        assert_eq!(VerifyingKey::from_pem("x"), Err(KeyError::NotPem(PUBLIC_KEY)));
        assert_eq!(
            VerifyingKey::from_pem("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"),
            Err(KeyError::NotEd25519)
        );
        assert!(matches!(CheckpointKey::from_pem(b""), Err(KeyError::NotPem(PRIVATE_KEY))));
    }
}
