//! The other side of `binding = "dpop"`, for local work and for trying a gateway out: a sender's key, and proofs made with it.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    dev::{public_jwk, thumbprint},
    keys::sha256,
};
use crate::site::secret;

/// Why there is no key or no proof.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The key could not be read or written.
    #[error("the key `{}` could not be read or made", .path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another kind of key, or none.
    #[error("`{}` is no ES256 or EdDSA key (PKCS #8, PEM): name a file that is not there, and one is made", .path.display())]
    NotAKey {
        /// Its file.
        path: PathBuf,
    },
    /// What is called.
    #[error("`{0}` is no https url")]
    Url(String),
    /// Signing failed, or there is no randomness.
    #[error("the proof could not be signed")]
    Signing,
}

/// A sender's key pair.
pub struct ClientKey {
    pair: KeyPair,
    ed25519: bool,
}

/// What a proof is to be for.
#[derive(Debug, Clone, Copy)]
pub struct ProofRequest<'a> {
    /// `htm`.
    pub method: &'a str,
    /// The url that is called; its query and fragment are left out of `htu`.
    pub url: &'a str,
    /// The token beside which the proof is sent.
    pub token: &'a str,
    /// From the last `DPoP-Nonce`.
    pub nonce: Option<&'a str>,
    /// `iat`.
    pub now: SystemTime,
}

impl ClientKey {
    /// Reads the key, or makes one that only its owner can read.
    pub fn open_or_create(path: &Path) -> Result<Self, ClientError> {
        match Self::create(path) {
            Err(ClientError::Key { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                Self::open(path)
            }
            made => made,
        }
    }

    /// Reads the key.
    pub fn open(path: &Path) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Key { path: path.to_owned(), source };
        let not = || ClientError::NotAKey { path: path.to_owned() };
        let pem = secret::read_text(path).map_err(failed)?;
        let pair = KeyPair::from_pem(&pem).map_err(|_| not())?;
        let ed25519 = pair.algorithm() == &PKCS_ED25519;
        if !ed25519 && pair.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(not());
        }
        Ok(Self { pair, ed25519 })
    }

    /// Makes a key where there is no file; follows no link that somebody else may have put there.
    fn create(path: &Path) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Key { path: path.to_owned(), source };
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|_| ClientError::Signing)?;
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        io::Write::write_all(&mut file, Zeroizing::new(pair.serialize_pem()).as_bytes()).map_err(failed)?;
        Ok(Self { pair, ed25519: false })
    }

    /// What `cnf.jkt` of a token that is bound to this key says.
    pub fn thumbprint(&self) -> String {
        thumbprint(&public_jwk(&self.pair, self.ed25519))
    }

    /// A proof for one request (RFC 9449 §4.2).
    pub fn prove(&self, request: &ProofRequest<'_>) -> Result<String, ClientError> {
        let not = || ClientError::Url(request.url.to_owned());
        let url = url::Url::parse(request.url).ok().filter(|url| url.scheme() == "https").ok_or_else(not)?;
        // As written: what is called is not normalised, so neither is what is proven.
        let htu = request.url.split(['?', '#']).next().unwrap_or_default();
        let htu = if url.path() == "/" && !htu.ends_with('/') { format!("{htu}/") } else { htu.to_owned() };
        let mut id = [0_u8; 16];
        rand::fill(&mut id).map_err(|_| ClientError::Signing)?;
        let mut claims = json!({
            "jti": URL_SAFE_NO_PAD.encode(id),
            "htm": request.method,
            "htu": htu,
            "iat": request.now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            "ath": URL_SAFE_NO_PAD.encode(sha256(request.token.as_bytes())),
        });
        if let (Some(nonce), Some(claims)) = (request.nonce, claims.as_object_mut()) {
            claims.insert("nonce".to_owned(), nonce.into());
        }
        let der = Zeroizing::new(self.pair.serialize_der());
        let (algorithm, name, signer) = if self.ed25519 {
            (Algorithm::EdDSA, "EdDSA", EncodingKey::from_ed_der(&der))
        } else {
            (Algorithm::ES256, "ES256", EncodingKey::from_ec_der(&der))
        };
        let header = json!({"typ": "dpop+jwt", "alg": name, "jwk": public_jwk(&self.pair, self.ed25519)});
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &signer, algorithm);
        Ok(format!("{message}.{}", signature.map_err(|_| ClientError::Signing)?))
    }
}
