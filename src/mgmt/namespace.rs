//! Runs tests that need a kernel network of their own, each in a thread with a fresh network namespace. `ip` does there
//! what an operator would do. Nothing they do is seen outside, and it ends with the thread. Needs root.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

/// Runs `test` in a fresh network namespace.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run the tests as root");
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// `ip` with these arguments, which must succeed; what it printed.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("iproute2 is installed");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Adds an IPv6 address and waits until the kernel answers for it, which it does a moment after `ip` is
/// done: a work queue adds the local route (`addrconf_dad_work`, net/ipv6/addrconf.c).
pub(crate) fn add_ipv6_address(address: &str, dev: &str) {
    /// Only a fault makes anybody wait that long.
    const PATIENCE: Duration = Duration::from_secs(60);
    ip(&format!("-6 addr add {address} dev {dev} nodad"));
    let (own, _) = address.split_once('/').expect("an address with its prefix length");
    let question = format!("-6 route show table local type local {own}");
    let deadline = Instant::now() + PATIENCE;
    while ip(&question).is_empty() {
        assert!(Instant::now() < deadline, "the kernel does not finish {address}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
