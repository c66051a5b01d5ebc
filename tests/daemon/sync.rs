//! Two directors, one master and one backup: connections made through the first go on through the second.
//!
//! Between the LANs of [`crate::two_lans`]. A has the virtual address, the servers' gateway and the local address of
//! FULLNAT; when it is killed, B gets them.

use std::fs::{self, Permissions};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use lvs_api::{SyncBulkState, SyncDaemonStatus, SyncRole};
use lvs_core::ipvs::sync::SyncConn;
use lvs_core::ipvs::sync::assembly::Assembly;
use lvs_core::ipvs::sync::policy::SyncMode;
use lvs_test_support::daemon::{Daemon, Testbed};
use lvs_test_support::namespace::Namespace;
use lvs_test_support::waits::until;
use lvsd::mgmt::sync::auth::{MessageEnds, SyncKey};
use nix::sys::signal::Signal;

use crate::two_lans::{
    FULL_NAT_PORT, Lans, NAT_PORT, connected, director, lone_director, says_and_hears, take_addresses,
};

const CONNECTIONS: usize = 8;

/// Connections through both services.
fn all_connected(client: &Namespace) -> Vec<TcpStream> {
    let ports = [NAT_PORT, FULL_NAT_PORT].into_iter();
    let each = ports.flat_map(|port| (0..CONNECTIONS).map(move |_| port));
    each.map(|port| connected(client, port)).collect()
}

fn sync_status(daemon: &Daemon<'_>, role: SyncRole) -> SyncDaemonStatus {
    let all: Vec<SyncDaemonStatus> = daemon.get("/v1/sync-daemons");
    all.into_iter().find(|status| status.daemon.role == role).unwrap()
}

/// Established connections that a director lists, as `ipvsadm -Lnc` does.
pub fn established(daemon: &Daemon<'_>) -> Vec<String> {
    let listed = daemon.printed("connections --state ESTABLISHED");
    let ends = |line: &str| line.split_whitespace().skip(3).collect::<Vec<_>>().join(" ");
    let mut lines: Vec<String> = listed
        .lines()
        .filter(|line| line.starts_with("TCP"))
        .map(ends)
        .collect();
    lines.sort();
    lines
}

/// The LANs and two directors with `more` in their configuration. The first has the addresses.
fn two_directors(more: &str) -> (Lans, Testbed, Testbed) {
    let lans = Lans::create();
    let (first, second) = (director(2, &lans.switch, more), director(3, &lans.switch, more));
    take_addresses(&first);
    (lans, first, second)
}

/// Both daemons, the first as master and the second as backup.
fn started<'a>(first: &'a Testbed, second: &'a Testbed) -> (Daemon<'a>, Daemon<'a>) {
    let (one, two) = (first.start(), second.start());
    one.printed("sync start master --interface lan --sync-id 7");
    two.printed("sync start backup --interface lan --sync-id 7");
    (one, two)
}

/// Kills the master, moves its addresses, and goes on with the connections through its backup.
fn fail_over(one: &Daemon<'_>, second: &Namespace, lans: &Lans, streams: &mut [TcpStream]) {
    one.signal(Signal::SIGKILL);
    take_addresses(second);
    for host in [&lans.client, &lans.server] {
        host.inside("ip neigh flush dev eth0");
    }
    for stream in streams {
        says_and_hears(stream, "after");
    }
}

#[test]
fn connections_of_a_killed_master_go_on_through_its_backup() {
    let (lans, first, second) = two_directors("");
    let (one, two) = started(&first, &second);
    assert_eq!(
        two.printed("sync"),
        "backup sync daemon (mcast=lan, syncid=7, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)\n"
    );
    let refused = one.lvsctl("sync start master --interface lan --sync-id 8");
    assert_eq!(refused.status.code(), Some(1), "one master is enough");

    let mut streams = all_connected(&lans.client);
    streams.iter_mut().for_each(|stream| says_and_hears(stream, "before"));
    assert_eq!(established(&one).len(), 2 * CONNECTIONS);
    until("the backup knows all connections", || {
        established(&two) == established(&one)
    });
    // Those that the backup asked for when it started are sent once more.
    let counted = || (sync_status(&one, SyncRole::Master), sync_status(&two, SyncRole::Backup));
    until("the backup has heard all that the master sent", || {
        let (master, heard) = counted();
        heard.bulk.state == SyncBulkState::Complete && heard.connections == master.connections
    });
    let (master, heard) = counted();
    assert!(
        master.running && master.messages >= 1 && master.refused.is_empty(),
        "{master:?}"
    );
    assert_eq!(
        (heard.refused.len(), heard.imported_connections),
        (0, 2 * CONNECTIONS as u64),
        "{heard:?}"
    );
    fail_over(&one, &second, &lans, &mut streams);
    assert_eq!(two.printed("drops").trim(), "nothing was dropped");
}

/// A file with a key of this letter.
fn key_file(folder: &Path, letter: char) -> PathBuf {
    let path = folder.join("sync.key");
    fs::write(&path, letter.to_string().repeat(64)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn a_signed_pair_knows_connections_that_made_their_handshake_only() {
    let folder = tempfile::tempdir().unwrap();
    let sync = format!(
        "[sync]\nmode = \"every\"\nkey_file = {:?}\n",
        key_file(folder.path(), 'a')
    );
    let (lans, first, second) = two_directors(&sync);
    let (one, two) = started(&first, &second);
    let mut streams = all_connected(&lans.client);
    until("the backup knows all connections", || {
        let known = established(&two);
        known.len() == 2 * CONNECTIONS && known == established(&one)
    });
    for (daemon, role) in [(&one, SyncRole::Master), (&two, SyncRole::Backup)] {
        let status = sync_status(daemon, role);
        assert!(status.authenticated && status.refused.is_empty(), "{status:?}");
    }
    assert!(two.printed("sync stats").contains("Imported"));
    fail_over(&one, &second, &lans, &mut streams);
    assert_eq!(two.printed("drops").trim(), "nothing was dropped");
}

/// A message that leads a client of the service to a server that nobody configured.
fn hostile_message() -> Vec<u8> {
    let end = |addr: &str, port| (addr.parse().unwrap(), port);
    let mut assembly = Assembly::new(7, 1_472);
    let conn = SyncConn {
        protocol: 6,
        flags: 0,
        state: 1,
        client: end("192.0.2.10", 5_000),
        virt: end("192.0.2.100", NAT_PORT),
        real: end("198.51.100.66", 4_444),
        local: None,
        fwmark: 0,
        timeout_sec: u32::MAX,
        shifts: None,
    };
    assert_eq!(assembly.add(&conn, 1, 0), None);
    assembly.due(SyncMode::Kernel, u64::MAX).unwrap()
}

#[test]
fn hostile_messages_change_nothing_and_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (lans, testbed) = lone_director();
    let daemon = testbed.start();
    daemon.printed("sync start backup --interface lan --sync-id 7");
    let socket = lans.server.run(|| UdpSocket::bind("198.51.100.11:8848").unwrap());
    let is_refused = |reason: &str, datagram: &[u8]| {
        let count = || {
            sync_status(&daemon, SyncRole::Backup)
                .refused
                .get(reason)
                .copied()
                .unwrap_or_default()
        };
        let before = count();
        until(reason, || {
            socket.send_to(datagram, "224.0.0.81:8848").unwrap();
            count() > before
        });
    };
    is_refused("entry_no_real_server", &hostile_message());
    let text = fs::read_to_string(testbed.path("lvsd.toml")).unwrap();
    let with = |sync: &str| {
        testbed.write_config(&format!("{sync}{text}"));
        daemon.printed("reload")
    };
    with("[sync]\npeers = [\"198.51.100.3\"]\n");
    is_refused("other_peer", &hostile_message());
    with(&format!("[sync]\nkey_file = {:?}\n", key_file(folder.path(), 'a')));
    is_refused("message_unsigned", &hostile_message());
    let signed = |letter| {
        let other = tempfile::tempdir().unwrap();
        let ends = MessageEnds {
            source: "198.51.100.11".parse().unwrap(),
            group: "224.0.0.81".parse().unwrap(),
            port: 8_848,
        };
        let since_1970 = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let key = SyncKey::read(&key_file(other.path(), letter)).unwrap();
        key.sign(&ends, since_1970, &hostile_message())
    };
    is_refused("message_signature", &signed('b'));
    // Another key in the same file, once the daemon is asked to read it again.
    key_file(folder.path(), 'b');
    daemon.printed("reload");
    let recorded = signed('b');
    is_refused("message_replayed", &recorded);
    is_refused("message_signature", &signed('a'));
    assert!(daemon.printed("status").contains("message_replayed"));
    assert_eq!(
        daemon
            .printed("connections")
            .lines()
            .filter(|line| line.starts_with("TCP"))
            .count(),
        0
    );
    daemon.stop();
}

#[test]
fn a_key_that_others_can_read_is_refused_at_the_start_and_by_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let testbed = Testbed::create();
    let path = key_file(folder.path(), 'a');
    testbed.configure(&format!("[sync]\nkey_file = {path:?}\n"));
    let shown = path.display();
    let refusal =
        format!("sync.key_file {shown} has mode 0644, so others than its owner have the key; chmod 0600 {shown}");
    let set_mode = |mode| fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    set_mode(0o644);
    assert_eq!(testbed.refused(), refusal);
    set_mode(0o600);
    let daemon = testbed.start();
    set_mode(0o644);
    let refused = daemon.lvsctl("reload");
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains(&format!("{refusal}; nothing was changed")), "{said}");
    set_mode(0o600);
    daemon.printed("reload");
    daemon.stop();
}

#[test]
fn a_daemon_comes_back_with_the_director_and_waits_for_its_interface() {
    let testbed = Testbed::create();
    testbed.configure("");
    testbed.inside("ip link set lo up");
    testbed.inside("ip link add sync0 type veth peer name sync1");
    testbed.inside("ip link set sync0 up");
    testbed.inside("ip link set sync1 up");
    testbed.address("sync0", "198.51.100.2/24");
    let daemon = testbed.start();
    let refused = daemon.lvsctl("sync start backup --interface nowhere0");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no network interface \"nowhere0\""));
    daemon.printed("sync start backup --interface sync0 --sync-id 9 --port 9999");
    daemon.signal(Signal::SIGKILL);
    drop(daemon);
    testbed.inside("ip link del sync0");

    let daemon = testbed.start();
    assert!(!sync_status(&daemon, SyncRole::Backup).running);
    until("the log names what it waits for", || {
        daemon
            .log()
            .contains("backup sync daemon: there is no network interface")
    });
    testbed.inside("ip link add sync0 type veth peer name sync1");
    testbed.inside("ip link set sync0 up");
    testbed.inside("ip link set sync1 up");
    testbed.address("sync0", "198.51.100.2/24");
    until("its sockets are open", || {
        sync_status(&daemon, SyncRole::Backup).running
    });
    let members = testbed.inside("ip -4 maddr show dev sync0");
    assert!(members.contains("224.0.0.81"), "{members}");
    daemon.printed("sync stop backup");
    assert_eq!(daemon.printed("sync"), "");
    // In the kernel's IPv6 group of the link; its socket may wait for the interface's own address.
    until("a master of an IPv6 group starts", || {
        daemon
            .lvsctl("sync start master --interface sync0 --group ff02::81 --ttl 3")
            .status
            .success()
    });
    assert_eq!(
        daemon.printed("sync"),
        "master sync daemon (mcast=sync0, syncid=0, maxlen=1452, group=ff02::81, port=8848, ttl=3)\n"
    );
    assert!(!testbed.inside("ip -4 maddr show dev sync0").contains("224.0.0.81"));
    daemon.stop();
}
