//! `sandgate openapi`: a tenant's functions for other tools.

use std::io::Write;

use clap::Args;

use super::{Exit, Failure, SiteArg, site::load};
use crate::{http::openapi::document, id::TenantName, site::origin::Origin};

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
    /// Where callers reach the gateway [default: `[server] origin`, or https://localhost:8443]
    #[arg(long, value_name = "URL")]
    server: Option<Origin>,
}

impl Openapi {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        let loaded = load(&self.site.site)?;
        let revision = loaded.revision.ok_or("the platform part is faulty: `sandgate check` says why")?;
        let tenant = revision.tenant(&self.tenant)?;
        let name = loaded.site.tenants.get(&self.tenant).and_then(|tenant| tenant.raw.as_ref()?.name.clone());
        let title = name.unwrap_or_else(|| self.tenant.to_string());
        let origin = self.server.or_else(|| loaded.site.platform.config.server.origin.clone());
        let origin = origin.unwrap_or_else(|| Origin::local(8443));
        serde_json::to_writer_pretty(&mut *out, &document(tenant, &title, &origin))?;
        writeln!(out)?;
        Ok(Exit::Done)
    }
}
