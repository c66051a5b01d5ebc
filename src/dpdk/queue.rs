//! Receive and transmit queues of a device. Each moves into one worker, and no other thread uses it.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use lvs_core::l3::DeviceId;

use crate::dpdk::device::Port;
use crate::dpdk::{Burst, Mbuf};

/// Makes a type `!Sync` and leaves it `Send`.
type NotSync = PhantomData<Cell<()>>;

/// A receive queue. It is `Send`, not `Sync`, not `Clone`.
#[derive(Debug)]
pub struct RxQueue {
    port: Arc<Port>,
    queue: u16,
    interrupts: bool,
    _one_thread: NotSync,
}

/// A transmit queue. It is `Send`, not `Sync`, not `Clone`.
#[derive(Debug)]
pub struct TxQueue {
    port: Arc<Port>,
    queue: u16,
    _one_thread: NotSync,
}

/// The result of offering a burst to a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transmitted {
    /// Frames that the device took.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that it refused. They were freed.
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

    /// The device to which it belongs.
    pub fn device(&self) -> DeviceId {
        self.port.device
    }

    /// Frees the content of `burst`, if any, and fills it with the frames that have arrived.
    #[inline]
    pub fn receive(&mut self, burst: &mut Burst) {
        let (port, queue) = (self.port.number, self.queue);
        // SAFETY: the port was started before its queues were handed out and is stopped only after they are
        // gone (`Port` is shared); one thread polls the queue (`!Sync`); DPDK writes `count` owned mbufs.
        unsafe { burst.refill(|mbufs, max| dpdk_sys::shim_eth_rx_burst(port, queue, mbufs, max)) };
    }

    /// Adds its interrupt to those that wake the calling thread in [`wait_for_interrupt`]. Returns `false` when it has none.
    /// To be called once, on the thread that polls it.
    pub fn watch(&mut self) -> bool {
        let (per_thread, add) = (dpdk_sys::SHIM_EPOLL_PER_THREAD, dpdk_sys::SHIM_INTR_EVENT_ADD);
        // SAFETY: the port is started; DPDK keeps the pointer, null here, and only gives it back.
        self.interrupts
            && unsafe {
                let nothing = std::ptr::null_mut();
                dpdk_sys::rte_eth_dev_rx_intr_ctl_q(self.port.number, self.queue, per_thread, add, nothing) == 0
            }
    }

    /// Enables the interrupt for the next frame. Frames that have already arrived may not interrupt, so poll once more before
    /// sleeping.
    pub fn arm(&mut self) {
        // SAFETY: the port is started. A queue that refuses does not wake, and sleep is bounded.
        unsafe { dpdk_sys::rte_eth_dev_rx_intr_enable(self.port.number, self.queue) };
    }

    /// Disables the interrupt, because the queue is polled again.
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

/// Sleeps until a watched queue of this thread interrupts, at most for `timeout_ms`. Returns whether one did.
pub fn wait_for_interrupt(timeout_ms: u16) -> bool {
    let mut events = [dpdk_sys::rte_epoll_event::default(); 8];
    // SAFETY: waits on this thread's own descriptor and writes at most `max` events, which is the length of the array.
    let count = unsafe {
        let (per_thread, max) = (dpdk_sys::SHIM_EPOLL_PER_THREAD, events.len() as i32);
        dpdk_sys::rte_epoll_wait(per_thread, events.as_mut_ptr(), max, i32::from(timeout_ms))
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

    /// The device to which it belongs.
    pub fn device(&self) -> DeviceId {
        self.port.device
    }

    /// Offers all frames of `burst` to the device and leaves it empty. Refused frames are freed.
    #[inline]
    pub fn transmit(&mut self, burst: &mut Burst) -> Transmitted {
        self.offer(burst, |_| {})
    }

    /// Does the same, and passes refused frames to `refused` before they are freed.
    #[inline]
    pub fn offer(&mut self, burst: &mut Burst, refused: impl FnOnce(&[Mbuf])) -> Transmitted {
        let (port, queue) = (self.port.number, self.queue);
        let (offered, offered_bytes) = (burst.len() as u64, burst.bytes());
        let (mut refused_packets, mut refused_bytes) = (0, 0);
        // SAFETY: as in `receive`; the device owns what it took.
        unsafe {
            burst.give(
                |mbufs, count| dpdk_sys::shim_eth_tx_burst(port, queue, mbufs, count),
                |mbufs| {
                    refused_packets = mbufs.len() as u64;
                    refused_bytes = mbufs.iter().map(|mbuf| mbuf.len() as u64).sum();
                    refused(mbufs);
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
