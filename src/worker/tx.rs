//! Transmitting: collects frames in a batch for each device and offers the batch to the device at once.

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
    /// By the queue of this worker, because the device has fewer queues than there are workers.
    Via(usize),
}

/// A transmit queue and the frames collected for it. The buffers of all workers are allocated one after another, so each is
/// aligned to two cache lines, which processors fetch together.
#[derive(Debug)]
#[repr(align(128))]
pub struct TxBuffer {
    queue: TxQueue,
    batch: Burst,
}

impl TxBuffer {
    /// A buffer in front of `queue`.
    pub fn new(queue: TxQueue) -> Self {
        Self {
            queue,
            batch: Burst::new(),
        }
    }

    /// The device of its queue.
    pub fn device(&self) -> DeviceId {
        self.queue.device()
    }

    /// Collects a frame. A full batch is sent first.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf, counters: &WorkerCounters, taps: &mut Taps) {
        if let Err(mbuf) = self.batch.push(mbuf) {
            self.flush(counters, taps);
            // The batch is empty now, so the frame fits.
            let _ = self.batch.push(mbuf);
        }
    }

    /// Takes a whole burst as its batch if the batch is empty. Returns whether it did.
    #[inline]
    pub fn take(&mut self, burst: &mut Burst) -> bool {
        let is_free = self.batch.is_empty();
        if is_free {
            std::mem::swap(&mut self.batch, burst);
        }
        is_free
    }

    /// Sends the collected frames. Frames that the device refuses are dropped: it is slower than the traffic, and waiting
    /// would only move the loss to the receive queue.
    #[inline]
    pub fn flush(&mut self, counters: &WorkerCounters, taps: &mut Taps) {
        if self.batch.is_empty() {
            return;
        }
        let to = self.queue.device();
        let sent = self.queue.offer(&mut self.batch, |refused| {
            if !taps.is_empty() {
                for mbuf in refused {
                    taps.record_lost(clock::cycles(), to, DropReason::TxQueueFull, mbuf.bytes());
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
