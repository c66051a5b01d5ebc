//! What cannot go on: answered like the kernel answers, punted, held or dropped by name.

use lvs_core::frame::vec::VecFrame;
use lvs_core::ipvs::desired::ServerSpec;
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::service::ServiceProtocol;
use lvs_core::l3::{DeviceId, InterfaceId, ReversePath, RouteKind, Stack, StackInterface};
use lvs_core::path::forward::resolve;
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN, director_mac, network};
use lvs_core::testing::{icmp4, tcp4, tcp6, udp4};
use lvs_core::verdict::DropReason;

use super::{CONNS_MAX, addr, counts, director, packet, service};

const VIP: &str = "192.0.2.100";
/// A route that the kernel has by an interface that is no device.
const BY_NO_DEVICE: RouteKind = RouteKind::Via {
    device: DeviceId(9),
    vlan: 0,
    gateway: None,
    mtu: None,
    source: None,
};

#[test]
fn without_a_server_the_client_hears_port_unreachable_from_the_vip() {
    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let mut director = director(1, key, ForwardingMode::Nat, &[], 80);
    let syn = tcp4("192.0.2.2:40000 > 192.0.2.100:80").syn().build();
    let (device, out) = director.inject(WAN, &syn).transmitted();
    assert_eq!(device, WAN);
    assert!(packet(&out).contains("192.0.2.100 > 192.0.2.2"), "{}", packet(&out));
    assert_eq!(out[34..36], [3, 3], "ICMP type and code");
    assert_eq!(director.counters[0].answers_of(DropReason::NoRealServer), 1);
}

#[test]
fn icmp_answers_are_rationed() {
    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let mut director = director(1, key, ForwardingMode::Nat, &[], 80);
    let mut refused = |client: &dyn Fn(u8) -> String| {
        let outcomes: Vec<Outcome> = (0..200)
            .map(|n| director.inject(WAN, &tcp4(&format!("{} > 192.0.2.100:80", client(n))).syn().build()))
            .collect();
        assert_eq!(outcomes[199], Outcome::Dropped(DropReason::NoRealServer));
        director.advance_ms(10_000);
        let answered = |outcome: &&Outcome| matches!(outcome, Outcome::Transmitted(..));
        outcomes.iter().filter(answered).count()
    };
    assert_eq!(refused(&|n| format!("203.0.113.{n}:4000")), 64, "many clients");
    assert_eq!(
        refused(&|n| format!("192.0.2.2:{}", 4_000 + u32::from(n))),
        6,
        "one client"
    );
}

#[test]
fn a_full_table_refuses_new_connections_and_keeps_the_old() {
    let key = service(ServiceProtocol::Udp, VIP, 53);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.11"], 53);
    let query = |port: usize| udp4(&format!("192.0.2.2:{} > 192.0.2.100:53", 1_024 + port)).build();
    for port in 0..CONNS_MAX {
        director.inject(WAN, &query(port)).transmitted();
    }
    assert_eq!(
        director.inject(WAN, &query(CONNS_MAX)),
        Outcome::Dropped(DropReason::ConnTableFull)
    );
    director.inject(WAN, &query(0)).transmitted();
    director.advance_ms(310_000);
    director.inject(WAN, &query(CONNS_MAX)).transmitted();
}

#[test]
fn deleted_servers_drop_and_come_back_with_their_connections() {
    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.11", "198.51.100.12"], 80);
    let syn = tcp4("192.0.2.2:40000 > 192.0.2.100:80").syn().build();
    director.inject(WAN, &syn).transmitted();
    let server = addr("198.51.100.12");
    director
        .change(|desired| desired.delete_server(&key, server, 80))
        .expect("it is there");
    let ack = tcp4("192.0.2.2:40000 > 192.0.2.100:80").ack().build();
    assert_eq!(director.inject(WAN, &ack), Outcome::Dropped(DropReason::RealServerGone));
    let again = ServerSpec::new(server, 80, ForwardingMode::Nat, 1);
    director
        .change(|desired| desired.add_server(&key, again))
        .expect("it was deleted");
    director.inject(WAN, &ack).transmitted();
    assert_eq!(
        counts(&director, 1)[..2],
        [1, 2],
        "the object is the same: its counters went on"
    );
}

#[test]
fn strays_are_the_kernels_and_other_hosts_frames_nobodys() {
    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.11"], 80);
    for punted in [
        tcp4("192.0.2.2:40000 > 192.0.2.100:80").ack().build(),
        tcp4("192.0.2.2:40000 > 192.0.2.100:22").syn().build(),
        tcp4("192.0.2.2:20 > 192.0.2.100:80").syn().build(),
        icmp4("192.0.2.2 > 192.0.2.100").build(),
        udp4("192.0.2.2:68 > 255.255.255.255:67").dst_mac([0xFF; 6]).build(),
    ] {
        assert_eq!(director.inject(WAN, &punted), Outcome::Punted(punted));
    }
    let foreign = tcp4("192.0.2.2:40000 > 192.0.2.100:80")
        .dst_mac([2, 9, 9, 9, 9, 9])
        .syn()
        .build();
    assert_eq!(director.inject(WAN, &foreign), Outcome::Dropped(DropReason::OtherHost));
}

#[test]
fn an_expired_ttl_is_told_by_the_vip_and_still_makes_the_connection() {
    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.11"], 80);
    let (device, out) = director
        .inject(WAN, &tcp4("192.0.2.2:40000 > 192.0.2.100:80").ttl(1).syn().build())
        .transmitted();
    assert_eq!((device, &out[34..36]), (WAN, [11, 0].as_slice()));
    assert_eq!(counts(&director, 0)[0], 1);
}

#[test]
fn too_big_is_told_in_both_families() {
    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let mut director4 = director(1, key, ForwardingMode::Tunnel, &["198.51.100.11"], 80);
    director4
        .inject(WAN, &tcp4("192.0.2.2:40000 > 192.0.2.100:80").syn().build())
        .transmitted();
    let big = tcp4("192.0.2.2:40000 > 192.0.2.100:80")
        .ack()
        .dont_fragment()
        .payload_len(1_460)
        .build();
    let (_, out) = director4.inject(WAN, &big).transmitted();
    assert_eq!(
        out[34..42],
        [3, 4, out[36], out[37], 0, 0, 0x05, 0xC8],
        "fragmentation needed, MTU 1480"
    );

    let key = service(ServiceProtocol::Tcp, "2001:db8:a::100", 80);
    let mut director6 = director(1, key, ForwardingMode::Tunnel, &["2001:db8:b::11"], 80);
    let syn = tcp6("[2001:db8:a::2]:40000 > [2001:db8:a::100]:80").syn();
    director6.inject(WAN, &syn.build()).transmitted();
    let big = tcp6("[2001:db8:a::2]:40000 > [2001:db8:a::100]:80")
        .ack()
        .payload_len(1_440)
        .build();
    let (_, out) = director6.inject(WAN, &big).transmitted();
    assert_eq!(
        (out[54], &out[58..62]),
        (2, [0, 0, 0x05, 0xB4].as_slice()),
        "packet too big, MTU 1460"
    );
}

#[test]
fn a_packet_waits_for_its_neighbour_and_is_complete_afterwards() {
    use lvs_core::l3::{NeighbourKey, NeighbourState};
    use lvs_core::verdict::Verdict;

    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.99"], 80);
    let syn = tcp4("192.0.2.2:40000 > 192.0.2.100:80").syn().build();
    let Outcome::Held(neighbour, bytes) = director.inject(WAN, &syn) else {
        panic!("the server is not resolved")
    };
    assert_eq!(neighbour, NeighbourKey::of(LAN, 0, addr("198.51.100.99")));
    let mut frame = VecFrame::new(&bytes);
    assert_eq!(resolve::finish(&director.workers[0], &mut frame, neighbour), None);

    let mut l3 = network();
    l3.neighbour(neighbour, NeighbourState::Resolved([2, 0, 0, 0, 9, 9]));
    director.set_l3(l3.build(2));
    assert_eq!(
        resolve::finish(&director.workers[0], &mut frame, neighbour),
        Some(Verdict::Transmit(LAN))
    );
    let out = lvs_core::frame::Frame::bytes(&frame);
    assert_eq!(
        (&out[..6], &out[6..12]),
        ([2, 0, 0, 0, 9, 9].as_slice(), director_mac(LAN).as_slice())
    );
    assert_eq!(packet(out), "TCP S 192.0.2.2:40000 > 198.51.100.99:80 ttl 63 len 40");
    director.inject(WAN, &syn).transmitted();
}

#[test]
fn no_route_to_the_server_is_told_by_the_vip() {
    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let mut director = director(1, key, ForwardingMode::Nat, &["203.0.113.9"], 80);
    let mut l3 = network();
    l3.route(
        "203.0.113.0/24".parse().expect("a prefix"),
        lvs_core::l3::RouteKind::Unreachable,
    );
    director.set_l3(l3.build(2));
    let (device, out) = director
        .inject(WAN, &tcp4("192.0.2.2:40000 > 192.0.2.100:80").syn().build())
        .transmitted();
    assert_eq!((device, &out[34..36]), (WAN, [3, 1].as_slice()), "host unreachable");
}

#[test]
fn what_the_kernel_sends_elsewhere_is_left_to_it_when_masqueraded_and_dropped_by_name_otherwise() {
    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let syn = tcp4("192.0.2.2:40000 > 192.0.2.100:80").syn().build();
    for mode in [
        ForwardingMode::Nat,
        ForwardingMode::DirectRouting,
        ForwardingMode::Tunnel,
    ] {
        let mut director = director(1, key, mode, &["203.0.113.9"], 80);
        let mut l3 = network();
        l3.route("203.0.113.0/24".parse().expect("a prefix"), BY_NO_DEVICE);
        director.set_l3(l3.build(2));
        match (mode, director.inject(WAN, &syn)) {
            (ForwardingMode::Nat, Outcome::Punted(frame)) => {
                assert_eq!(packet(&frame), "TCP S 192.0.2.2:40000 > 203.0.113.9:80 ttl 64 len 40");
            }
            (_, outcome) => assert_eq!(outcome, Outcome::Dropped(DropReason::RouteElsewhere), "{mode:?}"),
        }
    }
}

/// The director, and a reply to a client whose route is not followed.
fn answered(mode: ForwardingMode, vip: &str, client: &str, server: &str) -> (TestDirector, Vec<u8>) {
    let key = service(ServiceProtocol::Tcp, vip, 80);
    let mut director = director(1, key, mode, &[server], 80);
    let is_v6 = vip.contains(':');
    let segment = |from: &str, from_port: u16, to: &str, to_port: u16| match is_v6 {
        true => tcp6(&format!("[{from}]:{from_port} > [{to}]:{to_port}")),
        false => tcp4(&format!("{from}:{from_port} > {to}:{to_port}")),
    };
    let syn = segment(client, 40_000, vip, 80).syn().build();
    let (_, out) = director.inject(WAN, &syn).transmitted();
    let ports = if is_v6 { 54 } else { 34 };
    let port = u16::from_be_bytes([out[ports], out[ports + 1]]);
    let to = if mode == ForwardingMode::FullNat {
        "198.51.100.200"
    } else {
        client
    };
    let reply = segment(server, 80, to, port).syn().ack();
    (director, reply.dst_mac(director_mac(LAN)).build())
}

#[test]
fn a_reply_is_left_to_the_kernel_if_that_forwards_packets_from_an_address_of_its_own() {
    for mode in [ForwardingMode::Nat, ForwardingMode::FullNat] {
        let (mut director, reply) = answered(mode, VIP, "192.0.2.2", "198.51.100.11");
        for (generation, accepts_local, reverse_path, is_taken) in [
            (2, true, ReversePath::Off, true),
            (3, true, ReversePath::Loose, true),
            (4, true, ReversePath::Strict, false),
            (5, false, ReversePath::Off, false),
        ] {
            let mut l3 = network();
            l3.address(LAN, 0, "198.51.100.1/24".parse().expect("a network"));
            l3.route("192.0.2.2/32".parse().expect("a prefix"), BY_NO_DEVICE);
            let mut l3 = l3.build(generation);
            l3.set_stack(Stack {
                interfaces: vec![StackInterface {
                    interface: InterfaceId::of(LAN, 0),
                    reverse_path,
                    forwards_v4: true,
                    accepts_local,
                }],
                forwards_v6: true,
            });
            director.set_l3(l3);
            match (is_taken, director.inject(LAN, &reply)) {
                (true, Outcome::Punted(frame)) => {
                    assert_eq!(packet(&frame), "TCP SA 192.0.2.100:80 > 192.0.2.2:40000 ttl 64 len 40");
                }
                (false, outcome) => assert_eq!(outcome, Outcome::Dropped(DropReason::RouteElsewhere), "{mode:?}"),
                (true, outcome) => panic!("{mode:?} {generation}: {outcome:?}"),
            }
        }
    }
}

/// In IPv6 the kernel asks neither whose the sender is nor where it came from.
#[test]
fn an_ipv6_reply_is_left_to_the_kernel_wherever_that_forwards() {
    let mut l3 = network();
    l3.route("2001:db8:a::2/128".parse().expect("a prefix"), BY_NO_DEVICE);
    let (mut director, reply) = answered(
        ForwardingMode::Nat,
        "2001:db8:a::100",
        "2001:db8:a::2",
        "2001:db8:b::11",
    );
    director.set_l3(l3.build(2));
    match director.inject(LAN, &reply) {
        Outcome::Punted(frame) => assert_eq!(
            packet(&frame),
            "TCP SA [2001:db8:a::100]:80 > [2001:db8:a::2]:40000 ttl 64 len 60"
        ),
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn without_services_even_known_connections_are_left_alone() {
    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.11"], 80);
    let syn = tcp4("192.0.2.2:40000 > 192.0.2.100:80").syn().build();
    director.inject(WAN, &syn).transmitted();
    director
        .change(|desired| desired.delete_service(&key))
        .expect("it is there");
    assert_eq!(director.inject(WAN, &syn), Outcome::Punted(syn));
    assert_eq!(director.conns().len(), 1);
}
