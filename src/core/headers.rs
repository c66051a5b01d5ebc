//! What parsing found out about a frame. Later stages read this, and of the frame only what they change or quote.

use crate::address::{Addr4, Addr6, AddressFamily, FlowKey};

/// Whether a packet is a fragment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// A whole packet.
    #[default]
    Whole,
    /// The first fragment: it has the L4 header.
    First,
    /// A later fragment: no ports.
    Later,
    /// The whole of an IPv6 packet behind a fragment header (RFC 6946).
    Atomic,
}

/// Offsets and fields of an IPv4 or IPv6 packet in its frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Bytes before the IP header (14 plus VLAN tags).
    pub l3_offset: u16,
    /// Where the TCP, UDP, SCTP or ICMP header begins, from the start of the frame.
    pub l4_offset: u16,
    /// Where the IP packet ends; what follows is Ethernet padding.
    pub packet_end: u16,
    /// IPv4 or IPv6.
    pub family: AddressFamily,
    /// L4 protocol number, behind all extension headers.
    pub protocol: u8,
    /// Id of the outermost VLAN tag; 0 for untagged and priority-tagged frames.
    pub vlan: u16,
    /// TTL or hop limit as it arrived.
    pub ttl: u8,
    /// Flags byte of the TCP header; 0 for other protocols.
    pub tcp_flags: u8,
    /// Type of the SCTP chunk that decides what the packet means; 0 for other protocols.
    pub sctp_chunk: u8,
    /// Fragmentation.
    pub fragment: Fragment,
    /// The IPv4 DF bit; always set for IPv6, which routers never fragment.
    pub dont_fragment: bool,
}

impl Headers {
    /// Length of the IP packet in bytes: what IPVS counts as bytes.
    #[inline]
    pub const fn packet_len(&self) -> usize {
        self.packet_end as usize - self.l3_offset as usize
    }
}

/// The flow of a parsed packet. Ports are 0 for protocols without, and for later fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// IPv4.
    V4(FlowKey<Addr4>),
    /// IPv6.
    V6(FlowKey<Addr6>),
}
