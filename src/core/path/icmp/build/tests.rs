//! ICMP answers against frames of a real kernel.

use super::*;
use crate::frame::vec::VecFrame;
use crate::path::parse::{Parsed, parse};
use crate::testing::{PacketBuilder, checksum_faults, describe, hex, icmp4, icmp6, tcp4, tcp6, udp4, udp6};

fn headers(frame: &[u8]) -> Headers {
    match parse(frame) {
        Ok(Parsed::Ip(headers, _)) => headers,
        other => panic!("{other:?}: {}", describe(frame)),
    }
}

/// The ICMP error's IP packet.
fn built(frame: &[u8], error: IcmpError, source: &str, identification: u16) -> Result<Vec<u8>, DropReason> {
    let headers = headers(frame);
    let mut frame = VecFrame::new(frame);
    let message = ErrorMessage {
        error,
        source: source.parse().unwrap(),
        identification,
        options: crate::wire::ipv4_options::EchoedOptions::NONE,
    };
    icmp_error(&mut frame, &headers, &message)?;
    Ok(frame.bytes()[EthernetHeader::LEN..].to_vec())
}

fn frame_of(packet: &str) -> Vec<u8> {
    let ethertype = if packet.starts_with('4') { "0800" } else { "86dd" };
    hex(&format!("020000000001 020000000102 {ethertype} {packet}"))
}

const VIP: &str = "10.0.0.100";

/// Recording, packet, error, source, identification (of the recording), error's IP packet.
type Recorded = (&'static str, &'static str, IcmpError, &'static str, u16, &'static str);

const RECORDED_V4: &[Recorded] = &[
    (
        "nat_ttl: TTL 1 from the client",
        "4500002810034000010655680a0000020a000064b3b00050000003e900001389501072105dec0000",
        IcmpError::TimeExceeded,
        VIP,
        0xe90c,
        "45c00044e90c000040017c870a0000640a0000020b000980000000004500002810034000010655680a0000020a000064b3b00050000003e900001389501072105dec0000",
    ),
    (
        "nat_ttl: TTL 0 from the real server",
        "4500002810064000000656bd0a01000b0a0000021f90b3b000001389000003e9501072103f040000",
        IcmpError::TimeExceeded,
        "10.1.0.1",
        0xefaf,
        "45c00044efaf00004001763c0a0100010a01000b0b000928000000004500002810064000000656bd0a01000b0a0000021f90b3b000001389000003e9501072103f040000",
    ),
    (
        "no_dest: TCP",
        "45000028100140004006166a0a0000020a000064bf680050000003e8000000005002721065cc0000",
        IcmpError::PortUnreachable,
        VIP,
        0x6fb9,
        "45c000446fb900004001f5da0a0000640a0000020303117d0000000045000028100140004006166a0a0000020a000064bf680050000003e8000000005002721065cc0000",
    ),
    (
        "no_dest: UDP, an odd length",
        "4500002110074000401116600a0000020a000064bf680035000ddbe87175657279",
        IcmpError::PortUnreachable,
        VIP,
        0x6fcd,
        "45c0003d6fcd00004001f5cd0a0000640a00000203031181000000004500002110074000401116600a0000020a000064bf680035000ddbe87175657279",
    ),
    (
        "rs_routes: unreachable",
        "45000028100140004006166a0a0000020a0000649c400050000003e8000000005002721088f40000",
        IcmpError::HostUnreachable,
        VIP,
        0x95cd,
        "45c0004495cd00004001cfc60a0000640a0000020301117f0000000045000028100140004006166a0a0000020a0000649c400050000003e8000000005002721088f40000",
    ),
    (
        "tun_header: TTL 1",
        "45000028100c40000106555f0a0000020a0000649c4b0050000003e8000000005002721088e90000",
        IcmpError::TimeExceeded,
        VIP,
        0x9aa7,
        "45c000449aa700004001caec0a0000640a0000020b0009800000000045000028100c40000106555f0a0000020a0000649c4b0050000003e8000000005002721088e90000",
    ),
];

#[test]
fn ipv4_errors_leave_as_the_kernel_sent_them() {
    for (name, packet, error, source, identification, expected) in RECORDED_V4 {
        let got = built(&frame_of(packet), *error, source, *identification);
        assert_eq!(got, Ok(hex(expected)), "{name}");
    }
}

/// v6_no_dest and v6_tun; the flow label, random in the kernel, is 0 here.
#[test]
fn ipv6_errors_leave_as_the_kernel_sent_them_but_for_the_flow_label() {
    for (packet, error, expected) in [
        (
            "6000000000140640fd00000a000000000000000000000002fd00000a0000000000000000000001009c400050000003e80000000050027210a2420000",
            IcmpError::PortUnreachable,
            "6000000000443a40fd00000a000000000000000000000100fd00000a00000000000000000000000201049d2b000000006000000000140640fd00000a000000000000000000000002fd00000a0000000000000000000001009c400050000003e80000000050027210a2420000",
        ),
        (
            "6000000000140601fd00000a000000000000000000000002fd00000a0000000000000000000001009c480050000003e80000000050027210a23a0000",
            IcmpError::TimeExceeded,
            "6000000000443a40fd00000a000000000000000000000100fd00000a00000000000000000000000203009b6e000000006000000000140601fd00000a000000000000000000000002fd00000a0000000000000000000001009c480050000003e80000000050027210a23a0000",
        ),
    ] {
        assert_eq!(built(&frame_of(packet), error, "fd00:a::100", 0), Ok(hex(expected)));
    }
}

/// dr_mtu: a packet of 1440 bytes towards a link of 1300; the kernel quotes 548 bytes.
#[test]
fn fragmentation_needed_quotes_576_bytes_as_they_are() {
    let mut frame = frame_of("450005a0100240003f0611f10a0000020a0000649c400050000003e90000000150107210e00f0000");
    frame.extend((0..1_400usize).map(|index| index as u8));
    let got = built(&frame, IcmpError::FragmentationNeeded { mtu: 1_300 }, VIP, 0x8a95).unwrap();
    let expected = hex("45c002408a9500004001d9020a0000640a000002030430bb00000514\
                        450005a0100240003f0611f10a0000020a0000649c400050000003e90000000150107210e00f0000");
    assert_eq!(got[..expected.len()], expected);
    assert_eq!((got.len(), &got[expected.len()..]), (576, &frame[54..14 + 548]));
}

/// v6_tun: a packet of 1461 bytes towards a tunnel; the kernel quotes 1232 bytes.
#[test]
fn packet_too_big_quotes_1280_bytes_as_they_are() {
    let mut frame = frame_of(
        "60000000058d063ffd00000a000000000000000000000002fd00000a0000000000000000000001009c400050000003e90000000150107210815c0000",
    );
    frame.extend((0..1_401usize).map(|index| index as u8));
    let got = built(&frame, IcmpError::FragmentationNeeded { mtu: 1_460 }, "fd00:a::100", 0).unwrap();
    let expected = hex(
        "6000000004d83a40fd00000a000000000000000000000100fd00000a00000000000000000000000202007ccd000005b4\
                        60000000058d063ffd00000a000000000000000000000002fd00000a000000000000000000000100",
    );
    assert_eq!(got[..expected.len()], expected);
    assert_eq!(got.len(), 1_280);
}

/// Observed of `net/ipv4/icmp.c`: the five TOS bits of RFC 1349 are kept, the precedence is raised.
#[test]
fn the_tos_bits_of_the_packet_are_kept_under_a_raised_precedence() {
    for (tos, expected) in [(0x00, 0xc0), (0xb8, 0xd8), (0xff, 0xde), (0x03, 0xc2)] {
        let frame = udp4("198.51.100.1:1 > 192.0.2.1:2").tos(tos).build();
        assert_eq!(built(&frame, IcmpError::PortUnreachable, VIP, 0).unwrap()[1], expected);
    }
}

#[test]
fn padding_and_vlan_tags_are_not_quoted() {
    let plain = udp4("198.51.100.1:1 > 192.0.2.1:2").payload(b"x");
    let dressed = plain.clone().vlan(3).padded_to(90).build();
    let expected = built(&plain.build(), IcmpError::PortUnreachable, VIP, 9);
    assert_eq!(built(&dressed, IcmpError::PortUnreachable, VIP, 9), expected);
}

#[test]
fn checksums_are_right_at_every_quoted_length() {
    for len in (0..40).chain(500..580).chain(1_180..1_300) {
        for (packet, source) in [
            (udp4("198.51.100.1:1 > 192.0.2.1:2"), VIP),
            (udp6("[2001:db8::1]:1 > [2001:db8::2]:2"), "2001:db8::2"),
        ] {
            let bytes = packet.payload_len(len).build();
            let mut frame = VecFrame::new(&bytes);
            icmp_error(
                &mut frame,
                &headers(&bytes),
                &ErrorMessage {
                    error: IcmpError::PortUnreachable,
                    source: source.parse().unwrap(),
                    identification: 1,
                    options: EchoedOptions::NONE,
                },
            )
            .unwrap();
            frame.bytes_mut()[12..14].copy_from_slice(&bytes[12..14]);
            assert_eq!(
                checksum_faults(frame.bytes()),
                Vec::<String>::new(),
                "{}",
                describe(frame.bytes())
            );
            let found = headers(frame.bytes());
            assert_eq!(
                (usize::from(found.packet_end), found.l3_offset),
                (frame.bytes().len(), 14)
            );
        }
    }
}

#[test]
fn what_must_not_be_answered_is_not() {
    let quoted = tcp4("192.0.2.1:80 > 198.51.100.1:7").build();
    let forbidden = [
        icmp4("198.51.100.1 > 192.0.2.1").icmp(3, 3, 0).payload(&quoted[14..]),
        icmp4("198.51.100.1 > 192.0.2.1").icmp(5, 1, 0).payload(&quoted[14..]),
        icmp4("198.51.100.1 > 192.0.2.1").icmp(40, 0, 0),
        icmp4("198.51.100.1 > 192.0.2.1").fragment(0, true).icmp(11, 0, 0),
        udp4("198.51.100.1:1 > 192.0.2.1:2").fragment(8, false).payload(&[0; 8]),
        udp4("0.0.0.0:68 > 192.0.2.1:67"),
        udp4("224.0.0.5:1 > 192.0.2.1:2"),
        udp4("127.0.0.1:1 > 192.0.2.1:2"),
        udp4("255.255.255.255:1 > 192.0.2.1:2"),
        udp4("198.51.100.1:1 > 224.0.0.5:2"),
        udp4("198.51.100.1:1 > 255.255.255.255:2"),
        udp4("198.51.100.1:1 > 192.0.2.1:2").dst_mac([0xff; 6]),
        udp4("198.51.100.1:1 > 192.0.2.1:2").dst_mac([0x01, 0, 0x5e, 0, 0, 1]),
    ];
    for packet in forbidden {
        let frame = packet.build();
        assert_eq!(
            built(&frame, IcmpError::TimeExceeded, VIP, 0),
            Err(DropReason::IcmpForbidden),
            "{}",
            describe(&frame)
        );
    }
    let forbidden6: [PacketBuilder; 6] = [
        icmp6("2001:db8::1 > 2001:db8::2").icmp(1, 4, 0).payload(&[0; 40]),
        icmp6("2001:db8::1 > 2001:db8::2").icmp(137, 0, 0),
        tcp6("[2001:db8::1]:1 > [2001:db8::2]:2")
            .fragment(8, true)
            .payload(&[0; 8]),
        udp6("[::]:1 > [2001:db8::2]:2"),
        udp6("[ff02::1]:1 > [2001:db8::2]:2"),
        udp6("[2001:db8::1]:1 > [ff02::1]:2"),
    ];
    for packet in forbidden6 {
        let frame = packet.build();
        let answer = built(&frame, IcmpError::TimeExceeded, "2001:db8::2", 0);
        assert_eq!(answer, Err(DropReason::IcmpForbidden), "{}", describe(&frame));
    }
}

#[test]
fn an_echo_request_and_a_first_fragment_are_answered() {
    assert!(
        built(
            &icmp4("198.51.100.1 > 192.0.2.1").build(),
            IcmpError::TimeExceeded,
            VIP,
            0
        )
        .is_ok()
    );
    assert!(
        built(
            &icmp6("2001:db8::1 > 2001:db8::2").build(),
            IcmpError::TimeExceeded,
            "2001:db8::2",
            0
        )
        .is_ok()
    );
    let first = udp4("198.51.100.1:1 > 192.0.2.1:2")
        .fragment(0, true)
        .payload_len(16)
        .build();
    assert!(built(&first, IcmpError::TimeExceeded, VIP, 0).is_ok());
}

#[test]
fn no_headroom_is_named() {
    let bytes = udp4("198.51.100.1:1 > 192.0.2.1:2").build();
    let mut frame = VecFrame::with_headroom(&bytes, 27, 0);
    let refused = icmp_error(
        &mut frame,
        &headers(&bytes),
        &ErrorMessage {
            error: IcmpError::TimeExceeded,
            source: VIP.parse().unwrap(),
            identification: 0,
            options: EchoedOptions::NONE,
        },
    );
    assert_eq!(refused, Err(DropReason::NoHeadroom));
}
