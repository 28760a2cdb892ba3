//! The inside of a worker process: functions of one tenant, one socket, and nothing else.
//!
//! Everything that it needs of the machine is made before it confines itself: the engine, its threads, the memory of its pool. It
//! confines itself before it is given the first function.

use std::{
    collections::{HashMap, VecDeque},
    io,
    num::NonZeroUsize,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::Interest,
    net::UnixStream,
    signal::unix::{SignalKind, signal},
    sync::{Notify, watch},
    task::AbortHandle,
    time::timeout_at,
};

use super::{
    super::{
        AdmissionError, LimitName, PoolLimits, Runner, Sandbox, SandboxError, Settings, Usage,
        artefact::Artefact,
        engine,
        process::confine::{self, Confinement, Probe, Walls},
        sealed::Sealed,
        world::Reply,
    },
    frames::{Garbled, Head, Kind, Splitter},
    link::MAX_FUNCTIONS,
    message::{self, Call, Terms},
    outbox::{self, Outbox},
    walls,
};
use crate::{id::FunctionId, site::units::Bytes};

/// What a worker is told when it is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Job {
    pub(in super::super) pool: PoolLimits,
    pub(in super::super) threads: NonZeroUsize,
    /// What all of its guests have together.
    pub(in super::super) memory: Bytes,
    pub(in super::super) portable: bool,
}

impl Job {
    fn settings(&self) -> Settings {
        Settings {
            pool: self.pool,
            cpu_threads: self.threads,
            cpu_queue: CALLS_PER_THREAD * self.threads.get(),
            memory: self.memory,
            portable: self.portable,
            ..Settings::default()
        }
    }
}

/// The whole of `sandgate worker JOB`.
pub fn serve_worker(job: &str) -> io::Result<()> {
    let job: Job = serde_json::from_str(job)?;
    walls::no_inherited_descriptors()?;
    let socket = StdUnixStream::from(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 0)?);
    socket.set_nonblocking(true)?;
    // Where the kernel offers less, less is in force: `doctor` tells.
    let (desk, _) = confined(&job, Walls::All)?;
    desk.serve(socket)
}

/// The whole of `sandgate worker --probe`: confines itself, and tells as JSON what it could do all the same.
pub fn probe_worker(walls: Walls, output: &mut dyn io::Write) -> io::Result<()> {
    walls::no_inherited_descriptors()?;
    let memory = Settings::default().memory;
    let job = Job { pool: PoolLimits::default(), threads: NonZeroUsize::MIN, memory, portable: true };
    let (_desk, confinement) = confined(&job, walls)?;
    let probe = Probe { confinement, attempts: confine::try_all() };
    Ok(serde_json::to_writer(output, &probe)?)
}

/// A worker behind its walls, ready to be given functions.
fn confined(job: &Job, walls: Walls) -> io::Result<(Desk, Confinement)> {
    let other = |error: super::super::StartError| io::Error::other(error);
    // The engine looks at `/proc` as it starts, and a thread inherits the walls of the one that starts it.
    let engine = engine::engine(&job.pool).map_err(other)?;
    let walls = walls::begin(walls, &job.pool)?;
    let sandbox = Sandbox::around(engine, None, &job.settings()).map_err(other)?;
    sandbox.start_guest_threads()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    heed_no_signals(&runtime)?;
    let loader = Loader::start(sandbox)?;
    let confinement = walls.close()?;
    Ok((Desk { runtime, loader }, confinement))
}

/// Whoever ends a service tells all of its processes. Calls in flight are the gateway's to finish: a worker ends with it.
fn heed_no_signals(runtime: &tokio::runtime::Runtime) -> io::Result<()> {
    let _runtime = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        // It stays caught when nobody listens.
        drop(signal(kind)?);
    }
    Ok(())
}

/// What serves one socket.
struct Desk {
    runtime: tokio::runtime::Runtime,
    loader: Loader,
}

impl Desk {
    /// Until the other end is closed.
    fn serve(self, socket: StdUnixStream) -> io::Result<()> {
        let Self { runtime, loader } = self;
        let served = runtime.block_on(async {
            let worker = Arc::new(Worker {
                socket: UnixStream::from_std(socket)?,
                state: Mutex::default(),
                wake: Notify::new(),
                loader,
            });
            worker.serve().await
        });
        // Guests that still run are not waited for.
        runtime.shutdown_background();
        served
    }
}

/// The same in a thread of this process.
#[cfg(test)]
pub(in super::super) fn serve_here(socket: StdUnixStream) {
    socket.set_nonblocking(true).unwrap();
    let pool = PoolLimits { instances: 8, ..PoolLimits::default() };
    let memory = Settings::default().memory;
    let job = Job { pool, threads: NonZeroUsize::new(2).unwrap(), memory, portable: true };
    let sandbox = Sandbox::start(&job.settings()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    Desk { runtime, loader: Loader::start(sandbox).unwrap() }.serve(socket).ok();
}

struct Worker {
    socket: UnixStream,
    state: Mutex<State>,
    wake: Notify,
    loader: Loader,
}

#[derive(Default)]
struct State {
    outbox: Outbox,
    running: HashMap<u32, AbortHandle>,
    functions: HashMap<u32, Loading>,
}

impl Worker {
    async fn serve(self: Arc<Self>) -> io::Result<()> {
        let (mut splitter, mut descriptors) = (Splitter::default(), VecDeque::new());
        loop {
            let unsent = !self.lock().outbox.is_empty();
            let interest = if unsent { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let ready = tokio::select! {
                ready = self.socket.ready(interest) => ready?,
                () = self.wake.notified() => continue,
            };
            if ready.is_writable() {
                self.lock().outbox.flush(&self.socket)?;
            }
            if ready.is_readable() || ready.is_read_closed() {
                match outbox::receive(&self.socket, splitter.buffer(), &mut descriptors) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error),
                }
                while let Some((head, body)) = splitter.next(longest).map_err(io::Error::other)? {
                    self.heed(&head, body, &mut descriptors).map_err(io::Error::other)?;
                }
            }
        }
    }

    fn heed(
        self: &Arc<Self>,
        head: &Head,
        body: bytes::Bytes,
        descriptors: &mut VecDeque<OwnedFd>,
    ) -> Result<(), Garbled> {
        match head.kind {
            Kind::Load => {
                let artefact =
                    Artefact::received(Sealed::received(descriptors.pop_front().ok_or(Garbled::Body)?));
                let loading = self.loader.load(head.id, Terms::read(&body)?, artefact);
                let mut state = self.lock();
                if state.functions.len() <= MAX_FUNCTIONS {
                    state.functions.insert(head.id, loading);
                }
            }
            Kind::Unload => drop(self.lock().functions.remove(&head.id)),
            Kind::Call => {
                let (worker, id, began) = (Arc::clone(self), head.id, Instant::now());
                let call = tokio::spawn(async move {
                    let mut usage = Usage::default();
                    let result = worker.call(&body, began, &mut usage).await;
                    worker.lock().running.remove(&id);
                    worker.answer(id, &result, &usage);
                });
                // On this thread alone, the call has not begun yet.
                self.lock().running.insert(head.id, call.abort_handle());
            }
            Kind::Cancel => {
                let call = self.lock().running.remove(&head.id);
                // If there is none, its answer is on its way.
                if let Some(call) = call {
                    call.abort();
                    let cancelled = Err(SandboxError::internal("cancelled"));
                    self.answer(head.id, &cancelled, &Usage::default());
                }
            }
            Kind::Answer => return Err(Garbled::Kind),
        }
        Ok(())
    }

    async fn call(&self, body: &[u8], began: Instant, usage: &mut Usage) -> Result<Reply, SandboxError> {
        let call = Call::read(body).map_err(|error| SandboxError::internal(error.to_string()))?;
        let loading = self.lock().functions.get(&call.function).cloned();
        let mut loading =
            loading.ok_or_else(|| SandboxError::internal("a function that it was not given"))?;
        let started = began.checked_sub(call.elapsed).unwrap_or(began);
        let deadline = started + loading.wall;
        let loaded =
            async { loading.outcome.wait_for(Option::is_some).await.ok().and_then(|told| told.clone()) };
        let Ok(loaded) = timeout_at(deadline.into(), loaded).await else {
            let hit = loading.terms.limits().hit(LimitName::Wall);
            usage.hits.push(hit);
            return Err(SandboxError::WallExhausted(hit));
        };
        let runner = match loaded {
            Some(Ok(runner)) => runner,
            Some(Err(reason)) => return Err(AdmissionError::Invalid { reason }.into()),
            None => return Err(SandboxError::internal("the thread that loads functions is gone")),
        };
        runner.run_since(call.event(), call.authority, started, usage).await
    }

    fn answer(&self, id: u32, result: &Result<Reply, SandboxError>, usage: &Usage) {
        let too_long =
            || message::answer(id, &Err(SandboxError::internal("an answer too long to tell")), usage);
        let Some(frame) = message::answer(id, result, usage).or_else(too_long) else { return };
        let mut state = self.lock();
        // If the socket takes nothing any more, reading from it says so.
        state.outbox.send(&self.socket, frame, None).ok();
        if !state.outbox.is_empty() {
            self.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long what the gateway sends may be: an event of the largest size, twice if its bytes are wanted as they came.
fn longest(_: &Head) -> Result<usize, Garbled> {
    Ok(MAX_FRAME_BYTES)
}

/// A function that was asked for.
#[derive(Clone)]
struct Loading {
    terms: Arc<Terms>,
    wall: Duration,
    outcome: watch::Receiver<Option<Result<Runner, String>>>,
}

/// One function to be loaded.
type Load = Box<dyn FnOnce(&Arc<Sandbox>) + Send>;

/// The thread that loads functions while others run.
struct Loader(mpsc::Sender<Load>);

impl Loader {
    fn start(sandbox: Arc<Sandbox>) -> io::Result<Self> {
        let (give, take) = mpsc::channel::<Load>();
        thread::Builder::new().name("worker-load".into()).spawn(move || {
            while let Ok(load) = take.recv() {
                load(&sandbox);
            }
        })?;
        Ok(Self(give))
    }

    fn load(&self, number: u32, terms: Terms, artefact: Artefact) -> Loading {
        let (tell, outcome) = watch::channel(None);
        let terms = Arc::new(terms);
        let loading = Loading { wall: terms.limits().wall.value.0, terms: Arc::clone(&terms), outcome };
        let load = move |sandbox: &Arc<Sandbox>| {
            let runner = sandbox.receive(terms.component, &artefact).map_err(|error| error.to_string());
            let function = function(number).ok_or_else(|| "it has no name".to_owned());
            let runner =
                runner.and_then(|component| Ok(sandbox.runner(function?, component, terms.limits())));
            // The function may have been unloaded meanwhile.
            tell.send(Some(runner)).ok();
        };
        // Without the thread the outcome is that nobody tells one.
        self.0.send(Box::new(load)).ok();
        loading
    }
}

/// In here functions have numbers, and take turns by them where tenants do outside.
fn function(number: u32) -> Option<FunctionId> {
    let name = format!("f{number}");
    Some(FunctionId { tenant: name.parse().ok()?, function: name.parse().ok()? })
}

/// As many as wait for a thread in the gateway's own process.
const CALLS_PER_THREAD: usize = 64;

const MAX_FRAME_BYTES: usize = 256 << 20;
