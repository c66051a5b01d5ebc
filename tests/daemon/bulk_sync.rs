//! A pair whose backup lacks connections: it starts late, messages do not reach it, or its state was lost. It asks the
//! master for all connections and has them.
//!
//! Between the LANs of [`crate::two_lans`]. Most connections come from a third director, which the server plays.

use std::fs;
use std::net::UdpSocket;

use lvs_api::{SyncBulkState, SyncDaemonStatus, SyncRole};
use lvs_core::ipvs::sync::SyncConn;
use lvs_core::ipvs::sync::assembly::Assembly;
use lvs_core::ipvs::sync::policy::SyncMode;
use lvs_test_support::daemon::{Daemon, Testbed};
use lvs_test_support::namespace::Namespace;
use lvs_test_support::waits::until;
use nix::sys::signal::Signal;

use crate::sync::established;
use crate::two_lans::{Lans, NAT_PORT, connected, director, says_and_hears, take_addresses};

const CONNECTIONS: usize = 20_000;
/// Of each client's address.
const CLIENT_PORTS: usize = 40_000;
/// Of the third director, so that only a daemon of this id hears it.
const OTHER_ID: u8 = 9;

fn status(daemon: &Daemon<'_>, role: SyncRole) -> SyncDaemonStatus {
    let all: Vec<SyncDaemonStatus> = daemon.get("/v1/sync-daemons");
    all.into_iter().find(|status| status.daemon.role == role).unwrap()
}

fn imported(daemon: &Daemon<'_>) -> usize {
    status(daemon, SyncRole::Backup).imported_connections as usize
}

fn state(daemon: &Daemon<'_>, role: SyncRole) -> SyncBulkState {
    status(daemon, role).bulk.state
}

/// A director with space for all connections, which sends every one.
fn large_director(number: u8, switch: &Namespace) -> Testbed {
    let testbed = director(number, switch, "[sync]\nmode = \"every\"\n");
    let path = testbed.path("lvsd.toml");
    let text = fs::read_to_string(&path).unwrap();
    let space = format!("ipv4_max = {}", (2 * CONNECTIONS).next_power_of_two());
    fs::write(path, text.replace("ipv4_max = 4096", &space)).unwrap();
    testbed
}

/// The messages of the third director.
fn messages() -> Vec<Vec<u8>> {
    let end = |addr: &str, port| (addr.parse().unwrap(), port);
    let mut assembly = Assembly::new(OTHER_ID, 1_472);
    let mut messages: Vec<Vec<u8>> = (0..CONNECTIONS)
        .filter_map(|number| {
            let conn = SyncConn {
                protocol: 6,
                flags: 0,
                state: 1,
                client: end(
                    &format!("203.0.113.{}", number / CLIENT_PORTS),
                    10_000 + (number % CLIENT_PORTS) as u16,
                ),
                virt: end("192.0.2.100", NAT_PORT),
                real: end("198.51.100.11", 8_080),
                local: None,
                fwmark: 0,
                timeout_sec: 900,
                shifts: None,
            };
            assembly.add(&conn, 1, 0)
        })
        .collect();
    messages.extend(assembly.due(SyncMode::Kernel, u64::MAX));
    messages
}

/// Gives `daemon` the connections of the third director, and then a backup of the pair in the place of that one's.
fn fill(daemon: &Daemon<'_>, server: &Namespace) {
    daemon.printed(&format!("sync start backup --interface lan --sync-id {OTHER_ID}"));
    let socket = server.run(|| UdpSocket::bind("198.51.100.11:8848").unwrap());
    let messages = messages();
    let mut sent = 0;
    for some in messages.chunks(40) {
        sent += some.len();
        // All but the last messages are full.
        let wanted = if sent == messages.len() { CONNECTIONS } else { sent * 40 };
        until("the connections of the third director arrive", || {
            for message in some {
                socket.send_to(message, "224.0.0.81:8848").unwrap();
            }
            imported(daemon) >= wanted
        });
    }
    daemon.printed("sync stop backup");
    assert_eq!(imported_of_pair(daemon), CONNECTIONS);
}

/// Starts the backup of the pair on a director, and counts what is imported there.
fn imported_of_pair(daemon: &Daemon<'_>) -> usize {
    daemon.printed("sync start backup --interface lan --sync-id 7");
    imported(daemon)
}

#[test]
fn a_backup_that_starts_late_was_cut_off_or_lost_its_state_has_all_connections_again() {
    let Lans { switch, client, server } = Lans::create();
    let (first, second) = (large_director(2, &switch), large_director(3, &switch));
    take_addresses(&first);
    let (one, two) = (first.start(), second.start());
    fill(&one, &server);
    one.printed("sync start master --interface lan --sync-id 7");

    // It starts late.
    two.printed("sync start master --interface lan --sync-id 7");
    imported_of_pair(&two);
    until("the backup has all connections", || {
        imported(&two) == CONNECTIONS && state(&two, SyncRole::Backup) == SyncBulkState::Complete
    });
    let copied = status(&one, SyncRole::Master).bulk;
    assert!(
        copied.runs >= 1 && copied.connections >= CONNECTIONS as u64,
        "{copied:?}"
    );
    assert!(two.printed("sync stats").contains("complete"));

    // Messages do not reach it.
    for line in [
        "add table netdev cut",
        "add chain netdev cut in { type filter hook ingress device \"lan\" priority 0; }",
        "add rule netdev cut in udp dport 8848 drop",
    ] {
        let mut nft = second.command();
        lvs_test_support::process::run(nft.args(["nft", line]));
    }
    let mut streams: Vec<_> = (0..8).map(|_| connected(&client, NAT_PORT)).collect();
    until("the master knows new connections", || {
        established(&one).len() == CONNECTIONS + 8
    });
    assert_eq!(imported(&two), CONNECTIONS);
    second.inside("nft delete table netdev cut");
    until("the backup has those too", || {
        imported(&two) == CONNECTIONS + 8 && state(&two, SyncRole::Backup) == SyncBulkState::Complete
    });
    assert!(status(&two, SyncRole::Backup).refused["message_lost"] >= 1);

    // The master restarts without its state, and learns what the backup has.
    one.signal(Signal::SIGKILL);
    drop(one);
    fs::remove_dir_all(first.state_dir()).unwrap();
    let one = first.start();
    until("the former master has all connections again", || {
        imported(&one) == CONNECTIONS + 8 && state(&one, SyncRole::Backup) == SyncBulkState::Complete
    });
    for stream in &mut streams {
        says_and_hears(stream, "again");
    }
    one.stop();
    two.stop();
}
