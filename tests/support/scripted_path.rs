//! A path for tests of the worker. The first byte of a frame determines its verdict.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use lvs_core::frame::Frame;
use lvs_core::ipvs::protocol::Timeouts;
use lvs_core::ipvs::service_table::ServiceTable;
use lvs_core::l3::{DeviceId, L3, NeighbourKey};
use lvs_core::snapshot::Snapshot;
use lvs_core::tick::Tick;
use lvs_core::verdict::{DropReason, Verdict, WaitId, WorkerId};
use lvsd::dpdk::Mbuf;
use lvsd::worker::mailbox::{ConnRecord, DumpCursor};
use lvsd::worker::packet_path::PacketPath;

/// First byte: transmit on the device in the second.
pub const TRANSMIT: u8 = 1;
/// First byte: punt.
pub const PUNT: u8 = 2;
/// First byte: hand off to the worker in the second; there it is transmitted on device 0.
pub const HANDOFF: u8 = 3;
/// First byte: hold for the neighbour in the second, behind device 0.
pub const HOLD: u8 = 4;

/// See the module. A frame with another first byte is dropped as `no_real_server`.
pub struct ScriptedPath {
    snapshot: Arc<Snapshot>,
}

impl Default for ScriptedPath {
    fn default() -> Self {
        Self { snapshot: snapshot(0) }
    }
}

/// A snapshot without services. Neighbours below `resolved` count as resolved.
pub fn snapshot(resolved: u32) -> Arc<Snapshot> {
    let mut l3 = L3::default();
    l3.generation = resolved;
    Arc::new(Snapshot {
        services: Arc::new(ServiceTable::default()),
        l3: Arc::new(l3),
        timeouts: Timeouts::default(),
        workers_count: 1,
        ..Snapshot::default()
    })
}

/// The neighbour that a frame waits for which holds this number.
pub fn neighbour(number: u8) -> NeighbourKey {
    NeighbourKey::of(DeviceId(0), 0, IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)))
}

fn verdict(frame: &Mbuf, handed_off: bool) -> Verdict {
    match *frame.bytes() {
        [TRANSMIT, device, ..] => Verdict::Transmit(DeviceId(device)),
        [PUNT, ..] => Verdict::Punt,
        [HANDOFF, ..] if handed_off => Verdict::Transmit(DeviceId(0)),
        [HANDOFF, worker, ..] => Verdict::Handoff(WorkerId(worker)),
        [HOLD, number, ..] => Verdict::Hold(WaitId(number)),
        _ => Verdict::Drop(DropReason::NoRealServer),
    }
}

impl PacketPath for ScriptedPath {
    fn process(&mut self, _device: DeviceId, _now: Tick, frames: &mut [Mbuf], verdicts: &mut [Verdict]) {
        assert_eq!(frames.len(), verdicts.len());
        for (frame, slot) in frames.iter().zip(verdicts) {
            *slot = verdict(frame, false);
        }
    }

    fn process_handoff(&mut self, _device: DeviceId, _now: Tick, frames: &mut [Mbuf], verdicts: &mut [Verdict]) {
        for (frame, slot) in frames.iter().zip(verdicts) {
            *slot = verdict(frame, true);
        }
    }

    fn housekeeping(&mut self, _now: Tick) {}

    fn neighbour(&self, wait: WaitId) -> NeighbourKey {
        neighbour(wait.0)
    }

    fn finish(&mut self, _frame: &mut Mbuf, neighbour: NeighbourKey) -> Option<Verdict> {
        match neighbour.addr {
            IpAddr::V4(addr) if u32::from(addr.octets()[3]) < self.snapshot.l3.generation => {
                Some(Verdict::Transmit(neighbour.device))
            }
            _ => None,
        }
    }

    fn adopt(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        std::mem::replace(&mut self.snapshot, snapshot)
    }

    fn dump(&self, _cursor: DumpCursor, _now: Tick, _out: &mut Vec<ConnRecord>) -> Option<DumpCursor> {
        None
    }
}
