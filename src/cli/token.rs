//! `sandgate token`: tokens for local work, and why a token is or is not valid.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::{Args, Subcommand};

use super::{Exit, Failure, SiteArg, site::load};
use crate::{
    authn::{
        CertificateThumbprint,
        client::{ClientKey, ProofRequest},
        dev::{self, BoundTo, MintRequest},
        inspect,
    },
    authz::{SampleCall, sample_call},
    id::TenantName,
    site::{Site, TenantSources, secret, units::Span},
};

/// Make and examine tokens
#[derive(Debug, Subcommand)]
pub(super) enum Token {
    Mint(Mint),
    Proof(Proof),
    Inspect(Inspect),
}

/// Print a token of a tenant's dev issuer
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sandgate token mint --tenant acme --subject alice --role billing --scope invoice:write"
)]
pub(super) struct Mint {
    #[command(flatten)]
    site: SiteArg,
    /// The tenant whose dev issuer signs
    #[arg(long, value_name = "T")]
    tenant: TenantName,
    /// Who calls: the claim `sub`
    #[arg(long, value_name = "S")]
    subject: String,
    /// Name of the dev issuer [default: the tenant's unnamed or only one]
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// A role; may be repeated
    #[arg(long = "role", value_name = "R")]
    roles: Vec<String>,
    /// A scope; may be repeated
    #[arg(long = "scope", value_name = "S")]
    scopes: Vec<String>,
    /// Another claim, its value JSON or text; may be repeated
    #[arg(long = "claim", value_name = "K=V")]
    claims: Vec<String>,
    /// Key of the sender that the token is bound to, where the issuer's `binding` is `dpop`; made if there is no such file
    #[arg(long, value_name = "FILE")]
    dpop_key: Option<PathBuf>,
    /// Certificate (PEM) of the sender that the token is bound to, where the issuer's `binding` is `mtls`
    #[arg(long, value_name = "FILE", conflicts_with = "dpop_key")]
    client_cert: Option<PathBuf>,
    /// How long it is valid
    #[arg(long, value_name = "TIME", default_value = "15m")]
    ttl: Span,
}

/// Print a DPoP proof: that the sender of one request has the key that its token is bound to
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sandgate token proof --key client.pem --method POST --url https://localhost:8443/acme/hello --token token.txt\n\nThe first answer is 401 with `dpop-nonce`; a proof with that `--nonce` is taken. Each proof is good once."
)]
pub(super) struct Proof {
    /// The sender's key, as made by `token mint --dpop-key`; made if there is no such file
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Method of the request
    #[arg(long, value_name = "METHOD")]
    method: String,
    /// What is called; its query does not count
    #[arg(long, value_name = "URL")]
    url: String,
    /// File that holds the token; `-` reads standard input, so that it is in no process list
    #[arg(long, value_name = "FILE")]
    token: PathBuf,
    /// From the last `dpop-nonce` of the gateway
    #[arg(long, value_name = "N")]
    nonce: Option<String>,
}

/// Say why a token is or is not valid here, check by check
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sandgate token mint --tenant acme --subject alice | sandgate token inspect --tenant acme -"
)]
pub(super) struct Inspect {
    #[command(flatten)]
    site: SiteArg,
    /// The tenant that is called [default: each in turn, until one takes it]
    #[arg(long, value_name = "T")]
    tenant: Option<TenantName>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// File that holds the token; `-` reads standard input, so that it is in no process list
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Token {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        match self {
            Self::Mint(mint) => mint.run(out),
            Self::Proof(proof) => proof.run(out),
            Self::Inspect(inspect) => inspect.run(out),
        }
    }
}

impl Proof {
    fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        let token = read_token(&self.token)?;
        let request = ProofRequest {
            method: &self.method,
            url: &self.url,
            token: token.trim(),
            nonce: self.nonce.as_deref(),
            now: SystemTime::now(),
        };
        writeln!(out, "{}", ClientKey::open_or_create(&self.key)?.prove(&request)?)?;
        Ok(Exit::Done)
    }
}

impl Mint {
    fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        let site = Site::read(&self.site.site);
        let unknown = || format!("`{}` has no tenant `{}`", self.site.site.display(), self.tenant);
        let tenant = site.tenants.get(&self.tenant).ok_or_else(unknown)?;
        let claims = self.claims.iter().map(|claim| {
            let pair = claim.split_once('=').ok_or_else(|| format!("`{claim}` is not `name=value`"))?;
            Ok::<_, Failure>((pair.0.to_owned(), pair.1.to_owned()))
        });
        let key = self.dpop_key.as_deref().map(ClientKey::open_or_create).transpose()?;
        let certificate = self.client_cert.as_deref().map(certificate_thumbprint).transpose()?;
        let request = MintRequest {
            bound_to: key.map(|key| BoundTo::Key(key.thumbprint())).or(certificate.map(BoundTo::Certificate)),
            issuer: self.issuer,
            roles: self.roles,
            scopes: self.scopes,
            claims: claims.collect::<Result<_, _>>()?,
            ttl: self.ttl.0,
            ..MintRequest::new(self.subject)
        };
        writeln!(out, "{}", mint(&self.site.site, tenant, &request)?)?;
        Ok(Exit::Done)
    }
}

/// Of the first certificate in the file: a client's own comes before those of its authorities.
fn certificate_thumbprint(file: &Path) -> Result<CertificateThumbprint, Failure> {
    let pem = std::fs::read(file).map_err(|error| format!("`{}`: {error}", file.display()))?;
    let none = || format!("`{}` holds no certificate in PEM form", file.display());
    let der = secret::pem_section(&pem, "CERTIFICATE").ok_or_else(none)?;
    Ok(CertificateThumbprint::of(&der))
}

fn mint(dir: &Path, tenant: &TenantSources, request: &MintRequest) -> Result<String, Failure> {
    let faulty = || format!("`{}` is faulty: `sandgate check` says why", tenant.toml.path);
    let raw = tenant.raw.as_ref().ok_or_else(faulty)?;
    Ok(dev::mint(&dir.join(dev::DIRECTORY), &tenant.name, raw, request)?)
}

/// A token with which the call that a tenant's policy tests allow first is allowed.
pub(super) fn mint_for(dir: &Path, tenant: &TenantSources, call: &SampleCall) -> Result<String, Failure> {
    let raw = tenant.raw.as_ref().ok_or("the tenant's part is faulty")?;
    let mut request = MintRequest::new(&call.subject);
    request.issuer.clone_from(&call.issuer_name);
    request.roles.clone_from(&call.roles);
    request.scopes.clone_from(&call.scopes);
    for (tag, value) in &call.tags {
        let of_issuer = raw.issuers.iter().find_map(|issuer| issuer.get_ref().tags.get(tag));
        if let Some(pointer) = of_issuer {
            request.claims.push((pointer.get_ref().clone(), value.clone()));
        }
    }
    mint(dir, tenant, &request)
}

/// The first tenant with a call that its tests allow, and a token for it.
pub fn mint_sample(dir: &Path) -> Result<(TenantName, SampleCall, String), Failure> {
    let site = Site::read(dir);
    let sample = site.tenants.values().find_map(|tenant| {
        let call = sample_call(tenant.tests.as_ref()?)?;
        let token = mint_for(dir, tenant, &call).ok()?;
        Some((tenant.name.clone(), call, token))
    });
    Ok(sample.ok_or("no tenant has a dev issuer and a policy test that allows a call")?)
}

impl Inspect {
    fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        let token = read_token(&self.file)?;
        let loaded = load(&self.site.site)?;
        let revision = loaded.revision.ok_or("the platform part is faulty: `sandgate check` says why")?;
        let mut tenants: Vec<_> = revision.serving().collect();
        tenants.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(name) = &self.tenant {
            tenants.retain(|tenant| tenant.name == *name);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut best = None;
        for tenant in tenants {
            let inspection = runtime.block_on(inspect(&token, &tenant.authenticator, SystemTime::now()));
            let reached =
                inspection.checks.iter().filter(|check| check.state == crate::authn::State::Passed).count();
            let better = best.as_ref().is_none_or(|(_, _, most)| reached > *most);
            if better {
                best = Some((tenant.name.clone(), inspection, reached));
            }
        }
        let (tenant, inspection, _) =
            best.ok_or("no tenant of that name is served: `sandgate check` says why")?;
        if self.json {
            serde_json::to_writer_pretty(&mut *out, &inspection)?;
            writeln!(out)?;
        } else {
            writeln!(out, "at tenant `{tenant}`:\n{inspection}")?;
        }
        Ok(if inspection.valid { Exit::Done } else { Exit::No })
    }
}

fn read_token(file: &Path) -> std::io::Result<String> {
    let mut token = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().take(MAX_INPUT_BYTES).read_to_string(&mut token)?;
    } else {
        std::fs::File::open(file)?.take(MAX_INPUT_BYTES).read_to_string(&mut token)?;
    }
    Ok(token)
}

/// No token is longer than 8 kB (hardening A13); a little more is read, so that one can be told.
const MAX_INPUT_BYTES: u64 = 64 << 10;
