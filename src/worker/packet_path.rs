//! What a worker asks of the path: `lvs_core`'s in the daemon, a scripted one in tests of the worker itself.
//!
//! Known at compile time, so nothing is called through a pointer.

use std::sync::Arc;

use lvs_core::capture::FrameEnds;
use lvs_core::conn_record::{ConnRecord, DumpCursor};
use lvs_core::ipvs::sync::SyncConn;
use lvs_core::l3::{DeviceId, NeighbourKey};
use lvs_core::path;
use lvs_core::path::explain::{Explanation, Question};
use lvs_core::snapshot::Snapshot;
use lvs_core::tick::Tick;
use lvs_core::verdict::{DropReason, Verdict, WaitId};
use lvs_core::worker_state::WorkerState;

use crate::dpdk::Mbuf;

/// See the module. Nothing here may allocate, block, log or panic.
pub trait PacketPath: Send {
    /// The time in microseconds, modulo 2³², once for each pass of the loop.
    fn set_us(&mut self, _us: u32) {}

    /// Decides about up to [`lvs_core::limits::BURST_MAX`] frames that `device` received.
    fn process(&mut self, device: DeviceId, now: Tick, frames: &mut [Mbuf], verdicts: &mut [Verdict]);

    /// The same for frames that another worker handed over; never hands over again.
    fn process_handoff(&mut self, device: DeviceId, now: Tick, frames: &mut [Mbuf], verdicts: &mut [Verdict]);

    /// The next frame that the path made besides those it was given, until there is none: to be copied into a
    /// buffer of its own, which then goes where its verdict says.
    fn next_generated(&mut self) -> Option<(Verdict, &[u8])> {
        None
    }

    /// The next connection to tell other directors, until there is none.
    fn next_synced(&mut self) -> Option<SyncConn> {
        None
    }

    /// Takes over those of another director's connections that are this worker's.
    fn import_synced(&mut self, _now: Tick, _conns: &[SyncConn]) {}

    /// Once a pass of the loop: lets connections expire, a bounded number, and tells whether any timer was due.
    fn expire(&mut self, _now: Tick) -> bool {
        false
    }

    /// What is due besides about every millisecond, a bounded amount.
    fn housekeeping(&mut self, now: Tick);

    /// The neighbour that a frame which has just got the verdict `Hold` waits for.
    fn neighbour(&self, wait: WaitId) -> NeighbourKey;

    /// Looks again at a held frame; `None` while its neighbour is still not resolved.
    fn finish(&mut self, frame: &mut Mbuf, neighbour: NeighbourKey) -> Option<Verdict>;

    /// A held frame waited in vain for its neighbour on `device`: its sender may be told in its place.
    fn give_up(&mut self, _device: DeviceId, _now: Tick, _frame: &mut Mbuf) -> Verdict {
        Verdict::Drop(DropReason::NeighbourFailed)
    }

    /// Decides about a frame that the kernel sends through the twin of `device`: to be transmitted there, or to
    /// be handed to the worker that has its connection, which calls this with `handed_over`.
    fn process_from_host(&mut self, device: DeviceId, _now: Tick, _handed_over: bool, _frame: &mut Mbuf) -> Verdict {
        Verdict::Transmit(device)
    }

    /// Takes up a new snapshot; returns the old one for its publisher to drop.
    fn adopt(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot>;

    /// The connection that a frame with these ends belongs to; for captures.
    fn conn_of(&self, ends: &FrameEnds, now: Tick) -> Option<ConnRecord> {
        let _ = (ends, now);
        None
    }

    /// What would become of a packet; leaves no trace.
    fn explain(&mut self, question: &Question, now: Tick) -> Option<Explanation> {
        let _ = (question, now);
        None
    }

    /// Fills `out` to its capacity with connections from `cursor` on.
    fn dump(&self, cursor: DumpCursor, now: Tick, out: &mut Vec<ConnRecord>) -> Option<DumpCursor>;
}

impl PacketPath for WorkerState {
    #[inline]
    fn set_us(&mut self, us: u32) {
        Self::set_us(self, us);
    }

    #[inline]
    fn process(&mut self, device: DeviceId, now: Tick, frames: &mut [Mbuf], verdicts: &mut [Verdict]) {
        path::process(self, device, now, frames, verdicts);
    }

    #[inline]
    fn process_handoff(&mut self, device: DeviceId, now: Tick, frames: &mut [Mbuf], verdicts: &mut [Verdict]) {
        path::process_handoff(self, device, now, frames, verdicts);
    }

    #[inline]
    fn next_generated(&mut self) -> Option<(Verdict, &[u8])> {
        Self::next_generated(self)
    }

    #[inline]
    fn next_synced(&mut self) -> Option<SyncConn> {
        Self::next_synced(self)
    }

    fn import_synced(&mut self, now: Tick, conns: &[SyncConn]) {
        path::sync::import::import_synced(self, now, conns);
    }

    #[inline]
    fn expire(&mut self, now: Tick) -> bool {
        path::housekeeping::expire(self, now)
    }

    fn housekeeping(&mut self, now: Tick) {
        path::housekeeping::run(self, now);
    }

    fn neighbour(&self, wait: WaitId) -> NeighbourKey {
        Self::neighbour(self, wait)
    }

    fn finish(&mut self, frame: &mut Mbuf, neighbour: NeighbourKey) -> Option<Verdict> {
        path::resolve::finish(self, frame, neighbour)
    }

    fn give_up(&mut self, device: DeviceId, now: Tick, frame: &mut Mbuf) -> Verdict {
        path::icmp::undeliverable::give_up(self, device, now, frame)
    }

    fn process_from_host(&mut self, device: DeviceId, now: Tick, is_handoff: bool, frame: &mut Mbuf) -> Verdict {
        path::from_host::process(self, device, now, is_handoff, frame)
    }

    fn adopt(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        Self::adopt(self, snapshot)
    }

    fn conn_of(&self, ends: &FrameEnds, now: Tick) -> Option<ConnRecord> {
        Self::conn_of(self, ends, now)
    }

    fn explain(&mut self, question: &Question, now: Tick) -> Option<Explanation> {
        Some(path::explain::explain(self, now, question))
    }

    fn dump(&self, cursor: DumpCursor, now: Tick, out: &mut Vec<ConnRecord>) -> Option<DumpCursor> {
        Self::dump(self, cursor, now, out)
    }
}
