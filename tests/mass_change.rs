//! Thousands of changes in a row through the real `ipvsadm` and the real `lvsd`, and a worker that sleeps through some.

#[path = "daemon/stand.rs"]
#[allow(dead_code, reason = "the daemon's tests need more of it")]
mod stand;
#[path = "goldens/tools.rs"]
mod tools;
#[path = "process/traced.rs"]
#[allow(dead_code, reason = "other tests watch without more")]
mod traced;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use stand::{Daemon, Stand, until};
use traced::{Traced, threads};

/// Feeds `ipvsadm -R`.
fn restore(stand: &Stand, rules: &str) {
    let mut child = stand.led(&["ipvsadm", "-R"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Processor time of the whole daemon (`/proc/…/schedstat`, nanoseconds on CPU first).
fn cpu_time(daemon: &Daemon<'_>) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid()))
        .unwrap()
        .flatten();
    let ns = tasks.map(|task| {
        let schedstat = std::fs::read_to_string(task.path().join("schedstat")).unwrap();
        schedstat.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(ns.sum())
}

/// A daemon whose worker sleeps for a millisecond at a time: nothing happens on its device.
fn start_sleeping(stand: &Stand) -> Daemon<'_> {
    stand.configure("[[device]]\nname = \"wan\"\ndpdk = \"net_null0,no-rx=1\"\n");
    let text = std::fs::read_to_string(stand.path("lvsd.toml")).unwrap();
    stand.write_config(&text.replace("idle = \"sleep\"", "idle = \"adaptive\""));
    stand.start()
}

#[test]
fn four_thousand_rules_take_less_than_two_seconds_of_processors() {
    let stand = Stand::new();
    let daemon = start_sleeping(&stand);
    let mut rules = String::new();
    for service in 1..=40 {
        writeln!(rules, "-A -t 192.0.2.{service}:80 -s wlc").unwrap();
        for server in 1..=99 {
            writeln!(
                rules,
                "-a -t 192.0.2.{service}:80 -r 198.51.100.{server}:80 -m -w {server}"
            )
            .unwrap();
        }
    }
    let (begun, before) = (Instant::now(), cpu_time(&daemon));
    restore(&stand, &rules);
    let taken = cpu_time(&daemon) - before;
    println!("4,000 rules: {:?}, of which {taken:?} of processors", begun.elapsed());
    assert!(taken < Duration::from_secs(2), "{taken:?}");
    let saved = stand.led(&["ipvsadm", "-Sn"]).output().unwrap();
    let saved = String::from_utf8(saved.stdout).unwrap();
    let (mut saved, mut wanted): (Vec<&str>, Vec<&str>) = (saved.lines().collect(), rules.lines().collect());
    saved.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(saved, wanted);
    daemon.stop();
}

/// Whether the tracer holds the thread at every one of some looks.
fn is_held(process: &str, thread: &str) -> bool {
    (0..5).all(|_| {
        std::thread::sleep(Duration::from_millis(10));
        let status = std::fs::read_to_string(format!("/proc/{process}/task/{thread}/status")).unwrap();
        status.contains("State:\tt")
    })
}

#[test]
fn nobody_waits_for_a_worker_that_sleeps() {
    let stand = Stand::new();
    let daemon = start_sleeping(&stand);
    let process = daemon.pid().to_string();
    let worker = threads(&process, "rte-worker").swap_remove(0);
    // A sleep that outlasts everything here: whoever waited for the worker would give it up, and the log would say so.
    let long_sleep = ["-e", "inject=clock_nanosleep:delay_exit=20000000"];
    let traced = Traced::attach_with(&long_sleep, &process, &worker, &stand.path("calls"));
    until("the worker sleeps", || is_held(&process, &worker));
    for port in 1..=8 {
        daemon.printed(&format!("service add tcp:192.0.2.1:{port}"));
    }
    let log = daemon.log();
    assert!(is_held(&process, &worker), "it slept all the time");
    assert!(!log.contains("WARN"), "{log}");
    traced.calls();
    daemon.stop();
}
