//! An lvsd of another shape goes on with the connections of the one before: other workers, other tables, other memory.

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lvs_api::{ConnRecord, ServiceStatus, Worker};
use lvs_test_support::daemon::{Daemon, Testbed};
use lvs_test_support::http;
use lvs_test_support::process::run;
use lvs_test_support::tools;
use lvs_test_support::waits::until;
use nix::sys::signal::Signal;

use crate::kept_connections::{end, listed, patch, speaking};
use crate::two_lans::{FULL_NAT_PORT, Lans, NAT_PORT, lone_director, says_and_hears};

/// Two connections of each service, which have spoken.
fn four(lans: &Lans) -> Vec<TcpStream> {
    let ports = [NAT_PORT, FULL_NAT_PORT, NAT_PORT, FULL_NAT_PORT];
    ports.iter().map(|port| speaking(&lans.client, *port)).collect()
}

fn speak(streams: &mut [TcpStream], word: &str) {
    for stream in streams {
        says_and_hears(stream, word);
    }
}

/// All connections and counts, whichever worker has them and however often they have spoken.
fn going_on(daemon: &Daemon<'_>) -> (Vec<ConnRecord>, Vec<(u64, u64)>) {
    let (mut conns, counts) = listed(daemon);
    for conn in &mut conns {
        (conn.worker, conn.in_packets) = (0, 0);
    }
    (conns, counts)
}

/// Writes the configuration anew, for so many workers and IPv4 connections.
fn reshape(testbed: &Testbed, workers: usize, ipv4_max: u32) {
    let text = fs::read_to_string(testbed.path("lvsd.toml")).unwrap();
    let mut reshaped = String::new();
    for line in text.lines() {
        let line = match line.split(" = ").next() {
            Some("worker_cores") => {
                let cpu = line.trim_end_matches(']').rsplit(['[', ' ']).next().unwrap();
                format!("worker_cores = [{}]", vec![cpu; workers].join(", "))
            }
            Some("ipv4_max") => format!("ipv4_max = {ipv4_max}"),
            _ => line.to_owned(),
        };
        reshaped += &line;
        reshaped.push('\n');
    }
    testbed.write_config(&reshaped);
}

/// Names of the workers' files.
fn workers_files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name.starts_with("worker-"));
    names.sort();
    names
}

fn kill(daemon: Daemon<'_>) {
    end(daemon, Signal::SIGKILL);
}

#[test]
fn connections_go_on_with_other_workers_and_tables_and_back() {
    let (lans, testbed) = lone_director();
    let mut daemon = testbed.start();
    let mut streams = four(&lans);
    let before = going_on(&daemon);
    let mut was = (1, 4_096);
    for (workers, ipv4_max) in [(2, 4_096), (1, 8_192), (2, 1_024), (2, 65_536), (1, 4_096)] {
        kill(daemon);
        reshape(&testbed, workers, ipv4_max);
        daemon = testbed.start();
        let what = format!("{was:?} to {workers} workers, {ipv4_max} connections");
        assert_eq!(going_on(&daemon), before, "{what}");
        let log = daemon.log();
        assert!(log.contains("connections of the lvsd before: 4 go on"), "{what}: {log}");
        if was.0 != workers {
            let why = format!("workers was {} and is {workers}", was.0);
            assert!(log.contains(&why), "{what}: {log}");
        }
        assert!(!log.contains("are lost"), "{what}: {log}");
        let files = workers_files(&testbed.state_dir());
        assert_eq!(
            files.len(),
            workers,
            "{what}: the former files are given back: {files:?}"
        );
        speak(&mut streams, &what);
        was = (workers, ipv4_max);
    }
    assert_eq!(daemon.printed("drops").trim(), "nothing was dropped");
    daemon.stop();
}

/// A start of lvsd that may have been ended.
struct Start(Child);

impl Drop for Start {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts lvsd and ends it when its main thread makes a system call for the `number`th time. Whether it became ready.
fn ended_at(testbed: &Testbed, call: &str, number: usize) -> bool {
    let mut lvsd = testbed.command();
    lvsd.args(["strace", "-D", "-qq", "-o"])
        .arg(testbed.path("strace.log"))
        .arg(format!("--trace={call}"))
        .arg(format!("--inject={call}:signal=KILL:when={number}"))
        .arg(tools::lvsd())
        .arg("--config")
        .arg(testbed.path("lvsd.toml"))
        .env_remove("RUST_LOG");
    lvsd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut start = Start(lvsd.spawn().unwrap());
    let mut is_ready = false;
    until("lvsd is ready or ended", || {
        is_ready = http::ask(&testbed.socket(), "GET", "/v1/version", "").is_some();
        is_ready || start.0.try_wait().unwrap().is_some()
    });
    is_ready
}

/// Files are made by ftruncate, named by rename, removed by ftruncate and unlink.
#[test]
fn a_start_that_is_killed_while_it_re_homes_loses_nothing() {
    let (lans, testbed) = lone_director();
    let daemon = testbed.start();
    let mut streams = four(&lans);
    let before = going_on(&daemon);
    kill(daemon);
    let mut workers = 1;
    for (call, least) in [("ftruncate", 2), ("rename", 1), ("unlink", 1)] {
        for number in 1.. {
            reshape(&testbed, 3 - workers, 4_096);
            if ended_at(&testbed, call, number) {
                assert!(number > least, "{call} {number}");
                workers = 3 - workers;
                break;
            }
            // Every second time the shape that was to be left comes back.
            if number.is_multiple_of(2) {
                reshape(&testbed, workers, 4_096);
            } else {
                workers = 3 - workers;
            }
            let daemon = testbed.start();
            let what = format!("killed at {call} {number}, then {workers} workers: {}", daemon.log());
            assert_eq!(going_on(&daemon), before, "{what}");
            assert_eq!(workers_files(&testbed.state_dir()).len(), workers, "{what}");
            speak(&mut streams, "again");
            kill(daemon);
        }
    }
}

/// What is done to a file between two runs, and what the later one says.
type Fault = (fn(&Path), &'static str);

#[test]
fn a_file_of_the_lvsd_before_that_cannot_be_read_costs_its_worker_s_connections() {
    const FAULTS: [Fault; 3] = [
        (|file| fs::remove_file(file).unwrap(), "is missing"),
        (|file| fs::write(file, "").unwrap(), "had 0 bytes"),
        (
            |file| patch(file, 0, b'L'),
            "and is damaged, or belongs to another director or worker",
        ),
    ];
    let (lans, testbed) = lone_director();
    reshape(&testbed, 2, 4_096);
    for (fault, sentence) in FAULTS {
        let daemon = testbed.start();
        let mut streams: Vec<TcpStream> = (0..8).map(|_| speaking(&lans.client, NAT_PORT)).collect();
        let counts = || {
            daemon
                .get::<Vec<Worker>>("/v1/workers")
                .iter()
                .map(|worker| worker.conns4)
                .collect::<Vec<_>>()
        };
        until("both workers have counted them", || counts().iter().sum::<u64>() == 8);
        let of_second = counts()[1];
        kill(daemon);
        let first = workers_files(&testbed.state_dir())
            .into_iter()
            .find(|name| name.starts_with("worker-0"));
        fault(&testbed.state_dir().join(first.unwrap()));
        reshape(&testbed, 1, 4_096);
        let daemon = testbed.start();
        let log = daemon.log();
        let expected = "connections of the lvsd before are lost: the file of worker 0 ";
        assert!(log.contains(expected) && log.contains(sentence), "{log}");
        assert!(
            log.contains(&format!("connections of the lvsd before: {of_second} go on")),
            "{log}"
        );
        assert_eq!(going_on(&daemon).0.len() as u64, of_second);
        streams.clear();
        kill(daemon);
        run(&mut testbed.lvsd("--forget-state"));
        reshape(&testbed, 2, 4_096);
    }
}

#[test]
fn a_file_of_the_lvsd_before_that_somebody_else_may_have_written_is_refused() {
    let testbed = Testbed::create();
    testbed.configure("");
    testbed.start().stop();
    let file = testbed.state_dir().join("worker-0");
    fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    reshape(&testbed, 1, 8_192);
    let refused = testbed.refused();
    assert!(
        refused.contains("worker-0 belongs to user 0 and has mode 0666"),
        "{refused}"
    );
    assert!(refused.contains("remove it (rm -r "), "{refused}");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let log = testbed.start().stop();
    assert!(log.contains("because ipv4_max was 4096 and is 8192"), "{log}");
}

/// A tmpfs that has space for one set of files, over several runs of the daemon.
struct SmallTmpfs(PathBuf);

impl SmallTmpfs {
    fn mount(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
            .arg(&path));
        Self(path)
    }
}

impl Drop for SmallTmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn without_space_for_both_the_connections_go_on_and_the_log_says_so() {
    let (lans, testbed) = lone_director();
    let small = SmallTmpfs::mount(testbed.path("small"));
    let state_dir = small.0.join("lvsd");
    let text = fs::read_to_string(testbed.path("lvsd.toml")).unwrap();
    let own = testbed.state_dir().display().to_string();
    testbed.write_config(&text.replace(&own, &state_dir.display().to_string()));
    let daemon = testbed.start();
    let mut streams = four(&lans);
    let before = going_on(&daemon);
    kill(daemon);
    for (ipv4_max, says, is_kept) in [
        (4_160, "has no space for two sets of tables", true),
        (65_536, "connections will not outlive lvsd: ", false),
    ] {
        reshape(&testbed, 1, ipv4_max);
        let daemon = testbed.start();
        let log = daemon.log();
        assert!(log.contains(says), "{log}");
        assert!(log.contains("connections of the lvsd before: 4 go on"), "{log}");
        assert_eq!(going_on(&daemon), before, "{ipv4_max}");
        speak(&mut streams, "squeezed");
        let files = usize::from(is_kept);
        assert_eq!(workers_files(&state_dir).len(), files, "{ipv4_max}");
        kill(daemon);
    }
}

#[test]
fn connections_go_on_without_the_journal_and_rules_without_the_connections() {
    let (lans, testbed) = lone_director();
    let daemon = testbed.start();
    let mut streams = four(&lans);
    let before = going_on(&daemon);
    kill(daemon);
    fs::remove_file(testbed.path("journal")).unwrap();
    let daemon = testbed.start();
    assert_eq!(going_on(&daemon), before);
    speak(&mut streams, "from the configuration");
    daemon.printed("server delete tcp:192.0.2.100:80 198.51.100.11:8080");
    kill(daemon);
    fs::remove_dir_all(testbed.state_dir()).unwrap();
    let daemon = testbed.start();
    let services: Vec<ServiceStatus> = daemon.get("/v1/services");
    let servers: Vec<usize> = services.iter().map(|service| service.servers.len()).collect();
    assert_eq!((going_on(&daemon).0.len(), servers), (0, vec![0, 1]));
    daemon.stop();
}
