//! `policies/<tenant>/tenant.toml`, as written.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::units::Span;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawTenant {
    /// What people call the tenant.
    pub name: Option<String>,
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
    /// Upper bounds for its functions' limits.
    #[serde(default)]
    pub ceilings: super::manifest::RawLimits,
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
