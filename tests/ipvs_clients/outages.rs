//! What clients see when the director fails them: an error in time, never a hang, a spin or a word too many.

use std::process::Child;
use std::time::{Duration, Instant};

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use lvs_api::netlink::Hello;
use lvs_test_support::ipvs_server::{Server, WRITE_TIMEOUT, await_question};
use lvs_test_support::process::await_end;
use lvs_test_support::waits::{takes_less_than, until};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, recv, send, socket};

#[test]
fn a_director_that_is_away_is_an_error_at_once() {
    let mut server = Server::start();
    server.kill();
    // Nobody waits for an answer.
    let at_once = takes_less_than(Duration::from_secs(20), || {
        let (output, errors, code) = server.shell("LVS_IPVS_TIMEOUT=20 ipvsadm -Ln");
        assert_ne!(code, 0);
        assert_eq!(output, "");
        assert!(
            errors.starts_with("Can't initialize ipvs: Protocol not available"),
            "{errors}"
        );
    });
    assert!(at_once);
    let (_, errors, _) = server.shell("cat /proc/net/ip_vs");
    assert!(errors.contains("No such file or directory"), "{errors}");
}

#[test]
fn a_stopped_director_is_an_error_in_time_and_serves_again_when_it_goes_on() {
    let server = Server::start();
    assert_eq!(server.shell("ipvsadm -A -t 192.0.2.1:80").2, 0);
    server.signal(Signal::SIGSTOP);
    // Half a second is what it was asked to wait; otherwise it waits for five.
    let in_time = takes_less_than(Duration::from_secs(5), || {
        let begun = Instant::now();
        assert_ne!(server.shell("ipvsadm -A -t 192.0.2.1:81").2, 0);
        assert!(begun.elapsed() > Duration::from_millis(400), "{:?}", begun.elapsed());
    });
    assert!(in_time);
    server.signal(Signal::SIGCONT);
    let (saved, _, code) = server.shell("ipvsadm -Sn");
    assert_eq!(
        (saved.as_str(), code),
        ("-A -t 192.0.2.1:80 -s wlc\n", 0),
        "what was given up is not done later"
    );
}

/// An ipvsadm that adds a service, with a variable in its environment.
fn adds_service(server: &Server, (variable, value): (&str, &str)) -> Child {
    let mut client = server.command("ipvsadm");
    client.args(["-A", "-t", "192.0.2.1:80"]).env(variable, value);
    client.spawn().unwrap()
}

#[test]
fn a_client_may_wait_for_a_director_that_comes_later() {
    let mut server = Server::start();
    server.kill();
    let mut client = adds_service(&server, ("LVS_IPVS_WAIT", "60"));
    std::thread::sleep(Duration::from_millis(500));
    assert!(client.try_wait().unwrap().is_none(), "it waits");
    server.restart();
    assert!(client.wait().unwrap().success());
    assert_eq!(server.shell("ipvsadm -Sn").0, "-A -t 192.0.2.1:80 -s wlc\n");
}

#[test]
fn the_library_can_be_told_to_keep_out() {
    let server = Server::start();
    let output = server
        .command("ipvsadm")
        .arg("-Ln")
        .env("LVS_IPVS", "off")
        .output()
        .unwrap();
    assert!(!output.status.success(), "this machine's kernel has no IPVS");
}

#[test]
fn a_director_killed_between_request_and_reply_is_an_error_at_once() {
    let mut server = Server::start();
    server.signal(Signal::SIGSTOP);
    // By itself the client would wait for hours.
    let mut client = adds_service(&server, ("LVS_IPVS_TIMEOUT", "10000"));
    await_question(&client.id().to_string());
    server.kill();
    assert!(!await_end(&mut client, "after the director's death").success());
}

/// A connection with nothing of the library in it.
pub fn connect(server: &Server) -> OwnedFd {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    nix::sys::socket::connect(fd.as_raw_fd(), &UnixAddr::new(server.socket()).unwrap()).unwrap();
    fd
}

pub fn say(fd: &OwnedFd, bytes: &[u8]) -> nix::Result<usize> {
    send(fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)
}

pub fn hello() -> [u8; 48] {
    let hello = Hello {
        port_id: 7,
        pid: 7,
        comm: "test".into(),
        net_namespace: 0,
        timeout_ms: 1000,
    };
    hello.to_bytes()
}

/// A dump of services.
fn dump_request() -> [u8; 20] {
    [20, 0, 0, 0, 0xb5, 0xf1, 5, 3, 1, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0]
}

#[test]
fn garbage_and_halves_are_answered_or_closed_and_harm_nobody() {
    let server = Server::start();
    let mut buffer = [0; 1024];
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\0",
        b"LVSDNL1\0short",
        b"LVSDPF1\0/etc/shadow",
    ] {
        let fd = connect(&server);
        say(&fd, garbage).unwrap();
        assert_eq!(
            recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()),
            Ok(0),
            "{garbage:?} is closed"
        );
    }
    let long = vec![0xff; 100_000];
    for garbage in [&dump_request()[..13], &[0xff; 40], &long] {
        let fd = connect(&server);
        say(&fd, &hello()).unwrap();
        say(&fd, garbage).unwrap();
        assert_eq!(
            recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()),
            Ok(0),
            "no netlink: closed"
        );
    }
    let fd = connect(&server);
    say(&fd, &hello()).unwrap();
    let mut half = dump_request();
    half[0] = 18;
    say(&fd, &half[..18]).unwrap();
    let len = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
    assert_eq!((len, &buffer[16..20]), (38, &(-22_i32).to_ne_bytes()[..]), "EINVAL");
    assert_eq!(server.shell("ipvsadm -A -t 192.0.2.1:80").2, 0);
}

#[test]
fn a_client_that_never_reads_delays_nobody_and_loses_its_place() {
    let server = Server::start();
    super::restore(&server, &super::rules(1000, 0));
    let mut lazy = connect(&server);
    // A client that it delayed would wait until it is sent away.
    let delays_nobody = takes_less_than(WRITE_TIMEOUT, || {
        lazy = connect(&server);
        say(&lazy, &hello()).unwrap();
        for _ in 0..100 {
            if say(&lazy, &dump_request()).is_err() {
                break;
            }
        }
        assert_eq!(server.shell("LVS_IPVS_TIMEOUT=20 ipvsadm -Sn").2, 0);
    });
    assert!(delays_nobody);
    until("it was closed", || say(&lazy, &dump_request()) == Err(Errno::EPIPE));
}

#[test]
fn a_user_without_rights_does_not_come_in() {
    let server = Server::start();
    let folder = server.socket().parent().unwrap();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = server.command("setpriv");
    let output = command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "ipvsadm", "-C"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert_eq!(ask_as_nobody(&server), ["EACCES"], "the file's mode is the first door");
}

/// Set in the process that is to be somebody without rights.
const SOCKET_OF_NOBODY: &str = "LVSD_TEST_NOBODY";

/// What each request of a process without rights came to.
fn ask_as_nobody(server: &Server) -> Vec<String> {
    let folder = server.socket().parent().unwrap();
    let program = folder.join("nobody");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = std::process::Command::new(program)
        .args(["--exact", "outages::somebody_without_rights", "--nocapture"])
        .env(SOCKET_OF_NOBODY, server.socket())
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.lines().filter_map(|line| line.strip_prefix("> "));
    words.map(str::to_owned).collect()
}

/// This is no test of its own. The next test starts it as another user.
#[test]
fn somebody_without_rights() {
    let Some(path) = std::env::var_os(SOCKET_OF_NOBODY) else {
        return;
    };
    let connect = || {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        let address = UnixAddr::new(std::path::Path::new(&path))?;
        nix::sys::socket::connect(fd.as_raw_fd(), &address).map(|()| fd)
    };
    let fd = match connect() {
        Ok(fd) => fd,
        // The harness has printed the test's name on this line.
        Err(errno) => return println!("\n> {errno:?}"),
    };
    let mut buffer = [0; 1024];
    println!();
    say(&fd, &hello()).unwrap();
    for command in 0..=u8::MAX {
        let mut request = dump_request();
        request[16] = command;
        for flags in [1, 5] {
            // Asked for one or for all.
            request[6] = 5;
            request[7] = if flags == 1 { 0 } else { 3 };
            say(&fd, &request).unwrap();
            let len = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
            println!(
                "> {len} {}",
                i32::from_ne_bytes([buffer[16], buffer[17], buffer[18], buffer[19]])
            );
        }
    }
    let fd = connect().unwrap();
    say(&fd, b"LVSDPF1\0/proc/net/ip_vs").unwrap();
    println!("> {:?}", recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()));
}

#[test]
fn a_hostile_user_gets_eperm_and_nothing_else_even_where_the_file_lets_everybody_in() {
    let server = Server::start_director();
    assert_eq!(server.shell("ipvsadm -A -t 192.0.2.1:80 -s rr").2, 0);
    let folder = server.socket().parent().unwrap();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(server.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
    let mut heard = ask_as_nobody(&server);
    assert_eq!(heard.pop().as_deref(), Some("Ok(0)"), "no text of /proc");
    assert_eq!(heard.len(), 512);
    // An error message with the request, which is all it says: EPERM.
    assert!(heard.iter().all(|words| words == "40 -1"), "{heard:?}");
    assert_eq!(server.shell("ipvsadm -Sn").0, "-A -t 192.0.2.1:80 -s rr\n");
}
