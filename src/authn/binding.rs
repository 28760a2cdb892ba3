//! To whom a token is bound, and whether this is them: `cnf` of the token against `binding` of its issuer.
//!
//! | issuer's `binding` | `cnf` of the token | asked of each request |
//! |---|---|---|
//! | `none` | none | scheme `Bearer` |
//! | `dpop` | `jkt` alone | scheme `DPoP`, and a proof ([`super::dpop`]) |
//! | `mtls` | `x5t#S256` alone | scheme `Bearer`, and that certificate on this connection |
//!
//! Everything else is refused: a binding that nobody checks would be one that its author believes in.

use std::{fmt, sync::Arc, time::SystemTime};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{
    Authenticator, AuthnError,
    bearer::Scheme,
    cache::TokenKey,
    claims::Verified,
    dpop::{self, Ledger, ProofError},
    evidence::Head,
    issuer::IssuerRecord,
    keys::{Sha256, sha256},
};
use crate::site::origin::Origin;

/// How an issuer's tokens are bound to their senders.
#[derive(Debug, Clone)]
pub(super) enum Binding {
    /// Not at all.
    None,
    /// To a client certificate (RFC 8705 §3).
    Mtls,
    /// To a key of which each request holds a proof (RFC 9449); the tenant's proofs so far.
    Dpop(Arc<Ledger>),
}

impl Binding {
    /// As tenant.toml and policies write it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Mtls => "mtls",
            Self::Dpop(_) => "dpop",
        }
    }
}

/// The SHA-256 of a client certificate in DER: what `x5t#S256` names (RFC 8705 §3.1).
#[derive(Clone, Copy)]
pub struct CertificateThumbprint(Sha256);

impl CertificateThumbprint {
    /// Of a certificate as it came over the wire.
    pub fn of(der: &[u8]) -> Self {
        Self(sha256(der))
    }

    /// In time that does not tell how much of it agrees (A22).
    fn is(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Display for CertificateThumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for CertificateThumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateThumbprint({self})")
    }
}

/// The client certificate of one connection, whose owner the handshake has proven.
#[derive(Debug, Clone, Copy)]
pub struct ClientCertificate {
    /// What tokens call it.
    pub thumbprint: CertificateThumbprint,
    /// Its last moment: the handshake looked at it once, and a connection may last longer.
    pub expires: SystemTime,
}

/// The SHA-256 of a sender's public key (RFC 7638): what `jkt` names.
#[derive(Clone, Copy)]
pub(super) struct KeyThumbprint(pub(super) Sha256);

impl KeyThumbprint {
    /// In time that does not tell how much of it agrees (A22).
    pub(super) fn is(&self, other: &Sha256) -> bool {
        verify_slices_are_equal(&self.0, other).is_ok()
    }
}

impl fmt::Display for KeyThumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for KeyThumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyThumbprint({self})")
    }
}

/// The claim `cnf` (RFC 7800 §3.1).
#[derive(Debug)]
pub(super) enum Confirmation {
    /// `jkt` alone (RFC 9449 §6.1).
    Key(KeyThumbprint),
    /// `x5t#S256` alone (RFC 8705 §3.1).
    Certificate(CertificateThumbprint),
    /// By something that we do not check, or by several things at once.
    Other,
}

impl Confirmation {
    /// Reads it; a `cnf` that is there says something, whatever its type.
    pub(super) fn read(claims: &Map<String, Value>) -> Result<Option<Self>, AuthnError> {
        let Some(value) = claims.get("cnf") else { return Ok(None) };
        let malformed = || AuthnError::Claim { claim: "cnf" };
        let members = value.as_object().ok_or_else(malformed)?;
        let mut named = members.iter();
        let (Some((name, value)), None) = (named.next(), named.next()) else { return Ok(Some(Self::Other)) };
        let digest = || value.as_str().and_then(read_digest).ok_or_else(malformed);
        Ok(Some(match name.as_str() {
            "jkt" => Self::Key(KeyThumbprint(digest()?)),
            "x5t#S256" => Self::Certificate(CertificateThumbprint(digest()?)),
            _ => Self::Other,
        }))
    }
}

/// What a token that is bound as it should be asks of the request that bears it.
#[derive(Debug)]
pub(super) enum Demand<'a> {
    Nothing,
    Certificate(&'a CertificateThumbprint),
    Proof(&'a KeyThumbprint, &'a Ledger),
}

impl IssuerRecord {
    /// What the token asks of its sender, or that it is not bound as this issuer's tokens are.
    pub(super) fn demand<'a>(
        &'a self,
        confirmation: Option<&'a Confirmation>,
    ) -> Result<Demand<'a>, AuthnError> {
        let issuer = || Arc::clone(&self.issuer);
        match (&self.binding, confirmation) {
            (Binding::None, None) => Ok(Demand::Nothing),
            (Binding::None, Some(_)) => Err(AuthnError::BoundUnasked { issuer: issuer() }),
            (Binding::Mtls, Some(Confirmation::Certificate(certificate))) => {
                Ok(Demand::Certificate(certificate))
            }
            (Binding::Dpop(ledger), Some(Confirmation::Key(key))) => Ok(Demand::Proof(key, ledger)),
            (Binding::Mtls | Binding::Dpop(_), _) => {
                Err(AuthnError::NotBound { issuer: issuer(), binding: self.binding.name() })
            }
        }
    }
}

impl Demand<'_> {
    /// The scheme under which such a token comes, and the certificate of this connection.
    pub(super) fn meet(
        &self,
        scheme: Scheme,
        certificate: Option<&ClientCertificate>,
        now: SystemTime,
    ) -> Result<(), AuthnError> {
        match (self, scheme) {
            (Self::Proof(..), Scheme::Dpop) | (Self::Nothing, Scheme::Bearer) => Ok(()),
            (Self::Proof(..), Scheme::Bearer) => Err(AuthnError::BoundAsBearer),
            (Self::Nothing | Self::Certificate(_), Scheme::Dpop) => Err(AuthnError::UnboundAsDpop),
            (Self::Certificate(bound), Scheme::Bearer) => match certificate {
                Some(certificate) if certificate.thumbprint.is(bound) => match now <= certificate.expires {
                    true => Ok(()),
                    false => Err(AuthnError::Certificate { has: "an expired one" }),
                },
                Some(_) => Err(AuthnError::Certificate { has: "another" }),
                None => Err(AuthnError::Certificate { has: "none" }),
            },
        }
    }
}

impl Authenticator {
    /// Whether the request comes from whom its token is bound to. Asked on every request: a verdict that is kept says nothing
    /// about who sends it. Gives the nonce that the sender should use from now on, if it is another than it used.
    pub(super) fn sender(
        &self,
        verified: &Verified,
        scheme: Scheme,
        token: &TokenKey,
        head: &Head,
    ) -> Result<Option<String>, AuthnError> {
        let demand = self.demand(verified)?;
        demand.meet(scheme, head.client_certificate.as_ref(), head.now)?;
        let Demand::Proof(key, ledger) = demand else { return Ok(None) };
        let origin = self.origin().ok_or(ProofError::NoOrigin)?;
        // Which host it is, the handshake and the head agree upon: this is no word of the head's alone.
        let of_host = head.host.as_ref().map(|host| origin.at_host(host));
        let asked = dpop::Asked {
            method: &head.method,
            origin: of_host.as_ref().unwrap_or(origin),
            path: &head.path,
            token: token.token_hash(),
            leeway: verified.times.leeway(),
            now: head.now,
        };
        Ok(dpop::check(&head.headers, key, ledger, &asked)?)
    }

    /// What the token asks of its sender.
    pub(super) fn demand<'a>(&'a self, verified: &'a Verified) -> Result<Demand<'a>, AuthnError> {
        // A verdict names a record of this authenticator: its key holds the authenticator's number.
        let record = self.records.get(verified.record);
        let unknown = || AuthnError::UnknownIssuer { tenant: self.tenant.clone() };
        record.ok_or_else(unknown)?.demand(verified.confirmation.as_ref())
    }

    /// Where the data plane is found: by configuration, or for local work where it listens.
    pub(super) fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref().or_else(|| self.shared.local_origin.get())
    }
}

/// 32 bytes in canonical base64url.
fn read_digest(text: &str) -> Option<Sha256> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}
