//! Step 7, TUN: the packet goes to its real server inside another one.
//!
//! In:  a whole packet, outer addresses of either family. Out: 14 octets for Ethernet, outer header, packet.
//! Never: fragments; whether the result fits the MTU is the caller's to check ([`overhead`]).
//! Ref:  RFC 2003, RFC 2473, RFC 4213; Linux ip_vs_xmit.c `ip_vs_prepare_tunneled_skb`, `ip_vs_tunnel_xmit`.

use std::net::IpAddr;

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, IntoBytes};

use crate::address::{Addr4, Addr6, AddressFamily};
use crate::frame::Frame;
use crate::path::forward::ethernet::resize_front;
use crate::path::forward::rewrite::decrement_ttl;
use crate::path::{DropReason, Headers};
use crate::wire::ethernet::EthernetHeader;
use crate::wire::ipv4::{DONT_FRAGMENT, Ipv4Header, VERSION_IHL_PLAIN};
use crate::wire::ipv6::Ipv6Header;

/// IP protocol number of IPv4 in IP.
pub const PROTOCOL_IPV4: u8 = 4;
/// IP protocol number of IPv6 in IP.
pub const PROTOCOL_IPV6: u8 = 41;

/// Both ECN bits: congestion experienced.
const ECN_CE: u8 = 0b11;
/// The low one of them.
const ECN_LOW: u8 = 0b01;

/// Octets that an outer header of family `outer` adds.
#[inline]
pub const fn overhead(outer: AddressFamily) -> u16 {
    match outer {
        AddressFamily::Ipv4 => Ipv4Header::LEN as u16,
        AddressFamily::Ipv6 => Ipv6Header::LEN as u16,
    }
}

/// Decrements the TTL of the packet in `frame`, cuts the padding behind it and puts it into an outer packet
/// that begins at offset 14. `identification` is used where fragments may be made of the outer packet;
/// `pmtu_disc` says whether an inner DF bit is copied. Both addresses must be of one family.
pub fn encapsulate<F: Frame>(
    frame: &mut F,
    headers: &Headers,
    outer_src: IpAddr,
    outer_dst: IpAddr,
    identification: u16,
    pmtu_disc: bool,
) -> Result<(), DropReason> {
    let inner = Inner::read(frame.bytes(), headers)?;
    match (outer_src, outer_dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total_len = inner
                .len
                .checked_add(Ipv4Header::LEN as u16)
                .ok_or(DropReason::MtuExceeded)?;
            // The kernel copies DF of an IPv4 packet only, and a packet with DF needs no identification (RFC 6864 4.1).
            let is_df = pmtu_disc && headers.family == AddressFamily::Ipv4 && headers.dont_fragment;
            let mut header = Ipv4Header {
                version_ihl: VERSION_IHL_PLAIN,
                tos: inner.outer_class(),
                total_len: U16::new(total_len),
                identification: U16::new(if is_df { 0 } else { identification }),
                flags_offset: U16::new(if is_df { DONT_FRAGMENT } else { 0 }),
                ttl: inner.ttl,
                protocol: inner.protocol(),
                checksum: U16::ZERO,
                src: Addr4(src.octets()),
                dst: Addr4(dst.octets()),
            };
            header.fill_plain_checksum();
            wrap(frame, headers, &header)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let header = Ipv6Header {
                version_class_flow: Ipv6Header::version_word(inner.outer_class()),
                payload_len: U16::new(inner.len),
                next_header: inner.protocol(),
                hop_limit: inner.ttl,
                src: Addr6(src.octets()),
                dst: Addr6(dst.octets()),
            };
            wrap(frame, headers, &header)
        }
        _ => Err(DropReason::NoRoute),
    }
}

/// What an outer header takes over.
struct Inner {
    family: AddressFamily,
    class: u8,
    /// After the decrement.
    ttl: u8,
    len: u16,
}

impl Inner {
    fn read(frame: &[u8], headers: &Headers) -> Result<Self, DropReason> {
        let packet = frame
            .get(usize::from(headers.l3_offset)..)
            .ok_or(DropReason::Truncated)?;
        let class = match headers.family {
            AddressFamily::Ipv4 => Ipv4Header::ref_from_prefix(packet).map(|(ip, _)| ip.tos).ok(),
            AddressFamily::Ipv6 => Ipv6Header::ref_from_prefix(packet)
                .map(|(ip, _)| ip.traffic_class())
                .ok(),
        };
        Ok(Self {
            family: headers.family,
            class: class.ok_or(DropReason::Truncated)?,
            ttl: headers.ttl.saturating_sub(1),
            len: headers.packet_end.saturating_sub(headers.l3_offset),
        })
    }

    /// RFC 3168 9.1.1: congestion met outside is not to be seen inside, so the outer packet starts with ECT(0).
    fn outer_class(&self) -> u8 {
        if self.class & ECN_CE == ECN_CE {
            self.class & !ECN_LOW
        } else {
            self.class
        }
    }

    fn protocol(&self) -> u8 {
        match self.family {
            AddressFamily::Ipv4 => PROTOCOL_IPV4,
            AddressFamily::Ipv6 => PROTOCOL_IPV6,
        }
    }
}

fn wrap<F: Frame>(
    frame: &mut F,
    headers: &Headers,
    outer: &(impl IntoBytes + zerocopy::Immutable),
) -> Result<(), DropReason> {
    let outer = outer.as_bytes();
    frame.truncate(usize::from(headers.packet_end));
    decrement_ttl(frame.bytes_mut(), headers);
    resize_front(frame, usize::from(headers.l3_offset), EthernetHeader::LEN + outer.len())?;
    let room = frame
        .bytes_mut()
        .get_mut(EthernetHeader::LEN..)
        .ok_or(DropReason::Truncated)?;
    outer.write_to_prefix(room).map_err(|_| DropReason::Truncated)
}

#[cfg(test)]
mod tests;
