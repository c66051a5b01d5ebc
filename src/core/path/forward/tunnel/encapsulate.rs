//! Stage 7, TUN: the packet goes to its real server inside another one.
//!
//! In:  a whole packet, outer addresses of either family. Out: 14 bytes for Ethernet, outer header, GRE or
//!      UDP and GUE header where the kind has them, packet.
//! Never: fragments; whether the result fits the MTU is the caller's to check ([`overhead`]).
//! Ref:  RFC 2003, RFC 2473, RFC 4213, RFC 2784; Linux ip_vs_xmit.c `ip_vs_prepare_tunneled_skb`, `ip_vs_tunnel_xmit`.

use std::net::IpAddr;

use zerocopy::network_endian::U16;
use zerocopy::{Immutable, IntoBytes};

use crate::address::{Addr4, Addr6, Address, AddressFamily};
use crate::frame::Frame;
use crate::headers::Headers;
use crate::ipvs::tunnel_kind::{GueChecksum, TunnelKind};
use crate::path::forward::ethernet::resize_front;
use crate::path::forward::resolve;
use crate::path::forward::rewrite::decrement_ttl;
use crate::verdict::DropReason;
use crate::wire::checksum;
use crate::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetHeader};
use crate::wire::gre::{self, GreHeader};
use crate::wire::gue::GueHeader;
use crate::wire::ipv4::{DONT_FRAGMENT, Ipv4Header, VERSION_IHL_WITHOUT_OPTIONS};
use crate::wire::ipv6::Ipv6Header;
use crate::wire::udp::{self, UdpHeader};

/// IP protocol number of IPv4 in IP.
pub const PROTOCOL_IPV4: u8 = 4;
/// IP protocol number of IPv6 in IP.
pub const PROTOCOL_IPV6: u8 = 41;

/// Both ECN bits: congestion experienced.
const ECN_CE: u8 = 0b11;
/// The low one of them.
const ECN_LOW: u8 = 0b01;
/// Bytes of the longest header between outer and inner one.
const BETWEEN_MAX: usize = 12;

/// Bytes that a tunnel of this kind, with an outer header of family `outer`, adds.
#[inline]
pub const fn overhead(kind: TunnelKind, outer: AddressFamily) -> u16 {
    let ip = match outer {
        AddressFamily::Ipv4 => Ipv4Header::LEN as u16,
        AddressFamily::Ipv6 => Ipv6Header::LEN as u16,
    };
    ip + kind.header_len()
}

/// What the outer packet is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// The encapsulation.
    pub kind: TunnelKind,
    /// The director's address towards the real server.
    pub src: IpAddr,
    /// The real server, of the same family.
    pub dst: IpAddr,
    /// IPv4: used where fragments may be made of the outer packet.
    pub identification: u16,
    /// GUE: UDP source port, the same for all packets of a flow.
    pub src_port: u16,
    /// Whether an inner DF bit is copied.
    pub pmtu_disc: bool,
}

/// Decrements the TTL of the packet in `frame`, cuts the padding behind it and puts it into an outer packet
/// that begins at offset 14.
pub fn encapsulate<F: Frame>(frame: &mut F, headers: &Headers, outer: &Outer) -> Result<(), DropReason> {
    let inner = Inner::read(frame.bytes(), headers)?;
    let mut between = Between::new(outer, &inner)?;
    let payload_len = inner
        .len
        .checked_add(between.len as u16)
        .ok_or(DropReason::MtuExceeded)?;
    match (outer.src, outer.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            if payload_len > u16::MAX - Ipv4Header::LEN as u16 {
                return Err(DropReason::MtuExceeded);
            }
            let (src, dst) = (Addr4(src.octets()), Addr4(dst.octets()));
            let outer = OuterIpv4 {
                src,
                dst,
                identification: outer.identification,
                pmtu_disc: outer.pmtu_disc,
            };
            let header = inner.outer_ipv4(&outer, between.protocol, payload_len);
            between.add_pseudo_header(src, dst, payload_len);
            wrap(frame, headers, &header, &between)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let (src, dst) = (Addr6(src.octets()), Addr6(dst.octets()));
            between.add_pseudo_header(src, dst, payload_len);
            let header = Ipv6Header {
                version_class_flow: Ipv6Header::version_word(inner.outer_class()),
                payload_len: U16::new(payload_len),
                next_header: between.protocol,
                hop_limit: inner.ttl,
                src,
                dst,
            };
            wrap(frame, headers, &header, &between)
        }
        _ => Err(DropReason::NoRoute),
    }
}

/// The header between the outer and the inner IP header: none for IP in IP.
struct Between {
    bytes: [u8; BETWEEN_MAX],
    len: usize,
    /// What the outer header calls it.
    protocol: u8,
    /// Where in it a checksum over it and the inner packet goes, if it has one.
    checksum_at: Option<usize>,
    /// Sum of the pseudo header that the checksum covers besides: UDP has one, GRE none.
    pseudo: u16,
}

impl Between {
    fn new(outer: &Outer, inner: &Inner) -> Result<Self, DropReason> {
        let mut between = Self {
            bytes: [0; BETWEEN_MAX],
            len: usize::from(outer.kind.header_len()),
            protocol: inner.protocol(),
            checksum_at: None,
            pseudo: 0,
        };
        match outer.kind {
            TunnelKind::IpIp => {}
            TunnelKind::Gre { checksum } => {
                between.protocol = gre::PROTOCOL;
                between.checksum_at = checksum.then_some(size_of::<GreHeader>());
                let header = GreHeader {
                    flags: U16::new(if checksum { gre::CHECKSUM_PRESENT } else { 0 }),
                    ethertype: U16::new(inner.ethertype()),
                };
                write(&mut between.bytes, &header)?;
            }
            TunnelKind::Gue { port, checksum } => {
                between.protocol = udp::PROTOCOL;
                // RemoteOffload too: see there.
                let checksum_at = std::mem::offset_of!(UdpHeader, checksum);
                between.checksum_at = (checksum != GueChecksum::No).then_some(checksum_at);
                let len = inner.len.checked_add(between.len as u16);
                let udp = UdpHeader {
                    src_port: U16::new(outer.src_port),
                    dst_port: U16::new(port),
                    len: U16::new(len.ok_or(DropReason::MtuExceeded)?),
                    checksum: U16::ZERO,
                };
                let gue = GueHeader {
                    version_len: 0,
                    protocol: inner.protocol(),
                    flags: U16::ZERO,
                };
                write(&mut between.bytes, &udp)?;
                write(between.bytes.get_mut(UdpHeader::LEN..).unwrap_or_default(), &gue)?;
            }
        }
        Ok(between)
    }
}

impl Between {
    fn add_pseudo_header<A: Address>(&mut self, src: A, dst: A, payload_len: u16) {
        if self.protocol == udp::PROTOCOL && self.checksum_at.is_some() {
            self.pseudo = checksum::pseudo_header(src, dst, udp::PROTOCOL, payload_len);
        }
    }
}

fn write(space: &mut [u8], header: &(impl IntoBytes + Immutable + ?Sized)) -> Result<(), DropReason> {
    header.write_to_prefix(space).map_err(|_| DropReason::Truncated)
}

/// What an outer IPv4 header does not have from the packet inside.
pub(crate) struct OuterIpv4 {
    pub(crate) src: Addr4,
    pub(crate) dst: Addr4,
    /// Used where fragments may be made of the outer packet.
    pub(crate) identification: u16,
    /// Whether an inner DF bit is copied.
    pub(crate) pmtu_disc: bool,
}

/// A packet that goes into a tunnel: what its outer header takes over.
pub(crate) struct Inner {
    pub(crate) family: AddressFamily,
    /// TOS or traffic class.
    pub(crate) class: u8,
    /// After the decrement.
    pub(crate) ttl: u8,
    pub(crate) len: u16,
    pub(crate) dont_fragment: bool,
}

impl Inner {
    fn read(frame: &[u8], headers: &Headers) -> Result<Self, DropReason> {
        Ok(Self {
            family: headers.family,
            class: resolve::class_of(frame, headers).ok_or(DropReason::Truncated)?,
            ttl: headers.ttl.saturating_sub(1),
            len: headers.packet_end.saturating_sub(headers.l3_offset),
            dont_fragment: headers.dont_fragment,
        })
    }

    /// An outer IPv4 header in front of `payload_len` bytes, with its checksum.
    #[inline(always)]
    pub(crate) fn outer_ipv4(&self, outer: &OuterIpv4, protocol: u8, payload_len: u16) -> Ipv4Header {
        let &OuterIpv4 {
            src,
            dst,
            identification,
            pmtu_disc,
        } = outer;
        // The kernel copies DF of an IPv4 packet only, and a packet with DF needs no identification (RFC 6864 4.1).
        let is_df = pmtu_disc && self.family == AddressFamily::Ipv4 && self.dont_fragment;
        let (identification, flags) = if is_df { (0, DONT_FRAGMENT) } else { (identification, 0) };
        let tos = self.outer_class();
        let total_len = payload_len.wrapping_add(Ipv4Header::LEN as u16);
        // Summed as numbers: reading back in wide words what narrow stores have just built would wait for them.
        let words = [
            u16::from_be_bytes([VERSION_IHL_WITHOUT_OPTIONS, tos]),
            total_len,
            identification,
            flags,
            u16::from_be_bytes([self.ttl, protocol]),
        ];
        let sum = words.iter().map(|&word| u64::from(word)).sum::<u64>()
            + u64::from(u32::from_be_bytes(src.0))
            + u64::from(u32::from_be_bytes(dst.0));
        Ipv4Header {
            version_ihl: VERSION_IHL_WITHOUT_OPTIONS,
            tos,
            total_len: U16::new(total_len),
            identification: U16::new(identification),
            flags_offset: U16::new(flags),
            ttl: self.ttl,
            protocol,
            checksum: U16::new(!checksum::fold(sum)),
            src,
            dst,
        }
    }

    /// RFC 3168 9.1.1: congestion met outside is not to be seen inside, so the outer packet starts with ECT(0).
    const fn outer_class(&self) -> u8 {
        if self.class & ECN_CE == ECN_CE {
            self.class & !ECN_LOW
        } else {
            self.class
        }
    }

    /// What an IP header in front of it calls it.
    #[inline]
    pub(crate) const fn protocol(&self) -> u8 {
        match self.family {
            AddressFamily::Ipv4 => PROTOCOL_IPV4,
            AddressFamily::Ipv6 => PROTOCOL_IPV6,
        }
    }

    const fn ethertype(&self) -> u16 {
        match self.family {
            AddressFamily::Ipv4 => ETHERTYPE_IPV4,
            AddressFamily::Ipv6 => ETHERTYPE_IPV6,
        }
    }
}

fn wrap<F: Frame>(
    frame: &mut F,
    headers: &Headers,
    outer: &(impl IntoBytes + Immutable),
    between: &Between,
) -> Result<(), DropReason> {
    let outer = outer.as_bytes();
    frame.truncate(usize::from(headers.packet_end));
    decrement_ttl(frame.bytes_mut(), headers);
    let packet_at = EthernetHeader::LEN + outer.len() + between.len;
    resize_front(frame, usize::from(headers.l3_offset), packet_at)?;
    let space = frame
        .bytes_mut()
        .get_mut(EthernetHeader::LEN..)
        .ok_or(DropReason::Truncated)?;
    write(space, outer)?;
    if between.len == 0 {
        return Ok(());
    }
    let payload = space.get_mut(outer.len()..).ok_or(DropReason::Truncated)?;
    fill_between(payload, between).ok_or(DropReason::Truncated)
}

/// Writes the header in between, with its checksum.
#[cold]
fn fill_between(payload: &mut [u8], between: &Between) -> Option<()> {
    let header = between.bytes.get(..between.len)?;
    payload.get_mut(..between.len)?.copy_from_slice(header);
    let Some(at) = between.checksum_at else {
        return Some(());
    };
    let computed = !checksum::add(between.pseudo, checksum::sum(payload));
    // 0 would say that there is none (RFC 768); the kernel writes GRE's the same way.
    let field = if computed == 0 { 0xffff } else { computed };
    payload.get_mut(at..at + 2)?.copy_from_slice(&field.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests;
