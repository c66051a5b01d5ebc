//! All unsafe code of the data plane: DPDK behind types that make its classic bugs unwritable.
//!
//! 1. An [`Mbuf`] has exactly one owner. It is not `Clone`, and dropping it frees it.
//! 2. Passing mbufs to a queue empties the [`Burst`]. Mbufs that the device refuses are freed and counted.
//! 3. A queue is `Send` and not `Sync`: it moves into one worker, and no other thread polls it.
//! 4. [`Eal`] is the proof that DPDK runs. Pools and devices are created through it, once per process.
//! 5. A pool lives until the process ends, so no mbuf can outlive its memory.
//!
//! DPDK's types and error numbers do not leave this module.
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

/// DPDK's text for an error number. The sign does not matter.
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
