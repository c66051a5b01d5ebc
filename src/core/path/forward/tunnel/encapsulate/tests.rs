//! Outer headers against frames of a real kernel.

use super::*;
use crate::frame::vec::VecFrame;
use crate::path::parse::{Parsed, parse};
use crate::testing::{describe, hex, tcp4};

fn headers(frame: &[u8]) -> Headers {
    match parse(frame) {
        Ok(Parsed::Ip(headers, _)) => headers,
        other => panic!("{other:?}: {}", describe(frame)),
    }
}

fn outer(src: &str, dst: &str) -> Outer {
    Outer {
        kind: TunnelKind::IpIp,
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        identification: 1,
        src_port: 0,
        pmtu_disc: true,
    }
}

/// The outer packet of `frame`.
fn encapsulated(frame: &[u8], src: &str, dst: &str, identification: u16, pmtu_disc: bool) -> Vec<u8> {
    let headers = headers(frame);
    let mut frame = VecFrame::new(frame);
    let outer = Outer {
        identification,
        pmtu_disc,
        ..outer(src, dst)
    };
    encapsulate(&mut frame, &headers, &outer).unwrap();
    frame.bytes()[EthernetHeader::LEN..].to_vec()
}

const V4: (&str, &str) = ("10.1.0.1", "10.1.0.11");
const V6: (&str, &str) = ("fd00:b::1", "fd00:b::11");

/// Recording, inner packet, ends of the outer one, identification (of the recording), outer packet.
type Recorded = (
    &'static str,
    &'static str,
    (&'static str, &'static str),
    u16,
    &'static str,
);

const RECORDED: &[Recorded] = &[
    (
        "tun_header: tos b8, DF",
        "45b8002810034000400615b00a0000020a0000649c420050000003e8000000005002721088f20000",
        V4,
        0x1234,
        "45b8003c000040003f0426f90a0100010a01000b45b80028100340003f0616b00a0000020a0000649c420050000003e8000000005002721088f20000",
    ),
    (
        "tun_header: tos bb becomes ba",
        "45bb002810074000400615a90a0000020a0000649c460050000003e8000000005002721088ee0000",
        V4,
        0x1234,
        "45ba003c000040003f0426f70a0100010a01000b45bb0028100740003f0616a90a0000020a0000649c460050000003e8000000005002721088ee0000",
    ),
    (
        "tun_header: ttl 2",
        "45000028100b4000020654600a0000020a0000649c4a0050000003e8000000005002721088ea0000",
        V4,
        0x1234,
        "4500003c00004000010465b10a0100010a01000b45000028100b4000010655600a0000020a0000649c4a0050000003e8000000005002721088ea0000",
    ),
    (
        "tun_header: no DF",
        "45000028100d00004006565e0a0000020a0000649c4c0050000003e8000000005002721088e80000",
        V4,
        0xe0f5,
        "4500003ce0f500003f0486bb0a0100010a01000b45000028100d00003f06575e0a0000020a0000649c4c0050000003e8000000005002721088e80000",
    ),
    (
        "tun_header: inner options",
        "4600002c10154000400613500a0000020a000064010101019c4d0050000003e8000000005002721088e70000",
        V4,
        0x1234,
        "45000040000040003f0427ad0a0100010a01000b4600002c101540003f0614500a0000020a000064010101019c4d0050000003e8000000005002721088e70000",
    ),
    (
        "v6_tun: traffic class and flow label",
        "6b81234500140640fd00000a000000000000000000000002fd00000a0000000000000000000001009c410050000003e80000000050027210a2410000",
        V6,
        0x1234,
        "6b800000003c293ffd00000b000000000000000000000001fd00000b0000000000000000000000116b8123450014063ffd00000a000000000000000000000002fd00000a0000000000000000000001009c410050000003e80000000050027210a2410000",
    ),
    (
        "v6_tun: congestion experienced",
        "6031234500140640fd00000a000000000000000000000002fd00000a0000000000000000000001009c440050000003e80000000050027210a23e0000",
        V6,
        0x1234,
        "60200000003c293ffd00000b000000000000000000000001fd00000b000000000000000000000011603123450014063ffd00000a000000000000000000000002fd00000a0000000000000000000001009c440050000003e80000000050027210a23e0000",
    ),
    (
        "v6_tun_mixed: IPv6 in IPv4",
        "6b81234500140640fd00000a000000000000000000000002fd00000a0000000000000000000001009c400050000003e80000000050027210a2420000",
        V4,
        0x4708,
        "45b80050470800003f291fb80a0100010a01000b6b8123450014063ffd00000a000000000000000000000002fd00000a0000000000000000000001009c400050000003e80000000050027210a2420000",
    ),
    (
        "v6_tun_mixed: IPv4 in IPv6",
        "4503002810034000400616650a0000020a0000649c420050000003e8000000005002721088f20000",
        V6,
        0x1234,
        "602000000028043ffd00000b000000000000000000000001fd00000b00000000000000000000001145030028100340003f0617650a0000020a0000649c420050000003e8000000005002721088f20000",
    ),
];

fn frame_of(packet: &str) -> Vec<u8> {
    let ethertype = if packet.starts_with('4') { "0800" } else { "86dd" };
    hex(&format!("020000000001 020000000102 {ethertype} {packet}"))
}

#[test]
fn all_four_tunnels_leave_as_the_kernel_sent_them() {
    for (name, inner, (src, dst), identification, expected) in RECORDED {
        let got = encapsulated(&frame_of(inner), src, dst, *identification, true);
        assert_eq!(got, hex(expected), "{name}");
    }
}

/// tun_mtu_nopmtu: the first SYN.
#[test]
fn without_pmtu_discovery_df_is_not_copied() {
    let inner = frame_of("45000028100140004006166a0a0000020a0000649c400050000003e8000000005002721088f40000");
    let expected = "4500003ce4bf00003f0482f10a0100010a01000b\
                    45000028100140003f06176a0a0000020a0000649c400050000003e8000000005002721088f40000";
    assert_eq!(encapsulated(&inner, V4.0, V4.1, 0xe4bf, false), hex(expected));
}

#[test]
fn vlan_tags_and_padding_do_not_reach_the_real_server() {
    let plain = tcp4("198.51.100.1:1 > 192.0.2.1:80").ack();
    let dressed = plain.clone().service_vlan(4).vlan(7).padded_to(90).build();
    for (src, dst) in [V4, V6] {
        let expected = encapsulated(&plain.build(), src, dst, 7, true);
        assert_eq!(encapsulated(&dressed, src, dst, 7, true), expected);
    }
}

#[test]
fn the_outer_packet_is_longer_by_the_overhead() {
    let frame = tcp4("198.51.100.1:1 > 192.0.2.1:80").ack().build();
    for ((src, dst), family) in [(V4, AddressFamily::Ipv4), (V6, AddressFamily::Ipv6)] {
        let outer = encapsulated(&frame, src, dst, 7, true);
        assert_eq!(
            outer.len(),
            frame.len() - 14 + usize::from(overhead(TunnelKind::IpIp, family))
        );
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    let bytes = tcp4("198.51.100.1:1 > 192.0.2.1:80").ack().build();
    let headers = headers(&bytes);
    let (v4, v6) = ("192.0.2.1", "2001:db8::1");
    let refused = |frame: &mut VecFrame, headers: &Headers, src, dst| {
        encapsulate(frame, headers, &outer(src, dst)).expect_err("refused")
    };
    assert_eq!(
        refused(&mut VecFrame::with_headroom(&bytes, 19, 0), &headers, v4, v4),
        DropReason::NoHeadroom
    );
    assert_eq!(
        refused(&mut VecFrame::new(&bytes), &headers, v4, v6),
        DropReason::NoRoute
    );
    let long = tcp4("198.51.100.1:1 > 192.0.2.1:80").payload_len(65_481).build();
    let Ok(Parsed::Ip(headers, _)) = parse(&long) else {
        panic!("not an IP packet")
    };
    assert_eq!(
        refused(&mut VecFrame::new(&long), &headers, v4, v4),
        DropReason::MtuExceeded
    );
}
