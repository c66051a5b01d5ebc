//! IPv4 options and IPv6 hop-by-hop options of packets of connections.

use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::service::ServiceProtocol;
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN, director_mac};
use lvs_core::testing::{PacketBuilder, checksum_faults, tcp4, tcp6};

use super::{director, service};

const CLIENT: &str = "192.0.2.2:1000 > 192.0.2.100:80";
/// Where the options of an IPv4 packet begin in its frame.
const OPTIONS: usize = 34;
const RECORD_ROUTE: [u8; 12] = [7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const TIMES_AND_ADDRESSES: [u8; 12] = [68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0];

fn connected(mode: ForwardingMode) -> TestDirector {
    let key = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
    let mut director = director(1, key, mode, &["198.51.100.11"], 80);
    director.workers[0].set_time_of_day(|| 0x0102_0304);
    director.inject(WAN, &tcp4(CLIENT).syn().build()).transmitted();
    director
}

fn sent(director: &mut TestDirector, packet: &PacketBuilder) -> Vec<u8> {
    let (_, out) = director.inject(WAN, &packet.build()).transmitted();
    assert_eq!(checksum_faults(&out), Vec::<String>::new());
    out
}

#[test]
fn record_route_and_timestamp_are_filled_in_with_the_vip_in_every_mode_and_in_replies() {
    for (mode, inner) in [
        (ForwardingMode::Nat, 0),
        (ForwardingMode::FullNat, 0),
        (ForwardingMode::DirectRouting, 0),
        (ForwardingMode::Tunnel, 20),
    ] {
        let mut director = connected(mode);
        let route = sent(&mut director, &tcp4(CLIENT).ack().ip_options(&RECORD_ROUTE));
        assert_eq!(route[inner + OPTIONS..][..7], [7, 11, 8, 192, 0, 2, 100], "{mode:?}");
        let times = sent(&mut director, &tcp4(CLIENT).ack().ip_options(&TIMES_AND_ADDRESSES));
        let filled = [68, 12, 13, 1, 192, 0, 2, 100, 1, 2, 3, 4];
        assert_eq!(times[inner + OPTIONS..][..12], filled, "{mode:?}");
    }
    let mut director = connected(ForwardingMode::Nat);
    let reply = tcp4("198.51.100.11:80 > 192.0.2.2:1000").syn().ack();
    let reply = reply.ip_options(&RECORD_ROUTE).dst_mac(director_mac(LAN)).build();
    let (device, out) = director.inject(LAN, &reply).transmitted();
    assert_eq!((device, checksum_faults(&out)), (WAN, Vec::new()));
    assert_eq!(out[OPTIONS..][..7], [7, 11, 8, 192, 0, 2, 100]);
}

#[test]
fn without_rerouting_a_reply_records_the_directors_address_towards_the_client() {
    let mut director = connected(ForwardingMode::Nat);
    let mut sysctls = *director.sysctls();
    sysctls.snat_reroute = false;
    director.set_sysctls(sysctls);
    let reply = tcp4("198.51.100.11:80 > 192.0.2.2:1000").syn().ack();
    let reply = reply.ip_options(&RECORD_ROUTE).dst_mac(director_mac(LAN)).build();
    let (_, out) = director.inject(LAN, &reply).transmitted();
    assert_eq!(out[OPTIONS..][..7], [7, 11, 8, 192, 0, 2, 1]);
}

#[test]
fn wrong_options_and_source_routes_are_left_to_the_kernel_whoever_sends_them() {
    let mut director = connected(ForwardingMode::Nat);
    for options in [
        [7, 6, 4, 0, 0, 0, 0, 0],
        [7, 7, 2, 0, 0, 0, 0, 0],
        [68, 7, 5, 0, 0, 0, 0, 0],
        [0x5e, 1, 0, 0, 0, 0, 0, 0],
        [0x83, 7, 8, 198, 51, 100, 1, 0],
    ] {
        let packet = tcp4(CLIENT).ack().ip_options(&options).build();
        assert_eq!(
            director.inject(WAN, &packet),
            Outcome::Punted(packet.clone()),
            "{options:?}"
        );
        let reply = tcp4("198.51.100.11:80 > 192.0.2.2:1000").ack().ip_options(&options);
        let reply = reply.dst_mac(director_mac(LAN)).build();
        assert_eq!(
            director.inject(LAN, &reply),
            Outcome::Punted(reply.clone()),
            "{options:?}"
        );
    }
    let harmless = tcp4(CLIENT).ack().ip_options(&[0x94, 4, 0, 0]).build();
    director.inject(WAN, &harmless).transmitted();
}

#[test]
fn the_directors_own_errors_repeat_options_and_quote_them_filled_in() {
    let mut director = connected(ForwardingMode::Nat);
    let spent = tcp4(CLIENT).ack().ttl(1).ip_options(&RECORD_ROUTE).build();
    let (device, error) = director.inject(WAN, &spent).transmitted();
    assert_eq!((device, error[14]), (WAN, 0x48));
    let repeated = [7, 11, 12, 192, 0, 2, 100, 192, 0, 2, 100];
    assert_eq!(error[OPTIONS..][..11], repeated, "the packet's entry and the answer's");
    let icmp = OPTIONS + 12;
    assert_eq!(error[icmp..][..2], [11, 0]);
    let quoted = icmp + 8 + 20;
    assert_eq!(error[quoted..][..7], [7, 11, 8, 192, 0, 2, 100]);
}

#[test]
fn hop_by_hop_options_that_are_not_to_be_skipped_are_left_to_the_kernel() {
    let key = service(ServiceProtocol::Tcp, "2001:db8:a::100", 80);
    let mut director = director(1, key, ForwardingMode::Nat, &["2001:db8:b::11"], 80);
    let syn = tcp6("[2001:db8:a::2]:1000 > [2001:db8:a::100]:80").syn();
    for (kind, is_balanced) in [(0x3e, true), (0x7e, false), (0xbe, false), (0xfe, false)] {
        let mut packet = syn.clone().hop_by_hop(8).build();
        packet[54 + 2..54 + 8].copy_from_slice(&[kind, 4, 0, 0, 0, 0]);
        match director.inject(WAN, &packet) {
            Outcome::Transmitted(..) => assert!(is_balanced, "{kind:x}"),
            other => assert_eq!((other, is_balanced), (Outcome::Punted(packet), false), "{kind:x}"),
        }
        let mut packet = syn.clone().destination_options(8).build();
        packet[54 + 2..54 + 8].copy_from_slice(&[kind, 4, 0, 0, 0, 0]);
        director.inject(WAN, &packet).transmitted();
    }
}
