//! How a worker ended that should not have.

use std::{fmt, os::unix::process::ExitStatusExt, process::ExitStatus};

use rustix::process::Signal;

/// Why a worker process is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Death {
    /// A signal: its own fault, a limit of the kernel's, or somebody on this machine.
    Signal(i32),
    /// It left.
    Exit(i32),
    /// It was ended: it said what it may not say.
    Protocol(String),
    /// It was ended: it did not stop a call that nobody waited for any more.
    Overrun,
}

impl Death {
    /// Of a process that ended by itself.
    pub(super) fn of(status: ExitStatus) -> Self {
        match status.signal() {
            Some(signal) => Self::Signal(signal),
            None => Self::Exit(status.code().unwrap_or_default()),
        }
    }

    /// A word for the metric.
    pub fn kind(&self) -> DeathKind {
        match self {
            Self::Signal(_) => DeathKind::Signal,
            Self::Exit(_) => DeathKind::Exit,
            Self::Protocol(_) => DeathKind::Protocol,
            Self::Overrun => DeathKind::Overrun,
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => match NAMES.iter().find(|(known, _)| known.as_raw() == *signal) {
                Some((_, name)) => write!(f, "by signal {signal} ({name})"),
                None => write!(f, "by signal {signal}"),
            },
            Self::Exit(code) => write!(f, "with exit status {code}"),
            Self::Protocol(what) => write!(f, "by the gateway, since it sent {what}"),
            Self::Overrun => f.write_str("by the gateway, since it did not stop a call"),
        }
    }
}

/// How workers die, as the metric counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeathKind {
    /// [`Death::Signal`].
    Signal,
    /// [`Death::Exit`].
    Exit,
    /// [`Death::Protocol`].
    Protocol,
    /// [`Death::Overrun`].
    Overrun,
}

impl DeathKind {
    /// Every kind, at the place that it has as a number.
    pub const ALL: [Self; 4] = [Self::Signal, Self::Exit, Self::Protocol, Self::Overrun];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Exit => "exit",
            Self::Protocol => "protocol",
            Self::Overrun => "overrun",
        }
    }
}

/// Those that processes die of.
const NAMES: [(Signal, &str); 9] = [
    (Signal::ABORT, "SIGABRT"),
    (Signal::BUS, "SIGBUS"),
    (Signal::FPE, "SIGFPE"),
    (Signal::ILL, "SIGILL"),
    (Signal::KILL, "SIGKILL"),
    (Signal::SEGV, "SIGSEGV"),
    (Signal::SYS, "SIGSYS"),
    (Signal::TERM, "SIGTERM"),
    (Signal::XFSZ, "SIGXFSZ"),
];
