//! The one engine of the process: its configuration, the pool of instance slots, and the clock that interrupts guests.
//!
//! Everything that a guest could reach and does not need is off twice: left out of the build (Cargo.toml) and turned
//! off here, so that neither a changed feature list nor a changed default of the vendor widens the sandbox alone.

use std::{sync::mpsc, thread, time::Duration};

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy,
    WasmFeatures,
};

use super::StartError;

/// How often guests look up, in milliseconds.
///
/// A budget is noticed at most one tick late (two with an unlucky phase), so it must be small against the smallest CPU
/// limit worth writing (10 ms); each tick costs one wake-up and one atomic add, 0.1 % of a core at 2 ms.
pub(super) const TICK_MS: u64 = 2;

/// Native stack that a guest may use, of the 2 MiB that our threads have: enough for recursive descent over a
/// hundred levels, and it leaves the host more than it needs below.
const MAX_WASM_STACK_BYTES: usize = 512 << 10;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Component instances alive at once. Guests of functions without imports never wait, so more than a few
    /// for each thread are never alive; the rest is address space only.
    pub instances: u32,
    /// Core instances in one component: a Rust guest has one to three.
    pub core_instances_per_component: u32,
    /// Linear memories in one component.
    pub memories_per_component: u32,
    /// Tables in one component.
    pub tables_per_component: u32,
    /// Largest linear memory: the platform's ceiling for `memory`.
    pub max_memory_bytes: usize,
    /// Largest table.
    pub table_elements: usize,
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
    fn default() -> Self {
        Self {
            instances: 128,
            core_instances_per_component: 16,
            memories_per_component: 4,
            tables_per_component: 8,
            max_memory_bytes: 64 << 20,
            table_elements: 20_000,
            instance_metadata_bytes: 256 << 10,
            memory_keep_resident_bytes: 64 << 10,
            table_keep_resident_bytes: 16 << 10,
            unused_warm_slots: 64,
            decommit_batch: 1,
            copy_on_write: true,
            scan_pages: false,
        }
    }
}

impl PoolLimits {
    fn allocation(&self) -> PoolingAllocationConfig {
        let per = |each: u32| self.instances.saturating_mul(each);
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
            .table_elements(self.table_elements)
            .max_component_instance_size(self.instance_metadata_bytes)
            .max_core_instance_size(self.instance_metadata_bytes)
            .linear_memory_keep_resident(self.memory_keep_resident_bytes)
            .table_keep_resident(self.table_keep_resident_bytes)
            .max_unused_warm_slots(self.unused_warm_slots)
            .decommit_batch_size(self.decommit_batch)
            .pagemap_scan(if self.scan_pages { Enabled::Auto } else { Enabled::No });
        pool
    }
}

/// The engine's configuration.
pub(super) fn config(pool: &PoolLimits) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool.allocation()))
        .memory_init_cow(pool.copy_on_write)
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

/// Builds the engine.
pub(super) fn engine(pool: &PoolLimits) -> Result<Engine, StartError> {
    Engine::new(&config(pool)).map_err(|e| StartError::Engine { reason: format!("{e:#}") })
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
