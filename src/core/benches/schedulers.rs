//! What a pick costs: nanoseconds for a new connection, for every scheduler, with 10, 100 and 1,000 real servers.
//!
//! One worker picks as `path/schedule.rs` does, with loads in its own counters. Each pick adds a connection, which ends
//! after [`KEPT`] others. The figures are medians of [`WINDOWS`] windows.
//! `scripts/dev bench schedulers [--json FILE]`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use lvs_core::counters::WorkerCounters;
use lvs_core::ipvs::desired::{DesiredServices, ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::load_board::LoadBoard;
use lvs_core::ipvs::real_server::RealServerId;
use lvs_core::ipvs::scheduler::{FlowHint, Loads, Localities, Pick, SchedulerKind, SchedulerState, adopt, pick};
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::random::Random;
use lvs_core::single_writer::SingleWriter;
use lvs_core::tick::Tick;

const SERVERS: [u32; 3] = [10, 100, 1_000];
/// Windows of each figure; the median counts.
const WINDOWS: usize = 5;
const WINDOW: Duration = Duration::from_millis(20);
/// Connections that exist at the same time.
const KEPT: usize = 4_096;

/// The loads of the only worker.
struct Alone<'a> {
    own: &'a WorkerCounters,
    board: &'a LoadBoard,
}

impl Loads for Alone<'_> {
    #[inline]
    fn active(&self, id: RealServerId) -> u32 {
        self.own.server(id).active.get()
    }

    #[inline]
    fn inactive(&self, id: RealServerId) -> u32 {
        self.own.server(id).inactive.get()
    }

    #[inline]
    fn overloaded(&self, id: RealServerId) -> bool {
        self.own.server(id).overloaded.get() != 0
    }

    fn traffic(&self, id: RealServerId) -> u64 {
        self.board.traffic(id)
    }

    fn assigned(&self, id: RealServerId) -> u64 {
        u64::from(self.own.measured(id).assigned.get())
    }

    fn response_us(&self, id: RealServerId) -> u64 {
        u64::from(self.board.response_us(id))
    }
}

/// Nanoseconds a pick.
fn measure(kind: SchedulerKind, servers: u32) -> f64 {
    let key = ServiceKey::Address {
        protocol: ServiceProtocol::Tcp,
        addr: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100)),
        port: 80,
    };
    let mut desired = DesiredServices::default();
    desired.add_service(ServiceSpec::new(key, kind)).expect("a new service");
    for number in 0..servers {
        let addr = IpAddr::V4(Ipv4Addr::from(0x0A01_0001 + number));
        let server = ServerSpec::new(addr, 80, ForwardingMode::Nat, 1 + number % 4);
        desired.add_server(&key, server).expect("a new server");
    }
    let table = desired.build();
    let service = &table.services()[0];
    let own = WorkerCounters::new(servers as usize);
    let board = LoadBoard::new(servers as usize, 1);
    let mut state = SchedulerState::seeded(1);
    adopt(&mut state, None, service);
    let mut localities = Localities::new();
    let mut random = Random::new(3);
    let mut kept = vec![None; KEPT];
    let mut at = 0;
    let mut windows: Vec<f64> = (0..=WINDOWS)
        .map(|_| {
            let (mut picks, begun) = (0u32, Instant::now());
            while begun.elapsed() < WINDOW {
                for _ in 0..64 {
                    let client = random.next_u64();
                    let flow = FlowHint {
                        src_fold: client as u32,
                        dst_fold: 0xC000_0264,
                        dst_words: (0xC000_0264 + (client >> 60), 0),
                        src_port: (client >> 32) as u16,
                        dst_port: 80,
                    };
                    let loads = Alone {
                        own: &own,
                        board: &board,
                    };
                    let picked = black_box(pick(&mut Pick {
                        service,
                        state: &mut state,
                        flow,
                        loads: &loads,
                        localities: &mut localities,
                        now: Tick(0),
                        lblc_lifetime_ms: 86_400_000,
                        lblcr_lifetime_ms: 86_400_000,
                    }));
                    let id = picked.map(|index| service.servers[index].id);
                    if let Some(id) = id {
                        own.server(id).bind(true);
                    }
                    if let Some(ended) = std::mem::replace(&mut kept[at], id) {
                        own.server(ended).unbind(true);
                    }
                    at = (at + 1) % KEPT;
                }
                picks += 64;
            }
            begun.elapsed().as_nanos() as f64 / f64::from(picks)
        })
        .skip(1)
        .collect();
    windows.sort_by(f64::total_cmp);
    windows[WINDOWS / 2]
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut json_file = None;
    while let Some(argument) = arguments.next() {
        if argument == "--json" {
            json_file = arguments.next();
        }
    }
    println!("nanoseconds for a new connection, medians of {WINDOWS}");
    println!("{:<10} {:>8} {:>8} {:>8}", "scheduler", "10", "100", "1,000");
    let mut figures = Vec::new();
    for kind in SchedulerKind::ALL {
        let of = SERVERS.map(|servers| measure(*kind, servers));
        println!("{:<10} {:>8.1} {:>8.1} {:>8.1}", kind.name(), of[0], of[1], of[2]);
        let each = SERVERS
            .iter()
            .zip(of)
            .map(|(servers, ns)| format!("\"{servers}\": {ns:.1}"));
        figures.push(format!(
            "  \"{}\": {{{}}}",
            kind.name(),
            each.collect::<Vec<_>>().join(", ")
        ));
    }
    if let Some(file) = json_file {
        let text = format!("{{\n{}\n}}\n", figures.join(",\n"));
        std::fs::write(&file, text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}
