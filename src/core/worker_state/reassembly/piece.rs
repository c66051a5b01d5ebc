//! One fragment as it came in: whose it is and where in the datagram it belongs.

use std::ops::Range;

use zerocopy::FromBytes;

use crate::address::{Address, AddressFamily, FlowKey};
use crate::headers::Headers;
use crate::verdict::DropReason;
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv6::{
    ExtensionHeader, FragmentHeader, Ipv6Header, NEXT_DESTINATION, NEXT_FRAGMENT, NEXT_HOP_BY_HOP, NEXT_ROUTING,
};

/// Fragments of one datagram have this in common (RFC 791 3.2, RFC 8200 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FragmentKey {
    src: (u64, u64),
    dst: (u64, u64),
    identification: u32,
    /// IPv6: 0, as it is not part of what identifies a datagram there.
    protocol: u8,
    pub(crate) is_ipv6: bool,
}

impl FragmentKey {
    /// Keyed by `secret`, so that nobody can aim all fragments at one worker.
    pub(crate) fn hash(&self, secret: u64) -> u32 {
        let last = u64::from(self.identification) << 16 | u64::from(self.protocol) << 1 | u64::from(self.is_ipv6);
        let words = [self.src.0, self.src.1, self.dst.0, self.dst.1, last];
        let mixed = words.iter().fold(secret, |hash, word| {
            let product = u128::from(hash ^ word) * 0x9E37_79B9_7F4A_7C15;
            (product >> 64) as u64 ^ product as u64
        });
        (mixed >> 32) as u32
    }
}

/// See the module. Ranges are from the start of the frame.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) key: FragmentKey,
    /// Bytes of the datagram's payload before this one.
    pub(crate) offset: usize,
    /// Whether more follow.
    pub(crate) more: bool,
    /// DF was set (IPv4).
    pub(crate) dont_fragment: bool,
    /// Link header.
    pub(crate) l2: Range<usize>,
    /// IP header with options, or IPv6 with all up to the end of the fragment header.
    pub(crate) header: Range<usize>,
    /// From the start of `header`: where IPv6 says that a fragment header follows.
    pub(crate) next_header_at: usize,
    pub(crate) payload: Range<usize>,
}

impl Piece {
    /// Of the fragment in `frame`.
    pub(crate) fn read<A: Address>(frame: &[u8], headers: &Headers, key: &FlowKey<A>) -> Result<Self, DropReason> {
        let l3_offset = usize::from(headers.l3_offset);
        let packet = frame
            .get(l3_offset..usize::from(headers.packet_end))
            .ok_or(DropReason::Truncated)?;
        let mut piece = match A::FAMILY {
            AddressFamily::Ipv4 => {
                let (ip, _) = Ipv4Header::ref_from_prefix(packet).map_err(|_| DropReason::Truncated)?;
                Self {
                    key: FragmentKey {
                        src: key.src.addr.words(),
                        dst: key.dst.addr.words(),
                        identification: u32::from(ip.identification.get()),
                        protocol: ip.protocol,
                        is_ipv6: false,
                    },
                    offset: ip.fragment_offset(),
                    more: ip.more_fragments(),
                    dont_fragment: ip.dont_fragment(),
                    l2: 0..l3_offset,
                    header: 0..ip.header_len(),
                    next_header_at: 0,
                    payload: ip.header_len()..packet.len(),
                }
            }
            AddressFamily::Ipv6 => {
                let found = find_fragment_header(packet).ok_or(DropReason::Malformed)?;
                let end = found.at + FragmentHeader::LEN;
                Self {
                    key: FragmentKey {
                        src: key.src.addr.words(),
                        dst: key.dst.addr.words(),
                        identification: found.header.identification.get(),
                        protocol: 0,
                        is_ipv6: true,
                    },
                    offset: found.header.offset(),
                    more: found.header.more_fragments(),
                    dont_fragment: false,
                    l2: 0..l3_offset,
                    header: 0..end,
                    next_header_at: found.next_header_at,
                    payload: end..packet.len(),
                }
            }
        };
        let len = piece.payload.len();
        if len == 0 || (piece.more && !len.is_multiple_of(8)) {
            return Err(DropReason::FragmentMalformed);
        }
        for range in [&mut piece.header, &mut piece.payload] {
            *range = range.start + l3_offset..range.end + l3_offset;
        }
        Ok(piece)
    }
}

struct Found<'p> {
    at: usize,
    next_header_at: usize,
    header: &'p FragmentHeader,
}

fn find_fragment_header(packet: &[u8]) -> Option<Found<'_>> {
    let (ip, _) = Ipv6Header::ref_from_prefix(packet).ok()?;
    let mut next = ip.next_header;
    let mut next_header_at = std::mem::offset_of!(Ipv6Header, next_header);
    let mut at = Ipv6Header::LEN;
    // Each header moves `at` on by eight bytes at least.
    while let NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_DESTINATION = next {
        let (extension, _) = ExtensionHeader::ref_from_prefix(packet.get(at..)?).ok()?;
        next = extension.next_header;
        next_header_at = at;
        at += extension.options_len();
    }
    let (header, _) = FragmentHeader::ref_from_prefix(packet.get(at..)?).ok()?;
    (next == NEXT_FRAGMENT).then_some(Found {
        at,
        next_header_at,
        header,
    })
}
