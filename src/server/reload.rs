//! Puts in force what changes in the site, and tells what cannot be.

use std::{path::PathBuf, sync::Arc};

use tracing::{error, info, warn};

use crate::{
    pipeline::{Builder, FaultyPlatform, Gateway},
    site::{
        Site,
        diagnostic::{Diagnostic, with_causes},
        watch::{Changes, Watch},
    },
    tls::Certificates,
};

/// Puts in force what the site's authors write, part by part.
pub(super) struct Reloader {
    pub(super) gateway: Arc<Gateway>,
    pub(super) builder: Builder,
    pub(super) site: Site,
    pub(super) watch: Watch,
    pub(super) certificates: Arc<Certificates>,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// Why the files' pair is not in force.
    pub(super) certificate_fault: Option<Diagnostic>,
}

impl Reloader {
    /// Follows the site for ever.
    pub(super) async fn run(mut self) {
        if let Some(fault) = self.watch.take_fault() {
            warn!(error = %fault, "the site is not watched whole: SIGHUP reads it again");
        }
        loop {
            let changes = self.watch.next().await;
            let gateway = Arc::clone(&self.gateway);
            // Compiling takes as long as it takes; requests go on meanwhile on the revision in force.
            match tokio::task::spawn_blocking(move || {
                self.apply(&changes);
                self
            })
            .await
            {
                Ok(reloader) => self = reloader,
                Err(error) => {
                    error!(%error, "reloading ended badly; the revision in force stays, and nothing is reloaded any more");
                    let fault = Diagnostic::fault("reloading ended badly: restart the gateway");
                    gateway.keep(vec![fault]);
                    return;
                }
            }
        }
    }

    fn apply(&mut self, changes: &Changes) {
        self.site = self.site.refresh(changes);
        if changes.everything || changes.platform {
            let reloaded = self.certificates.reload(&self.certificate, &self.key);
            self.certificate_fault = reloaded.err().map(|error| {
                let fault =
                    Diagnostic::fault(format!("the certificate in use stays: {}", with_causes(&error)));
                error!("{}", fault.one_line());
                fault
            });
        }
        match self.builder.build(&self.site, Some(&self.gateway.revision())) {
            Ok((revision, diagnostics)) => {
                let faults = revision.diagnostics().filter(|(_, diagnostic)| diagnostic.is_fault());
                for (tenant, fault) in faults.take(MAX_LOGGED) {
                    error!(tenant.id = %tenant, "the tenant's last good part stays: {}", fault.one_line());
                }
                for diagnostic in diagnostics.iter().take(MAX_LOGGED) {
                    warn!("{}", diagnostic.one_line());
                }
                for tenant in revision.serving() {
                    tenant.authenticator.start(&tokio::runtime::Handle::current());
                }
                info!(revision = %revision.id(), "a revision is in force");
                self.gateway.swap(revision);
                // Tenants go on; that the operator has something to mend is told until it is mended.
                if let Some(fault) = &self.certificate_fault {
                    self.gateway.keep(vec![fault.clone()]);
                }
            }
            Err(FaultyPlatform(mut faults)) => {
                faults.extend(self.certificate_fault.clone());
                for fault in faults.iter().take(MAX_LOGGED) {
                    error!("the platform part in force stays: {}", fault.one_line());
                }
                self.gateway.keep(faults);
            }
        }
    }
}

/// Most lines that one reload logs of a kind.
const MAX_LOGGED: usize = 50;
