//! Private keys in files: whose they may be, and what is left of them in memory once they were read, which is nothing
//! (hardening B10).
//!
//! A buffer that grows leaves what it held behind, and so does one that is dropped: here keys are read into buffers that
//! are large enough from the start, and wiped. What becomes of a key is then its library's to keep, and to wipe.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use zeroize::Zeroizing;

/// Why a file's key is not used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Others than its owner can read it, or write it.
    #[error("it is not its owner's alone (mode {0:03o}): `chmod 600` it")]
    Shared(u32),
}

/// Bytes of a key that is its owner's alone.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let file = fs::File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file").into());
    }
    private(&metadata)?;
    Ok(bytes(file)?)
}

/// Text of a key for local work: `dev` made it for its owner alone, and whoever copies it may do as they like.
pub fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut bytes = bytes(fs::File::open(path)?)?;
    // The buffer moves; a text that is none is wiped with it.
    let text = String::from_utf8(std::mem::take(&mut *bytes));
    text.map(Zeroizing::new).map_err(|wrong| {
        drop(Zeroizing::new(wrong.into_bytes()));
        io::Error::new(io::ErrorKind::InvalidData, "it is no text")
    })
}

/// Whether the file, which is not read, is its owner's alone.
pub fn check(path: &Path) -> Result<(), SecretError> {
    private(&fs::metadata(path)?)
}

/// What is between the lines that begin and end such a section (RFC 7468 §2), the first of its kind in `text`.
pub fn pem_section(text: &[u8], label: &str) -> Option<Zeroizing<Vec<u8>>> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let mut plain = Zeroizing::new(String::with_capacity(body.len()));
    plain.extend(body.split_ascii_whitespace());
    let mut der = Zeroizing::new(vec![0; base64::decoded_len_estimate(plain.len())]);
    let length = BASE64.decode_slice(plain.as_bytes(), &mut der).ok()?;
    der.truncate(length);
    Some(der)
}

fn bytes(file: fs::File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() {
        0..=MAX_BYTES => Ok(bytes),
        _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large for a key")),
    }
}

fn private(metadata: &fs::Metadata) -> Result<(), SecretError> {
    match metadata.mode() & 0o777 {
        mode if mode & 0o077 != 0 => Err(SecretError::Shared(mode)),
        _ => Ok(()),
    }
}

/// RSA of 16 384 bits takes 13 KiB in PEM; a chain may lie in the same file.
const MAX_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn b10_a_key_is_read_whole_and_of_its_owner_alone_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let write = |bytes: &[u8], mode| {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        assert!(
            matches!(read(&path), Err(SecretError::Io(error)) if error.kind() == io::ErrorKind::NotFound)
        );
        write(b"key", 0o600);
        assert_eq!(read(&path).unwrap().as_slice(), b"key");
        assert_eq!(read_text(&path).unwrap().as_str(), "key");
        for mode in [0o640, 0o604, 0o620, 0o601] {
            write(b"key", mode);
            assert!(matches!(read(&path), Err(SecretError::Shared(told)) if told == mode), "{mode:o}");
            assert!(check(&path).is_err(), "{mode:o}");
            assert_eq!(read_text(&path).unwrap().as_str(), "key");
        }
        write(&vec![b'k'; MAX_BYTES], 0o600);
        let buffer = read(&path).unwrap();
        assert_eq!((buffer.len(), buffer.capacity()), (MAX_BYTES, MAX_BYTES + 1), "it never grew");
        write(&vec![b'k'; MAX_BYTES + 1], 0o600);
        assert!(read(&path).is_err());
        write(b"\xff", 0o600);
        assert!(read_text(&path).is_err());
    }

    #[test]
    fn a_section_of_pem_is_found_by_its_label() {
        let text = b"some words\n-----BEGIN EC PARAMETERS-----\nBgg=\n-----END EC PARAMETERS-----\n\
                     -----BEGIN EC PRIVATE KEY-----\nAQID\r\n BA==\n-----END EC PRIVATE KEY-----\n";
        assert_eq!(pem_section(text, "EC PRIVATE KEY").unwrap().as_slice(), [1, 2, 3, 4]);
        assert!(pem_section(text, "PRIVATE KEY").is_none());
        assert!(pem_section(b"-----BEGIN PRIVATE KEY-----\nAQID", "PRIVATE KEY").is_none());
        assert!(
            pem_section(b"-----BEGIN PRIVATE KEY-----\n???\n-----END PRIVATE KEY-----", "PRIVATE KEY")
                .is_none()
        );
    }
}
