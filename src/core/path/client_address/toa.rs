//! The client's address as a TCP option: 254 with an IPv4, 253 with an IPv6 address.
//!
//! In:  a segment on its way to the real server. Out: the same with one option more; sequence numbers are untouched.
//! Ref: Alibaba's TOA patch, DPVS ip_vs_proto_tcp.c `tcp_in_add_toa`, kmod/toa.

use crate::address::{Address, AddressFamily, Endpoint};
use crate::frame::Frame;
use crate::headers::Headers;
use crate::path::client_address::option_of;
use crate::path::client_address::segment::Segment;
use crate::wire::checksum;
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv6::Ipv6Header;
use crate::wire::tcp::TcpHeader;

const KIND_V4: u8 = 254;
const KIND_V6: u8 = 253;
/// Words of 4 bytes in the longest TCP header.
const WORDS_MAX: usize = 15;
/// Bytes of the option with an IPv6 address.
const LEN_MAX: usize = 20;

/// Bytes of the option: a multiple of 4.
pub(super) const fn len<A: Address>() -> u16 {
    4 + size_of::<A>() as u16
}

/// Puts the option behind the fixed header. Returns `false` and changes nothing where the option does not fit.
pub(super) fn insert<A: Address, F: Frame>(
    frame: &mut F,
    headers: &mut Headers,
    client: Endpoint<A>,
    mtu: u16,
) -> bool {
    let len = usize::from(len::<A>());
    let fixed_end = usize::from(headers.l4_offset) + TcpHeader::LEN;
    let Some(segment) = Segment::of(frame.bytes_mut(), headers) else {
        return false;
    };
    let words = segment.header.header_len() / 4 + len / 4;
    if words > WORDS_MAX || headers.packet_len() + len > usize::from(mtu) || !frame.prepend(len) {
        return false;
    }
    let mut option = [0; LEN_MAX];
    let option = option.get_mut(..len).unwrap_or_default();
    let kind = match A::FAMILY {
        AddressFamily::Ipv4 => KIND_V4,
        AddressFamily::Ipv6 => KIND_V6,
    };
    option_of(kind, client, option);
    open(frame.bytes_mut(), len, fixed_end, option);
    grow_packet(frame.bytes_mut(), headers, len as u16);
    if let Some(mut segment) = Segment::of(frame.bytes_mut(), headers) {
        segment.set_offset_flags(
            ((words as u8) << 4) | (segment.header.data_offset & 0x0f),
            segment.header.flags,
        );
        // The pseudo header has the length in it.
        segment.add(checksum::add(checksum::sum(option), len as u16));
    }
    true
}

/// Moves the first `until` bytes behind a fresh gap of `len` to the front, and puts `content` into the gap.
pub(super) fn open(bytes: &mut [u8], len: usize, until: usize, content: &[u8]) {
    if let Some(front) = bytes.get_mut(..until + len) {
        front.copy_within(len.., 0);
        if let Some(gap) = front.get_mut(until..) {
            gap.copy_from_slice(content);
        }
    }
}

/// The IP packet in `frame` is `len` bytes longer now: its length field and header checksum say so.
pub(super) fn grow_packet(frame: &mut [u8], headers: &mut Headers, len: u16) {
    set_packet_len(frame, headers, headers.packet_end + len);
}

/// The IP packet in `frame` ends at `packet_end` now: its length field and header checksum say so.
pub(super) fn set_packet_len(frame: &mut [u8], headers: &mut Headers, packet_end: u16) {
    use zerocopy::FromBytes;
    use zerocopy::network_endian::U16;
    let change = packet_end.wrapping_sub(headers.packet_end);
    headers.packet_end = packet_end;
    let Some(packet) = frame.get_mut(usize::from(headers.l3_offset)..) else {
        return;
    };
    match headers.family {
        AddressFamily::Ipv4 => {
            if let Ok((ip, _)) = Ipv4Header::mut_from_prefix(packet) {
                let (old, new) = (ip.total_len.get(), ip.total_len.get().wrapping_add(change));
                ip.total_len = U16::new(new);
                ip.checksum = U16::new(checksum::update(ip.checksum.get(), checksum::add(!old, new)));
            }
        }
        AddressFamily::Ipv6 => {
            if let Ok((ip, _)) = Ipv6Header::mut_from_prefix(packet) {
                ip.payload_len = U16::new(ip.payload_len.get().wrapping_add(change));
            }
        }
    }
}
