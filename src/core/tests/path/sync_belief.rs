//! What a backup does not believe: hostile entries change nothing and are counted by name.

use lvs_core::ipvs::conn::ConnFlags;
use lvs_core::ipvs::desired::{ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::persistence::{ClientMask, Persistence};
use lvs_core::ipvs::protocol::tcp::TcpState;
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::ipvs::sync::policy::{ImportRefusal, SyncAccept, SyncMode, SyncPolicy};
use lvs_core::ipvs::sync::{SyncConn, SyncRoles, SyncedEnd};
use lvs_core::single_writer::SingleWriter;
use lvs_core::testing::director::TestDirector;
use lvs_core::testing::network::{LAN, WAN, director_mac};
use lvs_core::testing::tcp4;
use proptest::prelude::*;

use super::{addr, director, packet, service, with_service};

const SERVERS: [&str; 2] = ["198.51.100.11", "198.51.100.12"];
const INACTIVE: u32 = 0x0100;
const TEMPLATE: u32 = 0x1000;
const BOTH: SyncRoles = SyncRoles {
    master: true,
    backup: true,
};
/// A backup whose messages only another holder of the key can have sent.
const SIGNED: SyncPolicy = SyncPolicy {
    is_authenticated: true,
    ..DEFAULT
};
const DEFAULT: SyncPolicy = SyncPolicy {
    mode: SyncMode::Kernel,
    accept: SyncAccept::Configured,
    is_authenticated: false,
    table_percent: 75,
};

fn web() -> ServiceKey {
    service(ServiceProtocol::Tcp, "192.0.2.100", 80)
}

fn backup(mode: ForwardingMode) -> TestDirector {
    let mut backup = director(1, web(), mode, &SERVERS, 80);
    backup.set_sync(BOTH);
    backup
}

fn end(text: &str, port: u16) -> SyncedEnd {
    (addr(text), port)
}

/// An established connection of the client's port to a server, as a master of NAT syncs it out.
fn entry(port: u16, server: &str) -> SyncConn {
    SyncConn {
        protocol: 6,
        flags: 0,
        state: TcpState::Established as u16,
        client: end("192.0.2.2", port),
        virt: end("192.0.2.100", 80),
        real: end(server, 80),
        local: None,
        fwmark: 0,
        timeout_sec: 900,
        shifts: None,
    }
}

fn refused(director: &TestDirector) -> Vec<(&'static str, u64)> {
    let count = |refusal: &ImportRefusal| {
        let counters = director.counters.iter();
        let count = counters.map(|worker| worker.import_refusals_of(*refusal)).sum::<u64>();
        (count > 0).then_some((refusal.name(), count))
    };
    ImportRefusal::ALL.iter().filter_map(count).collect()
}

/// Imports the entries one by one and checks that each is refused for this reason and changes no connection.
fn assert_refused(director: &mut TestDirector, refusal: ImportRefusal, entries: &[SyncConn]) {
    let conns = director.conns();
    let of = |director: &TestDirector| director.counters[0].import_refusals_of(refusal);
    for entry in entries {
        let before = of(director);
        director.import_synced(std::slice::from_ref(entry));
        assert_eq!(
            of(director),
            before + 1,
            "{refusal:?}: {entry:?}: {:?}",
            refused(director)
        );
        assert_eq!(director.conns(), conns, "{entry:?}");
    }
}

/// Opens a connection of the client's port through `director`; to which server.
fn open(director: &mut TestDirector, port: u16) -> String {
    let ends = format!("192.0.2.2:{port} > 192.0.2.100:80");
    director.inject(WAN, &tcp4(&ends).syn().build()).transmitted();
    director.inject(WAN, &tcp4(&ends).ack().build()).transmitted();
    let conns = director.conns();
    let opened = conns.iter().find(|conn| conn.client.1 == port).unwrap();
    opened.real.0.to_string()
}

fn other_than(server: &str) -> &'static str {
    SERVERS.into_iter().find(|other| *other != server).unwrap()
}

#[test]
fn entries_of_what_is_not_configured_are_refused() {
    let mut backup = backup(ForwardingMode::Nat);
    let honest = entry(10_000, SERVERS[0]);
    let with = |change: &dyn Fn(&mut SyncConn)| {
        let mut changed = honest;
        change(&mut changed);
        changed
    };
    let stranger = with(&|entry| entry.real = end("198.51.100.66", 4_444));
    let other_port = with(&|entry| entry.real.1 = 22);
    assert_refused(&mut backup, ImportRefusal::Server, &[stranger, other_port]);
    let own_ssh = with(&|entry| entry.virt = end("192.0.2.1", 22));
    let other_protocol = with(&|entry| entry.protocol = 17);
    let no_mark = with(&|entry| (entry.fwmark, entry.virt.1) = (66, 81));
    assert_refused(&mut backup, ImportRefusal::Service, &[own_ssh, other_protocol, no_mark]);
    let clients = ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"];
    let of_nobody = clients.map(|client| with(&|entry| entry.client.0 = addr(client)));
    assert_refused(&mut backup, ImportRefusal::Client, &of_nobody);
    let foreign_local = with(&|entry| entry.local = Some(end("203.0.113.9", 5_000)));
    assert_refused(&mut backup, ImportRefusal::LocalAddress, &[foreign_local]);
    backup.import_synced(&[honest]);
    assert_eq!((backup.conns().len(), backup.counters[0].synced_in.get()), (1, 1));
}

#[test]
fn a_live_connection_of_its_own_follows_its_packets_alone_however_long_it_is_idle() {
    for mode in [ForwardingMode::Nat, ForwardingMode::DirectRouting] {
        let mut director = backup(mode);
        let server = open(&mut director, 10_000);
        director.advance_ms(600_000);
        let closing = SyncConn {
            flags: INACTIVE,
            state: TcpState::Close as u16,
            timeout_sec: 1,
            ..entry(10_000, &server)
        };
        let half_open = SyncConn {
            state: TcpState::SynRecv as u16,
            ..entry(10_000, &server)
        };
        let elsewhere = entry(10_000, other_than(&server));
        assert_refused(
            &mut director,
            ImportRefusal::LocalConn,
            &[elsewhere, closing, half_open, elsewhere],
        );
        let ack = tcp4("192.0.2.2:10000 > 192.0.2.100:80").ack().build();
        let (_, out) = director.inject(WAN, &ack).transmitted();
        assert!(
            mode == ForwardingMode::DirectRouting || packet(&out).contains(&server),
            "{mode:?}"
        );
    }
}

#[test]
fn an_entry_that_says_what_is_known_keeps_an_own_connection_alive() {
    let mut director = backup(ForwardingMode::Nat);
    let server = open(&mut director, 10_000);
    director.advance_ms(600_000);
    assert_eq!(director.conns()[0].expires_in_ms, 300_000);
    director.import_synced(&[SyncConn {
        timeout_sec: 1,
        ..entry(10_000, &server)
    }]);
    assert_eq!(director.conns()[0].expires_in_ms, 900_000);
    assert!(!director.conns()[0].flags.contains(ConnFlags::SYNCED));
    assert_eq!(refused(&director), []);
}

#[test]
fn an_own_connection_that_is_over_gives_its_place_to_the_next_one_of_its_client() {
    let mut director = backup(ForwardingMode::Nat);
    let server = open(&mut director, 10_000);
    director.inject(WAN, &tcp4("192.0.2.2:10000 > 192.0.2.100:80").rst().build());
    assert_eq!(director.conns()[0].state, TcpState::Close as u8);
    director.import_synced(&[entry(10_000, other_than(&server))]);
    let conns = director.conns();
    assert_eq!((conns.len(), conns[0].real.0), (1, addr(other_than(&server))));
}

#[test]
fn an_imported_connection_is_its_own_once_a_client_has_used_it() {
    let mut director = backup(ForwardingMode::Nat);
    director.import_synced(&[entry(10_000, SERVERS[0])]);
    director.import_synced(&[entry(10_000, SERVERS[1])]);
    assert_eq!(
        director.conns()[0].real.0,
        addr(SERVERS[1]),
        "nobody uses it: the newer one"
    );
    let ack = tcp4("192.0.2.2:10000 > 192.0.2.100:80").ack().build();
    director.inject(WAN, &ack).transmitted();
    assert_refused(&mut director, ImportRefusal::LocalConn, &[entry(10_000, SERVERS[0])]);
}

#[test]
fn at_failback_who_signs_is_believed_about_connections_that_went_on_at_the_other_director() {
    let mut director = backup(ForwardingMode::Nat);
    director.set_sync_policy(SIGNED);
    let server = open(&mut director, 10_000);
    let closing = SyncConn {
        flags: INACTIVE,
        state: TcpState::FinWait as u16,
        timeout_sec: 120,
        ..entry(10_000, &server)
    };
    director.advance_ms(9_000);
    assert_refused(
        &mut director,
        ImportRefusal::LocalConn,
        &[closing, entry(10_000, other_than(&server))],
    );
    director.advance_ms(1_000);
    director.import_synced(&[closing]);
    let conn = director.conns()[0];
    assert_eq!((conn.state, conn.expires_in_ms), (TcpState::FinWait as u8, 120_000));
    assert_eq!(director.counters[0].imported[0].get(), 1, "it counts as imported now");
    // What follows is believed at once, until a packet comes here again.
    director.import_synced(&[entry(10_000, other_than(&server))]);
    assert_eq!(director.conns()[0].real.0, addr(other_than(&server)));
    director
        .inject(WAN, &tcp4("192.0.2.2:10000 > 192.0.2.100:80").ack().build())
        .transmitted();
    assert_refused(&mut director, ImportRefusal::LocalConn, &[entry(10_000, &server)]);
    assert_eq!(director.counters[0].imported[0].get(), 1);
    director.skip_ms(2_000_000);
    assert_eq!((director.conns().len(), director.counters[0].imported[0].get()), (0, 0));
}

#[test]
fn a_returning_master_without_connections_gets_its_own_back() {
    let mut first = backup(ForwardingMode::Nat);
    let servers: Vec<String> = (0..20).map(|client| open(&mut first, 10_000 + client)).collect();
    let mut second = backup(ForwardingMode::Nat);
    let entries: Vec<SyncConn> = (0..20u16)
        .map(|client| entry(10_000 + client, &servers[usize::from(client)]))
        .collect();
    second.import_synced(&entries);
    for client in 0..20 {
        let ack = tcp4(&format!("192.0.2.2:{} > 192.0.2.100:80", 10_000 + client))
            .ack()
            .build();
        // The third packet here, and each fiftieth: enough to be synced back.
        (0..50).for_each(|_| drop(second.inject(WAN, &ack).transmitted()));
    }
    let mut returned = backup(ForwardingMode::Nat);
    returned.import_synced(&second.take_synced());
    let mut reals: Vec<_> = returned
        .conns()
        .iter()
        .map(|conn| (conn.client.1, conn.real.0))
        .collect();
    reals.sort_unstable();
    let expected: Vec<_> = (0..20u16)
        .map(|client| (10_000 + client, addr(&servers[usize::from(client)])))
        .collect();
    assert_eq!(reals, expected);
    assert_eq!(refused(&returned), []);
}

#[test]
fn timeouts_are_no_longer_than_this_director_would_give() {
    let mut director = backup(ForwardingMode::Nat);
    let long = |entry: SyncConn| SyncConn {
        timeout_sec: u32::MAX,
        ..entry
    };
    let closing = SyncConn {
        flags: INACTIVE,
        state: TcpState::TimeWait as u16,
        ..entry(10_001, SERVERS[0])
    };
    director.import_synced(&[
        long(entry(10_000, SERVERS[0])),
        long(closing),
        entry(10_002, SERVERS[0]),
    ]);
    let mut expires: Vec<_> = director
        .conns()
        .iter()
        .map(|conn| (conn.client.1, conn.expires_in_ms))
        .collect();
    expires.sort_unstable();
    assert_eq!(
        expires,
        [(10_000, 1_125_000), (10_001, 150_000), (10_002, 900_000)],
        "a quarter more than its own, which a master of every connection asks for"
    );
    let established = ServiceSpec {
        established_timeout_sec: 100,
        ..ServiceSpec::new(web(), SchedulerKind::Rr)
    };
    director.change(|desired| desired.edit_service(established)).unwrap();
    director.import_synced(&[entry(10_003, SERVERS[0])]);
    let expires = |director: &TestDirector, port: u16| {
        let conns = director.conns();
        conns.iter().find(|conn| conn.client.1 == port).unwrap().expires_in_ms
    };
    assert_eq!(expires(&director, 10_003), 125_000);
}

#[test]
fn a_flood_of_entries_fills_its_share_and_clients_still_get_connections() {
    let mut director = backup(ForwardingMode::DirectRouting);
    let flood: Vec<SyncConn> = (0..2_000)
        .map(|client| SyncConn {
            client: (std::net::Ipv4Addr::from(0xC612_0000 + client).into(), 1_000),
            timeout_sec: u32::MAX,
            ..entry(0, SERVERS[0])
        })
        .collect();
    director.import_synced(&flood);
    assert_eq!(director.conns().len(), 768, "three quarters of 1,024");
    assert_eq!(refused(&director), [("table_share_full", 2_000 - 768)]);
    for client in 0..200 {
        open(&mut director, 10_000 + client);
    }
    director.skip_ms(1_130_000);
    assert_eq!(director.counters[0].imported[0].get(), 0, "they expire");
    director.import_synced(&flood[..10]);
    assert_eq!(director.counters[0].imported[0].get(), 10);
}

#[test]
fn replies_of_a_live_connection_are_not_led_elsewhere() {
    let other = service(ServiceProtocol::Tcp, "192.0.2.100", 81);
    let mut director = with_service(backup(ForwardingMode::Nat), other, ForwardingMode::Nat, &SERVERS, 80);
    let server = open(&mut director, 10_000);
    let shadow = SyncConn {
        virt: end("192.0.2.100", 81),
        ..entry(10_000, &server)
    };
    assert_refused(&mut director, ImportRefusal::LocalConn, &[shadow]);
    let reply = tcp4(&format!("{server}:80 > 192.0.2.2:10000")).ack();
    let (_, out) = director
        .inject(LAN, &reply.dst_mac(director_mac(LAN)).build())
        .transmitted();
    assert!(
        packet(&out).contains("192.0.2.100:80 > 192.0.2.2:10000"),
        "{}",
        packet(&out)
    );
}

#[test]
fn templates_of_persistent_services_are_believed_for_as_long_as_these_persist() {
    let mut director = backup(ForwardingMode::Nat);
    let persistent = |timeout_sec| ServiceSpec {
        persistence: Some(Persistence {
            timeout_sec,
            mask: ClientMask::Ipv4("255.255.255.0".parse().unwrap()),
        }),
        ..ServiceSpec::new(web(), SchedulerKind::Rr)
    };
    director
        .change(|desired| desired.edit_service(persistent(300)))
        .unwrap();
    let template = |client: &str, server| SyncConn {
        flags: TEMPLATE | INACTIVE,
        state: 1,
        client: end(client, 0),
        timeout_sec: u32::MAX,
        ..entry(0, server)
    };
    director.import_synced(&[template("203.0.113.0", SERVERS[1])]);
    assert_eq!(director.conns()[0].expires_in_ms, 375_000);
    let stranger = SyncConn {
        real: end("198.51.100.66", 80),
        ..template("203.0.114.0", SERVERS[0])
    };
    assert_refused(&mut director, ImportRefusal::Server, &[stranger]);
    // A template that connections use here stays with its server and its time.
    let server = open(&mut director, 10_000);
    let shorter = SyncConn {
        timeout_sec: 1,
        state: 0,
        ..template("192.0.2.0", other_than(&server))
    };
    assert_refused(&mut director, ImportRefusal::LocalConn, &[shorter]);
}

#[test]
fn templates_and_data_connections_of_ftp_name_no_port_of_their_service() {
    let ftp = service(ServiceProtocol::Tcp, "192.0.2.100", 21);
    let mut director = director(1, ftp, ForwardingMode::Nat, &SERVERS, 21);
    let template = SyncConn {
        flags: TEMPLATE | INACTIVE,
        client: end("192.0.2.2", 0),
        virt: end("192.0.2.100", 0),
        real: end(SERVERS[0], 0),
        ..entry(0, SERVERS[0])
    };
    let data = SyncConn {
        virt: end("192.0.2.100", 40_000),
        real: end(SERVERS[0], 40_000),
        ..entry(10_000, SERVERS[0])
    };
    director.import_synced(&[template, data]);
    assert_eq!((director.conns().len(), refused(&director)), (2, vec![]));
    let stranger = SyncConn {
        real: end("198.51.100.66", 40_000),
        ..data
    };
    assert_refused(&mut director, ImportRefusal::Server, &[stranger]);
}

#[test]
fn with_several_workers_each_refusal_is_counted_once() {
    let mut director = director(3, web(), ForwardingMode::FullNat, &SERVERS, 80);
    let hostile = |client: u16| SyncConn {
        local: Some(end("198.51.100.200", 2_000 + client)),
        ..entry(10_000 + client, "198.51.100.66")
    };
    director.import_synced(&(0..60).map(hostile).collect::<Vec<_>>());
    assert_eq!(refused(&director), [("entry_no_real_server", 60)]);
    let held: usize = director.workers.iter().map(|worker| worker.conns_count().0).sum();
    assert_eq!(held, 0, "not even a copy for replies");
}

/// Any entry of three clients, four real servers of which two are configured, two services of which one is.
fn entries() -> impl Strategy<Value = SyncConn> {
    let servers = prop::sample::select(vec!["198.51.100.11", "198.51.100.12", "198.51.100.66", "192.0.2.1"]);
    let parts = (
        0..3u16,
        servers,
        0..12u16,
        prop::sample::select(vec![80u16, 80, 80, 81]),
        any::<bool>(),
        any::<u32>(),
    );
    parts.prop_map(
        |(client, server, state, virt_port, is_inactive, timeout_sec)| SyncConn {
            flags: if is_inactive { INACTIVE } else { 0 },
            state: state.min(10),
            virt: end("192.0.2.100", virt_port),
            timeout_sec,
            ..entry(10_000 + client, server)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_entries_come_own_connections_stay_and_the_others_keep_the_rules(
        entries in prop::collection::vec(entries(), 1..40), is_signed: bool,
    ) {
        let mut director = backup(ForwardingMode::Nat);
        director.set_sync_policy(if is_signed { SIGNED } else { DEFAULT });
        let server = open(&mut director, 10_000);
        let own = director.conns();
        director.import_synced(&entries);
        let (kept, imported): (Vec<_>, Vec<_>) = director.conns().into_iter().partition(|conn| conn.client.1 == 10_000);
        prop_assert_eq!(&kept, &own);
        let taken = director.counters[0].synced_in.get();
        let refused: u64 = refused(&director).iter().map(|(_, count)| count).sum();
        prop_assert_eq!(taken + refused, entries.len() as u64);
        for conn in &imported {
            prop_assert_eq!(conn.virt, end("192.0.2.100", 80));
            prop_assert!(SERVERS.map(addr).contains(&conn.real.0) && conn.expires_in_ms <= 1_125_000, "{:?}", conn);
        }
        prop_assert_eq!(director.counters[0].imported[0].get(), imported.len() as u64);
        let ack = tcp4("192.0.2.2:10000 > 192.0.2.100:80").ack().build();
        let (_, out) = director.inject(WAN, &ack).transmitted();
        prop_assert!(packet(&out).contains(&server));
    }
}

#[test]
fn a_server_that_is_deleted_is_no_longer_believed() {
    let mut director = backup(ForwardingMode::Nat);
    director
        .change(|desired| desired.delete_server(&web(), addr(SERVERS[0]), 80))
        .unwrap();
    assert_refused(&mut director, ImportRefusal::Server, &[entry(10_000, SERVERS[0])]);
    let spec = ServerSpec::new(addr(SERVERS[0]), 80, ForwardingMode::Nat, 1);
    director.change(|desired| desired.add_server(&web(), spec)).unwrap();
    director.import_synced(&[entry(10_000, SERVERS[0])]);
    assert_eq!(director.conns().len(), 1);
}
