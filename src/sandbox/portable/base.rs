//! The base: what a portable component finds without asking, and what stands behind it.
//!
//! Resources, streams and header maps are the engine vendor's. What could tell or reach anything is ours: the clock, numbers,
//! standard streams, arguments and exit. Of files only the types are linked, with no folder behind them, so there is no
//! descriptor to call them on; sockets, the wall clock, secret randomness and outgoing requests are not linked at all.

use std::{
    future::Future,
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::HeaderName;
use tokio::{runtime::Runtime, task::JoinHandle};
use wasmtime::{
    Engine,
    component::{Component, HasData, Linker, Resource, ResourceTable},
};
use wasmtime_wasi::{
    async_trait,
    cli::{WasiCli, WasiCliCtx, WasiCliCtxView},
    filesystem::{WasiFilesystem, WasiFilesystemCtx, WasiFilesystemCtxView},
    p2::bindings::{
        cli::{
            environment, exit, stderr, stdin, stdout, terminal_input, terminal_output, terminal_stderr,
            terminal_stdin, terminal_stdout,
        },
        clocks::monotonic_clock,
        filesystem::{preopens, types as files},
        random::{insecure, insecure_seed},
    },
    p2::{
        DynInputStream, DynOutputStream, DynPollable, OutputStream, Pollable, StreamResult,
        pipe::ClosedInputStream, subscribe,
    },
};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttp, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    p2::bindings::{LinkOptions, ProxyPre, http::types as messages},
};
use wasmtime_wasi_io::IoView;

use super::{denied, invoke::Held, is_denied};

/// A component of this world with its imports resolved.
pub(in super::super) type Pre = ProxyPre<Guest>;

/// The linker of this world: one, since no component gets more than the base. Denials are defined by name for each component that
/// imports any, in a linker of its own.
pub(in super::super) struct World(Linker<Guest>);

impl World {
    pub(in super::super) fn new(engine: &Engine) -> wasmtime::Result<Self> {
        Self::base(engine).map(Self)
    }

    fn base(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
        let mut linker = Linker::<Guest>::new(engine);
        let l = &mut linker;
        wasmtime_wasi_io::add_to_linker_async(l)?;
        monotonic_clock::add_to_linker::<_, Own>(l, Guest::own)?;
        insecure::add_to_linker::<_, Own>(l, Guest::own)?;
        insecure_seed::add_to_linker::<_, Own>(l, Guest::own)?;
        environment::add_to_linker::<_, Own>(l, Guest::own)?;
        exit::add_to_linker::<_, Own>(l, Guest::own)?;
        stdin::add_to_linker::<_, Own>(l, Guest::own)?;
        stdout::add_to_linker::<_, Own>(l, Guest::own)?;
        stderr::add_to_linker::<_, Own>(l, Guest::own)?;
        terminal_input::add_to_linker::<_, WasiCli>(l, Guest::terminal)?;
        terminal_output::add_to_linker::<_, WasiCli>(l, Guest::terminal)?;
        terminal_stdin::add_to_linker::<_, WasiCli>(l, Guest::terminal)?;
        terminal_stdout::add_to_linker::<_, WasiCli>(l, Guest::terminal)?;
        terminal_stderr::add_to_linker::<_, WasiCli>(l, Guest::terminal)?;
        preopens::add_to_linker::<_, WasiFilesystem>(l, Guest::files)?;
        files::add_to_linker::<_, WasiFilesystem>(l, Guest::files)?;
        messages::add_to_linker::<_, WasiHttp>(l, &(&LinkOptions::default()).into(), Guest::http)?;
        Ok(linker)
    }

    /// Resolves a component's imports; those that are neither in the base nor denied were refused before.
    pub(in super::super) fn link(&self, component: &Component) -> wasmtime::Result<Pre> {
        let (engine, ty) = (component.engine(), component.component_type());
        if !ty.imports(engine).any(|(import, _)| is_denied(import)) {
            return ProxyPre::new(self.0.instantiate_pre(component)?);
        }
        let mut linker = Self::base(engine)?;
        denied::define(&mut linker, engine, &ty)?;
        ProxyPre::new(linker.instantiate_pre(component)?)
    }
}

/// The host's side of one store.
pub(in super::super) struct Guest {
    pub(super) table: ResourceTable,
    pub(super) held: Held,
    http: WasiHttpCtx,
    sending: Nothing,
    files: WasiFilesystemCtx,
    terminal: WasiCliCtx,
    own: Base,
}

impl Guest {
    /// `name` seeds what is not secret: the same invocation would see the same numbers.
    pub(super) fn new(held: Held, name: &str, deadline: Instant) -> Self {
        let mut table = ResourceTable::with_capacity(RESOURCES);
        table.set_max_capacity(MAX_RESOURCES);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELDS_BYTES);
        Self {
            table,
            held,
            http,
            sending: Nothing,
            files: WasiFilesystemCtx::default(),
            terminal: WasiCliCtx::default(),
            own: Base::new(name, deadline),
        }
    }

    pub(super) fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.sending, table: &mut self.table, ctx: &mut self.http }
    }

    /// Bytes that went to standard output and error, and so nowhere.
    pub(super) fn dropped(&self) -> u64 {
        self.own.dropped.load(Ordering::Relaxed)
    }

    fn own(&mut self) -> View<'_> {
        View { base: &mut self.own, table: &mut self.table }
    }

    fn terminal(&mut self) -> WasiCliCtxView<'_> {
        WasiCliCtxView { ctx: &mut self.terminal, table: &mut self.table }
    }

    fn files(&mut self) -> WasiFilesystemCtxView<'_> {
        WasiFilesystemCtxView { ctx: &mut self.files, table: &mut self.table }
    }
}

impl IoView for Guest {
    fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}

/// What a guest did that no interface has an error for: it traps, and the record has these words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("it called `{0}`, which takes a capability, and none can be declared yet")]
    Denied(String),
    #[error("it left by `wasi:cli/exit` with status {0}")]
    Exit(u8),
    #[error("it asked `wasi:random/insecure` for {0} bytes at once, of {MAX_RANDOM_BYTES} allowed")]
    Random(u64),
}

/// Clock, numbers and standard streams of one invocation.
struct Base {
    began: Instant,
    deadline: Instant,
    numbers: Numbers,
    seed: (u64, u64),
    dropped: Arc<AtomicU64>,
}

impl Base {
    fn new(name: &str, deadline: Instant) -> Self {
        let mut words = digest(&SHA256, name.as_bytes())
            .as_ref()
            .chunks_exact(8)
            .map(|chunk| chunk.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte)))
            .collect::<Vec<_>>()
            .into_iter();
        let mut word = move || words.next().unwrap_or_default();
        Self {
            began: Instant::now(),
            deadline,
            numbers: Numbers(word()),
            seed: (word(), word()),
            dropped: Default::default(),
        }
    }

    /// Whole milliseconds since the invocation began, in nanoseconds (F34).
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_mul(STEP_NS)
    }
}

/// SplitMix64: even, fast, and nothing that anybody should keep a secret with.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

struct Own;

impl HasData for Own {
    type Data<'a> = View<'a>;
}

pub(super) struct View<'a> {
    base: &'a mut Base,
    table: &'a mut ResourceTable,
}

impl monotonic_clock::Host for View<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.base.now())
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(STEP_NS)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let at = self.base.began.checked_add(Duration::from_nanos(when));
        self.wake_at(at)
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let at = Instant::now().checked_add(Duration::from_nanos(duration));
        self.wake_at(at)
    }
}

impl View<'_> {
    /// No later than the invocation's end, of which the timer on the wall makes one.
    fn wake_at(&mut self, at: Option<Instant>) -> wasmtime::Result<Resource<DynPollable>> {
        let at = at.map_or(self.base.deadline, |at| at.min(self.base.deadline));
        let alarm = self.table.push(Alarm { at, yielded: false })?;
        subscribe(self.table, alarm)
    }
}

/// Ready at some moment.
struct Alarm {
    at: Instant,
    yielded: bool,
}

#[async_trait]
impl Pollable for Alarm {
    async fn ready(&mut self) {
        if self.at > Instant::now() {
            tokio::time::sleep_until(self.at.into()).await;
        } else if !self.yielded {
            // A guest that polls in a loop without waiting lets others run once.
            self.yielded = true;
            tokio::task::yield_now().await;
        }
    }
}

impl insecure::Host for View<'_> {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        let length = usize::try_from(len).ok().filter(|length| *length <= MAX_RANDOM_BYTES);
        let length = length.ok_or_else(|| wasmtime::Error::new(Fault::Random(len)))?;
        let mut bytes = Vec::with_capacity(length.next_multiple_of(8));
        while bytes.len() < length {
            bytes.extend_from_slice(&self.base.numbers.next().to_le_bytes());
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.base.numbers.next())
    }
}

impl insecure_seed::Host for View<'_> {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok(self.base.seed)
    }
}

impl environment::Host for View<'_> {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }
}

impl exit::Host for View<'_> {
    fn exit(&mut self, status: Result<(), ()>) -> wasmtime::Result<()> {
        self.exit_with_code(u8::from(status.is_err()))
    }

    fn exit_with_code(&mut self, status: u8) -> wasmtime::Result<()> {
        Err(wasmtime::Error::new(Fault::Exit(status)))
    }
}

impl stdin::Host for View<'_> {
    fn get_stdin(&mut self) -> wasmtime::Result<Resource<DynInputStream>> {
        let closed: DynInputStream = Box::new(ClosedInputStream);
        Ok(self.table.push(closed)?)
    }
}

impl stdout::Host for View<'_> {
    fn get_stdout(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.drain()
    }
}

impl stderr::Host for View<'_> {
    fn get_stderr(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.drain()
    }
}

impl View<'_> {
    fn drain(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        let drain: DynOutputStream = Box::new(Drain(Arc::clone(&self.base.dropped)));
        Ok(self.table.push(drain)?)
    }
}

/// Counts what is written, and keeps none of it.
struct Drain(Arc<AtomicU64>);

#[async_trait]
impl Pollable for Drain {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Drain {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

/// Sends nothing: no import leads here, and if one did, it would be denied.
struct Nothing;

impl WasiHttpHooks for Nothing {
    fn send_request(
        &mut self,
        _: http::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Sent), Error>> + Send> {
        Box::new(std::future::ready(Err(Error::HttpRequestDenied)))
    }

    /// Of a reply's header fields those that do not belong to it; what else is not allowed is refused once it is told. Asked for
    /// each field of a request, too, and the vendor's own answer makes the list anew each time.
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        FORBIDDEN.contains(name)
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        WRITE_BYTES
    }
}

type Sent = Box<dyn Future<Output = Result<(), Error>> + Send>;

/// Threads for portable guests, which may wait and may compute, apart from those that do the gateway's own input and output.
/// Started with the first call, so that a site without such components has none of them.
#[derive(Debug)]
pub(in super::super) struct Guests {
    threads: usize,
    runtime: OnceLock<Runtime>,
}

impl Guests {
    pub(in super::super) fn new(threads: NonZeroUsize) -> Self {
        Self { threads: threads.get(), runtime: OnceLock::new() }
    }

    /// Runs a guest. Who drops what this returns stops it at its next tick.
    pub(in super::super) fn spawn<F>(&self, guest: F) -> std::io::Result<Running<F::Output>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        Ok(Running(self.threads()?.spawn(guest)))
    }

    /// The threads, started unless they are.
    pub(in super::super) fn threads(&self) -> std::io::Result<&Runtime> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let made = builder.worker_threads(self.threads).enable_time().thread_name("sandbox-guest").build()?;
        // Of two first calls one is early; the other's threads go as they came.
        if let Err(late) = self.runtime.set(made) {
            late.shutdown_background();
        }
        self.runtime.get().ok_or_else(|| std::io::Error::other("no threads for guests"))
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting is not allowed where a gateway may be dropped.
            runtime.shutdown_background();
        }
    }
}

/// A guest that runs for somebody.
pub(in super::super) struct Running<T>(JoinHandle<T>);

impl<T> Future for Running<T> {
    type Output = Result<T, tokio::task::JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

static FORBIDDEN: [HeaderName; 9] = wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS;

const STEP_NS: u64 = 1_000_000;

/// Resources of the host that one guest may hold: a request with its parts takes a dozen.
pub(super) const MAX_RESOURCES: usize = 256;

/// What there is room for from the start.
const RESOURCES: usize = 16;

/// Of one header map, as the vendor weighs it: four times what a reply may have.
pub(super) const MAX_FIELDS_BYTES: usize = 32 << 10;

const MAX_RANDOM_BYTES: usize = 64 << 10;

/// What one write to a stream may bring.
pub(super) const WRITE_BYTES: usize = 64 << 10;
