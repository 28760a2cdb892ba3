//! Memory of all guests together.
//!
//! Each guest has its limit, but as many guests as there are instances, each at the platform's ceiling, are more than most
//! machines have: 64 GiB by default. Whom the kernel ends then is the gateway, and every tenant's calls with it. So there is one
//! bound for all of them, and no tenant takes more than it leaves (F14), as with instances.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::instances::Share;
use crate::site::units::Bytes;

/// What there is for guests, and how much of it they have.
#[derive(Debug)]
pub(super) struct GuestMemory {
    limit: usize,
    used: AtomicUsize,
}

/// What one guest has of it; given back when dropped.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Of nothing: a part without bound.
    of: Option<(Arc<GuestMemory>, Arc<Share>)>,
    bytes: usize,
}

impl GuestMemory {
    pub(super) fn new(limit: Bytes) -> Arc<Self> {
        Arc::new(Self { limit: limit.as_usize(), used: AtomicUsize::new(0) })
    }

    /// What a guest of this tenant has before it has any.
    pub(super) fn part(self: &Arc<Self>, share: &Arc<Share>) -> Part {
        Part { of: Some((Arc::clone(self), Arc::clone(share))), bytes: 0 }
    }
}

impl Part {
    /// Takes so many bytes more, if they can be had.
    pub(super) fn take(&mut self, more: usize) -> bool {
        if let Some((memory, share)) = &self.of {
            // Counted first and judged after: those who come together may be turned away for each other's sake, and nobody gets
            // what is not there.
            let used = memory.used.fetch_add(more, Ordering::Relaxed);
            let own = share.bytes.fetch_add(more, Ordering::Relaxed);
            let free = memory.limit.saturating_sub(used);
            if own.saturating_add(more) > free {
                self.leave(more);
                return false;
            }
        }
        self.bytes += more;
        true
    }

    /// Gives so many of its bytes back.
    pub(super) fn give(&mut self, less: usize) {
        let less = less.min(self.bytes);
        self.leave(less);
        self.bytes -= less;
    }

    fn leave(&self, bytes: usize) {
        if let Some((memory, share)) = &self.of {
            memory.used.fetch_sub(bytes, Ordering::Relaxed);
            share.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.leave(self.bytes);
    }
}

/// Three quarters of what this process can have: the rest is the gateway's own, and its compile processes'.
pub(super) fn of_the_machine() -> Bytes {
    let told = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = told.lines().find_map(|line| {
        let kib: u64 = line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kib << 10)
    });
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let most = group.and_then(|group| least_of(Path::new(GROUPS), group));
    match machine.into_iter().chain(most).min() {
        Some(bytes) => Bytes(bytes / 4 * 3),
        None => UNTOLD,
    }
}

/// What a control group and those that it is in may have.
fn least_of(root: &Path, group: &str) -> Option<u64> {
    let own = root.join(group);
    let of_root = own.ancestors().take_while(|folder| folder.starts_with(root));
    of_root.filter_map(|folder| fs::read_to_string(folder.join("memory.max")).ok()?.trim().parse().ok()).min()
}

/// Where the kernel shows control groups (version 2).
const GROUPS: &str = "/sys/fs/cgroup";

/// Of a machine that does not say what it has.
const UNTOLD: Bytes = Bytes::mib(1024);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f14_no_tenant_takes_more_memory_than_it_leaves() {
        let memory = GuestMemory::new(Bytes(1000));
        let (acme, globex) = (Arc::<Share>::default(), Arc::<Share>::default());
        let mut first = memory.part(&acme);
        assert!(first.take(300) && first.take(200) && !first.take(1), "alone it gets half");
        // In another guest it is the same tenant.
        assert!(!memory.part(&acme).take(1));
        let mut other = memory.part(&globex);
        assert!(other.take(250) && !other.take(1), "and the next half of what is left");
        assert!(!first.take(usize::MAX));
        other.give(50);
        assert!(other.take(50));
        drop((first, other));
        assert!(memory.part(&acme).take(500), "nothing is lost");
        assert!(Part::default().take(usize::MAX / 2));
    }

    #[test]
    fn the_strictest_control_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let unit = root.path().join("system.slice/sandgate.service");
        fs::create_dir_all(&unit).unwrap();
        let least = || least_of(root.path(), "system.slice/sandgate.service");
        assert_eq!(least(), None);
        fs::write(unit.join("memory.max"), "max\n").unwrap();
        fs::write(root.path().join("system.slice/memory.max"), "4096\n").unwrap();
        assert_eq!(least(), Some(4096));
        fs::write(unit.join("memory.max"), "1024\n").unwrap();
        assert_eq!(least(), Some(1024));
        assert!(of_the_machine() > Bytes::mib(64));
    }
}
