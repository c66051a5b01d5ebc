//! strace on one thread of a process: which system calls it makes, and how long a wait it asks the kernel for.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::process::signal;

/// A thread that strace watches.
pub struct Traced {
    strace: Child,
    log: PathBuf,
}

impl Traced {
    /// Watches `thread` of `process` and writes its calls to the file `log`.
    pub fn attach(process: &str, thread: &str, log: &Path) -> Self {
        Self::attach_with(&[], process, thread, log)
    }

    /// Does the same with further arguments for strace.
    pub fn attach_with(options: &[&str], process: &str, thread: &str, log: &Path) -> Self {
        let mut strace = Command::new("strace")
            .args(options)
            .args(["-qq", "-p", thread, "-o"])
            .arg(log)
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is installed: scripts/dev setup");
        // strace is attached as soon as the kernel names it as the tracer.
        let status = format!("/proc/{process}/task/{thread}/status");
        while std::fs::read_to_string(&status).unwrap().contains("TracerPid:\t0\n") {
            assert!(strace.try_wait().unwrap().is_none(), "strace may trace this process");
            std::thread::yield_now();
        }
        let log = log.to_owned();
        Self { strace, log }
    }

    /// The system calls since then, one per line.
    pub fn calls(mut self) -> String {
        signal(&self.strace, Signal::SIGINT);
        self.strace.wait().unwrap();
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// The longest wait that is asked for in these system calls, one a line; `None` where there is none. What the machine
/// adds to it is not the thread's.
pub fn longest_wait(calls: &str) -> Option<Duration> {
    calls.lines().filter_map(asked_for).max()
}

/// `clock_nanosleep(CLOCK_REALTIME, 0, {tv_sec=0, tv_nsec=1000000}, …`: the first time that a call names.
fn asked_for(call: &str) -> Option<Duration> {
    let number = |name: &str| {
        let digits = call.split_once(name)?.1;
        let end = digits.find(|digit: char| !digit.is_ascii_digit())?;
        digits[..end].parse::<u64>().ok()
    };
    Some(Duration::from_secs(number("tv_sec=")?) + Duration::from_nanos(number("tv_nsec=")?))
}
