//! A worker makes no system call while traffic flows: strace, watching its thread, sees none.

#[path = "process/own_process.rs"]
mod own_process;
#[path = "process/scripted_path.rs"]
mod scripted_path;

use std::process::{Command, Stdio};
use std::sync::Arc;

use lvs_core::counters::{SingleWriter, WorkerCounters};
use lvs_core::l3::{DeviceId, NeighbourKey};
use lvs_core::path::verdict::WaitId;
use lvs_core::path::{DropReason, Verdict};
use lvs_core::snapshot::Snapshot;
use lvs_core::tick::Tick;
use lvsd::dpdk::device::{Device, DeviceSettings};
use lvsd::dpdk::{Clock, Mbuf, Mempool, PoolSettings, lcore};
use lvsd::worker::Worker;
use lvsd::worker::crew::{CrewSettings, assemble};
use lvsd::worker::idle::IdlePolicy;
use lvsd::worker::mailbox::{Command as WorkerCommand, ConnRecord, DumpCursor};
use lvsd::worker::packet_path::PacketPath;
use own_process::{in_own_process, start_eal};
use scripted_path::{ScriptedPath, snapshot};

/// Transmits, drops, punts and holds in turn.
struct InTurn(ScriptedPath, u8);

impl PacketPath for InTurn {
    fn process(&mut self, _device: DeviceId, _now: Tick, _frames: &mut [Mbuf], verdicts: &mut [Verdict]) {
        for verdict in verdicts {
            self.1 = self.1.wrapping_add(1);
            *verdict = match self.1 % 8 {
                0 => Verdict::Punt,
                1 => Verdict::Hold(WaitId(self.1 >> 3)),
                2 => Verdict::Drop(DropReason::NoRoute),
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

/// The thread of this process that polls, by the name that DPDK gives it.
fn worker_thread() -> String {
    let tasks = std::fs::read_dir("/proc/self/task").expect("own threads");
    let is_worker = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("rte-worker"))
    };
    let task = tasks.flatten().find(is_worker).expect("a worker runs");
    task.file_name().into_string().expect("a number")
}

#[test]
fn a_worker_makes_no_system_call_while_it_runs() {
    in_own_process("a_worker_makes_no_system_call_while_it_runs", || {
        makes_no_system_call(IdlePolicy::Pause);
    });
}

#[test]
fn nor_does_one_that_rests_when_idle_while_traffic_flows() {
    in_own_process("nor_does_one_that_rests_when_idle_while_traffic_flows", || {
        makes_no_system_call(IdlePolicy::Adaptive {
            quiet_us: 200,
            sleep_max_us: 1_000,
        });
    });
}

fn makes_no_system_call(idle: IdlePolicy) {
    let eal = start_eal(1);
    let pool_settings = PoolSettings {
        mbufs: 8_191,
        ..PoolSettings::default()
    };
    let pool = Mempool::create(&eal, &pool_settings).unwrap();
    let settings = DeviceSettings {
        driver: "net_null0,size=60".to_owned(),
        ..DeviceSettings::default()
    };
    let (_device, queues) = Device::open(&eal, &settings, pool).unwrap();
    let counters = [Arc::new(WorkerCounters::new(1))];
    let crew_settings = CrewSettings {
        counters: &counters,
        twins: &[DeviceId(0)],
        idle,
        clock: Clock::start(&eal),
        pool,
    };
    let mut crew = assemble(vec![queues], &crew_settings);
    let mut worker = Worker::new(crew.workers.remove(0), InTurn(ScriptedPath::new(), 0));
    let handle = lcore::launch(&eal, 0, move || worker.run()).unwrap();
    let sent = || counters[0].devices[0].tx_packets.get();
    while sent() == 0 {
        std::thread::yield_now();
    }

    let log = std::env::temp_dir().join(format!("lvsd-strace-{}", std::process::id()));
    let mut strace = Command::new("strace")
        .args(["-qq", "-p", &worker_thread(), "-o"])
        .arg(&log)
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is installed: scripts/dev setup");
    // It is attached once it traces: the kernel then names it as the tracer.
    let status = format!("/proc/self/task/{}/status", worker_thread());
    while std::fs::read_to_string(&status).unwrap().contains("TracerPid:\t0\n") {
        assert!(strace.try_wait().unwrap().is_none(), "strace may trace this process");
        std::thread::yield_now();
    }
    let begin = sent();
    let mut generation = 0;
    while sent() < begin + 300_000 {
        generation += 1;
        let publish = WorkerCommand::Publish(snapshot(generation % 200));
        let _ = crew.mailboxes[0].commands.push(publish);
        while crew.mailboxes[0].replies.pop().is_some() {}
        while crew.twin_ends.lines[0].take().is_some() {}
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(strace.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    strace.wait().unwrap();
    crew.mailboxes[0].commands.force_push(WorkerCommand::Stop);
    handle.join().unwrap();
    let calls = std::fs::read_to_string(&log).unwrap_or_default();
    let _ = std::fs::remove_file(&log);
    assert_eq!(calls, "");
}
