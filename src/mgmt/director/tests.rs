//! The director with workers of plain memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lvs_api::ErrorCode;
use lvs_core::ipvs::real_server::RealServerId;
use lvs_core::ipvs::stats::Totals;
use lvs_core::single_writer::SingleWriter;
use nix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use super::counts::KeptCounts;
use super::*;
use crate::mgmt::fake_worker::FakeWorker;

/// Takes the second server of [`WEB`] out of service.
const DRAIN: &str =
    r#"{"edit_server": {"service": "tcp:192.0.2.1:80", "server": "198.51.100.2:80", "patch": {"weight": 0}}}"#;

struct Bench {
    director: Director,
    workers: Vec<Arc<FakeWorker>>,
    now: Instant,
    directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let (mut director, _) = Director::restore(&directory.path().join("journal")).unwrap();
        let workers = vec![FakeWorker::new(), FakeWorker::new()];
        let now = Instant::now();
        director.attach(workers.iter().map(|worker| Arc::clone(worker) as _).collect(), now);
        Self {
            director,
            workers,
            now,
            directory,
        }
    }

    /// Applies an action written as in the journal, long enough after the last to be published at once.
    fn apply(&mut self, action: &str) -> Result<(), ApiError> {
        self.now += Duration::from_secs(1);
        self.director.apply(serde_json::from_str(action).unwrap(), self.now)
    }

    fn replace(&mut self, state: &str, dry_run: bool) -> Result<StateDiff, ApiError> {
        self.now += Duration::from_secs(1);
        self.director
            .replace(serde_json::from_str(state).unwrap(), dry_run, self.now)
    }

    fn restarted(self) -> (Director, RestoreReport) {
        let path = self.directory.path().join("journal");
        drop(self.director);
        Director::restore(&path).unwrap()
    }
}

const WEB: &str = r#"{"add_service": {"service": "tcp:192.0.2.1:80", "scheduler": "rr", "servers": [
    {"server": "198.51.100.1:80", "mode": "nat"}, {"server": "198.51.100.2:80", "mode": "nat", "weight": 3}]}}"#;

#[test]
fn a_change_reaches_every_worker_and_newest_servers_come_first() {
    let mut bench = Bench::new();
    bench.apply(WEB).unwrap();
    for worker in &bench.workers {
        let snapshot = worker.snapshot();
        assert_eq!(snapshot.workers_count, 2);
        let weights: Vec<_> = snapshot.services.services()[0]
            .servers
            .iter()
            .map(|server| server.weight)
            .collect();
        assert_eq!(weights, [3, 1]);
    }
}

#[test]
fn a_refused_action_changes_nothing_and_leaves_no_trace_in_the_journal() {
    let mut bench = Bench::new();
    bench.apply(WEB).unwrap();
    let before = bench.director.state();
    let published = bench.workers[0].published.lock().unwrap().len();
    for (action, code, place) in [
        (WEB, ErrorCode::ServiceExists, "service"),
        (
            r#"{"delete_service": "tcp:192.0.2.9:80"}"#,
            ErrorCode::NoSuchService,
            "service",
        ),
        (
            r#"{"add_server": {"service": "tcp:192.0.2.1:80", "server": {"server": "198.51.100.1:80"}}}"#,
            ErrorCode::ServerExists,
            "server",
        ),
        (
            r#"{"edit_server": {"service": "tcp:192.0.2.1:80", "server": "198.51.100.9:80", "patch": {"weight": 1}}}"#,
            ErrorCode::NoSuchServer,
            "server",
        ),
        (
            r#"{"edit_server": {"service": "tcp:192.0.2.1:80", "server": "198.51.100.1:80", "patch": {"weight": 2147483648}}}"#,
            ErrorCode::Refused,
            "weight",
        ),
        (
            r#"{"edit_service": {"service": "tcp:192.0.2.1:80", "patch": {"scheduler": "fastest"}}}"#,
            ErrorCode::Refused,
            "scheduler",
        ),
        (
            r#"{"add_service": {"service": "tcp:192.0.2.2:80", "servers": [{"server": "198.51.100.1:80"},
                {"server": "[2001:db8::1]:80"}]}}"#,
            ErrorCode::Refused,
            "servers[1].server",
        ),
    ] {
        let error = bench.apply(action).unwrap_err();
        assert_eq!((error.code, error.place.as_deref()), (code, Some(place)), "{action}");
    }
    assert_eq!(bench.director.state(), before);
    assert_eq!(bench.workers[0].published.lock().unwrap().len(), published);
    let (director, report) = bench.restarted();
    assert_eq!((report.actions, report.refused.len()), (1, 0));
    assert_eq!(director.state(), before);
}

#[test]
fn an_edit_keeps_what_it_does_not_mention() {
    let mut bench = Bench::new();
    bench.apply(WEB).unwrap();
    bench.apply(DRAIN).unwrap();
    let server = bench.director.state().services[0].servers[1].clone();
    assert_eq!((server.mode, server.weight), (lvs_api::Mode::Nat, 0));
}

#[test]
fn a_replaced_state_is_all_or_nothing_and_a_dry_run_changes_nothing() {
    let mut bench = Bench::new();
    bench.apply(WEB).unwrap();
    let before = bench.director.state();
    let wrong = r#"{"services": [{"service": "tcp:192.0.2.7:80"},
        {"service": "tcp:192.0.2.8:80", "servers": [{"server": "198.51.100.1:80", "weight": 2147483648}]},
        {"service": "tcp:192.0.2.9:80"}]}"#;
    let error = bench.replace(wrong, false).unwrap_err();
    assert_eq!(error.place.as_deref(), Some("services[1].servers[0].weight"));
    assert_eq!(bench.director.state(), before);

    let right = r#"{"services": [{"service": "tcp:192.0.2.7:80"}]}"#;
    let dry = bench.replace(right, true).unwrap();
    assert_eq!(
        (dry.services_added.len(), dry.services_removed.len(), dry.dry_run),
        (1, 1, true)
    );
    assert_eq!(bench.director.state(), before);

    let real = bench.replace(right, false).unwrap();
    assert_eq!(StateDiff { dry_run: true, ..real }, dry);
    assert_eq!(bench.director.state().services.len(), 1);
    assert_eq!(bench.workers[1].snapshot().services.services().len(), 1);
}

#[test]
fn a_restart_restores_services_servers_pools_timeouts_and_their_order() {
    let mut bench = Bench::new();
    bench.apply(WEB).unwrap();
    bench
        .apply(r#"{"add_service": {"service": "udp:[2001:db8::1]:53", "scheduler": "sh"}}"#)
        .unwrap();
    bench
        .apply(r#"{"set_local_addresses": {"service": "tcp:192.0.2.1:80", "addresses": ["198.51.100.250"]}}"#)
        .unwrap();
    bench.apply(r#"{"set_timeouts": {"udp_sec": 30}}"#).unwrap();
    bench
        .apply(r#"{"delete_server": {"service": "tcp:192.0.2.1:80", "server": "198.51.100.1:80"}}"#)
        .unwrap();
    bench
        .apply(r#"{"add_server": {"service": "tcp:192.0.2.1:80", "server": {"server": "198.51.100.1:80"}}}"#)
        .unwrap();
    let before = bench.director.state();
    assert_eq!(before.services[0].servers[0].server.to_string(), "198.51.100.2:80");
    assert_eq!(before.timeouts.unwrap().udp_sec, 30);
    assert_eq!(bench.restarted().0.state(), before);
}

#[test]
fn a_full_mailbox_gets_the_newest_snapshot_later() {
    let mut bench = Bench::new();
    bench.workers[0].mailbox_full.store(true, Ordering::Relaxed);
    bench.apply(WEB).unwrap();
    bench.apply(r#"{"delete_service": "tcp:192.0.2.1:80"}"#).unwrap();
    bench.workers[0].mailbox_full.store(false, Ordering::Relaxed);
    bench.director.tick(bench.now + Duration::from_secs(1));
    assert!(bench.workers[0].snapshot().services.is_empty());
    let published = bench.workers[0].published.lock().unwrap().len();
    bench.director.tick(bench.now + Duration::from_secs(2));
    assert_eq!(
        bench.workers[0].published.lock().unwrap().len(),
        published,
        "nothing is sent twice"
    );
}

#[test]
fn changes_in_a_row_are_published_together_and_none_is_forgotten() {
    let mut bench = Bench::new();
    bench.director.publication.prompt_max = Duration::ZERO;
    bench.apply(WEB).unwrap();
    let action = r#"{"add_service": {"service": "tcp:192.0.2.2:80"}}"#;
    // As if it took long to build, and no time at all passes for the director: the publication is due later.
    bench
        .director
        .apply(serde_json::from_str(action).unwrap(), bench.now)
        .unwrap();
    assert_eq!(bench.workers[0].snapshot().services.services().len(), 1);
    bench.director.tick(bench.now + Duration::from_secs(1));
    assert_eq!(bench.workers[0].snapshot().services.services().len(), 2);
}

#[test]
fn counts_are_sums_over_workers_and_a_service_keeps_those_of_lost_servers() {
    let mut bench = Bench::new();
    bench.apply(WEB).unwrap();
    for (worker, packets) in bench.workers.iter().zip([10, 5]) {
        for id in [0, 1] {
            let server = worker.counters.server(RealServerId(id));
            server.connections.add(1);
            server.in_packets.add(packets);
            server.bind(true);
        }
    }
    bench
        .apply(r#"{"delete_server": {"service": "tcp:192.0.2.1:80", "server": "198.51.100.1:80"}}"#)
        .unwrap();
    let status = bench.director.service(&"tcp:192.0.2.1:80".parse().unwrap()).unwrap();
    assert_eq!((status.totals.connections, status.totals.in_packets), (4, 30));
    let server = &status.servers[0];
    assert_eq!(
        (server.totals.in_packets, server.active_conns, server.inactive_conns),
        (15, 2, 0)
    );
    assert_eq!(bench.director.stats().totals.in_packets, 30);

    bench.director.zero_stats();
    bench.workers[1].counters.server(RealServerId(1)).in_packets.add(1);
    let status = bench.director.service(&"tcp:192.0.2.1:80".parse().unwrap()).unwrap();
    assert_eq!((status.totals.in_packets, status.servers[0].totals.in_packets), (1, 1));
    assert_eq!((status.totals.connections, status.servers[0].active_conns), (0, 2));
}

#[test]
fn a_service_of_the_same_name_counts_anew_and_its_returned_servers_from_their_last_sample() {
    for (is_sampled, expected) in [(true, 2), (false, 9)] {
        let mut bench = Bench::new();
        bench.apply(WEB).unwrap();
        bench.workers[0].counters.server(RealServerId(0)).in_packets.add(7);
        if is_sampled {
            bench.director.sample();
        }
        bench.apply(r#"{"delete_service": "tcp:192.0.2.1:80"}"#).unwrap();
        bench.apply(WEB).unwrap();
        bench.workers[0].counters.server(RealServerId(0)).in_packets.add(2);
        let status = bench.director.service(&"tcp:192.0.2.1:80".parse().unwrap()).unwrap();
        let servers: Vec<u64> = status.servers.iter().map(|server| server.totals.in_packets).collect();
        assert_eq!((status.totals.in_packets, servers), (2, vec![expected, 0]));
        assert_eq!(bench.director.stats().totals.in_packets, 9);
    }
}

#[test]
fn a_server_that_returns_resumes_its_counts_until_its_slot_is_collected() {
    let mut bench = Bench::new();
    let (delete, add) = (
        r#"{"delete_server": {"service": "tcp:192.0.2.1:80", "server": "198.51.100.1:80"}}"#,
        r#"{"add_server": {"service": "tcp:192.0.2.1:80", "server": {"server": "198.51.100.1:80"}}}"#,
    );
    let packets = |bench: &mut Bench| {
        let status = bench.director.service(&"tcp:192.0.2.1:80".parse().unwrap()).unwrap();
        status
            .servers
            .iter()
            .find(|server| server.config.server.to_string() == "198.51.100.1:80")
            .unwrap()
            .totals
    };
    bench.apply(WEB).unwrap();
    bench.workers[0].counters.server(RealServerId(0)).in_packets.add(7);
    bench.apply(delete).unwrap();
    bench.director.collect_trash(1_000, bench.now);
    bench.apply(add).unwrap();
    assert_eq!(packets(&mut bench).in_packets, 7);

    bench.apply(delete).unwrap();
    bench.director.collect_trash(2_000, bench.now);
    bench.director.collect_trash(3_000, bench.now);
    bench.apply(add).unwrap();
    assert_eq!(packets(&mut bench).in_packets, 0);
}

#[test]
fn a_deleted_server_with_connections_keeps_its_slot() {
    let mut bench = Bench::new();
    bench.apply(WEB).unwrap();
    bench.workers[1].counters.server(RealServerId(0)).bind(false);
    bench
        .apply(r#"{"delete_server": {"service": "tcp:192.0.2.1:80", "server": "198.51.100.1:80"}}"#)
        .unwrap();
    bench.director.collect_trash(1_000, bench.now);
    bench.director.collect_trash(9_000, bench.now);
    bench.director.tick(bench.now + Duration::from_secs(1));
    assert!(
        bench.workers[0]
            .snapshot()
            .services
            .real_server(RealServerId(0))
            .is_some()
    );
}

#[test]
fn rates_follow_the_kernels_estimator() {
    let mut bench = Bench::new();
    bench.apply(WEB).unwrap();
    bench.director.sample();
    bench.workers[0].counters.server(RealServerId(0)).in_packets.add(2_000);
    bench.director.sample();
    assert_eq!(bench.director.stats().rates.in_pps, 250);
    let status = bench.director.service(&"tcp:192.0.2.1:80".parse().unwrap()).unwrap();
    assert_eq!(
        (
            status.rates.in_pps,
            status.servers[0].rates.in_pps,
            status.servers[1].rates.in_pps
        ),
        (250, 250, 0)
    );
}

#[test]
fn a_pool_shows_masquerading_servers_as_fullnat_but_journals_what_was_asked() {
    let mut bench = Bench::new();
    bench.apply(WEB).unwrap();
    bench
        .apply(r#"{"set_local_addresses": {"service": "tcp:192.0.2.1:80", "addresses": ["198.51.100.250"]}}"#)
        .unwrap();
    let server = bench.director.services().remove(0).servers.remove(0);
    assert_eq!(
        (server.forward.as_str(), server.config.mode),
        ("FullNat", lvs_api::Mode::Nat)
    );
}

#[test]
fn four_thousand_services_are_added_in_well_under_two_seconds() {
    let mut bench = Bench::new();
    // Of this thread: how long all of it lasts depends on what else the machine does.
    let cpu_time = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let before = cpu_time();
    for index in 0..4_000u32 {
        let text = format!(
            r#"{{"add_service": {{"service": "tcp:192.0.{}.{}:80", "servers": [{{"server": "198.51.100.1:80"}}]}}}}"#,
            index / 250,
            index % 250 + 1
        );
        bench
            .director
            .apply(serde_json::from_str(&text).unwrap(), Instant::now())
            .unwrap();
    }
    bench.director.tick(Instant::now() + Duration::from_secs(1));
    let taken = cpu_time() - before;
    assert!(taken < Duration::from_secs(2), "{taken:?}");
    assert_eq!(bench.workers[0].snapshot().services.services().len(), 4_000);
}

#[test]
fn what_is_refused_while_the_journal_is_stale_is_refused_as_ever_and_its_next_version_holds_all_that_was_done() {
    let mut bench = Bench::new();
    bench.apply(WEB).unwrap();
    bench
        .director
        .journal_not_synced("Input/output error (os error 5)", bench.now);
    bench.apply(DRAIN).unwrap();
    assert_eq!(bench.apply(WEB).unwrap_err().code, ErrorCode::ServiceExists);
    let status = bench.director.journal_status();
    assert_eq!((status.stale, status.changes_in_memory), (true, 1));
    let state = bench.director.state();
    assert!(
        bench.workers[0].snapshot().services.services()[0]
            .servers
            .iter()
            .any(|server| server.weight == 0)
    );

    bench.now += Duration::from_secs(1);
    let rewrite = bench.director.rewrite_journal(bench.now).expect("the pause is over");
    assert!(bench.director.rewrite_journal(bench.now).is_none(), "it is under way");
    bench.director.journal_rewritten(rewrite.run(), bench.now);
    assert!(!bench.director.journal_status().stale);
    let (director, report) = bench.restarted();
    assert_eq!(director.state(), state);
    assert_eq!((report.actions, report.refused), (0, Vec::new()));
    assert_eq!(director.desired.drained()[0].last_weight, 3);
}

#[test]
fn a_compacted_journal_remembers_the_weight_a_drained_server_had() {
    let mut bench = Bench::new();
    bench.apply(WEB).unwrap();
    bench.apply(DRAIN).unwrap();
    let state = bench.director.state();
    bench
        .director
        .rebase(state.clone(), State::default(), bench.now)
        .unwrap();
    let (director, _) = bench.restarted();
    assert_eq!(director.state(), state);
    let drained = director.desired.drained();
    assert_eq!((drained.len(), drained[0].last_weight), (1, 3));
}

/// Only with `LVSD_VICTIM`, as the child of the test below: changes the state until it is killed.
#[test]
fn victim() {
    let Some(path) = std::env::var_os("LVSD_VICTIM") else {
        return;
    };
    let (mut director, _) = Director::restore(Path::new(&path)).unwrap();
    for index in 0u16.. {
        let text = format!(r#"{{"add_service": {{"service": "tcp:192.0.2.1:{}"}}}}"#, index + 1);
        director
            .apply(serde_json::from_str(&text).unwrap(), Instant::now())
            .unwrap();
        println!("\ndid {index}");
    }
}

#[test]
fn a_director_killed_while_it_changes_keeps_every_answered_change() {
    use std::io::BufRead;
    for answered in [1, 37, 500] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("journal");
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "mgmt::director::tests::victim", "--nocapture"])
            .env("LVSD_VICTIM", &path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let done = lines
            .map_while(Result::ok)
            .filter(|line| line.starts_with("did "))
            .take(answered)
            .count();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(done, answered);
        let (director, report) = Director::restore(&path).unwrap();
        let ports: Vec<_> = director
            .state()
            .services
            .iter()
            .map(|service| service.service.port())
            .collect();
        assert!(ports.len() >= answered, "{} of {answered}", ports.len());
        assert!(ports.iter().copied().eq(1..=ports.len() as u16), "a change is missing");
        assert_eq!(report.refused, Vec::<String>::new());
    }
}

const PERSISTENT: &str = r#"{"add_service": {"service": "fwm:66", "scheduler": "rr",
    "persistence": {"timeout_sec": 360, "netmask": "255.255.255.0"}, "one_packet": true, "servers": [
    {"server": "198.51.100.1:0", "mode": "tunnel", "tunnel": {"kind": "gue", "port": 6080, "checksum": "remote"}},
    {"server": "198.51.100.2:0", "mode": "tunnel", "tunnel": {"kind": "gre", "checksum": true}}]}}"#;

#[test]
fn persistence_marks_one_packet_and_tunnels_survive_a_restart_and_differ_from_nothing() {
    let mut bench = Bench::new();
    bench.apply(PERSISTENT).unwrap();
    bench
        .apply(r#"{"add_service": {"service": "fwm6:66", "persistence": {"netmask": 64}}}"#)
        .unwrap();
    let state = bench.director.state();
    let Action::AddService(wanted) = serde_json::from_str(PERSISTENT).unwrap() else {
        panic!("not an addition");
    };
    assert_eq!(state.services[0], wanted);
    assert_eq!(state.services[1].service.to_string(), "fwm6:66");
    let again = serde_json::to_string(&state).unwrap();
    assert!(bench.replace(&again, false).unwrap().is_empty());
    let (director, report) = bench.restarted();
    assert_eq!((director.state(), report.refused), (state, Vec::new()));
}

#[test]
fn an_edit_keeps_persistence_unless_it_names_it_and_null_ends_it() {
    let mut bench = Bench::new();
    bench.apply(PERSISTENT).unwrap();
    let service = |bench: &Bench| bench.director.state().services.remove(0);
    bench
        .apply(r#"{"edit_service": {"service": "fwm:66", "patch": {"scheduler": "wrr"}}}"#)
        .unwrap();
    assert_eq!(service(&bench).persistence.map(|kept| kept.timeout_sec), Some(360));
    assert!(service(&bench).one_packet);
    let server = r#"{"service": "fwm:66", "server": "198.51.100.1:0", "patch": {"weight": 7}}"#;
    bench.apply(&format!(r#"{{"edit_server": {server}}}"#)).unwrap();
    assert_eq!(
        service(&bench).servers[0].tunnel,
        lvs_api::Tunnel::Gue {
            port: 6080,
            checksum: lvs_api::GueChecksum::Remote
        }
    );
    let ended = r#"{"service": "fwm:66", "patch": {"persistence": null, "one_packet": false}}"#;
    bench.apply(&format!(r#"{{"edit_service": {ended}}}"#)).unwrap();
    assert_eq!((service(&bench).persistence, service(&bench).one_packet), (None, false));
}

#[test]
fn wrong_persistence_and_tunnels_are_refused_at_their_place() {
    let mut bench = Bench::new();
    for (action, place) in [
        (
            r#"{"add_service": {"service": "fwm:66", "persistence": {"timeout_sec": 0}}}"#,
            "persistence.timeout_sec",
        ),
        (
            r#"{"add_service": {"service": "fwm:66", "persistence": {"netmask": 64}}}"#,
            "persistence.netmask",
        ),
        (
            r#"{"add_service": {"service": "fwm:66", "servers": [
                {"server": "198.51.100.1:0", "mode": "tunnel", "tunnel": {"kind": "gue", "port": 0}}]}}"#,
            "servers[0].tunnel.port",
        ),
    ] {
        let error = bench.apply(action).unwrap_err();
        assert_eq!((error.code, error.place.as_deref()), (ErrorCode::Refused, Some(place)));
    }
    assert!(bench.director.state().services.is_empty());
}

#[test]
fn the_clients_address_needs_a_pool_is_journaled_and_stays_when_an_ipvs_tool_edits() {
    let mut bench = Bench::new();
    let carried = r#"{"services": [{"service": "tcp:192.0.2.1:80", "scheduler": "rr", "client_address": "proxy-v2",
        "mss_max": 1400, "local_addresses": ["198.51.100.250"]}]}"#;
    let plain = r#"{"services": [{"service": "tcp:192.0.2.1:80", "scheduler": "rr"}]}"#;
    let without_pool = carried.replace("\"198.51.100.250\"", "");
    let refused = bench.replace(&without_pool, false).unwrap_err();
    assert_eq!(
        (refused.code, refused.place.as_deref()),
        (ErrorCode::Refused, Some("services[0].client_address"))
    );
    // From nothing, from a service without and back: whatever the order that takes.
    for state in [carried, plain, carried] {
        bench.replace(state, false).unwrap();
        assert_eq!(
            bench.director.state().services,
            serde_json::from_str::<State>(state).unwrap().services
        );
    }
    let refused = bench
        .apply(r#"{"set_local_addresses": {"service": "tcp:192.0.2.1:80", "addresses": []}}"#)
        .unwrap_err();
    assert_eq!(refused.place.as_deref(), Some("local_addresses"));
    bench
        .apply(r#"{"edit_service": {"service": "tcp:192.0.2.1:80", "patch": {"scheduler": "wrr"}}}"#)
        .unwrap();
    let service = bench.workers[0].snapshot().services.services()[0].clone();
    assert_eq!((service.client_address.name(), service.mss_max), ("proxy-v2", 1_400));
    let before = bench.director.state();
    let (restored, _) = bench.restarted();
    assert_eq!(restored.state(), before);
}

#[test]
fn a_services_timeout_is_journaled_kept_by_other_edits_and_refused_where_it_means_nothing() {
    let mut bench = Bench::new();
    bench
        .apply(r#"{"add_service": {"service": "tcp:192.0.2.1:80", "established_timeout_sec": 7200}}"#)
        .unwrap();
    bench
        .apply(r#"{"edit_service": {"service": "tcp:192.0.2.1:80", "patch": {"scheduler": "rr"}}}"#)
        .unwrap();
    let key = lvs_api::netlink::ServiceKey::Address {
        protocol: 6,
        addr: "192.0.2.1".parse().unwrap(),
        port: 80,
    };
    let options = lvs_api::netlink::ServiceOptions {
        scheduler: "wrr".to_owned(),
        engine: None,
        flags: 0,
        flags_mask: u32::MAX,
        timeout_sec: 0,
        granularity: lvs_api::netlink::Granularity::V4(std::net::Ipv4Addr::BROADCAST),
    };
    crate::mgmt::ipvs_netlink::IpvsTable::edit_service(&mut bench.director, &key, &options).unwrap();
    let before = bench.director.state();
    assert_eq!(
        (
            before.services[0].scheduler.as_str(),
            before.services[0].established_timeout_sec
        ),
        ("wrr", 7_200)
    );
    let id = "tcp:192.0.2.1:80".parse().unwrap();
    assert_eq!(bench.director.service(&id).unwrap().established_timeout_sec, 7_200);
    for (service, sec) in [("udp:192.0.2.1:53", 60), ("tcp:192.0.2.1:81", 2_678_401)] {
        let action = format!(r#"{{"add_service": {{"service": "{service}", "established_timeout_sec": {sec}}}}}"#);
        let refused = bench.apply(&action).unwrap_err();
        assert_eq!(refused.place.as_deref(), Some("established_timeout_sec"), "{service}");
    }
    let (restored, _) = bench.restarted();
    assert_eq!(restored.state(), before);
}

#[test]
fn resets_of_a_service_are_journaled_kept_by_other_edits_and_refused_where_they_mean_nothing() {
    let mut bench = Bench::new();
    bench
        .apply(r#"{"add_service": {"service": "tcp:192.0.2.1:80", "reset_unknown": true}}"#)
        .unwrap();
    bench
        .apply(r#"{"edit_service": {"service": "tcp:192.0.2.1:80", "patch": {"scheduler": "rr"}}}"#)
        .unwrap();
    bench
        .apply(r#"{"add_service": {"service": "fwm:66", "reset_unknown": true}}"#)
        .unwrap();
    let refused = bench
        .apply(r#"{"add_service": {"service": "udp:192.0.2.1:53", "reset_unknown": true}}"#)
        .unwrap_err();
    assert_eq!(refused.place.as_deref(), Some("reset_unknown"));
    let id = "tcp:192.0.2.1:80".parse().unwrap();
    assert!(bench.director.service(&id).unwrap().reset_unknown);
    assert!(bench.workers[0].snapshot().services.services()[0].reset_unknown);
    let before = bench.director.state();
    let (restored, _) = bench.restarted();
    assert_eq!(restored.state(), before);
}

const DELETE_SECOND: &str = r#"{"delete_server": {"service": "tcp:192.0.2.1:80", "server": "198.51.100.2:80"}}"#;

/// What a director stored last, for a later one.
type StoredCounts = Arc<Mutex<KeptCounts>>;

fn store_counts(director: &mut Director) -> StoredCounts {
    let stored = StoredCounts::default();
    let of_store = Arc::clone(&stored);
    director.store_counts_with(Box::new(move |counts| {
        *of_store.lock().unwrap() = counts.clone();
        Ok(())
    }));
    stored
}

/// The statistics of services, of their servers and of everything, as they are listed.
fn listed_counts(director: &mut Director) -> Vec<(String, u64)> {
    let mut listed = vec![("total".to_owned(), director.stats().totals.in_packets)];
    for service in director.services() {
        listed.push((service.service.to_string(), service.totals.in_packets));
        for server in &service.servers {
            let name = format!("{} {}", service.service, server.config.server);
            listed.push((name, server.totals.in_packets));
        }
    }
    listed
}

#[test]
fn counts_go_on_in_a_later_process_whatever_its_slots() {
    let mut bench = Bench::new();
    // The first slots will be free in the later process.
    bench
        .apply(
            &WEB.replace("192.0.2.1:80", "192.0.2.9:80")
                .replace("51.100.1", "51.100.9"),
        )
        .unwrap();
    bench.apply(WEB).unwrap();
    let count = |bench: &Bench, packets: u64| {
        for (id, times) in (0..4).zip(1..) {
            let server = bench.workers[(id % 2) as usize].counters.server(RealServerId(id));
            server.in_packets.add(packets * times);
        }
    };
    count(&bench, 100);
    let stored = store_counts(&mut bench.director);
    count(&bench, 1);
    bench.apply(r#"{"delete_service": "tcp:192.0.2.9:80"}"#).unwrap();
    // The deleted servers count for the total only.
    count(&bench, 1);
    bench.director.collect_trash(1, bench.now);
    bench.apply(DELETE_SECOND).unwrap();
    bench.director.collect_trash(2, bench.now);
    // What comes now is not stored, only counted: a crash.
    count(&bench, 1);
    let before = listed_counts(&mut bench.director);
    assert_eq!(
        before,
        [
            ("total".to_owned(), 1_030),
            ("tcp:192.0.2.1:80".to_owned(), 721),
            ("tcp:192.0.2.1:80 198.51.100.1:80".to_owned(), 309)
        ]
    );
    let workers = bench.workers.clone();
    let counted = |id| {
        let totals = workers.iter().map(|worker| worker.counters.server(id).totals());
        totals.reduce(Totals::plus)
    };
    let kept = stored.lock().unwrap().clone();
    let text = serde_json::to_string(&kept).unwrap();
    assert_eq!(serde_json::from_str::<KeptCounts>(&text).unwrap(), kept);

    // A journal that was written anew gives the servers other slots.
    let mut later = Bench::new();
    later.apply(WEB).unwrap();
    later.apply(DELETE_SECOND).unwrap();
    let worker = Arc::clone(&later.workers[0]);
    let mut later = later.director;
    let same = later.resume_counts(&kept, counted);
    assert_eq!(same, [(RealServerId(2), RealServerId(0))]);
    assert_eq!(listed_counts(&mut later), before);
    assert_eq!(later.stats().rates, lvs_api::Rates::default(), "no burst");
    worker.counters.server(RealServerId(0)).in_packets.add(5);
    let expected: Vec<_> = before.into_iter().map(|(name, packets)| (name, packets + 5)).collect();
    assert_eq!(listed_counts(&mut later), expected);
}

#[test]
fn zeroed_counts_are_stored_at_once_and_unknown_counters_add_nothing() {
    let mut bench = Bench::new();
    bench.apply(WEB).unwrap();
    bench.workers[0].counters.server(RealServerId(0)).in_packets.add(7);
    let stored = store_counts(&mut bench.director);
    bench.director.zero_stats();
    bench.workers[0].counters.server(RealServerId(0)).in_packets.add(1);
    let kept = stored.lock().unwrap().clone();
    let workers = bench.workers.clone();
    let (mut later, _) = bench.restarted();
    for (counted, expected) in [(true, 1), (false, 0)] {
        let totals = workers[0].counters.server(RealServerId(0)).totals();
        later.resume_counts(&kept, |id| (counted && id.0 == 0).then_some(totals));
        let packets: Vec<u64> = listed_counts(&mut later)
            .into_iter()
            .map(|(_, packets)| packets)
            .collect();
        assert_eq!(packets, [expected, expected, expected, 0]);
    }
}

#[test]
fn counts_that_cannot_be_stored_are_tried_again_and_those_that_are_stored_are_not() {
    let mut bench = Bench::new();
    bench.apply(WEB).unwrap();
    let (tries, is_full) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
    let (counted, full) = (Arc::clone(&tries), Arc::clone(&is_full));
    bench.director.store_counts_with(Box::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        match full.load(Ordering::Relaxed) {
            true => Err(std::io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }));
    let mut second = 0;
    let mut look = |bench: &mut Bench| {
        second += 1;
        bench.director.collect_trash(second, bench.now);
        tries.load(Ordering::Relaxed)
    };
    assert_eq!(look(&mut bench), 2, "once more");
    is_full.store(false, Ordering::Relaxed);
    assert_eq!((look(&mut bench), look(&mut bench)), (3, 3), "nothing has changed");
    bench.apply(DRAIN).unwrap();
    assert_eq!((look(&mut bench), look(&mut bench)), (4, 4));
}
