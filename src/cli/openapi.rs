//! `sandgate openapi`: a tenant's functions for other tools.

use std::io::Write;

use clap::Args;

use super::{Exit, Failure, SiteArg, site::load};
use crate::{http::openapi::document, id::TenantName};

/// Print OpenAPI 3.1 of a tenant's functions
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sandgate openapi --tenant acme --server https://gate.example > acme.json"
)]
pub(super) struct Openapi {
    #[command(flatten)]
    site: SiteArg,
    /// The tenant
    #[arg(long, value_name = "T")]
    tenant: TenantName,
    /// Where callers reach the gateway
    #[arg(long, value_name = "URL", default_value = "https://localhost:8443")]
    server: String,
}

impl Openapi {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        let loaded = load(&self.site.site)?;
        let revision = loaded.revision.ok_or("the platform part is faulty: `sandgate check` says why")?;
        let tenant = revision.tenant(&self.tenant)?;
        let name = loaded.site.tenants.get(&self.tenant).and_then(|tenant| tenant.raw.as_ref()?.name.clone());
        let title = name.unwrap_or_else(|| self.tenant.to_string());
        serde_json::to_writer_pretty(&mut *out, &document(tenant, &title, &self.server))?;
        writeln!(out)?;
        Ok(Exit::Done)
    }
}
