//! ICMP errors about connections, both directions, by one worker and several.

use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::service::ServiceProtocol;
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN, director_mac};
use lvs_core::testing::{PacketBuilder, checksum_faults, icmp4, icmp6, udp4, udp6};
use lvs_core::verdict::DropReason;

use super::{counts, director, packet, service};

#[test]
fn an_error_from_behind_reaches_the_client_in_the_name_of_the_vip_whoever_polls_it() {
    for mode in [ForwardingMode::Nat, ForwardingMode::FullNat] {
        for workers in [1, 3, 4, 64] {
            let key = service(ServiceProtocol::Udp, "192.0.2.100", 53);
            let mut director = director(workers, key, mode, &["198.51.100.11"], 5_353);
            for client in 0..50_u16 {
                let ends = format!("192.0.2.2:{} > 192.0.2.100:53", 10_000 + client);
                let (_, to_server) = director
                    .inject(WAN, &udp4(&ends).payload(b"query").build())
                    .transmitted();
                let words = packet(&to_server);
                let local = words.split(' ').nth(1).unwrap().split(':').next().unwrap().to_owned();
                let error = icmp4(&format!("198.51.100.15 > {local}"))
                    .icmp(3, 3, 0)
                    .payload(&to_server[14..42])
                    .dst_mac(director_mac(LAN))
                    .build();
                let polls = usize::from(client % u16::from(workers));
                let (device, out) = director.inject_at(polls, LAN, &error).transmitted();
                assert_eq!(device, WAN);
                let expected = format!("ICMP 3/3 about 192.0.2.2:{} 192.0.2.100 > 192.0.2.2", 10_000 + client);
                assert!(packet(&out).contains(&expected), "{mode:?}: {}", packet(&out));
                assert_eq!(checksum_faults(&out), Vec::<String>::new());
                assert_eq!(out[34 + 8 + 16..34 + 8 + 20], [192, 0, 2, 100], "quoted destination");
                assert_eq!(out[34 + 8 + 22..34 + 8 + 24], [0, 53], "quoted port");
            }
            assert_eq!(counts(&director, 0)[2], 50, "counted as packets to the client");
        }
    }
}

#[test]
fn an_error_from_the_client_side_reaches_the_server() {
    for (mode, about) in [
        (ForwardingMode::Nat, "192.0.2.9 > 198.51.100.11"),
        (ForwardingMode::FullNat, "198.51.100.200 > 198.51.100.11"),
        (ForwardingMode::DirectRouting, "192.0.2.9 > 192.0.2.100"),
    ] {
        let key = service(ServiceProtocol::Udp, "192.0.2.100", 53);
        let mut director = director(2, key, mode, &["198.51.100.11"], 53);
        director
            .inject(WAN, &udp4("192.0.2.2:1000 > 192.0.2.100:53").build())
            .transmitted();
        let reply = udp4("192.0.2.100:53 > 192.0.2.2:1000").payload(b"answer").build();
        let error = icmp4("192.0.2.9 > 192.0.2.100")
            .icmp(11, 0, 0)
            .payload(&reply[14..])
            .build();
        for polls in [0, 1] {
            let (device, out) = director.inject_at(polls, WAN, &error).transmitted();
            assert_eq!(device, LAN);
            assert!(packet(&out).contains(about), "{mode:?}: {}", packet(&out));
            assert_eq!(checksum_faults(&out), Vec::<String>::new());
        }
        assert_eq!(counts(&director, 0)[1], 3);
    }
}

#[test]
fn ipv6_errors_are_translated_alike() {
    let key = service(ServiceProtocol::Udp, "2001:db8:a::100", 53);
    let mut director = director(1, key, ForwardingMode::FullNat, &["2001:db8:b::11"], 5_353);
    let request = udp6("[2001:db8:a::2]:1000 > [2001:db8:a::100]:53")
        .payload(b"query")
        .build();
    let (_, to_server) = director.inject(WAN, &request).transmitted();
    let error = icmp6("2001:db8:b::15 > 2001:db8:b::200")
        .icmp(2, 0, 1_280)
        .payload(&to_server[14..])
        .dst_mac(director_mac(LAN))
        .build();
    let (_, out) = director.inject(LAN, &error).transmitted();
    assert!(
        packet(&out).contains("2001:db8:a::100 > 2001:db8:a::2"),
        "{}",
        packet(&out)
    );
    assert_eq!(checksum_faults(&out), Vec::<String>::new());
    assert_eq!(
        out[14 + 40 + 8 + 8..14 + 40 + 8 + 40],
        request[14 + 8..14 + 40],
        "quoted addresses are the client's"
    );
}

/// A NAT director with an open UDP connection, the frame that went to the server, and an ICMP error of the server that
/// has no payload yet.
fn server_error() -> (TestDirector, Vec<u8>, PacketBuilder) {
    let key = service(ServiceProtocol::Udp, "192.0.2.100", 53);
    let mut director = director(1, key, ForwardingMode::Nat, &["198.51.100.11"], 53);
    let (_, to_server) = director
        .inject(WAN, &udp4("192.0.2.2:1000 > 192.0.2.100:53").build())
        .transmitted();
    let error = icmp4("198.51.100.11 > 192.0.2.2")
        .dst_mac(director_mac(LAN))
        .icmp(3, 3, 0);
    (director, to_server, error)
}

#[test]
fn a_wrong_checksum_is_dropped_by_name_and_what_is_not_ours_is_the_kernels() {
    let (mut director, to_server, error) = server_error();
    let about = error.clone().payload(&to_server[14..]);
    assert_eq!(
        director.inject(LAN, &about.clone().wrong_checksum().build()),
        Outcome::Dropped(DropReason::IcmpChecksum)
    );
    assert_eq!(
        director.inject(LAN, &about.clone().ttl(1).build()),
        Outcome::Dropped(DropReason::TtlExpired)
    );
    let stranger = udp4("192.0.2.2:1001 > 198.51.100.11:53").build();
    let kernels = [
        error.clone().payload(&stranger[14..]),
        about.clone().icmp(12, 0, 0),
        about.icmp(8, 0, 0),
    ];
    for frame in kernels.map(|packet| packet.build()) {
        assert_eq!(director.inject(LAN, &frame), Outcome::Punted(frame));
    }
    assert_eq!(counts(&director, 0)[1..3], [1, 0], "nothing of it is counted");
}

#[test]
fn an_error_does_not_keep_its_connection_alive() {
    let (mut director, to_server, error) = server_error();
    let error = error.payload(&to_server[14..]).build();
    for _ in 0..4 {
        director.advance_ms(80_000);
        director.inject(LAN, &error);
    }
    assert_eq!(director.conns().len(), 0, "300 s after the last packet it is over");
}
