//! From `[[issuers]]` as written to issuer records. Every fault is told, and where it stands.

use std::{collections::HashMap, ops::Range, sync::Arc, time::Duration};

use jsonwebtoken::{Algorithm, Validation};
use toml::Spanned;

use super::{
    DevKeys, Shared,
    binding::Binding,
    fetch::{Locator, https_url},
    issuer::{IssuerRecord, Keys, media_type},
    keys::{self, Fit, KeySet, KeySetError},
    pointer::Pointer,
};
use crate::{
    id::TenantName,
    site::{
        diagnostic::{Diagnostic, Source},
        origin::Origin,
        tenant::{RawIssuer, RawTenant},
    },
};

/// Reads the issuers of one tenant.
pub(super) struct Compiler<'a> {
    pub(super) tenant: &'a TenantName,
    pub(super) raw: &'a RawTenant,
    pub(super) source: &'a Source,
    pub(super) files: &'a dyn Fn(&str) -> Option<Source>,
    pub(super) dev: DevKeys<'a>,
    pub(super) origin: Option<&'a Origin>,
    pub(super) shared: &'a Shared,
    pub(super) found: Vec<Diagnostic>,
}

impl Compiler<'_> {
    /// All records; faults are in `found`.
    pub(super) fn issuers(&mut self) -> Vec<IssuerRecord> {
        let raw = self.raw;
        if raw.issuers.is_empty() {
            self.found.push(
                Diagnostic::warning(format!(
                    "tenant `{}` has no issuers, so nobody can call its functions",
                    self.tenant
                ))
                .in_file(self.source)
                .hint("add an `[[issuers]]` table"),
            );
        }
        self.distinct(&raw.issuers);
        raw.issuers.iter().enumerate().filter_map(|(place, issuer)| self.issuer(place, issuer)).collect()
    }

    /// Names and (issuer, tenant value) pairs are given once.
    fn distinct(&mut self, issuers: &[Spanned<RawIssuer>]) {
        let mut names: HashMap<Option<&str>, ()> = HashMap::new();
        let mut pairs: Vec<(&str, Option<&str>)> = Vec::new();
        for spanned in issuers {
            let issuer = spanned.get_ref();
            let name = issuer.name.as_ref();
            if names.insert(name.map(|name| name.get_ref().as_str()), ()).is_some() {
                let (message, hint) = match name {
                    None => (
                        "more than one issuer has no name".to_owned(),
                        "a `sub` is unique only within its issuer: give all but one a `name`, which goes into caller ids",
                    ),
                    Some(name) => {
                        (format!("issuer name `{}` is used twice", name.get_ref()), "choose another `name`")
                    }
                };
                self.fault(name.map_or(spanned.span(), Spanned::span), message, hint);
            }
            let value = issuer
                .tenant_claim
                .as_ref()
                .map(|_| issuer.tenant_value.as_ref().map_or(self.tenant.as_str(), |value| value.get_ref()));
            let pair = (issuer.issuer.get_ref().as_str(), value);
            let overlaps = |other: &(&str, Option<&str>)| {
                other.0 == pair.0 && (other.1.is_none() || pair.1.is_none() || other.1 == pair.1)
            };
            if pairs.iter().any(overlaps) {
                self.fault(
                    issuer.issuer.span(),
                    format!("issuer `{}` is listed twice for the same tokens", pair.0),
                    "put all audiences into one record, or tell the records apart by `tenant-claim` and `tenant-value`",
                );
            }
            pairs.push(pair);
        }
    }

    fn issuer(&mut self, place: usize, spanned: &Spanned<RawIssuer>) -> Option<IssuerRecord> {
        let before = self.found.iter().filter(|found| found.is_fault()).count();
        let raw = spanned.get_ref();
        let issuer: Arc<str> = raw.issuer.get_ref().as_str().into();
        if issuer.is_empty() || issuer.starts_with("http://") {
            self.fault(raw.issuer.span(), format!("issuer `{issuer}` is not an https URL"), ISSUER_HINT);
        }
        if raw.audiences.get_ref().is_empty() || raw.audiences.get_ref().iter().any(String::is_empty) {
            self.fault(
                raw.audiences.span(),
                "there is no audience, or an empty one",
                "name what this gateway is called in the issuer's `aud`; without it, tokens for any other service would be taken",
            );
        }
        if let Some(name) = &raw.name
            // It is a segment of caller ids, as the tenant's name is.
            && let Err(error) = name.get_ref().parse::<TenantName>()
        {
            self.fault(
                name.span(),
                format!("issuer name `{}` is no name", name.get_ref()),
                error.to_string(),
            );
        }
        let binding = self.binding(raw);
        let allowed = self.algorithms(&raw.algorithms);
        let leeway = raw.leeway.as_ref().map_or(DEFAULT_LEEWAY, |span| span.get_ref().0);
        if let Some(span) = &raw.leeway
            && leeway > MAX_LEEWAY
        {
            self.fault(
                span.span(),
                format!("a leeway of `{}` is above 60s", span.get_ref()),
                "clocks that differ by more are broken: mend them, since the leeway lengthens every token's life",
            );
        }
        let max_lifetime = raw.max_lifetime.as_ref().map_or(DEFAULT_MAX_LIFETIME, |span| span.get_ref().0);
        if let Some(span) = &raw.max_lifetime
            && max_lifetime < Duration::from_secs(1)
        {
            self.fault(span.span(), "no token lives so short", "such as `max-lifetime = \"1h\"`");
        }
        let token_types = self.token_types(raw.token_types.as_ref());
        let roles = self.pointer(raw.roles.as_ref());
        let scopes = self.pointer(raw.scopes.as_ref());
        let tags = self.tags(raw);
        let tenant_claim = self.tenant_claim(raw);
        let keys = self.keys(raw, &issuer, &allowed);
        if self.found.iter().filter(|found| found.is_fault()).count() > before {
            return None;
        }
        let validations = allowed
            .iter()
            .map(|algorithm| (*algorithm, validation(*algorithm, &issuer, raw.audiences.get_ref(), leeway)))
            .collect();
        Some(IssuerRecord {
            place,
            issuer,
            name: raw.name.as_ref().map(|name| name.get_ref().clone()),
            allowed,
            validations,
            leeway,
            max_lifetime,
            issued_at_required: raw.max_lifetime.is_some(),
            token_types,
            roles,
            scopes,
            tags,
            tenant_claim,
            share_roles: self.raw.share_roles,
            binding: binding?,
            dev: raw.dev,
            keys: keys?,
            span: raw.issuer.span(),
        })
    }

    fn binding(&mut self, raw: &RawIssuer) -> Option<Binding> {
        let Some(written) = &raw.binding else { return Some(Binding::None) };
        let at = written.span();
        match written.get_ref().as_str() {
            "none" => Some(Binding::None),
            "dpop" => {
                self.need_origin(raw, at.clone());
                match self.shared.ledgers.of(self.tenant) {
                    Ok(ledger) => Some(Binding::Dpop(ledger)),
                    Err(_) => {
                        self.fault(at, "no nonces can be made for `dpop`", "the system gives no randomness");
                        None
                    }
                }
            }
            "mtls" => match certificates_are_asked_for(self.raw) {
                Ok(()) => Some(Binding::Mtls),
                Err(why) => {
                    self.fault(
                        at,
                        format!("binding `mtls` is of no use: {why}"),
                        "client certificates are asked for at a tenant's own `hosts`, by the authorities of `client-ca`; `dpop` needs neither",
                    );
                    None
                }
            },
            other => {
                self.fault(
                    at,
                    format!("binding `{other}` is not known"),
                    "`none`, `dpop` (RFC 9449) or `mtls` (RFC 8705)",
                );
                None
            }
        }
    }

    /// A proof names the url that its sender called, and only the operator can say which that is.
    fn need_origin(&mut self, raw: &RawIssuer, at: Range<usize>) {
        if self.origin.is_some() {
            return;
        }
        let message = "binding `dpop` needs `[server] origin` in sandgate.toml, and it is not set";
        let hint = "such as `origin = \"https://gate.example\"`: what proofs must name, since no Host header is believed";
        match self.dev {
            DevKeys::Refused => self.fault(at, message, hint),
            // Local work knows what it is called. `serve` will not take a dev issuer anyway.
            DevKeys::Allowed(_) if raw.dev => {}
            DevKeys::Allowed(_) => self.found.push(
                Diagnostic::warning(format!("{message}: `sandgate serve` will refuse it"))
                    .at(self.source, at)
                    .hint(hint),
            ),
        }
    }

    fn algorithms(&mut self, names: &Spanned<Vec<Spanned<String>>>) -> Vec<Algorithm> {
        let supported = || format!("one of {}", keys::algorithm_names().collect::<Vec<_>>().join(", "));
        if names.get_ref().is_empty() {
            self.fault(names.span(), "no algorithm is allowed", supported());
        }
        let mut allowed = Vec::new();
        for name in names.get_ref() {
            match (keys::algorithm(name.get_ref()), name.get_ref().as_str()) {
                (Some(algorithm), _) if allowed.contains(&algorithm) => {
                    self.fault(name.span(), format!("algorithm `{}` is listed twice", name.get_ref()), "list it once");
                }
                (Some(algorithm), _) => allowed.push(algorithm),
                (None, "none" | "None" | "NONE") => self.fault(
                    name.span(),
                    "algorithm `none` is refused",
                    "an unsigned token is nobody's word; use what the issuer signs with",
                ),
                (None, hmac) if hmac.starts_with("HS") => self.fault(
                    name.span(),
                    format!("algorithm `{hmac}` is refused"),
                    "a secret that verifies can also sign; have the issuer sign with ES256, EdDSA, PS256 or RS256",
                ),
                (None, other) => {
                    self.fault(name.span(), format!("algorithm `{other}` is not known"), supported());
                }
            }
        }
        allowed
    }

    fn token_types(&mut self, raw: Option<&Spanned<Vec<String>>>) -> Vec<String> {
        let Some(raw) = raw else { return vec![DEFAULT_TOKEN_TYPE.to_owned()] };
        if raw.get_ref().is_empty() || raw.get_ref().iter().any(String::is_empty) {
            self.fault(
                raw.span(),
                "no token type is allowed, or an empty one",
                "`[\"at+jwt\"]`, or `[\"JWT\"]` where the identity provider knows no better",
            );
        }
        raw.get_ref().iter().map(|text| media_type(text)).collect()
    }

    fn pointer(&mut self, raw: Option<&Spanned<String>>) -> Option<Pointer> {
        let raw = raw?;
        match raw.get_ref().parse() {
            Ok(pointer) => Some(pointer),
            Err(error) => {
                let error: super::pointer::PointerError = error;
                self.fault(raw.span(), format!("`{}` is no JSON pointer", raw.get_ref()), error.to_string());
                None
            }
        }
    }

    fn tags(&mut self, raw: &RawIssuer) -> Vec<(String, Pointer)> {
        let mut tags = Vec::with_capacity(raw.tags.len());
        for (place, (name, pointer)) in raw.tags.iter().enumerate() {
            if name.is_empty() || name.len() > MAX_TAG_NAME_BYTES || place >= MAX_TAGS {
                self.fault(
                    pointer.span(),
                    format!("tag `{name}` is one too many, or its name is empty or too long"),
                    format!("at most {MAX_TAGS} tags, with names of 1 to {MAX_TAG_NAME_BYTES} bytes"),
                );
            }
            if let Some(pointer) = self.pointer(Some(pointer)) {
                tags.push((name.clone(), pointer));
            }
        }
        tags
    }

    fn tenant_claim(&mut self, raw: &RawIssuer) -> Option<(Pointer, String)> {
        if let (None, Some(value)) = (&raw.tenant_claim, &raw.tenant_value) {
            self.fault(
                value.span(),
                "`tenant-value` without `tenant-claim`",
                "say which claim has this value: `tenant-claim = \"/tenant\"`",
            );
        }
        let pointer = self.pointer(raw.tenant_claim.as_ref())?;
        let value =
            raw.tenant_value.as_ref().map_or(self.tenant.to_string(), |value| value.get_ref().clone());
        Some((pointer, value))
    }

    fn keys(&mut self, raw: &RawIssuer, issuer: &Arc<str>, allowed: &[Algorithm]) -> Option<Keys> {
        let at = raw.keys.span();
        let text = raw.keys.get_ref().as_str();
        if raw.dev != (text == "dev") {
            self.fault(
                at,
                "a dev issuer has `dev = true` and `keys = \"dev\"`, any other has neither",
                "add what is missing, or name the issuer's own key set",
            );
            return None;
        }
        match text {
            "dev" => self.dev_keys(raw, allowed),
            "discover" => match https_url(issuer) {
                Ok(url) if url.query().is_none() => {
                    Some(Keys::Remote(self.shared.remotes.at(issuer, &Locator::Discover(url))))
                }
                Ok(_) => {
                    self.fault(
                        at,
                        "an issuer with a query cannot be discovered",
                        "name its key set's URL in `keys`",
                    );
                    None
                }
                Err(reason) => {
                    self.fault(at, format!("issuer `{issuer}` cannot be discovered: {reason}"), ISSUER_HINT);
                    None
                }
            },
            url if url.contains("://") => match https_url(url) {
                Ok(url) => Some(Keys::Remote(self.shared.remotes.at(issuer, &Locator::Jwks(url)))),
                Err(reason) => {
                    self.fault(
                        at,
                        format!("keys cannot be fetched from `{url}`: {reason}"),
                        "name an https URL, a file in the tenant's folder, or `discover`",
                    );
                    None
                }
            },
            file => match (self.files)(file) {
                Some(source) => self.key_file(&source, allowed).map(Keys::Fixed),
                None => {
                    self.fault(
                        at,
                        format!("key set `{file}` is not in the tenant's folder"),
                        "put the issuer's JWKS there, or name its https URL, or `discover`",
                    );
                    None
                }
            },
        }
    }

    fn dev_keys(&mut self, raw: &RawIssuer, allowed: &[Algorithm]) -> Option<Keys> {
        let at = raw.keys.span();
        let DevKeys::Allowed(files) = self.dev else {
            self.fault(
                at,
                "a dev issuer is served by `sandgate dev` only",
                "anyone who can read `certs/dev/` can make its tokens: name a real issuer's key set",
            );
            return None;
        };
        let name = raw.name.as_ref().map(|name| name.get_ref().as_str());
        let file = super::dev::file_name(self.tenant, name, "jwks.json");
        match files(&file) {
            Some(source) => self.key_file(&source, allowed).map(Keys::Fixed),
            None => {
                self.found.push(
                    Diagnostic::warning(format!("the dev issuer's key `{file}` has not been made"))
                        .at(self.source, at)
                        .hint("`sandgate dev` makes it"),
                );
                Some(Keys::Absent)
            }
        }
    }

    /// A key set that we can mend before serving: what a remote set would be excused is a fault here.
    fn key_file(&mut self, source: &Source, allowed: &[Algorithm]) -> Option<Arc<KeySet>> {
        let set = match KeySet::parse(source.text.as_bytes()) {
            Ok(set) => set,
            Err(error) => {
                let hint = match error {
                    KeySetError::PrivateKey { .. } => {
                        "keep only the public parameters, and replace the key: it must count as known to others"
                    }
                    _ => "a JWKS is `{\"keys\": [{\"kty\": …, \"kid\": …}]}` (RFC 7517 §5)",
                };
                self.found.push(Diagnostic::fault(error.to_string()).in_file(source).hint(hint));
                return None;
            }
        };
        let before = self.found.len();
        for (key, problem) in &set.problems {
            let message = format!("key {key}: {problem}");
            let found =
                if problem.is_harmless() { Diagnostic::warning(message) } else { Diagnostic::fault(message) };
            self.found.push(locate(found, source, key));
        }
        let mut usable = false;
        for key in set.keys() {
            let label = key.id.as_ref().map_or("without `kid`".to_owned(), |id| format!("`{id}`"));
            let found = match key.algorithm(allowed) {
                Fit::One(_) => {
                    usable = true;
                    continue;
                }
                Fit::Several => Diagnostic::fault(format!(
                    "key {label} has no `alg`, and several allowed algorithms fit it"
                ))
                .hint("give the key its `alg`, or allow only one of them in `algorithms`"),
                Fit::None => {
                    Diagnostic::warning(format!("key {label} fits no allowed algorithm; it is ignored"))
                        .hint("allow its algorithm in `algorithms`, or drop the key")
                }
            };
            self.found.push(locate(found, source, &label));
        }
        if !usable && !self.found.iter().skip(before).any(Diagnostic::is_fault) && !allowed.is_empty() {
            self.found.push(Diagnostic::fault(KeySetError::NoUsableKey.to_string()).in_file(source));
        }
        Some(Arc::new(set))
    }

    fn fault(&mut self, at: Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        self.found.push(Diagnostic::fault(message).at(self.source, at).hint(hint));
    }
}

/// At the key's id, if that can be found in the text as it is written.
fn locate(found: Diagnostic, source: &Source, label: &str) -> Diagnostic {
    let written = format!("\"{}\"", label.trim_matches('`'));
    match source.text.find(&written) {
        Some(start) => found.at(source, start..start + written.len()),
        None => found.in_file(source),
    }
}

/// Every claim that we rely on must be there: the crate compares `iss` and `aud` only if they happen to be.
fn validation(algorithm: Algorithm, issuer: &str, audiences: &[String], leeway: Duration) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.set_issuer(&[issuer]);
    validation.set_audience(audiences);
    validation.validate_nbf = true;
    validation.leeway = leeway.as_secs();
    validation
}

/// Whether connections of this tenant are asked for client certificates, which `binding = "mtls"` needs.
fn certificates_are_asked_for(raw: &RawTenant) -> Result<(), &'static str> {
    match (raw.hosts.is_empty(), &raw.client_ca) {
        (true, _) => Err("the tenant has no `hosts`"),
        (false, None) => Err("there is no `client-ca`"),
        (false, Some(_)) => Ok(()),
    }
}

const ISSUER_HINT: &str = "write the `iss` of its tokens exactly, such as `https://idp.acme.example`";
const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);
const MAX_LEEWAY: Duration = Duration::from_secs(60);
/// What common identity providers issue by default is within a day; longer lives need `max-lifetime`, in writing.
pub(super) const DEFAULT_MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// RFC 9068 §2.1.
pub(super) const DEFAULT_TOKEN_TYPE: &str = "at+jwt";
const MAX_TAGS: usize = 32;
const MAX_TAG_NAME_BYTES: usize = 64;
