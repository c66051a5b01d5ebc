//! THE unsafe room: DPDK behind types that make its classic bugs unwritable.
//!
//! 1. An [`Mbuf`] is owned by exactly one place; there is no `Clone`; what is dropped is freed.
//! 2. Handing mbufs to a queue empties the [`Burst`]; what the device refused is freed and counted.
//! 3. A queue is `Send` and not `Sync`: it moves into one worker and is polled by no other thread.
//! 4. [`Eal`] is the proof that DPDK is up; pools and devices are made through it, once a process.
//! 5. A pool lives until the process ends, so no mbuf can outlive its memory.
//!
//! Nothing of DPDK's types or error numbers leaves this room.
#![allow(unsafe_code)]

pub mod burst;
pub mod clock;
pub mod device;
pub mod eal;
pub mod lcore;
pub mod mbuf;
pub mod memory;
pub mod mempool;
pub mod queue;
mod rss;
pub mod xstats;

pub use burst::Burst;
pub use clock::Clock;
pub use device::{Device, DeviceError, DeviceSettings};
pub use eal::{Eal, EalError, EalSettings, Hugepages};
pub use mbuf::Mbuf;
pub use mempool::{Mempool, PoolSettings, Pools};
pub use queue::{RxQueue, TxQueue};

/// DPDK's text for an error number, sign ignored.
fn error_text(number: i32) -> String {
    // SAFETY: rte_strerror accepts any number and returns a static or thread-local C string, copied at once.
    unsafe { std::ffi::CStr::from_ptr(dpdk_sys::rte_strerror(number.abs())) }
        .to_string_lossy()
        .into_owned()
}

/// The text of DPDK's per-thread error number after a call that failed.
fn last_error() -> String {
    // SAFETY: reads a thread-local.
    error_text(unsafe { dpdk_sys::shim_errno() })
}
