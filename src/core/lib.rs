//! Pure LVS: frames in, verdicts out.
//!
//! No DPDK, no async, no I/O, no clock, no threads: time, randomness and buffers are parameters.
//! The ground floor is [`wire`], [`l3`] (the kernel's mirrored tables), [`ipvs`] (the nouns), [`headers`], [`verdict`]
//! and [`counters`]; [`worker_state`] is what one worker owns; [`path`] has the verbs and is named by none of them. [`explain`] asks the path's verbs
//! what they would do.
//! Only `arena.rs`, `tag_match.rs` and `prefetch.rs` contain unsafe code.

pub mod address;
pub mod arena;
pub mod capture;
pub mod config;
pub mod conn_record;
pub mod counters;
pub mod explain;
pub mod former;
pub mod frame;
pub mod headers;
pub mod ipvs;
pub mod l3;
pub mod latency;
pub mod limits;
mod packet;
pub mod path;
pub mod prefetch;
pub mod random;
pub mod rss;
pub mod single_writer;
pub mod snapshot;
pub mod stages;
pub mod tag_match;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tick;
pub mod verdict;
pub mod wire;
pub mod worker_state;
