//! The compile process: strangers' bytes are parsed, validated and compiled by a child that can do nothing else.
//!
//! A compiler is a large program that is not made for hostile input; how long and how much memory it takes is its input's to
//! decide (F8). So it runs apart: this program again, started for one component, with limits on itself, no environment, no
//! file, no network ([`confine`]). What it says is read by [`wire`], which believes nothing; if it dies, that is a refusal of
//! the component, and nobody else's affair.
//!
//! What remains: the artefact is machine code that this process will run, so a compiler that a component had taken over could
//! still answer with code of its choice. The process bounds what compiling costs and what the compiler can reach; that what it
//! emits is confined to its memory is the compiler's word, as in every engine.

pub(super) mod confine;
pub(super) mod wire;
pub(super) mod worker;

use std::{
    io::{self, Read},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::{
    admission::{AdmissionError, AdmissionLimits, printable},
    sealed::Sealed,
    turns::{For, Occupied, Turns},
};
use crate::site::units::{Bytes, Span};
use wire::{Compiled, Job};

/// What one compilation may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompileLimits {
    /// Address space, beyond what the process has when it starts.
    pub memory: Bytes,
    /// Processor time, in whole seconds.
    pub cpu: Span,
    /// Time on the wall.
    pub wall: Span,
}

impl Default for CompileLimits {
    /// An interpreter of a scripting language, 10 MiB and 20 000 functions, takes some 10 s and 400 MiB; ours take a tenth of a
    /// second. The wall allows for a machine that is busy serving.
    fn default() -> Self {
        Self { memory: Bytes::mib(1024), cpu: Span::secs(60), wall: Span::secs(300) }
    }
}

/// Which program has the commands `compile-component` and `worker`.
#[derive(Debug, Clone)]
pub struct CompilerCommand(Program);

#[derive(Debug, Clone)]
enum Program {
    At(PathBuf),
    /// Unit tests have no program beside them; what is confined, and how, the integration tests see.
    #[cfg(test)]
    InProcess,
}

impl CompilerCommand {
    /// The program at this path.
    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self(Program::At(program.into()))
    }

    /// Where it is; in unit tests this test program, which has no such command.
    pub(super) fn program(&self) -> &Path {
        match &self.0 {
            Program::At(program) => program,
            #[cfg(test)]
            Program::InProcess => Path::new("/proc/self/exe"),
        }
    }

    /// The same program as a worker.
    pub(super) fn as_worker(&self, job: &super::worker::Job) -> super::worker::Program {
        use super::worker::Program as Worker;
        match &self.0 {
            // A job is plain data, and its JSON has no map whose keys are not text.
            Program::At(program) => {
                Worker::At(program.clone(), serde_json::to_string(job).unwrap_or_default())
            }
            #[cfg(test)]
            Program::InProcess => Worker::Thread(super::worker::inside::serve_here),
        }
    }

    /// Makes `program` the default of this process: for those that use this library and are not `sandgate`. The first holds.
    pub fn set_default(program: impl Into<PathBuf>) {
        // A second caller of the same process meant the same program.
        DEFAULT.set(program.into()).ok();
    }
}

impl Default for CompilerCommand {
    /// This program, also after its file was replaced: an artefact is made by the version that loads it.
    fn default() -> Self {
        #[cfg(test)]
        return Self(Program::InProcess);
        #[cfg(not(test))]
        Self::at(DEFAULT.get().cloned().unwrap_or_else(|| PathBuf::from("/proc/self/exe")))
    }
}

/// What ended a compilation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// Its memory.
    #[error("at {0} of memory")]
    Memory(Bytes),
    /// Its processor time.
    #[error("at {0} of CPU time")]
    Cpu(Span),
    /// The wall.
    #[error("after {0}")]
    Wall(Span),
    /// A signal that no limit explains.
    #[error("by signal {0}")]
    Signal(i32),
}

/// Why there is no answer though nothing stopped the process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It did not start, or could not be spoken to.
    #[error("the compile process could not be started")]
    Start(#[from] io::Error),
    /// It ended without an answer.
    #[error("the compile process gave no answer: {0}")]
    NoAnswer(String),
}

/// Starts compile processes, so many at once and no more.
#[derive(Debug)]
pub(super) struct Processes {
    command: CompilerCommand,
    limits: CompileLimits,
    turns: Turns,
}

impl Processes {
    pub(super) fn new(command: CompilerCommand, limits: CompileLimits) -> Self {
        Self { command, limits, turns: Turns::new(MAX_PROCESSES) }
    }

    /// Compiles a component, binary or text. Blocks, at most for its turn and the limit on the wall.
    pub(super) fn compile(
        &self,
        who: For,
        component: &[u8],
        admission: &AdmissionLimits,
        copy_on_write: bool,
    ) -> Result<Compiled, AdmissionError> {
        admission.check_size(component)?;
        let job = Job { limits: self.limits, layout: admission.layout, copy_on_write };
        let _turn = self.turns.take(who);
        match &self.command.0 {
            Program::At(program) => self.run(program, component, &job),
            #[cfg(test)]
            Program::InProcess => {
                let mut answer = Vec::new();
                wire::write(worker::compile(component, &job), &mut answer).map_err(ProcessError::Start)?;
                let answer = wire::read(&mut answer.as_slice());
                let none = || ProcessError::NoAnswer("its answer is not whole".into());
                Ok(answer.ok_or_else(none)??)
            }
        }
    }

    fn run(&self, program: &Path, component: &[u8], job: &Job) -> Result<Compiled, AdmissionError> {
        let start = |error: io::Error| AdmissionError::from(ProcessError::Start(error));
        let job_text = serde_json::to_string(job).map_err(|e| start(e.into()))?;
        let input = Sealed::copy(component, component.len() as u64).and_then(Sealed::into_input);
        let mut child = Command::new(program)
            .args([COMMAND, &job_text])
            .env_clear()
            .env(ALLOCATOR_OPTION.0, ALLOCATOR_OPTION.1)
            .current_dir("/")
            .stdin(input.map_err(start)?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        // A process that leaves its pipes open to others could hold a reader for ever, so none is waited for.
        let answer = child.stdout.take().map(|mut out| aside("compiler-out", move || wire::read(&mut out)));
        let said = child.stderr.take().map(|err| aside("compiler-err", move || read_some(err)));
        let answer = answer.and_then(|answer| answer.recv_timeout(self.limits.wall.0).ok());
        // Whatever was said last, the process is to end now. One that died already keeps the status it died with.
        child.kill().ok();
        let status = child.wait().map_err(start)?;
        match answer {
            Some(Some(answer)) => Ok(answer?),
            None => Err(AdmissionError::Stopped(Stop::Wall(self.limits.wall))),
            Some(None) => {
                let said = said.and_then(|said| said.recv_timeout(LAST_WORDS).ok()).unwrap_or_default();
                Err(self.why(status, &said))
            }
        }
    }

    /// Why a process died without an answer. What it said only chooses among refusals.
    fn why(&self, status: ExitStatus, said: &str) -> AdmissionError {
        let stop = match status.signal() {
            _ if said.contains(OUT_OF_MEMORY) => Stop::Memory(self.limits.memory),
            Some(signal) if signal == Signal::XCPU.as_raw() => Stop::Cpu(self.limits.cpu),
            // The first is ours; the second is met by who goes on talking after it was not understood.
            Some(signal) if ![Signal::KILL, Signal::PIPE].map(Signal::as_raw).contains(&signal) => {
                Stop::Signal(signal)
            }
            _ => {
                let said = printable(said.trim());
                return AdmissionError::Process(ProcessError::NoAnswer(format!("{status}: {said}")));
            }
        };
        AdmissionError::Stopped(stop)
    }

    /// How many run and wait.
    pub(super) fn occupied(&self) -> Occupied {
        self.turns.occupied()
    }
}

/// Runs on a thread of its own; without one there is no answer.
fn aside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (tell, told) = mpsc::channel();
    let started = thread::Builder::new().name(name.into()).spawn(move || {
        // Nobody may be waiting any more.
        tell.send(work()).ok();
    });
    if let Err(error) = started {
        tracing::error!(%error, "a thread that reads from the compile process does not start");
    }
    told
}

/// The beginning, and no more: what is left of a pipe that is closed is the writer's trouble.
fn read_some(from: impl Read) -> String {
    let mut bytes = Vec::new();
    from.take(MAX_SAID_BYTES).read_to_end(&mut bytes).ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

static DEFAULT: OnceLock<PathBuf> = OnceLock::new();

/// The hidden command.
pub(super) const COMMAND: &str = "compile-component";

/// The allocator would reserve 1 GiB at once, which is all that the process gets.
pub(super) const ALLOCATOR_OPTION: (&str, &str) = ("MIMALLOC_ARENA_RESERVE", "16MiB");

/// What Rust's runtime says before it aborts.
const OUT_OF_MEMORY: &str = "memory allocation of ";

/// Each may use a core and a gibibyte, which the calls in flight have to do without.
pub(super) const MAX_PROCESSES: u32 = 2;

const MAX_SAID_BYTES: u64 = 4 << 10;

/// A pipe whose only writer is dead ends at once.
const LAST_WORDS: Duration = Duration::from_secs(1);
