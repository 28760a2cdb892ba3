//! What the bodies of frames say: an event on its way to a worker, and what came of it.
//!
//! An answer is read as a stranger's: a length is compared with what is there before it is used, text is made printable, numbers
//! must be possible, limits are named and not told (their values are the gateway's own), and a reply passes the same checks that
//! it passes where it is made.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    super::{
        AdmissionError, Breach, LimitName, Limits, Overload, Reply, SandboxError, SetBy, Usage,
        admission::printable,
        artefact::Digest,
        limits::Limit,
        world::{self, CallerInput, EventInput, Refused, SignalInput},
    },
    frames::{self, Garbled, Kind},
};
use crate::site::units::{Bytes, Span};

/// What comes with a function's artefact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Terms {
    /// Of which component the artefact is.
    pub(super) component: Digest,
    cpu: Span,
    wall: Span,
    memory: Bytes,
    response: Bytes,
}

impl Terms {
    pub(super) fn new(component: Digest, limits: &Limits) -> Self {
        Self {
            component,
            cpu: limits.cpu.value,
            wall: limits.wall.value,
            memory: limits.memory.value,
            response: limits.response.value,
        }
    }

    /// The limits as a worker holds them. Who set them the gateway knows, as it does how many calls may be in flight.
    pub(super) fn limits(&self) -> Limits {
        fn of<T>(value: T) -> Limit<T> {
            Limit { value, set_by: SetBy::Platform }
        }
        Limits {
            cpu: of(self.cpu),
            wall: of(self.wall),
            memory: of(self.memory),
            response: of(self.response),
            concurrency: of(u32::MAX),
            ..Limits::default()
        }
    }

    /// As a frame.
    pub(super) fn frame(&self, function: u32) -> Option<Vec<u8>> {
        let mut frame = frames::begin(Kind::Load, 256);
        serde_json::to_writer(&mut frame, self).ok()?;
        frames::finish(frame, function)
    }

    pub(super) fn read(body: &[u8]) -> Result<Self, Garbled> {
        serde_json::from_slice(body).map_err(|_| Garbled::Body)
    }
}

/// A call without its id: [`frames::finish`] gives it one.
pub(super) fn call(function: u32, elapsed: Duration, authority: &str, event: &EventInput<'_>) -> Vec<u8> {
    let raw = event.raw.map_or(0, <[u8]>::len);
    let mut to = Writer(frames::begin(Kind::Call, event.body.len() + raw + USUAL_EVENT_BYTES));
    to.number(function);
    to.long(nanos(elapsed));
    to.bytes(authority.as_bytes());
    for text in [event.request_id, event.caller.id, event.method, event.rest, event.query, event.content_type]
    {
        to.bytes(text.as_bytes());
    }
    to.texts(event.caller.roles);
    to.texts(event.caller.scopes);
    to.pairs(event.headers.iter().copied());
    to.pairs(event.signals.iter().map(|signal| (signal.pointer, signal.kind)));
    to.bytes(event.body);
    to.byte(event.raw.is_some().into());
    to.bytes(event.raw.unwrap_or_default());
    to.0
}

/// A call as a worker reads it.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) function: u32,
    /// Of its time on the wall, what was over when it was sent.
    pub(super) elapsed: Duration,
    /// What the place that the request was for goes by.
    pub(super) authority: &'a str,
    texts: [&'a str; 6],
    roles: Vec<&'a str>,
    scopes: Vec<&'a str>,
    headers: Vec<(&'a str, &'a str)>,
    signals: Vec<SignalInput<'a>>,
    body: &'a [u8],
    raw: Option<&'a [u8]>,
}

impl<'a> Call<'a> {
    pub(super) fn read(body: &'a [u8]) -> Result<Self, Garbled> {
        let mut from = Reader(body);
        Self::parse(&mut from).filter(|_| from.0.is_empty()).ok_or(Garbled::Body)
    }

    fn parse(from: &mut Reader<'a>) -> Option<Self> {
        let (function, elapsed) = (from.number()?, Duration::from_nanos(from.long()?));
        let authority = from.text()?;
        let mut texts = [""; 6];
        for text in &mut texts {
            *text = from.text()?;
        }
        let roles = from.many(Reader::text)?;
        let scopes = from.many(Reader::text)?;
        let headers = from.many(|from| Some((from.text()?, from.text()?)))?;
        let signals = from.many(|from| Some(SignalInput { pointer: from.text()?, kind: from.text()? }))?;
        let body = from.bytes()?;
        let has_raw = from.byte()? != 0;
        let raw = from.bytes()?;
        let raw = has_raw.then_some(raw);
        Some(Self { function, elapsed, authority, texts, roles, scopes, headers, signals, body, raw })
    }

    /// The event.
    pub(super) fn event(&self) -> EventInput<'_> {
        let [request_id, caller, method, rest, query, content_type] = self.texts;
        EventInput {
            request_id,
            caller: CallerInput { id: caller, roles: &self.roles, scopes: &self.scopes },
            method,
            rest,
            query,
            headers: &self.headers,
            content_type,
            body: self.body,
            raw: self.raw,
            signals: &self.signals,
        }
    }
}

/// Why there is no reply: the causes that a worker knows.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Failure {
    Trapped(String),
    Memory(LimitName),
    Cpu,
    Wall,
    Response,
    Contract(Breach),
    Queue,
    Instances,
    Crowded,
    Load(String),
    Internal(String),
}

impl Failure {
    fn of(error: &SandboxError) -> Self {
        match error {
            SandboxError::Trapped { reason } => Self::Trapped(reason.clone()),
            SandboxError::OutOfMemory(hit) => Self::Memory(hit.name),
            SandboxError::CpuExhausted(_) => Self::Cpu,
            SandboxError::WallExhausted(_) => Self::Wall,
            SandboxError::ResponseTooLarge(_) => Self::Response,
            SandboxError::ContractBroken(breach) => Self::Contract(breach.clone()),
            SandboxError::Overloaded(Overload::Instances | Overload::Tenant) => Self::Instances,
            SandboxError::Overloaded(Overload::Memory) => Self::Crowded,
            SandboxError::Overloaded(_) => Self::Queue,
            SandboxError::Admission(error) => Self::Load(error.to_string()),
            SandboxError::Internal { message } => Self::Internal(message.clone()),
            other @ (SandboxError::ReplyRefused(_) | SandboxError::WorkerDied(_)) => {
                Self::Internal(other.to_string())
            }
        }
    }

    /// The same as if it had happened here.
    fn believed(self, limits: &Limits) -> Result<SandboxError, Garbled> {
        Ok(match self {
            Self::Trapped(reason) => SandboxError::Trapped { reason: printable(&reason) },
            Self::Memory(name @ (LimitName::Memory | LimitName::TableElements)) => {
                SandboxError::OutOfMemory(limits.hit(name))
            }
            Self::Memory(_) => return Err(Garbled::Untrue("a limit that is not of memory")),
            Self::Cpu => SandboxError::CpuExhausted(limits.hit(LimitName::Cpu)),
            Self::Wall => SandboxError::WallExhausted(limits.hit(LimitName::Wall)),
            Self::Response => SandboxError::ResponseTooLarge(limits.hit(LimitName::Response)),
            Self::Contract(Breach::Value(told)) => Breach::Value(printable(&told)).into(),
            Self::Contract(breach) => breach.into(),
            Self::Queue => SandboxError::Overloaded(Overload::Queue),
            Self::Instances => SandboxError::Overloaded(Overload::Instances),
            Self::Crowded => SandboxError::Overloaded(Overload::Memory),
            Self::Load(reason) => AdmissionError::Invalid { reason: printable(&reason) }.into(),
            Self::Internal(message) => {
                SandboxError::internal(format!("in a worker: {}", printable(&message)))
            }
        })
    }
}

/// What came of a call, as a frame.
pub(super) fn answer(id: u32, result: &Result<Reply, SandboxError>, usage: &Usage) -> Option<Vec<u8>> {
    let body = result.as_ref().map_or(0, |reply| reply.body.len());
    let mut to = Writer(frames::begin(Kind::Answer, body + USUAL_ANSWER_BYTES));
    for number in [nanos(usage.cpu), usage.peak_memory, usage.dropped] {
        to.long(number);
    }
    to.byte(usage.retried.into());
    to.count(usage.hits.len());
    for hit in &usage.hits {
        to.byte(hit.name as u8);
    }
    match result {
        Ok(reply) => {
            to.byte(REPLY);
            to.number(reply.status.into());
            to.bytes(reply.content_type.as_bytes());
            to.pairs(reply.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            to.bytes(&reply.body);
        }
        Err(error) => {
            to.byte(FAILURE);
            serde_json::to_writer(&mut to.0, &Failure::of(error)).ok()?;
        }
    }
    frames::finish(to.0, id)
}

/// How long an answer under these limits can be. What it says beside the body is bounded where it is made.
pub(super) fn longest_answer(limits: &Limits) -> usize {
    limits.response.value.as_usize().saturating_add(ANSWER_ALLOWANCE_BYTES)
}

/// Reads an answer, adds to `usage` what the call used, and gives what it came to. `took` is how long the gateway waited.
pub(super) fn read_answer(
    body: &[u8],
    limits: &Limits,
    took: Duration,
    usage: &mut Usage,
) -> Result<Result<Reply, SandboxError>, Garbled> {
    let mut from = Reader(body);
    let told = Told::parse(&mut from).ok_or(Garbled::Body)?;
    if told.peak > limits.memory.value.0 {
        return Err(Garbled::Untrue("more memory than its limit"));
    }
    if told.dropped > MOST_DROPPED_BYTES {
        return Err(Garbled::Untrue("more output than can be written"));
    }
    for name in told.hits {
        let name = LimitName::ALL.get(usize::from(*name)).ok_or(Garbled::Untrue("an unknown limit"))?;
        let hit = limits.hit(*name);
        if !usage.hits.contains(&hit) {
            usage.hits.push(hit);
        }
    }
    // One thread at a time works for a call, so it cannot have used more than there was.
    usage.cpu += told.cpu.min(took);
    usage.peak_memory = usage.peak_memory.max(told.peak);
    usage.dropped += told.dropped;
    usage.retried |= told.retried;
    match from.byte() {
        Some(REPLY) => {
            let parts = reply(&mut from).filter(|_| from.0.is_empty()).ok_or(Garbled::Body)?;
            let (status, content_type, headers, body) = parts;
            Ok(world::accept_parts(status, content_type, headers, body, limits).map_err(|refused| {
                match refused {
                    Refused::Breach(breach) => SandboxError::ContractBroken(breach),
                    Refused::TooLarge => SandboxError::ResponseTooLarge(limits.hit(LimitName::Response)),
                }
            }))
        }
        Some(FAILURE) => {
            let failure: Failure = serde_json::from_slice(from.0).map_err(|_| Garbled::Body)?;
            Ok(Err(failure.believed(limits)?))
        }
        _ => Err(Garbled::Body),
    }
}

/// What a worker says that a call used.
struct Told<'a> {
    cpu: Duration,
    peak: u64,
    dropped: u64,
    retried: bool,
    hits: &'a [u8],
}

impl<'a> Told<'a> {
    fn parse(from: &mut Reader<'a>) -> Option<Self> {
        Some(Self {
            cpu: Duration::from_nanos(from.long()?),
            peak: from.long()?,
            dropped: from.long()?,
            retried: from.byte()? != 0,
            hits: from.bytes()?,
        })
    }
}

type Parts = (u16, String, Vec<(String, String)>, Vec<u8>);

fn reply(from: &mut Reader<'_>) -> Option<Parts> {
    let status = u16::try_from(from.number()?).ok()?;
    let content_type = from.text()?.to_owned();
    let headers = from.many(|from| Some((from.text()?.to_owned(), from.text()?.to_owned())))?;
    Some((status, content_type, headers, from.bytes()?.to_vec()))
}

struct Writer(Vec<u8>);

impl Writer {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn number(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn long(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// A count of things that are in memory. A frame of more than 4 GiB has no length, so this one is never sent.
    fn count(&mut self, count: usize) {
        self.number(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn texts(&mut self, texts: &[&str]) {
        self.count(texts.len());
        texts.iter().for_each(|text| self.bytes(text.as_bytes()));
    }

    fn pairs<'a>(&mut self, pairs: impl ExactSizeIterator<Item = (&'a str, &'a str)>) {
        self.count(pairs.len());
        for (first, second) in pairs {
            self.bytes(first.as_bytes());
            self.bytes(second.as_bytes());
        }
    }
}

/// What is left of a body.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]: [u8; 1]| byte)
    }

    fn number(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// Each item has a length of four bytes at least, so a count beyond that is none, and nothing is reserved for it.
    fn many<T>(&mut self, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = usize::try_from(self.number()?).ok()?;
        if count > self.0.len() / 4 {
            return None;
        }
        (0..count).map(|_| item(self)).collect()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

const REPLY: u8 = 0;
const FAILURE: u8 = 1;

/// Beside the body: ids, names and a few headers.
const USUAL_EVENT_BYTES: usize = 1024;
const USUAL_ANSWER_BYTES: usize = 256;

/// A reply may have 8 KiB of headers, and a failure quotes 600 bytes, which JSON may write six times as long.
const ANSWER_ALLOWANCE_BYTES: usize = 32 << 10;

/// More than a guest writes in half an hour, the longest limit on the wall: counters stay sound.
const MOST_DROPPED_BYTES: u64 = 1 << 50;
