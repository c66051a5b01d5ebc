//! Step 8: where a frame goes after the path has decided, and the count of it.

use std::sync::Arc;

use lvs_core::counters::WorkerCounters;
use lvs_core::frame::Frame;
use lvs_core::l3::{DeviceId, NeighbourKey};
use lvs_core::single_writer::SingleWriter;
use lvs_core::tick::Tick;
use lvs_core::verdict::{DropReason, Verdict, WaitId};

use crate::dpdk::{Burst, Mbuf, clock};
use crate::worker::capture::Taps;
use crate::worker::handoff::{Handoff, Outbox};
use crate::worker::hold::Hold;
use crate::worker::punt::PuntedFrames;
use crate::worker::tx::TxRoute;

/// All ways out of a worker.
#[derive(Debug)]
pub struct Dispatcher {
    /// By device.
    tx_routes: Vec<TxRoute>,
    outbox: Outbox,
    punted: PuntedFrames,
    /// Bit `n`: device `n` has a kernel twin.
    twins: u32,
    /// Frames that wait for a neighbour.
    pub(super) hold: Hold,
    /// Captures that run.
    pub(super) taps: Taps,
    /// Dropped frames, freed together.
    dropped: Burst,
    counters: Arc<WorkerCounters>,
}

impl Dispatcher {
    /// The ways by device, the rings to the other workers and to the twin thread, and the devices with a twin
    /// (bit `n` for device `n`).
    pub fn new(
        tx_routes: Vec<TxRoute>,
        outbox: Outbox,
        punted: PuntedFrames,
        twins: u32,
        counters: Arc<WorkerCounters>,
    ) -> Self {
        Self {
            tx_routes,
            outbox,
            punted,
            twins,
            hold: Hold::new(),
            taps: Taps::new(),
            dropped: Burst::new(),
            counters,
        }
    }

    /// What this worker counts.
    pub fn counters(&self) -> Arc<WorkerCounters> {
        Arc::clone(&self.counters)
    }

    /// Sends a frame that came from `device` where `verdict` says; to be held, it waits for what `neighbour` names.
    #[inline]
    pub fn dispatch(
        &mut self,
        device: DeviceId,
        mbuf: Mbuf,
        verdict: Verdict,
        now: Tick,
        neighbour: impl FnOnce(WaitId) -> NeighbourKey,
    ) {
        match verdict {
            Verdict::Transmit(to) => self.transmit(to, mbuf),
            Verdict::Punt => self.punt(device, mbuf),
            Verdict::Handoff(worker) => {
                self.handoff(usize::from(worker.0), Handoff::Process { mbuf, from: device }, device);
            }
            Verdict::Hold(wait) => {
                let neighbour = neighbour(wait);
                if let Err(mbuf) = self.hold.push(mbuf, neighbour, now) {
                    self.lose(neighbour.device, mbuf, DropReason::HeldQueueFull);
                }
            }
            Verdict::Consumed => {
                self.counters.consumed_frames.add(1);
                self.free_later(mbuf);
            }
            Verdict::Drop(reason) => self.drop_frame(mbuf, reason),
        }
    }

    /// Sends a frame from the kernel twin of `device` where `verdict` says.
    pub fn dispatch_from_host(&mut self, device: DeviceId, mbuf: Mbuf, verdict: Verdict) {
        match verdict {
            Verdict::Handoff(worker) => {
                self.handoff(usize::from(worker.0), Handoff::FromHost { mbuf, device }, device);
            }
            Verdict::Drop(reason) => self.drop_frame(mbuf, reason),
            _ => self.transmit(device, mbuf),
        }
    }

    /// Transmits a complete frame, by another worker's queue if need be.
    #[inline]
    pub fn transmit(&mut self, to: DeviceId, mbuf: Mbuf) {
        match self.tx_routes.get_mut(usize::from(to.0)) {
            Some(TxRoute::Own(tx_buffer)) => tx_buffer.push(mbuf, &self.counters, &mut self.taps),
            Some(TxRoute::Via(worker)) => {
                let worker = *worker;
                self.handoff(worker, Handoff::Transmit { mbuf, to }, to);
            }
            None => self.lose(to, mbuf, DropReason::NoRoute),
        }
    }

    /// Transmits a whole burst at once by an own queue for which nothing is collected yet. Otherwise `false`, and the
    /// burst is as it was.
    #[inline]
    pub fn transmit_all(&mut self, to: DeviceId, burst: &mut Burst) -> bool {
        match self.tx_routes.get_mut(usize::from(to.0)) {
            Some(TxRoute::Own(tx_buffer)) => tx_buffer.take(burst),
            _ => false,
        }
    }

    /// Transmits a frame for another worker: only by an own queue, so that it never goes round.
    #[inline]
    pub fn transmit_own(&mut self, to: DeviceId, mbuf: Mbuf) {
        match self.tx_routes.get_mut(usize::from(to.0)) {
            Some(TxRoute::Own(tx_buffer)) => tx_buffer.push(mbuf, &self.counters, &mut self.taps),
            _ => self.lose(to, mbuf, DropReason::NoRoute),
        }
    }

    /// Drops a frame that was to go on by `device`, or to its twin: no verdict says so, so captures are told here.
    #[cold]
    pub fn lose(&mut self, device: DeviceId, mbuf: Mbuf, reason: DropReason) {
        if !self.taps.is_empty() {
            self.taps.loses(clock::cycles(), device, reason, mbuf.bytes());
        }
        self.drop_frame(mbuf, reason);
    }

    /// The same for a frame that the path made and that found no buffer.
    #[cold]
    pub fn lose_generated(&mut self, device: DeviceId, bytes: &[u8]) {
        if !self.taps.is_empty() {
            self.taps.loses(clock::cycles(), device, DropReason::NoMbuf, bytes);
        }
        self.counters.drop_packet(DropReason::NoMbuf);
    }

    /// Drops a frame by name, as its verdict says.
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

    /// Sends all batches and frees what was dropped.
    #[inline]
    pub fn flush(&mut self) {
        for tx_route in &mut self.tx_routes {
            if let TxRoute::Own(tx_buffer) = tx_route {
                tx_buffer.flush(&self.counters, &mut self.taps);
            }
        }
        self.dropped.free();
    }

    fn punt(&mut self, device: DeviceId, mbuf: Mbuf) {
        if self.twins.checked_shr(u32::from(device.0)).unwrap_or(0) & 1 == 0 {
            self.lose(device, mbuf, DropReason::NoTwin);
            return;
        }
        let bytes = mbuf.bytes().len() as u64;
        match self.punted.give(mbuf, device) {
            Ok(()) => {
                let counters = self.counters.device(device);
                counters.punted_packets.add(1);
                counters.punted_bytes.add(bytes);
            }
            Err(mbuf) => self.lose(device, mbuf, DropReason::PuntRingFull),
        }
    }

    #[inline]
    fn handoff(&mut self, worker: usize, handed: Handoff, device: DeviceId) {
        match self.outbox.give(worker, handed) {
            Ok(()) => self.counters.handoff_out.add(1),
            Err(mbuf) => self.lose(device, mbuf, DropReason::HandoffRingFull),
        }
    }
}
