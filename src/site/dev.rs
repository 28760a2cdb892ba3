//! What local work needs and nobody wants to make by hand: an authority, and certificates for this machine and for tenants'
//! hosts that have none, under `certs/dev/`.
//!
//! The certificates say in their first lines (RFC 7468 §2 allows text before the first boundary) until when they are
//! good and to which key and authority they belong, so that deciding what is missing takes no ASN.1. A file without
//! those lines is somebody's own: it is left alone.

use std::{
    collections::HashSet,
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
use zeroize::Zeroizing;

use super::{host::HostName, secret};

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

/// The folder, from the site's top.
pub const DIRECTORY: &str = "certs/dev";

/// Chain and key of the server, for `localhost`, `127.0.0.1` and `::1`.
pub fn server_pair(dir: &Path) -> (PathBuf, PathBuf) {
    (dir.join(DIRECTORY).join("server.pem"), dir.join(DIRECTORY).join("server.key"))
}

/// Chain and key of a tenant's host.
pub fn host_pair(dir: &Path, host: &HostName) -> (PathBuf, PathBuf) {
    (dir.join(DIRECTORY).join(host.certificate_file()), dir.join(DIRECTORY).join(host.key_file()))
}

/// Makes what is missing under `certs/dev/` of the site in `dir`, and what is about to expire: the authority, and
/// certificates that it signs for the server and for `hosts`. Returns what it made.
pub fn ensure(dir: &Path, hosts: &[HostName]) -> Result<Vec<PathBuf>, DevError> {
    ensure_at(dir, hosts, SystemTime::now())
}

fn ensure_at(dir: &Path, hosts: &[HostName], now: SystemTime) -> Result<Vec<PathBuf>, DevError> {
    let folder = dir.join(DIRECTORY);
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.map_err(|source| DevError::File { path: folder.clone(), source })?;
    let authority = Pair { certificate: folder.join("ca.pem"), key: folder.join("ca.key") };
    let mut made = Vec::new();
    if !authority.is_good("", hosts, now + AUTHORITY_MARGIN)? {
        let key = KeyPair::generate()?;
        let certificate = authority_params(hosts, now)?.self_signed(&key)?;
        let until = not_after(now, AUTHORITY_LIFE)?;
        authority.write(&key, &certificate.pem(), "", hosts, until, &mut made)?;
    }
    let issuer_id = hex(read(&authority.certificate)?.unwrap_or_default().as_bytes());
    let mut issuer = None;
    let server = (server_pair(dir), ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec());
    let of_hosts = hosts.iter().map(|host| (host_pair(dir, host), vec![host.to_string()]));
    for ((certificate, key), names) in std::iter::once(server).chain(of_hosts) {
        let pair = Pair { certificate, key };
        if pair.is_good(&issuer_id, &[], now + SERVER_MARGIN)? {
            continue;
        }
        let issuer = match &issuer {
            Some(issuer) => issuer,
            None => &*issuer.insert(Issuer::new(authority_params(hosts, now)?, authority.read_key()?)),
        };
        let key = KeyPair::generate()?;
        let certificate = server_params(names, now)?.signed_by(&key, issuer)?;
        pair.write(&key, &certificate.pem(), &issuer_id, &[], not_after(now, SERVER_LIFE)?, &mut made)?;
    }
    Ok(made)
}

/// A certificate and its key.
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl Pair {
    /// Whether both are there, belong together and to that issuer, can vouch for `hosts`, and are good at `until`.
    fn is_good(&self, issuer: &str, hosts: &[HostName], until: SystemTime) -> Result<bool, DevError> {
        let (Some(certificate), Some(key)) = (read(&self.certificate)?, self.key_text()?) else {
            return Ok(false);
        };
        let line = |name: &str| certificate.lines().find_map(|line| line.strip_prefix(name));
        let Some(not_after) = line(NOT_AFTER) else { return Ok(true) };
        let not_after = not_after.parse::<jiff::Timestamp>().and_then(SystemTime::try_from);
        let key = KeyPair::from_pem(&key).map(|key| hex(&key.subject_public_key_info()));
        let named: HashSet<&str> = line(HOSTS).unwrap_or_default().split(' ').collect();
        Ok(not_after.is_ok_and(|not_after| not_after > until)
            && line(KEY) == key.ok().as_deref()
            && line(ISSUER) == Some(issuer)
            && hosts.iter().all(|host| named.contains(host.as_str())))
    }

    fn key_text(&self) -> Result<Option<Zeroizing<String>>, DevError> {
        found(&self.key, secret::read_text(&self.key))
    }

    fn read_key(&self) -> Result<KeyPair, DevError> {
        match self.key_text()? {
            Some(text) => Ok(KeyPair::from_pem(&text)?),
            None => {
                let source = io::Error::new(io::ErrorKind::NotFound, "the authority's key is not here");
                Err(DevError::File { path: self.key.clone(), source })
            }
        }
    }

    /// Writes the key first: a certificate without its key is made anew at the next start.
    fn write(
        &self,
        key: &KeyPair,
        certificate: &str,
        issuer: &str,
        hosts: &[HostName],
        not_after: jiff::civil::Date,
        made: &mut Vec<PathBuf>,
    ) -> Result<(), DevError> {
        let id = hex(&key.subject_public_key_info());
        let hosts: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
        let hosts = hosts.join(" ");
        let text = format!(
            "{TITLE}{NOT_AFTER}{not_after}T00:00:00Z\n{KEY}{id}\n{ISSUER}{issuer}\n{HOSTS}{hosts}\n{certificate}"
        );
        write(&self.key, &Zeroizing::new(key.serialize_pem()), 0o600)?;
        write(&self.certificate, &text, 0o644)?;
        made.extend([self.key.clone(), self.certificate.clone()]);
        Ok(())
    }
}

/// An authority that can vouch for this machine and for the site's hosts only: whoever steals its key gains nothing
/// against other names.
fn authority_params(hosts: &[HostName], now: SystemTime) -> Result<CertificateParams, DevError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Sandgate development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let names = std::iter::once("localhost").chain(hosts.iter().map(HostName::as_str));
    let names = names.map(|name| GeneralSubtree::DnsName(name.to_owned()));
    let addresses = [
        CidrSubnet::from_v4_prefix([127, 0, 0, 0], 8),
        CidrSubnet::from_v6_prefix(std::net::Ipv6Addr::LOCALHOST.octets(), 128),
    ];
    let permitted_subtrees = names.chain(addresses.map(GeneralSubtree::IpAddress)).collect();
    params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    dated(params, now, AUTHORITY_LIFE)
}

fn server_params(names: Vec<String>, now: SystemTime) -> Result<CertificateParams, DevError> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Sandgate development server");
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
    found(path, fs::read_to_string(path))
}

fn found<T>(path: &Path, read: io::Result<T>) -> Result<Option<T>, DevError> {
    match read {
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
/// Of the authority: what else it may vouch for.
const HOSTS: &str = "hosts: ";

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
        ensure_for(dir, &[], days)
    }

    fn ensure_for(dir: &Path, hosts: &[&str], days: u64) -> Vec<String> {
        let now =
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + DAY * u32::try_from(days).unwrap();
        let hosts: Vec<HostName> = hosts.iter().map(|host| host.parse().unwrap()).collect();
        let made = ensure_at(dir, &hosts, now).unwrap();
        made.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_host_has_a_certificate_of_an_authority_that_may_vouch_for_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ensure(dir.path(), 0).len(), 4);
        let of_host = ["a.example.key", "a.example.pem"];
        let all = [&["ca.key", "ca.pem", "server.key", "server.pem"][..], &of_host].concat();
        assert_eq!(ensure_for(dir.path(), &["a.example"], 0), all, "the authority knows the name");
        assert!(ensure_for(dir.path(), &["a.example"], 0).is_empty());
        assert!(ensure_for(dir.path(), &[], 0).is_empty(), "one that knows more is good");
        fs::remove_file(dir.path().join("certs/dev/a.example.key")).unwrap();
        assert_eq!(ensure_for(dir.path(), &["a.example"], 0), of_host);
        assert_eq!(ensure_for(dir.path(), &["a.example", "b.example"], 0).len(), 8);
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
        ensure_for(dir.path(), &["a.example"], 0);
        for (name, mode) in [("ca.key", 0o600), ("server.key", 0o600), ("a.example.key", 0o600), ("", 0o700)]
        {
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
