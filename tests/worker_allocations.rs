//! A worker makes no allocation after its start, while traffic flows and commands arrive.

#[path = "process/own_process.rs"]
mod own_process;
#[path = "process/scripted_path.rs"]
mod scripted_path;

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use lvs_core::counters::{SingleWriter, WorkerCounters};
use lvs_core::l3::{DeviceId, NeighbourKey};
use lvs_core::path::verdict::{WaitId, WorkerId};
use lvs_core::path::{DropReason, Verdict};
use lvs_core::snapshot::Snapshot;
use lvs_core::tick::Tick;
use lvsd::dpdk::device::{Device, DeviceSettings};
use lvsd::dpdk::{Clock, Mbuf, Mempool, PoolSettings, lcore};
use lvsd::worker::Worker;
use lvsd::worker::crew::{CrewSettings, assemble};
use lvsd::worker::idle::IdlePolicy;
use lvsd::worker::mailbox::{Command, ConnRecord, DumpCursor};
use lvsd::worker::packet_path::PacketPath;
use own_process::{in_own_process, start_eal};
use scripted_path::{ScriptedPath, snapshot};

/// All verdicts in turn.
struct EveryVerdict(ScriptedPath, u32);

impl PacketPath for EveryVerdict {
    fn process(&mut self, _device: DeviceId, _now: Tick, _frames: &mut [Mbuf], verdicts: &mut [Verdict]) {
        for verdict in verdicts {
            self.1 = self.1.wrapping_add(1);
            *verdict = match self.1 % 8 {
                0 => Verdict::Punt,
                1 => Verdict::Hold(WaitId((self.1 >> 3) as u8)),
                2 => Verdict::HandOver(WorkerId(1)),
                3 => Verdict::Drop(DropReason::NoRoute),
                _ => Verdict::Transmit(DeviceId(0)),
            };
        }
    }
    fn process_handed_over(&mut self, device: DeviceId, now: Tick, frames: &mut [Mbuf], verdicts: &mut [Verdict]) {
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

#[test]
fn a_worker_allocates_nothing_while_it_runs() {
    in_own_process("a_worker_allocates_nothing_while_it_runs", || {
        let eal = start_eal(1);
        let pool = Mempool::create(
            &eal,
            &PoolSettings {
                mbufs: 8_191,
                ..PoolSettings::default()
            },
        )
        .unwrap();
        let settings = DeviceSettings {
            driver: "net_null0,size=60".to_owned(),
            ..DeviceSettings::default()
        };
        let (_device, queues) = Device::open(&eal, &settings, pool).unwrap();
        let counters = [Arc::new(WorkerCounters::new(1))];
        let crew_settings = CrewSettings {
            counters: &counters,
            twins: &[DeviceId(0)],
            idle: IdlePolicy::Pause,
            clock: Clock::start(&eal),
            pool,
        };
        let mut crew = assemble(vec![queues], &crew_settings);
        let mut worker = Worker::new(crew.workers.remove(0), EveryVerdict(ScriptedPath::new(), 0));
        let (sender, receiver) = mpsc::channel();
        let handle = lcore::launch(&eal, 0, move || {
            let counted = allocation_counter::measure(|| worker.run());
            sender.send(counted).unwrap();
        })
        .unwrap();
        let end = Instant::now() + Duration::from_millis(1_500);
        let mut generation = 0;
        while Instant::now() < end {
            generation += 1;
            let _ = crew.mailboxes[0]
                .commands
                .push(Command::Publish(snapshot(generation % 200)));
            while crew.mailboxes[0].replies.pop().is_some() {}
            while crew.twin_ends.lines[0].take().is_some() {}
            std::thread::sleep(Duration::from_millis(2));
        }
        crew.mailboxes[0].commands.force_push(Command::Stop);
        handle.join().unwrap();
        let counted = receiver.recv().unwrap();
        assert!(counters[0].devices[0].tx_packets.get() > 10_000, "traffic flowed");
        assert!(counters[0].drops_of(DropReason::HeldQueueFull) > 0, "frames were held");
        assert_eq!(counted.count_total, 0, "{counted:?}");
    });
}
