//! Certificates, and what of TLS is offered: 1.3 first, 1.2 with AEAD and ECDHE only, no early data (RFC 9325).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tracing::warn;
use x509_parser::{certificate::X509Certificate, prelude::FromDer, time::ASN1Time};

use crate::{
    record::Metrics,
    site::diagnostic::{Diagnostic, Source},
};

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("`{path}` could not be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Not PEM, or without what it should hold.
    #[error("`{path}` holds no {what} in PEM form")]
    NotPem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// PEM of something else.
    #[error("`{path}` holds a certificate that cannot be read (X.509)")]
    NotX509 {
        /// The file.
        path: PathBuf,
    },
    /// Clients would refuse it.
    #[error("the certificate `{path}` expired at {at}: get another and put it there")]
    Expired {
        /// The file.
        path: PathBuf,
        /// When.
        at: jiff::Timestamp,
    },
    /// Clients would refuse it yet.
    #[error("the certificate `{path}` is not valid before {at}: put it there then, or set the clock right")]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// From when.
        at: jiff::Timestamp,
    },
    /// Key and certificate do not belong together, or the key is of an unknown kind.
    #[error("the key `{key}` does not fit the certificate `{certificate}`")]
    Mismatch {
        /// The certificate chain's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the TLS library said.
        #[source]
        source: rustls::Error,
    },
    /// The library refused the configuration.
    #[error("the TLS configuration was refused")]
    Refused(#[from] rustls::Error),
}

/// The certificate in use; a reload swaps it under running connections.
#[derive(Debug)]
pub struct Certificates {
    current: ArcSwap<CertifiedKey>,
    metrics: Arc<Metrics>,
}

impl Certificates {
    /// Reads chain and key, checks that they belong together and are valid now, and tells `metrics` until when.
    pub fn read(certificate: &Path, key: &Path, metrics: Arc<Metrics>) -> Result<Arc<Self>, TlsError> {
        let now = SystemTime::now();
        let pair = read_pair(certificate, key, now)?;
        pair.tell(certificate, &metrics, now);
        Ok(Arc::new(Self { current: ArcSwap::from(pair.key), metrics }))
    }

    /// Reads the files again; on any fault the pair in use stays (hardening B8).
    pub fn reload(&self, certificate: &Path, key: &Path) -> Result<(), TlsError> {
        let now = SystemTime::now();
        let pair = read_pair(certificate, key, now)?;
        pair.tell(certificate, &self.metrics, now);
        self.current.store(pair.key);
        Ok(())
    }
}

/// What is wrong with the chain and key that would be served, `certificate` and `key` within the site at `dir`.
///
/// Without a chain nothing is: `dev` makes its own. Without the key, which is in no repository, the chain alone is judged.
pub fn check(dir: &Path, certificate: &Path, key: &Path, now: SystemTime) -> Vec<Diagnostic> {
    let (chain, key) = (dir.join(certificate), dir.join(key));
    if !chain.exists() {
        return Vec::new();
    }
    let judged = match key.exists() {
        true => read_pair(&chain, &key, now).map(|pair| pair.expires),
        false => read_chain(&chain).and_then(|certificates| validity(&chain, &certificates, now)),
    };
    let shown = certificate.display().to_string();
    let source = fs::read_to_string(&chain).ok().map(|text| Source::new(shown, text));
    let placed = |diagnostic: Diagnostic| match &source {
        Some(source) => diagnostic.in_file(source),
        None => diagnostic,
    };
    match judged {
        Ok(expires) if expires <= now + NEAR => {
            let message = format!("the certificate expires at {}", timestamp(expires));
            vec![
                placed(Diagnostic::warning(message))
                    .hint("get the next one: `serve` takes it up while it runs"),
            ]
        }
        Ok(_) => Vec::new(),
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
            vec![placed(Diagnostic::fault(format!("{error}{cause}")))]
        }
    }
}

/// What is served, and until when it can be.
struct Pair {
    key: Arc<CertifiedKey>,
    expires: SystemTime,
}

impl Pair {
    fn tell(&self, certificate: &Path, metrics: &Metrics, now: SystemTime) {
        metrics.certificates([(DEFAULT, self.expires)]);
        if self.expires <= now + NEAR {
            warn!(certificate = %certificate.display(), expires = %timestamp(self.expires), "the certificate expires soon");
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// What the data plane offers.
pub fn server_config(certificates: Arc<Certificates>) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    // The client's order would let it pick the weakest of what is offered (RFC 9325 §4.2.1).
    config.ignore_client_order = true;
    // A client that shares no protocol with us is refused, not guessed at (RFC 7301 §3.2).
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Early data can be replayed, and a replayed call is a second call (RFC 8446 §8).
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// Certificates of authorities, as DER.
pub fn read_roots(path: &Path) -> Result<Vec<Vec<u8>>, TlsError> {
    let roots: Result<Vec<Vec<u8>>, _> =
        CertificateDer::pem_slice_iter(&read(path)?).map(|root| root.map(|root| root.to_vec())).collect();
    roots.map_err(|_| TlsError::NotPem { path: path.into(), what: "certificate" })
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::NotPem { path: path.into(), what: "certificate" })?;
    if chain.is_empty() {
        return Err(TlsError::NotPem { path: path.into(), what: "certificate" });
    }
    Ok(chain)
}

/// Until when the whole chain is valid, if it is now: clients look at all of it.
fn validity(path: &Path, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<SystemTime, TlsError> {
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

fn instant(time: ASN1Time) -> SystemTime {
    // Before 1970 is as long ago as any; beyond the clock's range is as good as never.
    let since = Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0));
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn timestamp(at: SystemTime) -> jiff::Timestamp {
    jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::MAX)
}

fn read_pair(certificate: &Path, key: &Path, now: SystemTime) -> Result<Pair, TlsError> {
    let chain = read_chain(certificate)?;
    let expires = validity(certificate, &chain, now)?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|_| TlsError::NotPem { path: key.into(), what: "private key" })?;
    // Checks that the public keys agree; a certificate that cannot serve fails here and not at the first handshake.
    let certified = CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider())
        .map_err(|source| TlsError::Mismatch { certificate: certificate.into(), key: key.into(), source })?;
    Ok(Pair { key: Arc::new(certified), expires })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable { path: path.into(), source })
}

/// Two weeks: whoever renews by hand has time to, and whoever renews by machine has done so long before.
const NEAR: Duration = Duration::from_secs(14 * 86_400);
/// The certificate for clients that name no tenant's host.
const DEFAULT: &str = "default";

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a pair that is valid from and until so many days from now.
    fn pair(begin: i64, end: i64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let day = |days: i64| rcgen::date_time_ymd(1970, 1, 1) + DAY * u32::try_from(today() + days).unwrap();
        (params.not_before, params.not_after) = (day(begin), day(end));
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(dir.path().join("server.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(dir.path().join("server.key"), key.serialize_pem()).unwrap();
        dir
    }

    fn today() -> i64 {
        (SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 86_400).cast_signed()
    }

    fn read(dir: &tempfile::TempDir, metrics: &Arc<Metrics>) -> Result<Arc<Certificates>, TlsError> {
        Certificates::read(
            &dir.path().join("server.pem"),
            &dir.path().join("server.key"),
            Arc::clone(metrics),
        )
    }

    fn told(dir: &tempfile::TempDir) -> Vec<String> {
        let found = check(dir.path(), Path::new("server.pem"), Path::new("server.key"), SystemTime::now());
        found.iter().map(|found| found.severity.as_str().to_owned() + ": " + &found.message).collect()
    }

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn b08_when_the_certificate_expires_is_a_metric_and_an_expired_one_is_refused() {
        let metrics = Arc::new(Metrics::new());
        let expiry = |days: i64| {
            let at = (today() + days) * 86_400;
            format!("sandgate_certificate_expiry_timestamp_seconds{{certificate=\"default\"}} {at}\n")
        };
        let good = pair(-1, 60);
        let certificates = read(&good, &metrics).unwrap();
        assert!(metrics.encode().contains(&expiry(60)));
        metrics.revision("another");
        assert!(metrics.encode().contains(&expiry(60)), "a revision changes no certificate");

        let renewed = pair(-1, 90);
        let reload = |dir: &tempfile::TempDir| {
            certificates.reload(&dir.path().join("server.pem"), &dir.path().join("server.key"))
        };
        reload(&renewed).unwrap();
        assert!(metrics.encode().contains(&expiry(90)));
        for (dir, expired) in [(pair(-30, -1), true), (pair(2, 30), false)] {
            let refused = reload(&dir).unwrap_err();
            assert_eq!(matches!(refused, TlsError::Expired { .. }), expired, "{refused}");
            assert_eq!(matches!(refused, TlsError::NotYetValid { .. }), !expired, "{refused}");
            assert!(read(&dir, &Arc::new(Metrics::new())).is_err());
            assert!(metrics.encode().contains(&expiry(90)), "the old pair stays");
        }
    }

    #[test]
    fn b08_check_tells_an_expired_certificate_and_one_that_is_about_to() {
        assert!(told(&tempfile::tempdir().unwrap()).is_empty(), "`dev` makes its own");
        let good = pair(-1, 60);
        assert!(told(&good).is_empty());
        let near = told(&pair(-60, 10));
        assert!(
            matches!(near.as_slice(), [one] if one.starts_with("warning: the certificate expires at ")),
            "{near:?}"
        );
        let expired = pair(-60, -2);
        // The key is in no repository.
        fs::remove_file(expired.path().join("server.key")).unwrap();
        let expired = told(&expired);
        assert!(
            matches!(expired.as_slice(), [one] if one.starts_with("fault: ") && one.contains(" expired at ")),
            "{expired:?}"
        );
        fs::write(good.path().join("server.key"), rcgen::KeyPair::generate().unwrap().serialize_pem())
            .unwrap();
        assert!(told(&good).iter().any(|one| one.contains("does not fit")));
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(good.path().join("server.pem"), junk).unwrap();
        assert!(told(&good).iter().any(|one| one.contains("cannot be read (X.509)")));
    }
}
