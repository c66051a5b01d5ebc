//! The SCTP common header (RFC 9260 3.1).

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IP protocol number.
pub const PROTOCOL: u8 = 132;

/// The common header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SctpHeader {
    /// Port of the sender.
    pub src_port: U16,
    /// Port of the receiver.
    pub dst_port: U16,
    /// Chosen by the receiver of this packet.
    pub verification_tag: U32,
    /// CRC32c of the packet, least significant octet first; addresses are not part of it.
    pub checksum: [u8; 4],
}

impl SctpHeader {
    /// Octets of the header.
    pub const LEN: usize = 12;
}

const _: () = assert!(size_of::<SctpHeader>() == SctpHeader::LEN);
