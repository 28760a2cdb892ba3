//! The one engine of the process: its configuration, the pool of instance slots, and the clock that interrupts guests.
//!
//! Everything that a guest could reach and does not need is off twice: left out of the build (Cargo.toml) and turned
//! off here, so that neither a changed feature list nor a changed default of the vendor widens the sandbox alone.

use std::{sync::mpsc, thread, time::Duration};

use serde::{Deserialize, Serialize};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy,
    WasmFeatures,
};

use super::{StartError, limits::TABLE_ELEMENTS};

/// Of the engine: the same as in Cargo.lock, or the tests fail.
pub(super) const VERSION: &str = "48.0.8";

/// How often guests look up, in milliseconds.
///
/// A budget is noticed at most one tick late (two with an unlucky phase), so it must be small against the smallest CPU
/// limit worth writing (10 ms); each tick costs one wake-up and one atomic add, 0.1 % of a core at 2 ms.
pub(super) const TICK_MS: u64 = 2;

/// Native stack that a guest may use, of the 2 MiB that our threads have: enough for recursive descent over a
/// hundred levels, and it leaves the host more than it needs below.
const MAX_WASM_STACK_BYTES: usize = 512 << 10;

/// Stack of a portable guest and of the host functions that it calls: what the guest may not use is theirs.
#[cfg(feature = "portable")]
const ASYNC_STACK_BYTES: usize = 2 * MAX_WASM_STACK_BYTES;

/// What an interpreter uses of it for a small script.
#[cfg(feature = "portable")]
const STACK_KEEP_RESIDENT_BYTES: usize = 32 << 10;

/// Most that is kept of a memory where the kernel cannot tell which pages were written (before 6.7): so much is then zeroed blindly
/// each time, which soon costs more than giving it back.
const BLINDLY_ZEROED_BYTES: usize = 64 << 10;

/// The proposals that a component may use: what compilers emit by default. All others are off, also those that the
/// engine's next version brings.
pub(super) const PROPOSALS: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::COMPONENT_MODEL);

/// What the instance pool holds: every number is stated here, none is the vendor's default.
///
/// Invariant: a gate of `instances` permits stands before the pool, and each total is `instances` times the cap for one
/// component, so the pool itself never runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PoolLimits {
    /// Component instances alive at once. Guests of functions without imports never wait, so more than a few
    /// for each thread are never alive; the rest is address space only.
    pub instances: u32,
    /// Core instances in one component: a Rust guest has one to three, Python with its libraries fourteen.
    pub core_instances_per_component: u32,
    /// Linear memories in one component.
    pub memories_per_component: u32,
    /// Tables in one component.
    pub tables_per_component: u32,
    /// Largest linear memory: the platform's ceiling for `memory`.
    pub max_memory_bytes: usize,
    /// Bookkeeping of one component and its core instances.
    pub instance_metadata_bytes: usize,
    /// Bytes of a memory that are zeroed in place after use, instead of being given back to the kernel.
    pub memory_keep_resident_bytes: usize,
    /// The same for a table.
    pub table_keep_resident_bytes: usize,
    /// Slots that stay tied to the module they last held.
    pub unused_warm_slots: u32,
    /// Freed slots that are given back to the kernel together.
    pub decommit_batch: usize,
    /// Whether a memory's first contents are mapped copy-on-write.
    pub copy_on_write: bool,
    /// Whether the kernel is asked which pages a guest dirtied.
    pub scan_pages: bool,
}

impl Default for PoolLimits {
    /// The counts leave ten times what the threads of eight cores can have in use. The settings of the slots are what
    /// measured best in `benches/sandbox.rs`, in CPU time of instantiate + call + drop, for `hello` (one page, of which it
    /// writes one or two) and for a guest as compilers lay it out (17 pages, a few of them written around 1 MiB):
    ///
    /// | | 1 page | 17 pages |
    /// |---|---|---|
    /// | give all back to the kernel (`keep` 0) | 11.3 µs | 18.7 µs |
    /// | the same, 8 slots at a time | 10.3 µs | 17.0 µs |
    /// | keep the lowest 4 KiB | 7.6 µs | 15.6 µs |
    /// | keep the lowest 64 KiB | 7.3 µs | 17.1 µs |
    /// | keep the lowest 2 MiB | 7.3 µs | 21.4 µs |
    /// | keep 64 KiB of what was written (`scan_pages`) | 8.3 µs | 8.9 µs |
    /// | keep 2 MiB of what was written | 8.2 µs | 8.7 µs |
    /// | keep the lowest 64 KiB, no copy-on-write | 7.4 µs | 17.6 µs |
    /// | keep the lowest 64 KiB, 8 slots at a time | 7.4 µs | 16.2 µs |
    fn default() -> Self {
        Self {
            instances: 128,
            core_instances_per_component: 16,
            memories_per_component: 4,
            tables_per_component: 8,
            max_memory_bytes: 64 << 20,
            // An interpreter of Python takes 405 KiB, whose fourteen modules share functions by tables.
            instance_metadata_bytes: 512 << 10,
            // What a function that renders or parses a document writes, and 32 MiB if every instance kept as much.
            memory_keep_resident_bytes: 256 << 10,
            table_keep_resident_bytes: 16 << 10,
            unused_warm_slots: 64,
            // Nothing is left to give back in batches, so a batch would only hold slots back.
            decommit_batch: 1,
            copy_on_write: true,
            // One system call more, 1 µs, and no page is faulted in again: most functions come from compilers.
            scan_pages: true,
        }
    }
}

impl PoolLimits {
    fn allocation(&self) -> PoolingAllocationConfig {
        let per = |each: u32| self.instances.saturating_mul(each);
        let blind = self.scan_pages && !PoolingAllocationConfig::is_pagemap_scan_available();
        let kept = if blind { BLINDLY_ZEROED_BYTES } else { usize::MAX };
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(self.instances)
            .total_core_instances(per(self.core_instances_per_component))
            .total_memories(per(self.memories_per_component))
            .total_tables(per(self.tables_per_component))
            .max_core_instances_per_component(self.core_instances_per_component)
            .max_memories_per_component(self.memories_per_component)
            .max_tables_per_component(self.tables_per_component)
            .max_memories_per_module(1)
            .max_tables_per_module(self.tables_per_component)
            .max_memory_size(self.max_memory_bytes)
            .table_elements(TABLE_ELEMENTS as usize)
            .max_component_instance_size(self.instance_metadata_bytes)
            .max_core_instance_size(self.instance_metadata_bytes)
            .linear_memory_keep_resident(self.memory_keep_resident_bytes.min(kept))
            .table_keep_resident(self.table_keep_resident_bytes)
            .max_unused_warm_slots(self.unused_warm_slots)
            .decommit_batch_size(self.decommit_batch)
            .pagemap_scan(if self.scan_pages { Enabled::Auto } else { Enabled::No });
        // One for each instance of the portable world, which alone runs on stacks of the pool.
        #[cfg(feature = "portable")]
        pool.total_stacks(self.instances).async_stack_keep_resident(STACK_KEEP_RESIDENT_BYTES);
        pool
    }
}

/// The configuration of the engine that serves. It has no compiler: what is not machine code yet, it cannot run.
pub(super) fn serving(pool: &PoolLimits) -> Config {
    let mut config = common(pool.copy_on_write);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool.allocation()));
    config.enable_compiler(false);
    // Zeroed, so that no guest's stack is another's to read (F28).
    #[cfg(feature = "portable")]
    config.async_stack_size(ASYNC_STACK_BYTES).async_stack_zeroing(true);
    config
}

/// The configuration of the engine that compiles, in a process that runs no guest.
pub(super) fn compiling(copy_on_write: bool) -> Config {
    let mut config = common(copy_on_write);
    // Cranelift alone (F7); a pool would only reserve address space.
    config.strategy(Strategy::Cranelift).cranelift_opt_level(OptLevel::Speed);
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    config
}

/// What code and engine must agree on.
fn common(copy_on_write: bool) -> Config {
    let mut config = Config::new();
    config
        .memory_init_cow(copy_on_write)
        .epoch_interruption(true)
        // Fuel is neither brake nor meter here: its accounting was wrong three times in one autumn.
        .consume_fuel(false)
        .max_wasm_stack(MAX_WASM_STACK_BYTES)
        // Off would halve the speed and drop the Spectre mitigations with it.
        .signals_based_traps(true)
        .guard_before_linear_memory(true)
        // A trap's name is enough for its record; walking the stack would cost as much as the call.
        .wasm_backtrace_max_frames(None)
        .concurrency_support(false)
        .shared_memory(false)
        .wasm_features(WasmFeatures::all().difference(PROPOSALS), false)
        .wasm_features(PROPOSALS, true);
    config
}

/// Names the engine's version and those of its settings that its code depends on. Artefacts are kept under it; what decides
/// whether one is taken is the engine, which compares all of them, and the processor's features, once more.
pub(super) fn identity(engine: &Engine) -> String {
    format!(
        "wasmtime {VERSION} {} features {:x} epochs {} fuel {} traps {} cow {} reserved {} guard {} {} concurrency {}",
        std::env::consts::ARCH,
        engine.get_wasm_features().bits(),
        engine.get_epoch_interruption(),
        engine.get_consume_fuel(),
        engine.get_signals_based_traps(),
        engine.get_memory_init_cow(),
        engine.get_memory_reservation(),
        engine.get_memory_guard_size(),
        engine.get_guard_before_linear_memory(),
        engine.get_concurrency_support(),
    )
}

/// Builds the engine.
pub(super) fn engine(pool: &PoolLimits) -> Result<Engine, StartError> {
    Engine::new(&serving(pool)).map_err(|e| StartError::Engine { reason: format!("{e:#}") })
}

/// The thread that lets guests look up: one for the engine, of its own, so that neither a guest nor a busy runtime can
/// hold it back.
#[derive(Debug)]
pub(super) struct Ticker {
    // Dropped first: the thread sees the closed channel and ends.
    _stop: mpsc::Sender<()>,
}

impl Ticker {
    pub(super) fn start(engine: &Engine) -> Result<Self, StartError> {
        let engine = engine.weak();
        let (stop, stopped) = mpsc::channel::<()>();
        thread::Builder::new()
            .name("sandbox-tick".into())
            .spawn(move || {
                while stopped.recv_timeout(Duration::from_millis(TICK_MS))
                    == Err(mpsc::RecvTimeoutError::Timeout)
                {
                    let Some(engine) = engine.upgrade() else { break };
                    engine.increment_epoch();
                }
            })
            .map_err(StartError::Thread)?;
        Ok(Self { _stop: stop })
    }
}
