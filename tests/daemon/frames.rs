//! A million arbitrary frames through the real daemon: it lives, every frame is accounted for, every buffer
//! comes back.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use lvs_api::{Buffers, Device, DropCount, Worker};
use lvs_core::random::Random;
use lvs_core::testing::mutate::{arbitrary, seeds};
use lvs_core::testing::{CapturedFrame, write_pcap};
use lvs_test_support::daemon::{Daemon, Testbed};
use lvs_test_support::waits::until;

const FRAMES: usize = 1_000_000;
/// Of these so many come from real servers.
const LAN_FRAMES: usize = FRAMES / 4;

/// Writes a capture of arbitrary frames.
fn write_capture(path: &Path, seed: u64, count: usize) {
    const BATCH: usize = 1_000;
    let (mut random, seeds) = (Random::new(seed), seeds());
    let mut file = BufWriter::new(File::create(path).unwrap());
    let header_len = write_pcap(&[]).len();
    file.write_all(&write_pcap(&[])).unwrap();
    let mut left = count;
    while left > 0 {
        let frames: Vec<_> = (0..left.min(BATCH))
            .map(|_| {
                let bytes = arbitrary(&mut random, &seeds);
                CapturedFrame::of(bytes)
            })
            .collect();
        file.write_all(&write_pcap(&frames)[header_len..]).unwrap();
        left -= frames.len();
    }
    file.flush().unwrap();
}

/// The network of `lvs_core::testing::network`, on twins; the last real server never answers.
fn lay_network(testbed: &Testbed) {
    for (device, number, net4, net6) in [
        ("wan", 1, "192.0.2", "2001:db8:a:"),
        ("lan", 2, "198.51.100", "2001:db8:b:"),
    ] {
        testbed.twin(device, &format!("02:00:00:00:00:0{number}"));
        testbed.address(device, &format!("{net4}.1/24"));
        testbed.address(device, &format!("{net6}:1/64"));
        let neighbours: Vec<u8> = if device == "wan" {
            (2..10).chain([254]).collect()
        } else {
            (11..13).collect()
        };
        for neighbour in neighbours {
            for addr in [format!("{net4}.{neighbour}"), format!("{net6}:{neighbour}")] {
                let mac = format!("02:00:00:00:0{number}:{neighbour:02x}");
                testbed.inside(&format!("ip neigh add {addr} lladdr {mac} dev {device} nud permanent"));
            }
        }
    }
    testbed.address("wan", "192.0.2.100/32");
    testbed.address("wan", "2001:db8:a::100/128");
    testbed.inside("ip route add default via 192.0.2.254");
    testbed.inside("ip -6 route add default via 2001:db8:a::254");
}

/// NAT, FULLNAT, DR and TUN, both families.
fn services() -> String {
    let mut text = String::new();
    for (protocol, port, scheduler, mode, is_fullnat) in [
        ("tcp", 80, "rr", "nat", false),
        ("tcp", 81, "wlc", "tunnel", false),
        ("tcp", 82, "wrr", "dr", false),
        ("tcp", 83, "sh", "nat", true),
        ("udp", 53, "lc", "nat", false),
    ] {
        for (vip, net, local) in [
            ("192.0.2.100", "198.51.100.", "198.51.100.200"),
            ("2001:db8:a::100", "2001:db8:b::", "2001:db8:b::200"),
        ] {
            text += &format!(
                "[[service]]\nprotocol = {protocol:?}\naddress = {vip:?}\nport = {port}\nscheduler = {scheduler:?}\n"
            );
            if is_fullnat {
                text += &format!("local_addresses = [{local:?}]\n");
            }
            for server in 11..14 {
                text += &format!("[[service.real_server]]\naddress = \"{net}{server}\"\nmode = {mode:?}\n");
            }
        }
    }
    text
}

fn devices(testbed: &Testbed) -> String {
    let device = |name: &str, number: u8| {
        let capture = testbed.path(&format!("{name}.pcap"));
        format!(
            "[[device]]\nname = {name:?}\ndpdk = \"net_pcap{number},rx_pcap={}\"\nmac = \"02:00:00:00:00:0{}\"\n\
             promiscuous = true\n",
            capture.display(),
            number + 1
        )
    };
    device("wan", 0) + &device("lan", 1)
}

/// Both sides of the account.
#[derive(Debug, Default, PartialEq, Eq)]
struct Account {
    received: u64,
    injected: u64,
    transmitted: u64,
    punted: u64,
    dropped: u64,
    held: u64,
    /// Put into a datagram or cut into pieces.
    kept: u64,
    /// The datagrams and pieces.
    made: u64,
}

impl Account {
    fn of(daemon: &Daemon<'_>) -> Self {
        let workers: Vec<Worker> = daemon.get("/v1/workers");
        let devices: Vec<Device> = daemon.get("/v1/devices");
        let drops: Vec<DropCount> = daemon.get("/v1/drops");
        Self {
            received: workers.iter().map(|worker| worker.rx_packets).sum(),
            injected: devices.iter().map(|device| device.inject_packets).sum(),
            transmitted: workers.iter().map(|worker| worker.tx_packets).sum(),
            punted: devices.iter().map(|device| device.punt_packets).sum(),
            dropped: drops.iter().map(|drop| drop.packets).sum(),
            kept: workers.iter().map(|worker| worker.consumed_packets).sum(),
            made: workers.iter().map(|worker| worker.generated_packets).sum(),
            held: workers.iter().map(|worker| worker.held_packets).sum(),
        }
    }

    fn is_settled(&self) -> bool {
        self.received + self.injected + self.made
            == self.transmitted + self.punted + self.dropped + self.held + self.kept
    }
}

#[test]
fn a_million_arbitrary_frames_are_all_accounted_for() {
    let testbed = Testbed::create();
    lay_network(&testbed);
    testbed.configure_with_conns4_max(200_000, &(devices(&testbed) + &services()));
    write_capture(&testbed.path("wan.pcap"), 1, 0);
    write_capture(&testbed.path("lan.pcap"), 2, 0);
    let daemon = testbed.start();
    let before: Buffers = daemon.get("/v1/buffers");
    daemon.stop();

    write_capture(&testbed.path("wan.pcap"), 1, FRAMES - LAN_FRAMES);
    write_capture(&testbed.path("lan.pcap"), 2, LAN_FRAMES);
    let mut daemon = testbed.start();
    until("all frames were received and have come to their end", || {
        let account = Account::of(&daemon);
        account.received == FRAMES as u64 && account.held == 0 && account.is_settled()
    });
    let account = Account::of(&daemon);
    assert!(
        account.transmitted > 50_000 && account.punted > 1_000 && account.injected > 0,
        "{account:?}"
    );
    for reason in [
        "truncated",
        "malformed",
        "ipv4_checksum",
        "other_host",
        "multi_segment",
        "neighbour_failed",
    ] {
        assert!(daemon.drops_of(reason) > 0, "{reason}\n{}", daemon.printed("drops"));
    }
    until("every buffer has come back", || {
        daemon.get::<Buffers>("/v1/buffers") == before
    });
    assert!(daemon.is_alive());
    let log = daemon.stop();
    assert!(!log.contains("ERROR"), "{log}");
}
