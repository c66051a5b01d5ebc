//! Processes and threads: this one again for one test, what they spend on CPUs, and how they end.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::waits::wait_until;

/// Set in a process that runs one test.
const CHILD: &str = "LVSD_TEST_IN_OWN_PROCESS";

/// Runs `body` alone in a child process and fails when it fails: DPDK can be started once a process. `test` is the
/// name of the calling test.
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

/// Runs a command that must succeed; what it prints.
pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program is installed");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// Sends a signal to a child that nobody has waited for yet.
pub fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).expect("it is there until somebody waits for it");
}

/// Waits for a child that must end soon. `when` says after what.
pub fn await_end(child: &mut Child, when: &str) -> ExitStatus {
    let mut status = None;
    wait_until(|| {
        status = child.try_wait().expect("it is a child of this process");
        status.is_some()
    });
    status.unwrap_or_else(|| panic!("process {} has not ended {when}", child.id()))
}

/// What the names of DPDK's polling threads begin with, up to 23.07 and since.
pub const WORKERS: &[&str] = &["rte-worker", "dpdk-worker"];

/// The folders under `/proc` of the threads of `process` whose names begin with one of `names`. A thread names itself once it
/// runs, which may be after the call that started it came back.
fn tasks(process: &str, names: &[&str]) -> Vec<PathBuf> {
    let all = PathBuf::from(format!("/proc/{process}/task"));
    let is_named = |task: &PathBuf| {
        let comm = fs::read_to_string(task.join("comm")).unwrap_or_default();
        names.iter().any(|name| comm.starts_with(name))
    };
    let mut found = Vec::new();
    let named = wait_until(|| {
        let tasks = fs::read_dir(&all).expect("the process is there");
        found = tasks.flatten().map(|task| task.path()).filter(is_named).collect();
        !found.is_empty()
    });
    assert!(named, "no thread is called {names:?}");
    found
}

/// The threads of a process whose names begin with one of `names`, one at least.
pub fn threads(process: &str, names: &[&str]) -> Vec<String> {
    let id = |task: PathBuf| task.file_name()?.to_str().map(str::to_owned);
    tasks(process, names).into_iter().filter_map(id).collect()
}

/// A thread of another process that makes no step until this is dropped, as in the hands of a debugger. The thread that
/// made this value must drop it.
pub struct HeldThread(Pid);

impl HeldThread {
    /// Holds the thread with this id; the others of its process run on.
    pub fn hold(thread: &str) -> Self {
        let held = Self(Pid::from_raw(thread.parse().expect("an id of a thread is a number")));
        ptrace::seize(held.0, ptrace::Options::empty()).expect("root may hold a thread");
        ptrace::interrupt(held.0).expect("it is there");
        waitpid(held.0, Some(WaitPidFlag::__WALL)).expect("it stops");
        held
    }
}

impl Drop for HeldThread {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
    }
}

/// Processor time of the threads of a process whose names begin with one of `names`; an empty one is of all. How long
/// something takes depends on what else the machine does, this hardly.
pub fn cpu_time(process: &str, names: &[&str]) -> Duration {
    let ns = tasks(process, names).into_iter().map(|task| {
        let schedstat = fs::read_to_string(task.join("schedstat")).expect("the thread is there");
        // Nanoseconds on a processor first.
        let on_cpu = schedstat
            .split(' ')
            .next()
            .and_then(|number| number.parse::<u64>().ok());
        on_cpu.unwrap_or_else(|| panic!("no time in {schedstat:?}"))
    });
    Duration::from_nanos(ns.sum())
}

/// What the calling thread has spent on a processor.
pub fn thread_cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a thread has such a clock");
    Duration::from(spent)
}
