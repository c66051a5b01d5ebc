//! Dispatch: sends each frame where its verdict says, and counts it.

use std::sync::Arc;

use lvs_core::counters::WorkerCounters;
use lvs_core::frame::Frame;
use lvs_core::l3::{DeviceId, NeighbourKey};
use lvs_core::single_writer::SingleWriter;
use lvs_core::tick::Tick;
use lvs_core::verdict::{DropReason, Verdict, WaitId};

use crate::dpdk::{Burst, Mbuf, clock};
use crate::worker::capture::Taps;
use crate::worker::handoff::{Handoff, HandoffSenders};
use crate::worker::hold::Hold;
use crate::worker::punt::PuntedFrames;
use crate::worker::tx::TxRoute;

/// All exits of a worker: transmit queues, rings to other workers, rings to the twin thread.
#[derive(Debug)]
pub struct Dispatcher {
    /// By device.
    tx_routes: Vec<TxRoute>,
    handoffs: HandoffSenders,
    punted: PuntedFrames,
    /// Bit `n`: device `n` has a kernel twin.
    twins: u32,
    /// Frames that wait for a neighbour.
    pub(super) hold: Hold,
    /// The running captures.
    pub(super) taps: Taps,
    /// Dropped frames. They are freed together.
    dropped: Burst,
    counters: Arc<WorkerCounters>,
}

impl Dispatcher {
    /// Takes the route to each device, the rings to other workers and to the twin thread, and the devices that have a
    /// twin (bit `n` for device `n`).
    pub fn new(
        tx_routes: Vec<TxRoute>,
        handoffs: HandoffSenders,
        punted: PuntedFrames,
        twins: u32,
        counters: Arc<WorkerCounters>,
    ) -> Self {
        Self {
            tx_routes,
            handoffs,
            punted,
            twins,
            hold: Hold::new(),
            taps: Taps::new(),
            dropped: Burst::new(),
            counters,
        }
    }

    /// This worker's counters.
    pub fn counters(&self) -> Arc<WorkerCounters> {
        Arc::clone(&self.counters)
    }

    /// Sends a frame that came from `device` where `verdict` says. For a frame to be held, `awaited` returns its neighbour
    /// and the current time.
    #[inline]
    pub fn dispatch(
        &mut self,
        device: DeviceId,
        mbuf: Mbuf,
        verdict: Verdict,
        awaited: impl FnOnce(WaitId) -> (NeighbourKey, Tick),
    ) {
        match verdict {
            Verdict::Transmit(to) => self.transmit(to, mbuf),
            Verdict::Punt => self.punt(device, mbuf),
            Verdict::Handoff(worker) => {
                self.handoff(usize::from(worker.0), Handoff::Process { mbuf, from: device }, device);
            }
            Verdict::Hold(wait) => {
                let (neighbour, now) = awaited(wait);
                if let Err(mbuf) = self.hold.push(mbuf, neighbour, now) {
                    self.drop_late(neighbour.device, mbuf, DropReason::HeldQueueFull);
                }
            }
            Verdict::Consumed => {
                self.counters.consumed_frames.add(1);
                self.free_later(mbuf);
            }
            Verdict::Drop(reason) => self.drop_frame(mbuf, reason),
        }
    }

    /// Sends a frame from the kernel twin of `device` where `verdict` says; see [`Self::dispatch`].
    pub fn dispatch_from_host(
        &mut self,
        device: DeviceId,
        mbuf: Mbuf,
        verdict: Verdict,
        awaited: impl FnOnce(WaitId) -> (NeighbourKey, Tick),
    ) {
        match verdict {
            Verdict::Handoff(worker) => {
                self.handoff(usize::from(worker.0), Handoff::FromHost { mbuf, device }, device);
            }
            decided => self.dispatch(device, mbuf, decided, awaited),
        }
    }

    /// Transmits a complete frame. Without a queue of its own, the worker hands it off to one that has a queue.
    #[inline]
    pub fn transmit(&mut self, to: DeviceId, mbuf: Mbuf) {
        match self.tx_routes.get_mut(usize::from(to.0)) {
            Some(TxRoute::Own(tx_buffer)) => tx_buffer.push(mbuf, &self.counters, &mut self.taps),
            Some(TxRoute::Via(worker)) => {
                let worker = *worker;
                self.handoff(worker, Handoff::Transmit { mbuf, to }, to);
            }
            None => self.drop_late(to, mbuf, DropReason::NoRoute),
        }
    }

    /// Moves a whole burst into the batch of an own transmit queue if that batch is empty. Otherwise returns `false` and
    /// leaves the burst unchanged.
    #[inline]
    pub fn transmit_all(&mut self, to: DeviceId, burst: &mut Burst) -> bool {
        match self.tx_routes.get_mut(usize::from(to.0)) {
            Some(TxRoute::Own(tx_buffer)) => tx_buffer.take(burst),
            _ => false,
        }
    }

    /// Transmits a frame for another worker. Only an own queue will do, so no frame circulates between workers.
    #[inline]
    pub fn transmit_own(&mut self, to: DeviceId, mbuf: Mbuf) {
        match self.tx_routes.get_mut(usize::from(to.0)) {
            Some(TxRoute::Own(tx_buffer)) => tx_buffer.push(mbuf, &self.counters, &mut self.taps),
            _ => self.drop_late(to, mbuf, DropReason::NoRoute),
        }
    }

    /// Drops a frame that the path had sent to `device` or to its twin. Captures record it here, because they saw another
    /// verdict.
    #[cold]
    pub fn drop_late(&mut self, device: DeviceId, mbuf: Mbuf, reason: DropReason) {
        if !self.taps.is_empty() {
            self.taps.record_lost(clock::cycles(), device, reason, mbuf.bytes());
        }
        self.drop_frame(mbuf, reason);
    }

    /// Drops a frame that the path generated, for lack of a buffer.
    #[cold]
    pub fn drop_generated(&mut self, device: DeviceId, bytes: &[u8]) {
        if !self.taps.is_empty() {
            self.taps
                .record_lost(clock::cycles(), device, DropReason::NoMbuf, bytes);
        }
        self.counters.drop_packet(DropReason::NoMbuf);
    }

    /// Drops a frame for the reason that its verdict gives.
    #[inline]
    pub fn drop_frame(&mut self, mbuf: Mbuf, reason: DropReason) {
        self.counters.drop_packet(reason);
        self.free_later(mbuf);
    }

    #[inline]
    fn free_later(&mut self, mbuf: Mbuf) {
        if let Err(mbuf) = self.dropped.push(mbuf) {
            self.dropped.free();
            let _ = self.dropped.push(mbuf);
        }
    }

    /// Transmits all batches and frees the dropped frames.
    #[inline]
    pub fn tx(&mut self) {
        for tx_route in &mut self.tx_routes {
            if let TxRoute::Own(tx_buffer) = tx_route {
                tx_buffer.flush(&self.counters, &mut self.taps);
            }
        }
        self.dropped.free();
    }

    fn punt(&mut self, device: DeviceId, mbuf: Mbuf) {
        if self.twins.checked_shr(u32::from(device.0)).unwrap_or(0) & 1 == 0 {
            self.drop_late(device, mbuf, DropReason::NoTwin);
            return;
        }
        let bytes = mbuf.bytes().len() as u64;
        match self.punted.send(mbuf, device) {
            Ok(()) => {
                let counters = self.counters.device(device);
                counters.punted_packets.add(1);
                counters.punted_bytes.add(bytes);
            }
            Err(mbuf) => self.drop_late(device, mbuf, DropReason::PuntRingFull),
        }
    }

    #[inline]
    fn handoff(&mut self, worker: usize, handoff: Handoff, device: DeviceId) {
        match self.handoffs.send(worker, handoff) {
            Ok(()) => self.counters.handoff_out.add(1),
            Err(mbuf) => self.drop_late(device, mbuf, DropReason::HandoffRingFull),
        }
    }
}
