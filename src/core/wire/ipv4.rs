//! The IPv4 header (RFC 791).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::address::Addr4;
use crate::verdict::DropReason;
use crate::wire::checksum;

/// Bytes of a packet that every link carries whole (RFC 791 3.2).
pub const MTU_MIN: u16 = 68;
/// Version 4 and the header length of a packet without options, in one byte.
pub const VERSION_IHL_WITHOUT_OPTIONS: u8 = 0x45;
/// The DF bit of [`Ipv4Header::flags_offset`].
pub const DONT_FRAGMENT: u16 = 0x4000;
/// The MF bit of [`Ipv4Header::flags_offset`].
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset, in units of 8 bytes, of [`Ipv4Header::flags_offset`].
pub const FRAGMENT_OFFSET_MASK: u16 = 0x1fff;

/// The header without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version (4 bits) and header length in words of 4 bytes (4 bits).
    pub version_ihl: u8,
    /// DSCP (6 bits) and ECN (2 bits).
    pub tos: u8,
    /// Bytes of the packet, this header included.
    pub total_len: U16,
    /// The number that all fragments of one packet have in common.
    pub identification: U16,
    /// Reserved, DF, MF and the fragment offset.
    pub flags_offset: U16,
    /// How many routers may still forward the packet.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Internet checksum of the header, options included.
    pub checksum: U16,
    /// Sender.
    pub src: Addr4,
    /// Receiver.
    pub dst: Addr4,
}

impl Ipv4Header {
    /// Bytes of a header without options.
    pub const LEN: usize = 20;

    /// The header of `packet`, verified: version, header length, total length (at most what is there) and
    /// checksum. `packet` may be longer than the total length: Ethernet padding.
    pub fn check(packet: &[u8]) -> Result<&Self, DropReason> {
        let (header, _) = Self::ref_from_prefix(packet).map_err(|_| DropReason::Truncated)?;
        let header_len = header.header_len();
        let total_len = usize::from(header.total_len.get());
        if header.version_ihl >> 4 != 4 || header_len < Self::LEN || total_len < header_len {
            return Err(DropReason::Malformed);
        }
        if total_len > packet.len() {
            return Err(DropReason::Truncated);
        }
        let with_options = packet.get(..header_len).ok_or(DropReason::Truncated)?;
        if checksum::sum(with_options) != checksum::VALID {
            return Err(DropReason::Ipv4Checksum);
        }
        Ok(header)
    }

    /// Bytes of the header with its options: 0 to 60.
    #[inline]
    pub const fn header_len(&self) -> usize {
        (self.version_ihl & 0x0f) as usize * 4
    }

    /// Whether the checksum of a header without options is right.
    #[inline(always)]
    pub fn is_checksum_valid_without_options(&self) -> bool {
        let words: [u32; 5] = zerocopy::transmute!(*self);
        // Whether the sum is all ones does not depend on the byte order of the words (RFC 1071 2 B).
        checksum::fold(words.iter().map(|&word| u64::from(word)).sum()) == checksum::VALID
    }

    /// Computes the checksum of a header without options.
    #[inline]
    pub fn fill_plain_checksum(&mut self) {
        self.checksum = U16::ZERO;
        self.checksum = U16::new(!checksum::sum(self.as_bytes()));
    }

    /// Computes the checksum of the header that begins at `l3_offset` of `frame`, with its options.
    pub(crate) fn fill_checksum_at(frame: &mut [u8], l3_offset: u16) {
        let Some(packet) = frame.get_mut(usize::from(l3_offset)..) else {
            return;
        };
        let header_len = match Self::mut_from_prefix(packet) {
            Ok((header, _)) => {
                header.checksum = U16::ZERO;
                header.header_len()
            }
            Err(_) => return,
        };
        let sum = packet.get(..header_len).map_or(0, checksum::sum);
        if let Ok((header, _)) = Self::mut_from_prefix(packet) {
            header.checksum = U16::new(!sum);
        }
    }

    /// Offset of this fragment's payload in the whole packet's payload, in bytes.
    #[inline]
    pub const fn fragment_offset(&self) -> usize {
        (self.flags_offset.get() & FRAGMENT_OFFSET_MASK) as usize * 8
    }

    /// Whether fragments follow.
    #[inline]
    pub const fn more_fragments(&self) -> bool {
        self.flags_offset.get() & MORE_FRAGMENTS != 0
    }

    /// Whether routers must not fragment it.
    #[inline]
    pub const fn dont_fragment(&self) -> bool {
        self.flags_offset.get() & DONT_FRAGMENT != 0
    }
}

const _: () = assert!(size_of::<Ipv4Header>() == Ipv4Header::LEN);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{hex, tcp4};

    /// nat_ttl: the first frame that the kernel's client sent.
    const RECORDED: &str = "45000028100140000206546a0a0000020a000064";

    #[test]
    fn a_recorded_header_is_valid_and_every_flipped_bit_is_noticed() {
        let good = hex(RECORDED);
        let header = Ipv4Header::ref_from_bytes(&good).unwrap();
        assert!(header.is_checksum_valid_without_options() && header.dont_fragment());
        for bit in 0..160 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(
                !Ipv4Header::ref_from_bytes(&bad)
                    .unwrap()
                    .is_checksum_valid_without_options(),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn filling_the_checksum_gives_the_recorded_one() {
        let mut header = Ipv4Header::read_from_bytes(&hex(RECORDED)).unwrap();
        header.checksum = U16::new(0x1234);
        header.fill_plain_checksum();
        assert_eq!(header.checksum.get(), 0x546a);
    }

    #[test]
    fn a_header_that_contradicts_itself_is_named() {
        let frame = tcp4("198.51.100.1:40000 > 192.0.2.1:80")
            .ip_options(&[1, 1, 1, 1])
            .build();
        let packet = &frame[14..];
        assert!(Ipv4Header::check(packet).is_ok());
        let with = |offset: usize, value: u8| {
            let mut packet = packet.to_vec();
            packet[offset] = value;
            Ipv4Header::check(&packet).err()
        };
        assert_eq!(with(0, 0x56), Some(DropReason::Malformed));
        assert_eq!(with(0, 0x44), Some(DropReason::Malformed));
        assert_eq!(with(3, 23), Some(DropReason::Malformed));
        assert_eq!(with(3, 45), Some(DropReason::Truncated));
        assert_eq!(with(20, 0), Some(DropReason::Ipv4Checksum));
        assert_eq!(Ipv4Header::check(&packet[..19]).err(), Some(DropReason::Truncated));
    }
}
