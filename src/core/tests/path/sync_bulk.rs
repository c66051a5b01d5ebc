//! Bulk sync: a walk over a master's connections while they come and go, and what a backup has of them afterwards.

use std::collections::BTreeSet;

use lvs_core::conn_record::DumpCursor;
use lvs_core::ipvs::conn::ConnFlags;
use lvs_core::ipvs::desired::{ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::persistence::{ClientMask, Persistence};
use lvs_core::ipvs::protocol::tcp::TcpState;
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::ipvs::sync::policy::{SyncMode, SyncPolicy};
use lvs_core::ipvs::sync::{SyncConn, SyncRoles};
use lvs_core::limits::{SYNC_BULK_STEP_SLOTS, SYNC_BULK_STEPS_MAX};
use lvs_core::path::sync::bulk;
use lvs_core::testing::director::TestDirector;
use lvs_core::testing::network::{LAN, WAN, director_mac, network};
use lvs_core::testing::{tcp4, tcp6, udp4};
use proptest::prelude::*;

use super::sync_every::reply_to;
use super::{CONNS_MAX, addr, director, service};

const SERVERS: [&str; 2] = ["198.51.100.11", "198.51.100.12"];

fn web() -> ServiceKey {
    service(ServiceProtocol::Tcp, "192.0.2.100", 80)
}

fn ends(client: u16) -> String {
    format!("192.0.2.2:{} > 192.0.2.100:80", 10_000 + client)
}

fn sync_as(mut director: TestDirector, mode: SyncMode) -> TestDirector {
    director.set_sync(SyncRoles {
        master: true,
        backup: true,
    });
    director.set_sync_policy(SyncPolicy {
        mode,
        ..SyncPolicy::default()
    });
    director
}

/// A connection of a handshake and no more; servers that are not asked directly answer.
fn open(director: &mut TestDirector, client: u16) {
    let (_, syn) = director.inject(WAN, &tcp4(&ends(client)).syn().build()).transmitted();
    if let Some(reply) = reply_to(&syn) {
        let reply = tcp4(&reply).syn().ack().dst_mac(director_mac(LAN)).build();
        director.inject(LAN, &reply).transmitted();
    }
    director.inject(WAN, &tcp4(&ends(client)).ack().build()).transmitted();
}

/// A whole walk, with space for `space` connections a slice.
fn copied(director: &TestDirector, space: usize) -> Vec<SyncConn> {
    let mut copied = Vec::new();
    for worker in &director.workers {
        let mut next = Some(DumpCursor::V4(0));
        while let Some(from) = next {
            let before = copied.len();
            let slice = bulk::copy(worker, from, space, |conn| copied.push(conn));
            assert_eq!(copied.len() - before, slice.copied as usize);
            assert!(copied.len() - before <= space);
            next = slice.next;
        }
    }
    copied
}

#[test]
fn a_backup_has_every_connection_after_a_walk_and_they_go_on_there() {
    for workers in [1, 3] {
        for mode in [
            ForwardingMode::Nat,
            ForwardingMode::FullNat,
            ForwardingMode::DirectRouting,
        ] {
            let of = || sync_as(director(workers, web(), mode, &SERVERS, 80), SyncMode::Kernel);
            let (mut master, mut backup) = (of(), of());
            (0..50).for_each(|client| open(&mut master, client));
            // Its server has not answered: as in the kernel that is nobody's news.
            let half_open = tcp4("192.0.2.2:9999 > 192.0.2.100:80").syn().build();
            master.inject(WAN, &half_open).transmitted();
            assert!(master.take_synced().is_empty(), "no third packet");
            backup.import_synced(&copied(&master, 32));
            let known = |director: &TestDirector| -> BTreeSet<_> {
                let conns = director.conns().into_iter().filter(|conn| conn.client.1 != 9_999);
                conns
                    .map(|conn| (conn.client, conn.local, conn.real, conn.state))
                    .collect()
            };
            assert_eq!((known(&backup).len(), backup.conns().len()), (50, 50), "{mode:?}");
            assert_eq!(known(&backup), known(&master), "{mode:?}");
            let data = tcp4(&ends(7)).ack().payload(b"x").build();
            let there = backup.inject(WAN, &data).transmitted();
            assert_eq!(there, master.inject(WAN, &data).transmitted(), "{mode:?}");
        }
    }
}

#[test]
fn an_entry_of_a_walk_is_that_of_a_packet() {
    for mode in [SyncMode::Kernel, SyncMode::Every] {
        let mut director = sync_as(director(1, web(), ForwardingMode::DirectRouting, &SERVERS, 80), mode);
        open(&mut director, 1);
        director.inject(WAN, &tcp4(&ends(1)).ack().build()).transmitted();
        let by_packet = director.take_synced();
        assert_eq!((by_packet.len(), &copied(&director, 512)), (1, &by_packet), "{mode:?}");
        let timeout_sec = if mode == SyncMode::Every { 1_125 } else { 900 };
        assert_eq!(
            (by_packet[0].timeout_sec, by_packet[0].state),
            (timeout_sec, TcpState::Established as u16)
        );
    }
}

#[test]
fn templates_and_both_families_are_told_and_datagrams_without_a_connection_are_not() {
    let mut director = TestDirector::new(1, CONNS_MAX, network().build(1));
    let (persistent, six) = (web(), service(ServiceProtocol::Tcp, "2001:db8:a::100", 80));
    let one_packet = service(ServiceProtocol::Udp, "192.0.2.100", 53);
    director.change(|desired| {
        for (key, server) in [
            (persistent, SERVERS[0]),
            (six, "2001:db8:b::11"),
            (one_packet, SERVERS[0]),
        ] {
            let mut spec = ServiceSpec::new(key, SchedulerKind::Rr);
            if key == persistent {
                spec.persistence = Some(Persistence {
                    timeout_sec: 300,
                    mask: ClientMask::Ipv4("255.255.255.255".parse().unwrap()),
                });
            }
            spec.one_packet = key == one_packet;
            desired.add_service(spec).unwrap();
            desired
                .add_server(
                    &key,
                    ServerSpec::new(addr(server), key.port(), ForwardingMode::DirectRouting, 1),
                )
                .unwrap();
        }
    });
    open(&mut director, 1);
    for frame in [
        tcp6("[2001:db8:a::2]:1000 > [2001:db8:a::100]:80").syn().build(),
        tcp6("[2001:db8:a::2]:1000 > [2001:db8:a::100]:80").ack().build(),
        udp4("192.0.2.2:1000 > 192.0.2.100:53").build(),
    ] {
        director.inject(WAN, &frame).transmitted();
    }
    let copied = copied(&director, 32);
    let templates = copied.iter().filter(|conn| conn.is_template()).count();
    let of_ipv6 = copied.iter().filter(|conn| conn.client.0.is_ipv6()).count();
    assert_eq!((copied.len(), templates, of_ipv6), (3, 1, 1), "{copied:?}");
    assert!(
        copied
            .iter()
            .all(|conn| !conn.conn_flags().contains(ConnFlags::ONE_PACKET))
    );
}

#[test]
fn a_slice_reads_a_bounded_part_of_the_table_and_none_without_room() {
    let director = director(1, web(), ForwardingMode::DirectRouting, &SERVERS, 80);
    let mut director = sync_as(director, SyncMode::Kernel);
    let half_open = |client| tcp4(&ends(client)).syn().build();
    for client in 0..CONNS_MAX as u16 - 24 {
        director.inject(WAN, &half_open(client)).transmitted();
    }
    const { assert!(SYNC_BULK_STEP_SLOTS * SYNC_BULK_STEPS_MAX <= 2_048) }
    let copy = |space| {
        bulk::copy(&director.workers[0], DumpCursor::V4(64), space, |_| {
            panic!("none is open")
        })
    };
    assert_eq!(copy(SYNC_BULK_STEP_SLOTS - 1).next, Some(DumpCursor::V4(64)));
    assert_eq!(copy(SYNC_BULK_STEP_SLOTS).next, Some(DumpCursor::V6(0)));
}

/// What happens between two slices of a walk.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A client opens a connection.
    Open(u16),
    /// A client resets its connection, which is gone after ten seconds.
    Reset(u16),
    Wait(u32),
    /// The walk goes on.
    Slice(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..300_u16).prop_map(Step::Open),
        2 => (0..300_u16).prop_map(Step::Reset),
        1 => (1..12_000_u32).prop_map(Step::Wait),
        2 => (32..64_usize).prop_map(Step::Slice),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_changes_meanwhile_a_connection_that_lives_through_the_walk_is_copied(
        before in proptest::collection::btree_set(0..300_u16, 1..200), steps in proptest::collection::vec(step(), 1..100),
    ) {
        let mut director = sync_as(director(1, web(), ForwardingMode::DirectRouting, &SERVERS, 80), SyncMode::Kernel);
        before.iter().for_each(|&client| open(&mut director, client));
        let (mut lived, mut copied) = (before, Vec::new());
        let mut next = Some(DumpCursor::V4(0));
        for step in steps {
            match step {
                Step::Open(client) if !lived.contains(&client) => open(&mut director, client),
                Step::Open(_) => {}
                Step::Reset(client) => {
                    if director.conns().iter().any(|conn| conn.client.1 == 10_000 + client) {
                        lived.remove(&client);
                        director.inject(WAN, &tcp4(&ends(client)).rst().build());
                    }
                }
                Step::Wait(ms) => director.advance_ms(ms),
                Step::Slice(space) => {
                    if let Some(from) = next {
                        next = bulk::copy(&director.workers[0], from, space, |conn| copied.push(conn)).next;
                    }
                }
            }
        }
        while let Some(from) = next {
            next = bulk::copy(&director.workers[0], from, 512, |conn| copied.push(conn)).next;
        }
        let copied: BTreeSet<u16> = copied.iter().map(|conn| conn.client.1 - 10_000).collect();
        prop_assert!(copied.is_superset(&lived), "not copied: {:?}", lived.difference(&copied));
    }
}
