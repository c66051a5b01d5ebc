//! Rewriting against frames of a real kernel and against the checksum oracle.

use super::*;
use crate::address::{Addr4, Addr6};
use crate::headers::Flow;
use crate::path::parse::{Parsed, parse};
use crate::random::Random;
use crate::testing::{PacketBuilder, checksum_faults, describe, hex, sctp4, tcp4, tcp6, udp4, udp6};

/// Both families of a rewrite under test, from the packet's own flow.
trait FromFlow: Address {
    fn ends(flow: Flow) -> (Endpoint<Self>, Endpoint<Self>);
}

impl FromFlow for Addr4 {
    fn ends(flow: Flow) -> (Endpoint<Self>, Endpoint<Self>) {
        let Flow::V4(key) = flow else { panic!("not IPv4") };
        (key.src, key.dst)
    }
}

impl FromFlow for Addr6 {
    fn ends(flow: Flow) -> (Endpoint<Self>, Endpoint<Self>) {
        let Flow::V6(key) = flow else { panic!("not IPv6") };
        (key.src, key.dst)
    }
}

fn parsed(frame: &[u8]) -> (Headers, Flow) {
    match parse(frame) {
        Ok(Parsed::Ip(headers, flow)) => (headers, flow),
        other => panic!("{other:?}: {}", describe(frame)),
    }
}

/// The frame with these ends, rewritten as the path does it.
fn rewritten<A: FromFlow>(frame: &[u8], src: Endpoint<A>, dst: Endpoint<A>) -> Vec<u8> {
    let (headers, flow) = parsed(frame);
    let (old_src, old_dst) = A::ends(flow);
    let (l3_delta, l4_delta) = deltas(old_src, old_dst, src, dst);
    let mut frame = frame.to_vec();
    apply(
        &mut frame,
        &headers,
        &Rewrite {
            src,
            dst,
            l3_delta,
            l4_delta,
        },
    );
    frame
}

fn end4(a: u8, b: u8, c: u8, d: u8, port: u16) -> Endpoint<Addr4> {
    Endpoint::new(Addr4([a, b, c, d]), port)
}

fn end6(text: &str, port: u16) -> Endpoint<Addr6> {
    Endpoint::new(Addr6::from_ip(text.parse().unwrap()).unwrap(), port)
}

/// What the kernel's NAT made of frames: recording, packet in, packet out; all of client 10.0.0.2, VIP 10.0.0.100
/// and real server 10.1.0.11.
const RECORDED_V4: &[(&str, &str, &str)] = &[
    (
        "nat_ttl: SYN at TTL 2",
        "45000028100140000206546a0a0000020a000064b3b00050000003e8000000005002721071840000",
        "4500002810014000010655c20a0000020a01000bb3b01f90000003e80000000050027210529c0000",
    ),
    (
        "nat_ttl: SYN+ACK, outbound",
        "4500002810024000020654c10a01000b0a0000021f90b3b000001388000003e9501272103f030000",
        "4500002810024000010655690a0000640a0000020050b3b000001388000003e9501272105deb0000",
    ),
    (
        "nat_tcp_checksums: wrong stays wrong",
        "4500002b10044000400616640a0000020a000064a7f80050000003e9000013895018721012340000616263",
        "4500002b100440003f0617bc0a0000020a01000ba7f81f90000003e90000138950187210f34b0000616263",
    ),
    (
        "nat_tcp_checksums: 0",
        "4500002b10064000400616620a0000020a000064a7f80050000003e9000013895018721000000000616263",
        "4500002b100640003f0617ba0a0000020a01000ba7f81f90000003e90000138950187210e1170000616263",
    ),
    (
        "nat_tcp_checksums: ffff",
        "4500002b10074000400616610a0000020a000064a7f80050000003e90000138950187210ffff0000616263",
        "4500002b100740003f0617b90a0000020a01000ba7f81f90000003e90000138950187210e1170000616263",
    ),
    (
        "nat_tcp_checksums: becomes 0",
        "45000028100a4000400616610a0000020a000064a7f800500001622c00000001501072101ee80000",
        "45000028100a40003f0617b90a0000020a01000ba7f81f900001622c000000015010721000000000",
    ),
    (
        "nat_tcp_checksums: becomes 0, outbound",
        "45000028100b4000400616b80a01000b0a0000021f90a7f8000181140000000150107210e1170000",
        "45000028100b40003f0617600a0000640a0000020050a7f800018114000000015010721000000000",
    ),
    (
        "nat_udp_checksums: none",
        "4500002110014000401116660a0000020a000064c3500035000d00007175657279",
        "45000021100140003f1117be0a0000020a01000bc35014e9000dc3a47175657279",
    ),
    (
        "nat_udp_checksums: none, outbound",
        "4500002210024000401116bc0a01000b0a00000214e9c350000e0000616e73776572",
        "45000022100240003f1117640a0000640a0000020035c350000eed8e616e73776572",
    ),
    (
        "nat_udp_checksums: wrong stays wrong",
        "4500002110034000401116640a0000020a000064c3500035000d12347175657279",
        "45000021100340003f1117bc0a0000020a01000bc35014e9000dfdd77175657279",
    ),
    (
        "nat_udp_checksums: becomes 0, sent as ffff",
        "4500002010054000401116630a0000020a000064c3500035000c145c9b167878",
        "45000020100540003f1117bb0a0000020a01000bc35014e9000cffff9b167878",
    ),
    (
        "nat_udp_checksums: length below the payload's",
        "4500002110074000401116600a0000020a000064c35000350008d8057175657279",
        "45000021100740003f1117b80a0000020a01000bc35014e90008c3a97175657279",
    ),
    (
        "nat_udp_checksums: length beyond the payload's",
        "45000021100840004011165f0a0000020a000064c350003500c8d7457175657279",
        "45000021100840003f1117b70a0000020a01000bc35014e900c8c2e97175657279",
    ),
];

#[test]
fn ipv4_packets_leave_as_the_kernel_sent_them() {
    for (name, packet, expected) in RECORDED_V4 {
        let frame = hex(&format!("020000000001 020000000102 0800 {packet}"));
        let Flow::V4(out) = parsed(&hex(&format!("020000000001 020000000102 0800 {expected}"))).1 else {
            panic!()
        };
        let got = rewritten(&frame, out.src, out.dst);
        assert_eq!(got[14..], hex(expected), "{name}: {}", describe(&got));
    }
}

/// v6_nat_tcp: SYN in, SYN+ACK out, data.
#[test]
fn ipv6_packets_leave_as_the_kernel_sent_them() {
    let client = end6("fd00:a::2", 40_000);
    let (vip, real) = (end6("fd00:a::100", 80), end6("fd00:b::11", 8080));
    for (packet, src, dst, expected) in [
        (
            "6121234500140640fd00000a000000000000000000000002fd00000a0000000000000000000001009c400050000003e80000000050027210a2420000",
            client,
            real,
            "612123450014063ffd00000a000000000000000000000002fd00000b0000000000000000000000119c401f90000003e8000000005002721083f00000",
        ),
        (
            "6000000000140640fd00000b000000000000000000000011fd00000a0000000000000000000000021f909c4000001388000003e95012721070570000",
            vip,
            client,
            "600000000014063ffd00000a000000000000000000000100fd00000a00000000000000000000000200509c4000001388000003e9501272108ea90000",
        ),
        (
            "6000000000190640fd00000a000000000000000000000002fd00000a0000000000000000000001009c400050000003e90000138950187210c4370000474554202f",
            client,
            real,
            "600000000019063ffd00000a000000000000000000000002fd00000b0000000000000000000000119c401f90000003e90000138950187210a5e50000474554202f",
        ),
    ] {
        let got = rewritten(&hex(&format!("020000000001 020000000102 86dd {packet}")), src, dst);
        assert_eq!(got[14..], hex(expected), "{}", describe(&got));
    }
}

/// dr_tcp: what DR does to a packet is exactly this.
#[test]
fn a_decremented_ttl_leaves_as_the_kernel_sent_it() {
    let mut frame = hex(
        "0200000000010200000001020800 4510003410014000 4006164e 0a0000020a0000649c400050000003e8\
                         000000008002721049240000020405b40402010303070000",
    );
    let (headers, _) = parsed(&frame);
    decrement_ttl(&mut frame, &headers);
    let expected = hex("4510003410014000 3f06174e 0a0000020a0000649c400050000003e8\
                        000000008002721049240000020405b40402010303070000");
    assert_eq!(frame[14..], expected);
}

#[test]
fn every_ttl_is_decremented_with_a_right_checksum_and_zero_stays() {
    for ttl in 0..=255u8 {
        for packet in [
            tcp4("198.51.100.1:1 > 192.0.2.1:2"),
            tcp6("[2001:db8::1]:1 > [2001:db8::2]:2"),
        ] {
            let mut frame = packet.ttl(ttl).identification(u16::from(ttl) * 257).build();
            let (headers, _) = parsed(&frame);
            decrement_ttl(&mut frame, &headers);
            assert_eq!(parsed(&frame).0.ttl, ttl.saturating_sub(1));
            assert_eq!(checksum_faults(&frame), Vec::<String>::new(), "{}", describe(&frame));
        }
    }
}

fn any_end4(random: &mut Random) -> Endpoint<Addr4> {
    Endpoint::new(Addr4(random.next_u32().to_be_bytes()), random.next_u32() as u16)
}

fn any_end6(random: &mut Random) -> Endpoint<Addr6> {
    let bytes = (u128::from(random.next_u64()) << 64 | u128::from(random.next_u64())).to_be_bytes();
    Endpoint::new(Addr6(bytes), random.next_u32() as u16)
}

fn socket<A: Address>(end: Endpoint<A>) -> std::net::SocketAddr {
    std::net::SocketAddr::new(end.addr.to_ip(), end.port)
}

/// There and back again with `packet`: both ways right by the oracle, and nothing else changed.
fn round_trip<A: FromFlow>(packet: PacketBuilder, src: Endpoint<A>, dst: Endpoint<A>) {
    let original = packet.build();
    let (headers, flow) = parsed(&original);
    let (old_src, old_dst) = A::ends(flow);
    let there = rewritten(&original, src, dst);
    assert_eq!(
        checksum_faults(&there),
        Vec::<String>::new(),
        "{} -> {}",
        describe(&original),
        describe(&there)
    );
    assert_eq!(A::ends(parsed(&there).1), (src, dst));
    // The way back uses what the connection stores: complements of the deltas.
    let (l3_delta, l4_delta) = deltas(old_src, old_dst, src, dst);
    let (l3_delta, l4_delta) = (checksum::complement(l3_delta), checksum::complement(l4_delta));
    let mut back = there;
    apply(
        &mut back,
        &headers,
        &Rewrite {
            src: old_src,
            dst: old_dst,
            l3_delta,
            l4_delta,
        },
    );
    assert_eq!(back, packet.ttl(headers.ttl - 2).build(), "{}", describe(&back));
}

#[test]
fn any_rewrite_of_any_packet_is_right_by_the_oracle_and_undone_by_its_complement() {
    let mut random = Random::new(42);
    for _ in 0..5_000 {
        let payload: Vec<u8> = (0..random.below(40)).map(|_| random.next_u32() as u8).collect();
        let dress = |packet: PacketBuilder| packet.payload(&payload).ttl(9);
        let (src, dst) = (any_end4(&mut random), any_end4(&mut random));
        let ends = format!("{} > {}", socket(any_end4(&mut random)), socket(any_end4(&mut random)));
        round_trip(dress(tcp4(&ends)).ip_options(&[1; 7]).ack(), src, dst);
        round_trip(dress(udp4(&ends)).vlan(5).padded_to(70), src, dst);
        let (src, dst) = (any_end6(&mut random), any_end6(&mut random));
        let ends = format!("{} > {}", socket(any_end6(&mut random)), socket(any_end6(&mut random)));
        round_trip(dress(tcp6(&ends)).hop_by_hop(8), src, dst);
        round_trip(dress(udp6(&ends)), src, dst);
    }
}

#[test]
fn a_wrong_checksum_stays_wrong_by_the_same_difference() {
    let mut random = Random::new(43);
    for packet in [
        tcp4("198.51.100.1:7 > 192.0.2.1:80"),
        udp4("198.51.100.1:7 > 192.0.2.1:53"),
    ] {
        for _ in 0..2_000 {
            let (src, dst) = (any_end4(&mut random), any_end4(&mut random));
            let wrong = packet.clone().wrong_checksum().build();
            let before = checksum_faults(&wrong);
            assert_eq!(before.len(), 1);
            assert_eq!(checksum_faults(&rewritten(&wrong, src, dst)), before);
        }
    }
}

#[test]
fn a_udp_datagram_without_checksum_gets_a_right_one_over_ipv6_too() {
    let frame = udp6("[2001:db8::1]:1 > [2001:db8::2]:53")
        .without_checksum()
        .payload(b"odd")
        .build();
    let got = rewritten(&frame, end6("2001:db8::3", 1), end6("2001:db8::4", 5353));
    assert_eq!(checksum_faults(&got), Vec::<String>::new());
    assert_ne!(got[14 + 40 + 6..14 + 40 + 8], [0, 0]);
}

#[test]
fn a_first_fragment_without_udp_checksum_keeps_none() {
    let frame = udp4("198.51.100.1:1 > 192.0.2.1:53")
        .fragment(0, true)
        .without_checksum()
        .payload_len(16)
        .build();
    let got = rewritten(&frame, end4(198, 51, 100, 1, 1), end4(203, 0, 113, 9, 5353));
    assert_eq!(got[34..42], hex("0001 14e9 0018 0000"));
}

#[test]
fn a_later_fragment_changes_its_addresses_and_nothing_behind_the_ip_header() {
    let frame = tcp4("198.51.100.1:1 > 192.0.2.1:80")
        .fragment(24, false)
        .payload_len(24)
        .build();
    let got = rewritten(&frame, end4(198, 51, 100, 1, 1), end4(203, 0, 113, 9, 8080));
    assert_eq!(got[34..], frame[34..]);
    assert_eq!(got[30..34], [203, 0, 113, 9]);
    assert_eq!(checksum_faults(&got), Vec::<String>::new());
}

#[test]
fn sctp_gets_new_ends_and_a_new_crc_only_when_a_port_changes() {
    let frame = sctp4("198.51.100.1:9 > 192.0.2.1:3868").payload(b"chnk").build();
    let got = rewritten(&frame, end4(198, 51, 100, 1, 9), end4(203, 0, 113, 9, 3869));
    assert_eq!(got[34..38], hex("0009 0f1d")[..]);
    assert_eq!(got[42..46], crate::wire::sctp::checksum(&got[34..]));
    let same_ports = rewritten(&frame, end4(198, 51, 100, 1, 9), end4(203, 0, 113, 9, 3868));
    assert_eq!(same_ports[34..], frame[34..], "addresses are not part of the CRC");
}

#[test]
fn padding_is_not_part_of_a_udp_datagram() {
    let frame = udp4("198.51.100.1:1 > 192.0.2.1:53")
        .without_checksum()
        .payload(b"abc")
        .padded_to(60)
        .build();
    let mut noisy = frame;
    noisy[59] = 0xee;
    let got = rewritten(&noisy, end4(198, 51, 100, 1, 1), end4(203, 0, 113, 9, 53));
    assert_eq!(checksum_faults(&got), Vec::<String>::new());
}
