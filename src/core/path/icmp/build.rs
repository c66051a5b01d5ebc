//! The bytes of an ICMP error.
//!
//! In:  a packet that cannot be forwarded. Out: in its place the ICMP or ICMPv6 error to its sender, from
//!      offset 14 of the frame; where it goes out is the caller's to find.
//! Never: answers what must not be answered, quotes padding, makes a packet that would be fragmented.
//! Ref:  RFC 1122 3.2.2, RFC 1812 4.3.2, RFC 4443 2.4; Linux net/ipv4/icmp.c `__icmp_send`, net/ipv6/icmp.c `icmp6_send`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::address::{Addr4, Addr6, Address, AddressFamily};
use crate::frame::Frame;
use crate::headers::{Fragment, Headers};
use crate::l3::fib::Decision;
use crate::limits::{ICMP4_ERROR_MAX, ICMP6_ERROR_MAX};
use crate::path::forward::ethernet::resize_front;
use crate::verdict::DropReason;
use crate::wire::checksum;
use crate::wire::ethernet::EthernetHeader;
use crate::wire::icmp::{self, IcmpHeader};
use crate::wire::ipv4::{Ipv4Header, VERSION_IHL_WITHOUT_OPTIONS};
use crate::wire::ipv4_options::EchoedOptions;
use crate::wire::ipv6::Ipv6Header;

/// TTL and hop limit of errors (kernel: `ip_default_ttl`, `hop_limit`).
const TTL: u8 = 64;
/// Precedence "internetwork control"; the rest of the TOS byte but its lowest bit is that of the packet
/// (RFC 1812 4.3.2.5, kernel `RT_TOS`).
const PRECEDENCE: u8 = 0xc0;
/// See [`PRECEDENCE`].
const TOS_KEPT: u8 = 0x1e;

/// Why a packet goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// No real server for its service.
    PortUnreachable,
    /// No route to its real server.
    HostUnreachable,
    /// No route at all.
    NetUnreachable,
    /// A route that forbids it.
    Prohibited,
    /// Too long to go on, and not to be fragmented.
    FragmentationNeeded {
        /// Bytes of the longest packet that would get through.
        mtu: u16,
    },
    /// TTL or hop limit used up.
    TimeExceeded,
    /// Fragments of it did not come in time.
    ReassemblyTimeExceeded,
    /// What a router said about the packet that this one was wrapped in.
    Relayed {
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
        /// Second word of the header.
        rest: u32,
    },
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Error6 {
    ip: Ipv6Header,
    icmp: IcmpHeader,
}

/// What an error says and who sends it.
#[derive(Clone, Copy, Debug)]
pub struct ErrorMessage {
    /// What is wrong with the packet.
    pub error: IcmpError,
    /// The sender of the error.
    pub source: IpAddr,
    /// Of an IPv4 header.
    pub identification: u16,
    /// Those that an IPv4 header repeats.
    pub options: EchoedOptions,
}

/// Turns `frame` into the error about the packet in it, for that packet's sender. The IP packet begins at
/// offset 14 then. The error quotes the packet as it stands in the frame.
/// [`DropReason::IcmpForbidden`] for packets that must not be answered.
pub fn icmp_error<F: Frame>(frame: &mut F, headers: &Headers, message: &ErrorMessage) -> Result<(), DropReason> {
    let sender = answerable_sender(frame.bytes(), headers).ok_or(DropReason::IcmpForbidden)?;
    match (message.source, sender) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header_len = Ipv4Header::LEN + message.options.bytes().len();
            let quoted_len = quote(frame, headers, (header_len + IcmpHeader::LEN, ICMP4_ERROR_MAX))?;
            fill_v4(frame.bytes_mut(), quoted_len, message, (src, dst))
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let quoted_len = quote(frame, headers, (size_of::<Error6>(), ICMP6_ERROR_MAX))?;
            fill_v6(frame.bytes_mut(), quoted_len, message.error, (src, dst))
        }
        _ => Err(DropReason::IcmpForbidden),
    }
}

/// Cuts the packet to what an error of at most `error_max` bytes quotes, makes space in front of it for Ethernet and
/// `headers_len` bytes of headers, and returns its length.
fn quote<F: Frame>(
    frame: &mut F,
    headers: &Headers,
    (headers_len, error_max): (usize, usize),
) -> Result<usize, DropReason> {
    let l3_offset = usize::from(headers.l3_offset);
    let packet_len = usize::from(headers.packet_end).saturating_sub(l3_offset);
    let quoted_len = packet_len.min(error_max.saturating_sub(headers_len));
    resize_front(frame, l3_offset, EthernetHeader::LEN + headers_len)?;
    frame.truncate(EthernetHeader::LEN + headers_len + quoted_len);
    Ok(quoted_len)
}

fn fill_v4(
    frame: &mut [u8],
    quoted_len: usize,
    message: &ErrorMessage,
    (src, dst): (Ipv4Addr, Ipv4Addr),
) -> Result<(), DropReason> {
    let options = message.options.bytes();
    let header_len = Ipv4Header::LEN + options.len();
    let packet = frame.get_mut(EthernetHeader::LEN..).ok_or(DropReason::Truncated)?;
    let (header, rest) = packet.split_at_mut_checked(header_len).ok_or(DropReason::Truncated)?;
    let (icmp, quoted) = IcmpHeader::mut_from_prefix(rest).map_err(|_| DropReason::Truncated)?;
    let (original, _) = Ipv4Header::ref_from_prefix(quoted).map_err(|_| DropReason::Truncated)?;
    let (ip, place) = Ipv4Header::mut_from_prefix(&mut *header).map_err(|_| DropReason::Truncated)?;
    *ip = Ipv4Header {
        version_ihl: VERSION_IHL_WITHOUT_OPTIONS + (options.len() / 4) as u8,
        tos: (original.tos & TOS_KEPT) | PRECEDENCE,
        total_len: U16::new((header_len + IcmpHeader::LEN + quoted_len) as u16),
        identification: U16::new(message.identification),
        flags_offset: U16::ZERO,
        ttl: TTL,
        protocol: icmp::PROTOCOL_V4,
        checksum: U16::ZERO,
        src: Addr4(src.octets()),
        dst: Addr4(dst.octets()),
    };
    place.copy_from_slice(options);
    *icmp = header_v4(message.error);
    let sum = checksum::add(checksum::sum(icmp.as_bytes()), checksum::sum(quoted));
    icmp.checksum = U16::new(!sum);
    Ipv4Header::fill_checksum_at(header, 0);
    Ok(())
}

fn fill_v6(
    frame: &mut [u8],
    quoted_len: usize,
    error: IcmpError,
    (src, dst): (Ipv6Addr, Ipv6Addr),
) -> Result<(), DropReason> {
    let packet = frame.get_mut(EthernetHeader::LEN..).ok_or(DropReason::Truncated)?;
    let (headers, quoted) = Error6::mut_from_prefix(packet).map_err(|_| DropReason::Truncated)?;
    let (src, dst) = (Addr6(src.octets()), Addr6(dst.octets()));
    let payload_len = (IcmpHeader::LEN + quoted_len) as u16;
    headers.ip = Ipv6Header {
        version_class_flow: Ipv6Header::version_word(0),
        payload_len: U16::new(payload_len),
        next_header: icmp::PROTOCOL_V6,
        hop_limit: TTL,
        src,
        dst,
    };
    headers.icmp = header_v6(error);
    let message = checksum::add(checksum::sum(headers.icmp.as_bytes()), checksum::sum(quoted));
    let pseudo = checksum::pseudo_header(src, dst, icmp::PROTOCOL_V6, payload_len);
    headers.icmp.checksum = U16::new(!checksum::add(message, pseudo));
    Ok(())
}

impl IcmpError {
    /// What a router says about a packet that it cannot route (`ip_error`, `ip6_pkt_discard`, `ip6_pkt_prohibit`).
    pub const fn of_router(decision: &Decision<'_>, family: AddressFamily) -> Self {
        match (decision, family) {
            (Decision::Prohibit, _) => Self::Prohibited,
            (Decision::Unreachable, AddressFamily::Ipv4) => Self::HostUnreachable,
            _ => Self::NetUnreachable,
        }
    }
}

fn header_v4(error: IcmpError) -> IcmpHeader {
    let (kind, code, rest) = match error {
        IcmpError::PortUnreachable => (icmp::V4_UNREACHABLE, icmp::V4_CODE_PORT, 0),
        IcmpError::HostUnreachable => (icmp::V4_UNREACHABLE, icmp::V4_CODE_HOST, 0),
        IcmpError::NetUnreachable => (icmp::V4_UNREACHABLE, icmp::V4_CODE_NET, 0),
        IcmpError::Prohibited => (icmp::V4_UNREACHABLE, icmp::V4_CODE_PROHIBITED, 0),
        // RFC 1191 4: the low half of the unused word.
        IcmpError::FragmentationNeeded { mtu } => {
            (icmp::V4_UNREACHABLE, icmp::V4_CODE_FRAGMENTATION_NEEDED, u32::from(mtu))
        }
        IcmpError::TimeExceeded => (icmp::V4_TIME_EXCEEDED, 0, 0),
        IcmpError::ReassemblyTimeExceeded => (icmp::V4_TIME_EXCEEDED, icmp::CODE_REASSEMBLY, 0),
        IcmpError::Relayed { kind, code, rest } => (kind, code, rest),
    };
    IcmpHeader::new(kind, code, rest)
}

fn header_v6(error: IcmpError) -> IcmpHeader {
    let (kind, code, rest) = match error {
        IcmpError::PortUnreachable => (icmp::V6_UNREACHABLE, icmp::V6_CODE_PORT, 0),
        IcmpError::HostUnreachable => (icmp::V6_UNREACHABLE, icmp::V6_CODE_ADDRESS, 0),
        IcmpError::NetUnreachable => (icmp::V6_UNREACHABLE, icmp::V6_CODE_NO_ROUTE, 0),
        IcmpError::Prohibited => (icmp::V6_UNREACHABLE, icmp::V6_CODE_PROHIBITED, 0),
        IcmpError::FragmentationNeeded { mtu } => (icmp::V6_PACKET_TOO_BIG, 0, u32::from(mtu)),
        IcmpError::TimeExceeded => (icmp::V6_TIME_EXCEEDED, 0, 0),
        IcmpError::ReassemblyTimeExceeded => (icmp::V6_TIME_EXCEEDED, icmp::CODE_REASSEMBLY, 0),
        IcmpError::Relayed { kind, code, rest } => (kind, code, rest),
    };
    IcmpHeader::new(kind, code, rest)
}

/// The sender of a packet that may be answered by an error (RFC 1122 3.2.2, RFC 4443 2.4 e): not itself an
/// error, no later fragment, from and to one host, not sent to a group on the link either.
fn answerable_sender(frame: &[u8], headers: &Headers) -> Option<IpAddr> {
    let (ethernet, _) = EthernetHeader::ref_from_prefix(frame).ok()?;
    if ethernet.is_multicast() || headers.fragment == Fragment::Later || is_icmp_error(frame, headers) {
        return None;
    }
    let packet = frame.get(usize::from(headers.l3_offset)..)?;
    let (src, dst) = match headers.family {
        AddressFamily::Ipv4 => {
            let (ip, _) = Ipv4Header::ref_from_prefix(packet).ok()?;
            (ip.src.to_ip(), ip.dst.to_ip())
        }
        AddressFamily::Ipv6 => {
            let (ip, _) = Ipv6Header::ref_from_prefix(packet).ok()?;
            (ip.src.to_ip(), ip.dst.to_ip())
        }
    };
    (is_one_host(src) && is_one_host(dst)).then_some(src)
}

/// Whether an address is that of one host, which may be answered.
pub(crate) fn is_one_host(address: IpAddr) -> bool {
    let is_reserved = match address {
        // 0/8 is "this network", 240/4 reserved and the broadcast address.
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.octets()[0] >= 240,
        IpAddr::V6(_) => false,
    };
    !(is_reserved || address.is_unspecified() || address.is_multicast() || address.is_loopback())
}

/// Whether the packet is an ICMP error, of a type that may be one, or cut before its type.
fn is_icmp_error(frame: &[u8], headers: &Headers) -> bool {
    let kind = frame
        .get(usize::from(headers.l4_offset)..usize::from(headers.packet_end))
        .and_then(<[u8]>::first);
    match (headers.protocol, kind) {
        (icmp::PROTOCOL_V4, Some(&kind)) => icmp::is_v4_error(kind) || kind > icmp::V4_TYPE_MAX,
        (icmp::PROTOCOL_V6, Some(&kind)) => icmp::is_v6_error(kind) || kind == icmp::V6_REDIRECT,
        (icmp::PROTOCOL_V4 | icmp::PROTOCOL_V6, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
