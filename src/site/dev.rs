//! What local work needs and nobody wants to make by hand: an authority and a server certificate, under `certs/dev/`.
//!
//! The certificates say in their first lines (RFC 7468 §2 allows text before the first boundary) until when they are
//! good and to which key and authority they belong, so that deciding what is missing takes no ASN.1. A file without
//! those lines is somebody's own: it is left alone.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData as _,
};

/// Why the material cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A file or folder.
    #[error("`{}` cannot be read or written", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A key or certificate.
    #[error("a certificate for development cannot be made")]
    Certificate(#[from] rcgen::Error),
    /// The clock.
    #[error("the system's clock shows no time that a certificate can hold")]
    Clock,
}

/// Where the material is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevMaterial {
    /// The authority's certificate: what `curl --cacert` takes.
    pub authority: PathBuf,
    /// The server's certificate for `localhost`, `127.0.0.1` and `::1`.
    pub certificate: PathBuf,
    /// The server's key.
    pub key: PathBuf,
    /// What was missing or about to expire, and has been made.
    pub made: Vec<PathBuf>,
}

impl DevMaterial {
    /// Makes what is missing under `certs/dev/` of the site in `dir`.
    pub fn ensure(dir: &Path) -> Result<Self, DevError> {
        Self::ensure_at(dir, SystemTime::now())
    }

    fn ensure_at(dir: &Path, now: SystemTime) -> Result<Self, DevError> {
        let folder = dir.join("certs/dev");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|source| DevError::File { path: folder.clone(), source })?;
        let authority = Pair { certificate: folder.join("ca.pem"), key: folder.join("ca.key") };
        let server = Pair { certificate: folder.join("server.pem"), key: folder.join("server.key") };
        let mut made = Vec::new();
        if !authority.is_good("", now + AUTHORITY_MARGIN)? {
            let key = KeyPair::generate()?;
            let certificate = authority_params(now)?.self_signed(&key)?;
            authority.write(&key, &certificate.pem(), "", not_after(now, AUTHORITY_LIFE)?, &mut made)?;
        }
        let authority_pem = read(&authority.certificate)?.unwrap_or_default();
        let issuer_id = hex(authority_pem.as_bytes());
        if !server.is_good(&issuer_id, now + SERVER_MARGIN)? {
            let Some(authority_key) = read(&authority.key)? else {
                let source = io::Error::new(io::ErrorKind::NotFound, "the authority's key is not here");
                return Err(DevError::File { path: authority.key, source });
            };
            let issuer = Issuer::new(authority_params(now)?, KeyPair::from_pem(&authority_key)?);
            let key = KeyPair::generate()?;
            let certificate = server_params(now)?.signed_by(&key, &issuer)?;
            server.write(&key, &certificate.pem(), &issuer_id, not_after(now, SERVER_LIFE)?, &mut made)?;
        }
        Ok(Self { authority: authority.certificate, certificate: server.certificate, key: server.key, made })
    }
}

/// A certificate and its key.
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl Pair {
    /// Whether both are there, belong together and to that issuer, and are good at `until`.
    fn is_good(&self, issuer: &str, until: SystemTime) -> Result<bool, DevError> {
        let (Some(certificate), Some(key)) = (read(&self.certificate)?, read(&self.key)?) else {
            return Ok(false);
        };
        let line = |name: &str| certificate.lines().find_map(|line| line.strip_prefix(name));
        let Some(not_after) = line(NOT_AFTER) else { return Ok(true) };
        let not_after = not_after.parse::<jiff::Timestamp>().and_then(SystemTime::try_from);
        let key = KeyPair::from_pem(&key).map(|key| hex(&key.subject_public_key_info()));
        Ok(not_after.is_ok_and(|not_after| not_after > until)
            && line(KEY) == key.ok().as_deref()
            && line(ISSUER) == Some(issuer))
    }

    /// Writes the key first: a certificate without its key is made anew at the next start.
    fn write(
        &self,
        key: &KeyPair,
        certificate: &str,
        issuer: &str,
        not_after: jiff::civil::Date,
        made: &mut Vec<PathBuf>,
    ) -> Result<(), DevError> {
        let id = hex(&key.subject_public_key_info());
        let text =
            format!("{TITLE}{NOT_AFTER}{not_after}T00:00:00Z\n{KEY}{id}\n{ISSUER}{issuer}\n{certificate}");
        write(&self.key, &key.serialize_pem(), 0o600)?;
        write(&self.certificate, &text, 0o644)?;
        made.extend([self.key.clone(), self.certificate.clone()]);
        Ok(())
    }
}

/// An authority that can vouch for this machine only: whoever steals its key gains nothing against other names.
fn authority_params(now: SystemTime) -> Result<CertificateParams, DevError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Sandgate development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            GeneralSubtree::DnsName("localhost".to_owned()),
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([127, 0, 0, 0], 8)),
            GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(
                std::net::Ipv6Addr::LOCALHOST.octets(),
                128,
            )),
        ],
        excluded_subtrees: Vec::new(),
    });
    dated(params, now, AUTHORITY_LIFE)
}

fn server_params(now: SystemTime) -> Result<CertificateParams, DevError> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    dated(params, now, SERVER_LIFE)
}

/// From yesterday, since clocks differ, for that long.
fn dated(
    mut params: CertificateParams,
    now: SystemTime,
    life: Duration,
) -> Result<CertificateParams, DevError> {
    let begin = date(now.checked_sub(DAY).ok_or(DevError::Clock)?)?;
    let end = not_after(now, life)?;
    params.not_before =
        rcgen::date_time_ymd(begin.year().into(), unsigned(begin.month())?, unsigned(begin.day())?);
    params.not_after = rcgen::date_time_ymd(end.year().into(), unsigned(end.month())?, unsigned(end.day())?);
    Ok(params)
}

fn not_after(now: SystemTime, life: Duration) -> Result<jiff::civil::Date, DevError> {
    date(now.checked_add(life).ok_or(DevError::Clock)?)
}

fn date(at: SystemTime) -> Result<jiff::civil::Date, DevError> {
    let at = jiff::Timestamp::try_from(at).map_err(|_| DevError::Clock)?;
    Ok(at.to_zoned_datetime(jiff::tz::TimeZone::UTC).date())
}

fn unsigned(of_date: i8) -> Result<u8, DevError> {
    u8::try_from(of_date).map_err(|_| DevError::Clock)
}

fn read(path: &Path) -> Result<Option<String>, DevError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DevError::File { path: path.to_owned(), source }),
    }
}

/// Writes beside and renames over, so that nobody ever reads half a file.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), DevError> {
    let failed = |source| DevError::File { path: path.to_owned(), source };
    let beside = path.with_added_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // `create_new` follows no link that somebody else may have put there.
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}

fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

const TITLE: &str = "Made by `sandgate dev` for work on this machine. Safe to delete: it is made again.\n";
const NOT_AFTER: &str = "not after: ";
const KEY: &str = "key: ";
const ISSUER: &str = "authority: ";

const DAY: Duration = Duration::from_secs(86_400);
/// Clients refuse certificates of servers that live longer than 398 days; whoever works with this starts it more often.
const SERVER_LIFE: Duration = Duration::from_secs(90 * 86_400);
const SERVER_MARGIN: Duration = Duration::from_secs(30 * 86_400);
const AUTHORITY_LIFE: Duration = Duration::from_secs(730 * 86_400);
/// No server certificate outlives its authority's.
const AUTHORITY_MARGIN: Duration = Duration::from_secs(91 * 86_400);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn ensure(dir: &Path, days: u64) -> Vec<String> {
        let now =
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + DAY * u32::try_from(days).unwrap();
        let material = DevMaterial::ensure_at(dir, now).unwrap();
        material.made.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_good_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ensure(dir.path(), 0), ["ca.key", "ca.pem", "server.key", "server.pem"]);
        assert!(ensure(dir.path(), 0).is_empty());
        assert!(ensure(dir.path(), 59).is_empty());
        assert_eq!(ensure(dir.path(), 61), ["server.key", "server.pem"]);
        fs::remove_file(dir.path().join("certs/dev/server.key")).unwrap();
        assert_eq!(ensure(dir.path(), 61), ["server.key", "server.pem"]);
        fs::remove_file(dir.path().join("certs/dev/ca.pem")).unwrap();
        assert_eq!(ensure(dir.path(), 61).len(), 4);
        assert_eq!(ensure(dir.path(), 800).len(), 4);
    }

    #[test]
    fn b10_keys_are_their_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        ensure(dir.path(), 0);
        for (name, mode) in [("ca.key", 0o600), ("server.key", 0o600), ("", 0o700)] {
            let path = dir.path().join("certs/dev").join(name);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{name}");
        }
    }

    #[test]
    fn somebodys_own_certificate_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        ensure(dir.path(), 0);
        let own = dir.path().join("certs/dev/server.pem");
        fs::write(&own, "-----BEGIN CERTIFICATE-----\n").unwrap();
        assert!(ensure(dir.path(), 300).is_empty());
        assert_eq!(fs::read_to_string(own).unwrap(), "-----BEGIN CERTIFICATE-----\n");
    }

    #[test]
    fn a_key_that_is_not_the_certificates_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        ensure(dir.path(), 0);
        let dev = dir.path().join("certs/dev");
        fs::copy(dev.join("ca.key"), dev.join("server.key")).unwrap();
        assert_eq!(ensure(dir.path(), 0), ["server.key", "server.pem"]);
    }
}
