//! Several workers: whoever polls a packet, its connection has one owner, and the owner finds it.

use std::collections::HashSet;

use lvs_core::address::{Addr4, Address, Endpoint};
use lvs_core::counters::RssCounters;
use lvs_core::ipvs::desired::ServerSpec;
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::service::ServiceProtocol;
use lvs_core::rss::RssHash;
use lvs_core::single_writer::SingleWriter;
use lvs_core::testing::director::TestDirector;
use lvs_core::testing::network::{LAN, WAN, director_mac};
use lvs_core::testing::{tcp4, tcp6};

use super::{counts, director, packet, service};

/// Clients of a test; few enough for the tables.
const CLIENTS: u16 = 600;

#[test]
fn every_packet_reaches_its_connection_whoever_polls_it() {
    for mode in [
        ForwardingMode::Nat,
        ForwardingMode::FullNat,
        ForwardingMode::DirectRouting,
    ] {
        for workers in [1, 2, 3, 7, 64] {
            let key = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
            let servers = ["198.51.100.11", "198.51.100.12"];
            let mut director = director(workers, key, mode, &servers, 80);
            for client in 0..CLIENTS {
                let polls = |packet: u16| usize::from((client + packet) % u16::from(workers));
                let ends = format!("192.0.2.2:{} > 192.0.2.100:80", 10_000 + client);
                let (_, first) = director
                    .inject_at(polls(0), WAN, &tcp4(&ends).syn().build())
                    .transmitted();
                let (_, second) = director
                    .inject_at(polls(1), WAN, &tcp4(&ends).ack().build())
                    .transmitted();
                assert_eq!(first[26..38], second[26..38], "{mode:?}: one connection, one way");
                if mode.sees_replies() {
                    let to_server = packet(&first);
                    let words: Vec<&str> = to_server.split(' ').collect();
                    let reply = tcp4(&format!("{} > {}", words[4], words[2]))
                        .syn()
                        .ack()
                        .dst_mac(director_mac(LAN));
                    let (device, out) = director.inject_at(polls(2), LAN, &reply.build()).transmitted();
                    assert_eq!(device, WAN);
                    assert!(packet(&out).contains(&format!("192.0.2.100:80 > 192.0.2.2:{}", 10_000 + client)));
                }
            }
            let conns = director.conns();
            assert_eq!(
                conns.len(),
                usize::from(CLIENTS),
                "{mode:?}, {workers} workers: no connection twice"
            );
            let busy = director
                .workers
                .iter()
                .filter(|worker| worker.conns_count().0 > 0)
                .count();
            assert_eq!(busy, usize::from(workers), "{mode:?}: every worker owns some");
        }
    }
}

#[test]
fn local_ports_of_workers_never_meet() {
    let key = service(ServiceProtocol::Tcp, "2001:db8:a::100", 80);
    let mut director = director(4, key, ForwardingMode::FullNat, &["2001:db8:b::11"], 80);
    for client in 0..CLIENTS {
        let ends = format!("[2001:db8:a::2]:{} > [2001:db8:a::100]:80", 10_000 + client);
        director
            .inject_at(usize::from(client % 4), WAN, &tcp6(&ends).syn().build())
            .transmitted();
    }
    let local: HashSet<_> = director.conns().iter().map(|conn| conn.local).collect();
    assert_eq!(local.len(), usize::from(CLIENTS));
    assert_eq!(counts(&director, 0)[0], u64::from(CLIENTS));
}

/// The queue of a frame as a NIC with RSS brings it: by addresses and ports.
fn queue_of(rss: &RssHash, ends: &str, workers: u8) -> usize {
    let (src, dst) = ends.split_once(" > ").unwrap();
    let end = |text: &str| {
        let (addr, port) = text.rsplit_once(':').unwrap();
        let addr = addr.trim_matches(['[', ']']).parse().unwrap();
        Endpoint::<Addr4>::new(Addr4::from_ip(addr).unwrap(), port.parse().unwrap())
    };
    usize::from(rss.worker(end(src), end(dst), workers).0)
}

/// One handshake of every client, brought to the workers by RSS: replies of masquerading servers, too.
fn handshakes_by_rss(mode: ForwardingMode, workers: u8) -> TestDirector {
    let rss = RssHash::new(std::array::from_fn(|index| (index as u8).wrapping_mul(91) ^ 0x6D));
    let key = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
    let mut director = director(workers, key, mode, &["198.51.100.11", "198.51.100.12"], 80);
    for worker in &mut director.workers {
        worker.follow_rss(rss.clone());
    }
    for client in 0..CLIENTS {
        let ends = format!("192.0.2.2:{} > 192.0.2.100:80", 10_000 + client);
        let queue = queue_of(&rss, &ends, workers);
        let (_, first) = director.inject_at(queue, WAN, &tcp4(&ends).syn().build()).transmitted();
        director.inject_at(queue, WAN, &tcp4(&ends).ack().build()).transmitted();
        if mode.sees_replies() {
            let to_server = packet(&first);
            let words: Vec<&str> = to_server.split(' ').collect();
            let ends = format!("{} > {}", words[4], words[2]);
            let reply = tcp4(&ends).syn().ack().dst_mac(director_mac(LAN)).build();
            let (_, out) = director
                .inject_at(queue_of(&rss, &ends, workers), LAN, &reply)
                .transmitted();
            assert!(packet(&out).contains(&format!("192.0.2.100:80 > 192.0.2.2:{}", 10_000 + client)));
        }
    }
    assert_eq!(
        director.conns().len(),
        usize::from(CLIENTS),
        "{mode:?}: no connection twice"
    );
    director
}

#[test]
fn where_nics_spread_by_rss_fullnat_and_direct_routing_hand_nothing_over() {
    for mode in [ForwardingMode::FullNat, ForwardingMode::DirectRouting] {
        for workers in [2, 3, 4, 64] {
            let director = handshakes_by_rss(mode, workers);
            assert_eq!(director.handoffs, 0, "{mode:?}, {workers} workers");
            let busy = director.workers.iter().filter(|worker| worker.conns_count().0 > 0);
            assert!(
                busy.count() > usize::from(workers) / 2,
                "{mode:?}: they share the connections"
            );
        }
    }
}

#[test]
fn where_nics_spread_by_rss_nat_replies_arrive_by_handoff() {
    for workers in [2, 4] {
        let director = handshakes_by_rss(ForwardingMode::Nat, workers);
        assert!(director.handoffs > 0);
    }
}

#[test]
fn connections_of_a_service_that_is_no_longer_masqueraded_are_found_where_they_began() {
    let mut director = handshakes_by_rss(ForwardingMode::Nat, 4);
    let key = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
    let rss = RssHash::new(std::array::from_fn(|index| (index as u8).wrapping_mul(91) ^ 0x6D));
    director.change(|desired| {
        for server in ["198.51.100.11", "198.51.100.12"] {
            let spec = ServerSpec::new(server.parse().unwrap(), 80, ForwardingMode::DirectRouting, 1);
            desired.edit_server(&key, spec).unwrap();
        }
    });
    for client in 0..CLIENTS {
        let ends = format!("192.0.2.2:{} > 192.0.2.100:80", 10_000 + client);
        let queue = queue_of(&rss, &ends, 4);
        director.inject_at(queue, WAN, &tcp4(&ends).ack().build()).transmitted();
    }
    assert_eq!(director.conns().len(), usize::from(CLIENTS));
}

#[test]
fn a_nic_that_claims_rss_and_brings_all_to_one_queue_is_seen_and_costs_handoffs_only() {
    let rss = RssHash::new(std::array::from_fn(|index| (index as u8).wrapping_mul(91) ^ 0x6D));
    let key = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
    for spreads in [true, false] {
        let mut director = director(4, key, ForwardingMode::FullNat, &["198.51.100.11"], 80);
        for worker in &mut director.workers {
            worker.follow_rss(rss.clone());
        }
        for client in 0..CLIENTS {
            let ends = format!("192.0.2.2:{} > 192.0.2.100:80", 10_000 + client);
            let queue = if spreads { queue_of(&rss, &ends, 4) } else { 0 };
            let (_, first) = director.inject_at(queue, WAN, &tcp4(&ends).syn().build()).transmitted();
            let to_server = packet(&first);
            let words: Vec<&str> = to_server.split(' ').collect();
            let ends = format!("{} > {}", words[4], words[2]);
            let reply = tcp4(&ends).syn().ack().dst_mac(director_mac(LAN)).build();
            let queue = if spreads { queue_of(&rss, &ends, 4) } else { 0 };
            let (_, out) = director.inject_at(queue, LAN, &reply).transmitted();
            assert!(packet(&out).contains(&format!("192.0.2.100:80 > 192.0.2.2:{}", 10_000 + client)));
        }
        assert_eq!(director.conns().len(), usize::from(CLIENTS), "no connection twice");
        for device in [WAN, LAN] {
            let of = |read: fn(&RssCounters) -> u64| -> u64 {
                let workers = director.workers.iter();
                workers
                    .map(|worker| read(&worker.counters().rss[usize::from(device.0)]))
                    .sum()
            };
            let (here, elsewhere) = (of(|placed| placed.rss_hits.get()), of(|placed| placed.rss_misses.get()));
            assert_eq!(of(|placed| placed.of_others.get()), elsewhere);
            if spreads {
                assert_eq!(elsewhere, 0, "every packet came to its owner");
            } else {
                assert!(
                    elsewhere > u64::from(CLIENTS) / 2,
                    "{device:?}: {elsewhere} of {CLIENTS}"
                );
                let marks = of(|placed| placed.flows.get().count_ones().into());
                assert!(marks > 50, "{device:?}: {marks} marks of many flows");
            }
            assert!(device == LAN || here > 0, "first packets at their owner");
        }
        let busy = director
            .workers
            .iter()
            .filter(|worker| worker.conns_count().0 > 0)
            .count();
        assert_eq!(busy, 4, "the load is shared");
    }
}
