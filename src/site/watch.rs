//! Watching a site: what its authors change, told part by part once they pause.
//!
//! Folders are watched, never files, so an editor that writes beside and renames over is noticed like one that writes in
//! place. Nothing is queued: what happened is merged into one [`Changes`] until somebody asks (**Bounded**).

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    config::ServerConfig,
    inotify::{AddError, Event, Inotify},
};
use crate::id::TenantName;

/// What changed since it was last asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// So much, or something so unclear, that all has to be looked at.
    pub everything: bool,
    /// The platform part: schema, guardrails, `sandgate.toml`, certificates.
    pub platform: bool,
    /// Parts of these tenants, their revocations perhaps among them.
    pub tenants: BTreeSet<TenantName>,
    /// Revocations of these tenants: in force on their own, so they need not wait for the rest.
    pub revocations: BTreeSet<TenantName>,
}

impl Changes {
    /// All of it, as at a SIGHUP.
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a site is not watched, or not all of it. `SIGHUP` still works.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The system has no more watches to give.
    #[error("the system's limit of watched folders is reached (`fs.inotify.max_user_watches`)")]
    TooMany,
    /// Anything else.
    #[error("the site cannot be watched")]
    Failed(#[source] std::io::Error),
}

/// A watched site.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    events: watch::Receiver<()>,
    watcher: Option<Arc<Inotify>>,
    reader: Option<JoinHandle<()>>,
}

/// Asks for everything, or for some tenants' parts, to be looked at again, from anywhere.
#[derive(Debug, Clone)]
pub struct Trigger(Arc<Shared>);

impl Trigger {
    /// As if everything had changed.
    pub fn pull(&self) {
        self.0.note(|pending| pending.changes = Changes::everything());
    }

    /// As if parts of these tenants had changed.
    pub fn changed(&self, tenants: BTreeSet<TenantName>) {
        self.0.note(|pending| pending.changes.tenants.extend(tenants));
    }
}

impl Watch {
    /// Watches the site in `dir` and the folders of the files that `config` names, but nothing under `data`.
    ///
    /// Call it within a runtime, and before the site is read, so that no change falls between. Of a large site the first folders are watched
    /// when this returns, and the others soon; then everything counts as changed.
    pub fn start(dir: &Path, data: &Path, config: &ServerConfig) -> Self {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let root = real(dir);
        let mut elsewhere: BTreeSet<PathBuf> =
            config.named_files().filter_map(|path| root.join(path).parent().map(real)).collect();
        elsewhere.retain(|folder| !folder.starts_with(&root));
        let (sender, events) = watch::channel(());
        let shared = Arc::new(Shared { root, data: real(data), pending: Mutex::default(), events: sender });
        let mut watch = Self { shared, events, watcher: None, reader: None };
        match Inotify::new() {
            Ok(watcher) => {
                let watcher = Arc::new(watcher);
                if let Err(fault) = elsewhere.iter().try_for_each(|folder| watcher.add(folder)) {
                    watch.shared.note(|pending| pending.fault = Some(fault.into()));
                }
                let (shared, reading) = (Arc::clone(&watch.shared), Arc::clone(&watcher));
                watch.reader = Some(tokio::spawn(async move {
                    let error = reading.read(|event| shared.take(event)).await;
                    shared.note(|pending| pending.fault = Some(WatchError::Failed(error)));
                }));
                watch.shared.adopt(&watcher, vec![watch.shared.root.clone()]);
                watch.watcher = Some(watcher);
            }
            Err(error) => watch.shared.note(|pending| pending.fault = Some(WatchError::Failed(error))),
        }
        watch
    }

    /// Why not all is watched, once.
    pub fn take_fault(&mut self) -> Option<WatchError> {
        lock(&self.shared.pending).fault.take()
    }

    /// A hand to ask for everything.
    pub fn trigger(&self) -> Trigger {
        Trigger(Arc::clone(&self.shared))
    }

    /// Waits until something changed and its author paused. Cancelling loses nothing.
    pub async fn next(&mut self) -> Changes {
        loop {
            while lock(&self.shared.pending).changes.is_empty() {
                if self.events.changed().await.is_err() {
                    // The sender is in `shared`, which we hold.
                    return Changes::everything();
                }
            }
            let latest = Instant::now() + LONGEST;
            while Instant::now() < latest {
                self.events.mark_unchanged();
                if timeout(QUIET, self.events.changed()).await.is_err() {
                    break;
                }
            }
            self.adopt().await;
            let changes = std::mem::take(&mut lock(&self.shared.pending).changes);
            if !changes.is_empty() {
                return changes;
            }
        }
    }

    /// Watches folders that are new.
    async fn adopt(&mut self) {
        let Some(watcher) = self.watcher.clone() else { return };
        let shared = Arc::clone(&self.shared);
        let mut folders = std::mem::take(&mut lock(&shared.pending).folders);
        if std::mem::take(&mut lock(&shared.pending).lost) {
            folders = vec![shared.root.clone()];
        }
        if !folders.is_empty() {
            // It only fails if the runtime is going down.
            let _ = tokio::task::spawn_blocking(move || shared.adopt(&watcher, folders)).await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.reader.iter().for_each(JoinHandle::abort);
    }
}

impl From<AddError> for WatchError {
    fn from(error: AddError) -> Self {
        match error {
            AddError::TooMany => Self::TooMany,
            AddError::Failed(error) => Self::Failed(error),
        }
    }
}

/// What the reader of events and the waiting task have in common.
#[derive(Debug)]
struct Shared {
    root: PathBuf,
    data: PathBuf,
    pending: Mutex<Pending>,
    /// Tells that something came in; the value has no meaning.
    events: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Pending {
    changes: Changes,
    /// Folders to be watched as well.
    folders: Vec<PathBuf>,
    /// Whether some were lost, so that all have to be looked at.
    lost: bool,
    /// Why not all is watched.
    fault: Option<WatchError>,
}

impl Shared {
    fn note(&self, note: impl FnOnce(&mut Pending)) {
        let mut pending = lock(&self.pending);
        note(&mut pending);
        if pending.folders.len() > MAX_NAMES {
            pending.folders.clear();
            pending.lost = true;
            pending.changes.everything = true;
        }
        let names = pending.changes.tenants.len() + pending.changes.revocations.len();
        if pending.changes.everything || names > MAX_NAMES {
            pending.changes = Changes::everything();
        }
        drop(pending);
        self.events.send_replace(());
    }

    /// Called by the reader of events.
    fn take(&self, event: Event) {
        let path = match event {
            Event::Changed(path) => path,
            Event::Lost => {
                return self.note(|pending| {
                    pending.lost = true;
                    pending.changes.everything = true;
                });
            }
        };
        if path.starts_with(&self.data) {
            return;
        }
        let mut changes = Changes::default();
        match path.strip_prefix(&self.root) {
            Ok(relative) => classify(relative, &mut changes),
            Err(_) => changes.platform = true,
        }
        if changes.is_empty() {
            return;
        }
        let folder = is_watched(&path, &self.root) && path.is_dir();
        self.note(|pending| {
            pending.changes.merge(changes);
            if folder {
                pending.folders.push(path);
            }
        });
    }

    /// Watches these folders and those in them: at once, or if they are many the rest on a thread of its own, since
    /// to list and watch one takes some 15 µs and nobody should wait for 100 000 of them.
    fn adopt(self: &Arc<Self>, watcher: &Arc<Inotify>, mut folders: Vec<PathBuf>) {
        self.adopt_some(watcher, &mut folders);
        if folders.is_empty() {
            return;
        }
        let (shared, watcher) = (Arc::clone(self), Arc::downgrade(watcher));
        let rest = move || {
            while !folders.is_empty() {
                // Gone when nobody watches any more.
                let Some(watcher) = watcher.upgrade() else { return };
                shared.adopt_some(&watcher, &mut folders);
            }
            // What changed before its folder was watched.
            shared.note(|pending| pending.changes.everything = true);
        };
        if let Err(error) = std::thread::Builder::new().name("site-watch".to_owned()).spawn(rest) {
            self.note(|pending| pending.fault = Some(WatchError::Failed(error)));
        }
    }

    /// Watches [`AT_ONCE`] of these folders and those in them; what is left stays in `folders`.
    fn adopt_some(&self, watcher: &Inotify, folders: &mut Vec<PathBuf>) {
        for _ in 0..AT_ONCE {
            let Some(folder) = folders.pop() else { return };
            if let Err(fault) = watcher.add(&folder) {
                // After one refusal for want of watches there is nothing but refusals.
                folders.clear();
                return self.note(|pending| pending.fault = Some(fault.into()));
            }
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let (path, kind) = (entry.path(), entry.file_type());
                // A tenant's folder may be a link of the operator's; links inside it lead to folders watched anyway.
                let may_be_link = folder.parent() == Some(&self.root);
                let is_folder = kind
                    .is_ok_and(|kind| kind.is_dir() || (may_be_link && kind.is_symlink() && path.is_dir()));
                if is_folder && is_watched(&path, &self.root) && !path.starts_with(&self.data) {
                    folders.push(path);
                }
            }
        }
    }
}

impl Changes {
    /// Takes in what else changed.
    pub fn merge(&mut self, other: Self) {
        self.everything |= other.everything;
        self.platform |= other.platform;
        self.tenants.extend(other.tenants);
        self.revocations.extend(other.revocations);
    }
}

/// What a changed path, relative to the site, means.
fn classify(path: &Path, changes: &mut Changes) {
    let mut steps = path.components().map(|step| match step {
        Component::Normal(name) => name.to_str().unwrap_or_default(),
        _ => "",
    });
    // A tenant may well be called `target`.
    if steps.clone().skip(2).any(is_chaff) {
        return;
    }
    match (steps.next(), steps.next(), steps.next()) {
        (Some("sandgate.toml" | "certs" | "blocked.json"), ..) => changes.platform = true,
        (Some("policies" | "functions"), None, _) => changes.everything = true,
        (Some("functions"), Some("wit"), _) => {}
        (Some("policies" | "functions"), Some(name), third) => match (name.parse::<TenantName>(), third) {
            (Ok(tenant), Some("revoked.json")) if steps.next().is_none() && path.starts_with("policies") => {
                changes.revocations.insert(tenant);
            }
            (Ok(tenant), _) => {
                changes.tenants.insert(tenant);
            }
            // A file beside the tenants' folders, or a folder that cannot be a tenant's.
            (Err(_), _) => changes.platform = true,
        },
        _ => {}
    }
}

/// Names that come and go while people and their tools work, and that no site is read from.
fn is_chaff(name: &str) -> bool {
    matches!(name, "target" | "node_modules" | ".git" | "4913")
        || name.starts_with(".#")
        || name.ends_with('~')
        || [".swp", ".swx", ".swo", ".new", ".tmp"].iter().any(|end| name.ends_with(end))
}

/// Whether a folder belongs to those that a site is read from.
fn is_watched(path: &Path, root: &Path) -> bool {
    let Ok(relative) = path.strip_prefix(root) else { return false };
    let mut steps = relative.components().map(|step| step.as_os_str().to_str().unwrap_or_default());
    let depth = steps.clone().count();
    let is_ours = matches!(steps.next(), None | Some("policies" | "functions" | "certs"));
    let is_hidden = steps.next().is_some_and(|name| name.starts_with('.'));
    is_ours && depth <= MAX_DEPTH && !is_hidden && !steps.any(|name| is_chaff(name) || name.starts_with('.'))
}

/// A panic while the lock was held leaves nothing half done that matters: at worst something is read again.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An editor's several writes come within a few ms; a person does not notice a fifth of a second.
const QUIET: Duration = Duration::from_millis(200);

/// Who never pauses is read all the same.
const LONGEST: Duration = Duration::from_secs(2);

/// Folders watched before anybody is let go on: some 15 ms.
const AT_ONCE: usize = 1000;

/// More names than these, and looking at everything is as quick.
const MAX_NAMES: usize = 4096;

/// `functions/<tenant>/<function>/` and four folders in it.
const MAX_DEPTH: usize = 7;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn of(path: &str) -> String {
        let mut changes = Changes::default();
        classify(Path::new(path), &mut changes);
        let names = |names: &BTreeSet<TenantName>| names.iter().map(|n| n.to_string()).collect::<String>();
        match &changes {
            _ if changes.is_empty() => "nothing".to_owned(),
            _ if changes.everything => "everything".to_owned(),
            _ if changes.platform => "platform".to_owned(),
            _ if changes.tenants.is_empty() => format!("revocations of {}", names(&changes.revocations)),
            _ => format!("tenant {}", names(&changes.tenants)),
        }
    }

    #[test]
    fn a_path_says_whose_part_changed() {
        for (path, whose) in [
            ("sandgate.toml", "platform"),
            ("blocked.json", "platform"),
            ("certs/server.pem", "platform"),
            ("policies/schema.cedarschema", "platform"),
            ("policies/acme/tenant.toml", "tenant acme"),
            ("policies/acme/revoked.json", "revocations of acme"),
            ("policies/acme/..data", "tenant acme"),
            ("policies/acme", "tenant acme"),
            ("policies/target/tenant.toml", "tenant target"),
            ("policies/acme/a/revoked.json", "tenant acme"),
            ("functions/acme/revoked.json", "tenant acme"),
            ("functions/acme/hello/hello.wat", "tenant acme"),
            ("functions/acme/hello/target/release/hello.wasm", "nothing"),
            ("functions/wit/function.wit", "nothing"),
            ("functions", "everything"),
            ("policies/acme/.tenant.toml.swp", "nothing"),
            ("policies/acme/tenant.toml~", "nothing"),
            ("README.md", "nothing"),
            (".sandgate/audit/1.jsonl", "nothing"),
        ] {
            assert_eq!(of(path), whose, "{path}");
        }
    }

    #[test]
    fn more_names_than_the_bound_are_everything() {
        let (events, _) = watch::channel(());
        let root = PathBuf::from("/site");
        let shared = Shared { data: root.join("data"), root, pending: Mutex::default(), events };
        for n in 0..=MAX_NAMES {
            shared.take(Event::Changed(PathBuf::from(format!("/site/policies/t{n}/tenant.toml"))));
        }
        assert_eq!(lock(&shared.pending).changes, Changes::everything());
    }

    #[tokio::test]
    async fn of_a_large_site_every_folder_is_watched_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..AT_ONCE + 5 {
            fs::create_dir_all(dir.path().join(format!("policies/t{n}"))).unwrap();
        }
        let mut watch = Watch::start(dir.path(), &dir.path().join("data"), &ServerConfig::default());
        until(&mut watch, |changes| changes.everything).await;
        for n in [0, AT_ONCE / 2, AT_ONCE + 4] {
            fs::write(dir.path().join(format!("policies/t{n}/a.cedar")), "").unwrap();
            until(&mut watch, |changes| changes.tenants.contains(&*format!("t{n}"))).await;
        }
        assert!(watch.take_fault().is_none());
    }

    async fn until(watch: &mut Watch, wanted: impl Fn(&Changes) -> bool) {
        let mut changes = Changes::default();
        while !wanted(&changes) {
            changes.merge(watch.next().await);
        }
    }

    #[tokio::test]
    async fn what_an_editor_does_is_noticed_in_old_and_new_folders() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["policies/acme", "functions/acme/hello", "data"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let mut watch = Watch::start(dir.path(), &dir.path().join("data"), &ServerConfig::default());
        assert!(watch.take_fault().is_none());
        let acme = |changes: &Changes| changes.tenants.contains("acme");

        let toml = dir.path().join("policies/acme/tenant.toml");
        fs::write(toml.with_extension("new"), "name = \"A\"").unwrap();
        fs::rename(toml.with_extension("new"), &toml).unwrap();
        until(&mut watch, acme).await;

        fs::write(dir.path().join("policies/acme/revoked.json"), "{}").unwrap();
        until(&mut watch, |changes| changes.revocations.contains("acme") && changes.tenants.is_empty()).await;

        fs::create_dir_all(dir.path().join("policies/globex")).unwrap();
        until(&mut watch, |changes| changes.tenants.contains("globex")).await;
        fs::write(dir.path().join("policies/globex/tenant.toml"), "").unwrap();
        until(&mut watch, |changes| changes.tenants.contains("globex")).await;

        fs::remove_dir_all(dir.path().join("functions/acme/hello")).unwrap();
        until(&mut watch, acme).await;

        watch.trigger().pull();
        until(&mut watch, |changes| changes.everything).await;
    }
}
