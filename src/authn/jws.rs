//! A JWS in its compact form, read such that no second reader could read it differently: tokens and proofs alike.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::json::StrictObject;

/// A JWS whose form is sound. Nothing that it says is believed yet.
pub(super) struct Compact {
    pub(super) header: Map<String, Value>,
    payload: Vec<u8>,
}

/// What keeps a text from being a compact JWS that we read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not the compact form.
    #[error("not three non-empty segments")]
    Segments,
    /// A segment is not base64url in its one canonical form: no padding, no spaces, no stray trailing bits.
    #[error("the {segment} is not canonical base64url")]
    Base64 {
        /// Which of the three.
        segment: &'static str,
    },
    /// The header is not strict JSON, or a parameter that we read has the wrong type.
    #[error("the header is malformed: {reason}")]
    Header {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// We understand no extension, so any `crit` is one that we must refuse (RFC 7515 §4.1.11).
    #[error("the header has `crit`")]
    Critical,
    /// `enc` or `zip`.
    #[error("encrypted or compressed")]
    Encrypted,
}

impl Compact {
    /// Reads the three segments and the header.
    pub(super) fn open(text: &str) -> Result<Self, Malformed> {
        let mut segments = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (segments.next(), segments.next(), segments.next(), segments.next())
        else {
            return Err(Malformed::Segments);
        };
        if header.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err(Malformed::Segments);
        }
        let header = decode(header, "header")?;
        let payload = decode(payload, "payload")?;
        decode(signature, "signature")?;
        let StrictObject(header) =
            StrictObject::parse(&header).map_err(|reason| Malformed::Header { reason })?;
        if header.contains_key("crit") {
            return Err(Malformed::Critical);
        }
        if header.contains_key("enc") || header.contains_key("zip") {
            return Err(Malformed::Encrypted);
        }
        Ok(Self { header, payload })
    }

    /// A text parameter of the header, taken out of it; `wrong` says that it has another type.
    pub(super) fn take_text(&mut self, name: &str, wrong: &'static str) -> Result<Option<String>, Malformed> {
        match self.header.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Malformed::Header { reason: wrong }),
        }
    }

    /// The payload: to choose whom to ask, or for use once the signature has been verified.
    pub(super) fn danger_payload(&self) -> &[u8] {
        &self.payload
    }
}

/// Base64url without padding. The engine refuses trailing bits that are not zero, so each byte string has one text.
fn decode(segment: &str, name: &'static str) -> Result<Vec<u8>, Malformed> {
    URL_SAFE_NO_PAD.decode(segment).map_err(|_| Malformed::Base64 { segment: name })
}
