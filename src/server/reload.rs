//! A site that changes while it is served: what can be is put in force part by part, and what cannot be is told.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::{
    Door, Options, Rules,
    start::{components, development, own_pair},
};
use crate::{
    pipeline::{Builder, FaultyPlatform, Gateway},
    site::{
        Site,
        config::ServerConfig,
        diagnostic::{Diagnostic, with_causes},
        watch::{Changes, Watch},
    },
    tls::{self, Certificates},
};

/// Puts in force what the site's authors write, part by part.
pub(super) struct Reloader {
    pub(super) gateway: Arc<Gateway>,
    pub(super) builder: Builder,
    pub(super) site: Site,
    pub(super) watch: Watch,
    pub(super) certificates: Arc<Certificates>,
    /// Why the files' pair is not in force.
    pub(super) certificate_fault: Option<Diagnostic>,
    pub(super) door: Arc<Door>,
    /// What connections are judged by.
    pub(super) admitted: ServerConfig,
    /// What this process was started with.
    pub(super) started: ServerConfig,
    /// What was told to need a restart.
    pub(super) held: Vec<&'static str>,
    pub(super) options: Options,
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
        if let Err(error) = development(&self.options, &self.site) {
            error!("something for local work is missing: {}", with_causes(&error));
        }
        if changes.everything || changes.platform {
            self.renew();
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
                self.admit();
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

    /// Takes the gateway's own pair up again, from where a sound `sandgate.toml` says that it is.
    fn renew(&mut self) {
        if self.site.platform.is_faulty() {
            return;
        }
        let own = own_pair(&self.options, &self.site.platform.config);
        self.certificate_fault = self.certificates.reload(&own).err().map(|error| {
            let fault = Diagnostic::fault(format!("the certificate in use stays: {}", with_causes(&error)));
            error!("{}", fault.one_line());
            fault
        });
    }

    /// Puts `[server]` in force for connections to come, and tells what of the settings cannot be while this process runs.
    fn admit(&mut self) {
        let config = &self.site.platform.config;
        if *config == self.admitted {
            return;
        }
        let rules = self.door.rules();
        let offered = match config.tls.strict_sni == rules.strict_sni {
            true => Ok(Arc::clone(&rules.tls)),
            false => tls::server_config(Arc::clone(&self.certificates), config.tls.strict_sni),
        };
        match offered {
            Ok(offered) => self.door.replace(Rules::new(config, components(&self.site), offered)),
            Err(error) => error!("`[server]` in force stays: {}", with_causes(&error)),
        }
        let given = |name: &&str| match *name {
            "server.listen" => self.options.listen.is_some(),
            "server.ops-listen" => self.options.ops_listen.is_some(),
            _ => false,
        };
        let held: Vec<&str> =
            self.started.held_until_restart(config).into_iter().filter(|name| !given(name)).collect();
        if held != self.held && !held.is_empty() {
            warn!(settings = ?held, "needs a restart: `{}`", held.join("`, `"));
        }
        self.held = held;
        self.admitted = config.clone();
    }
}

/// Most lines that one reload logs of a kind.
const MAX_LOGGED: usize = 50;
