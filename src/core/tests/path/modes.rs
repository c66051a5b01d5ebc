//! NAT, FULLNAT, DR and TUN carry a TCP connection and a UDP exchange.

use lvs_core::address::AddressFamily;
use lvs_core::ipvs::desired::ServerSpec;
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::mark::{MarkRule, MarkRules};
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::ipvs::sysctl::Sysctls;
use lvs_core::l3::Interface;
use lvs_core::testing::director::Outcome;
use lvs_core::testing::network::{LAN, WAN, director_mac, neighbour_mac, network};
use lvs_core::testing::{checksum_faults, tcp4, tcp6, udp4};
use lvs_core::verdict::DropReason;

use super::{addr, counts, director, packet, service};

const VIP: &str = "192.0.2.100";
const VIP6: &str = "2001:db8:a::100";

#[test]
fn nat_rewrites_the_destination_and_back_with_port_mapping() {
    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.11"], 8_080);
    let syn = tcp4("192.0.2.2:40000 > 192.0.2.100:80").syn().mss(1_460).build();
    let (device, out) = director.inject(WAN, &syn).transmitted();
    assert_eq!(device, LAN);
    assert_eq!(packet(&out), "TCP S 192.0.2.2:40000 > 198.51.100.11:8080 ttl 63 len 44");
    assert_eq!(out[..6], neighbour_mac(LAN, 11));
    assert_eq!(out[6..12], director_mac(LAN));
    assert_eq!(checksum_faults(&out), Vec::<String>::new());

    let syn_ack = tcp4("198.51.100.11:8080 > 192.0.2.2:40000")
        .syn()
        .ack()
        .dst_mac(director_mac(LAN))
        .build();
    let (device, out) = director.inject(LAN, &syn_ack).transmitted();
    assert_eq!(device, WAN);
    assert_eq!(packet(&out), "TCP SA 192.0.2.100:80 > 192.0.2.2:40000 ttl 63 len 40");
    assert_eq!(out[..6], neighbour_mac(WAN, 2));
    assert_eq!(checksum_faults(&out), Vec::<String>::new());
    assert_eq!(counts(&director, 0), [1, 1, 1, 44, 40, 1, 0]);
}

#[test]
fn fullnat_shows_the_server_a_local_address_only() {
    for (vip, server, client) in [
        (VIP, "198.51.100.11", "192.0.2.2"),
        (VIP6, "2001:db8:b::11", "2001:db8:a::2"),
    ] {
        let key = service(ServiceProtocol::Tcp, vip, 80);
        let mut director = director(1, key, ForwardingMode::FullNat, &[server], 80);
        let v6 = vip.contains(':');
        let ends = |from: &str, from_port: u16, to: &str, to_port: u16| {
            if v6 {
                format!("[{from}]:{from_port} > [{to}]:{to_port}")
            } else {
                format!("{from}:{from_port} > {to}:{to_port}")
            }
        };
        let build = |text: &str| if v6 { tcp6(text) } else { tcp4(text) };
        let syn = build(&ends(client, 40_000, vip, 80)).syn().build();
        let (device, _) = director.inject(WAN, &syn).transmitted();
        assert_eq!(device, LAN);
        let conn = director.conns()[0];
        assert_eq!(
            conn.local.0.to_string(),
            if v6 { "2001:db8:b::200" } else { "198.51.100.200" }
        );
        assert!(conn.local.1 >= 1_024);

        let reply = build(&ends(server, 80, &conn.local.0.to_string(), conn.local.1))
            .syn()
            .ack();
        let (device, out) = director
            .inject(LAN, &reply.dst_mac(director_mac(LAN)).build())
            .transmitted();
        assert_eq!(device, WAN);
        assert!(
            packet(&out).contains(&ends(vip, 80, client, 40_000)),
            "{}",
            packet(&out)
        );
        assert_eq!(checksum_faults(&out), Vec::<String>::new());
        assert_eq!(counts(&director, 0)[..3], [1, 1, 1]);
    }
}

#[test]
fn local_is_the_directors_own_stack_whatever_the_servers_address() {
    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let mut director = director(1, key, ForwardingMode::Local, &["198.51.100.11"], 80);
    for packet in [
        tcp4("192.0.2.2:40000 > 192.0.2.100:80").syn().build(),
        tcp4("192.0.2.2:40000 > 192.0.2.100:80").ack().build(),
    ] {
        assert_eq!(director.inject(WAN, &packet), Outcome::Punted(packet));
    }
    assert_eq!(director.conns().len(), 1);
}

#[test]
fn bypass_goes_on_to_the_clients_destination_and_never_to_the_stack() {
    let key = ServiceKey::Fwmark {
        mark: 7,
        family: AddressFamily::Ipv4,
    };
    let mut through = director(1, key, ForwardingMode::Bypass, &["198.51.100.11"], 0);
    let rule = MarkRule {
        mark: 7,
        destination: Some("198.51.100.12/32".parse().unwrap()),
        divert: true,
        ..MarkRule::default()
    };
    through.set_marks(MarkRules::new(vec![rule]).unwrap());
    let syn = tcp4("192.0.2.2:40000 > 198.51.100.12:80").syn().build();
    let (device, out) = through.inject(WAN, &syn).transmitted();
    assert_eq!(device, LAN);
    assert_eq!(out[..6], neighbour_mac(LAN, 12));
    assert_eq!(packet(&out), "TCP S 192.0.2.2:40000 > 198.51.100.12:80 ttl 63 len 40");

    let own = service(ServiceProtocol::Tcp, VIP, 80);
    let mut here = director(1, own, ForwardingMode::Bypass, &["198.51.100.11"], 80);
    let syn = tcp4("192.0.2.2:40000 > 192.0.2.100:80").syn().build();
    assert_eq!(here.inject(WAN, &syn), Outcome::Dropped(DropReason::NoRoute));
}

#[test]
fn direct_routing_changes_macs_and_ttl_only() {
    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let mut director = director(1, key, ForwardingMode::DirectRouting, &["198.51.100.11"], 80);
    let syn = tcp4("192.0.2.2:40000 > 192.0.2.100:80").syn().padded_to(60).build();
    let (device, out) = director.inject(WAN, &syn).transmitted();
    assert_eq!(
        (device, out.len()),
        (LAN, 54),
        "the padding of the incoming link stays behind"
    );
    assert_eq!(packet(&out), "TCP S 192.0.2.2:40000 > 192.0.2.100:80 ttl 63 len 40");
    let changed: Vec<usize> = (14..54).filter(|&at| out[at] != syn[at]).collect();
    assert!(
        changed.iter().all(|at| [22, 24, 25].contains(at)),
        "changed bytes: {changed:?}"
    );
    assert_eq!(counts(&director, 0), [1, 1, 0, 40, 0, 1, 0]);
}

#[test]
fn tunnels_lead_to_servers_of_either_family() {
    let cases = [
        (VIP, "198.51.100.11", 20),
        (VIP, "2001:db8:b::11", 40),
        (VIP6, "198.51.100.11", 20),
        (VIP6, "2001:db8:b::11", 40),
    ];
    for (vip, server, outer_len) in cases {
        let key = service(ServiceProtocol::Tcp, vip, 80);
        let mut director = director(1, key, ForwardingMode::Tunnel, &[server], 80);
        let syn = if vip == VIP {
            tcp4("192.0.2.2:40000 > 192.0.2.100:80").syn().build()
        } else {
            tcp6("[2001:db8:a::2]:40000 > [2001:db8:a::100]:80").syn().build()
        };
        let (device, out) = director.inject(WAN, &syn).transmitted();
        assert_eq!(device, LAN);
        assert_eq!(out.len(), syn.len() + outer_len, "{vip} in {server}");
        assert_eq!(out[..6], neighbour_mac(LAN, 11), "{vip} in {server}");
        // The inner packet is untouched but for its TTL.
        let inner = &out[14 + outer_len..];
        let changed: Vec<usize> = (0..inner.len()).filter(|&at| inner[at] != syn[14 + at]).collect();
        assert!(
            changed.iter().all(|at| [7, 8, 10, 11].contains(at)),
            "{vip} in {server}: {changed:?}"
        );
        assert_eq!(checksum_faults(&out), Vec::<String>::new());
    }
}

/// Of a connection by DR the director sees no packet of the server: when its client has closed it, it is in FIN_WAIT,
/// and bit 2 of `conn_reuse_mode` says whether a client that comes again from the port begins anew.
#[test]
fn a_client_that_comes_again_meets_the_new_mode_only_with_conn_reuse_mode_3() {
    for (conn_reuse_mode, expected) in [
        (1, "TCP S 192.0.2.2:40000 > 192.0.2.100:80 ttl 63 len 40"),
        (3, "TCP S 192.0.2.2:40000 > 198.51.100.11:80 ttl 63 len 40"),
    ] {
        let key = service(ServiceProtocol::Tcp, VIP, 80);
        let mut director = director(1, key, ForwardingMode::DirectRouting, &["198.51.100.11"], 80);
        director.set_sysctls(Sysctls {
            conn_reuse_mode,
            ..Default::default()
        });
        let client = || tcp4("192.0.2.2:40000 > 192.0.2.100:80");
        for frame in [client().syn(), client().ack(), client().ack().fin()] {
            director.inject(WAN, &frame.build()).transmitted();
        }
        director.change(|desired| {
            let server = ServerSpec::new(addr("198.51.100.11"), 80, ForwardingMode::Nat, 1);
            desired.edit_server(&key, server).expect("the server is there");
        });
        let (device, out) = director.inject(WAN, &client().syn().build()).transmitted();
        assert_eq!(device, LAN);
        assert_eq!(packet(&out), expected, "conn_reuse_mode {conn_reuse_mode}");
        assert_eq!(director.conns().len(), 1);
    }
}

#[test]
fn udp_is_never_active_and_keeps_its_server() {
    let key = service(ServiceProtocol::Udp, VIP, 53);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.11", "198.51.100.12"], 53);
    for _ in 0..3 {
        let query = udp4("192.0.2.2:5353 > 192.0.2.100:53").payload(b"query").build();
        let (_, out) = director.inject(WAN, &query).transmitted();
        // Newest first: the server added last has the lowest place in the cycle.
        assert_eq!(packet(&out), "UDP 192.0.2.2:5353 > 198.51.100.12:53 ttl 63 len 33");
    }
    assert_eq!(counts(&director, 1), [1, 3, 0, 99, 0, 0, 1]);
    director.advance_ms(299_000);
    assert_eq!(director.conns().len(), 1);
    director.advance_ms(1_200);
    assert_eq!(director.conns().len(), 0, "300 s after the last packet it is gone");
    assert_eq!(counts(&director, 1)[5..], [0, 0]);
}

#[test]
fn vlan_tags_do_not_leave_with_the_packet() {
    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.11"], 80);
    let mut l3 = network();
    l3.interface(Interface::new(WAN, 7, director_mac(WAN), 1_500, "wan.7"));
    director.set_l3(l3.build(2));
    let syn = tcp4("192.0.2.2:40000 > 192.0.2.100:80").vlan(7).syn().build();
    let (_, out) = director.inject(WAN, &syn).transmitted();
    assert_eq!(out.len(), syn.len() - 4);
    assert_eq!(packet(&out), "TCP S 192.0.2.2:40000 > 198.51.100.11:80 ttl 63 len 40");
}
