//! Certificates, and what of TLS is offered: 1.3 first, 1.2 with AEAD and ECDHE only, no early data (RFC 9325).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
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
}

impl Certificates {
    /// Reads chain and key, and checks that they belong together.
    pub fn read(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self { current: ArcSwap::from(read_pair(certificate, key)?) }))
    }

    /// Reads the files again; on any fault the pair in use stays (hardening B8).
    pub fn reload(&self, certificate: &Path, key: &Path) -> Result<(), TlsError> {
        self.current.store(read_pair(certificate, key)?);
        Ok(())
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

fn read_pair(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::NotPem { path: certificate.into(), what: "certificate" })?;
    if chain.is_empty() {
        return Err(TlsError::NotPem { path: certificate.into(), what: "certificate" });
    }
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|_| TlsError::NotPem { path: key.into(), what: "private key" })?;
    // Checks that the public keys agree; a certificate that cannot serve fails here and not at the first handshake.
    CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider())
        .map(Arc::new)
        .map_err(|source| TlsError::Mismatch { certificate: certificate.into(), key: key.into(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable { path: path.into(), source })
}
