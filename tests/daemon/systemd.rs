//! What systemd hears of the daemon: ready when its sockets are open, alive as long as it works, stopping.

use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use lvs_test_support::daemon::Testbed;
use lvs_test_support::process::{HeldThread, WORKERS, threads};
use lvs_test_support::waits::{PATIENCE, until};
use nix::sys::signal::Signal;

fn next(socket: &UnixDatagram) -> Option<String> {
    let mut buffer = [0; 256];
    let len = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..len]).trim().to_owned())
}

#[test]
fn the_unit_never_gives_up() {
    let unit = include_str!("../../packaging/systemd/lvsd.service");
    let section = |name: &str| {
        let begin = unit
            .split_once(&format!("[{name}]\n"))
            .expect("the unit has this section")
            .1;
        begin
            .split("\n[")
            .next()
            .unwrap_or_default()
            .lines()
            .collect::<Vec<_>>()
    };
    assert!(section("Unit").contains(&"StartLimitIntervalSec=0"));
    for line in [
        "Restart=always",
        "RestartSec=1",
        "RestartSteps=6",
        "RestartMaxDelaySec=30",
        "WatchdogSec=30",
    ] {
        assert!(section("Service").contains(&line), "{line}");
    }
}

/// Where the daemon's words arrive, and the environment that says so. Signs of life come three times in 600 ms.
fn notify_socket(testbed: &Testbed) -> (UnixDatagram, [(&'static str, PathBuf); 2]) {
    let path = testbed.path("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    (socket, [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "600000".into())])
}

/// Whether no sign of life comes for longer than systemd would wait.
fn is_silent(socket: &UnixDatagram) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    // What was said before is passed over.
    let silent = (0..100).any(|_| next(socket).is_none()) && next(socket).is_none();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    silent
}

#[test]
fn systemd_hears_when_it_is_ready_alive_and_stopping() {
    let testbed = Testbed::create();
    testbed.configure("");
    let (socket, environment) = notify_socket(&testbed);
    let daemon = testbed.start_with(&environment.each_ref().map(|(name, value)| (*name, value.as_path())));
    assert_eq!(next(&socket).as_deref(), Some("READY=1"));
    UnixStream::connect(testbed.socket()).expect("open since before it said so");
    for _ in 0..3 {
        assert_eq!(next(&socket).as_deref(), Some("WATCHDOG=1"));
    }
    daemon.signal(Signal::SIGSTOP);
    assert!(is_silent(&socket), "a daemon that does not work gives no sign of life");
    daemon.signal(Signal::SIGCONT);
    assert_eq!(next(&socket).as_deref(), Some("WATCHDOG=1"));
    daemon.stop();
    let mut last = None;
    socket.set_nonblocking(true).unwrap();
    while let Some(word) = next(&socket) {
        last = Some(word);
    }
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
}

#[test]
fn a_worker_that_stands_still_is_named_and_starves_the_watchdog_until_it_goes_on() {
    let testbed = Testbed::create();
    testbed.configure("");
    // Short: a pause of the looking thread, which a busy machine makes, excuses the workers and the time begins anew.
    testbed.edit_config("idle = \"sleep\"", "idle = \"sleep\"\nstandstill_sec = 1");
    let (socket, environment) = notify_socket(&testbed);
    let daemon = testbed.start_with(&environment.each_ref().map(|(name, value)| (*name, value.as_path())));
    assert_eq!(next(&socket).as_deref(), Some("READY=1"));
    let worker = &threads(&daemon.pid().to_string(), WORKERS)[0];
    let metric = |value| format!("lvsd_worker_stands_still{{worker=\"0\"}} {value}\n");
    let metrics = || daemon.ask("GET", "/metrics", "").1;
    assert!(metrics().contains(&metric(0)));

    let held = HeldThread::hold(worker);
    until("it is named", || {
        daemon.log().contains(") stands still: it has made no pass for 1s")
    });
    assert!(is_silent(&socket), "the management core works, but a worker does not");
    let status = daemon.printed("status");
    let wrong = status
        .lines()
        .find(|line| line.starts_with("WRONG  workers "))
        .expect("it is wrong");
    assert!(wrong.contains("worker 0 stands still: no pass for "), "{wrong}");
    assert!(metrics().contains(&metric(1)));
    // Nobody waits for it.
    daemon.printed("service add tcp:192.0.2.100:80");

    drop(held);
    until("it is seen to go on", || {
        daemon.log().contains(") goes on after it stood still for ")
    });
    assert_eq!(next(&socket).as_deref(), Some("WATCHDOG=1"));
    until("nothing says so any more", || {
        !daemon.printed("status").contains("stands still") && metrics().contains(&metric(0))
    });
    daemon.stop();
}
