//! Stage 7, NAT and FULLNAT: addresses, ports, TTL and checksums of a packet, in either direction.
//!
//! In:  a whole packet or first fragment, and the [`Rewrite`] of its connection and direction.
//! Out: the packet as it leaves, except for its Ethernet header.
//! Never: looks at more of the packet than its headers, unless a UDP checksum must be made from nothing.
//! Ref:  RFC 1624, RFC 768; Linux ip_vs_proto_tcp.c, ip_vs_proto_udp.c `udp_snat_handler`.

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::address::{Address, AddressFamily, Endpoint};
use crate::headers::{Fragment, Headers};
use crate::ipvs::conn::{Conn, Direction};
use crate::wire::checksum;
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv6::Ipv6Header;
use crate::wire::sctp::{self, SctpHeader};
use crate::wire::tcp::{self, TcpHeader};
use crate::wire::udp::{self, UdpHeader};

/// What TTL − 1 adds to the sum of an IPv4 header: the TTL is the high byte of its word.
pub(crate) const TTL_DELTA: u16 = !0x0100;

/// The new ends of a packet, and what they change in its checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite<A: Address> {
    /// The new source.
    pub src: Endpoint<A>,
    /// The new destination.
    pub dst: Endpoint<A>,
    /// See [`deltas`].
    pub l3_delta: u16,
    /// See [`deltas`].
    pub l4_delta: u16,
}

/// What a change of ends does to the sum of the IPv4 header (addresses) and of the upper layer (addresses, by
/// the pseudo header, and ports). [`checksum::complement`] of each is that of the way back.
#[inline(always)]
pub fn deltas<A: Address>(
    old_src: Endpoint<A>,
    old_dst: Endpoint<A>,
    new_src: Endpoint<A>,
    new_dst: Endpoint<A>,
) -> (u16, u16) {
    let change = |old: u16, new: u16| checksum::add(!old, new);
    let addresses = |old: A, new: A| change(checksum::sum(old.as_bytes()), checksum::sum(new.as_bytes()));
    let l3_delta = checksum::add(
        addresses(old_src.addr, new_src.addr),
        addresses(old_dst.addr, new_dst.addr),
    );
    let ports = checksum::add(change(old_src.port, new_src.port), change(old_dst.port, new_dst.port));
    (l3_delta, checksum::add(l3_delta, ports))
}

impl<A: Address> Rewrite<A> {
    /// Of packets of `conn` that go `direction`.
    #[inline(always)]
    pub fn of(conn: &Conn<A>, direction: Direction) -> Self {
        // A packet leaves as the answer to a packet of the other direction would.
        let other = conn.ends(direction.reverse());
        // A complement by arithmetic, not by branch: directions alternate unpredictably.
        let complement = 0u16.wrapping_sub(direction as u16);
        Self {
            src: other.dst,
            dst: other.src,
            l3_delta: conn.l3_delta ^ complement,
            l4_delta: conn.l4_delta ^ complement,
        }
    }
}

/// Source and destination stand side by side in both IP headers.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct AddressPair<A: Address> {
    src: A,
    dst: A,
}

const PAIR_OFFSET_V4: usize = std::mem::offset_of!(Ipv4Header, src);
const PAIR_OFFSET_V6: usize = std::mem::offset_of!(Ipv6Header, src);

/// Rewrites addresses and ports of the packet in `frame`, decrements its TTL and updates its checksums. The
/// CRC of SCTP is made anew when a port changes. A later fragment has no ports to rewrite.
#[inline]
pub fn apply<A: Address>(frame: &mut [u8], headers: &Headers, rewrite: &Rewrite<A>) {
    let Some((packet, segment)) = split(frame, headers) else {
        return;
    };
    match A::FAMILY {
        AddressFamily::Ipv4 => decrement_v4(packet, rewrite.l3_delta),
        AddressFamily::Ipv6 => decrement_v6(packet),
    }
    set_ends(packet, segment, headers, rewrite);
}

/// The same for a packet that the director's own stack sends: its TTL stays.
#[cold]
pub(crate) fn apply_keeping_ttl<A: Address>(frame: &mut [u8], headers: &Headers, rewrite: &Rewrite<A>) {
    let Some((packet, segment)) = split(frame, headers) else {
        return;
    };
    if A::FAMILY == AddressFamily::Ipv4
        && let Ok((ip, _)) = Ipv4Header::mut_from_prefix(packet)
    {
        ip.checksum = U16::new(checksum::update(ip.checksum.get(), rewrite.l3_delta));
    }
    set_ends(packet, segment, headers, rewrite);
}

#[inline(always)]
fn set_ends<A: Address>(packet: &mut [u8], segment: &mut [u8], headers: &Headers, rewrite: &Rewrite<A>) {
    let pair_offset = match A::FAMILY {
        AddressFamily::Ipv4 => PAIR_OFFSET_V4,
        AddressFamily::Ipv6 => PAIR_OFFSET_V6,
    };
    if let Some(Ok((pair, _))) = packet.get_mut(pair_offset..).map(AddressPair::<A>::mut_from_prefix) {
        *pair = AddressPair {
            src: rewrite.src.addr,
            dst: rewrite.dst.addr,
        };
    }
    if headers.fragment != Fragment::Later {
        apply_upper(segment, headers, rewrite);
    }
}

/// Decrements TTL or hop limit, with the checksum of IPv4. A TTL of 0 stays 0.
#[inline]
pub fn decrement_ttl(frame: &mut [u8], headers: &Headers) {
    let Some((packet, _)) = split(frame, headers) else {
        return;
    };
    match headers.family {
        // 0xffff is zero to a checksum.
        AddressFamily::Ipv4 => decrement_v4(packet, 0xffff),
        AddressFamily::Ipv6 => decrement_v6(packet),
    }
}

/// Writes the addresses of the IP header that begins at `l3_offset`; no checksum is touched. `None`: stays.
pub(crate) fn set_addresses<A: Address>(frame: &mut [u8], l3_offset: u16, src: Option<A>, dst: A) {
    let pair_offset = match A::FAMILY {
        AddressFamily::Ipv4 => PAIR_OFFSET_V4,
        AddressFamily::Ipv6 => PAIR_OFFSET_V6,
    };
    let pair = frame.get_mut(usize::from(l3_offset) + pair_offset..);
    if let Some(Ok((pair, _))) = pair.map(AddressPair::<A>::mut_from_prefix) {
        pair.src = src.unwrap_or(pair.src);
        pair.dst = dst;
    }
}

/// Writes the ports of a segment, quoted or not, if it has that many bytes; no checksum is touched.
pub(crate) fn set_ports(segment: &mut [u8], src: u16, dst: u16) {
    if let Some((ports, _)) = segment.split_first_chunk_mut::<4>() {
        let ([src_high, src_low], [dst_high, dst_low]) = (src.to_be_bytes(), dst.to_be_bytes());
        ports.copy_from_slice(&[src_high, src_low, dst_high, dst_low]);
    }
}

/// The sum of the pseudo header of what the IPv6 packet in `frame` carries.
pub(crate) fn pseudo_header_v6(frame: &[u8], headers: &Headers, protocol: u8) -> Option<u16> {
    let (ip, _) = Ipv6Header::ref_from_prefix(frame.get(usize::from(headers.l3_offset)..)?).ok()?;
    let len = headers.packet_end.checked_sub(headers.l4_offset)?;
    Some(checksum::pseudo_header(ip.src, ip.dst, protocol, len))
}

/// The IP header with its options or extensions, and what is above it.
#[inline]
fn split<'f>(frame: &'f mut [u8], headers: &Headers) -> Option<(&'f mut [u8], &'f mut [u8])> {
    let packet = frame.get_mut(usize::from(headers.l3_offset)..usize::from(headers.packet_end))?;
    packet.split_at_mut_checked(usize::from(headers.l4_offset.checked_sub(headers.l3_offset)?))
}

/// TTL − 1, and `delta` besides.
#[inline]
fn decrement_v4(packet: &mut [u8], delta: u16) {
    let Ok((ip, _)) = Ipv4Header::mut_from_prefix(packet) else {
        return;
    };
    let delta = if ip.ttl == 0 {
        delta
    } else {
        checksum::add(delta, TTL_DELTA)
    };
    ip.ttl = ip.ttl.saturating_sub(1);
    ip.checksum = U16::new(checksum::update(ip.checksum.get(), delta));
}

#[inline]
fn decrement_v6(packet: &mut [u8]) {
    if let Ok((ip, _)) = Ipv6Header::mut_from_prefix(packet) {
        ip.hop_limit = ip.hop_limit.saturating_sub(1);
    }
}

#[inline]
fn apply_upper<A: Address>(segment: &mut [u8], headers: &Headers, rewrite: &Rewrite<A>) {
    let (src_port, dst_port) = (U16::new(rewrite.src.port), U16::new(rewrite.dst.port));
    match headers.protocol {
        tcp::PROTOCOL => {
            if let Ok((tcp, _)) = TcpHeader::mut_from_prefix(segment) {
                (tcp.src_port, tcp.dst_port) = (src_port, dst_port);
                tcp.checksum = U16::new(checksum::update(tcp.checksum.get(), rewrite.l4_delta));
            }
        }
        udp::PROTOCOL => {
            let Ok((udp, _)) = UdpHeader::mut_from_prefix(segment) else {
                return;
            };
            (udp.src_port, udp.dst_port) = (src_port, dst_port);
            if udp.checksum == U16::ZERO {
                fill_udp_checksum(segment, headers, rewrite);
            } else {
                udp.checksum = udp_field(checksum::update(udp.checksum.get(), rewrite.l4_delta));
            }
        }
        sctp::PROTOCOL => {
            if let Ok((sctp, _)) = SctpHeader::mut_from_prefix(segment)
                && (sctp.src_port, sctp.dst_port) != (src_port, dst_port)
            {
                (sctp.src_port, sctp.dst_port) = (src_port, dst_port);
                fill_sctp_checksum(segment, headers);
            }
        }
        _ => {}
    }
}

/// The CRC covers the whole packet; of a first fragment it cannot be made.
#[inline(never)]
fn fill_sctp_checksum(packet: &mut [u8], headers: &Headers) {
    if headers.fragment != Fragment::Whole {
        return;
    }
    let checksum = sctp::checksum(packet);
    if let Ok((sctp, _)) = SctpHeader::mut_from_prefix(packet) {
        sctp.checksum = checksum;
    }
}

/// The sender computed no checksum: the kernel's NAT makes a right one, over all that the IP packet has, whatever
/// the UDP length says. Of a first fragment it cannot be made.
#[cold]
fn fill_udp_checksum<A: Address>(datagram: &mut [u8], headers: &Headers, rewrite: &Rewrite<A>) {
    if headers.fragment != Fragment::Whole {
        return;
    }
    let pseudo = checksum::pseudo_header(rewrite.src.addr, rewrite.dst.addr, udp::PROTOCOL, datagram.len() as u16);
    let computed = !checksum::add(pseudo, checksum::sum(datagram));
    if let Ok((udp, _)) = UdpHeader::mut_from_prefix(datagram) {
        udp.checksum = udp_field(computed);
    }
}

/// A UDP checksum of 0 would say that there is none (RFC 768).
#[inline]
fn udp_field(computed: u16) -> U16 {
    U16::new(if computed == 0 { 0xffff } else { computed })
}

#[cfg(test)]
mod tests;
