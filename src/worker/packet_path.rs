//! What a worker needs of the path. The daemon uses that of `lvs_core`, tests of the worker use a scripted one.
//!
//! The type is known at compile time, so nothing is called through a pointer.

use std::sync::Arc;

use lvs_core::capture::FrameEnds;
use lvs_core::conn_record::{ConnRecord, DumpCursor};
use lvs_core::explain::{Explanation, Question};
use lvs_core::ipvs::sync::SyncConn;
use lvs_core::l3::{DeviceId, NeighbourKey};
use lvs_core::path;
use lvs_core::path::sync::bulk::{self, Slice};
use lvs_core::snapshot::Snapshot;
use lvs_core::tick::Tick;
use lvs_core::verdict::{DropReason, Verdict, WaitId};
use lvs_core::worker_state::{Arrival, WorkerState};

use crate::dpdk::Mbuf;

/// See the module. No method may allocate, block, log or panic.
pub trait PacketPath: Send {
    /// Sets the time in microseconds, modulo 2³². Called once per pass.
    fn set_us(&mut self, _us: u32) {}

    /// Gives verdicts on up to [`lvs_core::limits::BURST_MAX`] frames that `device` received.
    fn process(&mut self, device: DeviceId, now: Tick, frames: &mut [Mbuf], verdicts: &mut [Verdict]);

    /// Gives verdicts on frames that another worker handed off. It never hands them off again.
    fn process_handoff(&mut self, device: DeviceId, now: Tick, frames: &mut [Mbuf], verdicts: &mut [Verdict]);

    /// The next frame that the path generated, until there is none. The worker copies it into a buffer and dispatches that
    /// by the verdict.
    fn next_generated(&mut self) -> Option<(Verdict, &[u8])> {
        None
    }

    /// The next connection for other directors, until there is none.
    fn next_synced(&mut self) -> Option<SyncConn> {
        None
    }

    /// Imports those connections of another director that this worker owns.
    fn import_synced(&mut self, _now: Tick, _conns: &[SyncConn]) {}

    /// Gives `take` the entries of at most `conns_max` of this worker's connections from `from` on, for another director
    /// that knows none of them.
    fn copy_conns(&self, from: DumpCursor, conns_max: usize, take: impl FnMut(SyncConn)) -> Slice {
        let _ = (from, conns_max, take);
        Slice::default()
    }

    /// Lets a bounded number of connections expire. Called once per pass. Returns whether a timer was due.
    fn expire(&mut self, _now: Tick) -> bool {
        false
    }

    /// Does the other periodic work, a bounded amount. Called about once per millisecond.
    fn housekeeping(&mut self, now: Tick);

    /// The neighbour for which a frame waits that has just got the verdict `Hold`.
    fn neighbour(&self, wait: WaitId) -> NeighbourKey;

    /// Looks again at a held frame. Returns `None` while its neighbour is not resolved.
    fn finish(&mut self, frame: &mut Mbuf, neighbour: NeighbourKey) -> Option<Verdict>;

    /// Gives a verdict on a held frame whose neighbour on `device` did not answer. The path may turn the frame into an ICMP
    /// error for its sender.
    fn give_up(&mut self, _device: DeviceId, _now: Tick, _frame: &mut Mbuf) -> Verdict {
        Verdict::Drop(DropReason::NeighbourFailed)
    }

    /// Gives a verdict on a frame that the kernel sends through the twin of `device`: nearly always to transmit it there,
    /// or to hand it off to the owner of its connection, which calls this with `is_handoff`.
    fn process_from_host(&mut self, device: DeviceId, _now: Tick, _is_handoff: bool, _frame: &mut Mbuf) -> Verdict {
        Verdict::Transmit(device)
    }

    /// Switches to a new snapshot. Returns the old one, which the publisher drops.
    fn adopt(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot>;

    /// For captures: the connection of a frame with these addresses and L4 ports.
    fn conn_of(&self, ends: &FrameEnds, now: Tick) -> Option<ConnRecord> {
        let _ = (ends, now);
        None
    }

    /// Explains what the path would do with a packet. Changes nothing.
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
        path::process(self, Arrival::at(device, now), frames, verdicts);
    }

    #[inline]
    fn process_handoff(&mut self, device: DeviceId, now: Tick, frames: &mut [Mbuf], verdicts: &mut [Verdict]) {
        path::process(self, Arrival::handoff(device, now), frames, verdicts);
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

    fn copy_conns(&self, from: DumpCursor, conns_max: usize, take: impl FnMut(SyncConn)) -> Slice {
        bulk::copy(self, from, conns_max, take)
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
        path::forward::resolve::finish(self, frame, neighbour)
    }

    fn give_up(&mut self, device: DeviceId, now: Tick, frame: &mut Mbuf) -> Verdict {
        path::icmp::undeliverable::give_up(self, device, now, frame)
    }

    fn process_from_host(&mut self, device: DeviceId, now: Tick, is_handoff: bool, frame: &mut Mbuf) -> Verdict {
        path::from_host::process(
            self,
            Arrival {
                device,
                now,
                is_handoff,
            },
            frame,
        )
    }

    fn adopt(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        Self::adopt(self, snapshot)
    }

    fn conn_of(&self, ends: &FrameEnds, now: Tick) -> Option<ConnRecord> {
        Self::conn_of(self, ends, now)
    }

    fn explain(&mut self, question: &Question, now: Tick) -> Option<Explanation> {
        Some(lvs_core::explain::explain(self, now, question))
    }

    fn dump(&self, cursor: DumpCursor, now: Tick, out: &mut Vec<ConnRecord>) -> Option<DumpCursor> {
        Self::dump(self, cursor, now, out)
    }
}
