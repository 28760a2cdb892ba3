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
    site::blocked::{Blocked, FILE},
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
    let mut last = None;
    loop {
        looks.tick().await;
        // A lookup of one inode: not worth a thread.
        let stamp = std::fs::metadata(&path).ok().map(|meta| stamp(&meta));
        if last.as_ref() == Some(&stamp) {
            continue;
        }
        last = Some(stamp);
        apply(&gateway, &site).await;
    }
}

async fn apply(gateway: &Gateway, site: &std::path::Path) {
    let blocked = match Blocked::read(site) {
        Ok(blocked) => blocked,
        Err(error) => return error!(error = %error.diagnostic().one_line(), "what was blocked stays blocked"),
    };
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
