//! Pure LVS: frames in, verdicts out.
//!
//! No DPDK, no async, no I/O, no clock, no threads: time, randomness and buffers are parameters.
//! Nouns live in [`ipvs`], verbs in [`path`], headers in [`wire`], the kernel's mirrored tables in [`l3`].
//! Unsafe code is confined to the rooms `arena.rs`, `tag_match.rs` and `prefetch.rs`.

pub mod address;
pub mod arena;
pub mod capture;
pub mod config;
pub mod counters;
pub mod frame;
pub mod ipvs;
pub mod l3;
pub mod latency;
pub mod limits;
pub mod path;
pub mod prefetch;
pub mod random;
pub mod rss;
pub mod snapshot;
pub mod stages;
pub mod tag_match;
pub mod testing;
pub mod tick;
pub mod wire;
pub mod worker_state;
