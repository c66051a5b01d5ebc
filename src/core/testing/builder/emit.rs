//! The bytes of a described packet, from the inside out.

use std::net::IpAddr;

use zerocopy::IntoBytes;
use zerocopy::network_endian::{U16, U32};

use super::{Checksum, PacketBuilder};
use crate::address::{Addr4, Addr6};
use crate::testing::oracle::{crc32c, internet_checksum};
use crate::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetHeader};
use crate::wire::icmp::IcmpHeader;
use crate::wire::ipv4::{DONT_FRAGMENT, Ipv4Header, MORE_FRAGMENTS};
use crate::wire::ipv6::{FragmentHeader, Ipv6Header, NEXT_FRAGMENT};
use crate::wire::sctp::{self, SctpHeader};
use crate::wire::tcp::{self, TcpHeader};
use crate::wire::udp::{self, UdpHeader};
use crate::wire::vlan::VlanTag;

pub(super) fn frame(packet: &PacketBuilder) -> Vec<u8> {
    let segment = match packet.fragment {
        Some((offset, _)) if offset > 0 => packet.payload.clone(),
        _ => segment(packet),
    };
    let (ethertype, ip) = match (packet.src.ip(), packet.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => (
            ETHERTYPE_IPV4,
            ipv4(packet, Addr4(src.octets()), Addr4(dst.octets()), &segment),
        ),
        (IpAddr::V6(src), IpAddr::V6(dst)) => (
            ETHERTYPE_IPV6,
            ipv6(packet, Addr6(src.octets()), Addr6(dst.octets()), &segment),
        ),
        _ => unreachable!("both ends are of one family"),
    };
    let mut frame = [packet.dst_mac, packet.src_mac].concat();
    for (tag_ethertype, id) in &packet.tags {
        frame.extend_from_slice(&tag_ethertype.to_be_bytes());
        frame.extend_from_slice(&id.to_be_bytes());
    }
    frame.extend_from_slice(&ethertype.to_be_bytes());
    debug_assert_eq!(frame.len(), EthernetHeader::LEN + packet.tags.len() * VlanTag::LEN);
    frame.extend_from_slice(&ip);
    frame.resize(frame.len().max(packet.frame_min), 0);
    frame
}

fn ipv4(packet: &PacketBuilder, src: Addr4, dst: Addr4, segment: &[u8]) -> Vec<u8> {
    let options_len = packet.ip_options.len().next_multiple_of(4);
    let header_len = Ipv4Header::LEN + options_len;
    let (offset, more) = packet.fragment.unwrap_or_default();
    let flags = if packet.dont_fragment { DONT_FRAGMENT } else { 0 } | if more { MORE_FRAGMENTS } else { 0 };
    let header = Ipv4Header {
        version_ihl: 0x40 | (header_len / 4) as u8,
        tos: packet.tos,
        total_len: U16::new(length(header_len + segment.len())),
        identification: U16::new(packet.identification),
        flags_offset: U16::new(flags | (offset / 8)),
        ttl: packet.ttl,
        protocol: packet.protocol,
        checksum: U16::ZERO,
        src,
        dst,
    };
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(&packet.ip_options);
    bytes.resize(header_len, 0);
    let wrong = u16::from(packet.is_header_checksum_wrong);
    let checksum = internet_checksum(&[&bytes]) ^ wrong;
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    bytes.extend_from_slice(segment);
    bytes
}

fn ipv6(packet: &PacketBuilder, src: Addr6, dst: Addr6, segment: &[u8]) -> Vec<u8> {
    let mut extensions = packet.extensions.clone();
    if packet.atomic || packet.fragment.is_some() {
        let (offset, more) = packet.fragment.unwrap_or_default();
        let header = FragmentHeader {
            next_header: 0,
            reserved: 0,
            offset_more: U16::new(offset | u16::from(more)),
            identification: U32::new(packet.identification.into()),
        };
        extensions.push((NEXT_FRAGMENT, header.as_bytes().to_vec()));
    }
    // Each header names the one behind it.
    let mut next_header = packet.protocol;
    for (kind, bytes) in extensions.iter_mut().rev() {
        bytes[0] = std::mem::replace(&mut next_header, *kind);
    }
    let payload: Vec<u8> = extensions
        .into_iter()
        .flat_map(|(_, bytes)| bytes)
        .chain(segment.iter().copied())
        .collect();
    let header = Ipv6Header {
        version_class_flow: U32::new(6 << 28 | u32::from(packet.tos) << 20 | packet.flow_label),
        payload_len: U16::new(length(payload.len())),
        next_header,
        hop_limit: packet.ttl,
        src,
        dst,
    };
    [header.as_bytes(), &payload].concat()
}

/// L4 header and payload.
fn segment(packet: &PacketBuilder) -> Vec<u8> {
    let (src_port, dst_port) = (U16::new(packet.src.port()), U16::new(packet.dst.port()));
    let (header, checksum_offset) = match packet.protocol {
        tcp::PROTOCOL => (tcp_header(packet), Some(16)),
        udp::PROTOCOL => {
            let len = U16::new(length(UdpHeader::LEN + packet.payload.len()));
            (
                UdpHeader {
                    src_port,
                    dst_port,
                    len,
                    checksum: U16::ZERO,
                }
                .as_bytes()
                .to_vec(),
                Some(6),
            )
        }
        sctp::PROTOCOL => {
            let header = SctpHeader {
                src_port,
                dst_port,
                verification_tag: U32::new(1),
                checksum: [0; 4],
            };
            (header.as_bytes().to_vec(), None)
        }
        _ => {
            let (kind, code, rest) = packet.icmp;
            (
                IcmpHeader {
                    kind,
                    code,
                    checksum: U16::ZERO,
                    rest: U32::new(rest),
                }
                .as_bytes()
                .to_vec(),
                Some(2),
            )
        }
    };
    let mut segment = [header.as_slice(), &packet.payload].concat();
    let Some(offset) = checksum_offset else {
        if packet.checksum != Checksum::Absent {
            let wrong = u32::from(packet.checksum == Checksum::Wrong);
            let crc = crc32c(&segment) ^ wrong;
            segment[8..12].copy_from_slice(&crc.to_le_bytes());
        }
        return segment;
    };
    let checksum = match packet.checksum {
        Checksum::Absent => 0,
        Checksum::Right => right_checksum(packet, &segment),
        // Neither right nor, with UDP, absent.
        Checksum::Wrong if right_checksum(packet, &segment) == 0x0bad => 0x0bae,
        Checksum::Wrong => 0x0bad,
    };
    segment[offset..offset + 2].copy_from_slice(&checksum.to_be_bytes());
    segment
}

fn tcp_header(packet: &PacketBuilder) -> Vec<u8> {
    let tcp = &packet.tcp;
    let header_len = TcpHeader::LEN + tcp.options.len().next_multiple_of(4);
    assert!(header_len <= 60, "too many TCP options");
    let header = TcpHeader {
        src_port: U16::new(packet.src.port()),
        dst_port: U16::new(packet.dst.port()),
        sequence: U32::new(tcp.sequence),
        acknowledgement: U32::new(tcp.acknowledgement),
        data_offset: ((header_len / 4) << 4) as u8,
        flags: tcp.flags,
        window: U16::new(tcp.window),
        checksum: U16::ZERO,
        urgent: U16::ZERO,
    };
    let mut bytes = [header.as_bytes(), &tcp.options].concat();
    bytes.resize(header_len, 0);
    bytes
}

fn right_checksum(packet: &PacketBuilder, segment: &[u8]) -> u16 {
    let pseudo = match (packet.src.ip(), packet.dst.ip()) {
        (IpAddr::V4(_), _) if packet.protocol == crate::wire::icmp::PROTOCOL_V4 => Vec::new(),
        (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
        (IpAddr::V6(src), IpAddr::V6(dst)) => [src.octets(), dst.octets()].concat(),
        _ => unreachable!("both ends are of one family"),
    };
    let tail = [&[0, packet.protocol], length(segment.len()).to_be_bytes().as_slice()].concat();
    let tail = if pseudo.is_empty() { &[][..] } else { &tail };
    match internet_checksum(&[&pseudo, tail, segment]) {
        0 if packet.protocol == udp::PROTOCOL => 0xffff,
        checksum => checksum,
    }
}

fn length(len: usize) -> u16 {
    u16::try_from(len).expect("a packet of at most 65,535 bytes")
}
