//! The director as a client of its own services: what its kernel sends to a VIP, and the answers.

use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::service::ServiceProtocol;
use lvs_core::l3::{InterfaceId, ReversePath, Stack, StackInterface};
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN, director_mac, network};
use lvs_core::testing::{PacketBuilder, tcp4, tcp6};

use super::{director, packet, service};

/// What the kernel takes the frame for that it sends by a gateway.
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 1, 254];

/// The director's own addresses beside the VIPs, and `rp_filter` as strict as it can be.
fn with_own_addresses(director: &mut TestDirector) {
    let mut builder = network();
    for (device, address) in [
        (WAN, "192.0.2.1/24"),
        (WAN, "2001:db8:a::1/64"),
        (LAN, "198.51.100.1/24"),
    ] {
        builder.address(device, 0, address.parse().unwrap());
    }
    let mut l3 = builder.build(2);
    let of = |device| StackInterface {
        interface: InterfaceId::of(device, 0),
        reverse_path: ReversePath::Strict,
        forwards_v4: true,
        accepts_local: false,
    };
    l3.set_stack(Stack {
        interfaces: vec![of(WAN), of(LAN)],
        forwards_v6: true,
    });
    director.set_l3(l3);
}

/// The real server's answer to a frame that reached it.
fn answer(to_server: &[u8]) -> PacketBuilder {
    let shown = packet(to_server);
    let words: Vec<&str> = shown.split(' ').collect();
    let ends = format!("{} > {}", words[4], words[2]);
    let reply = if ends.contains('[') { tcp6(&ends) } else { tcp4(&ends) };
    reply.dst_mac(director_mac(LAN))
}

#[test]
fn the_directors_own_connection_goes_to_a_server_and_its_kernel_gets_the_answers() {
    for mode in [ForwardingMode::Nat, ForwardingMode::FullNat] {
        for workers in [1, 2, 5] {
            let web = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
            let mut director = director(workers, web, mode, &["198.51.100.11"], 8080);
            with_own_addresses(&mut director);
            for port in 40_000..40_020 {
                let segment = tcp4(&format!("192.0.2.1:{port} > 192.0.2.100:80")).dst_mac(GATEWAY_MAC);
                let (device, out) = director.from_host(WAN, &segment.clone().syn().build()).transmitted();
                assert_eq!(device, LAN, "{mode:?}");
                assert!(packet(&out).contains("> 198.51.100.11:8080 ttl 63"), "{}", packet(&out));
                let polls = usize::from(port % u16::from(workers));
                let reply = answer(&out).syn().ack().build();
                let Outcome::Punted(frame) = director.inject_at(polls, LAN, &reply) else {
                    panic!("{mode:?}: the stack gets the answer")
                };
                let expected = format!("TCP SA 192.0.2.100:80 > 192.0.2.1:{port} ttl 64 len 40");
                assert_eq!(packet(&frame), expected);
                assert_eq!(frame[..6], director_mac(LAN));
                director.from_host(WAN, &segment.ack().build()).transmitted();
            }
            assert_eq!(director.conns().len(), 20, "{mode:?}, {workers} workers");
        }
    }
}

#[test]
fn over_ipv6_too() {
    let web = service(ServiceProtocol::Tcp, "2001:db8:a::100", 80);
    let mut director = director(1, web, ForwardingMode::Nat, &["2001:db8:b::11"], 80);
    with_own_addresses(&mut director);
    let syn = tcp6("[2001:db8:a::1]:40000 > [2001:db8:a::100]:80")
        .syn()
        .dst_mac(GATEWAY_MAC);
    let (device, out) = director.from_host(WAN, &syn.build()).transmitted();
    assert_eq!(device, LAN);
    let Outcome::Punted(frame) = director.inject(LAN, &answer(&out).syn().ack().build()) else {
        panic!("the stack gets the answer")
    };
    assert!(packet(&frame).starts_with("TCP SA [2001:db8:a::100]:80 > [2001:db8:a::1]:40000"));
}

#[test]
fn what_belongs_to_no_connection_goes_back_to_the_kernel_and_what_to_no_service_leaves() {
    let web = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
    let mut director = director(1, web, ForwardingMode::Nat, &["198.51.100.11"], 80);
    with_own_addresses(&mut director);
    let stray = tcp4("192.0.2.1:40000 > 192.0.2.100:80")
        .ack()
        .dst_mac(GATEWAY_MAC)
        .build();
    let mut expected = stray.clone();
    expected[..6].copy_from_slice(&director_mac(WAN));
    assert_eq!(director.from_host(WAN, &stray), Outcome::Punted(expected));
    for other in [
        tcp4("192.0.2.1:40000 > 192.0.2.100:22")
            .syn()
            .dst_mac(GATEWAY_MAC)
            .build(),
        tcp4("192.0.2.1:40000 > 203.0.113.9:80")
            .syn()
            .dst_mac(GATEWAY_MAC)
            .build(),
    ] {
        assert_eq!(director.from_host(WAN, &other), Outcome::Transmitted(WAN, other));
    }
}

#[test]
fn without_a_server_the_kernel_refuses() {
    let web = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
    let mut director = director(1, web, ForwardingMode::Nat, &[], 80);
    with_own_addresses(&mut director);
    let syn = tcp4("192.0.2.1:40000 > 192.0.2.100:80")
        .syn()
        .dst_mac(director_mac(WAN))
        .build();
    assert_eq!(director.from_host(WAN, &syn), Outcome::Punted(syn));
}

#[test]
fn nobody_outside_speaks_in_the_directors_name() {
    let web = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
    let mut director = director(1, web, ForwardingMode::Nat, &["198.51.100.11"], 80);
    let mut builder = network();
    builder.address(WAN, 0, "192.0.2.1/24".parse().unwrap());
    director.set_l3(builder.build(2));
    let syn = tcp4("192.0.2.1:40000 > 192.0.2.100:80").syn().build();
    assert_eq!(director.inject(WAN, &syn), Outcome::Punted(syn));
    assert!(director.conns().is_empty());
}
