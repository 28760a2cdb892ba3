//! Certificates, and what of TLS is offered: 1.3 first, 1.2 with AEAD and ECDHE only, no early data (RFC 9325).
//!
//! The certificate of the gateway's own name is the platform's ([`Certificates`]); that of a tenant's host is part of the
//! tenant's part, with all that a handshake by that name needs ([`Host`]).

mod clients;
mod files;
mod host;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::CertificateDer,
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
};
use tracing::warn;

use self::files::{covers, private, read_chain, read_pair, timestamp, validity};
pub use self::{
    files::{expiry, read_roots},
    host::{Host, Hosts, Needed, Validity},
};
use crate::{
    record::Metrics,
    site::{
        config,
        diagnostic::{Diagnostic, Source},
    },
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
    /// Who connects by that name would refuse it.
    #[error("the certificate `{path}` is not for `{host}`")]
    NotCovered {
        /// The file.
        path: PathBuf,
        /// The name.
        host: String,
    },
    /// Others than its owner can have the key.
    #[error("the key `{path}` is not its owner's alone (mode {mode:03o}): `chmod 600` it")]
    NotPrivate {
        /// The file.
        path: PathBuf,
        /// What the system lets whom do.
        mode: u32,
    },
    /// No list of revoked certificates, or one that says nothing any more.
    #[error("`{path}` {wrong}")]
    Revocations {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        wrong: &'static str,
    },
    /// Authorities or their lists cannot be used to judge clients.
    #[error("client certificates cannot be judged by `{path}`")]
    Clients {
        /// The authorities' file.
        path: PathBuf,
        /// What the TLS library said.
        #[source]
        source: rustls::server::VerifierBuilderError,
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

/// Where the gateway's own pair is, and what it must be for.
#[derive(Debug, Clone)]
pub struct OwnPair {
    /// The chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// What callers call the gateway, where the operator says it.
    pub name: Option<String>,
}

impl OwnPair {
    /// As `sandgate.toml` of the site at `dir` has it.
    pub fn of(dir: &Path, config: &config::ServerConfig) -> Self {
        let name = config.server.origin.as_ref().map(|origin| {
            let host = origin.host();
            host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned()
        });
        Self { certificate: dir.join(&config.tls.certificate), key: dir.join(&config.tls.key), name }
    }

    /// Until when it can be served, if it could be now.
    pub fn served_until(&self, now: SystemTime) -> Result<SystemTime, TlsError> {
        self.read(now).map(|pair| pair.expires)
    }

    fn read(&self, now: SystemTime) -> Result<Pair, TlsError> {
        let pair = read_pair(&self.certificate, &self.key, now)?;
        self.covered_by(&pair.key.cert)?;
        Ok(pair)
    }

    fn covered_by(&self, chain: &[CertificateDer<'_>]) -> Result<(), TlsError> {
        let covered = |name: &String| chain.first().is_some_and(|leaf| covers(leaf, name));
        match self.name.as_ref().filter(|name| !covered(name)) {
            Some(name) => Err(TlsError::NotCovered { path: self.certificate.clone(), host: name.clone() }),
            None => Ok(()),
        }
    }
}

impl Certificates {
    /// Reads chain and key, checks that they belong together, are valid now and for the gateway's name, and tells `metrics`
    /// until when.
    pub fn read(own: &OwnPair, metrics: Arc<Metrics>) -> Result<Arc<Self>, TlsError> {
        let now = SystemTime::now();
        let pair = own.read(now)?;
        pair.tell(&own.certificate, &metrics, now);
        Ok(Arc::new(Self { current: ArcSwap::from(pair.key), metrics }))
    }

    /// Reads the files again; on any fault the pair in use stays (hardening B8).
    pub fn reload(&self, own: &OwnPair) -> Result<(), TlsError> {
        let now = SystemTime::now();
        let pair = own.read(now)?;
        pair.tell(&own.certificate, &self.metrics, now);
        self.current.store(pair.key);
        Ok(())
    }
}

/// What is wrong with the chain and key that would be served by the site at `dir`.
///
/// Without a chain nothing is: `dev` makes its own. Without the key, which is in no repository, the chain alone is judged.
pub fn check(dir: &Path, own: &OwnPair, now: SystemTime) -> Vec<Diagnostic> {
    let chain = &own.certificate;
    if !chain.exists() {
        return Vec::new();
    }
    let judged = match own.key.exists() {
        true => own.served_until(now),
        false => read_chain(chain).and_then(|certificates| {
            own.covered_by(&certificates)?;
            validity(chain, &certificates, now)
        }),
    };
    let shown = chain.strip_prefix(dir).unwrap_or(chain).display().to_string();
    let source = fs::read_to_string(chain).ok().map(|text| Source::new(shown, text));
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
        metrics.certificate(DEFAULT, Some(self.expires));
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

/// The certificate in use, but for no other name than it covers.
#[derive(Debug)]
struct OwnNames(Arc<Certificates>);

impl ResolvesServerCert for OwnNames {
    /// `None` ends the handshake with `access_denied`.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().map(str::to_owned);
        let key = self.0.resolve(hello)?;
        let covers = |name: &String| key.cert.first().is_some_and(|leaf| covers(leaf, name));
        asked.as_ref().is_none_or(covers).then_some(key)
    }
}

/// What the data plane offers to whoever names no tenant's host; `strict`: only to those that name none, or one that the
/// certificate covers (hardening B5).
pub fn server_config(certificates: Arc<Certificates>, strict: bool) -> Result<Arc<ServerConfig>, TlsError> {
    let resolver: Arc<dyn ResolvesServerCert> = match strict {
        true => Arc::new(OwnNames(certificates)),
        false => certificates,
    };
    offer(resolver, None)
}

/// What is offered wherever TLS is spoken; `clients` judges their certificates, where they are asked for.
fn offer(
    resolver: Arc<dyn ResolvesServerCert>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let resumes = clients.is_none();
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients.unwrap_or_else(WebPkiClientVerifier::no_client_auth))
        .with_cert_resolver(resolver);
    // The client's order would let it pick the weakest of what is offered (RFC 9325 §4.2.1).
    config.ignore_client_order = true;
    // A client that shares no protocol with us is refused, not guessed at (RFC 7301 §3.2).
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Early data can be replayed, and a replayed call is a second call (RFC 8446 §8).
    config.max_early_data_size = 0;
    // Sessions live in tickets under keys of this configuration, renewed every six hours: none is resumed by another
    // (hardening B9), and no handshake waits for a store that all share.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if resumes {
        config.ticketer = aws_lc_rs::Ticketer::new()?;
    } else {
        // A resumed session brings its certificate along: one that has expired or was revoked since would pass.
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

/// The one implementation of what is computed; its hybrid group comes first (hardening B3).
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
/// Two weeks: whoever renews by hand has time to, and whoever renews by machine has done so long before.
pub const NEAR: Duration = Duration::from_secs(14 * 86_400);
/// The certificate for clients that name no tenant's host.
const DEFAULT: &str = "default";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A folder with a pair that is valid from and until so many days from now.
    fn pair(begin: i64, end: i64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let day = |days: i64| rcgen::date_time_ymd(1970, 1, 1) + DAY * u32::try_from(today() + days).unwrap();
        (params.not_before, params.not_after) = (day(begin), day(end));
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(dir.path().join("server.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        write_key(&dir, &key.serialize_pem());
        dir
    }

    fn write_key(dir: &tempfile::TempDir, pem: &str) {
        let path = dir.path().join("server.key");
        fs::write(&path, pem).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn today() -> i64 {
        (SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 86_400).cast_signed()
    }

    fn own(dir: &tempfile::TempDir, name: Option<&str>) -> OwnPair {
        let (certificate, key) = (dir.path().join("server.pem"), dir.path().join("server.key"));
        OwnPair { certificate, key, name: name.map(str::to_owned) }
    }

    fn read(dir: &tempfile::TempDir, metrics: &Arc<Metrics>) -> Result<Arc<Certificates>, TlsError> {
        Certificates::read(&own(dir, None), Arc::clone(metrics))
    }

    fn told(dir: &tempfile::TempDir) -> Vec<String> {
        told_of(dir, None)
    }

    fn told_of(dir: &tempfile::TempDir, name: Option<&str>) -> Vec<String> {
        let found = check(dir.path(), &own(dir, name), SystemTime::now());
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
        let reload = |dir: &tempfile::TempDir| certificates.reload(&own(dir, None));
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
    fn b08_a_certificate_for_another_name_than_the_origins_is_refused() {
        let (good, metrics) = (pair(-1, 60), Arc::new(Metrics::new()));
        let certificates = Certificates::read(&own(&good, Some("localhost")), Arc::clone(&metrics)).unwrap();
        let other = own(&good, Some("gate.example"));
        assert!(matches!(certificates.reload(&other), Err(TlsError::NotCovered { .. })));
        assert!(Certificates::read(&other, metrics).is_err());
        for key_is_here in [true, false] {
            if !key_is_here {
                fs::remove_file(good.path().join("server.key")).unwrap();
            }
            assert!(told_of(&good, Some("localhost")).is_empty());
            let told = told_of(&good, Some("gate.example"));
            assert!(told.iter().any(|one| one.contains("is not for `gate.example`")), "{told:?}");
        }
    }

    #[test]
    fn b10_a_key_that_others_can_read_is_refused() {
        let metrics = Arc::new(Metrics::new());
        let dir = pair(-1, 60);
        for (mode, taken) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o644, false)] {
            let path = dir.path().join("server.key");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = read(&dir, &metrics).err();
            assert_eq!(refused.is_none(), taken, "{mode:o}: {refused:?}");
            assert_eq!(told(&dir).is_empty(), taken, "{mode:o}");
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
        write_key(&good, &rcgen::KeyPair::generate().unwrap().serialize_pem());
        assert!(told(&good).iter().any(|one| one.contains("does not fit")));
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(good.path().join("server.pem"), junk).unwrap();
        assert!(told(&good).iter().any(|one| one.contains("cannot be read (X.509)")));
    }
}
