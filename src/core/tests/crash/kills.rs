//! A process that forwards traffic is killed at any moment, and another one goes on with what it left: every connection is
//! as before the last frame or as after it.
//!
//! A child runs the whole path over random traffic, on memory that the parent shares. The parent kills it, recovers from
//! that memory, and compares with a director that did the same and was not killed. Some recoveries are killed too.
//! `LVS_KILLS` says how often; it is 2,000 times without.
#![allow(unsafe_code, reason = "a child, and counters that it shares")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use lvs_core::arena::Arena;
use lvs_core::conn_record::ConnRecord;
use lvs_core::ipvs::conn::ConnFlags;
use lvs_core::ipvs::desired::{DesiredServices, ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::persistence::{ClientMask, Persistence};
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::random::Random;
use lvs_core::single_writer::SingleWriter;
use lvs_core::testing::director::TestDirector;
use lvs_core::testing::network::{LAN, WAN, director_mac, network};
use lvs_core::testing::{PacketBuilder, tcp4, tcp6};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use crate::shared_memory::Shared;

const KILLS: u64 = 2_000;
const WORKERS: u8 = 2;
/// Of a worker and family. Few, so that tables are full at times.
const CONNS_MAX: usize = 64;
/// Steps after which a child that nobody killed yet waits for it.
const STEPS_MAX: u32 = 3_000;

const SERVICES: [(u16, ForwardingMode, bool); 5] = [
    (80, ForwardingMode::Nat, false),
    (81, ForwardingMode::FullNat, false),
    (82, ForwardingMode::FullNat, true),
    (83, ForwardingMode::DirectRouting, true),
    (84, ForwardingMode::Tunnel, false),
];

/// VIP, servers, local address and where clients are.
const FAMILIES: [(&str, [&str; 2], &str, &str); 2] = [
    (
        "192.0.2.100",
        ["198.51.100.11", "198.51.100.12"],
        "198.51.100.200",
        "192.0.2.",
    ),
    (
        "2001:db8:a::100",
        ["2001:db8:b::11", "2001:db8:b::12"],
        "2001:db8:b::200",
        "2001:db8:a::",
    ),
];

fn configure(desired: &mut DesiredServices) {
    for (vip, servers, local, _) in FAMILIES {
        for (port, mode, is_persistent) in SERVICES {
            let key = ServiceKey::Address {
                protocol: ServiceProtocol::Tcp,
                addr: vip.parse().unwrap(),
                port,
            };
            let mut spec = ServiceSpec::new(key, SchedulerKind::Rr);
            let mask = match vip.contains(':') {
                true => ClientMask::Ipv6(64),
                false => ClientMask::Ipv4("255.255.255.0".parse().unwrap()),
            };
            spec.persistence = is_persistent.then_some(Persistence { timeout_sec: 30, mask });
            desired.add_service(spec).unwrap();
            let configured = match mode {
                ForwardingMode::FullNat => {
                    desired.set_local_addresses(&key, vec![local.parse().unwrap()]).unwrap();
                    ForwardingMode::Nat
                }
                other => other,
            };
            for server in servers {
                let spec = ServerSpec::new(server.parse().unwrap(), 8_080, configured, 1);
                desired.add_server(&key, spec).unwrap();
            }
        }
    }
}

fn build(from: SocketAddr, to: SocketAddr) -> PacketBuilder {
    let ends = format!("{from} > {to}");
    if from.is_ipv4() { tcp4(&ends) } else { tcp6(&ends) }
}

/// The same traffic for the same seed and the same director.
struct Traffic {
    random: Random,
    flows: Vec<(SocketAddr, SocketAddr)>,
}

impl Traffic {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            flows: Vec::new(),
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random.next_u64() as usize % limit
    }

    /// One frame, or some time that passes.
    fn step(&mut self, director: &mut TestDirector) {
        let worker = self.below(usize::from(WORKERS));
        match self.below(16) {
            0..=5 => {
                let (vip, _, _, clients) = FAMILIES[self.below(2)];
                let service = SERVICES[self.below(SERVICES.len())].0;
                let client = format!("{clients}{}", 2 + self.below(3)).parse().unwrap();
                let client = SocketAddr::new(client, 1_024 + self.below(60_000) as u16);
                let flow = (client, SocketAddr::new(vip.parse().unwrap(), service));
                self.flows.push(flow);
                director.inject_at(worker, WAN, &build(flow.0, flow.1).syn().build());
            }
            word @ 6..=9 if !self.flows.is_empty() => {
                let which = self.below(self.flows.len());
                let flow = self.flows[which];
                let frame = build(flow.0, flow.1).ack();
                let frame = match word {
                    8 => frame.fin(),
                    9 => frame.rst(),
                    _ => frame,
                };
                director.inject_at(worker, WAN, &frame.build());
            }
            10..=13 => self.reply(director, worker),
            14 => director.advance_us(1_000 + self.below(20_000) as u32),
            _ => director.advance_us(self.below(20_000_000) as u32),
        }
    }

    fn reply(&mut self, director: &mut TestDirector, worker: usize) {
        let mut conns = director.conns();
        conns.retain(|conn| conn.mode.sees_replies() && !conn.flags.contains(ConnFlags::TEMPLATE));
        if conns.is_empty() {
            return;
        }
        let conn = conns[self.below(conns.len())];
        let frame = build(conn.real.into(), conn.local.into()).dst_mac(director_mac(LAN));
        let frame = match self.below(3) {
            0 => frame.syn().ack(),
            1 => frame.ack(),
            _ => frame.ack().fin(),
        };
        director.inject_at(worker, LAN, &frame.build());
    }
}

/// How far a child is, in a page of its own.
struct Progress<'m>(&'m [AtomicU32; 2]);

impl<'m> Progress<'m> {
    fn of(memory: &'m Shared) -> Self {
        // SAFETY: the page is mapped as long as `memory` lives, aligned, and only read and written as atomics.
        Self(unsafe { memory.start().cast().as_ref() })
    }

    fn begun(&self) -> u32 {
        self.0[0].load(Ordering::SeqCst)
    }

    fn done(&self) -> u32 {
        self.0[1].load(Ordering::SeqCst)
    }
}

/// Runs `work` in a child, and kills it when `moment` has passed.
fn killed(work: impl FnOnce(), moment: impl FnOnce()) {
    // SAFETY: the other threads of this process are gone in the child, whatever they held. The child allocates, which
    // glibc allows; it prints nothing, and it is killed, so no destructor runs.
    let child = match unsafe { fork() }.expect("a child") {
        ForkResult::Child => {
            work();
            loop {
                std::thread::park();
            }
        }
        ForkResult::Parent { child } => child,
    };
    let end = Ended(child);
    moment();
    drop(end);
}

/// Kills and reaps a child, also if its parent fails.
struct Ended(Pid);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL).and_then(|()| waitpid(self.0, None));
    }
}

fn spin(times: u32) {
    (0..times).for_each(|_| std::hint::spin_loop());
}

/// Everything that a listing shows of connections, by name. When they expire is as seen `later_ms` after the listing.
fn view(conns: &[ConnRecord], later_ms: u32) -> BTreeMap<String, String> {
    let mut view = BTreeMap::new();
    for conn in conns {
        let kind = conn.flags & (ConnFlags::TEMPLATE | ConnFlags::RETIRED);
        let name = format!("{} {:?} {:?} {kind:?}", conn.protocol, conn.client, conn.virt);
        let rewritten = (conn.local, conn.real, conn.mode);
        view.insert(format!("rewrite of {name}"), format!("{rewritten:?}"));
        view.insert(format!("state of {name}"), conn.state_name().to_owned());
        let expires_in_ms = conn.expires_in_ms.saturating_sub(later_ms);
        view.insert(format!("{EXPIRES}{name}"), expires_in_ms.to_string());
    }
    view
}

/// Follows from two stores, so that it may be neither as before a frame nor as after it.
const EXPIRES: &str = "expiry of ";

fn assert_between(now: &BTreeMap<String, String>, before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) {
    for name in before.keys().chain(after.keys()).chain(now.keys()) {
        let (now, before, after) = (now.get(name), before.get(name), after.get(name));
        let may_differ = name.starts_with(EXPIRES) && before != after;
        // It is in the table before its first packet counts, which the client sends again.
        let is_new = before.is_none() && now.is_some_and(|state| state == "NONE");
        assert!(
            may_differ || is_new || now == before || now == after,
            "{name} is {now:?}, was {before:?}, becomes {after:?}"
        );
    }
}

/// Two connections with the same server and local port could not be kept apart.
fn assert_local_ports_are_unique(conns: &[ConnRecord]) {
    let mut seen = BTreeSet::new();
    for conn in conns {
        if conn.mode == ForwardingMode::FullNat && !conn.flags.contains(ConnFlags::TEMPLATE) {
            assert!(seen.insert((conn.protocol, conn.local, conn.real)), "{conn:?}");
        }
    }
}

/// Active, inactive and persistent connections of all servers.
fn counted(director: &TestDirector) -> u32 {
    let services = &director.workers[0].snapshot().services;
    let servers = services.real_servers().map(|slot| slot.server.id);
    let all = servers.flat_map(|id| director.counters.iter().map(move |worker| worker.server(id)));
    all.map(|server| server.active.get() + server.inactive.get() + server.persistent.get())
        .sum()
}

fn arenas(memory: &[Shared]) -> Vec<Arena> {
    memory.iter().map(Shared::arena).collect()
}

/// Traffic goes on until a child is killed. Returns how many steps it had begun and how many it had done.
fn traffic_until_killed(memory: &[Shared], number: u64, random: &mut Random) -> (u32, u32) {
    let counters = Shared::new(1);
    let progress = Progress::of(&counters);
    let mut victim = TestDirector::in_arenas(arenas(memory), CONNS_MAX, network().build(1));
    victim.change(configure);
    let (steps, spins) = (1 + random.next_u32() % 150, random.next_u32() % 3_000);
    let work = || {
        let mut traffic = Traffic::new(number);
        for step in 1..=STEPS_MAX {
            progress.0[0].store(step, Ordering::SeqCst);
            traffic.step(&mut victim);
            progress.0[1].store(step, Ordering::SeqCst);
        }
    };
    killed(work, || {
        while progress.done() < steps {
            std::thread::yield_now();
        }
        spin(spins);
    });
    (progress.begun(), progress.done())
}

/// A child recovers and is killed meanwhile, at times.
fn recovery_until_killed(memory: &[Shared], later: &TestDirector, random: &mut Random) {
    let counters = Shared::new(1);
    let progress = Progress::of(&counters);
    let mut victim = TestDirector::new(WORKERS, CONNS_MAX, network().build(1));
    victim.advance_us((later.now_us() - victim.now_us()) as u32);
    let spins = random.next_u32() % 4_000;
    let work = || {
        progress.0[0].store(1, Ordering::SeqCst);
        victim.take_up(arenas(memory), configure);
    };
    killed(work, || {
        while progress.begun() == 0 {
            std::thread::yield_now();
        }
        spin(spins);
    });
}

fn one_kill(number: u64) {
    let mut random = Random::new(!number);
    let bytes = TestDirector::arena_bytes(WORKERS, CONNS_MAX);
    let memory: Vec<Shared> = (0..WORKERS).map(|_| Shared::new(bytes)).collect();
    let (begun, done) = traffic_until_killed(&memory, number, &mut random);

    let mut director = TestDirector::new(WORKERS, CONNS_MAX, network().build(1));
    director.change(configure);
    let mut traffic = Traffic::new(number);
    (0..done).for_each(|_| traffic.step(&mut director));
    let (before_us, before) = (director.now_us(), director.conns());
    (done..begun).for_each(|_| traffic.step(&mut director));
    let later_ms = (director.now_us() / 1_000 - before_us / 1_000) as u32;
    let (before, after) = (view(&before, later_ms), view(&director.conns(), 0));

    if random.next_u64().is_multiple_of(4) {
        recovery_until_killed(&memory, &director, &mut random);
    }
    let recovery = director.take_up(arenas(&memory), configure);
    let conns = director.conns();
    assert_eq!((recovery.kept, recovery.torn, recovery.refused), (conns.len(), 0, 0));
    assert_between(&view(&conns, 0), &before, &after);
    assert_local_ports_are_unique(&conns);
    assert_eq!(counted(&director) as usize, conns.len());
    // Templates go when the connections that they control have gone.
    (0..3).for_each(|_| director.skip_ms(2_000_000));
    assert_eq!((director.conns().len(), counted(&director)), (0, 0), "all timers fire");
}

#[test]
fn whenever_a_process_is_killed_each_connection_is_as_before_the_last_frame_or_as_after_it() {
    let kills = std::env::var("LVS_KILLS").map_or(KILLS, |text| text.parse().expect("LVS_KILLS is a number"));
    for number in 0..kills {
        let outcome = std::panic::catch_unwind(|| one_kill(number));
        assert!(outcome.is_ok(), "kill {number}");
    }
}
