//! What clients see when the director fails them: an error in time, never a hang, a spin or a word too many.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::server::Server;

#[test]
fn a_director_that_is_away_is_an_error_at_once() {
    let mut server = Server::start();
    server.kill();
    let begun = Instant::now();
    let (output, errors, code) = server.shell("ipvsadm -Ln");
    assert_ne!(code, 0);
    assert_eq!(output, "");
    assert!(errors.starts_with("Can't initialize ipvs: Protocol not available"), "{errors}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    let (_, errors, _) = server.shell("cat /proc/net/ip_vs");
    assert!(errors.contains("No such file or directory"), "{errors}");
}

#[test]
fn a_stopped_director_is_an_error_in_time_and_serves_again_when_it_goes_on() {
    let server = Server::start();
    assert_eq!(server.shell("ipvsadm -A -t 192.0.2.1:80").2, 0);
    server.signal(Signal::SIGSTOP);
    let begun = Instant::now();
    assert_ne!(server.shell("ipvsadm -A -t 192.0.2.1:81").2, 0);
    let waited = begun.elapsed();
    assert!(waited > Duration::from_millis(400) && waited < Duration::from_secs(4), "{waited:?}");
    server.signal(Signal::SIGCONT);
    let (saved, _, code) = server.shell("ipvsadm -Sn");
    assert_eq!((saved.as_str(), code), ("-A -t 192.0.2.1:80 -s wlc\n", 0), "what was given up is not done later");
}

#[test]
fn a_client_may_wait_for_a_director_that_comes_later() {
    let mut server = Server::start();
    server.kill();
    let mut client = server.command("ipvsadm").args(["-A", "-t", "192.0.2.1:80"]).env("LVS_IPVS_WAIT", "10").spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(client.try_wait().unwrap().is_none(), "it waits");
    server.restart();
    assert!(client.wait().unwrap().success());
    assert_eq!(server.shell("ipvsadm -Sn").0, "-A -t 192.0.2.1:80 -s wlc\n");
}

#[test]
fn the_library_can_be_told_to_keep_out() {
    let server = Server::start();
    let output = server.command("ipvsadm").arg("-Ln").env("LVS_IPVS", "off").output().unwrap();
    assert!(!output.status.success(), "this machine's kernel has no IPVS");
}
