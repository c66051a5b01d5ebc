//! The UDP header (RFC 768).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::path::DropReason;

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
    /// Octets of header and data.
    pub len: U16,
    /// Internet checksum of pseudo header and datagram; 0 when the sender computed none.
    pub checksum: U16,
}

impl UdpHeader {
    /// Octets of the header.
    pub const LEN: usize = 8;

    /// The header of `datagram`, with its length verified. What is behind the length is not data.
    #[inline]
    pub fn check(datagram: &[u8]) -> Result<&Self, DropReason> {
        let header = Self::check_first(datagram)?;
        if usize::from(header.len.get()) > datagram.len() {
            Err(DropReason::Malformed)
        } else {
            Ok(header)
        }
    }

    /// Like [`Self::check`] for a first fragment, whose length tells about fragments to come.
    #[inline]
    pub fn check_first(fragment: &[u8]) -> Result<&Self, DropReason> {
        let (header, _) = Self::ref_from_prefix(fragment).map_err(|_| DropReason::Truncated)?;
        if usize::from(header.len.get()) < Self::LEN {
            Err(DropReason::Malformed)
        } else {
            Ok(header)
        }
    }
}

const _: () = assert!(size_of::<UdpHeader>() == UdpHeader::LEN);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_within_the_datagram_and_not_below_the_header() {
        let mut datagram = [0; 12];
        for (len, expected) in [
            (7, Some(DropReason::Malformed)),
            (8, None),
            (12, None),
            (13, Some(DropReason::Malformed)),
        ] {
            datagram[5] = len;
            assert_eq!(UdpHeader::check(&datagram).err(), expected, "length {len}");
        }
        assert!(UdpHeader::check_first(&datagram).is_ok());
        assert_eq!(UdpHeader::check(&datagram[..7]).err(), Some(DropReason::Truncated));
    }
}
