//! Certificates and keys as they lie in files: read, and judged before anything is made of them (hardening B8).

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    client::verify_server_name,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer, ServerName,
        pem::PemObject,
    },
    server::ParsedCertificate,
    sign::{CertifiedKey, SigningKey},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer, time::ASN1Time};

use super::{Pair, TlsError};
use crate::site::secret::{self, SecretError};

/// The last moment of a certificate.
pub fn expiry(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(instant(parsed.validity.not_after))
}

/// Certificates of authorities, as DER.
pub fn read_roots(path: &Path) -> Result<Vec<Vec<u8>>, TlsError> {
    let roots: Result<Vec<Vec<u8>>, _> =
        CertificateDer::pem_slice_iter(&read(path)?).map(|root| root.map(|root| root.to_vec())).collect();
    roots.map_err(|_| TlsError::NotPem { path: path.into(), what: "certificate" })
}

pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::NotPem { path: path.into(), what: "certificate" })?;
    if chain.is_empty() {
        return Err(TlsError::NotPem { path: path.into(), what: "certificate" });
    }
    Ok(chain)
}

/// Until when the whole chain is valid, if it is now: clients look at all of it.
pub(super) fn validity(
    path: &Path,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<SystemTime, TlsError> {
    let mut ends = None;
    for certificate in chain {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| TlsError::NotX509 { path: path.into() })?;
        let (begin, end) = (instant(parsed.validity.not_before), instant(parsed.validity.not_after));
        if now < begin {
            return Err(TlsError::NotYetValid { path: path.into(), at: timestamp(begin) });
        }
        if end < now {
            return Err(TlsError::Expired { path: path.into(), at: timestamp(end) });
        }
        ends = Some(ends.map_or(end, |known: SystemTime| known.min(end)));
    }
    ends.ok_or_else(|| TlsError::NotPem { path: path.into(), what: "certificate" })
}

pub(super) fn instant(time: ASN1Time) -> SystemTime {
    // Before 1970 is as long ago as any; beyond the clock's range is as good as never.
    let since = Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0));
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

pub(super) fn timestamp(at: SystemTime) -> jiff::Timestamp {
    jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::MAX)
}

pub(super) fn read_pair(certificate: &Path, key: &Path, now: SystemTime) -> Result<Pair, TlsError> {
    let chain = read_chain(certificate)?;
    let expires = validity(certificate, &chain, now)?;
    let mismatch = |source| TlsError::Mismatch { certificate: certificate.into(), key: key.into(), source };
    let certified = CertifiedKey::new(chain, signing_key(key, mismatch)?);
    // A certificate that cannot serve fails here and not at the first handshake.
    certified.keys_match().map_err(mismatch)?;
    Ok(Pair { key: Arc::new(certified), expires })
}

/// What a section of PEM is a key of.
type KeyOfDer = fn(&[u8]) -> PrivateKeyDer<'_>;

/// The key as the library keeps it, and wipes it; of what was read for it nothing stays (hardening B10).
fn signing_key(
    path: &Path,
    unfit: impl Fn(rustls::Error) -> TlsError,
) -> Result<Arc<dyn SigningKey>, TlsError> {
    let text = secret::read(path).map_err(|error| not_secret(path, error))?;
    let kinds: [(&str, KeyOfDer); 3] = [
        ("PRIVATE KEY", |der| PrivatePkcs8KeyDer::from(der).into()),
        ("EC PRIVATE KEY", |der| PrivateSec1KeyDer::from(der).into()),
        ("RSA PRIVATE KEY", |der| PrivatePkcs1KeyDer::from(der).into()),
    ];
    let found = kinds.iter().find_map(|(label, kind)| Some((secret::pem_section(&text, label)?, kind)));
    let (der, kind) = found.ok_or(TlsError::NotPem { path: path.into(), what: "private key" })?;
    aws_lc_rs::sign::any_supported_type(&kind(&der)).map_err(unfit)
}

/// Whether nobody but its owner can have it (hardening B10).
pub(super) fn private(key: &Path) -> Result<(), TlsError> {
    secret::check(key).map_err(|error| not_secret(key, error))
}

fn not_secret(path: &Path, error: SecretError) -> TlsError {
    match error {
        SecretError::Io(source) => TlsError::Unreadable { path: path.into(), source },
        SecretError::Shared(mode) => TlsError::NotPrivate { path: path.into(), mode },
    }
}

/// Whether clients that ask for `name` take this certificate.
pub(super) fn covers(leaf: &CertificateDer<'_>, name: &str) -> bool {
    let (Ok(leaf), Ok(name)) = (ParsedCertificate::try_from(leaf), ServerName::try_from(name)) else {
        return false;
    };
    verify_server_name(&leaf, &name).is_ok()
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable { path: path.into(), source })
}
