//! One invocation of a portable component: it may wait, so it is a future, and holds no thread but while it computes.
//!
//! CPU time is the thread's, summed over the polls (F20). The first poll may be where the request is, as in the narrow world: who
//! is quick never leaves that thread. At a tick a guest that has had its turn steps aside for others; the timer on the wall is
//! its caller's, who drops this future, and with it the store (INVARIANT Alone). Nothing calls into a store again after a trap:
//! the reply is read by the host beside the guest, and counts once the guest has returned.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use http_body_util::BodyExt;
use tokio::sync::oneshot;
use wasmtime::{Store, UpdateDeadline, component::ResourceTableError};
use wasmtime_wasi_http::FieldMapError;
use wasmtime_wasi_http::p2::{
    bindings::{
        ProxyPre,
        http::types::{ErrorCode, Scheme},
    },
    body::HyperOutgoingBody,
};

use super::{
    super::{
        Breach, Limits, SandboxError,
        attempt::{Attempt, OUT_OF_LIFT_BUDGET, Stopped, stopped},
        engine::TICK_MS,
        limits::Meter,
        memory::Part,
        watch::{CpuClock, Progress, SLICE, Stop},
        world::{Refused, Reply},
    },
    base::{Fault, Guest, MAX_FIELDS_BYTES, MAX_RESOURCES},
    message,
};

/// What an invocation has beside its limits.
pub(in super::super) struct Means {
    /// Whether the first poll is on an I/O thread.
    pub(in super::super) inline: bool,
    /// Of the memory of all guests.
    pub(in super::super) part: Part,
    pub(in super::super) deadline: Instant,
    /// For whoever waits.
    pub(in super::super) progress: Arc<Progress>,
}

/// One store, one instance, one request. `name` is the invocation's.
pub(in super::super) async fn invoke(
    pre: &ProxyPre<Guest>,
    name: &str,
    request: message::Request,
    limits: &Limits,
    means: Means,
) -> Attempt {
    let Means { inline, part, deadline, progress } = means;
    let polls = Arc::new(Polls::new(inline));
    let held = Held {
        meter: Meter::new(limits.memory.value, inline, part),
        polls: Arc::clone(&polls),
        cpu: limits.cpu.value.0,
        deadline,
        progress: Arc::clone(&progress),
    };
    let mut call = pin!(call(pre, Guest::new(held, name, deadline), request, limits));
    let mut attempt = poll_fn(|cx| {
        polls.begin(limits.cpu.value.0);
        let polled = call.as_mut().poll(cx);
        polls.end();
        polled
    })
    .await;
    attempt.cpu = polls.used();
    attempt
}

async fn call(pre: &ProxyPre<Guest>, guest: Guest, request: message::Request, limits: &Limits) -> Attempt {
    let mut store = match Store::try_new(pre.engine(), guest) {
        Ok(store) => store,
        Err(e) => return Attempt::failed(SandboxError::internal(format!("no store: {e:#}"))),
    };
    store.limiter(|guest| guest.held.meter());
    store.set_hostcall_fuel(CALL_BYTES);
    store.set_max_component_handles(MAX_RESOURCES);
    // Armed before instantiation, since start functions run.
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|mut store| store.data_mut().held.tick());
    let (send, receive) = oneshot::channel();
    let ended = {
        let guest = async {
            let request = store.data_mut().http().new_incoming_request(Scheme::Https, request)?;
            let out = store.data_mut().http().new_response_outparam(send)?;
            let proxy = pre.instantiate_async(&mut store).await?;
            proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out).await
        };
        both(pin!(guest), pin!(read(receive, limits))).await
    };
    let Guest { held, .. } = store.data();
    let result = match ended {
        Ok(reply) => reply.map_err(|refused| Stopped::by(refused, limits)),
        Err(error) => Err(cause(&error, limits, &held.meter)),
    };
    Attempt { dropped: store.data().dropped(), ..Attempt::ended(result, limits, &held.meter) }
}

/// Guest and reader side by side, since a guest waits for its reader once a few writes are ahead of it.
///
/// The guest's failure is the invocation's, whatever was read; a reply that is too large ends the guest; and what the guest has
/// not finished when it returns, nobody will.
async fn both(
    mut guest: Pin<&mut impl Future<Output = wasmtime::Result<()>>>,
    mut reader: Pin<&mut impl Future<Output = Result<Reply, Refused>>>,
) -> wasmtime::Result<Result<Reply, Refused>> {
    let mut reply = None;
    poll_fn(|cx| {
        let returned = match guest.as_mut().poll(cx) {
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        if reply.is_none()
            && let Poll::Ready(read) = reader.as_mut().poll(cx)
        {
            reply = Some(read);
        }
        match reply.take() {
            Some(Err(Refused::TooLarge)) => Poll::Ready(Ok(Err(Refused::TooLarge))),
            read if returned => Poll::Ready(Ok(read.unwrap_or(Err(Refused::Breach(Breach::Unfinished))))),
            read => {
                reply = read;
                Poll::Pending
            }
        }
    })
    .await
}

type Told = Result<http::Response<HyperOutgoingBody>, ErrorCode>;

/// Reads what the guest answers, within the limit and no further.
async fn read(told: oneshot::Receiver<Told>, limits: &Limits) -> Result<Reply, Refused> {
    let told = told.await.map_err(|_| Refused::Breach(Breach::NoReply))?;
    let (head, mut body) = told.map_err(|_| Refused::Breach(Breach::NoReply))?.into_parts();
    let limit = usize::try_from(limits.response.value.0).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refused::Breach(Breach::Unfinished))?;
        // Trailers are not part of a reply.
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len().saturating_add(data.len()) > limit {
            return Err(Refused::TooLarge);
        }
        bytes.extend_from_slice(&data);
    }
    message::reply(head.status.as_u16(), &head.headers, bytes, limits)
}

/// What an error of the engine means here.
fn cause(error: &wasmtime::Error, limits: &Limits, meter: &Meter) -> Stopped {
    let trapped = |reason: String| SandboxError::Trapped { reason }.into();
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return trapped(fault.to_string());
    }
    if matches!(error.downcast_ref::<ResourceTableError>(), Some(ResourceTableError::Full)) {
        return trapped(format!("it held more than {MAX_RESOURCES} resources"));
    }
    if error.is::<FieldMapError>() {
        return trapped(format!("it put more than {MAX_FIELDS_BYTES} bytes of headers into one map"));
    }
    if format!("{error:#}").contains(OUT_OF_LIFT_BUDGET) {
        return trapped(format!("it passed more than {CALL_BYTES} bytes in one call"));
    }
    stopped(limits, error, meter)
}

/// What holds a guest to its time and memory.
pub(super) struct Held {
    meter: Meter,
    polls: Arc<Polls>,
    cpu: Duration,
    deadline: Instant,
    progress: Arc<Progress>,
}

impl Held {
    /// Holds an inline guest to what may be touched on an I/O thread, for as long as it is on one.
    fn meter(&mut self) -> &mut Meter {
        if !self.polls.inline() {
            self.meter.leave_io_thread();
        }
        &mut self.meter
    }

    fn tick(&mut self) -> wasmtime::Result<UpdateDeadline> {
        let Tick { used, early } = self.polls.tick();
        self.progress.note(used, &self.meter);
        if self.progress.is_cancelled() || Instant::now() >= self.deadline {
            Err(Stop::Wall.into())
        } else if used >= self.cpu {
            Err(Stop::Cpu.into())
        } else if early {
            // Most are nearly done; whoever is not steps aside at the next tick, and off the I/O thread if it is on one.
            Ok(UpdateDeadline::Continue(1))
        } else {
            // Behind everybody who is ready, and behind the timers.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        }
    }
}

/// CPU time of one invocation, on whichever threads it was polled.
#[derive(Debug)]
struct Polls(Mutex<Clocks>);

#[derive(Debug)]
struct Clocks {
    /// Of the polls that are over.
    before: Duration,
    /// Of the poll that is under way, which its own thread alone reads.
    now: Option<CpuClock>,
    /// The first poll is not over, and on an I/O thread.
    inline: bool,
}

/// What a tick finds.
struct Tick {
    used: Duration,
    /// The guest's turn is not over. So it is if `used` is a guess, which is small.
    early: bool,
}

impl Polls {
    fn new(inline: bool) -> Self {
        Self(Mutex::new(Clocks { before: Duration::ZERO, now: None, inline }))
    }

    fn begin(&self, budget: Duration) {
        let mut clocks = self.lock();
        clocks.now = Some(if clocks.inline { CpuClock::inline(budget) } else { CpuClock::exact() });
    }

    fn end(&self) {
        let mut clocks = self.lock();
        clocks.before = clocks.used();
        clocks.now = None;
        clocks.inline = false;
    }

    fn tick(&self) -> Tick {
        let mut clocks = self.lock();
        let estimated = clocks.now.is_some_and(|clock| clock.is_estimated());
        let turn = clocks.now.as_mut().map_or(Duration::ZERO, CpuClock::tick);
        let early = estimated || turn < if clocks.inline { SLICE } else { TURN };
        Tick { used: clocks.before + turn, early }
    }

    fn used(&self) -> Duration {
        self.lock().used()
    }

    fn inline(&self) -> bool {
        self.lock().inline
    }

    fn lock(&self) -> MutexGuard<'_, Clocks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clocks {
    fn used(&self) -> Duration {
        self.before + self.now.map_or(Duration::ZERO, |clock| clock.used())
    }
}

/// What a guest has before it steps aside for others, on a thread for guests: a small call of an interpreter is done then. Those
/// who are cut short sit in the pool, and in the processor's caches, with all that they have written.
const TURN: Duration = Duration::from_millis(TICK_MS);

/// Bytes that the host may copy out of a guest for one call: four writes, or a header map.
const CALL_BYTES: usize = 256 << 10;
