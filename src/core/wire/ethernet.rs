//! The Ethernet II header (IEEE 802.3 clause 3.2.6).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// An 802.1Q tag follows.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// An 802.1ad service tag follows.
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// Bytes of the shortest frame without FCS; senders pad up to it.
pub const FRAME_MIN: usize = 60;

/// The untagged header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EthernetHeader {
    /// Receiver.
    pub dst: [u8; 6],
    /// Sender.
    pub src: [u8; 6],
    /// What follows; below 0x600 the length of an 802.3 frame.
    pub ethertype: U16,
}

impl EthernetHeader {
    /// Bytes of the header.
    pub const LEN: usize = 14;

    /// Whether the frame is addressed to a group (multicast or broadcast).
    #[inline]
    pub const fn is_multicast(&self) -> bool {
        self.dst[0] & 1 != 0
    }
}

const _: () = assert!(size_of::<EthernetHeader>() == EthernetHeader::LEN);
