//! A worker makes no system call while traffic flows and is captured. strace watches its thread.

use lvs_core::single_writer::SingleWriter;
use lvs_test_support::lone_worker::LoneWorker;
use lvs_test_support::process::in_own_process;
use lvs_test_support::process::{WORKERS, threads};
use lvs_test_support::strace::Traced;
use lvsd::worker::idle::IdlePolicy;

#[test]
fn a_worker_makes_no_system_call_while_it_runs() {
    in_own_process("a_worker_makes_no_system_call_while_it_runs", || {
        makes_no_system_call(IdlePolicy::Pause);
    });
}

#[test]
fn a_worker_that_sleeps_when_idle_makes_no_system_call_while_traffic_flows() {
    in_own_process(
        "a_worker_that_sleeps_when_idle_makes_no_system_call_while_traffic_flows",
        || {
            makes_no_system_call(IdlePolicy::Adaptive {
                quiet_us: 200,
                sleep_max_us: 1_000,
            });
        },
    );
}

fn makes_no_system_call(idle: IdlePolicy) {
    let mut worker = LoneWorker::start(idle, |worker| worker.run());
    let counters = worker.counters.clone();
    let sent = || counters.devices[0].tx_packets.get();
    while sent() == 0 {
        std::thread::yield_now();
    }

    let log = tempfile::NamedTempFile::new().unwrap();
    let traced = Traced::attach("self", &threads("self", WORKERS)[0], log.path());
    let begin = sent();
    while sent() < begin + 300_000 || worker.captured < 1_000 {
        worker.manage();
    }
    let calls = traced.calls();
    worker.stop();
    assert_eq!(calls, "");
}
