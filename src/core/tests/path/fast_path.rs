//! The fast path does what the slow path does. A test sends the same packets through two directors. One of the two gets
//! them with a priority tag (IEEE 802.1Q, VLAN 0): the tag keeps them off the fast path and changes nothing else.

use lvs_core::ipvs::client_address::ClientAddress;
use lvs_core::ipvs::desired::{ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::ServiceProtocol;
use lvs_core::ipvs::tunnel_kind::{GueChecksum, TunnelKind};
use lvs_core::random::Random;
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN, director_mac};
use lvs_core::testing::{PacketBuilder, checksum_faults, tcp4, tcp6, udp4, udp6};

use super::{addr, counts, director, packet, service};

const VIP: &str = "192.0.2.100";

/// Addresses of one family.
#[derive(Clone, Copy)]
struct Family {
    is_v6: bool,
    vip: &'static str,
    servers: [&'static str; 2],
    clients: &'static str,
    /// One hop of the way is narrow, so that some packets are too long for it.
    narrow: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        is_v6: false,
        vip: VIP,
        servers: ["198.51.100.11", "198.51.100.12"],
        clients: "192.0.2.",
        narrow: "192.0.2.3/32",
    },
    Family {
        is_v6: true,
        vip: "2001:db8:a::100",
        servers: ["2001:db8:b::11", "2001:db8:b::12"],
        clients: "2001:db8:a::",
        narrow: "2001:db8:a::3/128",
    },
];

impl Family {
    fn ends(self, src: &str, src_port: u32, dst: &str, dst_port: u32) -> String {
        if self.is_v6 {
            format!("[{src}]:{src_port} > [{dst}]:{dst_port}")
        } else {
            format!("{src}:{src_port} > {dst}:{dst_port}")
        }
    }

    fn packet(self, protocol: ServiceProtocol, ends: &str) -> PacketBuilder {
        match (protocol, self.is_v6) {
            (ServiceProtocol::Udp, false) => udp4(ends),
            (ServiceProtocol::Udp, true) => udp6(ends),
            (_, false) => tcp4(ends),
            (_, true) => tcp6(ends),
        }
    }
}

/// How packets are forwarded.
#[derive(Clone, Copy)]
struct Mode {
    forwarding: ForwardingMode,
    client_address: ClientAddress,
    tunnel: TunnelKind,
    established_timeout_sec: u32,
}

impl Mode {
    const fn new(forwarding: ForwardingMode) -> Self {
        Self {
            forwarding,
            client_address: ClientAddress::None,
            tunnel: TunnelKind::IpIp,
            established_timeout_sec: 0,
        }
    }
}

/// A director that sees plain packets and one that sees them tagged.
struct Twins {
    plain: TestDirector,
    tagged: TestDirector,
}

impl Twins {
    fn new(family: Family, protocol: ServiceProtocol, mode: Mode) -> Self {
        let Mode {
            forwarding,
            client_address,
            tunnel,
            established_timeout_sec,
        } = mode;
        let make = || {
            let key = service(protocol, family.vip, 80);
            let mut director = director(1, key, forwarding, &family.servers, 8_080);
            for server in family.servers.iter().filter(|_| forwarding == ForwardingMode::Tunnel) {
                let mut spec = ServerSpec::new(addr(server), 8_080, forwarding, 1);
                spec.tunnel = tunnel;
                director
                    .change(|desired| desired.edit_server(&key, spec))
                    .expect("the server is there");
            }
            let mut spec = ServiceSpec::new(key, SchedulerKind::Rr);
            spec.client_address = client_address;
            spec.established_timeout_sec = established_timeout_sec;
            director
                .change(|desired| desired.edit_service(spec))
                .expect("the service is there");
            let mut network = lvs_core::testing::network::network();
            network.route(
                family.narrow.parse().expect("a prefix"),
                lvs_core::l3::RouteKind::Via {
                    device: WAN,
                    vlan: 0,
                    gateway: None,
                    mtu: Some(600),
                    source: None,
                },
            );
            director.set_l3(network.build(2));
            director
        };
        Self {
            plain: make(),
            tagged: make(),
        }
    }

    fn inject(&mut self, device: lvs_core::l3::DeviceId, packet: &PacketBuilder) -> Outcome {
        let mut frame = packet.clone().dst_mac(director_mac(device)).build();
        let one = self.plain.inject(device, &frame);
        frame.splice(12..12, [0x81, 0, 0, 0]);
        let other = self.tagged.inject(device, &frame);
        assert_eq!(one, untagged(other));
        assert_eq!(self.plain.take_generated(), self.tagged.take_generated());
        one
    }

    fn assert_same_state(&self) {
        let conns = |director: &TestDirector| director.conns();
        assert_eq!(conns(&self.plain), conns(&self.tagged));
        for id in 0..2 {
            assert_eq!(counts(&self.plain, id), counts(&self.tagged, id), "server {id}");
        }
    }
}

/// What is punted still has its tag.
fn untagged(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Punted(mut bytes) => {
            bytes.drain(12..16);
            Outcome::Punted(bytes)
        }
        other => other,
    }
}

/// Any packet that such a flow may see: data, control, short, long, about to expire, without checksum.
fn any_packet(random: &mut Random, family: Family, protocol: ServiceProtocol, ends: &str) -> PacketBuilder {
    const FLAGS: [u8; 10] = [0x10, 0x10, 0x18, 0x18, 0x30, 0x02, 0x11, 0x14, 0x00, 0x12];
    let packet = family.packet(protocol, ends);
    let packet = match protocol {
        ServiceProtocol::Udp if random.below(4) == 0 => packet.without_checksum(),
        ServiceProtocol::Udp => packet,
        _ => packet.tcp_flags(FLAGS[random.below(10) as usize]),
    };
    let packet = packet
        .payload_len([0, 1, 6, 100, 1_300, 1_461][random.below(6) as usize])
        .ttl([64, 64, 64, 255, 2, 1][random.below(6) as usize])
        .identification(random.next_u32() as u16)
        .padded_to(60);
    match random.below(8) {
        0 => packet.dont_fragment(),
        1 => packet.wrong_checksum(),
        2 if family.is_v6 => packet.destination_options(8),
        2 => packet.ip_options(&[1, 1, 1, 0]),
        _ => packet,
    }
}

fn compare(family: Family, protocol: ServiceProtocol, mode: Mode) {
    let mut random = Random::new(mode.forwarding as u64 + 1);
    let mut twins = Twins::new(family, protocol, mode);
    let mode = mode.forwarding;
    let mut sent_both_ways = [0; 2];
    for round in 0..4_000 {
        let client = format!("{}{}", family.clients, 2 + random.below(3));
        let ends = family.ends(&client, 40_000 + random.below(4), family.vip, 80);
        let inbound = any_packet(&mut random, family, protocol, &ends);
        if matches!(twins.inject(WAN, &inbound), Outcome::Transmitted(..)) {
            sent_both_ways[0] += 1;
        }
        let conns = twins.plain.conns();
        if mode.sees_replies() && !conns.is_empty() {
            let conn = conns[random.below(conns.len() as u32) as usize];
            let (real, local) = (conn.real.0.to_string(), conn.local.0.to_string());
            let ends = family.ends(&real, conn.real.1.into(), &local, conn.local.1.into());
            let outbound = any_packet(&mut random, family, protocol, &ends);
            if let Outcome::Transmitted(WAN, bytes) = twins.inject(LAN, &outbound) {
                assert!(packet(&bytes).contains(family.vip), "{}", packet(&bytes));
                sent_both_ways[1] += 1;
            }
        }
        twins.assert_same_state();
        if round % 50 == 0 {
            let ms = random.below(30_000);
            twins.plain.advance_ms(ms);
            twins.tagged.advance_ms(ms);
        }
    }
    assert!(sent_both_ways[0] > 1_000, "{sent_both_ways:?}");
    assert!(sent_both_ways[1] > 1_000 || !mode.sees_replies(), "{sent_both_ways:?}");
}

#[test]
fn the_short_way_and_the_full_way_lead_to_the_same_frames_connections_and_counts() {
    for family in FAMILIES {
        for mode in [
            ForwardingMode::Nat,
            ForwardingMode::FullNat,
            ForwardingMode::DirectRouting,
            ForwardingMode::Tunnel,
        ] {
            compare(family, ServiceProtocol::Tcp, Mode::new(mode));
            compare(family, ServiceProtocol::Udp, Mode::new(mode));
            let mut own_timeout = Mode::new(mode);
            own_timeout.established_timeout_sec = 10;
            compare(family, ServiceProtocol::Tcp, own_timeout);
        }
        for (protocol, client_address) in [
            (ServiceProtocol::Tcp, ClientAddress::Toa),
            (ServiceProtocol::Tcp, ClientAddress::ProxyV2),
            (ServiceProtocol::Udp, ClientAddress::Uoa),
        ] {
            let mut mode = Mode::new(ForwardingMode::FullNat);
            mode.client_address = client_address;
            compare(family, protocol, mode);
        }
    }
}

#[test]
fn the_short_way_leads_into_every_kind_of_tunnel_as_the_full_way_does() {
    let [v4, v6] = FAMILIES;
    for servers in [v4.servers, v6.servers] {
        for tunnel in [
            TunnelKind::IpIp,
            TunnelKind::Gre { checksum: false },
            TunnelKind::Gre { checksum: true },
            TunnelKind::Gue {
                port: 6_080,
                checksum: GueChecksum::Full,
            },
        ] {
            let mut mode = Mode::new(ForwardingMode::Tunnel);
            mode.tunnel = tunnel;
            compare(Family { servers, ..v4 }, ServiceProtocol::Udp, mode);
            compare(Family { servers, ..v6 }, ServiceProtocol::Tcp, mode);
        }
    }
}

#[test]
fn packets_of_one_burst_see_each_others_connections_come_and_go() {
    let key = service(ServiceProtocol::Udp, VIP, 80);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.11"], 80);
    director.change(|desired| {
        let mut spec = ServiceSpec::new(key, SchedulerKind::Rr);
        spec.one_packet = true;
        desired.edit_service(spec).expect("it is there");
    });
    // One-packet connections take the slot that the one before has just left.
    let datagram = |port: u16| udp4(&format!("192.0.2.2:{port} > {VIP}:80")).payload(b"once").frame();
    let mut frames: Vec<_> = (0..32).map(|n| datagram(40_000 + n % 3)).collect();
    for (n, outcome) in director.burst(0, WAN, &mut frames).into_iter().enumerate() {
        let (_, bytes) = outcome.transmitted();
        let port = 40_000 + n % 3;
        assert_eq!(
            packet(&bytes),
            format!("UDP 192.0.2.2:{port} > 198.51.100.11:80 ttl 63 len 32")
        );
        assert_eq!(checksum_faults(&bytes), Vec::<String>::new());
    }
    assert_eq!(counts(&director, 0)[..2], [32, 32]);
    assert!(director.conns().is_empty());
}
