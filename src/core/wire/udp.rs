//! The UDP header (RFC 768).
//!
//! The path does not use its length field. The kernel forwards a datagram whose length contradicts the IP packet's
//! unchanged, and only the receiver checks it.

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IP protocol number.
pub const PROTOCOL: u8 = 17;

/// The header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UdpHeader {
    /// Port of the sender.
    pub src_port: U16,
    /// Port of the receiver.
    pub dst_port: U16,
    /// Bytes of header and data.
    pub len: U16,
    /// Internet checksum of pseudo header and datagram; 0 when the sender computed none.
    pub checksum: U16,
}

impl UdpHeader {
    /// Bytes of the header.
    pub const LEN: usize = 8;
}

const _: () = assert!(size_of::<UdpHeader>() == UdpHeader::LEN);
