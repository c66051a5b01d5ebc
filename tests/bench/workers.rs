//! Whether a second worker doubles the packets: `scripts/dev bench workers`.
//!
//! `workers FLOWS MODE`: the real loop and the real path on one net_pcap device with a queue a worker. Each queue replays
//! data of FLOWS connections that belong to its worker (found by asking: a worker's path says whose a first packet is), as
//! RSS would bring them. The first polls alone, then both, then the second alone. Prints, in JSON, packets a microsecond
//! of the workers' time on a CPU, and how many were handed over: none, or the figures mean nothing.

use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lvs_core::arena::Arena;
use lvs_core::counters::{SingleWriter, WorkerCounters};
use lvs_core::ipvs::desired::{DesiredServices, ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::path::verdict::WorkerId;
use lvs_core::path::{self, Verdict};
use lvs_core::random::Random;
use lvs_core::snapshot::Snapshot;
use lvs_core::testing::network::{WAN, network};
use lvs_core::testing::{CapturedFrame, VecFrame, tcp4, write_pcap};
use lvs_core::tick::Tick;
use lvs_core::worker_state::{WorkerSettings, WorkerState};
use lvsd::dpdk::device::{Device, DeviceSettings, Queues};
use lvsd::dpdk::lcore::LcoreHandle;
use lvsd::dpdk::{Clock, Eal, EalSettings, Hugepages, Mempool, PoolSettings, lcore};
use lvsd::worker::Worker;
use lvsd::worker::crew::{CrewSettings, assemble};
use lvsd::worker::idle::IdlePolicy;
use lvsd::worker::mailbox::Command;

const WORKERS: u8 = 2;
const WINDOWS: usize = 5;
const WINDOW: Duration = Duration::from_millis(400);
/// What passes before the first window.
const SETTLING: Duration = Duration::from_millis(300);
const SERVERS_MAX: usize = 64;

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn snapshot(mode: &str, workers_count: u8) -> Arc<Snapshot> {
    let mut desired = DesiredServices::default();
    let key = ServiceKey::Address {
        protocol: ServiceProtocol::Tcp,
        addr: addr("192.0.2.100"),
        port: 80,
    };
    let service = ServiceSpec::new(key, SchedulerKind::Rr);
    desired.add_service(service).expect("a new service");
    let forwarding = match mode {
        "fullnat" | "nat" => ForwardingMode::Nat,
        "dr" => ForwardingMode::DirectRouting,
        "tunnel" => ForwardingMode::Tunnel,
        other => panic!("no mode {other}: fullnat, nat, dr or tunnel"),
    };
    for host in 3..7 {
        let server = ServerSpec::new(addr(&format!("192.0.2.{host}")), 80, forwarding, 1);
        desired.add_server(&key, server).expect("a new server");
    }
    if mode == "fullnat" {
        let locals = (150..250).map(|host| addr(&format!("192.0.2.{host}"))).collect();
        desired.set_local_addresses(&key, locals).expect("local addresses");
    }
    Arc::new(Snapshot {
        services: Arc::new(desired.build()),
        l3: Arc::new(network().build(1)),
        workers_count,
        ..Snapshot::default()
    })
}

/// Opens `flows` connections that belong to this worker and writes their data, shuffled, to `file`.
fn open_flows(state: &mut WorkerState, flows: usize, now: Tick, file: &Path) {
    let mut data = Vec::with_capacity(flows);
    let mut verdicts = [Verdict::Punt];
    let mut process = |frame: &[u8]| {
        let mut frames = [VecFrame::new(frame)];
        path::process(state, WAN, now, &mut frames, &mut verdicts);
        verdicts[0]
    };
    for flow in 0_u32.. {
        if data.len() == flows {
            break;
        }
        let (low, port) = (flow % 16_384, 1_024 + flow / 16_384);
        let first = tcp4(&format!("203.{}.113.{}:{port} > 192.0.2.100:80", low / 256, low % 256));
        match process(&first.clone().syn().build()) {
            Verdict::HandOver(_) => continue,
            verdict => assert!(matches!(verdict, Verdict::Transmit(_)), "{verdict:?}"),
        }
        let frame = first.ack().payload(b"bench!").padded_to(60).build();
        process(&frame);
        data.push(CapturedFrame {
            time_ns: 0,
            wire_len: frame.len() as u32,
            bytes: frame,
        });
    }
    let mut random = Random::new(0x5eed);
    for last in (1..data.len()).rev() {
        data.swap(last, random.below(last as u32 + 1) as usize);
    }
    std::fs::write(file, write_pcap(&data)).expect("the temporary directory is writable");
}

/// Nanoseconds that each worker's thread was on a CPU, by worker.
fn on_cpu() -> Vec<u64> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("own threads").flatten();
    let mut workers: Vec<(String, u64)> = tasks
        .filter_map(|task| {
            let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
            let spent = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            let spent = spent.split(' ').next()?.parse().ok()?;
            name.starts_with("rte-worker").then_some((name, spent))
        })
        .collect();
    workers.sort();
    workers.into_iter().map(|(_, spent)| spent).collect()
}

fn sent(counters: &WorkerCounters) -> u64 {
    counters.devices.iter().map(|device| device.tx_packets.get()).sum()
}

/// Packets a microsecond of those workers together: the median of five windows.
fn rate(counters: &[Arc<WorkerCounters>], running: Range<usize>) -> f64 {
    let sample = || -> Vec<(u64, u64)> { on_cpu().into_iter().zip(counters.iter().map(|own| sent(own))).collect() };
    let mut windows: Vec<f64> = (0..WINDOWS)
        .map(|_| {
            let before = sample();
            std::thread::sleep(WINDOW);
            let after = sample();
            let rate = |worker: usize| {
                let (ns, packets) = (after[worker].0 - before[worker].0, after[worker].1 - before[worker].1);
                packets as f64 * 1_000.0 / ns as f64
            };
            running.clone().map(rate).sum()
        })
        .collect();
    windows.sort_by(f64::total_cmp);
    windows[WINDOWS / 2]
}

/// What is to be measured.
struct Wanted {
    flows: usize,
    mode: String,
}

impl Wanted {
    fn from_arguments() -> Self {
        let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
        let [flows, mode] = &words[..] else {
            panic!("workers FLOWS MODE");
        };
        Self {
            flows: flows.parse().expect("flows"),
            mode: mode.clone(),
        }
    }

    /// Each flow's frame has a buffer of its own while it is replayed.
    fn mbufs(&self) -> usize {
        usize::from(WORKERS) * self.flows + 65_535
    }

    fn start_eal(&self) -> Eal {
        let cpus = lvsd::dpdk::eal::available_cpus();
        let settings = EalSettings {
            hugepages: Hugepages::Require,
            memory_mb: (self.mbufs() * 2_500 / 1_048_576 + 128) as u32,
            worker_cpus: cpus.iter().rev().cycle().take(usize::from(WORKERS)).copied().collect(),
            file_prefix: "lvsd-bench".to_owned(),
            log_level: 4,
            ..EalSettings::default()
        };
        Eal::start(&settings).expect("DPDK starts")
    }

    /// The workers' states with all connections, and the data that each is to be fed, in `directory`.
    fn states(&self, counters: &[Arc<WorkerCounters>], now: Tick, directory: &Path) -> Vec<(WorkerState, PathBuf)> {
        let snapshot = snapshot(&self.mode, WORKERS);
        let all: Arc<[Arc<WorkerCounters>]> = counters.into();
        let state_of = |(worker, own): (usize, &Arc<WorkerCounters>)| {
            let settings = WorkerSettings {
                id: WorkerId(worker as u8),
                workers_count: WORKERS,
                conns4_max: self.flows + self.flows / 8 + 64,
                conns6_max: 64,
                secret: [11, 22, 33, 44],
                seed: 1,
            };
            let mut arena = Arena::in_memory(WorkerState::arena_bytes(&settings));
            let (snapshot, all, own) = (Arc::clone(&snapshot), Arc::clone(&all), Arc::clone(own));
            let mut state = WorkerState::new(settings, &mut arena, snapshot, all, own).expect("enough memory");
            let capture = directory.join(format!("{worker}.pcap"));
            open_flows(&mut state, self.flows, now, &capture);
            (state, capture)
        };
        counters.iter().enumerate().map(state_of).collect()
    }

    /// The device that replays, and counts what it is to transmit. It has a line of counters for each queue, net_null
    /// one for several.
    fn device(&self, eal: &Eal, pool: Mempool, captures: &[PathBuf]) -> (Device, Queues) {
        let replayed: String = captures
            .iter()
            .map(|file| format!(",rx_pcap={}", file.display()))
            .collect();
        let settings = DeviceSettings {
            id: WAN,
            driver: format!("net_pcap0{replayed},infinite_rx=1"),
            rx_queues: u16::from(WORKERS),
            tx_queues: u16::from(WORKERS),
            ..DeviceSettings::default()
        };
        Device::open(eal, &settings, pool).expect("a device")
    }
}

fn main() {
    let wanted = Wanted::from_arguments();
    let eal = wanted.start_eal();
    let pool_settings = PoolSettings {
        mbufs: wanted.mbufs() as u32,
        ..PoolSettings::default()
    };
    let pool = Mempool::create(&eal, &pool_settings).expect("a pool");
    let clock = Clock::start(&eal);
    let counters: Vec<_> = (0..WORKERS)
        .map(|_| Arc::new(WorkerCounters::new(SERVERS_MAX)))
        .collect();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (states, captures): (Vec<_>, Vec<_>) = wanted
        .states(&counters, clock.now(), directory.path())
        .into_iter()
        .unzip();
    let (_device, queues) = wanted.device(&eal, pool, &captures);
    let crew_settings = CrewSettings {
        counters: &counters,
        twins: &[],
        idle: IdlePolicy::Spin,
        clock,
        pool,
    };
    let crew = assemble(vec![queues], &crew_settings);
    let mut workers = crew
        .workers
        .into_iter()
        .zip(states)
        .map(|(parts, state)| Worker::new(parts, state));
    let mut launch = |number| {
        let mut worker = workers.next().expect("two workers");
        let handle = lcore::launch(&eal, number, move || worker.run()).expect("a worker");
        std::thread::sleep(SETTLING);
        handle
    };
    let stop = |number: usize, handle: LcoreHandle| {
        crew.mailboxes[number].commands.force_push(Command::Stop);
        handle.join().expect("the worker ends");
    };
    let first = launch(0);
    let first_alone = rate(&counters, 0..1);
    let second = launch(1);
    let both = rate(&counters, 0..2);
    stop(0, first);
    let second_alone = rate(&counters, 1..2);
    stop(1, second);
    let handed_over: u64 = counters.iter().map(|own| own.handed_over_out.get()).sum();
    let times = 2.0 * both / (first_alone + second_alone);
    println!(
        "{{\"mode\":\"{}\",\"flows\":{},\"first_alone\":{first_alone:.2},\"second_alone\":{second_alone:.2},\"both\":{both:.2},\
         \"times\":{times:.3},\"handed_over\":{handed_over}}}",
        wanted.mode, wanted.flows
    );
}
