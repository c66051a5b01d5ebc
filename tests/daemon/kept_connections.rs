//! Connections outlive the daemon, however it ends; what cannot be kept is lost with a sentence in the log.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use lvs_api::{ConnRecord, RestartStatus, ServiceStatus, TakenOver};
use lvs_test_support::daemon::{Daemon, Testbed};
use lvs_test_support::namespace::Namespace;
use lvs_test_support::process::run;
use lvs_test_support::waits::until;
use nix::sys::signal::Signal;

use crate::two_lans::{FULL_NAT_PORT, NAT_PORT, connected, lone_director, says_and_hears};

/// All connections but for the time that they have left, and how many of them each service has in which state.
pub fn listed(daemon: &Daemon<'_>) -> (Vec<ConnRecord>, Vec<(u64, u64)>) {
    let (status, body) = daemon.ask("GET", "/v1/connections", "");
    assert_eq!(status, 200);
    // A line each, between the sizes of chunks.
    let lines = body.lines().filter(|line| line.starts_with('{'));
    let mut conns: Vec<ConnRecord> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    for conn in &mut conns {
        assert!(conn.expires_in_ms > 600_000, "{conn:?}");
        conn.expires_in_ms = 0;
    }
    conns.sort_by_key(|conn| (conn.virt, conn.client));
    let services: Vec<ServiceStatus> = daemon.get("/v1/services");
    let counts = services.iter().flat_map(|service| &service.servers);
    let counts = counts.map(|server| (u64::from(server.active_conns), u64::from(server.inactive_conns)));
    (conns, counts.collect())
}

/// A connection through which something has come back.
pub fn speaking(client: &Namespace, port: u16) -> TcpStream {
    let mut stream = connected(client, port);
    says_and_hears(&mut stream, "before");
    stream
}

/// Ends the daemon by a signal, and waits.
pub fn end(daemon: Daemon<'_>, signal: Signal) {
    if signal == Signal::SIGTERM {
        daemon.stop();
    } else {
        daemon.signal(signal);
    }
}

#[test]
fn connections_go_on_after_a_kill_and_after_a_stop() {
    let (lans, testbed) = lone_director();
    let mut daemon = testbed.start();
    let ports = [NAT_PORT, FULL_NAT_PORT, NAT_PORT, FULL_NAT_PORT];
    let mut streams: Vec<TcpStream> = ports.iter().map(|port| speaking(&lans.client, *port)).collect();
    for (word, signal) in [
        ("killed", Signal::SIGKILL),
        ("stopped", Signal::SIGTERM),
        ("again", Signal::SIGKILL),
    ] {
        let before = listed(&daemon);
        assert_eq!((before.0.len(), before.1.as_slice()), (4, [(2, 0), (2, 0)].as_slice()));
        end(daemon, signal);
        daemon = testbed.start();
        assert_eq!(listed(&daemon), before, "{word}");
        let log = daemon.log();
        assert!(log.contains("connections of the lvsd before: 4 go on"), "{log}");
        assert!(log.contains("started in ") && log.contains(", connections "), "{log}");
        for stream in &mut streams {
            says_and_hears(stream, word);
        }
        let services: Vec<ServiceStatus> = daemon.get("/v1/services");
        assert!(
            services.iter().all(|service| service.totals.connections == 2),
            "none began anew"
        );
    }
    assert_eq!(daemon.printed("drops").trim(), "nothing was dropped");
    drop(streams);
    daemon.stop();
}

/// What deletes a server, and what brings it back.
const DELETIONS: [(&str, &[&str]); 2] = [
    (
        "server delete tcp:192.0.2.100:80 198.51.100.11:8080",
        &["server add tcp:192.0.2.100:80 198.51.100.11:8080"],
    ),
    (
        "service delete tcp:192.0.2.100:80",
        &[
            "service add tcp:192.0.2.100:80",
            "server add tcp:192.0.2.100:80 198.51.100.11:8080",
        ],
    ),
];

#[test]
fn connections_of_a_deleted_server_are_dropped_until_it_is_added_again_over_restarts_too() {
    for (delete, bring_back) in DELETIONS {
        let (lans, testbed) = lone_director();
        let mut daemon = testbed.start();
        let mut stream = speaking(&lans.client, NAT_PORT);
        daemon.printed(delete);
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            end(daemon, signal);
            daemon = testbed.start();
            let (conns, _) = listed(&daemon);
            assert_eq!(conns.len(), 1);
            stream.write_all(b"to nobody").unwrap();
            until("its packets are dropped by name", || {
                daemon.drops_of("real_server_gone") > 0
            });
        }
        bring_back.iter().for_each(|command| drop(daemon.printed(command)));
        let mut echo = [0; 2 * b"to nobody".len()];
        stream.read_exact(&mut echo).unwrap();
        says_and_hears(&mut stream, "back");
        daemon.stop();
    }
}

/// What is done to the directory between two runs, and what the later one says.
type Fault = (&'static str, fn(&Testbed), &'static str);

/// Writes one byte of a file.
pub fn patch(path: &Path, at: u64, byte: u8) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[byte], at).unwrap();
}

/// Replaces a line of the header, whose checksum is right again.
fn edit_header(testbed: &Testbed, name: &str, value: &str) {
    let path = testbed.state_dir().join("header");
    let text = fs::read_to_string(&path).unwrap();
    let mut edited = String::new();
    for line in text.lines().filter(|line| !line.starts_with("crc32 ")) {
        let is_wanted = line.split(' ').next() == Some(name);
        edited += &if is_wanted {
            format!("{name} {value}\n")
        } else {
            format!("{line}\n")
        };
    }
    let checksum = crc32fast::hash(edited.as_bytes());
    fs::write(path, format!("{edited}crc32 {checksum:08x}\n")).unwrap();
}

const FAULTS: [Fault; 8] = [
    (
        "missing",
        |testbed| fs::remove_file(testbed.state_dir().join("worker-0")).unwrap(),
        "are lost: the file of worker 0 is missing",
    ),
    (
        "truncated",
        |testbed| fs::write(testbed.state_dir().join("worker-0"), "").unwrap(),
        "are lost: the file of worker 0 had 0 bytes",
    ),
    (
        "no arena",
        |testbed| patch(&testbed.state_dir().join("worker-0"), 0, b'L'),
        "are lost: the file of worker 0 is damaged, or belongs to another director or worker",
    ),
    (
        "another layout",
        |testbed| patch(&testbed.state_dir().join("worker-0"), 8, 99),
        "are lost: the file of worker 0 is damaged, or belongs to another director or worker",
    ),
    (
        "another secret",
        |testbed| edit_header(testbed, "secret", &"17".repeat(32)),
        "are lost: the file of worker 0 is damaged, or belongs to another director or worker",
    ),
    (
        "a damaged header",
        |testbed| patch(&testbed.state_dir().join("header"), 30, b'~'),
        "are lost: its header is damaged",
    ),
    (
        "another boot",
        |testbed| edit_header(testbed, "boot", "yesterday"),
        "are lost: boot was yesterday and is ",
    ),
    (
        "another version",
        |testbed| edit_header(testbed, "layout", "2"),
        "are lost: layout was 2 and is ",
    ),
];

#[test]
fn what_cannot_be_kept_is_lost_with_its_cause_in_the_log_and_the_next_ones_are_kept_again() {
    let (lans, testbed) = lone_director();
    let mut daemon = testbed.start();
    let mut streams = Vec::new();
    for (what, fault, sentence) in FAULTS {
        streams.push(speaking(&lans.client, NAT_PORT));
        assert_eq!(listed(&daemon).0.len(), 1, "{what}");
        end(daemon, Signal::SIGKILL);
        fault(&testbed);
        daemon = testbed.start();
        let log = daemon.log();
        assert!(
            log.contains(&format!("connections of the lvsd before {sentence}")),
            "{what}: {log}"
        );
        assert_eq!(listed(&daemon), (Vec::new(), vec![(0, 0), (0, 0)]), "{what}");
    }
    daemon.stop();
}

#[test]
fn a_damaged_record_costs_one_connection() {
    let (lans, testbed) = lone_director();
    let daemon = testbed.start();
    let streams: Vec<TcpStream> = (0..3).map(|_| speaking(&lans.client, NAT_PORT)).collect();
    let client_port = streams[1].local_addr().unwrap().port();
    end(daemon, Signal::SIGKILL);
    let path = testbed.state_dir().join("worker-0");
    let bytes = fs::read(&path).unwrap();
    let mut client_end = vec![192, 0, 2, 10];
    client_end.extend(client_port.to_ne_bytes());
    let at = bytes
        .windows(6)
        .position(|window| window == client_end)
        .expect("its record");
    patch(&path, at as u64, 193);
    let daemon = testbed.start();
    assert_eq!(listed(&daemon).0.len(), 2);
    let log = daemon.log();
    assert!(
        log.contains("2 go on") && log.contains("1 are lost with damaged records"),
        "{log}"
    );
    daemon.stop();
}

/// Lets the testbed's daemon keep its connections elsewhere.
fn set_state_dir(testbed: &Testbed, path: &Path) {
    let own = format!("state_dir = {:?}", testbed.state_dir());
    testbed.edit_config(&own, &format!("state_dir = {path:?}"));
}

#[test]
fn a_directory_that_another_lvsd_or_another_user_has_is_refused() {
    let (first, second) = (Testbed::create(), Testbed::create());
    first.configure("");
    second.configure("");
    let state_dir = first.state_dir();
    set_state_dir(&second, &state_dir);
    let mut daemon = first.start();
    assert_eq!(
        second.refused(),
        format!(
            "another lvsd keeps its connections in {}; stop it first, or set another connections.state_dir",
            state_dir.display()
        )
    );
    assert!(daemon.is_alive());
    daemon.stop();
    fs::set_permissions(&state_dir, Permissions::from_mode(0o755)).unwrap();
    let refused = first.refused();
    assert!(refused.contains("belongs to user 0 and has mode 0755"), "{refused}");
    assert!(
        refused.contains(&format!("remove it (rm -r {})", state_dir.display())),
        "{refused}"
    );
}

#[test]
fn without_space_lvsd_starts_and_says_that_connections_will_not_outlive_it() {
    let testbed = Testbed::create();
    testbed.configure("");
    let small = testbed.path("small");
    fs::create_dir(&small).unwrap();
    let state_dir = small.join("lvsd");
    set_state_dir(&testbed, &state_dir);
    let daemon = testbed.start_behind(&format!("mount -t tmpfs -o size=1m tmpfs {}", small.display()));
    let seen = PathBuf::from(format!("/proc/{}/root{}", daemon.pid(), state_dir.display()));
    assert_eq!(fs::read_dir(seen).unwrap().count(), 0, "what was taken is given back");
    let log = daemon.stop();
    let expected = format!("connections will not outlive lvsd: {} has no ", state_dir.display());
    assert!(
        log.contains(&expected) && log.contains("or lower ipv4_max and ipv6_max"),
        "{log}"
    );
}

#[test]
fn the_memory_is_given_back_when_asked_for() {
    let testbed = Testbed::create();
    testbed.configure("");
    let state_dir = testbed.state_dir();
    let daemon = testbed.start();
    let refused = testbed.lvsd("--forget-state").output().unwrap();
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("another lvsd keeps its connections"),
        "{refused:?}"
    );
    daemon.stop();
    assert!(state_dir.join("worker-0").exists());
    let expected = |text: &str| format!("{}: {text}\n", state_dir.display());
    assert_eq!(
        run(&mut testbed.lvsd("--forget-state")),
        expected("the memory of connections was given back")
    );
    assert!(!state_dir.exists());
    assert_eq!(
        run(&mut testbed.lvsd("--forget-state")),
        expected("no connections are kept there")
    );

    testbed.start().stop();
    testbed.edit_config("[connections]\n", "[connections]\nkeep = false\n");
    let log = testbed.start().stop();
    assert!(log.contains("connections are not kept: the memory in "), "{log}");
    assert!(!state_dir.exists());
}

#[test]
fn the_memory_is_given_back_while_connections_go_on_and_the_next_daemon_begins_without_them() {
    let (lans, testbed) = lone_director();
    let daemon = testbed.start();
    let mut stream = speaking(&lans.client, NAT_PORT);
    let restart = |daemon: &Daemon<'_>| daemon.get::<RestartStatus>("/v1/restart");
    assert_eq!(
        restart(&daemon).kept_in,
        Some(testbed.state_dir().display().to_string())
    );
    assert_eq!(restart(&daemon).taken_over, None);
    end(daemon, Signal::SIGKILL);

    let daemon = testbed.start();
    let taken_over = TakenOver {
        connections: 1,
        ..TakenOver::default()
    };
    assert_eq!(restart(&daemon).taken_over, Some(taken_over));
    let shown = daemon.printed("status");
    assert!(
        shown.contains("; 1 of the lvsd before go on, 0 were lost; started in "),
        "{shown}"
    );
    says_and_hears(&mut stream, "kept");
    for _ in 0..2 {
        daemon.printed("state forget");
        assert_eq!(fs::read_dir(testbed.state_dir()).unwrap().count(), 0);
    }
    assert_eq!(restart(&daemon).kept_in, None);
    says_and_hears(&mut stream, "not kept");
    daemon.printed("service add udp:192.0.2.100:53");
    daemon.stop();
    assert_eq!(
        fs::read_dir(testbed.state_dir()).unwrap().count(),
        0,
        "nothing is written any more"
    );

    let daemon = testbed.start();
    let after = restart(&daemon);
    assert_eq!((after.taken_over, after.stages.len()), (None, 6));
    assert!(after.kept_in.is_some());
    assert_eq!(listed(&daemon).0, []);
    let services: Vec<ServiceStatus> = daemon.get("/v1/services");
    assert!(services.iter().all(|service| service.totals.connections == 0));
    daemon.stop();
}
