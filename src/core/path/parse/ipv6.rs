//! Stage 1 for IPv6: the walk over the extension headers.
//!
//! In:  an IPv6 packet and its place in the frame.
//! Out: as `parse`; the protocol is the one behind all extension headers.
//! Never: walks more than [`IPV6_EXTENSIONS_MAX`] headers.
//! Ref:  RFC 8200 4, RFC 6946 (atomic fragments); Linux net/ipv6/exthdrs_core.c `ipv6_find_hdr`.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::{Parsed, Place, Upper, tcp_flags_of};
use crate::address::{Addr6, AddressFamily, Endpoint, FlowKey};
use crate::headers::{Flow, Fragment, Headers};
use crate::limits::IPV6_EXTENSIONS_MAX;
use crate::verdict::DropReason;
use crate::wire::ethernet::{ETHERTYPE_IPV6, EthernetHeader};
use crate::wire::ipv6::{
    ExtensionHeader, FragmentHeader, Ipv6Header, NEXT_AUTHENTICATION, NEXT_DESTINATION, NEXT_FRAGMENT, NEXT_HOP_BY_HOP,
    NEXT_ROUTING,
};
use crate::wire::tcp::TcpHeader;

/// What nearly every frame begins with.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FastFrame6 {
    ethernet: EthernetHeader,
    ip: Ipv6Header,
    tcp: TcpHeader,
}

/// A whole TCP or UDP packet over IPv6 without VLAN tag and extension headers that was sent to `mac`, if it is one and
/// nothing is wrong with it.
#[inline(always)]
pub(crate) fn fast_v6(frame: &[u8], mac: [u8; 6]) -> Option<(Headers, FlowKey<Addr6>)> {
    const L4_OFFSET: usize = EthernetHeader::LEN + Ipv6Header::LEN;
    let (plain, _) = FastFrame6::ref_from_prefix(frame).ok()?;
    let ip = &plain.ip;
    let segment_len = usize::from(ip.payload_len.get());
    let packet_end = u16::try_from(L4_OFFSET + segment_len).ok()?;
    let is_plain = plain.ethernet.dst == mac
        && plain.ethernet.ethertype.get() == ETHERTYPE_IPV6
        && ip.version() == 6
        && usize::from(packet_end) <= frame.len();
    if !is_plain {
        return None;
    }
    let headers = Headers {
        l3_offset: EthernetHeader::LEN as u16,
        l4_offset: L4_OFFSET as u16,
        packet_end,
        family: AddressFamily::Ipv6,
        protocol: ip.next_header,
        vlan: 0,
        ttl: ip.hop_limit,
        tcp_flags: tcp_flags_of(ip.next_header, &plain.tcp, segment_len)?,
        sctp_chunk: 0,
        fragment: Fragment::Whole,
        dont_fragment: true,
    };
    let flow = FlowKey {
        src: Endpoint::new(ip.src, plain.tcp.src_port.get()),
        dst: Endpoint::new(ip.dst, plain.tcp.dst_port.get()),
        protocol: ip.next_header,
    };
    Some((headers, flow))
}

pub(super) fn parse(packet: &[u8], place: Place) -> Result<Parsed, DropReason> {
    let ip = Ipv6Header::check(packet)?;
    let packet_len = Ipv6Header::LEN + usize::from(ip.payload_len.get());
    let payload = packet.get(Ipv6Header::LEN..packet_len).ok_or(DropReason::Truncated)?;
    let end = walk(ip.next_header, payload)?;
    let upper = Upper::parse(end.protocol, end.fragment, end.segment)?;
    let headers = Headers {
        l3_offset: place.in_frame(0)?,
        l4_offset: place.in_frame(packet_len - end.segment.len())?,
        packet_end: place.in_frame(packet_len)?,
        family: AddressFamily::Ipv6,
        protocol: end.protocol,
        vlan: place.vlan,
        ttl: ip.hop_limit,
        tcp_flags: upper.tcp_flags,
        sctp_chunk: upper.sctp_chunk,
        fragment: end.fragment,
        dont_fragment: true,
    };
    let flow = FlowKey {
        src: Endpoint::new(ip.src, upper.src_port),
        dst: Endpoint::new(ip.dst, upper.dst_port),
        protocol: end.protocol,
    };
    Ok(Parsed::Ip(headers, Flow::V6(flow)))
}

/// Where the extension headers end.
pub(super) struct ChainEnd<'p> {
    pub(super) protocol: u8,
    pub(super) fragment: Fragment,
    pub(super) segment: &'p [u8],
}

/// Walks `payload`, which begins with the header named by `next_header`. Behind the header of a later fragment
/// nothing is a header any more.
pub(super) fn walk(next_header: u8, payload: &[u8]) -> Result<ChainEnd<'_>, DropReason> {
    let mut end = ChainEnd {
        protocol: next_header,
        fragment: Fragment::Whole,
        segment: payload,
    };
    for _ in 0..=IPV6_EXTENSIONS_MAX {
        let len = match end.protocol {
            NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_DESTINATION => extension(end.segment)?.options_len(),
            NEXT_AUTHENTICATION => extension(end.segment)?.authentication_len(),
            NEXT_FRAGMENT => {
                let (header, _) = FragmentHeader::ref_from_prefix(end.segment).map_err(|_| DropReason::Truncated)?;
                end.fragment = match (header.offset(), header.more_fragments()) {
                    (0, false) => Fragment::Atomic,
                    (0, true) => Fragment::First,
                    _ => Fragment::Later,
                };
                FragmentHeader::LEN
            }
            _ => return Ok(end),
        };
        end.protocol = extension(end.segment)?.next_header;
        end.segment = end.segment.get(len..).ok_or(DropReason::Truncated)?;
        if end.fragment == Fragment::Later {
            return Ok(end);
        }
    }
    Err(DropReason::TooManyHeaders)
}

fn extension(segment: &[u8]) -> Result<&ExtensionHeader, DropReason> {
    match ExtensionHeader::ref_from_prefix(segment) {
        Ok((header, _)) => Ok(header),
        Err(_) => Err(DropReason::Truncated),
    }
}
