//! Step 8: transmitting. Frames are collected in a batch for each device and offered to it at once.

use lvs_core::counters::WorkerCounters;
use lvs_core::frame::Frame;
use lvs_core::l3::DeviceId;
use lvs_core::single_writer::SingleWriter;
use lvs_core::verdict::DropReason;

use crate::dpdk::{Burst, Mbuf, TxQueue, clock};
use crate::worker::capture::Taps;

/// How this worker reaches a device.
#[derive(Debug)]
pub enum TxRoute {
    /// By a transmit queue of its own.
    Own(Box<TxBuffer>),
    /// The device has fewer queues than there are workers: by this one's.
    Via(usize),
}

/// A transmit queue and the frames collected for it. On lines of its own, because those of all workers are allocated one after
/// another: two lines each, which processors fetch together.
#[derive(Debug)]
#[repr(align(128))]
pub struct TxBuffer {
    queue: TxQueue,
    batch: Burst,
}

impl TxBuffer {
    /// An tx_buffer through `queue`.
    pub fn new(queue: TxQueue) -> Self {
        Self {
            queue,
            batch: Burst::new(),
        }
    }

    /// The device behind it.
    pub fn device(&self) -> DeviceId {
        self.queue.device()
    }

    /// Collects a frame; a full batch is sent first.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf, counters: &WorkerCounters, taps: &mut Taps) {
        if let Err(mbuf) = self.batch.push(mbuf) {
            self.flush(counters, taps);
            // Flushed, so there is room.
            let _ = self.batch.push(mbuf);
        }
    }

    /// Takes a whole burst for its batch if that is empty, and tells whether it did.
    #[inline]
    pub fn take(&mut self, burst: &mut Burst) -> bool {
        let is_free = self.batch.is_empty();
        if is_free {
            std::mem::swap(&mut self.batch, burst);
        }
        is_free
    }

    /// Sends what was collected. What the device does not take is dropped: it is slower than the traffic, and
    /// waiting would only move the loss to the receive queue.
    #[inline]
    pub fn flush(&mut self, counters: &WorkerCounters, taps: &mut Taps) {
        if self.batch.is_empty() {
            return;
        }
        let to = self.queue.device();
        let sent = self.queue.offer(&mut self.batch, |refused| {
            if !taps.is_empty() {
                for mbuf in refused {
                    taps.loses(clock::cycles(), to, DropReason::TxQueueFull, mbuf.bytes());
                }
            }
        });
        let device = counters.device(to);
        device.tx_packets.add(sent.packets);
        device.tx_bytes.add(sent.bytes);
        if sent.refused > 0
            && let Some(counter) = counters.drops.get(DropReason::TxQueueFull as usize)
        {
            counter.add(sent.refused);
        }
    }
}
