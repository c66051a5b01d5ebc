//! The TCP header (RFC 9293).

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::verdict::DropReason;

/// IP protocol number.
pub const PROTOCOL: u8 = 6;

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// First packet of a connection.
pub const SYN: u8 = 0x02;
/// The connection is dead.
pub const RST: u8 = 0x04;
/// Deliver at once.
pub const PSH: u8 = 0x08;
/// The acknowledgement number counts.
pub const ACK: u8 = 0x10;
/// The urgent pointer counts.
pub const URG: u8 = 0x20;

/// The header without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TcpHeader {
    /// Port of the sender.
    pub src_port: U16,
    /// Port of the receiver.
    pub dst_port: U16,
    /// Number of the first byte.
    pub sequence: U32,
    /// Number of the next byte expected.
    pub acknowledgement: U32,
    /// Header length in words of 4 bytes (4 bits), reserved.
    pub data_offset: u8,
    /// See [`SYN`] and its neighbours.
    pub flags: u8,
    /// Bytes the sender is ready to take.
    pub window: U16,
    /// Internet checksum of pseudo header and segment.
    pub checksum: U16,
    /// Urgent data, see [`URG`].
    pub urgent: U16,
}

impl TcpHeader {
    /// Bytes of a header without options.
    pub const LEN: usize = 20;

    /// The header of `segment`. As in the kernel, its header length is not checked; the receiver handles a wrong
    /// length.
    #[inline]
    pub fn check(segment: &[u8]) -> Result<&Self, DropReason> {
        let (header, _) = Self::ref_from_prefix(segment).map_err(|_| DropReason::Truncated)?;
        Ok(header)
    }

    /// Bytes of the header with its options: 0 to 60.
    #[inline]
    pub const fn header_len(&self) -> usize {
        (self.data_offset >> 4) as usize * 4
    }
}

const _: () = assert!(size_of::<TcpHeader>() == TcpHeader::LEN);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_bytes_are_a_header_whatever_its_own_length_says() {
        let mut segment = [0; 24];
        for offset in [0x00, 0x40, 0x60, 0xf0] {
            segment[12] = offset;
            assert!(TcpHeader::check(&segment).is_ok());
        }
        assert_eq!(TcpHeader::check(&segment[..19]).err(), Some(DropReason::Truncated));
    }
}
