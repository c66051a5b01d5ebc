//! strace on one thread of a process: which system calls it makes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The threads of a process whose names begin with `name`, at least one. DPDK calls polling threads `rte-worker-…`.
pub fn threads(process: &str, name: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("its threads");
    let is_named = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|found| found.starts_with(name))
    };
    let found = tasks.flatten().filter(is_named);
    let found: Vec<_> = found
        .map(|task| task.file_name().into_string().expect("a number"))
        .collect();
    assert!(!found.is_empty(), "no thread is called {name}");
    found
}

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
        let pid = Pid::from_raw(i32::try_from(self.strace.id()).unwrap());
        kill(pid, Signal::SIGINT).unwrap();
        self.strace.wait().unwrap();
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}
