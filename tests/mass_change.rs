//! Thousands of changes in a row through the real `ipvsadm` and the real `lvsd`: alone in this file, as no other test may
//! run beside one that takes the time.

#[path = "daemon/stand.rs"]
#[allow(dead_code, reason = "the daemon's tests need more of it")]
mod stand;
#[path = "goldens/tools.rs"]
mod tools;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use stand::Stand;

/// Feeds `ipvsadm -R`; how long it took.
fn restore(stand: &Stand, rules: &str) -> Duration {
    let begun = Instant::now();
    let mut child = stand.led(&["ipvsadm", "-R"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    begun.elapsed()
}

#[test]
fn four_thousand_rules_are_used_by_a_worker_within_two_seconds() {
    let stand = Stand::new();
    // A device on which nothing happens: the worker rests for a millisecond at a time.
    stand.configure("[[device]]\nname = \"wan\"\ndpdk = \"net_null0,no-rx=1\"\n");
    let text = std::fs::read_to_string(stand.path("lvsd.toml")).unwrap();
    stand.write_config(&text.replace("idle = \"sleep\"", "idle = \"adaptive\""));
    let daemon = stand.start();
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
    // The best of three times: the machine may have other work.
    let times = (0..3).map(|_| {
        restore(&stand, "-C\n");
        restore(&stand, &rules)
    });
    let times: Vec<Duration> = times.collect();
    println!("4,000 rules: {times:?}");
    assert!(times.iter().min() < Some(&Duration::from_secs(2)), "{times:?}");
    let saved = stand.led(&["ipvsadm", "-Sn"]).output().unwrap();
    let saved = String::from_utf8(saved.stdout).unwrap();
    let (mut saved, mut wanted): (Vec<&str>, Vec<&str>) = (saved.lines().collect(), rules.lines().collect());
    saved.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(saved, wanted);
    daemon.stop();
}
