//! The cost of the worker loop itself per packet, with a path that always transmits.
//!
//! `cargo bench --bench worker [-- SECONDS [CAPTURE]]`: the worker transmits the frames of an endlessly repeated capture
//! (net_pcap, `infinite_rx`) to a device that takes everything (net_null). Compare it with
//! `dpdk-testpmd --forward-mode=io` on the same devices.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lvs_core::conn_record::{ConnRecord, DumpCursor};
use lvs_core::counters::WorkerCounters;
use lvs_core::l3::{DeviceId, NeighbourKey};
use lvs_core::single_writer::SingleWriter;
use lvs_core::snapshot::Snapshot;
use lvs_core::testing::{CapturedFrame, udp4, write_pcap};
use lvs_core::tick::Tick;
use lvs_core::verdict::{Verdict, WaitId};
use lvs_test_support::dpdk::{open, pool};
use lvsd::dpdk::{Clock, Eal, EalSettings, Hugepages, Mbuf, lcore};
use lvsd::worker::Worker;
use lvsd::worker::assignment::{AssignmentSettings, assemble};
use lvsd::worker::idle::IdlePolicy;
use lvsd::worker::mailbox::Command;
use lvsd::worker::packet_path::PacketPath;

/// Transmits everything on device 1.
struct Straight;

impl PacketPath for Straight {
    #[inline]
    fn process(&mut self, _device: DeviceId, _now: Tick, _frames: &mut [Mbuf], verdicts: &mut [Verdict]) {
        verdicts.fill(Verdict::Transmit(DeviceId(1)));
    }
    fn process_handoff(&mut self, device: DeviceId, now: Tick, frames: &mut [Mbuf], verdicts: &mut [Verdict]) {
        self.process(device, now, frames, verdicts);
    }
    fn housekeeping(&mut self, _now: Tick) {}
    fn neighbour(&self, _wait: WaitId) -> NeighbourKey {
        NeighbourKey::of(DeviceId(0), 0, Ipv4Addr::UNSPECIFIED.into())
    }
    fn finish(&mut self, _frame: &mut Mbuf, _neighbour: NeighbourKey) -> Option<Verdict> {
        None
    }
    fn adopt(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        snapshot
    }
    fn dump(&self, _cursor: DumpCursor, _now: Tick, _out: &mut Vec<ConnRecord>) -> Option<DumpCursor> {
        None
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let seconds: u64 = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(3);
    let capture = arguments.get(1).map_or_else(sample_capture, PathBuf::from);
    let cpu = *lvsd::dpdk::eal::available_cpus().last().expect("a CPU");
    let settings = EalSettings {
        hugepages: Hugepages::Auto,
        memory_mb: 512,
        worker_cpus: vec![cpu],
        file_prefix: "lvsd-bench".to_owned(),
        log_level: 4,
        ..EalSettings::default()
    };
    let eal = Eal::start(&settings).expect("DPDK starts");
    let pool = pool(&eal, 65_535);
    let source = format!("net_pcap0,rx_pcap={},infinite_rx=1", capture.display());
    let mut queues = Vec::new();
    for (number, driver) in [source.as_str(), "net_null0"].into_iter().enumerate() {
        let (_device, of_device) = open(&eal, pool, number as u8, driver);
        queues.push(of_device);
    }
    let counters = [Arc::new(WorkerCounters::new(1))];
    let clock = Clock::start(&eal);
    let assignment_settings = AssignmentSettings {
        counters: &counters,
        twins: &[],
        idle: IdlePolicy::Spin,
        clock,
        pool,
    };
    let mut assignment = assemble(queues, &assignment_settings);
    let mut worker = Worker::new(assignment.workers.remove(0), Straight);
    let handle = lcore::launch(&eal, 0, move || worker.run()).expect("a worker");
    std::thread::sleep(Duration::from_millis(500));
    let before = (packets(&counters[0]), counters[0].busy_cycles.get());
    std::thread::sleep(Duration::from_secs(seconds));
    let after = (packets(&counters[0]), counters[0].busy_cycles.get());
    let _ = assignment.mailboxes[0].commands.push(Command::Stop);
    handle.join().expect("the worker ends");
    let count = (after.0 - before.0) as f64;
    let ns = (after.1 - before.1) as f64 * 1e9 / clock.hz() as f64 / count;
    println!(
        "{:.2} Mpps, {ns:.1} ns of the worker's time a packet",
        count / seconds as f64 / 1e6
    );
}

fn packets(counters: &WorkerCounters) -> u64 {
    counters.devices[1].tx_packets.get()
}

fn sample_capture() -> PathBuf {
    let frames: Vec<_> = (0..1_024u32)
        .map(|flow| {
            udp4(&format!(
                "198.51.100.{}:{} > 192.0.2.1:53",
                flow % 250 + 1,
                10_000 + flow
            ))
            .build()
        })
        .map(CapturedFrame::of)
        .collect();
    let path = std::env::temp_dir().join("lvsd-bench-worker.pcap");
    std::fs::write(&path, write_pcap(&frames)).expect("the temporary directory is writable");
    path
}
