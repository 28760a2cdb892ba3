//! Keeps what is blocked in force: looks at `blocked.json` a few times a second, apart from all reloading, which may take
//! longer than an operator in need can wait.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::MissedTickBehavior;
use tracing::{error, warn};

use crate::{
    pipeline::{Gateway, difference},
    site::{
        blocked::{Blocked, BlockedError, FILE},
        diagnostic::with_causes,
    },
};

/// What tells one state of the file from another: a writer renames a new file over it.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

/// Looks for ever.
pub(super) async fn watch(gateway: Arc<Gateway>, site: PathBuf) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let path = site.join(FILE);
    // Nothing is known of the file that the start read, so the first look reads it again.
    let mut seen = Seen::default();
    loop {
        looks.tick().await;
        // A lookup of one inode: not worth a thread.
        let stamp = std::fs::metadata(&path).ok().map(|meta| stamp(&meta));
        match seen.look(stamp, || Blocked::read(&site)) {
            Some(Ok(blocked)) => apply(&gateway, blocked).await,
            Some(Err(error)) => {
                error!(error = %error.diagnostic().one_line(), "what was blocked stays blocked");
            }
            None => {}
        }
    }
}

/// What the looks so far came to.
#[derive(Debug, Default)]
struct Seen {
    /// Of the file that was read last, if it could be.
    stamp: Option<Option<Stamp>>,
    /// What kept it from being read, as it was told.
    failure: Option<String>,
}

impl Seen {
    /// Reads the list if it may be another than at the last look.
    ///
    /// A list that could not be read is tried again at each look: what hindered may be over though the file is the same, such as
    /// that no descriptor was free, and that is when an operator blocks. It is told once.
    fn look(
        &mut self,
        stamp: Option<Stamp>,
        read: impl FnOnce() -> Result<Blocked, BlockedError>,
    ) -> Option<Result<Blocked, BlockedError>> {
        if self.stamp.as_ref() == Some(&stamp) {
            return None;
        }
        match read() {
            Ok(blocked) => {
                *self = Self { stamp: Some(stamp), failure: None };
                Some(Ok(blocked))
            }
            Err(error) => {
                self.stamp = None;
                let failure = Some(with_causes(&error));
                let is_new = failure != self.failure;
                self.failure = failure;
                is_new.then_some(Err(error))
            }
        }
    }
}

async fn apply(gateway: &Gateway, blocked: Blocked) {
    if *gateway.blocks().now() == blocked {
        return;
    }
    let before = gateway.blocks().replace(blocked.clone());
    let (added, removed) = difference(&before, &blocked);
    warn!(blocked = ?added, unblocked = ?removed, "the list of what is blocked changed");
    if let Err(error) = gateway.audit().blocked(SystemTime::now(), &added, &removed).await {
        error!(%error, "a change of what is blocked could not be recorded; it is in force");
    }
}

fn stamp(meta: &std::fs::Metadata) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;
    Stamp { inode: meta.ino(), bytes: meta.len(), modified: meta.modified().ok() }
}

/// "In force in under a second", with room for a busy machine.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_list_that_could_not_be_read_is_read_at_the_next_look_though_the_file_is_the_same() {
        let file = |inode| Some(Stamp { inode, bytes: 3, modified: None });
        let failed = |kind: io::ErrorKind| {
            move || Err(BlockedError::Io { path: FILE.into(), what: "read", source: kind.into() })
        };
        let never = || -> Result<Blocked, BlockedError> { panic!("nothing has changed") };
        let mut seen = Seen::default();
        assert!(matches!(seen.look(file(1), || Ok(Blocked::default())), Some(Ok(_))));
        assert!(seen.look(file(1), never).is_none());
        // An operator blocks while no descriptor is free.
        assert!(matches!(seen.look(file(2), failed(io::ErrorKind::Other)), Some(Err(_))));
        assert!(seen.look(file(2), failed(io::ErrorKind::Other)).is_none(), "it was told");
        assert!(matches!(seen.look(file(2), failed(io::ErrorKind::OutOfMemory)), Some(Err(_))));
        assert!(matches!(seen.look(file(2), || Ok(Blocked::default())), Some(Ok(_))));
        assert!(seen.look(file(2), never).is_none());
        assert!(matches!(seen.look(None, || Ok(Blocked::default())), Some(Ok(_))), "the file is gone");
        assert!(seen.look(None, never).is_none());
    }
}
