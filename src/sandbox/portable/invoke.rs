//! One invocation of a portable component: it may wait, so it is a future, and holds no thread but while it computes.
//!
//! CPU time is the thread's, summed over the polls (F20). At each tick a guest that goes on steps aside for others; the timer on
//! the wall is its caller's, who drops this future, and with it the store (INVARIANT Alone). Nothing calls into a store again
//! after a trap: the reply is read by the host beside the guest, and counts once the guest has returned.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
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
        Breach, LimitHit, LimitName, Limits, SandboxError,
        limits::Meter,
        memory::Part,
        run::{OUT_OF_LIFT_BUDGET, Stopped, stopped},
        watch::{Progress, Stop, thread_cpu},
        world::{Refused, Reply},
    },
    base::{Fault, Guest, MAX_FIELDS_BYTES, MAX_RESOURCES},
    message,
};

/// What an invocation came to.
pub(in super::super) struct Run {
    pub(in super::super) result: Result<Reply, SandboxError>,
    pub(in super::super) hits: Vec<LimitHit>,
    pub(in super::super) peak: u64,
    pub(in super::super) cpu: Duration,
    pub(in super::super) dropped: u64,
}

/// One store, one instance, one request. `name` is the invocation's.
pub(in super::super) async fn invoke(
    pre: &ProxyPre<Guest>,
    name: &str,
    request: message::Request,
    limits: &Limits,
    part: Part,
    deadline: Instant,
    progress: Arc<Progress>,
) -> Run {
    let polls = Arc::new(Polls::default());
    let held = Held {
        meter: Meter::new(limits.memory.value, false, part),
        polls: Arc::clone(&polls),
        cpu: limits.cpu.value.0,
        deadline,
        progress: Arc::clone(&progress),
    };
    let mut call = pin!(call(pre, Guest::new(held, name, deadline), request, limits));
    let mut run = poll_fn(|cx| {
        polls.begin();
        let polled = call.as_mut().poll(cx);
        polls.end();
        polled
    })
    .await;
    run.cpu = polls.used();
    run
}

async fn call(pre: &ProxyPre<Guest>, guest: Guest, request: message::Request, limits: &Limits) -> Run {
    let mut store = match Store::try_new(pre.engine(), guest) {
        Ok(store) => store,
        Err(e) => {
            let result = Err(SandboxError::internal(format!("no store: {e:#}")));
            return Run { result, hits: Vec::new(), peak: 0, cpu: Duration::ZERO, dropped: 0 };
        }
    };
    store.limiter(|guest| &mut guest.held.meter);
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
        Ok(reply) => reply.map_err(|refused| match refused {
            Refused::Breach(breach) => SandboxError::ContractBroken(breach),
            Refused::TooLarge => SandboxError::ResponseTooLarge(limits.hit(LimitName::Response)),
        }),
        Err(error) => Err(cause(&error, limits, &held.meter)),
    };
    let mut hits: Vec<LimitHit> = held.meter.met().map(|name| limits.hit(name)).collect();
    if let Err(
        SandboxError::CpuExhausted(hit)
        | SandboxError::WallExhausted(hit)
        | SandboxError::ResponseTooLarge(hit),
    ) = &result
    {
        hits.push(*hit);
    }
    Run { result, hits, peak: held.meter.peak() as u64, cpu: Duration::ZERO, dropped: store.data().dropped() }
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
fn cause(error: &wasmtime::Error, limits: &Limits, meter: &Meter) -> SandboxError {
    let trapped = |reason: String| SandboxError::Trapped { reason };
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
    match stopped(limits, error, meter) {
        Stopped::For(error) => error,
        Stopped::Outlived => SandboxError::internal("a portable guest has no slice"),
    }
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
    fn tick(&mut self) -> wasmtime::Result<UpdateDeadline> {
        let used = self.polls.used();
        self.progress.note(used, &self.meter);
        if self.progress.is_cancelled() || Instant::now() >= self.deadline {
            Err(Stop::Wall.into())
        } else if used >= self.cpu {
            Err(Stop::Cpu.into())
        } else {
            // Behind everybody who is ready, and behind the timers.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        }
    }
}

/// CPU time of one invocation, on whichever threads it was polled.
#[derive(Debug, Default)]
struct Polls {
    /// Of the polls that are over, in nanoseconds.
    before: AtomicU64,
    /// The thread's CPU time when the poll that is under way began; a poll is read by its own thread alone.
    began: AtomicU64,
    under_way: std::sync::atomic::AtomicBool,
}

impl Polls {
    fn begin(&self) {
        self.began.store(nanos(thread_cpu()), Ordering::Relaxed);
        self.under_way.store(true, Ordering::Relaxed);
    }

    fn end(&self) {
        self.before.store(nanos(self.used()), Ordering::Relaxed);
        self.under_way.store(false, Ordering::Relaxed);
    }

    fn used(&self) -> Duration {
        let now = match self.under_way.load(Ordering::Relaxed) {
            true => nanos(thread_cpu()).saturating_sub(self.began.load(Ordering::Relaxed)),
            false => 0,
        };
        Duration::from_nanos(self.before.load(Ordering::Relaxed).saturating_add(now))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Bytes that the host may copy out of a guest for one call: four writes, or a header map.
const CALL_BYTES: usize = 256 << 10;
