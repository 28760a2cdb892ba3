//! A tenant's own host names: each with a certificate, ticket keys and trust anchors that nobody else has.
//!
//! What is wrong with a host is a fault of its tenant's part, and told as one; but the tenant's other ways in go on, and so
//! does the host itself on what it had before (hardening B8).

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use toml::Spanned;

use super::{
    NEAR, Pair, TlsError,
    clients::{Authorities, Clients, Revocations},
    covers, offer, private, read_chain, read_pair, timestamp, validity,
};
use crate::{
    id::TenantName,
    site::{
        Site, TenantSources, dev,
        diagnostic::{Diagnostic, with_causes},
        host::HostName,
    },
};

/// A host in force: what a handshake by its name needs.
#[derive(Debug)]
pub struct Host {
    name: HostName,
    tenant: TenantName,
    config: Arc<ServerConfig>,
    expires: SystemTime,
    needs_certificate: bool,
    /// Of chain and clients: the same, the same configuration, and its tickets stay good.
    made_of: Digest,
    /// Of authorities and lists.
    clients: Digest,
}

pub(super) type Digest = [u8; 32];

impl Host {
    /// Its name.
    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// The one tenant that it serves.
    pub fn tenant(&self) -> &TenantName {
        &self.tenant
    }

    /// What is offered by its name.
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// When its certificate expires.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// Whether its clients must show a certificate of their own.
    pub fn needs_certificate(&self) -> bool {
        self.needs_certificate
    }

    /// Whether a client that `other` let in would have been let in by this one: they differ in their certificates at most.
    pub fn admits_like(&self, other: &Self) -> bool {
        self.name == other.name && self.tenant == other.tenant && self.clients == other.clients
    }
}

/// Something that a tenant's hosts need, and until when it is good.
#[derive(Debug)]
pub struct Validity {
    /// What.
    pub needed: Needed,
    /// Until when, or why it cannot be used now.
    pub until: Result<SystemTime, TlsError>,
}

/// What it is, by its name or that of its file under `certs/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needed {
    /// A host's certificate.
    Host(HostName),
    /// Authorities of client certificates: the end of the first that ends.
    Authorities(String),
    /// One among authorities that is left out.
    LeftOut(String),
    /// Lists of what they have revoked: the end of the first that is out of date.
    Revocations(String),
}

/// The hosts of one tenant, in the making.
pub struct Hosts<'a> {
    /// Where their files are.
    pub site: &'a Site,
    /// Whose they are.
    pub tenant: &'a TenantSources,
    /// Those in force until now.
    pub before: &'a [Arc<Host>],
    /// Whether a host without certificate is to be expected: keys are in no repository.
    pub development: bool,
    /// When.
    pub now: SystemTime,
}

impl Hosts<'_> {
    /// All that can be served, and what is wrong with the others.
    pub fn compile(&self) -> (Vec<Arc<Host>>, Vec<Diagnostic>) {
        let (mut hosts, mut told) = (Vec::new(), Vec::new());
        let Some(raw) = self.tenant.raw.as_ref().filter(|raw| !raw.hosts.is_empty()) else {
            return (hosts, told);
        };
        let source = &self.tenant.toml;
        let of_clients = raw.client_ca.as_ref().map(Spanned::span).unwrap_or_default();
        let clients = Clients::read(self.site, raw, self.now).map_err(|error| {
            told.push(Diagnostic::fault(with_causes(&error)).at(source, of_clients.clone()));
        });
        let warnings = clients.iter().flat_map(|clients| clients.warnings(self.now));
        told.extend(warnings.map(|warning| warning.at(source, of_clients.clone())));
        for written in &raw.hosts {
            let name = written.get_ref();
            let before = || self.before.iter().find(|host| host.name == *name);
            let files = self.files(name);
            if self.development && !files.are_all_there() {
                told.push(files.missing(name, self.now).at(source, written.span()));
                continue;
            }
            let made = clients
                .as_ref()
                .map_err(|()| None)
                .and_then(|clients| self.host(name, &files, clients, before()).map_err(Some));
            match made {
                Ok(host) => {
                    told.extend(near(&host, self.now).map(|near| near.at(source, written.span())));
                    hosts.push(host);
                }
                Err(error) => {
                    told.extend(error.map(|error| {
                        let fault = Diagnostic::fault(format!("host `{name}`: {}", with_causes(&error)));
                        fault.at(source, written.span()).hint(match before() {
                            Some(_) => "what it had before stays in use",
                            None => "its tenant is served by path until this is mended",
                        })
                    }));
                    hosts.extend(before().cloned());
                }
            }
        }
        (hosts, told)
    }

    /// All that its hosts need, judged as in earnest.
    pub fn validity(&self) -> Vec<Validity> {
        let Some(raw) = self.tenant.raw.as_ref().filter(|raw| !raw.hosts.is_empty()) else {
            return Vec::new();
        };
        let mut found: Vec<Validity> = raw
            .hosts
            .iter()
            .map(|written| {
                let name = written.get_ref();
                let until = self.pair(name, &self.files(name)).map(|pair| pair.expires);
                Validity { needed: Needed::Host(name.clone()), until }
            })
            .collect();
        if let Some(path) = &raw.client_ca {
            let name = path.get_ref();
            let (until, left_out) = match Authorities::read(&self.site.certificate_file(name), self.now) {
                Ok(Authorities { until, left_out, .. }) => (Ok(until), left_out),
                Err(error) => (Err(error), Vec::new()),
            };
            found.push(Validity { needed: Needed::Authorities(name.clone()), until });
            let left_out = left_out.into_iter().map(Err);
            found.extend(left_out.map(|until| Validity { needed: Needed::LeftOut(name.clone()), until }));
        }
        if let Some(path) = &raw.client_crl {
            let name = path.get_ref();
            let lists = Revocations::read(&self.site.certificate_file(name), self.now);
            let until = lists.map(|lists| lists.until);
            found.push(Validity { needed: Needed::Revocations(name.clone()), until });
        }
        found
    }

    fn files(&self, name: &HostName) -> Files {
        if self.development && !self.site.has_pair_of(name) {
            let (certificate, key) = dev::host_pair(&self.site.dir, name);
            let made = Files { certificate, key };
            if made.are_all_there() {
                return made;
            }
        }
        Files {
            certificate: self.site.certificate_file(&name.certificate_file()),
            key: self.site.certificate_file(&name.key_file()),
        }
    }

    /// Chain and key, if they can be served by that name.
    fn pair(&self, name: &HostName, files: &Files) -> Result<Pair, TlsError> {
        let pair = read_pair(&files.certificate, &files.key, self.now)?;
        if !pair.key.cert.first().is_some_and(|leaf| covers(leaf, name.as_str())) {
            return Err(TlsError::NotCovered { path: files.certificate.clone(), host: name.to_string() });
        }
        Ok(pair)
    }

    fn host(
        &self,
        name: &HostName,
        files: &Files,
        clients: &Clients,
        before: Option<&Arc<Host>>,
    ) -> Result<Arc<Host>, TlsError> {
        let pair = self.pair(name, files)?;
        // The chain names the key: it was compared.
        let made_of = digest(pair.key.cert.iter().map(AsRef::as_ref).chain([clients.digest.as_slice()]));
        if let Some(before) = before.filter(|before| before.made_of == made_of) {
            return Ok(Arc::clone(before));
        }
        Ok(Arc::new(Host {
            name: name.clone(),
            tenant: self.tenant.name.clone(),
            config: offer(Arc::new(Always(pair.key)), clients.verifier.clone())?,
            expires: pair.expires,
            needs_certificate: clients.required,
            made_of,
            clients: clients.digest,
        }))
    }
}

/// One certificate, whoever asks: by another name nobody comes here.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Where chain and key are.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn are_all_there(&self) -> bool {
        self.certificate.exists() && self.key.exists()
    }

    /// On a workbench the key may well be elsewhere; then the chain alone is judged, if it is there.
    fn missing(&self, name: &HostName, now: SystemTime) -> Diagnostic {
        let judged = match self.certificate.exists() {
            true => read_chain(&self.certificate).and_then(|chain| {
                validity(&self.certificate, &chain, now)?;
                let covered = chain.first().is_some_and(|leaf| covers(leaf, name.as_str()));
                let host = name.to_string();
                covered.then_some(()).ok_or(TlsError::NotCovered { path: self.certificate.clone(), host })
            }),
            false => Ok(()),
        };
        match judged.and(if self.key.exists() { private(&self.key) } else { Ok(()) }) {
            Ok(()) => {
                let missing =
                    if self.certificate.exists() { name.key_file() } else { name.certificate_file() };
                Diagnostic::warning(format!(
                    "host `{name}` is not served here: there is no `certs/{missing}`"
                ))
                .hint("`sandgate dev` makes one for this machine; `sandgate serve` calls it a fault, and serves its tenant by path alone")
            }
            Err(error) => Diagnostic::fault(format!("host `{name}`: {}", with_causes(&error))),
        }
    }
}

/// A warning, if the host's certificate expires soon.
fn near(host: &Host, now: SystemTime) -> Option<Diagnostic> {
    (host.expires <= now + NEAR).then(|| {
        let message =
            format!("the certificate of host `{}` expires at {}", host.name, timestamp(host.expires));
        Diagnostic::warning(message).hint("get the next one: `serve` takes it up while it runs")
    })
}

/// Each part with its length, so that no two lists of parts look alike.
pub(super) fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    let mut bytes = [0; 32];
    // SHA-256 has 32 bytes.
    bytes.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    bytes
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use super::*;

    const HOSTS: &str = "hosts = [\"a.example\", \"b.example\"]\n";

    fn write(dir: &Path, path: &str, text: &str) {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn certify(dir: &Path, host: &str) -> String {
        let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
        write(dir, &format!("certs/{host}.pem"), &made.cert.pem());
        write(dir, &format!("certs/{host}.key"), &made.signing_key.serialize_pem());
        made.cert.pem()
    }

    fn compile(dir: &Path, before: &[Arc<Host>]) -> (Vec<Arc<Host>>, Vec<String>) {
        let site = Site::read(dir);
        let tenant = site.tenants.get("acme").unwrap();
        let now = SystemTime::now();
        let (hosts, told) = Hosts { site: &site, tenant, before, development: false, now }.compile();
        (hosts, told.iter().map(Diagnostic::one_line).collect())
    }

    #[test]
    fn b09_ticket_keys_are_a_hosts_own_and_outlive_reloads_of_other_things() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write(dir, "policies/acme/tenant.toml", HOSTS);
        let authority = certify(dir, "a.example");
        certify(dir, "b.example");
        let (first, told) = compile(dir, &[]);
        let [a, b] = first.as_slice() else { panic!("{told:?}") };
        let ticket = a.config.ticketer.encrypt(b"session").unwrap();
        assert_eq!(a.config.ticketer.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(b.config.ticketer.decrypt(&ticket), None);

        // What is as it was goes on; what is renewed begins anew.
        certify(dir, "b.example");
        let (second, _) = compile(dir, &first);
        assert!(Arc::ptr_eq(a, &second[0]) && !Arc::ptr_eq(b, &second[1]));
        assert!(b.admits_like(&second[1]) && !a.admits_like(b));
        // Other clients are let in: what was resumed would not be judged.
        write(dir, "certs/ca.pem", &authority);
        write(dir, "policies/acme/tenant.toml", &format!("{HOSTS}client-ca = \"ca.pem\"\n"));
        let (third, told) = compile(dir, &second);
        assert!(told.is_empty(), "{told:?}");
        assert!(!third[0].config.ticketer.enabled() && third[0].config.send_tls13_tickets == 0);
        assert!(!third[0].admits_like(&second[0]));
    }

    #[test]
    fn b08_a_host_without_a_pair_is_told_and_not_served_and_one_that_had_a_pair_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write(dir, "policies/acme/tenant.toml", HOSTS);
        certify(dir, "a.example");
        let (hosts, told) = compile(dir, &[]);
        assert_eq!(hosts.iter().map(|host| host.name().as_str()).collect::<Vec<_>>(), ["a.example"]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("policies/acme/tenant.toml:1: host `b.example`: "), "{told:?}");
        fs::remove_file(dir.join("certs/a.example.key")).unwrap();
        let (kept, told) = compile(dir, &hosts);
        assert!(Arc::ptr_eq(&kept[0], &hosts[0]) && told.len() == 2, "{told:?}");
    }
}
