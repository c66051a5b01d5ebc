//! Run-time changes survive a reload; edits of the file take effect.

use std::sync::Arc;

use lvs_core::ipvs::sync::policy::{SyncAccept, SyncMode};

use super::*;
use crate::mgmt::fake_worker::FakeWorker;

fn state(text: &str) -> State {
    serde_json::from_str(text).unwrap()
}

const FILE: &str = r#"{"services": [
    {"service": "tcp:192.0.2.1:80", "scheduler": "rr",
     "servers": [{"server": "198.51.100.1:80", "weight": 1}, {"server": "198.51.100.2:80", "weight": 2}]},
    {"service": "tcp:192.0.2.2:80"}],
    "timeouts": {"tcp_sec": 900, "tcp_fin_sec": 120, "udp_sec": 300}}"#;

/// As after `lvsctl`: a server drained, one added, a service added, one deleted, a timeout set.
const RUNNING: &str = r#"{"services": [
    {"service": "tcp:192.0.2.1:80", "scheduler": "rr",
     "servers": [{"server": "198.51.100.1:80", "weight": 0}, {"server": "198.51.100.2:80", "weight": 2},
                 {"server": "198.51.100.3:80", "weight": 9}]},
    {"service": "udp:192.0.2.9:53"}],
    "timeouts": {"tcp_sec": 900, "tcp_fin_sec": 120, "udp_sec": 10}}"#;

#[test]
fn an_unchanged_file_changes_nothing() {
    let merged = merge(&state(FILE), &state(FILE), state(RUNNING));
    assert_eq!(
        merged,
        Merged {
            state: state(RUNNING),
            left_out: vec![]
        }
    );
}

#[test]
fn the_first_load_brings_the_whole_file() {
    assert_eq!(
        merge(&State::default(), &state(FILE), State::default()).state,
        state(FILE)
    );
}

#[test]
fn only_edited_fields_are_taken_over() {
    let edited = FILE.replace(r#""weight": 2"#, r#""weight": 2, "upper_threshold_conns": 50"#);
    let edited = edited.replace(r#""tcp_sec": 900"#, r#""tcp_sec": 600"#);
    let merged = merge(&state(FILE), &state(&edited), state(RUNNING)).state;
    let servers = &merged.services[0].servers;
    let shown: Vec<_> = servers
        .iter()
        .map(|server| (server.weight, server.upper_threshold_conns))
        .collect();
    assert_eq!(shown, [(0, 0), (2, 50), (9, 0)]);
    assert_eq!(
        merged.timeouts,
        Some(Timeouts {
            tcp_sec: 600,
            tcp_fin_sec: 120,
            udp_sec: 10
        })
    );
}

#[test]
fn what_the_file_drops_goes_and_what_it_adds_comes() {
    let edited = state(
        r#"{"services": [{"service": "tcp:192.0.2.1:80", "scheduler": "wrr",
            "servers": [{"server": "198.51.100.2:80", "weight": 2}, {"server": "198.51.100.4:80"}]}]}"#,
    );
    let merged = merge(&state(FILE), &edited, state(RUNNING));
    let service = &merged.state.services[0];
    let ends: Vec<_> = service.servers.iter().map(|server| server.server.to_string()).collect();
    assert_eq!(ends, ["198.51.100.2:80", "198.51.100.3:80", "198.51.100.4:80"]);
    assert_eq!(service.scheduler, "wrr");
    assert_eq!(merged.state.services[1].service.to_string(), "udp:192.0.2.9:53");
    assert_eq!(merged.left_out, Vec::<String>::new());
}

#[test]
fn an_edit_of_what_was_deleted_at_run_time_is_left_out_and_said() {
    let edited = FILE.replace(
        r#""service": "tcp:192.0.2.2:80""#,
        r#""service": "tcp:192.0.2.2:80", "scheduler": "sh""#,
    );
    let merged = merge(&state(FILE), &state(&edited), state(RUNNING));
    assert_eq!(merged.state, state(RUNNING));
    assert!(merged.left_out[0].contains("tcp:192.0.2.2:80"), "{:?}", merged.left_out);
}

#[test]
fn a_service_that_the_file_names_for_the_first_time_gets_the_files_settings_and_keeps_its_own_servers() {
    let edited = FILE.replace(
        r#"{"service": "tcp:192.0.2.2:80"}"#,
        r#"{"service": "tcp:192.0.2.2:80"}, {"service": "udp:192.0.2.9:53", "scheduler": "sh"}"#,
    );
    let merged = merge(&state(FILE), &state(&edited), state(RUNNING)).state;
    assert_eq!(merged.services[1].scheduler, "sh");
}

#[test]
fn keys_read_only_at_start_are_named() {
    let started = "socket = 'a'\n[workers]\ncount = 2\nconns4 = 10\n[[service]]\nid = 1\n[timeouts]\ntcp = 1\n";
    let now =
        "socket = 'a'\n[workers]\ncount = 3\nconns4 = 10\npause = 1\n[log]\nlevel = 'info'\n[timeouts]\ntcp = 2\n";
    let keys = restart_needed(
        &started.parse().unwrap(),
        &now.parse().unwrap(),
        &["service", "timeouts"],
    );
    assert_eq!(keys, ["log.level", "workers.count", "workers.pause"]);
}

struct Bench {
    director: Director,
    reloader: Reloader,
    directory: tempfile::TempDir,
}

const TOML: &str = r#"
[workers]
count = 1
[timeouts]
udp_sec = 77
[[service]]
protocol = "tcp"
address = "192.0.2.1"
port = 80
scheduler = "rr"
[[service.real_server]]
address = "198.51.100.1"
mode = "nat"
weight = 2
"#;

impl Bench {
    fn new() -> Self {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("lvsd.toml");
        fs::write(&path, TOML).unwrap();
        let (mut director, _) = Director::restore(&directory.path().join("journal")).unwrap();
        load(
            &mut director,
            &Config::parse(TOML, "lvsd.toml").unwrap(),
            SyncSettings::default(),
            Instant::now(),
        )
        .unwrap();
        Self {
            director,
            reloader: Reloader::new(path, TOML),
            directory,
        }
    }

    fn reload(&mut self, text: &str) -> Result<ReloadReport, ApiError> {
        fs::write(self.directory.path().join("lvsd.toml"), text).unwrap();
        self.reloader.reload(&mut self.director, Instant::now())
    }

    fn weight(&self) -> u32 {
        self.director.state().services[0].servers[0].weight
    }

    fn drain(&mut self) {
        let action = r#"{"edit_server": {"service": "tcp:192.0.2.1:80", "server": "198.51.100.1:80",
            "patch": {"weight": 0}}}"#;
        self.director
            .apply(serde_json::from_str(action).unwrap(), Instant::now())
            .unwrap();
    }
}

#[test]
fn the_file_is_there_after_the_first_start_and_a_reload_applies_only_edits() {
    let mut bench = Bench::new();
    assert_eq!((bench.weight(), bench.director.timeouts().udp_sec), (2, 77));
    bench.drain();
    assert!(bench.reload(TOML).unwrap().applied.is_empty());
    assert_eq!(bench.weight(), 0);
    let edited = TOML
        .replace("weight = 2", "weight = 5")
        .replace("count = 1", "count = 2");
    let report = bench.reload(&edited).unwrap();
    assert_eq!(bench.weight(), 5);
    assert_eq!(report.applied.servers_changed.len(), 1);
    assert_eq!(report.restart_needed, ["workers.count"]);
}

#[test]
fn a_broken_file_changes_nothing_and_the_error_names_line_and_key() {
    let mut bench = Bench::new();
    bench.drain();
    let before = bench.director.state();
    for text in [
        TOML.replace("scheduler =", "sheduler ="),
        TOML.replace("weight = 2", "weight = 2147483648"),
        "[".to_owned(),
    ] {
        let error = bench.reload(&text).unwrap_err();
        assert!(
            error.code == ErrorCode::ConfigRefused && error.message.contains("lvsd.toml:"),
            "{error}"
        );
        assert_eq!(bench.director.state(), before);
    }
    fs::remove_file(bench.directory.path().join("lvsd.toml")).unwrap();
    assert!(bench.reloader.reload(&mut bench.director, Instant::now()).is_err());
}

#[test]
fn workers_follow_an_edit_of_sync_and_a_key_that_cannot_be_used_changes_nothing() {
    let mut bench = Bench::new();
    let worker = FakeWorker::new();
    bench.director.attach(vec![Arc::clone(&worker) as _], Instant::now());
    let every = format!("{TOML}[sync]\nmode = \"every\"\naccept = \"kernel\"\n");
    assert_eq!(bench.reload(&every).unwrap().restart_needed, Vec::<String>::new());
    let policy = worker.snapshot().sync_policy;
    assert_eq!((policy.mode, policy.accept), (SyncMode::Every, SyncAccept::Kernel));
    let missing = bench.directory.path().join("missing.key");
    let error = bench
        .reload(&format!("{TOML}[sync]\nkey_file = {missing:?}\n"))
        .unwrap_err();
    let named = format!("sync.key_file {}: No such file", missing.display());
    assert!(
        error.code == ErrorCode::ConfigRefused && error.message.starts_with(&named),
        "{error}"
    );
    assert_eq!(worker.snapshot().sync_policy, policy);
}

#[test]
fn run_time_changes_and_the_base_survive_a_restart_with_an_edited_file() {
    let mut bench = Bench::new();
    bench.drain();
    let Bench {
        director, directory, ..
    } = bench;
    drop(director);
    let (mut director, report) = Director::restore(&directory.path().join("journal")).unwrap();
    assert_eq!(report.refused, Vec::<String>::new());
    let edited = TOML.replace("udp_sec = 77", "udp_sec = 66");
    let report = load(
        &mut director,
        &Config::parse(&edited, "lvsd.toml").unwrap(),
        SyncSettings::default(),
        Instant::now(),
    )
    .unwrap();
    assert!(report.applied.timeouts_changed && report.applied.servers_changed.is_empty());
    assert_eq!(director.state().services[0].servers[0].weight, 0);
}

#[test]
fn persistence_marks_and_settings_of_an_edited_file_take_effect_without_a_restart() {
    let mut bench = Bench::new();
    let edited = format!(
        "[[mark]]\nmark = 66\n[sysctl]\nsloppy_tcp = 1\n{TOML}\n[[service]]\nfwmark = 66\npersistence_timeout_sec = 10\n"
    );
    let report = bench.reload(&edited).unwrap();
    assert_eq!(report.restart_needed, Vec::<String>::new());
    let marked = |bench: &Bench| bench.director.state().services.pop().unwrap();
    assert_eq!(marked(&bench).service.to_string(), "fwm:66");
    let edited = edited.replace("timeout_sec = 10", "timeout_sec = 20");
    let report = bench.reload(&edited).unwrap();
    assert_eq!(report.applied.services_changed.len(), 1);
    assert_eq!(marked(&bench).persistence.map(|now| now.timeout_sec), Some(20));
}

const BALANCING: &str = r#"
[sysctl]
drop_entry = 1
sloppy_tcp = 1
[[mark]]
mark = 1
protocol = "tcp"
[[mark]]
mark = 2
protocol = "udp"
"#;

fn marks(bench: &Bench) -> Vec<u32> {
    bench.director.mark_rules().iter().map(|rule| rule.mark).collect()
}

#[test]
fn settings_changed_at_run_time_stay_until_the_file_says_something_else() {
    let mut bench = Bench::new();
    let file = format!("{BALANCING}{TOML}");
    bench.reload(&file).unwrap();
    let set = r#"{"set_sysctls": {"drop_entry": "3", "drop_packet": "2"}}"#;
    let now = Instant::now();
    bench.director.apply(serde_json::from_str(set).unwrap(), now).unwrap();
    assert!(bench.reload(&file).unwrap().applied.is_empty());
    let shown = |bench: &Bench, name: &str| bench.director.settings()[name].clone();
    assert_eq!(shown(&bench, "drop_entry"), "3");
    // One is edited, one is taken out, one was never in the file.
    let edited = file
        .replace("drop_entry = 1", "drop_entry = 0")
        .replace("sloppy_tcp = 1\n", "");
    let report = bench.reload(&edited).unwrap();
    assert_eq!(report.applied.sysctls_changed, ["drop_entry", "sloppy_tcp"]);
    let values = ["drop_entry", "sloppy_tcp", "drop_packet"].map(|name| shown(&bench, name));
    assert_eq!(values, ["0", "0", "2"]);
}

#[test]
fn mark_rules_of_run_time_keep_their_place_when_the_file_is_edited() {
    let mut bench = Bench::new();
    let file = format!("{BALANCING}{TOML}");
    bench.reload(&file).unwrap();
    let now = Instant::now();
    for add in [
        r#"{"add_mark": {"position": 1, "rule": {"mark": 11, "protocol": "tcp", "source": "198.51.100.1"}}}"#,
        r#"{"add_mark": {"position": 0, "rule": {"mark": 10, "protocol": "sctp"}}}"#,
        r#"{"add_mark": {"rule": {"mark": 12, "protocol": "icmp"}}}"#,
    ] {
        bench.director.apply(serde_json::from_str(add).unwrap(), now).unwrap();
    }
    assert_eq!(marks(&bench), [10, 1, 11, 2, 12]);
    assert!(!bench.reload(&file).unwrap().applied.marks_changed);
    assert_eq!(marks(&bench), [10, 1, 11, 2, 12]);

    let third = "[[mark]]\nmark = 3\nsource = \"203.0.113.0/24\"\n";
    let edited = file
        .replace("mark = 2\n", "mark = 22\n")
        .replace("[sysctl]", &format!("{third}[sysctl]"));
    assert!(bench.reload(&edited).unwrap().applied.marks_changed);
    assert_eq!(marks(&bench), [10, 3, 1, 11, 22, 12]);

    // What was deleted at run time stays away, and an edit of it is said.
    let delete = r#"{"delete_mark": {"position": 4}}"#;
    bench
        .director
        .apply(serde_json::from_str(delete).unwrap(), now)
        .unwrap();
    let report = bench.reload(&edited.replace("mark = 22\n", "mark = 23\n")).unwrap();
    assert_eq!(marks(&bench), [10, 3, 1, 11, 12]);
    assert!(report.left_out[0].contains("mark 23"), "{:?}", report.left_out);
    // What the file drops goes.
    bench.reload(TOML).unwrap();
    assert_eq!(marks(&bench), [10, 11, 12]);
}

#[test]
fn settings_and_mark_rules_of_run_time_survive_a_restart_but_a_rule_for_a_device_that_is_gone_does_not() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("journal");
    let now = Instant::now();
    let restored = |devices: &[&str]| {
        let devices = devices.iter().map(|name| (*name).to_owned()).collect();
        Director::restore_with_devices(&path, devices).unwrap()
    };
    let (mut director, _) = restored(&["wan", "lan"]);
    load(
        &mut director,
        &Config::parse(TOML, "lvsd.toml").unwrap(),
        SyncSettings::default(),
        now,
    )
    .unwrap();
    for action in [
        r#"{"set_sysctls": {"conn_reuse_mode": "0"}}"#,
        r#"{"set_marks": [{"mark": 1, "device": "lan"}, {"mark": 2, "device": "wan", "divert": true}]}"#,
    ] {
        director.apply(serde_json::from_str(action).unwrap(), now).unwrap();
    }
    let before = director.state();
    // Once from single records, once from one whole.
    for _ in 0..2 {
        drop(director);
        let report;
        (director, report) = restored(&["wan", "lan"]);
        assert_eq!(report.refused, Vec::<String>::new());
        load(
            &mut director,
            &Config::parse(TOML, "lvsd.toml").unwrap(),
            SyncSettings::default(),
            now,
        )
        .unwrap();
        assert_eq!(director.state(), before);
    }
    drop(director);
    let (director, report) = restored(&["wan"]);
    let marks: Vec<_> = director.mark_rules().iter().map(|rule| rule.mark).collect();
    assert_eq!(marks, [2]);
    assert!(
        report.refused[0].contains("there is no device \"lan\""),
        "{:?}",
        report.refused
    );
}
