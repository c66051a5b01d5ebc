//! Parsing: every header alone, damaged frames by the million.

use super::*;
use crate::address::{Addr4, Addr6, Address};
use crate::frame::vec::VecFrame;
use crate::ipvs::tunnel_kind::{GueChecksum, TunnelKind};
use crate::path::forward::rewrite;
use crate::path::forward::tunnel::encapsulate;
use crate::path::icmp::build::{ErrorMessage, IcmpError, icmp_error};
use crate::random::Random;
use crate::testing::{PacketBuilder, checksum_faults, describe, hex, icmp4, icmp6, sctp4, tcp4, tcp6, udp4, udp6};

const ENDS4: &str = "198.51.100.1:40000 > 192.0.2.1:80";
const ENDS6: &str = "[2001:db8::1]:40000 > [2001:db8:1::2]:80";

fn headers(frame: &[u8]) -> Headers {
    match parse(frame) {
        Ok(Parsed::Ip(headers, _)) => headers,
        other => panic!("{other:?}: {}", describe(frame)),
    }
}

fn flow4(src: [u8; 4], src_port: u16, dst: [u8; 4], dst_port: u16, protocol: u8) -> Flow {
    let (src, dst) = (Endpoint::new(Addr4(src), src_port), Endpoint::new(Addr4(dst), dst_port));
    Flow::V4(FlowKey { src, dst, protocol })
}

fn reason(frame: &[u8]) -> DropReason {
    parse(frame).expect_err("a frame that is dropped")
}

/// The frame with one byte set.
fn with(frame: &[u8], offset: usize, value: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[offset] = value;
    frame
}

#[test]
fn everything_about_a_plain_tcp_packet_is_found() {
    let frame = tcp4(ENDS4)
        .syn()
        .ack()
        .ttl(17)
        .dont_fragment()
        .payload(b"data")
        .padded_to(60)
        .build();
    let expected = Headers {
        l3_offset: 14,
        l4_offset: 34,
        packet_end: 58,
        family: AddressFamily::Ipv4,
        protocol: 6,
        vlan: 0,
        ttl: 17,
        tcp_flags: tcp::SYN | tcp::ACK,
        sctp_chunk: 0,
        fragment: Fragment::Whole,
        dont_fragment: true,
    };
    let flow = flow4([198, 51, 100, 1], 40_000, [192, 0, 2, 1], 80, 6);
    assert_eq!(parse(&frame), Ok(Parsed::Ip(expected, flow)));
}

#[test]
fn everything_about_an_ipv6_packet_is_found() {
    let frame = tcp6(ENDS6).fin().ttl(9).payload(b"data").vlan(7).build();
    let expected = Headers {
        l3_offset: 18,
        l4_offset: 58,
        packet_end: 82,
        family: AddressFamily::Ipv6,
        protocol: 6,
        vlan: 7,
        ttl: 9,
        tcp_flags: tcp::FIN,
        sctp_chunk: 0,
        fragment: Fragment::Whole,
        dont_fragment: true,
    };
    let Ok(Parsed::Ip(headers, Flow::V6(flow))) = parse(&frame) else {
        panic!("{}", describe(&frame))
    };
    assert_eq!(headers, expected);
    assert_eq!(
        (flow.src.addr.to_ip().to_string(), flow.src.port),
        ("2001:db8::1".into(), 40_000)
    );
    assert_eq!(
        (flow.dst.addr.to_ip().to_string(), flow.dst.port),
        ("2001:db8:1::2".into(), 80)
    );
}

#[test]
fn ports_are_those_of_udp_and_sctp_and_zero_for_other_protocols() {
    let ports = |frame: Vec<u8>| match parse(&frame) {
        Ok(Parsed::Ip(_, Flow::V4(flow))) => (flow.src.port, flow.dst.port, flow.protocol),
        other => panic!("{other:?}"),
    };
    assert_eq!(ports(udp4(ENDS4).padded_to(60).build()), (40_000, 80, 17));
    assert_eq!(ports(udp4(ENDS4).build()), (40_000, 80, 17));
    assert_eq!(ports(sctp4(ENDS4).payload(b"chnk").build()), (40_000, 80, 132));
    assert_eq!(ports(icmp4("198.51.100.1 > 192.0.2.1").build()), (0, 0, 1));
}

#[test]
fn two_vlan_tags_are_walked_and_a_third_is_too_many() {
    let single = headers(&tcp4(ENDS4).vlan(7).build());
    assert_eq!((single.l3_offset, single.l4_offset, single.vlan), (18, 38, 7));
    let double = headers(&tcp4(ENDS4).service_vlan(100).vlan(7).build());
    assert_eq!((double.l3_offset, double.l4_offset, double.vlan), (22, 42, 100));
    assert_eq!(headers(&tcp4(ENDS4).vlan(0).build()).vlan, 0);
    assert_eq!(
        reason(&tcp4(ENDS4).vlan(1).vlan(2).vlan(3).build()),
        DropReason::TooManyHeaders
    );
    assert_eq!(reason(&tcp4(ENDS4).vlan(1).build()[..17]), DropReason::Truncated);
}

#[test]
fn what_is_not_ip_is_the_kernels() {
    let arp = hex("ffffffffffff020000000102080600010800060400010200000001020a0000020000000000000a000064");
    assert_eq!(parse(&arp), Ok(Parsed::Other));
    let tagged_lldp = hex("0180c200000e02000000010281000007 88cc 0207");
    assert_eq!(parse(&tagged_lldp), Ok(Parsed::Other));
    // A bridge's hello: 802.3 with a length.
    let stp = hex("0180c20000000200000001020026 424203 0000000000");
    assert_eq!(parse(&stp), Ok(Parsed::Other));
    assert_eq!(reason(&arp[..13]), DropReason::Truncated);
}

#[test]
fn ipv4_options_move_the_segment() {
    let found = headers(&tcp4(ENDS4).ip_options(&[0x94, 4, 0, 0, 1]).build());
    assert_eq!((found.l4_offset, found.packet_end), (42, 62));
}

#[test]
fn a_wrong_ipv4_header_checksum_is_dropped_with_and_without_options() {
    assert_eq!(
        reason(&tcp4(ENDS4).wrong_header_checksum().build()),
        DropReason::Ipv4Checksum
    );
    let with_options = tcp4(ENDS4).ip_options(&[1, 1, 1, 1]).wrong_header_checksum().build();
    assert_eq!(reason(&with_options), DropReason::Ipv4Checksum);
}

#[test]
fn a_wrong_tcp_or_udp_checksum_is_nobodys_business() {
    headers(&tcp4(ENDS4).wrong_checksum().build());
    headers(&udp6(ENDS6).wrong_checksum().build());
}

#[test]
fn a_frame_cut_anywhere_is_truncated() {
    let frames = [
        tcp4(ENDS4).mss(1460).payload(b"12").build(),
        tcp6(ENDS6).hop_by_hop(8).vlan(5).build(),
        udp4(ENDS4).ip_options(&[1]).payload(b"1").build(),
        sctp4(ENDS4).build(),
        icmp6("2001:db8::1 > 2001:db8::2").build(),
    ];
    for frame in frames {
        for len in 0..frame.len() {
            assert_eq!(
                reason(&frame[..len]),
                DropReason::Truncated,
                "{len} bytes of {}",
                describe(&frame)
            );
        }
    }
}

#[test]
fn an_ip_packet_too_short_for_its_protocol_is_truncated() {
    // The IP lengths are consistent; the segment is not all there.
    let later_as_whole = |packet: PacketBuilder| {
        let mut frame = packet.fragment(8, false).build();
        (frame[20], frame[21], frame[25]) = (0, 0, frame[25] + 1);
        frame
    };
    assert_eq!(
        reason(&later_as_whole(tcp4(ENDS4).payload(&[0x50; 19]))),
        DropReason::Truncated
    );
    assert_eq!(
        reason(&later_as_whole(udp4(ENDS4).payload(&[0; 7]))),
        DropReason::Truncated
    );
    assert_eq!(
        reason(&later_as_whole(sctp4(ENDS4).payload(&[0; 11]))),
        DropReason::Truncated
    );
    headers(&later_as_whole(udp4(ENDS4).payload(&[0; 8])));
}

/// malformed: the kernel forwards all three.
#[test]
fn a_tcp_header_is_believed_to_be_there_wherever_it_says_it_ends() {
    let data_offset = 14 + 20 + 12;
    for built in [tcp4(ENDS4).ack(), tcp4(ENDS4).ack().padded_to(70)] {
        for offset in [0x00, 0x40, 0x60] {
            let frame = with(&built.build(), data_offset, offset);
            assert_eq!(headers(&frame).packet_end, 54);
        }
    }
}

/// fragments_modes: the kernel puts them together.
#[test]
fn a_first_fragment_may_be_shorter_than_the_header_above_it() {
    let frame = tcp4(ENDS4).syn().fragment(0, true).build();
    for len in [14 + 20 + 8, 14 + 20 + 16] {
        let mut cut = frame[..len].to_vec();
        cut[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
        let checksum = !lvs_checksum(&cut[14..24], &cut[26..34]);
        cut[24..26].copy_from_slice(&checksum.to_be_bytes());
        assert!(matches!(parse(&cut), Ok(Parsed::Ip(headers, _)) if headers.fragment == Fragment::First));
    }
}

fn lvs_checksum(before: &[u8], behind: &[u8]) -> u16 {
    crate::wire::checksum::add(crate::wire::checksum::sum(before), crate::wire::checksum::sum(behind))
}

/// nat_udp_checksums: the kernel forwards both, so the length is not looked at.
#[test]
fn udp_lengths_that_contradict_the_packet_are_passed_on() {
    let shorter = "0200000000010200000001020800 4500002110074000401116600a0000020a000064c35000350008d8057175657279";
    let longer = "0200000000010200000001020800 45000021100840004011165f0a0000020a000064c350003500c8d7457175657279";
    for frame in [shorter, longer] {
        assert_eq!(headers(&hex(frame)).packet_end, 47);
    }
}

#[test]
fn fragments_of_ipv4_are_told_apart() {
    let first = tcp4(ENDS4).fragment(0, true).payload_len(64).build();
    assert_eq!(headers(&first).fragment, Fragment::First);
    assert!(matches!(parse(&first), Ok(Parsed::Ip(_, Flow::V4(flow))) if flow.dst.port == 80));
    for more in [true, false] {
        let later = udp4(ENDS4).fragment(1_480, more).payload_len(3).build();
        assert_eq!(
            (headers(&later).fragment, headers(&later).l4_offset),
            (Fragment::Later, 34)
        );
        assert!(matches!(parse(&later), Ok(Parsed::Ip(_, Flow::V4(flow))) if (flow.src.port, flow.dst.port) == (0, 0)));
    }
}

#[test]
fn every_extension_header_is_walked_to_the_segment() {
    let frame = tcp6(ENDS6)
        .hop_by_hop(16)
        .destination_options(8)
        .routing()
        .authentication(12)
        .syn()
        .build();
    let found = headers(&frame);
    assert_eq!(
        (found.protocol, found.l4_offset, found.tcp_flags),
        (6, 14 + 40 + 16 + 8 + 8 + 24, tcp::SYN)
    );
    assert!(matches!(parse(&frame), Ok(Parsed::Ip(_, Flow::V6(flow))) if flow.dst.port == 80 && flow.protocol == 6));
}

#[test]
fn as_many_extension_headers_as_the_limit_and_no_more() {
    let chain = |count: usize| {
        (0..count)
            .fold(udp6(ENDS6), |packet, _| packet.destination_options(8))
            .build()
    };
    assert_eq!(headers(&chain(crate::limits::IPV6_EXTENSIONS_MAX)).protocol, 17);
    assert_eq!(
        reason(&chain(crate::limits::IPV6_EXTENSIONS_MAX + 1)),
        DropReason::TooManyHeaders
    );
}

#[test]
fn fragments_of_ipv6_are_told_apart_and_an_atomic_one_too() {
    let first = headers(&udp6(ENDS6).fragment(0, true).payload_len(64).build());
    assert_eq!(
        (first.fragment, first.l4_offset, first.protocol),
        (Fragment::First, 62, 17)
    );
    let later = udp6(ENDS6).fragment(64, false).payload_len(64).build();
    assert_eq!(
        (headers(&later).fragment, headers(&later).protocol),
        (Fragment::Later, 17)
    );
    assert!(matches!(parse(&later), Ok(Parsed::Ip(_, Flow::V6(flow))) if (flow.src.port, flow.dst.port) == (0, 0)));
    let atomic = headers(&udp6(ENDS6).atomic_fragment().build());
    assert_eq!((atomic.fragment, atomic.l4_offset), (Fragment::Atomic, 62));
}

#[test]
fn ipv6_lengths_that_contradict_themselves_are_dropped() {
    let frame = tcp6(ENDS6).hop_by_hop(8).build();
    assert_eq!(reason(&with(&frame, 14 + 5, 0)), DropReason::Malformed, "a jumbogram");
    assert_eq!(
        reason(&with(&frame, 14 + 41, 9)),
        DropReason::Truncated,
        "an extension beyond the packet"
    );
    assert_eq!(
        reason(&with(&frame, 14, 0x45)),
        DropReason::Malformed,
        "another version"
    );
    // Nothing at all follows the header: legal.
    let mut nothing = tcp6(ENDS6).build();
    (nothing[14 + 5], nothing[14 + 6]) = (0, crate::wire::ipv6::NEXT_NONE);
    let found = headers(&nothing);
    assert_eq!((found.protocol, found.l4_offset, found.packet_end), (59, 54, 54));
}

#[test]
fn a_packet_beyond_what_offsets_can_say_is_refused() {
    let frame = udp4(ENDS4).payload_len(65_507).build();
    assert_eq!(reason(&frame), DropReason::MultiSegment);
    assert_eq!(headers(&udp4(ENDS4).payload_len(65_493).build()).packet_end, 65_535);
}

/// Frames of every kind, to be damaged.
fn seeds() -> Vec<Vec<u8>> {
    let quoted = tcp4(ENDS4).syn().build();
    let quoted6 = udp6(ENDS6).destination_options(8).payload_len(40).build();
    let packets = [
        tcp4(ENDS4).syn().mss(1460),
        tcp4(ENDS4).ack().payload_len(60),
        tcp4(ENDS4).ack().vlan(7).padded_to(64),
        tcp4(ENDS4).ack().service_vlan(9).vlan(7),
        tcp4(ENDS4).ip_options(&[1, 7, 3, 4]),
        tcp4(ENDS4).fragment(0, true).payload_len(24),
        tcp4(ENDS4).fragment(24, false).payload_len(24),
        udp4(ENDS4).payload_len(9).padded_to(60),
        udp4(ENDS4).without_checksum().payload_len(30),
        sctp4(ENDS4).payload_len(20),
        icmp4("198.51.100.1 > 192.0.2.1").payload_len(32),
        icmp4("198.51.100.1 > 192.0.2.1")
            .icmp(3, 4, 1_400)
            .payload(&quoted[14..]),
        tcp6(ENDS6).syn().mss(1440),
        tcp6(ENDS6)
            .hop_by_hop(8)
            .routing()
            .destination_options(16)
            .authentication(12),
        udp6(ENDS6).payload_len(10).vlan(3),
        udp6(ENDS6).fragment(0, true).payload_len(16),
        udp6(ENDS6).fragment(16, true).payload_len(16),
        udp6(ENDS6).atomic_fragment().payload_len(16),
        icmp6("2001:db8::1 > 2001:db8::2").payload_len(16),
        icmp6("2001:db8::1 > 2001:db8::2").icmp(1, 4, 0).payload(&quoted6[14..]),
    ];
    packets.iter().map(PacketBuilder::build).collect()
}

/// Damages `frame`: flips bytes, most of them in headers, cuts it, and often makes the IPv4 checksum right again.
fn damage(frame: &mut Vec<u8>, random: &mut Random) {
    let mut bits = random.next_u64();
    let mut take = |count: u32| {
        let taken = bits & ((1 << count) - 1);
        bits >>= count;
        taken as usize
    };
    for _ in 0..take(2) {
        let (offset, value) = (take(6), take(8) as u8);
        if let Some(byte) = frame.get_mut(12 + offset) {
            *byte = value;
        }
    }
    if take(2) == 0 {
        frame.truncate(take(7));
    }
    if take(1) == 0 && frame.len() >= 34 && frame[12..14] == [8, 0] {
        let header_len = (usize::from(frame[14] & 15) * 4).clamp(20, frame.len() - 14);
        let header = &mut frame[14..14 + header_len];
        header[10..12].fill(0);
        let checksum = !crate::wire::checksum::sum(header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn assert_sound(frame: &[u8]) -> Option<Headers> {
    let parsed = parse(frame);
    // The straight line agrees with the long way round.
    assert_eq!(parsed, parse_any(frame), "{}", describe(frame));
    let Ok(Parsed::Ip(headers, _)) = parsed else {
        return None;
    };
    let (l3, l4, end) = (headers.l3_offset, headers.l4_offset, headers.packet_end);
    assert!(
        l3 < l4 && l4 <= end && usize::from(end) <= frame.len(),
        "{headers:?}: {}",
        describe(frame)
    );
    Some(headers)
}

#[test]
fn a_million_damaged_frames_never_panic_and_never_give_offsets_outside_the_frame() {
    let seeds = seeds();
    let mut random = Random::new(0x5eed);
    let mut frame = Vec::new();
    let mut survivors = 0;
    for round in 0..1_000_000u32 {
        frame.clear();
        if round % 8 == 0 {
            frame.extend((0..16).flat_map(|_| random.next_u64().to_le_bytes()));
            // Random bytes hardly ever say what they are.
            frame[12..14].copy_from_slice(if round % 16 == 0 { &[8, 0] } else { &[0x86, 0xdd] });
        } else {
            frame.extend_from_slice(&seeds[random.below(seeds.len() as u32) as usize]);
        }
        damage(&mut frame, &mut random);
        if round % 64 == 0 {
            assert!(!describe(&frame).is_empty());
        }
        if let Some(headers) = assert_sound(&frame) {
            survivors += 1;
            if survivors % 16 == 0 {
                push_on(&frame, &headers);
            }
        }
    }
    assert!(
        (200_000..900_000).contains(&survivors),
        "{survivors} of a million survive: nothing is tested"
    );
}

/// Nothing behind parse may panic either.
fn push_on(frame: &[u8], headers: &Headers) {
    let _ = embedded(frame, headers);
    let _ = (describe(frame), checksum_faults(frame));
    let mut rewritten = frame.to_vec();
    match headers.family {
        AddressFamily::Ipv4 => rewrite::apply(&mut rewritten, headers, &any_rewrite(Addr4([192, 0, 2, 9]))),
        AddressFamily::Ipv6 => rewrite::apply(&mut rewritten, headers, &any_rewrite(Addr6([0x20; 16]))),
    }
    assert_eq!(rewritten.len(), frame.len());
    let (source4, source6) = ("192.0.2.1".parse().unwrap(), "2001:db8::9".parse().unwrap());
    let mut tunnelled = VecFrame::new(frame);
    let outer = encapsulate::Outer {
        kind: TunnelKind::Gue {
            port: 6080,
            checksum: GueChecksum::Full,
        },
        src: source6,
        dst: source6,
        identification: 1,
        src_port: 2,
        pmtu_disc: true,
    };
    encapsulate::encapsulate(&mut tunnelled, headers, &outer).unwrap();
    let source = if headers.family == AddressFamily::Ipv4 {
        source4
    } else {
        source6
    };
    let message = ErrorMessage {
        error: IcmpError::TimeExceeded,
        source,
        identification: 1,
        options: crate::wire::ipv4_options::EchoedOptions::NONE,
    };
    let _ = icmp_error(&mut VecFrame::new(frame), headers, &message);
}

fn any_rewrite<A: Address>(addr: A) -> rewrite::Rewrite<A> {
    rewrite::Rewrite {
        src: Endpoint::new(addr, 1),
        dst: Endpoint::new(addr, 2),
        l3_delta: 3,
        l4_delta: 4,
    }
}
