//! The gateway's end of one worker: many calls over one socket, none of which is believed.
//!
//! Whoever calls sends for itself, under a lock that only calls of the same tenant share, and only for one system call. One task
//! tends the socket: it takes answers to those who wait for them, sends what the kernel had no room for, and ends the worker when
//! it says what it may not say, does not stop what it was told to stop, or has nothing to do.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt, io,
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{Notify, oneshot},
    time::{Instant, sleep, sleep_until},
};

use super::{
    super::artefact::Artefact,
    death::Death,
    frames::{self, Garbled, Head, Kind, Splitter},
    outbox::{self, Outbox},
};

/// One worker, as the gateway has it.
pub(super) struct Link {
    pid: u32,
    socket: UnixStream,
    state: Mutex<State>,
    /// There is something for the one who tends.
    wake: Notify,
}

struct State {
    over: Option<Over>,
    waiting: HashMap<u32, Waiting>,
    next: u32,
    /// Functions that the worker was given, by number.
    functions: HashSet<u32>,
    outbox: Outbox,
    last_used: Instant,
}

/// Why a worker is spoken to no more.
#[derive(Debug, Clone)]
enum Over {
    /// Nobody needs it.
    Unneeded,
    /// It closed its end.
    Gone,
    /// It must not go on.
    Dead(Death),
}

/// A call that was sent.
struct Waiting {
    /// Who waits; nobody if the call was cancelled.
    caller: Option<oneshot::Sender<Result<Bytes, Death>>>,
    /// Bytes that the answer may have.
    most: usize,
}

/// Why a call was not sent.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The worker is spoken to no more; the frame is as it was.
    Closed(Vec<u8>),
    /// The worker does not have the function; the frame is as it was.
    NotLoaded(Vec<u8>),
    /// Too many calls are under way, or too many bytes.
    Full,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl Link {
    /// Needs a tokio runtime.
    pub(super) fn new(socket: std::os::unix::net::UnixStream, pid: u32) -> io::Result<Arc<Self>> {
        socket.set_nonblocking(true)?;
        let state = State {
            over: None,
            waiting: HashMap::new(),
            next: 0,
            functions: HashSet::new(),
            outbox: Outbox::default(),
            last_used: Instant::now(),
        };
        let socket = UnixStream::from_std(socket)?;
        Ok(Arc::new(Self { pid, socket, state: Mutex::new(state), wake: Notify::new() }))
    }

    /// The process.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().over.is_none()
    }

    /// When it was last of use, if it is of none now.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        state.waiting.is_empty().then_some(state.last_used)
    }

    /// Sends a call of a function, whose answer may have `most` bytes; ahead of it the function, where the caller has it at hand.
    pub(super) fn call(
        self: &Arc<Self>,
        function: u32,
        frame: Vec<u8>,
        most: usize,
        load: Option<(Vec<u8>, Arc<Artefact>)>,
    ) -> Result<Pending, Unsent> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.over.is_some() {
            return Err(Unsent::Closed(frame));
        }
        let loaded = state.functions.contains(&function);
        if !loaded && load.is_none() {
            return Err(Unsent::NotLoaded(frame));
        }
        let fits = state.outbox.is_empty() || state.outbox.bytes() + frame.len() <= MAX_UNSENT_BYTES;
        let holds = loaded || state.functions.len() < MAX_FUNCTIONS;
        if state.waiting.len() >= MAX_CALLS || !fits || !holds {
            return Err(Unsent::Full);
        }
        let id = state.next_id();
        let frame = frames::finish(frame, id).ok_or(Unsent::Full)?;
        let (caller, answer) = oneshot::channel();
        state.waiting.insert(id, Waiting { caller: Some(caller), most });
        state.last_used = Instant::now();
        if let (false, Some((load, artefact))) = (loaded, load) {
            state.functions.insert(function);
            self.send(state, load, Some(artefact));
        }
        self.send(state, frame, None);
        drop(guard);
        Ok(Pending { link: Arc::clone(self), id, answer })
    }

    /// Nobody calls that function any more.
    pub(super) fn unload(&self, function: u32) {
        let mut state = self.lock();
        if state.over.is_none() && state.functions.remove(&function) {
            self.send(&mut state, frames::bare(Kind::Unload, function), None);
        }
    }

    /// Ends it, unless calls are under way.
    pub(super) fn end_if_idle(&self) -> bool {
        let mut state = self.lock();
        let idle = state.waiting.is_empty();
        if idle {
            state.over.get_or_insert(Over::Unneeded);
            drop(state);
            self.wake.notify_one();
        }
        idle
    }

    /// Ends it, whatever is under way.
    pub(super) fn end(&self) {
        self.finish(Over::Unneeded);
    }

    /// Ends it for what it did.
    pub(super) fn condemn(&self, death: Death) {
        self.finish(Over::Dead(death));
    }

    /// Takes answers to those who wait, until the worker is no more. `end` ends its process and tells how that had ended; `note`
    /// hears of a death before anybody else does.
    pub(super) async fn tend(
        self: Arc<Self>,
        idle: Duration,
        end: impl FnOnce() -> oneshot::Receiver<ExitStatus>,
        note: impl FnOnce(&Death),
    ) {
        let over = self.converse(idle).await;
        // From here on nobody sends any more.
        self.lock().over.get_or_insert(over.clone());
        let status = end().await;
        let death = match over {
            Over::Unneeded => None,
            Over::Gone => Some(status.map_or(Death::Exit(0), Death::of)),
            Over::Dead(death) => Some(death),
        };
        if let Some(death) = &death {
            note(death);
        }
        let waiting = std::mem::take(&mut self.lock().waiting);
        let death = death.unwrap_or(Death::Exit(0));
        for caller in waiting.into_values().filter_map(|waiting| waiting.caller) {
            // Who stopped waiting needs no answer.
            caller.send(Err(death.clone())).ok();
        }
    }

    async fn converse(&self, idle: Duration) -> Over {
        let mut splitter = Splitter::default();
        let mut check = std::pin::pin!(sleep(idle));
        loop {
            let unsent = {
                let state = self.lock();
                if let Some(over) = &state.over {
                    return over.clone();
                }
                !state.outbox.is_empty()
            };
            let interest = if unsent { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let ready = tokio::select! {
                ready = self.socket.ready(interest) => ready,
                () = self.wake.notified() => continue,
                () = &mut check => {
                    let since = self.idle_since().unwrap_or_else(Instant::now);
                    if since.elapsed() >= idle && self.end_if_idle() {
                        continue;
                    }
                    check.as_mut().reset(since + idle);
                    continue;
                }
            };
            let Ok(ready) = ready else { return Over::Gone };
            if ready.is_writable() && self.flush().is_err() {
                return Over::Gone;
            }
            if (ready.is_readable() || ready.is_read_closed())
                && let Err(over) = self.read(&mut splitter)
            {
                return over;
            }
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.lock().outbox.flush(&self.socket)
    }

    fn read(&self, splitter: &mut Splitter) -> Result<(), Over> {
        // It has no descriptors to send; those that came all the same are closed here.
        let mut descriptors = VecDeque::new();
        match outbox::receive(&self.socket, splitter.buffer(), &mut descriptors) {
            Ok(0) => return Err(Over::Gone),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) => return Err(Over::Gone),
        }
        let mut answer_all = || {
            while let Some((head, body)) = splitter.next(|head| self.longest(head))? {
                self.answer(&head, body)?;
            }
            Ok(())
        };
        answer_all().map_err(|garbled: Garbled| Over::Dead(Death::Protocol(garbled.to_string())))
    }

    fn longest(&self, head: &Head) -> Result<usize, Garbled> {
        match head.kind {
            Kind::Answer => self.lock().waiting.get(&head.id).map(|call| call.most).ok_or(Garbled::Unasked),
            Kind::Load | Kind::Unload | Kind::Call | Kind::Cancel => Err(Garbled::Kind),
        }
    }

    fn answer(&self, head: &Head, body: Bytes) -> Result<(), Garbled> {
        let mut state = self.lock();
        state.last_used = Instant::now();
        let call = state.waiting.remove(&head.id).ok_or(Garbled::Unasked)?;
        drop(state);
        if let Some(caller) = call.caller {
            // Who stopped waiting a moment ago needs no answer.
            caller.send(Ok(body)).ok();
        }
        Ok(())
    }

    fn cancel(self: &Arc<Self>, id: u32) {
        let mut state = self.lock();
        let Some(call) = state.waiting.get_mut(&id) else { return };
        call.caller = None;
        if state.over.is_some() {
            return;
        }
        self.send(&mut state, frames::bare(Kind::Cancel, id), None);
        drop(state);
        // Without a runtime nobody tends the socket either: the process is about to end.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (link, by) = (Arc::clone(self), Instant::now() + OBEY);
            runtime.spawn(async move {
                sleep_until(by).await;
                if link.lock().waiting.contains_key(&id) {
                    link.condemn(Death::Overrun);
                }
            });
        }
    }

    fn send(&self, state: &mut State, frame: Vec<u8>, artefact: Option<Arc<Artefact>>) {
        // A socket that takes nothing any more is closed at the other end: the one who tends it learns as much by reading.
        state.outbox.send(&self.socket, frame, artefact).ok();
        if !state.outbox.is_empty() {
            self.wake.notify_one();
        }
    }

    fn finish(&self, over: Over) {
        self.lock().over.get_or_insert(over);
        self.wake.notify_one();
    }

    // Nothing that can panic runs under the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Not the id of a call under way: an answer that comes late must not be another call's.
    fn next_id(&mut self) -> u32 {
        loop {
            self.next = self.next.wrapping_add(1);
            if !self.waiting.contains_key(&self.next) {
                return self.next;
            }
        }
    }
}

/// A call under way. Who drops it cancels it, and the worker has [`OBEY`] to obey.
#[derive(Debug)]
pub(super) struct Pending {
    link: Arc<Link>,
    id: u32,
    answer: oneshot::Receiver<Result<Bytes, Death>>,
}

impl Pending {
    /// What the worker answers.
    pub(super) async fn answer(&mut self) -> Result<Bytes, Death> {
        // Whoever tends the socket answers everybody before it goes; if it is gone with its runtime, so is the worker.
        (&mut self.answer).await.unwrap_or(Err(Death::Exit(0)))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.link.cancel(self.id);
    }
}

/// Calls that one worker may have at once, those included that it was told to cancel.
const MAX_CALLS: usize = 1024;

/// Functions that one worker may have at once.
pub(super) const MAX_FUNCTIONS: usize = 256;

/// Bytes that may wait for a worker that does not take them; one call is always allowed.
const MAX_UNSENT_BYTES: usize = 64 << 20;

/// Time for a worker to stop a call. A guest stops at its next tick, 2 ms; the rest is for a machine that is busy.
const OBEY: Duration = Duration::from_secs(3);
