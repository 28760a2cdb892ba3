//! `policies/<tenant>/tenant.toml`, as written.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::{config::Isolation, host::HostName, units::Span};

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawTenant {
    /// What people call the tenant.
    pub name: Option<String>,
    /// Names that serve this tenant alone, each with its certificate: `certs/<host>.pem` and `certs/<host>.key`.
    #[serde(default)]
    pub hosts: Vec<Spanned<HostName>>,
    /// Authorities (PEM, a file under `certs/`) whose client certificates its hosts take.
    pub client_ca: Option<Spanned<String>>,
    /// What those authorities have revoked (PEM, a file under `certs/`), one list for each of them.
    pub client_crl: Option<Spanned<String>>,
    /// Who may vouch for its callers.
    #[serde(default)]
    pub issuers: Vec<Spanned<RawIssuer>>,
    /// Whether roles of named issuers share one name space with the unnamed issuer's.
    #[serde(default)]
    pub share_roles: bool,
    /// Tags whose values the audit records hold only as a keyed hash.
    #[serde(default)]
    pub redact: Vec<Spanned<String>>,
    /// Whose scripts may call it from a browser.
    #[serde(default)]
    pub cors: super::cors::RawCors,
    /// Where its functions run, if more is asked for it than the platform asks for all.
    #[serde(default)]
    pub isolation: Isolation,
    /// Upper bounds for its functions' limits.
    #[serde(default)]
    pub ceilings: super::manifest::RawLimits,
}

impl RawTenant {
    /// Whether its hosts must be shown a client certificate: tokens of one of its issuers are bound to them.
    pub fn needs_client_certificates(&self) -> bool {
        let is_mtls = |issuer: &Spanned<RawIssuer>| {
            issuer.get_ref().binding.as_ref().is_some_and(|binding| binding.get_ref() == "mtls")
        };
        self.issuers.iter().any(is_mtls)
    }

    /// Files under `certs/` that concern it.
    pub fn certificate_files(&self) -> impl Iterator<Item = String> {
        let pairs = self.hosts.iter().map(Spanned::get_ref);
        let pairs = pairs.flat_map(|host| [host.certificate_file(), host.key_file()]);
        let of_clients = [&self.client_ca, &self.client_crl].into_iter().flatten();
        pairs.chain(of_clients.map(|path| path.get_ref().clone()))
    }
}

/// One `[[issuers]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawIssuer {
    /// Exact `iss`.
    pub issuer: Spanned<String>,
    /// This gateway's identifiers: one of them must be in `aud`.
    pub audiences: Spanned<Vec<String>>,
    /// Allowed signature algorithms.
    pub algorithms: Spanned<Vec<Spanned<String>>>,
    /// A file in the tenant's folder, an https URL, `discover`, or for a dev issuer `dev`.
    pub keys: Spanned<String>,
    /// Tolerated clock difference, at most 60 s.
    pub leeway: Option<Spanned<Span>>,
    /// Longest `exp` − `iat`.
    pub max_lifetime: Option<Spanned<Span>>,
    /// Allowed `typ` values.
    pub token_types: Option<Spanned<Vec<String>>>,
    /// JSON pointer to the roles.
    pub roles: Option<Spanned<String>>,
    /// JSON pointer to the scopes.
    pub scopes: Option<Spanned<String>>,
    /// Tag name → JSON pointer of the claim behind it.
    #[serde(default)]
    pub tags: BTreeMap<String, Spanned<String>>,
    /// JSON pointer to the claim that names the tenant, where several share the issuer.
    pub tenant_claim: Option<Spanned<String>>,
    /// The claim's value that means this tenant; its name when left out.
    pub tenant_value: Option<Spanned<String>>,
    /// How its tokens are bound to their senders: `none`, `mtls` (RFC 8705) or `dpop` (RFC 9449).
    pub binding: Option<Spanned<String>>,
    /// The issuer's name in caller ids; at most one issuer of a tenant has none.
    pub name: Option<Spanned<String>>,
    /// `sandgate dev` owns this issuer's key; refused by `serve`.
    #[serde(default)]
    pub dev: bool,
}
