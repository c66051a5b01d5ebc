//! Two directors: what a master syncs out, and how a backup continues the connections that it imports.

use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::service::ServiceProtocol;
use lvs_core::ipvs::sync::policy::{ImportRefusal, SyncAccept, SyncMode, SyncPolicy};
use lvs_core::ipvs::sync::{SyncConn, SyncRoles};
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN, director_mac};
use lvs_core::testing::tcp4;
use lvs_core::verdict::DropReason;

use super::{addr, counts, director, network, packet, service};

const SERVERS: [&str; 2] = ["198.51.100.11", "198.51.100.12"];
const MASTER: SyncRoles = SyncRoles {
    master: true,
    backup: false,
};
const BACKUP: SyncRoles = SyncRoles {
    master: false,
    backup: true,
};
/// A backup that believes like a kernel.
const LIBERAL: SyncPolicy = SyncPolicy {
    mode: SyncMode::Kernel,
    accept: SyncAccept::Kernel,
    is_authenticated: false,
    table_percent: 100,
};
/// Clients of a test.
const CLIENTS: u16 = 60;

fn web() -> lvs_core::ipvs::service::ServiceKey {
    service(ServiceProtocol::Tcp, "192.0.2.100", 80)
}

fn ends(client: u16) -> String {
    format!("192.0.2.2:{} > 192.0.2.100:80", 10_000 + client)
}

/// The real server's answer to a frame that reached it.
fn answer(to_server: &[u8]) -> Vec<u8> {
    let shown = packet(to_server);
    let words: Vec<&str> = shown.split(' ').collect();
    let reply = tcp4(&format!("{} > {}", words[4], words[2])).ack();
    reply.dst_mac(director_mac(LAN)).build()
}

/// Opens connections through a master. Returns what the master synced out, and for each connection the frame that the
/// master made of the third packet.
fn opened(workers: u8, mode: ForwardingMode) -> (Vec<SyncConn>, Vec<Vec<u8>>) {
    let mut master = director(workers, web(), mode, &SERVERS, 80);
    master.set_sync(MASTER);
    let mut forwarded = Vec::new();
    for client in 0..CLIENTS {
        let at = usize::from(client % u16::from(workers));
        let mut inject = |frame: &[u8]| master.inject_at(at, WAN, frame).transmitted().1;
        inject(&tcp4(&ends(client)).syn().build());
        inject(&tcp4(&ends(client)).ack().build());
        forwarded.push(inject(&tcp4(&ends(client)).ack().build()));
    }
    (master.take_synced(), forwarded)
}

#[test]
fn an_established_connection_goes_on_through_the_other_director_with_any_number_of_workers() {
    for mode in [
        ForwardingMode::Nat,
        ForwardingMode::FullNat,
        ForwardingMode::DirectRouting,
    ] {
        for (workers, workers_there) in [(1, 1), (2, 1), (1, 3), (3, 2)] {
            let (synced, forwarded) = opened(workers, mode);
            assert_eq!(synced.len(), usize::from(CLIENTS), "the third packet of each");
            let mut backup = director(workers_there, web(), mode, &SERVERS, 80);
            backup.set_sync(BACKUP);
            backup.import_synced(&synced);
            assert_eq!(
                backup.conns().len(),
                usize::from(CLIENTS),
                "{mode:?}: none is listed twice"
            );
            let bound = counts(&backup, 0)[5] + counts(&backup, 1)[5];
            assert_eq!(
                (bound, counts(&backup, 0)[0]),
                (u64::from(CLIENTS), 0),
                "active, but not scheduled"
            );
            for (client, before) in (0..CLIENTS).zip(forwarded) {
                let at = usize::from(client % u16::from(workers_there));
                let (_, out) = backup
                    .inject_at(at, WAN, &tcp4(&ends(client)).ack().build())
                    .transmitted();
                assert_eq!(out, before, "{mode:?}: the server sees no difference");
                if mode.sees_replies() {
                    let polls = usize::from((client + 1) % u16::from(workers_there));
                    let (device, reply) = backup.inject_at(polls, LAN, &answer(&out)).transmitted();
                    let shown = packet(&reply);
                    assert_eq!(device, WAN);
                    assert!(
                        shown.contains(&format!("192.0.2.100:80 > 192.0.2.2:{}", 10_000 + client)),
                        "{shown}"
                    );
                }
            }
        }
    }
}

#[test]
fn nothing_is_told_while_no_master_runs() {
    let mut alone = director(1, web(), ForwardingMode::Nat, &SERVERS, 80);
    alone.inject(WAN, &tcp4(&ends(0)).syn().build());
    for _ in 0..60 {
        alone.inject(WAN, &tcp4(&ends(0)).ack().build());
    }
    assert_eq!(alone.take_synced(), []);
}

/// A director that has another service, so that it looks at packets at all.
fn stranger() -> TestDirector {
    let other = service(ServiceProtocol::Tcp, "192.0.2.100", 443);
    let mut stranger = director(1, other, ForwardingMode::Nat, &SERVERS[..1], 443);
    stranger.set_sync(BACKUP);
    stranger.set_sync_policy(LIBERAL);
    stranger
}

#[test]
fn a_connection_without_a_service_here_is_forwarded_as_synced_and_bound_once_there_is_one() {
    for mode in [ForwardingMode::Nat, ForwardingMode::DirectRouting] {
        let (synced, forwarded) = opened(1, mode);
        let mut backup = stranger();
        backup.import_synced(&synced[..1]);
        let (_, out) = backup.inject(WAN, &tcp4(&ends(0)).ack().build()).transmitted();
        assert_eq!(out, forwarded[0], "{mode:?}");
        assert_eq!(counts(&backup, 0), [0; 7], "nobody's");

        backup.change(|desired| {
            use lvs_core::ipvs::desired::{ServerSpec, ServiceSpec};
            use lvs_core::ipvs::scheduler::SchedulerKind;
            desired.add_service(ServiceSpec::new(web(), SchedulerKind::Rr)).unwrap();
            let (server, _) = synced[0].real;
            desired
                .add_server(&web(), ServerSpec::new(server, 80, mode, 1))
                .unwrap();
        });
        backup.import_synced(&synced[..1]);
        assert_eq!(counts(&backup, 1)[5..], [1, 0], "{mode:?}: bound, and active");
        assert_eq!(backup.conns().len(), 1);
    }
}

#[test]
fn a_full_nat_service_does_not_take_a_connection_without_its_local_address() {
    let (synced, _) = opened(1, ForwardingMode::Nat);
    let mut backup = director(1, web(), ForwardingMode::FullNat, &SERVERS, 80);
    backup.set_sync(BACKUP);
    backup.import_synced(&synced[..3]);
    let refused = backup.counters[0].import_refusals_of(ImportRefusal::LocalAddress);
    assert_eq!((backup.conns().len(), refused), (0, 3));
}

#[test]
fn a_later_message_changes_state_and_count_and_another_server_takes_the_place_of_the_old() {
    let (synced, _) = opened(1, ForwardingMode::Nat);
    let mut backup = director(1, web(), ForwardingMode::Nat, &SERVERS, 80);
    backup.import_synced(&synced[..1]);
    let server = SERVERS
        .iter()
        .position(|server| addr(server) == synced[0].real.0)
        .unwrap() as u32;
    let closing = SyncConn {
        flags: synced[0].flags | 0x100,
        state: 5,
        timeout_sec: 120,
        ..synced[0]
    };
    backup.import_synced(&[closing]);
    assert_eq!(counts(&backup, server)[5..], [0, 1]);
    assert_eq!((backup.conns()[0].state, backup.conns()[0].expires_in_ms), (5, 120_000));
    let other = SyncConn {
        real: (addr(SERVERS[1 - server as usize]), 80),
        ..synced[0]
    };
    backup.import_synced(&[other]);
    assert_eq!((counts(&backup, server)[6], counts(&backup, 1 - server)[5]), (0, 1));
    // The end of the connection that was replaced comes late: it ends nothing.
    backup.import_synced(&[closing]);
    assert_eq!(backup.conns()[0].state, 1);
}

#[test]
fn a_full_table_takes_no_more_and_counts_it() {
    let (synced, _) = opened(1, ForwardingMode::DirectRouting);
    let mut backup = TestDirector::new(1, 16, network().build(1));
    backup.set_sync_policy(LIBERAL);
    backup.import_synced(&synced);
    use lvs_core::single_writer::SingleWriter;
    assert_eq!((backup.conns().len(), backup.counters[0].synced_in.get()), (16, 16));
    let refused = backup.counters[0].import_refusals_of(ImportRefusal::TableShare);
    assert_eq!(refused, u64::from(CLIENTS) - 16);
}

#[test]
fn a_timeout_beyond_the_clock_is_kept_and_counted_down() {
    let (synced, _) = opened(1, ForwardingMode::DirectRouting);
    let mut backup = director(1, web(), ForwardingMode::DirectRouting, &SERVERS, 80);
    backup.set_sync_policy(LIBERAL);
    backup.import_synced(&[SyncConn {
        timeout_sec: u32::MAX,
        ..synced[0]
    }]);
    assert_eq!(backup.conns()[0].expires_in_ms, u32::MAX);
}

#[test]
fn while_backup_only_holds_clients_are_left_to_the_kernel_and_replies_are_not() {
    let (synced, forwarded) = opened(1, ForwardingMode::Nat);
    let mut backup = director(1, web(), ForwardingMode::Nat, &SERVERS, 80);
    let mut sysctls = *backup.sysctls();
    sysctls.set("backup_only", "1").unwrap();
    backup.set_sysctls(sysctls);
    backup.import_synced(&synced);
    let ack = tcp4(&ends(0)).ack().build();
    assert!(
        matches!(backup.inject(WAN, &ack), Outcome::Transmitted(..)),
        "no backup runs"
    );
    backup.set_sync(BACKUP);
    assert!(matches!(backup.inject(WAN, &ack), Outcome::Punted(_)));
    let syn = tcp4("192.0.2.2:20000 > 192.0.2.100:80").syn().build();
    assert!(matches!(backup.inject(WAN, &syn), Outcome::Punted(_)));
    assert!(matches!(
        backup.inject(LAN, &answer(&forwarded[0])),
        Outcome::Transmitted(..)
    ));
}

#[test]
fn a_deleted_servers_connections_are_dropped_like_those_that_were_scheduled_here() {
    let (synced, _) = opened(1, ForwardingMode::Nat);
    let mut backup = director(1, web(), ForwardingMode::Nat, &SERVERS, 80);
    backup.import_synced(&synced[..1]);
    backup
        .change(|desired| desired.delete_server(&web(), synced[0].real.0, 80))
        .unwrap();
    let outcome = backup.inject(WAN, &tcp4(&ends(0)).ack().build());
    assert_eq!(outcome, Outcome::Dropped(DropReason::RealServerGone));
}
