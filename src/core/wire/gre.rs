//! The GRE header (RFC 2784).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IP protocol number.
pub const PROTOCOL: u8 = 47;
/// Flag: checksum and reserved field follow.
pub const CHECKSUM_PRESENT: u16 = 0x8000;
/// Flags and version that the tunnels of IPVS never use: key, sequence number, routing, version.
pub const UNUSED_FLAGS: u16 = 0x7fff;

/// The header without its optional fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GreHeader {
    /// Flags and version.
    pub flags: U16,
    /// Ethertype of the inner packet.
    pub ethertype: U16,
}

/// What follows when [`CHECKSUM_PRESENT`] is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GreChecksum {
    /// Internet checksum of the GRE header and the inner packet.
    pub checksum: U16,
    /// Zero.
    pub reserved: U16,
}

const _: () = assert!(size_of::<GreHeader>() == 4 && size_of::<GreChecksum>() == 4);
