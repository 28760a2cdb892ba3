//! What a worker process can still do: run guests, and speak to the gateway over one socket.
//!
//! The walls are those of the compile process ([`confine`]), with doors for what running takes: machine code becomes executable,
//! memory images are files in memory, and threads wait for each other and for the socket. There is no door to a file, to another
//! socket, to a program or to another thread. Whoever takes a worker over has code of its own already; what it does not have is
//! anything to reach.

use std::{fs, io, path::Path};

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior, set_parent_process_death_signal,
    setrlimit, setsid,
};
use seccompiler::{BpfProgram, SeccompCmpOp, SeccompRule};

use super::{
    super::{
        PoolLimits,
        process::confine::{self, Confinement, Walls, argument, memory_in_use},
    },
    link::MAX_FUNCTIONS,
};

/// Walls that are up as far as they can be while threads are still to start.
#[derive(Debug)]
pub(super) struct HalfClosed {
    walls: Walls,
    landlock: Option<i32>,
}

/// Closes every descriptor that was inherited beside the standard ones, and makes sure that none is left.
pub(super) fn no_inherited_descriptors() -> io::Result<()> {
    #[expect(unsafe_code, reason = "no safe wrapper closes what nobody owns")]
    // SAFETY: the process has just begun, on one thread, and has opened nothing yet that it keeps: whatever is open above the
    // standard descriptors was inherited and has no owner here.
    unsafe {
        libc::close_range(FIRST_BEYOND_STANDARD, libc::c_uint::MAX, 0);
    }
    let listed: Vec<String> = fs::read_dir(DESCRIPTORS)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    // The folder's own descriptor is closed by now.
    let open = listed.into_iter().filter(|number| fs::read_link(Path::new(DESCRIPTORS).join(number)).is_ok());
    match open.count() {
        ..=3 => Ok(()),
        more => Err(io::Error::other(format!("{more} descriptors were inherited, and three are expected"))),
    }
}

/// Bounds what the process may use up, and takes files away from it. Threads that are started from now on inherit both.
pub(super) fn begin(walls: Walls, pool: &PoolLimits) -> io::Result<HalfClosed> {
    if matches!(walls, Walls::All | Walls::Limits) {
        limit(pool)?;
    }
    let landlock = match walls {
        Walls::All | Walls::Landlock => confine::landlock().ok().flatten(),
        Walls::Limits | Walls::Seccomp => None,
    };
    Ok(HalfClosed { walls, landlock })
}

impl HalfClosed {
    /// The rest: from now on no thread starts and no descriptor opens.
    pub(super) fn close(self) -> io::Result<Confinement> {
        if matches!(self.walls, Walls::All | Walls::Limits) {
            setrlimit(Resource::Nproc, both(0))?;
            setrlimit(Resource::Nofile, both(MAX_DESCRIPTORS))?;
        }
        let seccomp = matches!(self.walls, Walls::All | Walls::Seccomp) && seccomp().is_ok();
        Ok(Confinement { landlock: self.landlock, seccomp })
    }
}

fn limit(pool: &PoolLimits) -> io::Result<()> {
    // A session of its own: no signal of a terminal's is for it. It leads a group already only if somebody started it by hand.
    setsid().ok();
    // If memory runs out on this machine, it is not the gateway that ends. Where this cannot be said, the kernel decides.
    fs::write("/proc/self/oom_score_adj", MOST_EXPENDABLE).ok();
    let memories = u64::from(pool.instances).saturating_mul(pool.max_memory_bytes as u64);
    let most = memory_in_use("VmData:")?.saturating_add(memories).saturating_add(CODE_AND_HOST_BYTES);
    setrlimit(Resource::Data, both(most))?;
    // A memory's first contents are kept in a file in memory.
    setrlimit(Resource::Fsize, both(pool.max_memory_bytes as u64))?;
    setrlimit(Resource::Core, both(0))?;
    // Who reads its memory would read a tenant's events.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // With the gateway it ends.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

fn both(most: u64) -> Rlimit {
    Rlimit { current: Some(most), maximum: Some(most) }
}

/// On every thread, those included that are running already.
fn seccomp() -> Result<(), seccompiler::Error> {
    seccompiler::apply_filter_all_threads(&running()?)
}

fn running() -> Result<BpfProgram, seccompiler::Error> {
    let only = |index, value: u64| -> Result<SeccompRule, seccompiler::Error> {
        Ok(SeccompRule::new(vec![argument(index, SeccompCmpOp::Eq, value)?])?)
    };
    let mut rules = confine::computing()?;
    rules.extend(RUNNING.map(|number| (number, Vec::new())));
    // Memory of its own, which its limit counts: shared memory has none.
    let private = argument(3, SeccompCmpOp::MaskedEq(libc::MAP_TYPE as u64), libc::MAP_PRIVATE as u64)?;
    rules.insert(libc::SYS_mmap, vec![SeccompRule::new(vec![private])?]);
    rules.insert(libc::SYS_ioctl, vec![only(1, PAGEMAP_SCAN)?]);
    let asked = [libc::F_GETFL, libc::F_GET_SEALS, libc::F_ADD_SEALS];
    let asked = asked.into_iter().map(|command| only(1, command as u64)).collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_fcntl, asked);
    confine::filter(rules)
}

/// Beside what computing takes. Descriptors are those of the socket, of the event loop and of files in memory.
const RUNNING: [i64; 16] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pread64,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_close,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(not(target_arch = "x86_64"))]
    libc::SYS_epoll_pwait2,
    libc::SYS_mprotect,
    libc::SYS_memfd_create,
    libc::SYS_membarrier,
    libc::SYS_clock_nanosleep,
    // Threads that were started a moment ago may still be beginning.
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
];

/// The kernel tells which pages a guest wrote: `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: u64 = 0xc060_6610;

/// Code is copied here once more: an interpreter of a scripting language has some 100 MiB of it.
const CODE_AND_HOST_BYTES: u64 = 1 << 30;

/// Up to four memories of a function have first contents; and the event loop's.
const MAX_DESCRIPTORS: u64 = 4 * MAX_FUNCTIONS as u64 + 32;

/// The kernel's own scale.
const MOST_EXPENDABLE: &str = "1000";

const DESCRIPTORS: &str = "/proc/self/fd";
const FIRST_BEYOND_STANDARD: libc::c_uint = 3;

#[cfg(test)]
mod tests {
    use super::{super::super::process::confine::tests::decide, *};

    #[test]
    fn f30_the_filter_lets_through_running_and_answering_and_nothing_else() {
        const ALLOW: u32 = 0x7fff_0000;
        let filter = running().unwrap();
        let (own, parent) = (u64::from(std::process::id()), u64::from(std::os::unix::process::parent_id()));
        let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let shared = (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u64;
        for (what, number, arguments, allowed) in [
            ("hear the gateway", libc::SYS_recvmsg, [3, 0, 0, 0, 0, 0], true),
            ("answer it", libc::SYS_sendmsg, [3, 0, 0, 0, 0, 0], true),
            ("wait", libc::SYS_epoll_pwait, [4, 0, 0, 0, 0, 0], true),
            ("take memory", libc::SYS_mmap, [0, 4096, 3, private, 0, 0], true),
            ("take memory that no limit counts", libc::SYS_mmap, [0, 4096, 3, shared, 0, 0], false),
            ("make code executable", libc::SYS_mprotect, [0, 4096, 5, 0, 0, 0], true),
            ("ask which pages were written", libc::SYS_ioctl, [5, PAGEMAP_SCAN, 0, 0, 0, 0], true),
            ("type into a terminal", libc::SYS_ioctl, [0, 0x5412, 0, 0, 0, 0], false),
            ("copy a descriptor", libc::SYS_fcntl, [0, libc::F_DUPFD as u64, 0, 0, 0, 0], false),
            ("end itself", libc::SYS_tgkill, [own, own, 6, 0, 0, 0], true),
            ("end the gateway", libc::SYS_tgkill, [parent, parent, 9, 0, 0, 0], false),
            ("end the gateway", libc::SYS_kill, [parent, 9, 0, 0, 0, 0], false),
            ("open", libc::SYS_openat, [0; 6], false),
            ("connect", libc::SYS_socket, [0; 6], false),
            ("connect", libc::SYS_connect, [0; 6], false),
            ("connect", libc::SYS_socketpair, [0; 6], false),
            ("send elsewhere", libc::SYS_sendto, [3, 0, 0, 0, 0, 0], false),
            ("start", libc::SYS_execve, [0; 6], false),
            ("start", libc::SYS_clone, [0; 6], false),
            ("start", libc::SYS_clone3, [0; 6], false),
            ("look into another process", libc::SYS_ptrace, [0; 6], false),
            ("look into another process", libc::SYS_process_vm_readv, [0; 6], false),
            ("take another's descriptor", libc::SYS_pidfd_getfd, [0; 6], false),
            ("go around the filter", libc::SYS_io_uring_setup, [0; 6], false),
            ("raise its limits", libc::SYS_prlimit64, [0; 6], false),
            ("let itself be dumped", libc::SYS_prctl, [4, 1, 0, 0, 0, 0], false),
        ] {
            assert_eq!(decide(&filter, number, arguments) == ALLOW, allowed, "{what}");
        }
    }
}
