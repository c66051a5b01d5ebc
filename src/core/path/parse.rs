//! Stage 1: what is it?
//!
//! In:  the bytes of a frame.
//! Out: [`Headers`] and [`Flow`] of an IP packet, or [`Parsed`]`::Other` for the kernel, or a named drop.
//! Never: changes the frame, believes a length that it has not compared with another one.
//! Ref:  RFC 791, RFC 1812 5.2.2, RFC 8200 4, IEEE 802.1Q; Linux `ip_rcv_core`, `ipv6_find_hdr`.

mod embedded;
mod ipv6;

use zerocopy::FromBytes;

pub(crate) use embedded::quoted_v4;
pub use embedded::{Embedded, embedded};
pub(crate) use ipv6::fast_v6;

use crate::address::{Addr4, AddressFamily, Endpoint, FlowKey};
use crate::headers::{Flow, Fragment, Headers};
use crate::limits::VLAN_TAGS_MAX;
use crate::verdict::DropReason;
use crate::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN, EthernetHeader};
use crate::wire::ipv4::{FRAGMENT_OFFSET_MASK, Ipv4Header, MORE_FRAGMENTS, VERSION_IHL_WITHOUT_OPTIONS};
use crate::wire::sctp::{self, SctpHeader};
use crate::wire::tcp::{self, TcpHeader};
use crate::wire::udp::{self, UdpHeader};
use crate::wire::vlan::VlanTag;

/// What a frame turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// An IP packet whose headers are consistent.
    Ip(Headers, Flow),
    /// ARP, LLDP, 802.3 and so on: the kernel's.
    Other,
}

/// What nearly every frame begins with; read behind one comparison of lengths.
#[derive(FromBytes, zerocopy::Immutable, zerocopy::KnownLayout, zerocopy::Unaligned)]
#[repr(C)]
struct FastFrame4 {
    ethernet: EthernetHeader,
    ip: Ipv4Header,
    tcp: TcpHeader,
}

/// See the module.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Parsed, DropReason> {
    let dst = frame.first_chunk().copied().unwrap_or_default();
    match fast_v4(frame, dst) {
        Some((headers, key)) => Ok(Parsed::Ip(headers, Flow::V4(key))),
        None => parse_any(frame),
    }
}

/// A whole TCP or UDP packet over IPv4 without VLAN tag and IP options that was sent to `mac`, if it is one and nothing
/// is wrong with it.
///
/// Inlined into the spine: what it finds stays in registers on its way to the family.
#[inline(always)]
pub(crate) fn fast_v4(frame: &[u8], mac: [u8; 6]) -> Option<(Headers, FlowKey<Addr4>)> {
    let (plain, _) = FastFrame4::ref_from_prefix(frame).ok()?;
    let ip = &plain.ip;
    let total_len = usize::from(ip.total_len.get());
    let packet_end = u16::try_from(EthernetHeader::LEN + total_len).ok()?;
    let segment_len = total_len.checked_sub(Ipv4Header::LEN)?;
    let is_plain = plain.ethernet.dst == mac
        && plain.ethernet.ethertype.get() == ETHERTYPE_IPV4
        && ip.version_ihl == VERSION_IHL_WITHOUT_OPTIONS
        && ip.flags_offset.get() & (MORE_FRAGMENTS | FRAGMENT_OFFSET_MASK) == 0
        && usize::from(packet_end) <= frame.len()
        && ip.is_checksum_valid_without_options();
    if !is_plain {
        return None;
    }
    let tcp_flags = tcp_flags_of(ip.protocol, &plain.tcp, segment_len)?;
    let headers = Headers {
        l3_offset: EthernetHeader::LEN as u16,
        l4_offset: (EthernetHeader::LEN + Ipv4Header::LEN) as u16,
        packet_end,
        family: AddressFamily::Ipv4,
        protocol: ip.protocol,
        vlan: 0,
        ttl: ip.ttl,
        tcp_flags,
        sctp_chunk: 0,
        fragment: Fragment::Whole,
        dont_fragment: ip.dont_fragment(),
    };
    let flow = FlowKey {
        src: Endpoint::new(ip.src, plain.tcp.src_port.get()),
        dst: Endpoint::new(ip.dst, plain.tcp.dst_port.get()),
        protocol: ip.protocol,
    };
    Some((headers, flow))
}

/// The flags of a TCP segment, 0 for a datagram of UDP; `None` for what is neither or does not fit its packet.
#[inline(always)]
fn tcp_flags_of(protocol: u8, tcp: &TcpHeader, segment_len: usize) -> Option<u8> {
    match protocol {
        tcp::PROTOCOL => {
            let header_len = tcp.header_len();
            (header_len >= TcpHeader::LEN && header_len <= segment_len).then_some(tcp.flags)
        }
        udp::PROTOCOL => (segment_len >= UdpHeader::LEN).then_some(0),
        _ => None,
    }
}

/// Every other frame.
#[inline(never)]
fn parse_any(frame: &[u8]) -> Result<Parsed, DropReason> {
    let (ethernet, mut rest) = EthernetHeader::ref_from_prefix(frame).map_err(|_| DropReason::Truncated)?;
    let mut ethertype = ethernet.ethertype.get();
    let mut vlan = None;
    let mut l3_offset = EthernetHeader::LEN;
    while matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN) {
        if l3_offset == EthernetHeader::LEN + VLAN_TAGS_MAX * VlanTag::LEN {
            return Err(DropReason::TooManyHeaders);
        }
        let (tag, behind) = VlanTag::ref_from_prefix(rest).map_err(|_| DropReason::Truncated)?;
        vlan = vlan.or(Some(tag.id()));
        ethertype = tag.ethertype.get();
        rest = behind;
        l3_offset += VlanTag::LEN;
    }
    let place = Place {
        l3_offset,
        vlan: vlan.unwrap_or(0),
    };
    match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(rest, place),
        ETHERTYPE_IPV6 => ipv6::parse(rest, place),
        _ => Ok(Parsed::Other),
    }
}

/// Where in its frame a packet lies.
#[derive(Clone, Copy)]
struct Place {
    l3_offset: usize,
    vlan: u16,
}

impl Place {
    /// `offset` from the start of the packet, as one from the start of the frame. Frames beyond 65,535 bytes do
    /// not fit a buffer segment.
    fn in_frame(self, offset: usize) -> Result<u16, DropReason> {
        u16::try_from(self.l3_offset + offset).map_err(|_| DropReason::MultiSegment)
    }
}

fn parse_ipv4(packet: &[u8], place: Place) -> Result<Parsed, DropReason> {
    let ip = Ipv4Header::check(packet)?;
    let fragment = match (ip.fragment_offset(), ip.more_fragments()) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    };
    let header_len = ip.header_len();
    let total_len = usize::from(ip.total_len.get());
    let segment = packet.get(header_len..total_len).ok_or(DropReason::Truncated)?;
    let upper = Upper::parse(ip.protocol, fragment, segment)?;
    let headers = Headers {
        l3_offset: place.in_frame(0)?,
        l4_offset: place.in_frame(header_len)?,
        packet_end: place.in_frame(total_len)?,
        family: AddressFamily::Ipv4,
        protocol: ip.protocol,
        vlan: place.vlan,
        ttl: ip.ttl,
        tcp_flags: upper.tcp_flags,
        sctp_chunk: upper.sctp_chunk,
        fragment,
        dont_fragment: ip.dont_fragment(),
    };
    let flow = FlowKey {
        src: Endpoint::new(ip.src, upper.src_port),
        dst: Endpoint::new(ip.dst, upper.dst_port),
        protocol: ip.protocol,
    };
    Ok(Parsed::Ip(headers, Flow::V4(flow)))
}

/// What the path needs of a header above IP; all 0 where there is none.
#[derive(Clone, Copy, Default)]
struct Upper {
    src_port: u16,
    dst_port: u16,
    tcp_flags: u8,
    sctp_chunk: u8,
}

impl Upper {
    fn parse(protocol: u8, fragment: Fragment, segment: &[u8]) -> Result<Self, DropReason> {
        if fragment == Fragment::Later {
            return Ok(Self::default());
        }
        if fragment == Fragment::First {
            return Ok(Self::of_first_fragment(segment));
        }
        match protocol {
            tcp::PROTOCOL => {
                let header = TcpHeader::check(segment)?;
                Ok(Self {
                    src_port: header.src_port.get(),
                    dst_port: header.dst_port.get(),
                    tcp_flags: header.flags,
                    sctp_chunk: 0,
                })
            }
            udp::PROTOCOL => {
                let (header, _) = UdpHeader::ref_from_prefix(segment).map_err(|_| DropReason::Truncated)?;
                Ok(Self::ports(header.src_port.get(), header.dst_port.get()))
            }
            sctp::PROTOCOL => {
                let (header, chunks) = SctpHeader::ref_from_prefix(segment).map_err(|_| DropReason::Truncated)?;
                Ok(Self {
                    sctp_chunk: sctp::deciding_chunk(chunks),
                    ..Self::ports(header.src_port.get(), header.dst_port.get())
                })
            }
            _ => Ok(Self::default()),
        }
    }

    /// However short it is: the rest may follow, and the whole is parsed again.
    fn of_first_fragment(segment: &[u8]) -> Self {
        let ports = segment.first_chunk().map_or([0; 4], |ports: &[u8; 4]| *ports);
        let [src_high, src_low, dst_high, dst_low] = ports;
        Self::ports(
            u16::from_be_bytes([src_high, src_low]),
            u16::from_be_bytes([dst_high, dst_low]),
        )
    }

    fn ports(src_port: u16, dst_port: u16) -> Self {
        Self {
            src_port,
            dst_port,
            tcp_flags: 0,
            sctp_chunk: 0,
        }
    }
}

#[cfg(test)]
mod tests;
