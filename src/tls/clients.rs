//! Who a tenant's hosts let in by certificate: its own authorities, less what they have revoked (hardening B7).

use std::{path::Path, sync::Arc, time::SystemTime};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};

use super::{
    NEAR, PROVIDER, TlsError,
    files::{instant, read, read_chain, timestamp, validity},
    host::{Digest, digest},
};
use crate::site::{
    Site,
    diagnostic::{Diagnostic, with_causes},
    tenant::RawTenant,
};

/// What clients of a tenant's hosts must show.
pub(super) struct Clients {
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// Whether without a certificate nobody is let in.
    pub(super) required: bool,
    pub(super) digest: Digest,
    /// Why some of the authorities are left out.
    left_out: Vec<TlsError>,
    /// When the first of the others ends.
    until: Option<SystemTime>,
}

impl Clients {
    pub(super) fn read(site: &Site, raw: &RawTenant, now: SystemTime) -> Result<Self, TlsError> {
        let Some(authorities) = &raw.client_ca else {
            let digest = digest([]);
            return Ok(Self { verifier: None, required: false, digest, left_out: Vec::new(), until: None });
        };
        let path = site.certificate_file(authorities.get_ref());
        let Authorities { good, left_out, until } = Authorities::read(&path, now)?;
        let mut roots = RootCertStore::empty();
        for authority in &good {
            roots.add(authority.clone()).map_err(|_| TlsError::NotX509 { path: path.clone() })?;
        }
        let lists = match &raw.client_crl {
            Some(list) => Revocations::read(&site.certificate_file(list.get_ref()), now)?.lists,
            None => Vec::new(),
        };
        let required = raw.needs_client_certificates();
        let parts = good.iter().map(AsRef::as_ref).chain(lists.iter().map(AsRef::as_ref));
        let digest = digest(parts.chain([[u8::from(required)].as_slice()]));
        // A list that is out of date says nothing of who was revoked since (INVARIANT Closed).
        let mut verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&PROVIDER))
                .with_crls(lists)
                .enforce_revocation_expiration();
        if !required {
            verifier = verifier.allow_unauthenticated();
        }
        let verifier = verifier.build().map_err(|source| TlsError::Clients { path, source })?;
        Ok(Self { verifier: Some(verifier), required, digest, left_out, until: Some(until) })
    }

    /// What is not a fault yet.
    pub(super) fn warnings(&self, now: SystemTime) -> impl Iterator<Item = Diagnostic> {
        let left_out = self.left_out.iter().map(|error| {
            Diagnostic::warning(format!("an authority of clients is left out: {}", with_causes(error)))
                .hint("the others in the file hold")
        });
        let near = self.until.filter(|until| *until <= now + NEAR).map(|until| {
            Diagnostic::warning(format!("an authority of clients ends at {}", timestamp(until)))
                .hint("put the next one beside it: clients of one that has ended are not let in")
        });
        left_out.chain(near)
    }
}

/// Authorities of clients that are valid now.
pub(super) struct Authorities {
    good: Vec<CertificateDer<'static>>,
    /// What is wrong with the others.
    pub(super) left_out: Vec<TlsError>,
    /// When the first of the good ones ends.
    pub(super) until: SystemTime,
}

impl Authorities {
    /// The library takes a trust anchor's word after its end (RFC 5280 §6.1.1 leaves that to us), so it is not asked: one
    /// that has ended vouches for nobody, and without another there is nobody to vouch (INVARIANT Closed).
    pub(super) fn read(path: &Path, now: SystemTime) -> Result<Self, TlsError> {
        let (mut good, mut left_out, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for authority in read_chain(path)? {
            match validity(path, std::slice::from_ref(&authority), now) {
                Ok(end) => {
                    good.push(authority);
                    ends.push(end);
                }
                Err(error) => left_out.push(error),
            }
        }
        match ends.into_iter().min() {
            Some(until) => Ok(Self { good, left_out, until }),
            None => {
                let none = TlsError::NotPem { path: path.into(), what: "certificate" };
                Err(left_out.into_iter().next().unwrap_or(none))
            }
        }
    }
}

/// Lists of revoked certificates, each of them still good.
pub(super) struct Revocations {
    lists: Vec<CertificateRevocationListDer<'static>>,
    /// When the first of them is out of date.
    pub(super) until: SystemTime,
}

impl Revocations {
    pub(super) fn read(path: &Path, now: SystemTime) -> Result<Self, TlsError> {
        let wrong = |wrong| TlsError::Revocations { path: path.into(), wrong };
        let none = "holds no list of revoked certificates in PEM form";
        let lists = CertificateRevocationListDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>();
        let lists = lists.map_err(|_| wrong(none))?;
        let mut first = None;
        for list in &lists {
            let (_, parsed) = CertificateRevocationList::from_der(list)
                .map_err(|_| wrong("holds a list of revoked certificates that cannot be read (X.509)"))?;
            let until =
                parsed.next_update().ok_or(wrong("holds a list that does not say until when it is good"))?;
            let until = instant(until);
            if until <= now {
                return Err(wrong("holds a list that is out of date: get the next from its authority"));
            }
            first = Some(first.map_or(until, |first: SystemTime| first.min(until)));
        }
        Ok(Self { until: first.ok_or(wrong(none))?, lists })
    }
}
