//! The IPv6 header and its extension headers (RFC 8200, RFC 4302 for AH).

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::address::Addr6;
use crate::verdict::DropReason;

/// Bytes of a packet that every link carries whole (RFC 8200 5).
pub const MTU_MIN: u16 = 1_280;
/// Hop-by-hop options.
pub const NEXT_HOP_BY_HOP: u8 = 0;
/// Routing.
pub const NEXT_ROUTING: u8 = 43;
/// Fragment.
pub const NEXT_FRAGMENT: u8 = 44;
/// Authentication.
pub const NEXT_AUTHENTICATION: u8 = 51;
/// Nothing follows.
pub const NEXT_NONE: u8 = 59;
/// Destination options.
pub const NEXT_DESTINATION: u8 = 60;

/// The fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version (4 bits), traffic class (8 bits), flow label (20 bits).
    pub version_class_flow: U32,
    /// Bytes behind this header.
    pub payload_len: U16,
    /// Protocol or extension header that follows.
    pub next_header: u8,
    /// How many routers may still forward the packet.
    pub hop_limit: u8,
    /// Sender.
    pub src: Addr6,
    /// Receiver.
    pub dst: Addr6,
}

impl Ipv6Header {
    /// Bytes of the header.
    pub const LEN: usize = 40;

    /// The first word of a header with this traffic class and flow label 0.
    #[inline]
    pub const fn version_word(traffic_class: u8) -> U32 {
        U32::new((6 << 28) | ((traffic_class as u32) << 20))
    }

    /// The header of `packet`, verified: version and payload length (at most what is there; no jumbogram).
    #[inline]
    pub fn check(packet: &[u8]) -> Result<&Self, DropReason> {
        let (header, payload) = Self::ref_from_prefix(packet).map_err(|_| DropReason::Truncated)?;
        let payload_len = usize::from(header.payload_len.get());
        // RFC 2675 1: a payload length of zero with a hop-by-hop header announces a jumbogram.
        if header.version() != 6 || (payload_len == 0 && header.next_header == NEXT_HOP_BY_HOP) {
            return Err(DropReason::Malformed);
        }
        if payload_len > payload.len() {
            Err(DropReason::Truncated)
        } else {
            Ok(header)
        }
    }

    /// 6 for IPv6.
    #[inline]
    pub const fn version(&self) -> u8 {
        (self.version_class_flow.get() >> 28) as u8
    }

    /// DSCP (6 bits) and ECN (2 bits).
    #[inline]
    pub const fn traffic_class(&self) -> u8 {
        (self.version_class_flow.get() >> 20) as u8
    }

    /// The flow label: 20 bits.
    #[inline]
    pub const fn flow_label(&self) -> u32 {
        self.version_class_flow.get() & 0xf_ffff
    }
}

/// How the extension headers begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExtensionHeader {
    /// Protocol or extension header that follows.
    pub next_header: u8,
    /// Length in units of the kind, see [`Self::options_len`] and [`Self::authentication_len`].
    pub len: u8,
}

impl ExtensionHeader {
    /// Bytes of a hop-by-hop, routing or destination options header.
    #[inline]
    pub const fn options_len(&self) -> usize {
        (self.len as usize + 1) * 8
    }

    /// Bytes of an authentication header (RFC 4302 2.2).
    #[inline]
    pub const fn authentication_len(&self) -> usize {
        (self.len as usize + 2) * 4
    }
}

/// The fragment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FragmentHeader {
    /// Protocol or extension header that begins the fragmentable part.
    pub next_header: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset in units of 8 bytes (13 bits), reserved (2 bits), M (1 bit).
    pub offset_more: U16,
    /// The number that all fragments of one packet have in common.
    pub identification: U32,
}

impl FragmentHeader {
    /// Bytes of the header.
    pub const LEN: usize = 8;

    /// Offset of this fragment in the fragmentable part, in bytes.
    #[inline]
    pub const fn offset(&self) -> usize {
        (self.offset_more.get() & 0xfff8) as usize
    }

    /// Whether fragments follow.
    #[inline]
    pub const fn more_fragments(&self) -> bool {
        self.offset_more.get() & 1 != 0
    }
}

const _: () = assert!(size_of::<Ipv6Header>() == Ipv6Header::LEN);
const _: () = assert!(size_of::<FragmentHeader>() == FragmentHeader::LEN);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tcp6;

    #[test]
    fn the_first_word_holds_version_class_and_flow_label() {
        let frame = tcp6("[2001:db8::1]:1 > [2001:db8::2]:2")
            .tos(0xb8)
            .flow_label(0x12345)
            .build();
        let header = Ipv6Header::check(&frame[14..]).unwrap();
        assert_eq!(
            (header.version(), header.traffic_class(), header.flow_label()),
            (6, 0xb8, 0x12345)
        );
        assert_eq!(Ipv6Header::version_word(0xb8).get(), 0x6b80_0000);
    }

    #[test]
    fn a_jumbogram_or_another_version_is_malformed_and_a_cut_packet_truncated() {
        let frame = tcp6("[2001:db8::1]:1 > [2001:db8::2]:2").build();
        let mut packet = frame[14..].to_vec();
        assert_eq!(
            Ipv6Header::check(&packet[..packet.len() - 1]).err(),
            Some(DropReason::Truncated)
        );
        packet[0] = 0x40;
        assert_eq!(Ipv6Header::check(&packet).err(), Some(DropReason::Malformed));
        packet[0] = 0x60;
        (packet[4], packet[5], packet[6]) = (0, 0, NEXT_HOP_BY_HOP);
        assert_eq!(Ipv6Header::check(&packet).err(), Some(DropReason::Malformed));
    }
}
