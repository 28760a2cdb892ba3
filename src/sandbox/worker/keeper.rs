//! The thread that starts and ends worker processes.
//!
//! A thread of its own, since the kernel ends a worker when the thread that started it ends: so a gateway that dies, however it
//! dies, leaves none behind.

use std::{
    collections::HashMap,
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
};

use tokio::sync::oneshot;

use super::super::process::ALLOCATOR_OPTION;

/// Starts and ends workers.
#[derive(Debug)]
pub(super) struct Keeper(mpsc::Sender<Order>);

enum Order {
    Start(oneshot::Sender<io::Result<Started>>),
    End(u32, oneshot::Sender<ExitStatus>),
}

/// A worker that was started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: u32,
    pub(super) socket: UnixStream,
}

/// What becomes a worker.
#[derive(Debug, Clone)]
pub(in super::super) enum Program {
    /// The program that has the command, and what the command is given.
    At(PathBuf, String),
    /// Unit tests have no program beside them.
    #[cfg(test)]
    Thread(fn(UnixStream)),
}

enum Process {
    Child(Child),
    #[cfg(test)]
    Thread,
}

impl Keeper {
    /// Starts the thread.
    pub(super) fn new(program: Program) -> io::Result<Self> {
        let (give, take) = mpsc::channel();
        thread::Builder::new().name("sandbox-keeper".into()).spawn(move || keep(&program, &take))?;
        Ok(Self(give))
    }

    /// Starts a worker.
    pub(super) async fn start(&self) -> io::Result<Started> {
        let (tell, told) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts workers is gone");
        self.0.send(Order::Start(tell)).map_err(|_| gone())?;
        told.await.map_err(|_| gone())?
    }

    /// Ends a worker, if it has not ended yet, and tells how it did. What is not awaited is done all the same.
    pub(super) fn end(&self, pid: u32) -> oneshot::Receiver<ExitStatus> {
        let (tell, told) = oneshot::channel();
        // Without the thread there are no workers.
        self.0.send(Order::End(pid, tell)).ok();
        told
    }
}

fn keep(program: &Program, orders: &mpsc::Receiver<Order>) {
    let mut processes = HashMap::new();
    while let Ok(order) = orders.recv() {
        match order {
            Order::Start(tell) => {
                let started = start(program).map(|(process, started)| {
                    let pid = started.pid;
                    processes.insert(pid, process);
                    (pid, started)
                });
                let pid = started.as_ref().ok().map(|(pid, _)| *pid);
                let unheard = tell.send(started.map(|(_, started)| started)).is_err();
                if let Some(process) = pid.filter(|_| unheard).and_then(|pid| processes.remove(&pid)) {
                    end(process);
                }
            }
            Order::End(pid, tell) => {
                let Some(process) = processes.remove(&pid) else { continue };
                // Who is told may be gone.
                tell.send(end(process)).ok();
            }
        }
    }
    processes.into_values().for_each(|process| {
        end(process);
    });
}

fn start(program: &Program) -> io::Result<(Process, Started)> {
    let (ours, theirs) = UnixStream::pair()?;
    match program {
        Program::At(program, job) => {
            let child = command(program, job, theirs.into()).spawn()?;
            let started = Started { pid: child.id(), socket: ours };
            Ok((Process::Child(child), started))
        }
        #[cfg(test)]
        Program::Thread(serve) => {
            use std::sync::atomic::{AtomicU32, Ordering};
            static NEXT: AtomicU32 = AtomicU32::new(1);
            let serve = *serve;
            thread::spawn(move || serve(theirs));
            Ok((Process::Thread, Started { pid: NEXT.fetch_add(1, Ordering::Relaxed), socket: ours }))
        }
    }
}

/// The socket is all that it gets: it is the standard input, and every other descriptor of this process closes as the program
/// begins, which makes sure of that itself.
fn command(program: &Path, job: &str, socket: OwnedFd) -> Command {
    let mut command = Command::new(program);
    command
        .args([COMMAND, job])
        .env_clear()
        .env(ALLOCATOR_OPTION.0, ALLOCATOR_OPTION.1)
        .current_dir("/")
        .stdin(socket)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// One that died already keeps the status that it died with.
fn end(process: Process) -> ExitStatus {
    match process {
        Process::Child(mut child) => {
            child.kill().ok();
            child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0))
        }
        #[cfg(test)]
        Process::Thread => ExitStatus::from_raw(0),
    }
}

/// The hidden command.
pub(in super::super) const COMMAND: &str = "worker";
