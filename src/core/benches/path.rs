//! What the path alone costs a packet: `cargo bench -p lvs-core --bench path`.
//!
//! There is no device: the bench copies bursts of 32 frames into buffers laid out like mbufs and calls `path::process`.
//! It measures the CPU time of this thread, subtracts the time of copying, and prints the median of five rounds.
//!
//! `path passes [FLOWS] [MODE]`: the longest pass of a worker's loop while connections come and go.
//! `path [new] [FLOWS] [MODE] [PROTOCOL] [DIRECTION] [FAMILY] [N-workers]`: packets of established connections, with
//! `new` first packets; with `N-workers` at the first of so many workers, which owns all the connections.
//! `path count …` runs `measured` only as often as it says, for `valgrind --tool=callgrind
//! --toggle-collect='*measured*'`: no other program on the machine disturbs a count of instructions.
#![allow(unsafe_code, reason = "buffers without bounds checks, as mbufs are")]

#[path = "path/passes.rs"]
mod passes;

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lvs_core::arena::Arena;
use lvs_core::counters::WorkerCounters;
use lvs_core::frame::Frame;
use lvs_core::ipvs::desired::{DesiredServices, ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::l3::DeviceId;
use lvs_core::limits::BURST_MAX;
use lvs_core::path;
use lvs_core::random::Random;
use lvs_core::snapshot::Snapshot;
use lvs_core::testing::network::{LAN, WAN, director_mac, network};
use lvs_core::testing::{PacketBuilder, tcp4, tcp6, udp4, udp6};
use lvs_core::tick::Tick;
use lvs_core::verdict::{Verdict, WorkerId};
use lvs_core::worker_state::{Arrival, WorkerSettings, WorkerState};
use nix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 5;
/// Flows whose instructions are counted: enough for every shape of a bucket, few enough for valgrind.
const COUNTED_FLOWS: u32 = 1_024;
/// Bursts whose instructions are counted.
const COUNTED_BURSTS: usize = 256;
const HEADROOM: usize = 128;
const NOW: Tick = Tick(1_000);

/// A buffer as DPDK makes them: its bookkeeping on one line, the frame behind some headroom.
#[repr(C, align(64))]
struct Buffer {
    start: u16,
    len: u16,
    bookkeeping: [u8; 124],
    space: [u8; 384],
}

impl Frame for Buffer {
    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: every function here keeps start + len within the buffer.
        unsafe {
            self.space
                .get_unchecked(usize::from(self.start)..usize::from(self.start) + usize::from(self.len))
        }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        let (start, len) = (usize::from(self.start), usize::from(self.len));
        // SAFETY: as above.
        unsafe { self.space.get_unchecked_mut(start..start + len) }
    }

    #[inline]
    fn prepend(&mut self, count: usize) -> bool {
        if count > usize::from(self.start) {
            return false;
        }
        self.start -= count as u16;
        self.len += count as u16;
        true
    }

    #[inline]
    fn trim_front(&mut self, count: usize) -> bool {
        if count > usize::from(self.len) {
            return false;
        }
        self.start += count as u16;
        self.len -= count as u16;
        true
    }

    #[inline]
    fn append(&mut self, count: usize) -> bool {
        if usize::from(self.start) + usize::from(self.len) + count > self.space.len() {
            return false;
        }
        self.len += count as u16;
        true
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        if len < usize::from(self.len) {
            self.len = len as u16;
        }
    }
}

impl Buffer {
    fn fill(&mut self, frame: &[u8]) {
        (self.start, self.len) = (HEADROOM as u16, frame.len() as u16);
        self.space[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
    }
}

/// What is measured.
#[derive(Clone, Copy)]
struct Scenario {
    mode: ForwardingMode,
    protocol: ServiceProtocol,
    direction: &'static str,
    is_v6: bool,
    workers_count: u8,
}

impl Scenario {
    fn name(self) -> String {
        format!(
            "{} {} {} {}",
            format!("{:?}", self.mode).to_lowercase(),
            format!("{:?}", self.protocol).to_lowercase(),
            self.direction,
            if self.is_v6 { "v6" } else { "v4" }
        )
    }

    /// All that make sense: only in NAT and FULLNAT does the director see replies.
    fn all(workers_count: u8) -> Vec<Self> {
        let modes = [
            ForwardingMode::FullNat,
            ForwardingMode::Nat,
            ForwardingMode::DirectRouting,
            ForwardingMode::Tunnel,
        ];
        let mut all = Vec::new();
        for is_v6 in [false, true] {
            for protocol in [ServiceProtocol::Tcp, ServiceProtocol::Udp] {
                for mode in modes {
                    for direction in ["in", "out"] {
                        if direction == "in" || mode.sees_replies() {
                            all.push(Self {
                                mode,
                                protocol,
                                direction,
                                is_v6,
                                workers_count,
                            });
                        }
                    }
                }
            }
        }
        all
    }

    fn packet(self, from: &str, from_port: u16, to: &str, to_port: u16) -> PacketBuilder {
        let ends = if self.is_v6 {
            format!("[{from}]:{from_port} > [{to}]:{to_port}")
        } else {
            format!("{from}:{from_port} > {to}:{to_port}")
        };
        match (self.protocol, self.is_v6) {
            (ServiceProtocol::Udp, false) => udp4(&ends),
            (ServiceProtocol::Udp, true) => udp6(&ends),
            (_, false) => tcp4(&ends),
            (_, true) => tcp6(&ends),
        }
    }

    fn first_packet(self, flow: u32) -> PacketBuilder {
        let client = if self.is_v6 {
            format!("2001:db8:c::{:x}", flow % 16_384)
        } else {
            format!("203.{}.113.{}", flow / 256 % 64, flow % 256)
        };
        self.packet(&client, (1_024 + flow / 16_384) as u16, self.vip(), 80)
    }

    fn vip(self) -> &'static str {
        if self.is_v6 { "2001:db8:a::100" } else { "192.0.2.100" }
    }
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// One worker and the frames of its established flows, shuffled.
struct Stand {
    worker: WorkerState,
    device: DeviceId,
    frames: Vec<[u8; 128]>,
    frame_len: usize,
    now: Tick,
    buffers: Vec<Buffer>,
    verdicts: [Verdict; BURST_MAX],
}

fn worker(scenario: Scenario, flows: u32) -> WorkerState {
    let mut desired = DesiredServices::default();
    let key = ServiceKey::Address {
        protocol: scenario.protocol,
        addr: addr(scenario.vip()),
        port: 80,
    };
    desired
        .add_service(ServiceSpec::new(key, SchedulerKind::Rr))
        .expect("a new service");
    let mode = match scenario.mode {
        ForwardingMode::FullNat => ForwardingMode::Nat,
        other => other,
    };
    for host in 11..15 {
        let server = if scenario.is_v6 {
            format!("2001:db8:b::{host}")
        } else {
            format!("198.51.100.{host}")
        };
        let server = ServerSpec::new(addr(&server), 80, mode, 1);
        desired.add_server(&key, server).expect("a new server");
    }
    if scenario.mode == ForwardingMode::FullNat {
        let locals = (200..224).map(|host| {
            addr(&if scenario.is_v6 {
                format!("2001:db8:b::{host}")
            } else {
                format!("198.51.100.{host}")
            })
        });
        desired
            .set_local_addresses(&key, locals.collect())
            .expect("local addresses");
    }
    let snapshot = Arc::new(Snapshot {
        services: Arc::new(desired.build()),
        l3: Arc::new(network().build(1)),
        workers_count: scenario.workers_count,
        ..Snapshot::default()
    });
    let counters: Arc<[_]> = (0..scenario.workers_count)
        .map(|_| Arc::new(WorkerCounters::new(1_024)))
        .collect();
    let settings = WorkerSettings {
        id: WorkerId(0),
        workers_count: scenario.workers_count,
        conns4_max: flows as usize + flows as usize / 8 + 64,
        conns6_max: flows as usize + flows as usize / 8 + 64,
        local_port_rest_ms: 60_000,
        secret: [11, 22, 33, 44],
        seed: 1,
    };
    let mut arena = Arena::in_memory(WorkerState::arena_bytes(&settings));
    let own = Arc::clone(&counters[0]);
    WorkerState::new(settings, &mut arena, snapshot, counters, own).expect("as much memory as needed")
}

impl Stand {
    fn empty(scenario: Scenario, flows: u32) -> Self {
        Self {
            worker: worker(scenario, flows),
            device: WAN,
            frames: Vec::with_capacity(flows as usize),
            frame_len: 0,
            now: NOW,
            buffers: (0..8 * BURST_MAX)
                .map(|_| Buffer {
                    start: 0,
                    len: 0,
                    bookkeeping: [0; 124],
                    space: [0; 384],
                })
                .collect(),
            verdicts: [Verdict::Punt; BURST_MAX],
        }
    }

    /// With established flows.
    fn new(scenario: Scenario, flows: u32) -> Self {
        let mut stand = Self::empty(scenario, flows);
        let mut replies = Vec::new();
        for flow in 0.. {
            if stand.frames.len() == flows as usize {
                break;
            }
            let first = scenario.first_packet(flow);
            let data = first.clone().ack().payload(b"bench!").padded_to(60).build();
            if !stand.open(&first.syn().dst_mac(director_mac(WAN)).build()) {
                continue;
            }
            stand.push(&data);
            if scenario.mode.sees_replies() {
                replies.push(stand.reply_of_last(scenario));
                stand.device = LAN;
                assert!(stand.open(&replies[replies.len() - 1]), "replies come to this worker");
                stand.device = WAN;
            }
            assert!(stand.open(&data), "so does data");
        }
        if scenario.direction == "out" {
            stand.frames.clear();
            stand.device = LAN;
            replies.iter().for_each(|reply| stand.push(reply));
        }
        stand.shuffle();
        stand
    }

    /// With the first packets of flows that do not exist yet.
    fn before(scenario: Scenario, flows: u32) -> Self {
        let mut stand = Self::empty(scenario, flows);
        for flow in 0..flows {
            let first = scenario.first_packet(flow).syn().padded_to(60);
            stand.push(&first.dst_mac(director_mac(WAN)).build());
        }
        stand.shuffle();
        stand
    }

    fn shuffle(&mut self) {
        let mut random = Random::new(0x5eed);
        for last in (1..self.frames.len()).rev() {
            self.frames.swap(last, random.below(last as u32 + 1) as usize);
        }
    }

    /// Opens all flows, then lets them expire. Returns the nanoseconds a flow of both, without the time of copying.
    fn opened(&mut self) -> (f64, f64) {
        let bursts = self.frames.len() / BURST_MAX;
        let flows = (bursts * BURST_MAX) as f64;
        let (copying, both) = self.run(bursts);
        let opening = (both - copying).as_nanos() as f64 / flows;
        self.now = self.now.plus_ms(400_000);
        let start = on_cpu();
        while self.worker.conns_count() != (0, 0) {
            path::housekeeping::expire(&mut self.worker, self.now);
        }
        (opening, (on_cpu() - start).as_nanos() as f64 / flows)
    }

    fn push(&mut self, frame: &[u8]) {
        let mut padded = [0; 128];
        padded[..frame.len()].copy_from_slice(frame);
        self.frame_len = frame.len();
        self.frames.push(padded);
    }

    /// Sends one frame through the path and returns whether this worker owns its connection. The first buffer then
    /// holds the frame as the path left it.
    fn open(&mut self, frame: &[u8]) -> bool {
        self.buffers[0].fill(frame);
        path::process(
            &mut self.worker,
            Arrival::at(self.device, self.now),
            &mut self.buffers[..1],
            &mut self.verdicts[..1],
        );
        match self.verdicts[0] {
            Verdict::Transmit(_) => true,
            Verdict::Handoff(_) => false,
            verdict => panic!("{verdict:?}"),
        }
    }

    /// What the real server answers to the frame in the first buffer.
    fn reply_of_last(&self, scenario: Scenario) -> Vec<u8> {
        let frame = self.buffers[0].bytes();
        let (at, len) = if scenario.is_v6 { (22, 16) } else { (26, 4) };
        let end = |from: usize, port: usize| {
            let bytes = &frame[from..from + len];
            let text = match <[u8; 4]>::try_from(bytes) {
                Ok(v4) => IpAddr::from(v4).to_string(),
                Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).expect("16 bytes")).to_string(),
            };
            (text, u16::from_be_bytes([frame[port], frame[port + 1]]))
        };
        let ports = at + 2 * len;
        let (local, local_port) = end(at, ports);
        let (real, real_port) = end(at + len, ports + 2);
        let reply = scenario.packet(&real, real_port, &local, local_port);
        let reply = reply.ack().payload(b"bench!").padded_to(60);
        reply.dst_mac(director_mac(LAN)).build()
    }

    fn fill(&mut self, burst: usize) {
        let bursts = self.buffers.len() / BURST_MAX;
        let frames = self.frames.len() / BURST_MAX;
        let buffers = &mut self.buffers[burst % bursts * BURST_MAX..][..BURST_MAX];
        let frames = &self.frames[burst % frames * BURST_MAX..][..BURST_MAX];
        for (buffer, frame) in buffers.iter_mut().zip(frames) {
            buffer.fill(&frame[..self.frame_len]);
        }
    }

    /// What valgrind counts. It is never inlined, because valgrind finds it by its name.
    #[inline(never)]
    fn measured(&mut self, burst: usize) {
        let bursts = self.buffers.len() / BURST_MAX;
        let buffers = &mut self.buffers[burst % bursts * BURST_MAX..][..BURST_MAX];
        path::process(
            &mut self.worker,
            Arrival::at(self.device, self.now),
            buffers,
            &mut self.verdicts,
        );
    }

    /// Sends the bursts. Returns the time of copying alone, and the time of copying and the path.
    fn run(&mut self, bursts: usize) -> (Duration, Duration) {
        let start = on_cpu();
        for burst in 0..bursts {
            self.fill(burst);
            black_box(&mut self.buffers);
        }
        let middle = on_cpu();
        for burst in 0..bursts {
            self.fill(burst);
            self.measured(burst);
        }
        let end = on_cpu();
        self.assert_sent();
        (middle - start, end - middle)
    }

    fn assert_sent(&self) {
        let sent = |verdict: &Verdict| matches!(verdict, Verdict::Transmit(_));
        assert!(self.verdicts.iter().all(sent), "{:?}", self.verdicts);
    }

    /// Nanoseconds a packet: of path and copying, and of copying alone.
    fn timed(&mut self, bursts: usize) -> (f64, f64) {
        let packets = (bursts * BURST_MAX) as f64;
        let (copying, both) = self.run(bursts);
        let copying = copying.as_nanos() as f64 / packets;
        (both.as_nanos() as f64 / packets - copying, copying)
    }
}

/// The CPU time of this thread so far.
fn on_cpu() -> Duration {
    let spent = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a thread has such a clock");
    Duration::from(spent)
}

fn time(scenario: Scenario, flows: u32) {
    let mut stand = Stand::new(scenario, flows);
    stand.timed(4_000);
    let mut rounds: Vec<(f64, f64)> = (0..ROUNDS).map(|_| stand.timed(20_000)).collect();
    rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (least, most) = (rounds[0].0, rounds[ROUNDS - 1].0);
    let (median, copying) = rounds[ROUNDS / 2];
    println!(
        "{:<28} {flows:>8}  {median:6.1} ns ({least:.1}–{most:.1}), copying {copying:.1}",
        scenario.name()
    );
}

fn open(scenario: Scenario, flows: u32) {
    let mut stand = Stand::before(scenario, flows);
    stand.opened();
    let mut rounds: Vec<_> = (0..ROUNDS).map(|_| stand.opened()).collect();
    rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (opening, expiring) = rounds[ROUNDS / 2];
    let (least, most) = (rounds[0].0, rounds[ROUNDS - 1].0);
    println!(
        "{:<28} {flows:>8}  {opening:6.1} ns to open ({least:.1}–{most:.1}), {expiring:.1} to expire",
        scenario.name()
    );
}

fn count(scenario: Scenario, is_new: bool) {
    let mut stand = if is_new {
        Stand::before(scenario, (COUNTED_BURSTS * BURST_MAX) as u32)
    } else {
        Stand::new(scenario, COUNTED_FLOWS)
    };
    for burst in 0..COUNTED_BURSTS {
        stand.fill(burst);
        stand.measured(burst);
    }
    stand.assert_sent();
    println!("{} packets", COUNTED_BURSTS * BURST_MAX);
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let is_count = words.first().is_some_and(|word| word == "count");
    let flows = words.iter().find_map(|word| word.parse().ok()).unwrap_or(1_024);
    let is_new = words.iter().any(|word| word == "new");
    let is_passes = words.iter().any(|word| word == "passes");
    let workers_of = |word: &String| word.strip_suffix("-workers").and_then(|count| count.parse().ok());
    let workers_count = words.iter().find_map(workers_of).unwrap_or(1);
    let is_scenario = |word: &&String| {
        let is_known = ["count", "new", "passes"].contains(&word.as_str()) || workers_of(word).is_some();
        !is_known && word.parse::<u32>().is_err()
    };
    let wanted: Vec<&String> = words.iter().filter(is_scenario).collect();
    for scenario in Scenario::all(workers_count) {
        let name = scenario.name();
        if wanted
            .iter()
            .all(|word| name.split(' ').any(|part| part == word.as_str()))
        {
            if is_passes {
                // Replies begin nothing, and with UDP's timeout no connection would end in a round.
                if scenario.direction == "in" && scenario.protocol == ServiceProtocol::Tcp {
                    passes::report(scenario, flows);
                }
            } else if is_count {
                count(scenario, is_new);
            } else if is_new {
                open(scenario, flows);
            } else {
                time(scenario, flows);
            }
        }
    }
}
