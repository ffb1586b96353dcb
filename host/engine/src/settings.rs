//! The one Wasmtime configuration: of the serving engine, of the compile worker, and, for the features, of the
//! validation before either. What is part of compiled code must be equal in all three, or every load is a miss.

use std::num::NonZeroUsize;

use wasmparser::WasmFeatures;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::limits;

/// Recursion ends here as a stack overflow.
const WASM_STACK: usize = 512 << 10;
/// Must exceed the above; the rest is for host imports.
const FIBER_STACK: usize = 1 << 20;
/// Enough to find a bug, and bounded in a log line.
const BACKTRACE_FRAMES: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// One engine per process: stores and modules of two engines must never meet (RUSTSEC-2026-0222). The compile
/// worker's is not pooled: the pool reserves address space, of which the worker has little.
pub(crate) fn engine(pooled: bool) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false) // no async component ABI: cheaper calls, fewer advisories
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(FIBER_STACK)
        .wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES))
        .native_unwind_info(false) // no guest frame is unwound natively, and registering them takes a global lock
        .memory_init_cow(true) // the first write pays, instantiation does not
        .wasm_tail_call(true) // QuickJS guests need it
        .wasm_memory64(false) // nothing we load uses it
        .wasm_relaxed_simd(false); // results may differ between hosts: a checker's must not
    if pooled {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
    }
    Engine::new(&config)
}

fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(limits::POOL_SLOTS)
        .total_stacks(limits::POOL_SLOTS)
        .max_core_instances_per_component(limits::CORE_INSTANCES)
        .max_memories_per_component(limits::MEMORIES)
        .max_tables_per_component(limits::TABLES)
        // One module may have them all: by default it is one of each, whatever the component may have.
        .max_memories_per_module(limits::MEMORIES)
        .max_tables_per_module(limits::TABLES)
        .total_core_instances(limits::POOL_SLOTS * limits::CORE_INSTANCES)
        .total_memories(limits::POOL_SLOTS * limits::MEMORIES)
        .total_tables(limits::POOL_SLOTS * limits::TABLES)
        .table_elements(limits::TABLE_ELEMENTS)
        .max_memory_size(usize::try_from(limits::MEMORY_MAX).unwrap_or(usize::MAX))
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(1 << 20)
        // Kept resident together with pagemap_scan and batching, or none of the three: each alone is a loss.
        // Of what a guest wrote, in each slot: a Rust or C guest writes less, and one with an interpreter pays a few
        // faults.
        .linear_memory_keep_resident(256 << 10)
        .table_keep_resident(128 << 10)
        .pagemap_scan(Enabled::Auto)
        // A slot is free again only with its batch: a plugin goes through about as many, each with pages of its own.
        .decommit_batch_size(4)
        .max_unused_warm_slots(4);
    pool
}

/// What `engine` accepts, for the validation before anything is compiled.
pub(crate) fn features() -> WasmFeatures {
    let mut features = WasmFeatures::WASM3 | WasmFeatures::COMPONENT_MODEL;
    let off = WasmFeatures::GC_TYPES
        | WasmFeatures::GC
        | WasmFeatures::FUNCTION_REFERENCES
        | WasmFeatures::EXCEPTIONS
        | WasmFeatures::THREADS
        | WasmFeatures::MEMORY64
        | WasmFeatures::RELAXED_SIMD;
    features.remove(off);
    features
}
