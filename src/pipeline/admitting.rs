//! Components on their way into a revision: each file is read once in a build, and one tenant's hold nobody else up.

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    sandbox::{Component, Sandbox},
    site::{
        FileIdentity, FunctionSources, NamedFile,
        config::ServerConfig,
        diagnostic::{Diagnostic, with_causes},
        manifest::RawManifest,
    },
};

/// How long a build waits for the components of one tenant. What is not compiled by then leaves the tenant's part as it was
/// ([`Sandbox::when_compiled`] tells when to build again); all others proceed.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Where nothing serves yet.
    pub first: Duration,
    /// Where others' changes wait.
    pub later: Duration,
}

impl Patience {
    /// For a gateway that serves: at a start a minute, in which hundreds of components of usual size compile; at a reload what
    /// an author of another tenant does not mind.
    pub const SERVING: Self = Self { first: Duration::from_secs(60), later: Duration::from_secs(10) };
    /// Whoever starts one for local work waits for all of it, rather than to find a function missing at first.
    pub const DEVELOPING: Self = Self { first: Self::WHOLE.first, later: Self::SERVING.later };
    /// On a workbench everything is told, however long it takes: no site is compiled for a day.
    pub const WHOLE: Self = Self { first: Duration::from_secs(86_400), later: Duration::from_secs(86_400) };
}

/// The components of one tenant in one build.
pub(super) struct Admitting<'a> {
    sandbox: &'a Sandbox,
    components: &'a Components,
    /// Nobody waits for them any longer than that.
    until: Instant,
    /// Whether some are not compiled yet.
    unfinished: Cell<bool>,
}

/// Components admitted in one build, by the files they came from: functions that share a file share the reading of it.
#[derive(Default)]
pub(super) struct Components(Mutex<HashMap<FileIdentity, Arc<Component>>>);

impl<'a> Admitting<'a> {
    pub(super) fn new(sandbox: &'a Sandbox, components: &'a Components, patience: Duration) -> Self {
        Self { sandbox, components, until: Instant::now() + patience, unfinished: Cell::new(false) }
    }

    /// The component of a function, or what is wrong with it.
    pub(super) fn admit(
        &self,
        file: NamedFile<'_>,
        sources: &FunctionSources,
        manifest: &RawManifest,
        config: &ServerConfig,
    ) -> Result<Arc<Component>, Diagnostic> {
        let identity = file.identity();
        if let Some(component) = self.components.get(&identity) {
            return Ok(component);
        }
        let shown = file.shown().to_owned();
        let bytes = file.bytes(config.sandbox.component)?;
        let origin = sources.dir().join(manifest.component.get_ref());
        let admitted = self.sandbox.admit_by(&sources.id.tenant, bytes, Some(&origin), self.until);
        let component = admitted.map_err(|error| {
            let is_under_way = error.is_under_way();
            let fault = Diagnostic::fault(with_causes(&error.in_file(&shown)))
                .at(&sources.toml, manifest.component.span());
            if is_under_way {
                self.unfinished.set(true);
                return fault;
            }
            fault.hint("`sandgate function inspect` shows what a component needs")
        })?;
        self.components.put(identity, &component);
        Ok(component)
    }

    /// Whether some are not compiled yet.
    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished.get()
    }
}

impl Components {
    fn get(&self, file: &FileIdentity) -> Option<Arc<Component>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(file).cloned()
    }

    fn put(&self, file: FileIdentity, component: &Arc<Component>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(file, Arc::clone(component));
    }
}
