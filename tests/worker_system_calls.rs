//! A worker makes no system call while traffic flows and is captured: strace, watching its thread, sees none.

#[path = "process/lone_worker.rs"]
mod lone_worker;
#[path = "process/own_process.rs"]
mod own_process;
#[path = "process/scripted_path.rs"]
mod scripted_path;

use std::process::{Command, Stdio};

use lone_worker::LoneWorker;
use lvs_core::counters::SingleWriter;
use lvsd::worker::idle::IdlePolicy;
use own_process::in_own_process;

/// The thread of this process that polls, by the name that DPDK gives it.
fn worker_thread() -> String {
    let tasks = std::fs::read_dir("/proc/self/task").expect("own threads");
    let is_worker = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("rte-worker"))
    };
    let task = tasks.flatten().find(is_worker).expect("a worker runs");
    task.file_name().into_string().expect("a number")
}

#[test]
fn a_worker_makes_no_system_call_while_it_runs() {
    in_own_process("a_worker_makes_no_system_call_while_it_runs", || {
        makes_no_system_call(IdlePolicy::Pause);
    });
}

#[test]
fn nor_does_one_that_rests_when_idle_while_traffic_flows() {
    in_own_process("nor_does_one_that_rests_when_idle_while_traffic_flows", || {
        makes_no_system_call(IdlePolicy::Adaptive {
            quiet_us: 200,
            sleep_max_us: 1_000,
        });
    });
}

fn makes_no_system_call(idle: IdlePolicy) {
    let mut worker = LoneWorker::start(idle, |worker| worker.run());
    let counters = worker.counters.clone();
    let sent = || counters.devices[0].tx_packets.get();
    while sent() == 0 {
        std::thread::yield_now();
    }

    let log = std::env::temp_dir().join(format!("lvsd-strace-{}", std::process::id()));
    let mut strace = Command::new("strace")
        .args(["-qq", "-p", &worker_thread(), "-o"])
        .arg(&log)
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is installed: scripts/dev setup");
    // It is attached once it traces: the kernel then names it as the tracer.
    let status = format!("/proc/self/task/{}/status", worker_thread());
    while std::fs::read_to_string(&status).unwrap().contains("TracerPid:\t0\n") {
        assert!(strace.try_wait().unwrap().is_none(), "strace may trace this process");
        std::thread::yield_now();
    }
    let begin = sent();
    while sent() < begin + 300_000 || worker.captured < 1_000 {
        worker.manage();
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(strace.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    strace.wait().unwrap();
    worker.stop();
    let calls = std::fs::read_to_string(&log).unwrap_or_default();
    let _ = std::fs::remove_file(&log);
    assert_eq!(calls, "");
}
