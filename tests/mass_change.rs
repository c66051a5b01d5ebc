//! Thousands of changes in a row through the real `ipvsadm` and the real `lvsd`, and a worker that sleeps through some.

use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::RangeInclusive;
use std::process::Stdio;
use std::time::Duration;

use lvs_test_support::daemon::{Daemon, Testbed};
use lvs_test_support::process::{WORKERS, threads};
use lvs_test_support::strace::Traced;
use lvs_test_support::waits::until;

/// Feeds `ipvsadm -R`.
fn restore(testbed: &Testbed, rules: &str) {
    let mut child = testbed
        .lvs_run(&["ipvsadm", "-R"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// A daemon whose worker sleeps for a millisecond at a time: nothing happens on its device.
fn start_sleeping(testbed: &Testbed) -> Daemon<'_> {
    testbed.configure("[[device]]\nname = \"wan\"\ndpdk = \"net_null0,no-rx=1\"\n");
    let text = std::fs::read_to_string(testbed.path("lvsd.toml")).unwrap();
    testbed.write_config(&text.replace("idle = \"sleep\"", "idle = \"adaptive\""));
    testbed.start()
}

/// Services of these numbers with 99 servers each, as `ipvsadm -R` reads them.
fn rules(services: RangeInclusive<u8>) -> String {
    let mut rules = String::new();
    for service in services {
        writeln!(rules, "-A -t 192.0.2.{service}:80 -s wlc").unwrap();
        for server in 1..=99 {
            writeln!(
                rules,
                "-a -t 192.0.2.{service}:80 -r 198.51.100.{server}:80 -m -w {server}"
            )
            .unwrap();
        }
    }
    rules
}

#[test]
fn four_thousand_rules_cost_each_less_than_twice_what_a_thousand_cost() {
    let testbed = Testbed::create();
    let daemon = start_sleeping(&testbed);
    let (few, more) = (rules(1..=10), rules(11..=40));
    let [first, rest] = [&few, &more].map(|rules| {
        let before = daemon.cpu_time(&[""]);
        restore(&testbed, rules);
        daemon.cpu_time(&[""]) - before
    });
    println!("CPU time of 1,000 rules: {first:?}, of 3,000 more: {rest:?}");
    // With a cost that grows with the number of rules the rest would take fifteen times as long as the first.
    assert!(rest < 6 * first, "{first:?}, then {rest:?}");
    let rules = few + &more;
    let saved = testbed.lvs_run(&["ipvsadm", "-Sn"]).output().unwrap();
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
    let testbed = Testbed::create();
    let daemon = start_sleeping(&testbed);
    let process = daemon.pid().to_string();
    let worker = threads(&process, WORKERS).swap_remove(0);
    // A sleep that outlasts everything here: whoever waited for the worker would give it up, and the log would say so.
    let long_sleep = ["-e", "inject=clock_nanosleep:delay_exit=20000000"];
    let traced = Traced::attach_with(&long_sleep, &process, &worker, &testbed.path("calls"));
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
