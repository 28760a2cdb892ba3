//! Authorities of a test's own, and what they vouch for: certificates of servers and clients, lists of revoked ones.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};

/// Midnight so many days from today. The library does not name its own type for that.
macro_rules! day {
    ($days:expr) => {
        rcgen::date_time_ymd(1970, 1, 1)
            + std::time::Duration::from_secs(
                u64::try_from((crate::token::unix_now() / 86_400 + $days) * 86_400).unwrap(),
            )
    };
}

/// Chain and key, as PEM.
pub(crate) type Pair = (String, String);

/// Whoever trusts it trusts what it signs.
pub(crate) struct Authority {
    name: String,
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// From which day to which, counted from today.
pub(crate) type Days = std::ops::Range<i64>;

pub(crate) const GOOD: Days = -1..30;
pub(crate) const EXPIRED: Days = -30..-1;

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let params = authority(name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { name: name.to_owned(), issuer: Issuer::new(params, key), pem }
    }

    /// Its own certificate, as one that ends so many days from today.
    pub(crate) fn signed_until(&self, days: i64) -> String {
        let mut params = authority(&self.name);
        (params.not_before, params.not_after) = (day!(-90), day!(days));
        params.self_signed(self.issuer.key()).unwrap().pem()
    }

    /// For servers of those names.
    pub(crate) fn server(&self, names: &[&str], days: Days) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.sign(CertificateParams::new(names).unwrap(), ExtendedKeyUsagePurpose::ServerAuth, days)
    }

    /// For a client; the serial number is how a list names it.
    pub(crate) fn client(&self, serial: u64, days: Days) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("client {serial}"));
        params.serial_number = Some(SerialNumber::from(serial));
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth, days)
    }

    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose, days: Days) -> Pair {
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        (params.not_before, params.not_after) = (day!(days.start), day!(days.end));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A list of what it has revoked, until the next.
    pub(crate) fn revoked(&self, serials: &[u64], days: Days) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: day!(days.start),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: day!(days.start),
            next_update: day!(days.end),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}
