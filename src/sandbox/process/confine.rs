//! What a compile process can still do: compute, within limits, and answer.
//!
//! Three walls, each of which stands alone: limits of the kernel's own (always there), Landlock (files, TCP and other processes
//! are out of reach, from Linux 5.13 on), and a seccomp filter (what is not on a list of some twenty system calls is refused,
//! descriptors other than the three standard ones included). [`probe`] tries them from the inside.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::unix::net::UnixDatagram,
    process::Command,
    thread,
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetError, RulesetStatus,
    Scope,
};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, nice, set_dumpable_behavior, set_parent_process_death_signal,
    setrlimit,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use serde::{Deserialize, Serialize};

use super::CompileLimits;

/// Which walls are in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Confinement {
    /// Version of Landlock's interface, if it is in force.
    pub landlock: Option<i32>,
    /// Whether the filter of system calls is.
    pub seccomp: bool,
}

/// The outcome of trying.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Probe {
    /// What the process believes to be in force.
    pub confinement: Confinement,
    /// What it tried, and why it failed; `None` if it did not.
    pub attempts: BTreeMap<String, Option<String>>,
}

/// Which walls to put up; all but in tests of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Walls {
    /// All that the kernel offers.
    All,
    /// The kernel's limits alone.
    Limits,
    /// Landlock alone.
    Landlock,
    /// The filter alone.
    Seccomp,
}

/// Bounds what the process may use up. An error means that nothing must be compiled.
pub(super) fn limit(limits: &CompileLimits) -> io::Result<()> {
    let both = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(Resource::As, both(memory_in_use("VmSize:")?.saturating_add(limits.memory.0)))?;
    let seconds = limits.cpu.0.as_secs().max(1);
    // The first signal can be told from others, the second one not be withstood.
    setrlimit(Resource::Cpu, Rlimit { current: Some(seconds), maximum: Some(seconds + 1) })?;
    for resource in [Resource::Fsize, Resource::Core, Resource::Nproc] {
        setrlimit(resource, both(0))?;
    }
    // Who reads its memory would read another tenant's component.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Nobody waits for the answer any more.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Calls in flight come first; that it takes longer then is meant.
    nice(NICE)?;
    Ok(())
}

/// Takes away what the process does not need, as far as the kernel can.
pub(super) fn confine() -> Confinement {
    let landlock = landlock().ok().flatten();
    // After Landlock, which needs one for a moment.
    no_more_descriptors().ok();
    Confinement { landlock, seccomp: seccomp().is_ok() }
}

/// Confines itself as for a component, and then tries what a component must never bring about.
pub(super) fn probe(walls: Walls, limits: &CompileLimits) -> io::Result<Probe> {
    // As a descriptor that somebody left open to be inherited would be.
    let (mut open, (socket, _other)) = (fs::File::open("/proc/self/exe")?, UnixDatagram::pair()?);
    let confinement = match walls {
        Walls::All => {
            limit(limits)?;
            confine()
        }
        Walls::Limits => {
            limit(limits)?;
            no_more_descriptors()?;
            Confinement::default()
        }
        Walls::Landlock => Confinement { landlock: landlock().ok().flatten(), seccomp: false },
        Walls::Seccomp => Confinement { landlock: None, seccomp: seccomp().is_ok() },
    };
    let before: [(&str, Try); 2] = [
        ("read a file that was open before", Box::new(move || open.read(&mut [0]).map(drop))),
        ("send on a socket that was open before", Box::new(move || socket.send(b"x").map(drop))),
    ];
    let mut attempts = tried(before);
    attempts.append(&mut try_all());
    Ok(Probe { confinement, attempts })
}

type Try = Box<dyn FnOnce() -> io::Result<()>>;

/// Tries what no confined process may do.
pub(in super::super) fn try_all() -> BTreeMap<String, Option<String>> {
    let tries: [(&str, Try); 8] = [
        ("read a file", Box::new(|| fs::read("/proc/self/exe").map(drop))),
        ("list a folder", Box::new(|| fs::read_dir("/").map(drop))),
        ("create a file", Box::new(|| fs::File::create("/tmp/sandgate-probe").map(drop))),
        ("open a TCP socket", Box::new(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map(drop))),
        ("open a UDP socket", Box::new(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map(drop))),
        ("open a Unix socket", Box::new(|| UnixDatagram::unbound().map(drop))),
        ("start a program", Box::new(|| Command::new("/proc/self/exe").arg("--version").output().map(drop))),
        ("start a thread", Box::new(|| thread::Builder::new().spawn(|| ()).map(drop))),
    ];
    tried(tries)
}

fn tried<const N: usize>(tries: [(&str, Try); N]) -> BTreeMap<String, Option<String>> {
    tries.map(|(what, attempt)| (what.to_owned(), attempt().err().map(|e| e.to_string()))).into()
}

/// What the process has now of a kind of memory that the kernel counts, in bytes.
pub(in super::super) fn memory_in_use(kind: &str) -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let size = status.lines().find_map(|line| line.strip_prefix(kind)?.trim().strip_suffix(" kB"));
    let kib: Option<u64> = size.and_then(|kib| kib.trim().parse().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| io::Error::other("`/proc/self/status` tells no size"))
}

fn no_more_descriptors() -> io::Result<()> {
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(STANDARD), maximum: Some(STANDARD) })?)
}

/// Handles every right and grants none.
pub(in super::super) fn landlock() -> Result<Option<i32>, RulesetError> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .restrict_self()?;
    Ok((status.ruleset != RulesetStatus::NotEnforced).then(|| version(&status.landlock)).flatten())
}

fn version(status: &LandlockStatus) -> Option<i32> {
    match *status {
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            Some(kernel_abi.unwrap_or(effective_abi as i32))
        }
        _ => None,
    }
}

/// Lets through what computing and answering take; everything else fails as not permitted, which no library takes amiss
/// that only asks how the machine is.
fn seccomp() -> Result<(), seccompiler::Error> {
    seccompiler::apply_filter(&compiling()?)
}

fn compiling() -> Result<BpfProgram, seccompiler::Error> {
    let standard = |most: u64| -> Result<_, seccompiler::Error> {
        Ok(vec![SeccompRule::new(vec![argument(0, SeccompCmpOp::Lt, most)?])?])
    };
    // No memory can be made executable, and none can be a file's.
    let no_code = |index| argument(index, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0);
    let anonymous = libc::MAP_ANONYMOUS as u64;
    let anonymous = argument(3, SeccompCmpOp::MaskedEq(anonymous), anonymous)?;
    let mut rules = computing()?;
    for number in [libc::SYS_read, libc::SYS_write, libc::SYS_writev, libc::SYS_close] {
        rules.insert(number, standard(STANDARD)?);
    }
    rules.insert(libc::SYS_mmap, vec![SeccompRule::new(vec![no_code(2)?, anonymous])?]);
    rules.insert(libc::SYS_mprotect, vec![SeccompRule::new(vec![no_code(2)?])?]);
    filter(rules)
}

/// System calls by number, each with the conditions on its arguments of which one must hold, if there are any.
pub(in super::super) type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What computing takes, and no more.
pub(in super::super) fn computing() -> Result<Rules, seccompiler::Error> {
    let mut rules = Rules::from_iter(PERMITTED.map(|number| (number, Vec::new())));
    // The abort's signal, to nobody else: of this user's processes one is the gateway.
    let own = u64::from(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs());
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![argument(0, SeccompCmpOp::Eq, own)?])?]);
    Ok(rules)
}

/// A condition on one argument.
pub(in super::super) fn argument(
    index: u8,
    op: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, Dword, op, value)
}

/// What lets these through, and refuses all others.
pub(in super::super) fn filter(rules: Rules) -> Result<BpfProgram, seccompiler::Error> {
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
    Ok(BpfProgram::try_from(filter)?)
}

/// Whatever its arguments are.
const PERMITTED: [i64; 17] = [
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    // A panic and an abort: they end the process, but with a word.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Files, TCP, and signals and sockets to others; later versions add no kind of access.
const LANDLOCK: ABI = ABI::V6;

/// Descriptors 0, 1 and 2.
const STANDARD: u64 = 3;

const NICE: i32 = 5;

#[cfg(test)]
pub(in crate::sandbox) mod tests {
    use super::*;

    /// What the kernel would decide: as much of its machine for filters (`BPF`, of linux/filter.h) as ours use.
    pub(in crate::sandbox) fn decide(filter: &BpfProgram, number: i64, arguments: [u64; 6]) -> u32 {
        // `struct seccomp_data`: number, architecture, instruction, arguments.
        let architecture = if cfg!(target_arch = "x86_64") { 0xc000_003e_u32 } else { 0xc000_00b7 };
        let mut data = Vec::from((number as u32).to_ne_bytes());
        data.extend(architecture.to_ne_bytes());
        data.extend([0; 8]);
        data.extend(arguments.iter().flat_map(|argument| argument.to_ne_bytes()));
        let (mut at, mut held) = (0_usize, 0_u32);
        loop {
            let step = &filter[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
            match step.code {
                0x20 => held = u32::from_ne_bytes(data[step.k as usize..][..4].try_into().unwrap()),
                0x54 => held &= step.k,
                0x05 => at += step.k as usize,
                0x15 => at += jump(held == step.k),
                0x25 => at += jump(held > step.k),
                0x35 => at += jump(held >= step.k),
                0x06 => return step.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn f08_the_filter_lets_through_computing_and_answering_and_nothing_else() {
        const ALLOW: u32 = 0x7fff_0000;
        let filter = compiling().unwrap();
        let own = u64::from(std::process::id());
        let parent = u64::from(std::os::unix::process::parent_id());
        let (anonymous, code) = (libc::MAP_ANONYMOUS as u64, libc::PROT_EXEC as u64);
        for (what, number, arguments, allowed) in [
            ("answer", libc::SYS_write, [1, 0, 0, 0, 0, 0], true),
            ("write to what was open before", libc::SYS_write, [3, 0, 0, 0, 0, 0], false),
            ("read the component", libc::SYS_read, [0; 6], true),
            ("read what was open before", libc::SYS_read, [3, 0, 0, 0, 0, 0], false),
            ("take memory", libc::SYS_mmap, [0, 4096, 3, anonymous, 0, 0], true),
            ("map a file", libc::SYS_mmap, [0, 4096, 3, 0, 0, 0], false),
            ("map code", libc::SYS_mmap, [0, 4096, code, anonymous, 0, 0], false),
            ("make memory code", libc::SYS_mprotect, [0, 4096, code | 1, 0, 0, 0], false),
            ("end itself", libc::SYS_tgkill, [own, own, 6, 0, 0, 0], true),
            ("end the gateway", libc::SYS_tgkill, [parent, parent, 9, 0, 0, 0], false),
            ("end the gateway", libc::SYS_kill, [parent, 9, 0, 0, 0, 0], false),
            ("end a thread of anybody", libc::SYS_tkill, [parent, 9, 0, 0, 0, 0], false),
            ("open", libc::SYS_openat, [0; 6], false),
            ("connect", libc::SYS_socket, [0; 6], false),
            ("start", libc::SYS_execve, [0; 6], false),
            ("start", libc::SYS_clone, [0; 6], false),
            ("start", libc::SYS_clone3, [0; 6], false),
            ("look into another process", libc::SYS_ptrace, [0; 6], false),
            ("look into another process", libc::SYS_process_vm_readv, [0; 6], false),
            ("go around the filter", libc::SYS_io_uring_setup, [0; 6], false),
            ("raise its limits", libc::SYS_prlimit64, [0; 6], false),
            ("a call of another architecture's number", 0x4000_0000, [0; 6], false),
        ] {
            assert_eq!(decide(&filter, number, arguments) == ALLOW, allowed, "{what}");
        }
    }
}
