//! Sends frames to a director over net_memif at a steady rate and measures the round trip of each frame.
//!
//! `cargo bench --bench latency -- SOCKET PACE [FLOWS]`: this program is the client of the memif whose server listens at
//! SOCKET. It sends PACE frames per second, or with `max` as many as get through. It prints one line of JSON: medians of
//! five windows. Each frame carries its send time, so a stall of the director shows in full. When this program misses a
//! send time itself, it skips that frame. Lost frames are counted, not timed.

use std::time::{Duration, Instant};

use lvs_core::frame::Frame;
use lvs_core::latency::LatencyHistogram;
use lvs_core::testing::udp4;
use lvs_test_support::dpdk::{open, pool};
use lvsd::dpdk::device::Queues;
use lvsd::dpdk::{Burst, Clock, Eal, EalSettings, Hugepages, Mempool, clock};

/// Offset of the send time in a frame: after Ethernet, IPv4 and UDP.
const STAMP_AT: usize = 14 + 20 + 8;
/// Frames of this program have this value after the send time.
const MARK: [u8; 4] = *b"lvlt";
const WINDOWS: usize = 5;
const WINDOW: Duration = Duration::from_millis(600);
/// Time before the first window, in which all connections are created and every frame takes its path once.
const WARM_UP: Duration = Duration::from_millis(600);

/// The result of one window.
#[derive(Clone, Copy, Default)]
struct Window {
    received_pps: u64,
    lost: u64,
    p50_ns: u64,
    p99_ns: u64,
    p999_ns: u64,
    max_ns: u64,
}

struct Generator {
    pool: Mempool,
    queues: Queues,
    templates: Vec<Vec<u8>>,
    next: usize,
    burst: Burst,
    clock: Clock,
    /// Cycles between two frames. 0 means no pause.
    gap: u64,
    due: u64,
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let [socket, pace, rest @ ..] = arguments.as_slice() else {
        // `cargo bench` without arguments calls it like this.
        println!("latency: nothing to measure; see scripts/dev bench latency");
        return;
    };
    let flows = rest
        .first()
        .map_or(1_000, |text| text.parse().expect("a number of flows"));
    let settings = EalSettings {
        hugepages: Hugepages::Never,
        memory_mb: 256,
        main_cpus: vec![0],
        worker_cpus: vec![0],
        file_prefix: "lvsd-bench-latency".to_owned(),
        ..EalSettings::default()
    };
    let eal = Eal::start(&settings).expect("DPDK starts");
    let pool = pool(&eal, 32_767);
    let driver = format!("net_memif0,role=client,id=0,socket-abstract=no,socket={socket},rsize=10");
    let (device, queues) = open(&eal, pool, 0, &driver);
    let end = Instant::now() + Duration::from_secs(20);
    while !device.link().up {
        assert!(Instant::now() < end, "nobody answers at {socket}");
        std::thread::sleep(Duration::from_millis(10));
    }
    let clock = Clock::start(&eal);
    let gap = match pace.as_str() {
        "max" => 0,
        pps => clock.hz() / pps.parse::<u64>().expect("frames a second").max(1),
    };
    let mut generator = Generator {
        pool,
        queues,
        templates: (0..flows).map(template).collect(),
        next: 0,
        burst: Burst::new(),
        clock,
        gap,
        due: clock::cycles(),
    };
    generator.window(WARM_UP);
    let windows: Vec<_> = (0..WINDOWS).map(|_| generator.window(WINDOW)).collect();
    type Read = fn(&Window) -> u64;
    let fields: [(&str, Read); 6] = [
        ("received_pps", |of| of.received_pps),
        ("lost", |of| of.lost),
        ("p50_ns", |of| of.p50_ns),
        ("p99_ns", |of| of.p99_ns),
        ("p999_ns", |of| of.p999_ns),
        ("max_ns", |of| of.max_ns),
    ];
    let fields = fields.map(|(name, read)| {
        let mut values: Vec<_> = windows.iter().map(read).collect();
        values.sort_unstable();
        format!(
            "\"{name}\":[{},{},{}]",
            values[WINDOWS / 2],
            values[0],
            values[WINDOWS - 1]
        )
    });
    println!("{{{}}}", fields.join(","));
}

/// A frame of flow number `flow`, without its send time.
fn template(flow: u32) -> Vec<u8> {
    let (client, port) = (flow % 250 + 1, 1_024 + flow / 250);
    let mut payload = [0; 18];
    payload[8..12].copy_from_slice(&MARK);
    let packet = udp4(&format!("10.0.1.{client}:{port} > 198.18.0.1:80")).payload(&payload);
    let macs = ([2, 0, 0, 0, 0xC1, 0], [0x02, 0x70, 0x63, 0x61, 0x70, 0]);
    packet.without_checksum().src_mac(macs.0).dst_mac(macs.1).build()
}

impl Generator {
    /// Sends and receives for the given time, then waits for frames that are still in transit.
    fn window(&mut self, length: Duration) -> Window {
        let histogram = LatencyHistogram::default();
        let (mut sent, mut received, mut max) = (0, 0, 0);
        let begin = clock::cycles();
        let end = begin + self.clock.cycles_of_us(length.as_micros() as u64);
        self.due = begin;
        let mut now = begin;
        while now < end {
            sent += self.send(now);
            received += self.receive(&histogram, &mut max);
            now = clock::cycles();
        }
        let late = now + self.clock.cycles_of_us(20_000);
        let in_time = received;
        while received < sent && clock::cycles() < late {
            received += self.receive(&histogram, &mut max);
        }
        let counts = histogram.read();
        let ns = |cycles: u64| (u128::from(cycles) * 1_000_000_000 / u128::from(self.clock.hz())) as u64;
        Window {
            received_pps: in_time * 1_000_000 / length.as_micros() as u64,
            lost: sent - received.min(sent),
            p50_ns: ns(counts.percentile(500)),
            p99_ns: ns(counts.percentile(990)),
            p999_ns: ns(counts.percentile(999)),
            max_ns: ns(max),
        }
    }

    /// Sends the frames that are due. Returns how many the memif took.
    fn send(&mut self, now: u64) -> u64 {
        if self.gap > 0 && now > self.due + 64 * self.gap {
            self.due = now;
        }
        while !self.burst.is_full() && (self.gap == 0 || self.due <= now) {
            let Some(mut mbuf) = self.pool.alloc() else { break };
            let template = &self.templates[self.next];
            self.next = (self.next + 1) % self.templates.len();
            assert!(mbuf.append(template.len()));
            let bytes = mbuf.bytes_mut();
            bytes.copy_from_slice(template);
            bytes[STAMP_AT..STAMP_AT + 8].copy_from_slice(&clock::cycles().to_le_bytes());
            let _ = self.burst.push(mbuf);
            self.due += self.gap;
        }
        self.queues.tx[0].transmit(&mut self.burst).packets
    }

    /// Receives returned frames. Returns how many were of this program.
    fn receive(&mut self, histogram: &LatencyHistogram, max: &mut u64) -> u64 {
        let mut burst = Burst::new();
        self.queues.rx[0].receive(&mut burst);
        let now = clock::cycles();
        let stamps = burst.as_slice().iter().filter_map(|mbuf| {
            let (stamp, rest) = mbuf.bytes().get(STAMP_AT..)?.split_first_chunk::<8>()?;
            rest.starts_with(&MARK).then(|| u64::from_le_bytes(*stamp))
        });
        let mut count = 0;
        for stamp in stamps {
            let cycles = now.saturating_sub(stamp);
            histogram.record(cycles);
            *max = cycles.max(*max);
            count += 1;
        }
        count
    }
}
