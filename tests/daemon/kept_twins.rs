//! Kernel twins outlive the daemon as the operator left them, with their carrier where systemd holds their descriptors.

use std::collections::BTreeMap;
use std::io::{IoSliceMut, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;

use lvs_test_support::daemon::{Daemon, Testbed};
use lvs_test_support::namespace::Namespace;
use lvs_test_support::process::run;
use lvs_test_support::waits::{PATIENCE, until};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::kept_connections::end;
use crate::two_lans::{Lans, director};

const TWINS: [&str; 2] = ["wan", "lan"];

/// A director whose twins nobody has made for it.
fn without_twins(lans: &Lans) -> Testbed {
    let testbed = director(2, &lans.switch, "");
    for twin in TWINS {
        testbed.inside(&format!("ip link del {twin}"));
    }
    testbed
}

/// What an operator does to the twins.
fn set_up(director: &Namespace) {
    director.address("wan", "192.0.2.2/24");
    director.address("lan", "198.51.100.2/24");
    director.inside("ip route add 203.0.113.0/24 via 192.0.2.10");
    director.inside("ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev wan nud permanent");
    director.inside("ip link set lan mtu 1400");
}

/// Everything of the twins that others may build on, without carrier and without times.
fn kept(director: &Namespace) -> String {
    let links = TWINS.map(|twin| {
        director.inside(&format!(
            "cat /sys/class/net/{twin}/ifindex /sys/class/net/{twin}/address /sys/class/net/{twin}/mtu \
             /sys/class/net/{twin}/ifalias"
        ))
    });
    let others = [
        "ip -4 -o addr show",
        "ip -4 route show table all",
        "ip neigh show nud permanent",
    ];
    let text = links.into_iter().chain(others.map(|command| director.inside(command)));
    text.collect::<String>().replace(" linkdown", "").replace(" dead", "")
}

fn carrier_changes(director: &Namespace) -> [String; 2] {
    TWINS.map(|twin| director.inside(&format!("cat /sys/class/net/{twin}/carrier_changes")))
}

/// A connection of the director's own kernel, and the other end of it.
fn connection(director: &Namespace, client: &Namespace) -> (TcpStream, TcpStream) {
    let listener = client.run(|| TcpListener::bind("192.0.2.10:7").unwrap());
    let near = director.run(|| TcpStream::connect_timeout(&"192.0.2.10:7".parse().unwrap(), PATIENCE).unwrap());
    let (far, _) = listener.accept().unwrap();
    for end in [&near, &far] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    (near, far)
}

fn hear(stream: &mut TcpStream, word: &str) {
    let mut heard = vec![0; word.len()];
    stream
        .read_exact(&mut heard)
        .unwrap_or_else(|error| panic!("{word}: {error}"));
    assert_eq!(heard, word.as_bytes());
}

/// systemd's store of descriptors.
struct Store {
    socket: UnixDatagram,
    held: BTreeMap<String, RawFd>,
}

impl Store {
    fn new(testbed: &Testbed) -> Self {
        let socket = UnixDatagram::bind(testbed.path("notify.sock")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let held = BTreeMap::new();
        Self { socket, held }
    }

    /// Takes what a daemon stores until it is ready.
    fn take(&mut self) {
        loop {
            let mut buffer = [0; 256];
            let (mut bytes, mut space) = ([IoSliceMut::new(&mut buffer)], nix::cmsg_space!([RawFd; 1]));
            let message =
                recvmsg::<()>(self.socket.as_raw_fd(), &mut bytes, Some(&mut space), MsgFlags::empty()).unwrap();
            let passed = message.cmsgs().unwrap().find_map(|control| match control {
                ControlMessageOwned::ScmRights(passed) => passed.first().copied(),
                _ => None,
            });
            let len = message.bytes;
            let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
            let removed = text
                .contains("FDSTOREREMOVE=1")
                .then(|| self.held.remove(name.unwrap()))
                .flatten();
            if let (Some(passed), Some(name)) = (passed, name) {
                assert!(self.held.insert(name.to_owned(), passed).is_none(), "{name} twice");
            }
            removed.into_iter().for_each(close);
            if text.contains("READY=1") {
                return;
            }
        }
    }

    /// Starts a daemon with the descriptors in its hands, and takes what it stores.
    fn start<'a>(&mut self, testbed: &'a Testbed) -> Daemon<'a> {
        let (names, held): (Vec<&str>, Vec<RawFd>) =
            self.held.iter().map(|(name, held)| (name.as_str(), *held)).unzip();
        let moves: String = (3..).zip(&held).map(|(to, from)| format!("{to}<&{from} ")).collect();
        let line = format!(
            "exec bash -ec 'exec {moves}; export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={} NOTIFY_SOCKET={}; \
             exec \"$@\"' bash \"$@\"",
            names.len(),
            names.join(":"),
            testbed.path("notify.sock").display()
        );
        let daemon = testbed.start_behind(&line);
        self.take();
        daemon
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.held.values().copied().for_each(close);
    }
}

fn close(fd: RawFd) {
    nix::unistd::close(fd).unwrap();
}

#[test]
fn twins_are_as_the_operator_left_them_and_their_connections_go_on() {
    let lans = Lans::create();
    let testbed = without_twins(&lans);
    let mut daemon = testbed.start();
    set_up(&testbed);
    let before = kept(&testbed);
    let (mut near, mut far) = connection(&testbed, &lans.client);
    for (word, signal) in [("killed", Signal::SIGKILL), ("stopped", Signal::SIGTERM)] {
        end(daemon, signal);
        assert_eq!(kept(&testbed), before, "{word}");
        near.write_all(word.as_bytes()).unwrap();
        daemon = testbed.start();
        hear(&mut far, word);
        far.write_all(word.as_bytes()).unwrap();
        hear(&mut near, word);
        assert_eq!(kept(&testbed), before, "{word}");
    }
    daemon.stop();
}

#[test]
fn a_twin_whose_descriptor_is_held_never_loses_its_carrier() {
    let lans = Lans::create();
    let testbed = without_twins(&lans);
    let mut store = Store::new(&testbed);
    let mut daemon = store.start(&testbed);
    assert_eq!(store.held.keys().collect::<Vec<_>>(), ["lan", "wan"]);
    set_up(&testbed);
    until("the twins have their carrier", || {
        TWINS
            .iter()
            .all(|twin| testbed.inside(&format!("cat /sys/class/net/{twin}/carrier")) == "1\n")
    });
    let before = (kept(&testbed), carrier_changes(&testbed));
    let (mut near, mut far) = connection(&testbed, &lans.client);
    for (word, signal) in [
        ("killed", Signal::SIGKILL),
        ("stopped", Signal::SIGTERM),
        ("again", Signal::SIGKILL),
    ] {
        end(daemon, signal);
        near.write_all(word.as_bytes()).unwrap();
        assert_eq!((kept(&testbed), carrier_changes(&testbed)), before, "{word}");
        daemon = store.start(&testbed);
        hear(&mut far, word);
        assert_eq!((kept(&testbed), carrier_changes(&testbed)), before, "{word}");
        assert_eq!(store.held.len(), 2, "each twin is held once");
    }
    daemon.stop();
}

#[test]
fn own_twins_that_nobody_wants_are_given_back_and_those_of_others_are_not() {
    let lans = Lans::create();
    let testbed = without_twins(&lans);
    // The operator's own.
    testbed.twin("lan", "02:00:00:00:00:01");
    testbed.start().stop();
    let exists = |name: &str| testbed.shell(&format!("ip link show {name}")).status.success();
    assert!(exists("wan") && exists("lan"));

    testbed.edit_config("name = \"wan\"", "name = \"internet\"");
    let daemon = testbed.start();
    assert!(exists("internet") && !exists("wan"));
    let refused = testbed.lvsd("--forget-state").output().unwrap();
    assert!(!refused.status.success() && exists("internet"), "it is in use");
    daemon.stop();
    run(&mut testbed.lvsd("--forget-state"));
    assert!(!exists("internet") && exists("lan"));
}
