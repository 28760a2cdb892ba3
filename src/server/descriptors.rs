//! Open files: connections must leave some for the rest of the process.
//!
//! Out of files, a gateway cannot begin the next segment of its audit log, fetch keys or read its site; and whoever may
//! open connections could bring it there. So as many files are asked for as may be needed, and if the system grants
//! fewer, there are fewer connections (INVARIANT Bounded).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// How many connections may be open at once: as many as are wanted, if there are files for them and for so many
/// components.
pub(super) fn connections(wanted: u32, components: u64) -> usize {
    let others = components.saturating_add(OTHER_DESCRIPTORS);
    let granted = granted(others.saturating_add(wanted.into()));
    let room = room(wanted, others, granted);
    if room < wanted {
        warn!(
            max_connections = wanted,
            granted, "the limit of open files has room for {room} connections: raise `LimitNOFILE`"
        );
    }
    usize::try_from(room).unwrap_or(usize::MAX)
}

/// Raises the process's own limit as far as it needs and may, and says how far that was.
fn granted(need: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    let more = need.min(hard);
    let raised = Rlimit { current: Some(more), maximum: limit.maximum };
    if more > soft && setrlimit(Resource::Nofile, raised).is_ok() { more } else { soft }
}

fn room(wanted: u32, others: u64, granted: u64) -> u32 {
    let room = u32::try_from(granted.saturating_sub(others)).unwrap_or(u32::MAX);
    room.clamp(1, wanted.max(1))
}

/// Listeners, the site's watch, the log, the ops listener's connections, key sets that are fetched.
pub const OTHER_DESCRIPTORS: u64 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c15_there_are_as_many_connections_as_files_are_left_for() {
        assert_eq!(room(4096, 130, 65_536), 4096);
        assert_eq!(room(4096, 130, 4226), 4096);
        assert_eq!(room(4096, 130, 1024), 894);
        assert_eq!(room(4096, 130, 100), 1);
        assert_eq!(room(1, 130, u64::MAX), 1);
    }
}
