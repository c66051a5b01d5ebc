//! Arbitrary frames, fragments and ICMP errors among them, through the whole path, alone and in bursts, with one
//! worker and with three: nothing panics, every frame gets exactly one verdict, and every connection is counted by exactly one server.
//!
//! Deterministic: the seed is printed on failure. `LVSD_FUZZ_SECONDS=600` goes on with new seeds.

use std::time::{Duration, Instant};

use lvs_core::counters::SingleWriter;
use lvs_core::frame::Frame;
use lvs_core::ipvs::desired::{ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::ipvs::tunnel_kind::{GueChecksum, TunnelKind};
use lvs_core::l3::DeviceId;
use lvs_core::limits::BURST_MAX;
use lvs_core::random::Random;
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN, director_mac, network};
use lvs_core::testing::{VecFrame, icmp4, icmp6, tcp4, tcp6, udp4, udp6};

/// Frames of one run with the default settings: ten million in all.
const FRAMES_PER_RUN: usize = 2_500_000;
/// Small, so that the table is full most of the time.
const CONNS_MAX: usize = 4_096;

fn director(workers: u8) -> TestDirector {
    let mut director = TestDirector::new(workers, CONNS_MAX, network().build(1));
    director.change(|desired| {
        let services = [
            (
                "192.0.2.100",
                80,
                ServiceProtocol::Tcp,
                SchedulerKind::Rr,
                ForwardingMode::Nat,
            ),
            (
                "192.0.2.100",
                81,
                ServiceProtocol::Tcp,
                SchedulerKind::Wlc,
                ForwardingMode::Tunnel,
            ),
            (
                "192.0.2.100",
                82,
                ServiceProtocol::Tcp,
                SchedulerKind::Wrr,
                ForwardingMode::DirectRouting,
            ),
            (
                "192.0.2.100",
                83,
                ServiceProtocol::Tcp,
                SchedulerKind::Sh,
                ForwardingMode::FullNat,
            ),
            (
                "192.0.2.100",
                53,
                ServiceProtocol::Udp,
                SchedulerKind::Lc,
                ForwardingMode::Nat,
            ),
            (
                "2001:db8:a::100",
                80,
                ServiceProtocol::Tcp,
                SchedulerKind::Rr,
                ForwardingMode::Nat,
            ),
            (
                "2001:db8:a::100",
                83,
                ServiceProtocol::Tcp,
                SchedulerKind::Rr,
                ForwardingMode::FullNat,
            ),
            (
                "2001:db8:a::100",
                53,
                ServiceProtocol::Udp,
                SchedulerKind::Sh,
                ForwardingMode::Tunnel,
            ),
        ];
        for (vip, port, protocol, scheduler, mode) in services {
            let addr = vip.parse().unwrap();
            let key = ServiceKey::Address { protocol, addr, port };
            desired.add_service(ServiceSpec::new(key, scheduler)).unwrap();
            if mode == ForwardingMode::FullNat {
                let local = if addr.is_ipv4() {
                    "198.51.100.200"
                } else {
                    "2001:db8:b::200"
                };
                desired.set_local_addresses(&key, vec![local.parse().unwrap()]).unwrap();
            }
            let configured = if mode == ForwardingMode::FullNat {
                ForwardingMode::Nat
            } else {
                mode
            };
            for server in 11..14_u8 {
                let text = if addr.is_ipv4() {
                    format!("198.51.100.{server}")
                } else {
                    format!("2001:db8:b::{server}")
                };
                let spec = ServerSpec {
                    // Of effect in tunnel mode only: one server of each kind.
                    tunnel: match server {
                        12 => TunnelKind::Gre { checksum: true },
                        13 => TunnelKind::Gue {
                            port: 6_080,
                            checksum: GueChecksum::Full,
                        },
                        _ => TunnelKind::IpIp,
                    },
                    ..ServerSpec::new(text.parse().unwrap(), port, configured, 1)
                };
                desired.add_server(&key, spec).unwrap();
            }
        }
    });
    director
}

/// Good frames that the mutations start from.
fn seeds() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for port in [80, 81, 82, 83, 84] {
        for client in 2..6 {
            let ends = format!("192.0.2.{client}:4000{client} > 192.0.2.100:{port}");
            frames.push(tcp4(&ends).syn().mss(1_460).build());
            frames.push(tcp4(&ends).ack().payload(b"hello").build());
            frames.push(tcp4(&ends).fin().ack().vlan(7).build());
            frames.push(tcp4(&ends).rst().ip_options(&[7, 7, 4, 0, 0, 0, 0, 0]).build());
            frames.push(
                udp4(&format!("192.0.2.{client}:50{client} > 192.0.2.100:53"))
                    .payload(b"query")
                    .build(),
            );
            let ends = format!("[2001:db8:a::{client}]:4000{client} > [2001:db8:a::100]:{port}");
            frames.push(tcp6(&ends).syn().mss(1_440).build());
            frames.push(tcp6(&ends).ack().hop_by_hop(8).payload_len(900).build());
            frames.push(
                udp6(&format!("[2001:db8:a::{client}]:50{client} > [2001:db8:a::100]:53"))
                    .payload_len(1_470)
                    .build(),
            );
        }
    }
    frames.extend(fragments());
    frames.extend(icmp_errors());
    frames.push(icmp4("192.0.2.2 > 192.0.2.100").payload(b"ping").build());
    frames.push(icmp6("2001:db8:a::2 > 2001:db8:a::100").payload(b"ping").build());
    frames.push(
        tcp4("198.51.100.11:80 > 192.0.2.2:40002")
            .syn()
            .ack()
            .dst_mac(director_mac(LAN))
            .build(),
    );
    frames.push(
        tcp4("198.51.100.11:83 > 198.51.100.200:1024")
            .ack()
            .dst_mac(director_mac(LAN))
            .build(),
    );
    frames.push(
        tcp6("[2001:db8:b::11]:83 > [2001:db8:b::200]:1024")
            .ack()
            .dst_mac(director_mac(LAN))
            .build(),
    );
    frames
}

/// Fragments that make datagrams: to services of several modes, from a server, of an ICMP error.
fn fragments() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for client in 2..6 {
        let udp = udp4(&format!("192.0.2.{client}:50{client} > 192.0.2.100:53"));
        let tcp = tcp4(&format!("192.0.2.{client}:4000{client} > 192.0.2.100:81")).syn();
        let reply = udp4(&format!("198.51.100.11:53 > 192.0.2.{client}:50{client}")).dst_mac(director_mac(LAN));
        let error = icmp4(&format!("192.0.2.{client} > 192.0.2.100")).icmp(3, 3, 0);
        let udp_v6 = udp6(&format!("[2001:db8:a::{client}]:50{client} > [2001:db8:a::100]:53"));
        for (packet, header_len) in [(udp, 8), (tcp, 20), (reply, 8), (error, 8), (udp_v6, 8)] {
            frames.push(packet.clone().fragment(0, true).payload_len(144 - header_len).build());
            frames.push(packet.clone().fragment(144, true).payload_len(1_296).build());
            frames.push(packet.clone().fragment(1_440, false).payload_len(99).build());
            frames.push(packet.fragment(136, false).payload_len(20).vlan(9).build());
        }
    }
    frames.push(
        udp6("[2001:db8:a::2]:502 > [2001:db8:a::100]:53")
            .atomic_fragment()
            .payload_len(1_400)
            .build(),
    );
    frames
}

/// ICMP errors about connections of the other seeds, from both sides and about tunnels.
fn icmp_errors() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for client in 2..6 {
        for kind in [3, 4, 5, 11, 12] {
            let reply = tcp4(&format!("192.0.2.100:80 > 192.0.2.{client}:4000{client}"))
                .ack()
                .build();
            let from_client = icmp4(&format!("192.0.2.{client} > 192.0.2.100")).icmp(kind, 4, 1_400);
            frames.push(from_client.payload(&reply[14..]).build());
            let request = tcp4(&format!("192.0.2.{client}:4000{client} > 198.51.100.11:80"))
                .ack()
                .build();
            let from_server = icmp4(&format!("198.51.100.17 > 192.0.2.{client}")).icmp(kind, 1, 0);
            frames.push(from_server.payload(&request[14..42]).dst_mac(director_mac(LAN)).build());
            let inner = tcp4(&format!("192.0.2.{client}:4000{client} > 192.0.2.100:81"))
                .ack()
                .dont_fragment()
                .build();
            for server in 11..14 {
                let mut outer = udp4(&format!("198.51.100.1:40000 > 198.51.100.{server}:6080")).build();
                outer.truncate(34);
                outer[23] = 4;
                outer.extend_from_slice(&inner[14..]);
                let error = icmp4("198.51.100.17 > 198.51.100.1").icmp(kind, 4, 1_300 + u32::from(kind));
                frames.push(error.payload(&outer[14..]).dst_mac(director_mac(LAN)).build());
            }
            let request = udp6(&format!("[2001:db8:a::{client}]:4000{client} > [2001:db8:b::11]:80")).build();
            let error = icmp6(&format!("2001:db8:b::17 > 2001:db8:a::{client}")).icmp(kind % 4 + 1, 0, 1_300);
            frames.push(error.payload(&request[14..]).dst_mac(director_mac(LAN)).build());
        }
    }
    frames
}

/// Damages a frame: flipped octets, cuts, growth, or nothing but other ports.
fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    match random.below(8) {
        0 => frame.truncate(random.below(frame.len() as u32 + 1) as usize),
        1 => frame.extend((0..random.below(600)).map(|at| at as u8)),
        2 | 3 => {
            for _ in 0..=random.below(6) {
                let at = random.below(frame.len().max(1) as u32) as usize;
                if let Some(octet) = frame.get_mut(at) {
                    *octet = random.next_u32() as u8;
                }
            }
        }
        4 => frame
            .iter_mut()
            .skip(14)
            .for_each(|octet| *octet = random.next_u32() as u8),
        _ => {
            // Another client port: a new connection if it is a SYN.
            let at = if frame.get(12) == Some(&0x86) { 54 } else { 34 };
            if let Some(port) = frame.get_mut(at..at + 2) {
                port.copy_from_slice(&(random.next_u32() as u16).to_be_bytes());
            }
        }
    }
}

fn run(seed: u64, workers: u8, frames_count: usize) {
    let mut random = Random::new(seed);
    let mut director = director(workers);
    let seeds = seeds();
    let (mut verdicts, mut made_count) = (0, 0);
    while verdicts < frames_count {
        let device = if random.below(4) == 0 { LAN } else { WAN };
        let count = random.below(BURST_MAX as u32) as usize + 1;
        let mut frames: Vec<VecFrame> = (0..count)
            .map(|_| {
                let mut bytes = seeds[random.below(seeds.len() as u32) as usize].clone();
                mutate(&mut random, &mut bytes);
                VecFrame::with_room(&bytes, random.below(130) as usize, 64)
            })
            .collect();
        let worker = random.below(u32::from(workers)) as usize;
        let outcomes = director.burst(worker, device, &mut frames);
        verdicts += outcomes.len();
        let made = director.take_made();
        made_count += made.len();
        for outcome in outcomes.into_iter().chain(made) {
            if let Outcome::Transmitted(DeviceId(device), bytes) = outcome {
                assert!(
                    device < 2 && bytes.len() >= 14 + 20,
                    "seed {seed}: an incomplete frame was sent"
                );
            }
        }
        if random.below(64) == 0 {
            director.advance_ms(random.below(2_000));
        }
    }
    assert!(
        made_count > frames_count / 1_000,
        "seed {seed}: only {made_count} pieces of datagrams"
    );
    assert_counts_agree(&director, seed);
    // Ten days later nothing is left.
    for _ in 0..30 {
        director.advance_ms(60_000);
    }
    assert_eq!(
        director.conns().len(),
        0,
        "seed {seed}: connections outlive their timeouts"
    );
    assert_counts_agree(&director, seed);
}

/// ActiveConn + InActConn over all servers is the number of connections in the tables.
fn assert_counts_agree(director: &TestDirector, seed: u64) {
    let counted: u64 = director
        .counters
        .iter()
        .flat_map(|worker| worker.servers.iter())
        .map(|server| u64::from(server.active.get()) + u64::from(server.inactive.get()))
        .sum();
    let held: usize = director
        .workers
        .iter()
        .map(|worker| worker.conns_count().0 + worker.conns_count().1)
        .sum();
    assert_eq!(
        counted, held as u64,
        "seed {seed}: servers count other connections than the tables hold"
    );
}

#[test]
fn arbitrary_frames_neither_panic_nor_get_lost() {
    let started = Instant::now();
    let budget = std::env::var("LVSD_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .map(Duration::from_secs);
    let mut seed = 1;
    loop {
        run(seed, 1, FRAMES_PER_RUN);
        run(seed + 1, 3, FRAMES_PER_RUN);
        seed += 2;
        match budget {
            None if seed > 4 => break,
            Some(budget) if started.elapsed() > budget => break,
            _ => {}
        }
    }
}

#[test]
fn frames_of_every_short_length_are_named_drops_or_punted() {
    let mut director = director(1);
    let whole = tcp4("192.0.2.2:40002 > 192.0.2.100:80").syn().mss(1_460).build();
    for len in 0..whole.len() {
        let mut frames = [VecFrame::new(&whole[..len])];
        let outcome = director.burst(0, WAN, &mut frames).remove(0);
        assert!(matches!(outcome, Outcome::Dropped(_)), "{len} octets: {outcome:?}");
        assert_eq!(frames[0].bytes().len(), len, "a dropped frame is left as it was");
    }
    assert_eq!(director.conns().len(), 0);
}
