//! Whether a second worker doubles the packets: `scripts/dev bench workers`.
//!
//! `workers FLOWS MODE` runs the real loop and the real path. Each worker receives from a net_pcap device of its own, because
//! the queues of one such device share cache lines. The device replays data of FLOWS connections that belong to its worker,
//! as RSS would distribute them. In each round the first worker polls alone, then both do, then the second one alone. The
//! same is done with arithmetic that touches no memory: two free cores do twice as much of it, and a smaller ratio is the
//! machine's fault. The program prints JSON: packets per microsecond of the workers' CPU time, both ratios, and how many
//! packets were handed off. If that is not 0, the figures mean nothing.

use std::hint::black_box;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lvs_core::arena::Arena;
use lvs_core::counters::WorkerCounters;
use lvs_core::frame::vec::VecFrame;
use lvs_core::ipvs::desired::{DesiredServices, ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::l3::DeviceId;
use lvs_core::path;
use lvs_core::random::Random;
use lvs_core::single_writer::SingleWriter;
use lvs_core::snapshot::Snapshot;
use lvs_core::testing::network::{LAN, WAN, director_mac, network};
use lvs_core::testing::{CapturedFrame, tcp4, write_pcap};
use lvs_core::tick::Tick;
use lvs_core::verdict::{Verdict, WorkerId};
use lvs_core::worker_state::{Arrival, WorkerSettings, WorkerState};
use lvs_test_support::dpdk::{open, pool};
use lvs_test_support::process::thread_cpu_time;
use lvsd::dpdk::device::{Device, Queues};
use lvsd::dpdk::lcore::LcoreHandle;
use lvsd::dpdk::{Clock, Eal, EalSettings, Hugepages, Mempool, lcore};
use lvsd::worker::Worker;
use lvsd::worker::assignment::{AssignmentSettings, assemble};
use lvsd::worker::idle::IdlePolicy;
use lvsd::worker::mailbox::{Command, Mailbox};

const WORKERS: u8 = 2;
const ROUNDS: usize = 15;
/// How long one worker or both poll. It is short, so that other load on the machine affects all of them alike.
const SLICE: Duration = Duration::from_millis(100);
/// Arithmetic operations between two checks whether to stop.
const STEPS: u64 = 1_024;
const SERVERS_MAX: usize = 64;

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The traffic of one worker. It arrives and leaves by one device.
struct Line {
    device: DeviceId,
    vip: &'static str,
    /// The addresses of the real servers, without the last byte.
    net: &'static str,
    servers: Range<u8>,
}

/// By worker.
const LINES: [Line; WORKERS as usize] = [
    Line {
        device: WAN,
        vip: "192.0.2.100",
        net: "192.0.2",
        servers: 3..7,
    },
    Line {
        device: LAN,
        vip: "198.51.100.100",
        net: "198.51.100",
        servers: 11..15,
    },
];

fn snapshot(mode: &str) -> Arc<Snapshot> {
    let forwarding = match mode {
        "fullnat" | "nat" => ForwardingMode::Nat,
        "dr" => ForwardingMode::DirectRouting,
        "tunnel" => ForwardingMode::Tunnel,
        other => panic!("no mode {other}: fullnat, nat, dr or tunnel"),
    };
    let mut desired = DesiredServices::default();
    for line in LINES {
        let key = ServiceKey::Address {
            protocol: ServiceProtocol::Tcp,
            addr: addr(line.vip),
            port: 80,
        };
        let service = ServiceSpec::new(key, SchedulerKind::Rr);
        desired.add_service(service).expect("a new service");
        for host in line.servers {
            let server = ServerSpec::new(addr(&format!("{}.{host}", line.net)), 80, forwarding, 1);
            desired.add_server(&key, server).expect("a new server");
        }
        if mode == "fullnat" {
            let locals = (150..250).map(|host| addr(&format!("{}.{host}", line.net))).collect();
            desired.set_local_addresses(&key, locals).expect("local addresses");
        }
    }
    let mut l3 = network();
    l3.address(LAN, 0, "198.51.100.100/32".parse().expect("a prefix"));
    Arc::new(Snapshot {
        services: Arc::new(desired.build()),
        l3: Arc::new(l3.build(1)),
        workers_count: WORKERS,
        ..Snapshot::default()
    })
}

/// Opens `flows` connections that belong to this worker and writes their data, shuffled, to `file`.
fn open_flows(state: &mut WorkerState, line: &Line, flows: usize, now: Tick, file: &Path) {
    let mut data = Vec::with_capacity(flows);
    let mut verdicts = [Verdict::Punt];
    let mut process = |frame: &[u8]| {
        let mut frames = [VecFrame::new(frame)];
        path::process(state, Arrival::at(line.device, now), &mut frames, &mut verdicts);
        verdicts[0]
    };
    for flow in 0_u32.. {
        if data.len() == flows {
            break;
        }
        let (low, port) = (flow % 16_384, 1_024 + flow / 16_384);
        let first = tcp4(&format!("203.{}.113.{}:{port} > {}:80", low / 256, low % 256, line.vip))
            .dst_mac(director_mac(line.device));
        match process(&first.clone().syn().build()) {
            Verdict::Handoff(_) => continue,
            verdict => assert!(matches!(verdict, Verdict::Transmit(_)), "{verdict:?}"),
        }
        let frame = first.ack().payload(b"bench!").padded_to(60).build();
        process(&frame);
        data.push(CapturedFrame::of(frame));
    }
    let mut random = Random::new(0x5eed);
    for last in (1..data.len()).rev() {
        data.swap(last, random.below(last as u32 + 1) as usize);
    }
    std::fs::write(file, write_pcap(&data)).expect("the temporary directory is writable");
}

/// Work for a core until it is stopped.
trait Job: Send + Sync {
    /// Works until [`Job::stop`].
    fn run(&self);
    /// Ends [`Job::run`] soon.
    fn stop(&self);
    /// How much it has done, in its own unit.
    fn done(&self) -> u64;
}

/// Packets that a worker transmits.
struct Forwarding {
    worker: Mutex<Worker<WorkerState>>,
    mailbox: Arc<Mailbox>,
    counters: Arc<WorkerCounters>,
}

impl Job for Forwarding {
    fn run(&self) {
        self.worker.lock().expect("no other lcore runs it").run();
    }

    fn stop(&self) {
        self.mailbox.commands.force_push(Command::Stop);
    }

    fn done(&self) -> u64 {
        self.counters.devices.iter().map(|device| device.tx_packets.get()).sum()
    }
}

/// A generator of random numbers, which uses registers only.
#[derive(Default)]
struct Arithmetic {
    stopped: AtomicBool,
    done: AtomicU64,
}

impl Job for Arithmetic {
    fn run(&self) {
        let mut number = 1_u64;
        let mut done = 0;
        while !self.stopped.swap(false, Ordering::Relaxed) {
            for _ in 0..STEPS {
                number ^= number << 13;
                number ^= number >> 7;
                number ^= number << 17;
            }
            done += STEPS;
        }
        black_box(number);
        self.done.fetch_add(done, Ordering::Relaxed);
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

/// A job on its own core.
struct Launched<'job> {
    job: &'job dyn Job,
    done_before: u64,
    /// Nanoseconds of CPU time that it used, after its end.
    spent: Arc<AtomicU64>,
    handle: LcoreHandle,
}

impl<'job> Launched<'job> {
    fn on(eal: &Eal, core: usize, job: &'job Arc<dyn Job>) -> Self {
        let spent = Arc::new(AtomicU64::new(0));
        let done_before = job.done();
        let (task, spent_there) = (Arc::clone(job), Arc::clone(&spent));
        let handle = lcore::launch(eal, core, move || {
            let begin = thread_cpu_time();
            task.run();
            let spent = thread_cpu_time() - begin;
            spent_there.store(spent.as_nanos() as u64, Ordering::Release);
        });
        Self {
            job: &**job,
            done_before,
            spent,
            handle: handle.expect("an idle core"),
        }
    }

    /// How much it did per microsecond of its CPU time.
    fn rate(self) -> f64 {
        self.handle.join().expect("the core comes back");
        (self.job.done() - self.done_before) as f64 * 1_000.0 / self.spent.load(Ordering::Acquire) as f64
    }
}

/// How much these cores together did per microsecond of their CPU time, while only they worked.
fn rate(eal: &Eal, jobs: &[(usize, &Arc<dyn Job>)]) -> f64 {
    let launched: Vec<_> = jobs.iter().map(|(core, job)| Launched::on(eal, *core, job)).collect();
    std::thread::sleep(SLICE);
    launched.iter().for_each(|launched| launched.job.stop());
    launched.into_iter().map(Launched::rate).sum()
}

/// The result of one round with one kind of work.
struct Round {
    /// The mean of both cores, each measured while the other one slept.
    alone: f64,
    both: f64,
}

impl Round {
    fn of(eal: &Eal, jobs: &[Arc<dyn Job>; 2]) -> Self {
        let [first, second] = jobs;
        let alone = rate(eal, &[(0, first)]);
        let both = rate(eal, &[(0, first), (1, second)]);
        let alone = (alone + rate(eal, &[(1, second)])) / 2.0;
        Self { alone, both }
    }

    fn times(&self) -> f64 {
        self.both / self.alone
    }
}

/// Median, minimum and maximum as JSON.
fn spread(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> String {
    let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    format!(
        "[{:.3},{:.3},{:.3}]",
        figures[figures.len() / 2],
        figures[0],
        figures[figures.len() - 1]
    )
}

/// The parameters of a measurement.
struct Request {
    flows: usize,
    mode: String,
}

impl Request {
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

    /// Each flow's frame needs its own buffer while it is replayed.
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

    /// Creates the workers' states with all connections, and each worker's capture in `directory`.
    fn states(&self, counters: &[Arc<WorkerCounters>], now: Tick, directory: &Path) -> Vec<(WorkerState, PathBuf)> {
        let snapshot = snapshot(&self.mode);
        let all: Arc<[Arc<WorkerCounters>]> = counters.into();
        let state_of = |(worker, own): (usize, &Arc<WorkerCounters>)| {
            let settings = WorkerSettings {
                id: WorkerId(worker as u8),
                workers_count: WORKERS,
                conns4_max: self.flows + self.flows / 8 + 64,
                conns6_max: 64,
                local_port_rest_ms: 60_000,
                secret: [11, 22, 33, 44],
                seed: 1,
            };
            let mut arena = Arena::in_memory(WorkerState::arena_bytes(&settings));
            let (snapshot, all, own) = (Arc::clone(&snapshot), Arc::clone(&all), Arc::clone(own));
            let mut state = WorkerState::new(settings, &mut arena, snapshot, all, own).expect("enough memory");
            let capture = directory.join(format!("{worker}.pcap"));
            open_flows(&mut state, &LINES[worker], self.flows, now, &capture);
            (state, capture)
        };
        counters.iter().enumerate().map(state_of).collect()
    }

    /// The device that replays a capture for one worker and counts the frames that it transmits.
    fn device(&self, eal: &Eal, pool: Mempool, worker: usize, capture: &Path) -> (Device, Queues) {
        let driver = format!("net_pcap{worker},rx_pcap={},infinite_rx=1", capture.display());
        open(eal, pool, LINES[worker].device.0, &driver)
    }
}

fn main() {
    let wanted = Request::from_arguments();
    let eal = wanted.start_eal();
    let pool = pool(&eal, wanted.mbufs() as u32);
    let clock = Clock::start(&eal);
    let counters: Vec<_> = (0..WORKERS)
        .map(|_| Arc::new(WorkerCounters::new(SERVERS_MAX)))
        .collect();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (states, captures): (Vec<_>, Vec<_>) = wanted
        .states(&counters, clock.now(), directory.path())
        .into_iter()
        .unzip();
    let (_devices, queues): (Vec<_>, Vec<_>) = captures
        .iter()
        .enumerate()
        .map(|(worker, capture)| wanted.device(&eal, pool, worker, capture))
        .unzip();
    let assignment_settings = AssignmentSettings {
        counters: &counters,
        twins: &[],
        idle: IdlePolicy::Spin,
        clock,
        pool,
    };
    let assignment = assemble(queues, &assignment_settings);
    let forwarding: Vec<Arc<dyn Job>> = assignment
        .workers
        .into_iter()
        .zip(states)
        .zip(assignment.mailboxes.iter().zip(&counters))
        .map(|((resources, state), (mailbox, own))| -> Arc<dyn Job> {
            Arc::new(Forwarding {
                worker: Mutex::new(Worker::new(resources, state)),
                mailbox: Arc::clone(mailbox),
                counters: Arc::clone(own),
            })
        })
        .collect();
    let Ok(forwarding) = <[_; 2]>::try_from(forwarding) else {
        panic!("two workers");
    };
    let arithmetic: [Arc<dyn Job>; 2] = std::array::from_fn(|_| -> Arc<dyn Job> { Arc::new(Arithmetic::default()) });
    // The first round has cold caches and untouched pages.
    Round::of(&eal, &forwarding);
    let (packets, machine): (Vec<_>, Vec<_>) = (0..ROUNDS)
        .map(|_| (Round::of(&eal, &forwarding), Round::of(&eal, &arithmetic)))
        .unzip();
    let handed_over: u64 = counters.iter().map(|own| own.handoff_out.get()).sum();
    println!(
        "{{\"mode\":\"{}\",\"flows\":{},\"alone\":{},\"both\":{},\"times\":{},\"machine\":{},\"handed_over\":{handed_over}}}",
        wanted.mode,
        wanted.flows,
        spread(&packets, |round| round.alone),
        spread(&packets, |round| round.both),
        spread(&packets, Round::times),
        spread(&machine, Round::times),
    );
}
