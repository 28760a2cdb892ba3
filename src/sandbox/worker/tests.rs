//! Workers in threads of this process: what they answer, and liars. What a process adds, the integration tests see.

use std::{
    io::{Read, Write},
    os::unix::{net::UnixStream, process::ExitStatusExt},
    process::ExitStatus,
    sync::mpsc,
};

use bytes::Bytes;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    super::{
        Breach, CallerInput, EventInput, LimitName, Limits, SandboxError, Usage,
        tests::{by_function, guest, limits, ms, runner_of, sandbox, used_by},
        world::Reply,
    },
    frames::{self, HEAD_BYTES, Kind},
    link::Unsent,
    *,
};
use crate::site::units;

/// The gateway's end, and a worker's that says what the test wants.
struct Linked {
    link: Arc<Link>,
    liar: UnixStream,
    tending: JoinHandle<()>,
    died: mpsc::Receiver<Death>,
}

fn linked() -> Linked {
    let (ours, liar) = UnixStream::pair().unwrap();
    let link = Link::new(ours, 1).unwrap();
    let (tell, died) = mpsc::channel();
    let end = || {
        let (tell, told) = oneshot::channel();
        tell.send(ExitStatus::from_raw(rustix::process::Signal::SEGV.as_raw())).unwrap();
        told
    };
    let note = move |death: &Death| tell.send(death.clone()).unwrap();
    let tending = tokio::spawn(Arc::clone(&link).tend(Duration::from_secs(3600), end, note));
    Linked { link, liar, tending, died }
}

impl Linked {
    /// A call whose answer may have 100 bytes. The worker is said to have the function.
    fn call(&self) -> link::Pending {
        let artefact = runner_of(&sandbox(), "acme", guest("echo").as_bytes(), limits(|_| ()));
        let load = (frames::bare(Kind::Load, 7), artefact.component().artefact().unwrap());
        self.link.call(7, frames::begin(Kind::Call, 0), 100, Some(load)).unwrap()
    }

    /// The ids of so many calls, as they reach the worker.
    async fn heard(&self, count: usize) -> Vec<u32> {
        let mut from = self.liar.try_clone().unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let mut ids = Vec::new();
            while ids.len() < count {
                let mut head = [0; HEAD_BYTES];
                from.read_exact(&mut head).unwrap();
                assert_eq!(head[..4], [0; 4], "nothing that the tests send has a body");
                if head[4] == Kind::Call as u8 {
                    ids.push(u32::from_le_bytes(head[5..].try_into().unwrap()));
                }
            }
            ids
        });
        reading.await.unwrap()
    }

    fn say(&self, bytes: &[u8]) {
        (&self.liar).write_all(bytes).unwrap();
    }
}

fn answer(id: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = frames::begin(Kind::Answer, body.len());
    frame.extend_from_slice(body);
    frames::finish(frame, id).unwrap()
}

#[tokio::test]
async fn f30_answers_reach_those_who_asked_in_whatever_order_they_come() {
    let linked = linked();
    let (mut first, mut second) = (linked.call(), linked.call());
    let ids = linked.heard(2).await;
    linked.say(&[answer(ids[1], b"second"), answer(ids[0], b"first")].concat());
    assert_eq!(second.answer().await, Ok(Bytes::from_static(b"second")));
    assert_eq!(first.answer().await, Ok(Bytes::from_static(b"first")));
    assert!(linked.link.is_open() && linked.link.end_if_idle());
    linked.tending.await.unwrap();
    assert!(linked.died.try_recv().is_err(), "an end that was wanted is no death");
    assert!(matches!(linked.link.call(7, Vec::new(), 1, None), Err(Unsent::Closed(_))));
}

#[tokio::test]
async fn f30_a_worker_that_lies_is_ended_and_its_calls_fail() {
    type Lie = fn(u32) -> Vec<u8>;
    let lies: [(Lie, &str); 8] = [
        (|id| answer(id, &[0; 101]), "a frame of 101 bytes, of 100 allowed"),
        (
            |id| [&u32::MAX.to_le_bytes()[..], &[4], &id.to_le_bytes()].concat(),
            "a frame of 4294967295 bytes, of 100 allowed",
        ),
        (|id| answer(id + 2, b""), "an answer to no call"),
        (|id| answer(id.wrapping_sub(1), b""), "an answer to no call"),
        (|_| b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), "a frame of no kind that it may send"),
        (|id| frames::bare(Kind::Call, id), "a frame of no kind that it may send"),
        (|id| frames::bare(Kind::Load, id), "a frame of no kind that it may send"),
        // The second of them answers nothing.
        (|id| [answer(id + 1, b""), answer(id + 1, b"")].concat(), "an answer to no call"),
    ];
    for (lie, told) in lies {
        let linked = linked();
        let (mut first, mut second) = (linked.call(), linked.call());
        let id = linked.heard(2).await[0];
        linked.say(&lie(id));
        let death = Death::Protocol(told.to_owned());
        assert_eq!(first.answer().await, Err(death.clone()));
        // The second may have been answered before the lie.
        let second = second.answer().await;
        assert!(second.is_ok() || second == Err(death.clone()), "{second:?}");
        linked.tending.await.unwrap();
        assert_eq!(linked.died.try_recv(), Ok(death));
    }
}

#[tokio::test]
async fn f30_a_worker_that_goes_takes_its_calls_with_it_and_says_how() {
    let linked = linked();
    let mut call = linked.call();
    linked.heard(1).await;
    linked.say(&[6, 0, 0, 0, 4]);
    drop(linked.liar);
    assert_eq!(call.answer().await, Err(Death::Signal(11)));
    assert_eq!(linked.died.recv().unwrap().to_string(), "by signal 11 (SIGSEGV)");
    linked.tending.await.unwrap();
}

#[tokio::test]
async fn f30_a_worker_that_does_not_stop_a_call_is_ended() {
    let linked = linked();
    let (call, mut other) = (linked.call(), linked.call());
    linked.heard(2).await;
    tokio::time::pause();
    drop(call);
    assert_eq!(other.answer().await, Err(Death::Overrun));
    linked.tending.await.unwrap();
}

#[tokio::test]
async fn f30_a_worker_that_stops_a_call_late_but_in_time_lives_on() {
    let linked = linked();
    let call = linked.call();
    let id = linked.heard(1).await[0];
    drop(call);
    linked.say(&answer(id, b"cancelled"));
    let mut next = linked.call();
    let id = linked.heard(1).await[0];
    linked.say(&answer(id, b"next"));
    assert_eq!(next.answer().await, Ok(Bytes::from_static(b"next")));
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(linked.link.is_open());
}

fn read(body: &[u8], limits: &Limits) -> Result<Result<Reply, SandboxError>, String> {
    let mut usage = Usage::default();
    message::read_answer(body, limits, Duration::from_millis(1), &mut usage).map_err(|lie| lie.to_string())
}

fn body_of(result: &Result<Reply, SandboxError>, usage: &Usage) -> Vec<u8> {
    message::answer(0, result, usage).unwrap().split_off(HEAD_BYTES)
}

#[test]
fn f30_f31_an_answer_is_checked_as_if_the_guest_had_given_it() {
    let reply = |headers: &[(&str, &str)], body: &str| Reply {
        status: 200,
        content_type: "text/plain".into(),
        headers: headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        body: body.into(),
    };
    let small = limits(|l| l.response = by_function(units::Bytes(4)));
    let told = |answer: Reply| read(&body_of(&Ok(answer), &Usage::default()), &small).unwrap();
    assert_eq!(told(reply(&[("x-a", "b")], "four")).unwrap(), reply(&[("x-a", "b")], "four"));
    assert!(matches!(told(reply(&[], "fives")), Err(SandboxError::ResponseTooLarge(_))));
    for (name, value) in [("content-length", "4"), ("sandgate-caller", "acme/root"), ("x-a", "b\r\nx: y")] {
        let broken = told(reply(&[(name, value)], "four"));
        assert!(matches!(broken, Err(SandboxError::ContractBroken(_))), "{broken:?}");
    }
}

#[test]
fn f30_an_answer_that_cannot_be_true_is_none() {
    let limits = limits(|l| l.memory = by_function(units::Bytes(1000)));
    let failed = Err(SandboxError::Trapped { reason: "unreachable".into() });
    let with = |adjust: fn(&mut Usage)| {
        let mut usage = Usage::default();
        adjust(&mut usage);
        read(&body_of(&failed, &usage), &limits)
    };
    assert_eq!(with(|_| ()).unwrap().unwrap_err().to_string(), "the function trapped: unreachable");
    let cannot = "an answer that cannot be true: ";
    assert_eq!(with(|u| u.peak_memory = 1001).unwrap_err(), format!("{cannot}more memory than its limit"));
    assert_eq!(
        with(|u| u.dropped = u64::MAX).unwrap_err(),
        format!("{cannot}more output than can be written")
    );
    // A time is cut to what there was.
    let mut usage = Usage::default();
    let long = Usage { cpu: Duration::from_secs(3600), ..Usage::default() };
    let took = Duration::from_millis(3);
    message::read_answer(&body_of(&failed, &long), &limits, took, &mut usage).unwrap().unwrap_err();
    assert_eq!(usage.cpu, took);
    let whole = body_of(&failed, &Usage::default());
    for cut in 0..whole.len() {
        assert!(read(&whole[..cut], &limits).is_err(), "{cut}");
    }
    let mut unknown = whole.clone();
    // One hit, of a limit that nobody knows.
    unknown.splice(25..29, [1, 0, 0, 0, 9]);
    assert_eq!(read(&unknown, &limits).unwrap_err(), format!("{cannot}an unknown limit"));
    let hit = limits.hit(LimitName::Cpu);
    let of_cpu = body_of(&Err(SandboxError::OutOfMemory(hit)), &Usage::default());
    assert_eq!(read(&of_cpu, &limits).unwrap_err(), format!("{cannot}a limit that is not of memory"));
}

#[test]
fn f30_f35_what_a_worker_quotes_is_made_printable() {
    let limits = limits(|_| ());
    let rude = format!("\u{1b}[2J{}", "x".repeat(10_000));
    for error in [
        SandboxError::Trapped { reason: rude.clone() },
        SandboxError::internal(rude.clone()),
        Breach::Value(rude.clone()).into(),
    ] {
        let told = read(&body_of(&Err(error), &Usage::default()), &limits).unwrap().unwrap_err().to_string();
        assert!(told.contains("\\u{1b}[2J") && told.len() < 800, "{told}");
    }
}

#[test]
fn f30_an_event_reaches_a_worker_as_it_is() {
    let event = EventInput {
        request_id: "0190b6d5-7c1a-7c00-9000-0123456789ab",
        caller: CallerInput { id: "acme/alice", roles: &["a", "b"], scopes: &[] },
        method: "POST",
        rest: "a/b",
        query: "{}",
        headers: &[("x-a", "1"), ("x-a", "é")],
        content_type: "text/plain",
        body: b"body",
        raw: Some(b""),
        signals: &[super::super::SignalInput { pointer: "/name", kind: "sql" }],
    };
    let frame = message::call(7, Duration::from_millis(3), "gate.example", &event);
    let body = &frame[HEAD_BYTES..];
    let call = message::Call::read(body).unwrap();
    assert_eq!((call.function, call.elapsed, call.authority), (7, Duration::from_millis(3), "gate.example"));
    assert_eq!(format!("{:?}", call.event()), format!("{event:?}"));
    for cut in 0..body.len() {
        assert!(message::Call::read(&body[..cut]).is_err(), "{cut}");
    }
    assert!(message::Call::read(&[body, b"x"].concat()).is_err());
}

#[tokio::test]
async fn f30_every_guest_comes_to_the_same_in_a_worker() {
    let sandbox = sandbox();
    let tight = limits(|l| {
        l.cpu = by_function(ms(20));
        l.memory = by_function(units::Bytes(4 << 20));
        l.response = by_function(units::Bytes(64 << 10));
    });
    for name in [
        "echo",
        "tells",
        "traps",
        "traps-at-start",
        "divides-by-zero",
        "reads-out-of-bounds",
        "recurses",
        "loops",
        "loops-at-start",
        "grows-and-gives-up",
        "grows-and-answers",
        "grows-tables",
        "begins-large",
        "floods-little",
        "floods-headers",
        "answers-status",
        "answers-header",
        "answers-bad-utf8",
        "answers-nowhere",
        "remembers",
    ] {
        let component = sandbox.admit(guest(name).as_bytes(), None).unwrap();
        let function =
            || crate::id::FunctionId { tenant: "acme".parse().unwrap(), function: "f".parse().unwrap() };
        let shared = sandbox.runner(function(), Arc::clone(&component), tight);
        let isolated = sandbox.isolated_runner(function(), component, tight);
        for body in [&b"{}"[..], b"{\"name\":\"Ada\"}"] {
            let (here, used_here) = used_by(&shared, event(body)).await;
            let (there, used_there) = used_by(&isolated, event(body)).await;
            assert_eq!(format!("{here:?}"), format!("{there:?}"), "{name}");
            let of = |used: &Usage| (used.peak_memory, used.dropped, used.hits.clone());
            assert_eq!(of(&used_here), of(&used_there), "{name}");
            assert!(used_here.worker.is_none() && used_there.worker.is_some());
        }
    }
}

fn event(body: &[u8]) -> EventInput<'_> {
    EventInput {
        request_id: "0190b6d5-7c1a-7c00-9000-0123456789ab",
        caller: CallerInput { id: "acme/alice", roles: &[], scopes: &[] },
        method: "POST",
        rest: "",
        query: "{}",
        headers: &[],
        content_type: "application/json",
        body,
        raw: None,
        signals: &[],
    }
}

#[tokio::test]
async fn f30_many_calls_share_one_worker() {
    let sandbox = sandbox();
    let component = sandbox.admit(guest("echo").as_bytes(), None).unwrap();
    let function = crate::id::FunctionId { tenant: "acme".parse().unwrap(), function: "f".parse().unwrap() };
    let isolated = sandbox.isolated_runner(function, component, limits(|_| ()));
    let calls = (0..64).map(|n| {
        let isolated = isolated.clone();
        tokio::spawn(async move {
            // Some are longer than what a socket holds.
            let body = "x".repeat(if n % 8 == 0 { 500_000 } else { n });
            let (reply, usage) = used_by(&isolated, event(body.as_bytes())).await;
            (reply.unwrap().body == body.as_bytes(), usage.worker)
        })
    });
    let mut workers = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        let (same, worker) = call.await.unwrap();
        assert!(same);
        workers.extend(worker);
    }
    workers.dedup();
    assert_eq!((workers.len(), sandbox.workers().alive), (1, 1));
}
