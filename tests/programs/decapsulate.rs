//! Finds the inner packet of a tunnel: IP in IP (protocols 4 and 41 in IPv4 or IPv6; RFC 2003, RFC 4213, RFC 2473),
//! GRE (RFC 2784), GUE over UDP (draft-ietf-intarea-gue, Linux net/ipv4/fou_core.c).
//!
//! In:  a packet as a raw socket hands it out: with its IPv4 header, or without its IPv6 headers. A datagram of GUE.
//! Out: the inner packet, cut to the length its own header says.

/// Which family carries the inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outer {
    /// A raw IPv4 socket keeps the header in front.
    Ipv4,
    /// A raw IPv6 socket has taken it off (RFC 3542 section 3), and a UDP socket all its headers.
    Taken,
}

/// The headers between the outer IP header and the inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// Nothing.
    Nothing,
    /// A GRE header, perhaps with a checksum.
    Gre,
    /// A GUE header.
    Gue,
    /// A UDP header to this port, without the checksum that sockets of IPv6 insist on, and a GUE header.
    GueUnsummed(u16),
}

const GRE_CHECKSUM: u8 = 0x80;

/// The inner packet; `None` when there is no whole IP packet inside, or a checksum is wrong.
pub fn inner(outer: Outer, between: Between, received: &[u8]) -> Option<&[u8]> {
    let payload = match outer {
        Outer::Taken => received,
        Outer::Ipv4 => {
            let header_len = usize::from(received.first()? & 0x0f) * 4;
            let total_len = usize::from(word(received, 2)?);
            received.get(header_len.max(20)..total_len)?
        }
    };
    let packet = match between {
        Between::Nothing => payload,
        Between::Gre => behind_gre(payload)?,
        Between::Gue => behind_gue(payload)?,
        Between::GueUnsummed(port) => {
            let is_it = word(payload, 2)? == port && word(payload, 6)? == 0;
            behind_gue(payload.get(8..).filter(|_| is_it)?)?
        }
    };
    let len = match packet.first()? >> 4 {
        4 => usize::from(word(packet, 2)?),
        6 => usize::from(word(packet, 4)?) + 40,
        _ => return None,
    };
    packet.get(..len).filter(|inner| inner.len() >= 20)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn behind_gre(gre: &[u8]) -> Option<&[u8]> {
    let (flags, version) = (*gre.first()?, *gre.get(1)?);
    let has_checksum = flags & GRE_CHECKSUM != 0;
    if flags & !GRE_CHECKSUM != 0 || version != 0 || (has_checksum && !is_sum_right(gre)) {
        return None;
    }
    matches!(word(gre, 2)?, 0x0800 | 0x86dd).then_some(())?;
    gre.get(if has_checksum { 8 } else { 4 }..)
}

/// RFC 1071, over all of it.
fn is_sum_right(bytes: &[u8]) -> bool {
    let mut sum: u64 = bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u64::from(low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}

fn behind_gue(gue: &[u8]) -> Option<&[u8]> {
    let first = *gue.first()?;
    let (version, is_control, optional) = (first >> 6, first & 0x20 != 0, usize::from(first & 0x1f) * 4);
    if version != 0 || is_control || !matches!(gue.get(1)?, 4 | 41) {
        return None;
    }
    gue.get(4 + optional..)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, (20 + payload.len()) as u8];
        packet.resize(20, 0);
        packet.extend(payload);
        packet
    }

    fn ipv6(payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8];
        packet.resize(40, 0);
        packet.extend(payload);
        packet
    }

    #[test]
    fn all_four_pairs_come_out_whole() {
        for inner_packet in [ipv4(b"hello"), ipv6(b"hello")] {
            assert_eq!(
                inner(Outer::Ipv4, Between::Nothing, &ipv4(&inner_packet)),
                Some(&inner_packet[..])
            );
            assert_eq!(
                inner(Outer::Taken, Between::Nothing, &inner_packet),
                Some(&inner_packet[..])
            );
        }
    }

    #[test]
    fn options_of_the_outer_header_are_skipped_and_padding_is_cut() {
        let mut outer = ipv4(&[]);
        outer[0] = 0x46;
        outer.extend([1, 1, 1, 1]);
        let inner_packet = ipv4(b"hello");
        outer.extend(&inner_packet);
        outer[3] = outer.len() as u8;
        outer.extend([0; 7]);
        assert_eq!(inner(Outer::Ipv4, Between::Nothing, &outer), Some(&inner_packet[..]));
    }

    #[test]
    fn what_is_no_whole_packet_is_refused() {
        let whole = ipv4(&ipv6(b"hello"));
        for len in 0..whole.len() {
            assert_eq!(inner(Outer::Ipv4, Between::Nothing, &whole[..len]), None, "{len}");
        }
        assert_eq!(inner(Outer::Taken, Between::Nothing, &[0x50; 60]), None);
    }

    #[test]
    fn gre_is_taken_off_and_its_checksum_is_checked() {
        let inner_packet = ipv4(b"hello");
        let plain = [&[0, 0, 0x08, 0x00][..], &inner_packet].concat();
        assert_eq!(inner(Outer::Taken, Between::Gre, &plain), Some(&inner_packet[..]));
        let mut summed = [&[0x80, 0, 0x08, 0x00, 0, 0, 0, 0][..], &inner_packet].concat();
        assert_eq!(inner(Outer::Taken, Between::Gre, &summed), None);
        // 8000 + 0800 + the inner packet's words 4500 0019, 6865 6c6c 6f00.
        let sum: u32 = [0x8000, 0x0800, 0x4500, 0x0019, 0x6865, 0x6c6c, 0x6f00].iter().sum();
        let folded = !((sum & 0xffff) + (sum >> 16)) as u16;
        summed[4..6].copy_from_slice(&folded.to_be_bytes());
        assert_eq!(inner(Outer::Taken, Between::Gre, &summed), Some(&inner_packet[..]));
        assert_eq!(
            inner(Outer::Ipv4, Between::Gre, &ipv4(&summed)),
            Some(&inner_packet[..])
        );
    }

    #[test]
    fn gue_is_taken_off_with_its_options_and_control_messages_are_refused() {
        let inner_packet = ipv6(b"hello");
        let wrapped = |head: &[u8]| [head, &inner_packet].concat();
        let plain = wrapped(&[0, 41, 0, 0]);
        assert_eq!(inner(Outer::Taken, Between::Gue, &plain), Some(&inner_packet[..]));
        let with_option = wrapped(&[1, 41, 0, 1, 0, 0, 0, 0]);
        assert_eq!(inner(Outer::Taken, Between::Gue, &with_option), Some(&inner_packet[..]));
        assert_eq!(inner(Outer::Taken, Between::Gue, &wrapped(&[0x20, 41, 0, 0])), None);
        assert_eq!(inner(Outer::Taken, Between::Gue, &wrapped(&[0, 17, 0, 0])), None);
    }

    #[test]
    fn gue_without_a_checksum_is_taken_off_with_its_udp_header() {
        let inner_packet = ipv6(b"hello");
        let datagram =
            |checksum: u8| [&[0, 1, 0x17, 0xc0, 0, 57, 0, checksum, 0, 41, 0, 0][..], &inner_packet].concat();
        let found = |port, checksum| inner(Outer::Taken, Between::GueUnsummed(port), &datagram(checksum)).is_some();
        assert_eq!((found(6080, 0), found(6080, 1), found(6081, 0)), (true, false, false));
    }
}
