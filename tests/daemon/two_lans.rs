//! The network of tests with one director or two between a client and a server that echoes.
//!
//! ```text
//! client 192.0.2.10 --- wan bridge --- director A, B --- lan bridge --- server 198.51.100.11
//! ```

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use lvs_test_support::daemon::Testbed;
use lvs_test_support::namespace::Namespace;
use lvs_test_support::process::run;
use lvs_test_support::waits::PATIENCE;

/// The service that masquerades.
pub const NAT_PORT: u16 = 80;
/// The service with a local address.
pub const FULL_NAT_PORT: u16 = 81;

/// Both LANs and their ends.
pub struct Lans {
    /// Has the bridges.
    pub switch: Namespace,
    /// The client.
    pub client: Namespace,
    /// The server, which echoes on port 8080.
    pub server: Namespace,
}

impl Lans {
    /// Makes them; the server serves.
    pub fn create() -> Self {
        let switch = Namespace::create();
        for bridge in ["wan", "lan"] {
            switch.inside(&format!("ip link add {bridge} type bridge"));
            switch.inside(&format!("ip link set {bridge} up"));
        }
        let client = end(&switch, "wan", "192.0.2.10/24", None);
        let server = end(&switch, "lan", "198.51.100.11/24", Some("198.51.100.1"));
        serve(&server);
        Self { switch, client, server }
    }
}

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

/// Director `number` between the LANs, configured with a service for each mode and `more`. Its addresses are still to be
/// taken.
pub fn director(number: u8, switch: &Namespace, more: &str) -> Testbed {
    let director = Testbed::create();
    let mut devices = more.to_owned();
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

/// The LANs, and between them one director that has the addresses and is still to be started.
pub fn lone_director() -> (Lans, Testbed) {
    let lans = Lans::create();
    let testbed = director(2, &lans.switch, "");
    take_addresses(&testbed);
    (lans, testbed)
}

/// Gives `director` what moves from one to the other.
pub fn take_addresses(director: &Namespace) {
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

/// Sends a word, which must come back.
pub fn says_and_hears(stream: &mut TcpStream, word: &str) {
    stream.write_all(word.as_bytes()).unwrap();
    let mut heard = vec![0; word.len()];
    stream
        .read_exact(&mut heard)
        .unwrap_or_else(|error| panic!("{word}: {error}"));
    assert_eq!(heard, word.as_bytes());
}

/// A connection of the client to the virtual address that has made its handshake.
pub fn connected(client: &Namespace, port: u16) -> TcpStream {
    let stream = client.run(move || {
        let target = format!("192.0.2.100:{port}").parse().unwrap();
        TcpStream::connect_timeout(&target, PATIENCE).unwrap()
    });
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}
