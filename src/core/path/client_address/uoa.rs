//! The client's address in front of a UDP datagram: IPv4 option 31, or between IPv6 and UDP the option protocol 248.
//!
//! In:  one of the first datagrams of a connection. Out: the same, longer; the UDP header and its checksum stay, as
//!      the reader takes out what was put in.
//! Ref: DPVS include/uoa.h, kmod/uoa.

use zerocopy::FromBytes;
use zerocopy::network_endian::U16;

use crate::address::{Address, AddressFamily, Endpoint};
use crate::frame::Frame;
use crate::headers::Headers;
use crate::path::client_address::option_of;
use crate::path::client_address::toa::{grow_packet, open};
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv6::Ipv6Header;
use crate::wire::{checksum, udp};

/// Not copied into fragments, of the control class.
const OPTION: u8 = 31;
const OPTION_PROTOCOL: u8 = 248;
/// Of the option protocol: its version for IPv6 options.
const VERSION_V6: u8 = 0x20;
/// Bytes of the option protocol's fixed header.
const FIXED_LEN: usize = 4;
/// Words of 4 bytes in the longest IPv4 header.
const IHL_MAX: usize = 15;

/// Inserts the option. Returns `false` and changes nothing where the option does not fit.
pub(super) fn insert<A: Address, F: Frame>(
    frame: &mut F,
    headers: &mut Headers,
    client: Endpoint<A>,
    mtu: u16,
) -> bool {
    let mut buffer = [0; FIXED_LEN + 4 + 16];
    let option_len = 4 + size_of::<A>();
    let (begin, len) = match A::FAMILY {
        AddressFamily::Ipv4 => (0, option_len),
        AddressFamily::Ipv6 => (FIXED_LEN, FIXED_LEN + option_len),
    };
    let Some(content) = buffer.get_mut(..len) else {
        return false;
    };
    if let Some(option) = content.get_mut(begin..) {
        option_of(OPTION, client, option);
    }
    if headers.packet_len() + len > usize::from(mtu) || !fits(headers, len) || !frame.prepend(len) {
        return false;
    }
    let l3_offset = usize::from(headers.l3_offset);
    let until = match A::FAMILY {
        AddressFamily::Ipv4 => l3_offset + Ipv4Header::LEN,
        AddressFamily::Ipv6 => {
            let fixed = [VERSION_V6, udp::PROTOCOL, 0, len as u8];
            for (to, from) in content.iter_mut().zip(fixed) {
                *to = from;
            }
            l3_offset + Ipv6Header::LEN
        }
    };
    open(frame.bytes_mut(), len, until, content);
    headers.l4_offset += len as u16;
    grow_packet(frame.bytes_mut(), headers, len as u16);
    let Some(packet) = frame.bytes_mut().get_mut(l3_offset..) else {
        return true;
    };
    match A::FAMILY {
        AddressFamily::Ipv4 => {
            if let Ok((ip, _)) = Ipv4Header::mut_from_prefix(packet) {
                let words = (len / 4) as u8;
                ip.version_ihl += words;
                // The header length is in the high byte of its word.
                let delta = checksum::add(checksum::sum(content), u16::from(words) << 8);
                ip.checksum = U16::new(checksum::update(ip.checksum.get(), delta));
            }
        }
        AddressFamily::Ipv6 => {
            if let Ok((ip, _)) = Ipv6Header::mut_from_prefix(packet) {
                ip.next_header = OPTION_PROTOCOL;
            }
        }
    }
    true
}

/// Whether an option of `len` bytes fits. An IPv4 header holds at most 40 bytes of options. In IPv6 the reader looks
/// for the option protocol directly behind the IPv6 header.
const fn fits(headers: &Headers, len: usize) -> bool {
    let header_len = headers.l4_offset.saturating_sub(headers.l3_offset) as usize;
    match headers.family {
        AddressFamily::Ipv4 => header_len + len <= IHL_MAX * 4,
        AddressFamily::Ipv6 => header_len == Ipv6Header::LEN,
    }
}
