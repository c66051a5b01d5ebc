//! Run-time changes survive a reload; edits of the file take effect.

use super::*;

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
