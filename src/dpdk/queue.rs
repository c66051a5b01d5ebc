//! The two ends of a device's queues. Each moves into one worker and is used by no other thread.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use lvs_core::l3::DeviceId;

use crate::dpdk::device::Port;
use crate::dpdk::{Burst, Mbuf};

/// Makes a type `!Sync` and leaves it `Send`.
type NotSync = PhantomData<Cell<()>>;

/// Receives. `Send`, not `Sync`, not `Clone`.
#[derive(Debug)]
pub struct RxQueue {
    port: Arc<Port>,
    queue: u16,
    interrupts: bool,
    _one_thread: NotSync,
}

/// Transmits. `Send`, not `Sync`, not `Clone`.
#[derive(Debug)]
pub struct TxQueue {
    port: Arc<Port>,
    queue: u16,
    _one_thread: NotSync,
}

/// What became of a burst offered to a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transmitted {
    /// Frames that the device took.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that it refused; they were freed.
    pub refused: u64,
}

impl RxQueue {
    pub(super) fn new(port: Arc<Port>, queue: u16, interrupts: bool) -> Self {
        Self {
            port,
            queue,
            interrupts,
            _one_thread: PhantomData,
        }
    }

    /// The device it belongs to.
    pub fn device(&self) -> DeviceId {
        self.port.device
    }

    /// Replaces the content of `burst` (freed if any) by what has arrived.
    #[inline]
    pub fn receive(&mut self, burst: &mut Burst) {
        let (port, queue) = (self.port.number, self.queue);
        // SAFETY: the port was started before its queues were handed out and is stopped only after they are
        // gone (`Port` is shared); one thread polls the queue (`!Sync`); DPDK writes `count` owned mbufs.
        unsafe { burst.refill(|mbufs, room| dpdk_sys::shim_eth_rx_burst(port, queue, mbufs, room)) };
    }

    /// Adds its interrupt to those that wake the calling thread in [`wait_for_interrupt`]; `false` when it has none.
    /// Once, on the thread that polls it.
    pub fn watch(&mut self) -> bool {
        let (per_thread, add) = (dpdk_sys::SHIM_EPOLL_PER_THREAD, dpdk_sys::SHIM_INTR_EVENT_ADD);
        // SAFETY: the port is started; DPDK keeps the pointer, null here, and only gives it back.
        self.interrupts
            && unsafe {
                let nothing = std::ptr::null_mut();
                dpdk_sys::rte_eth_dev_rx_intr_ctl_q(self.port.number, self.queue, per_thread, add, nothing) == 0
            }
    }

    /// Lets it interrupt for the next frame. What has arrived before may not: poll once more before sleeping.
    pub fn arm(&mut self) {
        // SAFETY: the port is started. A queue that refuses does not wake, and sleep is bounded.
        unsafe { dpdk_sys::rte_eth_dev_rx_intr_enable(self.port.number, self.queue) };
    }

    /// No more interrupts: it is polled.
    pub fn disarm(&mut self) {
        // SAFETY: the port is started. One interrupt too many wakes a thread for nothing.
        unsafe { dpdk_sys::rte_eth_dev_rx_intr_disable(self.port.number, self.queue) };
    }
}

/// Whether the queues of a started port can be armed.
pub(super) fn has_interrupts(number: u16) -> bool {
    // SAFETY: the port is started and has a queue 0.
    unsafe {
        dpdk_sys::rte_eth_dev_rx_intr_enable(number, 0) == 0 && dpdk_sys::rte_eth_dev_rx_intr_disable(number, 0) == 0
    }
}

/// Sleeps until a queue that this thread watches interrupts, at most so long. Whether one did.
pub fn wait_for_interrupt(timeout_ms: u16) -> bool {
    let mut events = [dpdk_sys::rte_epoll_event::default(); 8];
    // SAFETY: waits on this thread's own descriptor and writes at most as many events as there is room for.
    let count = unsafe {
        let (per_thread, room) = (dpdk_sys::SHIM_EPOLL_PER_THREAD, events.len() as i32);
        dpdk_sys::rte_epoll_wait(per_thread, events.as_mut_ptr(), room, i32::from(timeout_ms))
    };
    count > 0
}

impl TxQueue {
    pub(super) fn new(port: Arc<Port>, queue: u16) -> Self {
        Self {
            port,
            queue,
            _one_thread: PhantomData,
        }
    }

    /// The device it belongs to.
    pub fn device(&self) -> DeviceId {
        self.port.device
    }

    /// Offers all of `burst` to the device and leaves it empty: what was refused is freed.
    #[inline]
    pub fn transmit(&mut self, burst: &mut Burst) -> Transmitted {
        self.offer(burst, |_| {})
    }

    /// The same; what was refused is shown to `refused` before it is freed.
    #[inline]
    pub fn offer(&mut self, burst: &mut Burst, refused: impl FnOnce(&[Mbuf])) -> Transmitted {
        let (port, queue) = (self.port.number, self.queue);
        let (offered, offered_bytes) = (burst.len() as u64, burst.bytes());
        let (mut refused_packets, mut refused_bytes) = (0, 0);
        // SAFETY: as in `receive`; the device owns what it took.
        unsafe {
            burst.give(
                |mbufs, count| dpdk_sys::shim_eth_tx_burst(port, queue, mbufs, count),
                |rest| {
                    refused_packets = rest.len() as u64;
                    refused_bytes = rest.iter().map(|mbuf| mbuf.len() as u64).sum();
                    refused(rest);
                },
            );
        }
        Transmitted {
            packets: offered - refused_packets,
            bytes: offered_bytes - refused_bytes,
            refused: refused_packets,
        }
    }
}
