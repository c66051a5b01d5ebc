//! What systemd hears of the daemon: ready when its sockets are open, alive as long as it works, stopping.

use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Duration;

use lvs_test_support::daemon::Testbed;
use lvs_test_support::waits::PATIENCE;
use nix::sys::signal::Signal;

fn next(socket: &UnixDatagram) -> Option<String> {
    let mut buffer = [0; 256];
    let len = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..len]).trim().to_owned())
}

#[test]
fn systemd_hears_when_it_is_ready_alive_and_stopping() {
    let testbed = Testbed::create();
    testbed.configure("");
    let path = testbed.path("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let environment = [
        ("NOTIFY_SOCKET", path.as_path()),
        // Microseconds: signs of life come three times as often.
        ("WATCHDOG_USEC", Path::new("600000")),
    ];
    let daemon = testbed.start_with(&environment);
    assert_eq!(next(&socket).as_deref(), Some("READY=1"));
    UnixStream::connect(testbed.socket()).expect("open since before it said so");
    for _ in 0..3 {
        assert_eq!(next(&socket).as_deref(), Some("WATCHDOG=1"));
    }
    daemon.signal(Signal::SIGSTOP);
    socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    while next(&socket).is_some() {}
    assert_eq!(next(&socket), None, "a daemon that does not work gives no sign of life");
    daemon.signal(Signal::SIGCONT);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(next(&socket).as_deref(), Some("WATCHDOG=1"));
    daemon.stop();
    let mut last = None;
    socket.set_nonblocking(true).unwrap();
    while let Some(word) = next(&socket) {
        last = Some(word);
    }
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
}
