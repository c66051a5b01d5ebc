//! Another process of another shape goes on with the connections of one that was killed: other workers, other table sizes,
//! flows spread otherwise.
//!
//! Connections are random; what the earlier process did with a packet of each direction is what the later one has to do,
//! whichever worker polls it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lvs_core::conn_record::ConnRecord;
use lvs_core::ipvs::conn::ConnFlags;
use lvs_core::ipvs::desired::{DesiredServices, ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::persistence::{ClientMask, Persistence};
use lvs_core::ipvs::real_server::RealServerId;
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::ServiceProtocol;
use lvs_core::random::Random;
use lvs_core::rss::RssHash;
use lvs_core::single_writer::SingleWriter;
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN, director_mac, network};
use lvs_core::testing::{PacketBuilder, tcp4, tcp6};

use super::{CONNS_MAX, addr, packet, service};

/// Port, mode and whether a client stays with its server.
const SERVICES: [(u16, ForwardingMode, bool); 6] = [
    (80, ForwardingMode::Nat, false),
    (81, ForwardingMode::FullNat, false),
    (82, ForwardingMode::DirectRouting, false),
    (83, ForwardingMode::FullNat, true),
    (84, ForwardingMode::DirectRouting, true),
    (85, ForwardingMode::Tunnel, false),
];

fn configure(desired: &mut DesiredServices) {
    const V4: (&str, [&str; 2], &str) = ("192.0.2.100", ["198.51.100.11", "198.51.100.12"], "198.51.100.200");
    const V6: (&str, [&str; 2], &str) = (
        "2001:db8:a::100",
        ["2001:db8:b::11", "2001:db8:b::12"],
        "2001:db8:b::200",
    );
    for (vip, servers, local) in [V4, V6] {
        for (port, mode, is_persistent) in SERVICES {
            let key = service(ServiceProtocol::Tcp, vip, port);
            let mut spec = ServiceSpec::new(key, SchedulerKind::Rr);
            if is_persistent && vip == V4.0 {
                spec.persistence = Some(Persistence {
                    timeout_sec: 300,
                    mask: ClientMask::Ipv4("255.255.255.0".parse().unwrap()),
                });
            }
            desired.add_service(spec).unwrap();
            let configured = match mode {
                ForwardingMode::FullNat => {
                    desired.set_local_addresses(&key, vec![addr(local)]).unwrap();
                    ForwardingMode::Nat
                }
                other => other,
            };
            for server in servers {
                desired
                    .add_server(&key, ServerSpec::new(addr(server), 8_080, configured, 1))
                    .unwrap();
            }
        }
    }
}

fn build(from: SocketAddr, to: SocketAddr) -> PacketBuilder {
    let ends = format!("{from} > {to}");
    if from.is_ipv4() { tcp4(&ends) } else { tcp6(&ends) }
}

/// How devices bring frames to workers.
#[derive(Clone, Copy)]
enum Nics<'a> {
    Anywhere,
    ByRss(&'a RssHash),
}

impl Nics<'_> {
    fn worker(self, director: &TestDirector, random: &mut Random, (from, to): (SocketAddr, SocketAddr)) -> usize {
        use lvs_core::address::{Addr4, Addr6, Address, Endpoint};
        fn end<A: Address>(end: SocketAddr) -> Endpoint<A> {
            Endpoint::new(A::from_ip(end.ip()).unwrap(), end.port())
        }
        let count = director.workers.len();
        match self {
            Nics::Anywhere => random.next_u64() as usize % count,
            Nics::ByRss(rss) if from.is_ipv4() => {
                rss.worker(end::<Addr4>(from), end::<Addr4>(to), count as u8).0.into()
            }
            Nics::ByRss(rss) => rss.worker(end::<Addr6>(from), end::<Addr6>(to), count as u8).0.into(),
        }
    }
}

/// A client's end and the service that it speaks with.
type Flow = (SocketAddr, SocketAddr);

/// Begins `count` random connections, a millisecond after each other.
fn begin(director: &mut TestDirector, random: &mut Random, count: usize, nics: Nics<'_>) -> Vec<Flow> {
    let mut flows = BTreeMap::new();
    while flows.len() < count {
        let port = SERVICES[random.next_u64() as usize % SERVICES.len()].0;
        let (host, client_port) = (2 + random.next_u64() % 3, 1_024 + random.next_u64() as u16 % 60_000);
        let (client, vip) = if random.next_u64().is_multiple_of(3) {
            (format!("2001:db8:a::{host}"), "2001:db8:a::100")
        } else {
            (format!("192.0.2.{host}"), "192.0.2.100")
        };
        let flow = (
            SocketAddr::new(addr(&client), client_port),
            SocketAddr::new(addr(vip), port),
        );
        if flows.insert(flow, ()).is_none() {
            let worker = nics.worker(director, random, flow);
            director
                .inject_at(worker, WAN, &build(flow.0, flow.1).syn().build())
                .transmitted();
            director.advance_ms(1);
        }
    }
    flows.into_keys().collect()
}

/// What becomes of a packet of each direction of each connection, by connection. Connections that are not there any more
/// have no entry.
fn carried(
    director: &mut TestDirector,
    random: &mut Random,
    flows: &[Flow],
    nics: Nics<'_>,
) -> BTreeMap<Flow, Vec<String>> {
    let mut seen = BTreeMap::new();
    let conns: BTreeMap<Flow, ConnRecord> = director
        .conns()
        .into_iter()
        .filter(|conn| !conn.flags.contains(ConnFlags::TEMPLATE))
        .map(|conn| ((conn.client.into(), conn.virt.into()), conn))
        .collect();
    for flow in flows {
        let Some(conn) = conns.get(flow) else { continue };
        let worker = nics.worker(director, random, *flow);
        let (_, frame) = director
            .inject_at(worker, WAN, &build(flow.0, flow.1).ack().build())
            .transmitted();
        let mut out = vec![packet(&frame)];
        if conn.mode.sees_replies() {
            let reply = (SocketAddr::from(conn.real), SocketAddr::from(conn.local));
            let worker = nics.worker(director, random, reply);
            let bytes = build(reply.0, reply.1).ack().dst_mac(director_mac(LAN)).build();
            let (device, frame) = director.inject_at(worker, LAN, &bytes).transmitted();
            assert_eq!(device, WAN);
            out.push(packet(&frame));
        }
        seen.insert(*flow, out);
    }
    seen
}

/// Connections and templates by their ends, without numbers of the process and times.
fn listed(director: &TestDirector) -> Vec<String> {
    let mut listed: Vec<String> = director
        .conns()
        .iter()
        .map(|conn| {
            let ends = (conn.client, conn.virt, conn.local, conn.real, conn.mode);
            format!("{} {ends:?} {:?} {}", conn.protocol, conn.flags, conn.state_name())
        })
        .collect();
    listed.sort();
    listed
}

/// Active, inactive and persistent connections of all workers by server.
fn counts(director: &TestDirector) -> Vec<[u32; 3]> {
    let of = |id: RealServerId| {
        director.counters.iter().fold([0; 3], |sum, worker| {
            let server = worker.server(id);
            let own = [server.active.get(), server.inactive.get(), server.persistent.get()];
            std::array::from_fn(|at| sum[at] + own[at])
        })
    };
    let services = &director.workers[0].snapshot().services;
    services.real_servers().map(|slot| of(slot.server.id)).collect()
}

fn picks(director: &TestDirector) -> u64 {
    director
        .counters
        .iter()
        .map(|worker| worker.scheduler_picks.get())
        .sum()
}

fn started(workers: u8, rss: Option<&RssHash>) -> TestDirector {
    let mut director = TestDirector::new(workers, CONNS_MAX, network().build(1));
    director.change(configure);
    if let Some(rss) = rss {
        for worker in &mut director.workers {
            worker.follow_rss(rss.clone());
        }
    }
    director
}

fn rss_hash() -> RssHash {
    RssHash::new(std::array::from_fn(|index| (index as u8).wrapping_mul(91) ^ 0x6D))
}

#[test]
fn every_connection_goes_on_in_both_directions_with_any_other_number_of_workers() {
    let rss = rss_hash();
    let nics = |by_rss: bool| if by_rss { Nics::ByRss(&rss) } else { Nics::Anywhere };
    for seed in 0..20 {
        let random = &mut Random::new(seed);
        let mut pick = |of: &[u8]| of[random.next_u64() as usize % of.len()];
        let shapes: Vec<(u8, bool)> = (0..4)
            .map(|_| (pick(&[1, 2, 3, 4, 7, 64]), pick(&[0, 1]) == 1))
            .collect();
        let [(workers, by_rss), later @ ..] = shapes.as_slice() else {
            unreachable!("four shapes")
        };
        let mut director = started(*workers, by_rss.then_some(&rss));
        let flows = begin(&mut director, random, 150, nics(*by_rss));
        let carried_before = carried(&mut director, random, &flows, nics(*by_rss));
        assert_eq!(carried_before.len(), flows.len());
        let before = (listed(&director), counts(&director));
        for (workers, by_rss) in later {
            let what = format!("seed {seed}, to {workers} workers of {shapes:?}");
            let capacity = CONNS_MAX + usize::from(*workers);
            let (recovery, without_space) = director.restart_as(*workers, capacity, by_rss.then_some(&rss), configure);
            let seen = (recovery.kept, recovery.torn, recovery.refused, without_space);
            assert_eq!(seen, (before.0.len(), 0, 0, 0), "{what}");
            assert_eq!((listed(&director), counts(&director)), before, "{what}");
            let after = carried(&mut director, random, &flows, nics(*by_rss));
            assert_eq!(after, carried_before, "{what}");
            assert_eq!(picks(&director), 0, "{what}: none began anew");
            assert_eq!(listed(&director), before.0, "{what}: none twice");
        }
        // A template ends after what it controls.
        for _ in 0..2 {
            director.skip_ms(1_000_000);
        }
        let left: usize = director
            .workers
            .iter()
            .map(|worker| worker.conns_count().0 + worker.conns_count().1)
            .sum();
        assert_eq!(left, 0, "seed {seed}: copies end too");
        assert!(counts(&director).iter().all(|counts| *counts == [0; 3]));
    }
}

#[test]
fn clients_of_a_persistent_service_stay_with_their_servers_and_templates_with_what_they_control() {
    for (from, to) in [(1, 3), (3, 1), (2, 7)] {
        let mut director = started(from, None);
        let server_of = |director: &mut TestDirector, network: u8, port: u16, worker: usize| {
            let flow = format!("198.18.{network}.9:{port} > 192.0.2.100:83");
            match director.inject_at(worker, WAN, &tcp4(&flow).syn().build()) {
                Outcome::Transmitted(_, frame) => packet(&frame).split(' ').nth(4).unwrap().to_owned(),
                other => panic!("{other:?}"),
            }
        };
        let before: Vec<String> = (0..20).map(|n| server_of(&mut director, n, 1, 0)).collect();
        let (recovery, _) = director.restart_as(to, CONNS_MAX, None, configure);
        assert_eq!(recovery.kept, 40);
        let last = usize::from(to) - 1;
        let after: Vec<String> = (0..20).map(|n| server_of(&mut director, n, 2, last)).collect();
        assert_eq!(after, before, "{from} to {to}");
        // A template outlives its 300 seconds as long as it controls connections.
        let established = tcp4("198.18.0.9:1 > 192.0.2.100:83").ack().build();
        director.inject(WAN, &established).transmitted();
        director.skip_ms(600_000);
        let conns = director.conns();
        let is_template = |conn: &&ConnRecord| conn.flags.contains(ConnFlags::TEMPLATE);
        assert_eq!((conns.len(), conns.iter().filter(is_template).count()), (2, 1));
    }
}

#[test]
fn a_smaller_table_gets_those_that_were_seen_last() {
    for workers in [1, 2] {
        for by_rss in [false, true] {
            let rss = rss_hash();
            let nics = if by_rss { Nics::ByRss(&rss) } else { Nics::Anywhere };
            let random = &mut Random::new(9);
            let mut director = started(workers, by_rss.then_some(&rss));
            begin(&mut director, random, 300, nics);
            let mut before = director.conns();
            before.retain(|conn| conn.client.0.is_ipv4() && !conn.flags.contains(ConnFlags::TEMPLATE));
            before.sort_by_key(|conn| std::cmp::Reverse(conn.expires_in_ms));
            let (recovery, without_space) = director.restart_as(1, 100, None, configure);
            let mut after = director.conns();
            assert_eq!(recovery.kept, after.len());
            assert!(without_space > 100, "{without_space}");
            after.retain(|conn| conn.client.0.is_ipv4());
            assert_eq!(after.len(), 100);
            let templates = after.iter().filter(|conn| conn.flags.contains(ConnFlags::TEMPLATE));
            let newest = &before[..100 - templates.count()];
            after.retain(|conn| !conn.flags.contains(ConnFlags::TEMPLATE));
            let is_there = |conn: &&ConnRecord| {
                let same = |other: &ConnRecord| (other.client, other.virt) == (conn.client, conn.virt);
                after.iter().any(same)
            };
            assert_eq!(newest.iter().filter(is_there).count(), newest.len());
        }
    }
}
