//! Two directors, one master and one backup: connections made through the first go on through the second.
//!
//! ```text
//! client 192.0.2.10 --- wan bridge --- director A, B --- lan bridge --- server 198.51.100.11
//! ```
//!
//! A has the virtual address, the servers' gateway and the local address of FULLNAT; when it is killed, B gets them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use lvs_api::{SyncDaemonStatus, SyncRole};
use lvs_test_support::daemon::{Daemon, Testbed};
use lvs_test_support::namespace::Namespace;
use lvs_test_support::process::run;
use lvs_test_support::waits::{PATIENCE, until};
use nix::sys::signal::Signal;

const CONNECTIONS: usize = 8;
const NAT_PORT: u16 = 80;
const FULL_NAT_PORT: u16 = 81;

/// A cable between an interface of `host` and a bridge of `switch`, without offloads, which no wire has.
fn plug(host: &Namespace, interface: &str, switch: &Namespace, bridge: &str) {
    let far = format!("{}-{interface}", &host.name()[host.name().len().saturating_sub(8)..]);
    let far: String = far.chars().rev().take(15).collect::<String>().chars().rev().collect();
    host.inside(&format!(
        "ip link add {interface} type veth peer name {far} netns {}",
        switch.name()
    ));
    switch.inside(&format!("ip link set {far} master {bridge} up"));
    for (of, name) in [(host, interface), (switch, far.as_str())] {
        of.inside(&format!("ethtool -K {name} tx off rx off tso off gso off gro off"));
    }
    host.inside(&format!("ip link set {interface} up"));
}

/// A cable that belongs to lvsd alone: the kernel is deaf on it, packet sockets hear before that.
fn plug_device(director: &Testbed, device: &str, switch: &Namespace) {
    let cable = format!("{device}0");
    plug(director, &cable, switch, device);
    director.inside(&format!("sysctl -qw net.ipv6.conf.{cable}.disable_ipv6=1"));
    director.inside(&format!("ip link set {cable} arp off promisc on"));
    director.inside(&format!("nft add table netdev deaf_{cable}"));
    let chain = format!("{{ type filter hook ingress device \"{cable}\" priority 0; policy drop; }}");
    let mut nft = director.command();
    run(nft.args(["nft", &format!("add chain netdev deaf_{cable} ingress {chain}")]));
}

fn director(number: u8, switch: &Namespace) -> Testbed {
    let director = Testbed::create();
    let mut devices = String::new();
    for (index, device) in ["wan", "lan"].into_iter().enumerate() {
        plug_device(&director, device, switch);
        director.twin(device, &format!("02:00:00:00:{number:02x}:{index:02x}"));
        devices += &format!(
            "[[device]]\nname = {device:?}\ndpdk = \"net_af_packet{index},iface={device}0,\
             blocksz=4096,framesz=2048,framecnt=1024\"\n"
        );
    }
    let service = |port: u16, pool: &str| {
        format!(
            "[[service]]\nprotocol = \"tcp\"\naddress = \"192.0.2.100\"\nport = {port}\n{pool}\
             [[service.real_server]]\naddress = \"198.51.100.11\"\nport = 8080\nmode = \"nat\"\n"
        )
    };
    director.configure(&format!(
        "{devices}{}{}",
        service(NAT_PORT, ""),
        service(FULL_NAT_PORT, "local_addresses = [\"198.51.100.200\"]\n")
    ));
    director.address("wan", &format!("192.0.2.{number}/24"));
    director.address("lan", &format!("198.51.100.{number}/24"));
    director
}

/// Gives `director` what moves from one to the other.
fn take_addresses(director: &Namespace) {
    director.address("wan", "192.0.2.100/32");
    director.address("lan", "198.51.100.1/32");
    director.address("lan", "198.51.100.200/32");
}

fn end(switch: &Namespace, bridge: &str, address: &str, gateway: Option<&str>) -> Namespace {
    let host = Namespace::create();
    host.inside("ip link set lo up");
    plug(&host, "eth0", switch, bridge);
    host.address("eth0", address);
    if let Some(gateway) = gateway {
        host.inside(&format!("ip route add default via {gateway}"));
    }
    host
}

/// Echoes whatever comes on port 8080 until the test ends.
fn serve(server: &Namespace) {
    let listener = server.run(|| TcpListener::bind("0.0.0.0:8080").unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut copy = stream.try_clone().unwrap();
                std::io::copy(&mut stream, &mut copy)
            });
        }
    });
}

fn says_and_hears(stream: &mut TcpStream, word: &str) {
    stream.write_all(word.as_bytes()).unwrap();
    let mut heard = vec![0; word.len()];
    stream
        .read_exact(&mut heard)
        .unwrap_or_else(|error| panic!("{word}: {error}"));
    assert_eq!(heard, word.as_bytes());
}

fn connected(client: &Namespace, port: u16) -> TcpStream {
    let mut stream = client.run(move || {
        let target = format!("192.0.2.100:{port}").parse().unwrap();
        TcpStream::connect_timeout(&target, PATIENCE).unwrap()
    });
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    says_and_hears(&mut stream, "before");
    stream
}

/// Established connections that a director lists, as `ipvsadm -Lnc` does.
fn established(daemon: &Daemon<'_>) -> Vec<String> {
    let listed = daemon.printed("connections --state ESTABLISHED");
    let ends = |line: &str| line.split_whitespace().skip(3).collect::<Vec<_>>().join(" ");
    let mut lines: Vec<String> = listed
        .lines()
        .filter(|line| line.starts_with("TCP"))
        .map(ends)
        .collect();
    lines.sort();
    lines
}

fn sync_status(daemon: &Daemon<'_>, role: SyncRole) -> SyncDaemonStatus {
    let all: Vec<SyncDaemonStatus> = daemon.get("/v1/sync-daemons");
    all.into_iter().find(|status| status.daemon.role == role).unwrap()
}

#[test]
fn connections_of_a_killed_master_go_on_through_its_backup() {
    let switch = Namespace::create();
    for bridge in ["wan", "lan"] {
        switch.inside(&format!("ip link add {bridge} type bridge"));
        switch.inside(&format!("ip link set {bridge} up"));
    }
    let client = end(&switch, "wan", "192.0.2.10/24", None);
    let server = end(&switch, "lan", "198.51.100.11/24", Some("198.51.100.1"));
    serve(&server);
    let (first, second) = (director(2, &switch), director(3, &switch));
    take_addresses(&first);
    let (one, two) = (first.start(), second.start());
    one.printed("sync start master --interface lan --sync-id 7");
    two.printed("sync start backup --interface lan --sync-id 7");
    assert_eq!(
        two.printed("sync"),
        "backup sync daemon (mcast=lan, syncid=7, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)\n"
    );
    let refused = one.lvsctl("sync start master --interface lan --sync-id 8");
    assert_eq!(refused.status.code(), Some(1), "one master is enough");

    let mut streams: Vec<TcpStream> = [NAT_PORT, FULL_NAT_PORT]
        .into_iter()
        .flat_map(|port| (0..CONNECTIONS).map(move |_| port))
        .map(|port| connected(&client, port))
        .collect();
    assert_eq!(established(&one).len(), 2 * CONNECTIONS);
    until("the backup knows all connections", || {
        established(&two) == established(&one)
    });
    let master = sync_status(&one, SyncRole::Master);
    let heard = sync_status(&two, SyncRole::Backup);
    assert!(
        master.running && master.messages >= 1 && master.refused.is_empty(),
        "{master:?}"
    );
    assert_eq!(
        (heard.connections, heard.refused.len()),
        (master.connections, 0),
        "{heard:?}"
    );

    one.signal(Signal::SIGKILL);
    take_addresses(&second);
    for host in [&client, &server] {
        host.inside("ip neigh flush dev eth0");
    }
    for stream in &mut streams {
        says_and_hears(stream, "after");
    }
    assert_eq!(two.printed("drops").trim(), "nothing was dropped");
}

#[test]
fn a_daemon_comes_back_with_the_director_and_waits_for_its_interface() {
    let testbed = Testbed::create();
    testbed.configure("");
    testbed.inside("ip link set lo up");
    testbed.inside("ip link add sync0 type veth peer name sync1");
    testbed.inside("ip link set sync0 up");
    testbed.inside("ip link set sync1 up");
    testbed.address("sync0", "198.51.100.2/24");
    let daemon = testbed.start();
    let refused = daemon.lvsctl("sync start backup --interface nowhere0");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no network interface \"nowhere0\""));
    daemon.printed("sync start backup --interface sync0 --sync-id 9 --port 9999");
    daemon.signal(Signal::SIGKILL);
    drop(daemon);
    testbed.inside("ip link del sync0");

    let daemon = testbed.start();
    assert!(!sync_status(&daemon, SyncRole::Backup).running);
    until("the log names what it waits for", || {
        daemon
            .log()
            .contains("backup sync daemon: there is no network interface")
    });
    testbed.inside("ip link add sync0 type veth peer name sync1");
    testbed.inside("ip link set sync0 up");
    testbed.inside("ip link set sync1 up");
    testbed.address("sync0", "198.51.100.2/24");
    until("its sockets are open", || {
        sync_status(&daemon, SyncRole::Backup).running
    });
    let members = testbed.inside("ip -4 maddr show dev sync0");
    assert!(members.contains("224.0.0.81"), "{members}");
    daemon.printed("sync stop backup");
    assert_eq!(daemon.printed("sync"), "");
    // In the kernel's IPv6 group of the link; its socket may wait for the interface's own address.
    until("a master of an IPv6 group starts", || {
        daemon
            .lvsctl("sync start master --interface sync0 --group ff02::81 --ttl 3")
            .status
            .success()
    });
    assert_eq!(
        daemon.printed("sync"),
        "master sync daemon (mcast=sync0, syncid=0, maxlen=1452, group=ff02::81, port=8848, ttl=3)\n"
    );
    assert!(!testbed.inside("ip -4 maddr show dev sync0").contains("224.0.0.81"));
    daemon.stop();
}
