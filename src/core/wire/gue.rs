//! The base header of generic UDP encapsulation, version 0 (draft-ietf-intarea-gue; Linux net/gue.h).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The header without its optional fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GueHeader {
    /// Version (2 bits), control flag, length of the optional fields in words of 4 bytes (5 bits).
    pub version_len: u8,
    /// IP protocol number of the inner packet.
    pub protocol: u8,
    /// Which optional fields there are.
    pub flags: U16,
}

impl GueHeader {
    /// Bytes of the optional fields; `None` for a control message or another version.
    pub const fn options_len(&self) -> Option<u16> {
        if self.version_len & 0xe0 == 0 {
            Some((self.version_len & 0x1f) as u16 * 4)
        } else {
            None
        }
    }
}

const _: () = assert!(size_of::<GueHeader>() == 4);
