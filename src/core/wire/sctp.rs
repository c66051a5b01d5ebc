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
    /// CRC32c of the packet, least significant byte first; addresses are not part of it.
    pub checksum: [u8; 4],
}

impl SctpHeader {
    /// Bytes of the header.
    pub const LEN: usize = 12;
}

/// Chunk types that matter to the path (RFC 9260 3.2).
pub const CHUNK_INIT: u8 = 1;
/// See [`CHUNK_INIT`].
pub const CHUNK_ABORT: u8 = 6;
/// See [`CHUNK_INIT`].
pub const CHUNK_COOKIE_ECHO: u8 = 10;
/// See [`CHUNK_INIT`].
pub const CHUNK_COOKIE_ACK: u8 = 11;
/// Reserved by the IETF. It stands for the chunk of a packet without a whole chunk header.
pub const CHUNK_NONE: u8 = 255;
/// Type, flags and length of a chunk.
const CHUNK_HEADER_LEN: usize = 4;

/// Type of the chunk that decides what a packet means: the first, or the ABORT bundled behind a COOKIE ECHO
/// or COOKIE ACK (Linux ip_vs_proto_sctp.c `set_sctp_state`).
pub fn deciding_chunk(chunks: &[u8]) -> u8 {
    let Some(&[first, _, high, low]) = chunks.first_chunk() else {
        return CHUNK_NONE;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let bundles = matches!(first, CHUNK_COOKIE_ECHO | CHUNK_COOKIE_ACK) && length >= CHUNK_HEADER_LEN;
    let second = chunks.get(length.next_multiple_of(4)..).unwrap_or_default();
    match second.first_chunk::<CHUNK_HEADER_LEN>() {
        Some(&[CHUNK_ABORT, ..]) if bundles => CHUNK_ABORT,
        _ => first,
    }
}

/// The checksum of a packet that begins with `packet`'s common header, whose own field counts as zero
/// (RFC 9260 6.8, appendix A).
pub fn checksum(packet: &[u8]) -> [u8; 4] {
    let (before, behind) = packet.split_at(packet.len().min(8));
    let crc = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    crc32c::crc32c_append(crc, behind.get(4..).unwrap_or_default()).to_le_bytes()
}

const _: () = assert!(size_of::<SctpHeader>() == SctpHeader::LEN);

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, from the polynomial of RFC 9260 appendix A.
    fn crc_by_definition(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
            }
        }
        !crc
    }

    #[test]
    fn checksum_is_the_crc_of_the_packet_with_a_zero_field() {
        let mut packet: Vec<u8> = (0..77).collect();
        let computed = checksum(&packet);
        packet[8..12].fill(0);
        assert_eq!(computed, crc_by_definition(&packet).to_le_bytes());
        // RFC 3720 B.4: 32 bytes of zeroes.
        assert_eq!(crc_by_definition(&[0; 32]), 0x8A91_36AA);
    }

    #[test]
    fn an_abort_behind_a_cookie_decides_and_other_second_chunks_do_not() {
        let cookie = |second: u8| [10, 0, 0, 5, 1, 0, 0, 0, second, 0, 0, 4];
        assert_eq!(deciding_chunk(&cookie(CHUNK_ABORT)), CHUNK_ABORT);
        assert_eq!(deciding_chunk(&cookie(0)), CHUNK_COOKIE_ECHO);
        assert_eq!(deciding_chunk(&[0, 0, 0, 4, CHUNK_ABORT, 0, 0, 4]), 0);
        assert_eq!(deciding_chunk(&[CHUNK_COOKIE_ECHO, 0, 0xFF, 0xFF]), CHUNK_COOKIE_ECHO);
        assert_eq!(deciding_chunk(&[1, 0, 0]), CHUNK_NONE);
    }
}
