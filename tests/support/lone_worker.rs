//! One worker on a device that receives without end, with a path that gives every verdict in turn.

use std::sync::Arc;

use lvs_core::capture::CaptureFilter;
use lvs_core::counters::WorkerCounters;
use lvs_core::l3::{DeviceId, NeighbourKey};
use lvs_core::snapshot::Snapshot;
use lvs_core::tick::Tick;
use lvs_core::verdict::{DropReason, Verdict, WaitId, WorkerId};
use lvsd::dpdk::device::Device;
use lvsd::dpdk::lcore::{self, LcoreHandle};
use lvsd::dpdk::{Clock, Eal, Mbuf};
use lvsd::worker::Worker;
use lvsd::worker::assignment::{AssignmentSettings, TwinEnds, assemble};
use lvsd::worker::capture::{SNAP_MAX, Tap, TapEnd, TapSettings};
use lvsd::worker::idle::IdlePolicy;
use lvsd::worker::mailbox::{Command, ConnRecord, DumpCursor, Mailbox};
use lvsd::worker::packet_path::PacketPath;

use crate::dpdk::{open, pool, start_eal};
use crate::scripted_path::{ScriptedPath, snapshot};

/// Rounds of the management core after which one capture ends and another begins.
const ROUNDS_PER_CAPTURE: u32 = 16;

/// All verdicts in turn.
pub struct EveryVerdict(ScriptedPath, u32);

impl PacketPath for EveryVerdict {
    fn process(&mut self, _device: DeviceId, _now: Tick, _frames: &mut [Mbuf], verdicts: &mut [Verdict]) {
        for verdict in verdicts {
            self.1 = self.1.wrapping_add(1);
            *verdict = match self.1 % 8 {
                0 => Verdict::Punt,
                1 => Verdict::Hold(WaitId((self.1 >> 3) as u8)),
                2 => Verdict::Handoff(WorkerId(1)),
                3 => Verdict::Drop(DropReason::NoRoute),
                _ => Verdict::Transmit(DeviceId(0)),
            };
        }
    }
    fn process_handoff(&mut self, device: DeviceId, now: Tick, frames: &mut [Mbuf], verdicts: &mut [Verdict]) {
        self.process(device, now, frames, verdicts);
    }
    fn housekeeping(&mut self, now: Tick) {
        self.0.housekeeping(now);
    }
    fn neighbour(&self, wait: WaitId) -> NeighbourKey {
        self.0.neighbour(wait)
    }
    fn finish(&mut self, frame: &mut Mbuf, neighbour: NeighbourKey) -> Option<Verdict> {
        self.0.finish(frame, neighbour)
    }
    fn adopt(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        self.0.adopt(snapshot)
    }
    fn dump(&self, cursor: DumpCursor, now: Tick, out: &mut Vec<ConnRecord>) -> Option<DumpCursor> {
        self.0.dump(cursor, now, out)
    }
}

/// The worker on its lcore, and the test as its management core.
pub struct LoneWorker {
    /// The worker's.
    pub counters: Arc<WorkerCounters>,
    /// How many records of its captures were read.
    pub captured: u64,
    mailbox: Arc<Mailbox>,
    twin_ends: TwinEnds,
    handle: LcoreHandle,
    rounds: u32,
    tap: Option<TapEnd>,
    _device: Device,
    _eal: Eal,
}

impl LoneWorker {
    /// Starts the worker. Its lcore calls `run` with it.
    pub fn start(idle: IdlePolicy, run: impl FnOnce(&mut Worker<EveryVerdict>) + Send + 'static) -> Self {
        let eal = start_eal(1);
        let pool = pool(&eal, 8_191);
        let (device, queues) = open(&eal, pool, 0, "net_null0,size=60");
        let counters = [Arc::new(WorkerCounters::new(1))];
        let assignment_settings = AssignmentSettings {
            counters: &counters,
            twins: &[DeviceId(0)],
            idle,
            clock: Clock::start(&eal),
            pool,
        };
        let mut assignment = assemble(vec![queues], &assignment_settings);
        let mut worker = Worker::new(assignment.workers.remove(0), EveryVerdict(ScriptedPath::default(), 0));
        let handle = lcore::launch(&eal, 0, move || run(&mut worker)).unwrap();
        let [counters] = counters;
        Self {
            counters,
            captured: 0,
            mailbox: assignment.mailboxes.remove(0),
            twin_ends: assignment.twin_ends,
            handle,
            rounds: 0,
            tap: None,
            _device: device,
            _eal: eal,
        }
    }

    /// One round of the management core: another snapshot, empty rings, captures that come and go.
    pub fn manage(&mut self) {
        self.rounds += 1;
        let _ = self
            .mailbox
            .commands
            .push(Command::Publish(snapshot(self.rounds % 200)));
        while self.mailbox.replies.pop().is_some() {}
        while self.twin_ends.rings[0].take().is_some() {}
        if self.rounds.is_multiple_of(ROUNDS_PER_CAPTURE) {
            let settings = TapSettings {
                filter: CaptureFilter::default(),
                arriving: true,
                leaving: true,
                snap: SNAP_MAX,
                end_cycles: u64::MAX,
            };
            let (tap, end) = Tap::new(settings, 64);
            let _ = self.mailbox.commands.push(Command::Tap(tap));
            self.tap = Some(end);
        }
        if let Some(tap) = &mut self.tap {
            while let Ok(record) = tap.records.pop() {
                self.captured += 1;
                let _ = tap.empty.push(record);
            }
        }
    }

    /// Ends the worker.
    pub fn stop(self) {
        self.mailbox.commands.force_push(Command::Stop);
        self.handle.join().unwrap();
    }
}
