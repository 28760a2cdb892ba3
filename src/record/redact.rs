//! Tags whose values a record must not hold, but which an operator may still tell apart.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use aws_lc_rs::{hmac, rand};
use zeroize::Zeroizing;

use crate::{
    id::TenantName,
    site::secret::{self, SecretError},
};

/// Hashes values with a key of this log: without the key, guessing values proves nothing.
#[derive(Clone)]
pub struct Redactor {
    key: hmac::Key,
}

impl Redactor {
    /// Reads the key from `path`, or makes one.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let bytes = match secret::read(path) {
            Ok(bytes) => bytes,
            Err(SecretError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = Zeroizing::new(vec![0; KEY_BYTES]);
                rand::fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
                // Under another name first: a crash must not leave half a key.
                let fresh = path.with_extension("new");
                let mut file =
                    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
                file.write_all(&bytes)?;
                file.sync_all()?;
                std::fs::rename(&fresh, path)?;
                bytes
            }
            Err(SecretError::Io(error)) => return Err(error),
            Err(shared) => return Err(io::Error::new(io::ErrorKind::PermissionDenied, shared)),
        };
        if bytes.len() != KEY_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the redaction key is not 32 bytes"));
        }
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &bytes) })
    }

    /// Equal values of one tag of one tenant give equal texts; nothing else does.
    pub fn hash(&self, tenant: &TenantName, tag: &str, value: &str) -> Arc<str> {
        let mut context = hmac::Context::with_key(&self.key);
        // Lengths keep (tag, value) apart from any other split of the same text.
        for part in [tenant.as_str(), tag, value] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut text = String::from("hmac:");
        for byte in context.sign().as_ref().iter().take(SHOWN_BYTES) {
            text.push_str(&format!("{byte:02x}"));
        }
        text.into()
    }
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactor(…)")
    }
}

const KEY_BYTES: usize = 32;
/// 128 bits tell values apart.
const SHOWN_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn e07_redacted_values_are_keyed_hashes_and_the_key_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("redact.key");
        let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let first = Redactor::open(&path).unwrap();
        let again = Redactor::open(&path).unwrap();
        assert_eq!(first.hash(&acme, "email", "a@b"), again.hash(&acme, "email", "a@b"));
        assert_ne!(first.hash(&acme, "email", "a@b"), first.hash(&globex, "email", "a@b"));
        assert_ne!(first.hash(&acme, "email", "a@b"), first.hash(&acme, "emaila", "@b"));
        assert_eq!(first.hash(&acme, "email", "a@b").len(), 5 + 32);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let other = Redactor::open(&dir.path().join("other.key")).unwrap();
        assert_ne!(first.hash(&acme, "email", "a@b"), other.hash(&acme, "email", "a@b"));
        std::fs::write(&path, b"short").unwrap();
        assert!(Redactor::open(&path).is_err());
    }
}
