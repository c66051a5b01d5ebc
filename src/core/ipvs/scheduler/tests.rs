//! Picks compared with those of a real 6.1 kernel (each vector names its recording) and with known vectors, by kinds of
//! schedulers. This file has the helpers and the tests of all schedulers.
//!
//! Server N has the address 10.1.0.N. Commands are those of `ipvsadm`: `a N weight`, `e N weight`, `d N`.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::ipvs::desired::{DesiredServices, ServerSpec, ServiceSpec};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::service::{ServiceKey, ServiceProtocol};
use crate::ipvs::service_table::ServiceTable;
use crate::tick::Tick;

mod hashing;
mod least_connection;
mod measured;
mod round_robin;

#[derive(Default)]
struct FixedLoads {
    active: Vec<u32>,
    inactive: Vec<u32>,
    overloaded: Vec<bool>,
    traffic: Vec<u64>,
    assigned: Vec<u32>,
    response_us: Vec<u64>,
}

impl FixedLoads {
    fn raise(loads: &mut Vec<u32>, id: RealServerId) {
        let index = id.0 as usize;
        loads.resize(loads.len().max(index + 1), 0);
        loads[index] += 1;
    }
}

impl Loads for FixedLoads {
    fn active(&self, id: RealServerId) -> u32 {
        self.active.get(id.0 as usize).copied().unwrap_or(0)
    }

    fn inactive(&self, id: RealServerId) -> u32 {
        self.inactive.get(id.0 as usize).copied().unwrap_or(0)
    }

    fn overloaded(&self, id: RealServerId) -> bool {
        self.overloaded.get(id.0 as usize).copied().unwrap_or(false)
    }

    fn traffic(&self, id: RealServerId) -> u64 {
        self.traffic.get(id.0 as usize).copied().unwrap_or(0)
    }

    fn assigned(&self, id: RealServerId) -> u64 {
        u64::from(self.assigned.get(id.0 as usize).copied().unwrap_or(0))
    }

    fn response_us(&self, id: RealServerId) -> u64 {
        self.response_us.get(id.0 as usize).copied().unwrap_or(1)
    }
}

/// One pick. No time passes in these tests.
fn pick_of(
    service: &VirtualService,
    state: &mut SchedulerState,
    flow: FlowHint,
    loads: &FixedLoads,
    localities: &mut Localities,
) -> Option<usize> {
    pick(&mut Pick {
        service,
        state,
        flow,
        loads,
        localities,
        now: Tick(0),
        lblc_lifetime_ms: 86_400_000,
        lblcr_lifetime_ms: 86_400_000,
    })
}

/// A director with one service and one worker that adopts every change at once.
struct Bench {
    desired: DesiredServices,
    table: ServiceTable,
    state: SchedulerState,
    localities: Localities,
    loads: FixedLoads,
    /// Whether a picked server's connection stays, in an active state.
    opens: bool,
    /// The same in an inactive state.
    lingers: bool,
}

const KEY: ServiceKey = ServiceKey::Address {
    protocol: ServiceProtocol::Tcp,
    addr: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100)),
    port: 80,
};

fn addr(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 1, 0, number))
}

impl Bench {
    fn new(scheduler: SchedulerKind, commands: &str) -> Self {
        Self::with_flags(scheduler, SchedulerFlags(0), commands)
    }

    fn with_flags(scheduler: SchedulerKind, scheduler_flags: SchedulerFlags, commands: &str) -> Self {
        let mut desired = DesiredServices::new(Overhead::Current);
        desired
            .add_service(ServiceSpec {
                key: KEY,
                scheduler,
                scheduler_flags,
                ..ServiceSpec::new(KEY, scheduler)
            })
            .unwrap();
        let mut bench = Self {
            table: desired.build(),
            desired,
            state: SchedulerState::default(),
            localities: Localities::new(),
            loads: FixedLoads::default(),
            opens: false,
            lingers: false,
        };
        adopt(&mut bench.state, None, &bench.table.services()[0]);
        bench.run(commands);
        bench
    }

    /// Every command is published and adopted on its own, as if an operator typed it.
    fn run(&mut self, commands: &str) {
        for command in commands.split(", ") {
            let words: Vec<&str> = command.split(' ').collect();
            let number = words[1].parse().unwrap();
            let spec = |weight: &str| ServerSpec::new(addr(number), 80, ForwardingMode::Nat, weight.parse().unwrap());
            match words[0] {
                "a" => assert!(self.desired.add_server(&KEY, spec(words[2])).is_ok()),
                "e" => self.desired.edit_server(&KEY, spec(words[2])).unwrap(),
                "d" => self.desired.delete_server(&KEY, addr(number), 80).unwrap(),
                other => panic!("{other}"),
            }
            let new = self.desired.build();
            adopt(&mut self.state, self.table.services().first(), &new.services()[0]);
            self.table = new;
        }
    }

    fn edit(&mut self, scheduler: SchedulerKind) {
        self.desired.edit_service(ServiceSpec::new(KEY, scheduler)).unwrap();
        let new = self.desired.build();
        adopt(&mut self.state, self.table.services().first(), &new.services()[0]);
        self.table = new;
    }

    /// The number of the server picked for a flow, `None` for a refusal.
    fn pick_for(&mut self, flow: FlowHint) -> Option<u8> {
        let service = &self.table.services()[0];
        let index = pick_of(service, &mut self.state, flow, &self.loads, &mut self.localities)?;
        let server = &service.servers[index];
        if self.opens {
            FixedLoads::raise(&mut self.loads.active, server.id);
        }
        if service.scheduler.is_measured() {
            FixedLoads::raise(&mut self.loads.assigned, server.id);
        }
        if self.lingers {
            FixedLoads::raise(&mut self.loads.inactive, server.id);
        }
        match server.addr {
            IpAddr::V4(v4) => Some(v4.octets()[3]),
            IpAddr::V6(_) => None,
        }
    }

    /// The picks for these flows as text, `x` for a refusal.
    fn picks(&mut self, count: usize) -> String {
        self.picks_for((0..count).map(|_| FlowHint::default()))
    }

    /// One pick for each flow as text, `x` for a refusal.
    fn picks_for(&mut self, flows: impl Iterator<Item = FlowHint>) -> String {
        flows
            .map(|flow| self.pick_for(flow).map_or("x".into(), |number| number.to_string()))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// One pick for each client 203.0.0.1 onwards.
    fn clients(&mut self, count: u32) -> String {
        self.picks_for((1..=count).map(|client| FlowHint {
            src_fold: 0xCB00_0000 + client,
            ..FlowHint::default()
        }))
    }

    /// One pick for each of client 10.0.0.2's ports 30000 onwards.
    fn ports(&mut self, count: u16) -> String {
        self.picks_for((0..count).map(|port| FlowHint {
            src_fold: 0x0A00_0002,
            src_port: 30_000 + port,
            ..FlowHint::default()
        }))
    }

    fn set_overloaded(&mut self, number: u8, overloaded: bool) {
        let servers = self.desired.listing(&KEY).unwrap().servers();
        let id = servers
            .into_iter()
            .find(|server| server.spec.addr == addr(number))
            .unwrap()
            .id;
        let index = id.0 as usize;
        self.loads
            .overloaded
            .resize(self.loads.overloaded.len().max(index + 1), false);
        self.loads.overloaded[index] = overloaded;
    }
}

#[test]
fn every_scheduler_is_found_by_its_name() {
    for &kind in SchedulerKind::ALL {
        assert_eq!(SchedulerKind::parse(kind.name()), Some(kind));
    }
    assert_eq!(SchedulerKind::parse("RR"), None);
    assert_eq!(SchedulerKind::Sh.flag_names(), ["sh-fallback", "sh-port"]);
}

#[test]
fn no_scheduler_picks_without_servers_or_from_quiesced_or_overloaded_ones() {
    for &kind in SchedulerKind::ALL {
        let mut desired = DesiredServices::default();
        desired.add_service(ServiceSpec::new(KEY, kind)).unwrap();
        let table = desired.build();
        let service = &table.services()[0];
        let picked = pick_of(
            service,
            &mut SchedulerState::default(),
            FlowHint::default(),
            &FixedLoads::default(),
            &mut Localities::new(),
        );
        assert_eq!(picked, None, "{} without servers", kind.name());
        for flags in [SchedulerFlags(0), SchedulerFlags(3)] {
            let mut quiesced = Bench::with_flags(kind, flags, "a 11 3, a 12 1, e 11 0, e 12 0");
            assert_eq!(quiesced.picks(3), "x x x", "{} quiesced", kind.name());
            let mut overloaded = Bench::with_flags(kind, flags, "a 11 3, a 12 2147483647");
            overloaded.set_overloaded(11, true);
            overloaded.set_overloaded(12, true);
            assert_eq!(overloaded.picks(3), "x x x", "{} overloaded", kind.name());
        }
    }
}

#[test]
fn every_scheduler_passes_over_an_overloaded_server() {
    for &kind in SchedulerKind::ALL {
        let mut bench = Bench::with_flags(kind, SchedulerFlags::FALLBACK, "a 11 5, a 12 5, a 13 5");
        bench.set_overloaded(12, true);
        bench.set_overloaded(13, true);
        let expected = if kind == SchedulerKind::Dh {
            ["11", "x"]
        } else {
            ["11", "11"]
        };
        for client in 0..200 {
            let flow = FlowHint {
                src_fold: client * 7_919,
                dst_fold: client * 7_919,
                ..FlowHint::default()
            };
            let picked = bench.pick_for(flow).map_or("x".into(), |number| number.to_string());
            assert!(expected.contains(&picked.as_str()), "{} picked {picked}", kind.name());
        }
    }
}

#[test]
fn state_is_kept_by_edits_of_other_things_and_lost_with_the_service() {
    let mut bench = Bench::new(SchedulerKind::Wrr, "a 11 3, a 12 2, a 13 1");
    assert_eq!(bench.picks(2), "13 12");
    bench.edit(SchedulerKind::Wrr);
    assert_eq!(bench.picks(2), "11 11");
    let old = bench.desired.build();
    bench.desired.delete_service(&KEY).unwrap();
    bench
        .desired
        .add_service(ServiceSpec::new(KEY, SchedulerKind::Wrr))
        .unwrap();
    bench
        .desired
        .add_server(&KEY, ServerSpec::new(addr(11), 80, ForwardingMode::Nat, 3))
        .unwrap();
    let new = bench.desired.build();
    adopt(&mut bench.state, old.services().first(), &new.services()[0]);
    assert_eq!((bench.state.cursor, bench.state.started), (HEAD, false));
}

#[test]
fn state_is_small() {
    assert!(size_of::<SchedulerState>() <= 64);
}
