//! Arbitrary frames for fuzzing: services in all modes, valid frames for them, and damaged copies of these.
//!
//! In:  a generator. Out: the same frames for the same seed. Addresses are those of [`super::network`].

use std::net::IpAddr;

use crate::ipvs::desired::{DesiredServices, ServerSpec, ServiceSpec};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::scheduler::SchedulerKind;
use crate::ipvs::service::{ServiceKey, ServiceProtocol};
use crate::ipvs::tunnel_kind::{GueChecksum, TunnelKind};
use crate::random::Random;
use crate::testing::network::{LAN, director_mac};
use crate::testing::{icmp4, icmp6, tcp4, tcp6, udp4, udp6};

/// How services are balanced, by port. Both VIPs have all of them, with three real servers each.
const SERVICES: [(u16, ServiceProtocol, SchedulerKind, ForwardingMode); 5] = [
    (80, ServiceProtocol::Tcp, SchedulerKind::Rr, ForwardingMode::Nat),
    (81, ServiceProtocol::Tcp, SchedulerKind::Wlc, ForwardingMode::Tunnel),
    (
        82,
        ServiceProtocol::Tcp,
        SchedulerKind::Wrr,
        ForwardingMode::DirectRouting,
    ),
    (83, ServiceProtocol::Tcp, SchedulerKind::Sh, ForwardingMode::FullNat),
    (53, ServiceProtocol::Udp, SchedulerKind::Lc, ForwardingMode::Nat),
];

/// Adds services in all modes and both families.
///
/// # Panics
/// When they exist already.
pub fn add_services(desired: &mut DesiredServices) {
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    for (port, protocol, scheduler, mode) in SERVICES {
        for (vip, net) in [("192.0.2.100", "198.51.100."), ("2001:db8:a::100", "2001:db8:b::")] {
            let key = ServiceKey::Address {
                protocol,
                addr: ip(vip),
                port,
            };
            let service = ServiceSpec {
                reset_unknown: protocol == ServiceProtocol::Tcp && port % 2 == 0,
                ..ServiceSpec::new(key, scheduler)
            };
            desired.add_service(service).expect("a new service");
            let configured = if mode == ForwardingMode::FullNat {
                let pool = vec![ip(&format!("{net}200"))];
                desired.set_local_addresses(&key, pool).expect("a pool of the family");
                ForwardingMode::Nat
            } else {
                mode
            };
            for number in 11..14 {
                let server = ServerSpec {
                    // One server of each kind.
                    tunnel: match number {
                        _ if mode != ForwardingMode::Tunnel => TunnelKind::IpIp,
                        12 => TunnelKind::Gre { checksum: true },
                        13 => TunnelKind::Gue {
                            port: 6_080,
                            checksum: GueChecksum::Full,
                        },
                        _ => TunnelKind::IpIp,
                    },
                    ..ServerSpec::new(ip(&format!("{net}{number}")), port, configured, 1)
                };
                desired.add_server(&key, server).expect("a new server");
            }
        }
    }
}

/// Valid frames that mutations begin with: TCP to ports 80 to 84 and UDP to port 53 of both VIPs, replies of real
/// servers, echo requests, fragments, ICMP errors.
pub fn seeds() -> Vec<Vec<u8>> {
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

/// Damages a frame: it flips bytes, cuts it, lets it grow, or only changes its ports.
pub fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    match random.below(8) {
        0 => frame.truncate(random.below(frame.len() as u32 + 1) as usize),
        1 => frame.extend((0..random.below(600)).map(|at| at as u8)),
        2 | 3 => {
            for _ in 0..=random.below(6) {
                let at = random.below(frame.len().max(1) as u32) as usize;
                if let Some(byte) = frame.get_mut(at) {
                    *byte = random.next_u32() as u8;
                }
            }
        }
        4 => frame
            .iter_mut()
            .skip(14)
            .for_each(|byte| *byte = random.next_u32() as u8),
        _ => {
            // Another client port: a new connection if it is a SYN.
            let at = if frame.get(12) == Some(&0x86) { 54 } else { 34 };
            if let Some(port) = frame.get_mut(at..at + 2) {
                port.copy_from_slice(&(random.next_u32() as u16).to_be_bytes());
            }
        }
    }
}

/// One of `seeds`, damaged.
pub fn arbitrary(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut frame = seeds
        .get(random.below(seeds.len() as u32) as usize)
        .cloned()
        .unwrap_or_default();
    mutate(random, &mut frame);
    frame
}
