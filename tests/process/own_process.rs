//! Runs the body of a test in its own process, because DPDK starts once per process.

use std::process::Command;

use lvsd::dpdk::{Eal, EalSettings, Hugepages};

const CHILD: &str = "LVSD_TEST_IN_OWN_PROCESS";

/// Runs only `body` in a child process and fails when it fails. `test` is the name of the calling test.
pub fn in_own_process(test: &str, body: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let output = Command::new(std::env::current_exe().expect("the test's own path"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, test)
        .output()
        .expect("the test starts itself");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Settings that need neither hugepages nor a NIC, with a prefix of its own.
pub fn lab_settings(workers: usize) -> EalSettings {
    let cpus = lvsd::dpdk::eal::available_cpus();
    EalSettings {
        hugepages: Hugepages::Never,
        memory_mb: 192,
        worker_cpus: (0..workers).map(|worker| cpus[(worker + 1) % cpus.len()]).collect(),
        file_prefix: format!("test-{}", std::process::id()),
        log_level: 4,
        ..EalSettings::default()
    }
}

/// DPDK in ordinary memory with `workers` workers.
pub fn start_eal(workers: usize) -> Eal {
    Eal::start(&lab_settings(workers)).expect("DPDK starts without hugepages")
}
