//! Finds the inner packet of IP in IP (protocols 4 and 41 in IPv4 or IPv6; RFC 2003, RFC 4213, RFC 2473).
//!
//! In:  a packet as a raw socket hands it out: with its IPv4 header, or without its IPv6 headers.
//! Out: the inner packet, cut to the length its own header says.

/// Which family carries the inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outer {
    /// A raw IPv4 socket keeps the header in front.
    Ipv4,
    /// A raw IPv6 socket has taken it off (RFC 3542 section 3).
    Ipv6,
}

/// The inner packet; `None` when there is no whole IP packet inside.
pub fn inner(outer: Outer, received: &[u8]) -> Option<&[u8]> {
    let payload = match outer {
        Outer::Ipv6 => received,
        Outer::Ipv4 => {
            let header_len = usize::from(received.first()? & 0x0f) * 4;
            received.get(header_len.max(20)..)?
        }
    };
    let word = |at: usize| {
        Some(usize::from(u16::from_be_bytes([
            *payload.get(at)?,
            *payload.get(at + 1)?,
        ])))
    };
    let len = match payload.first()? >> 4 {
        4 => word(2)?,
        6 => word(4)? + 40,
        _ => return None,
    };
    payload.get(..len).filter(|inner| inner.len() >= 20)
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
            assert_eq!(inner(Outer::Ipv4, &ipv4(&inner_packet)), Some(&inner_packet[..]));
            assert_eq!(inner(Outer::Ipv6, &inner_packet), Some(&inner_packet[..]));
        }
    }

    #[test]
    fn options_of_the_outer_header_are_skipped_and_padding_is_cut() {
        let mut outer = ipv4(&[]);
        outer[0] = 0x46;
        outer.extend([1, 1, 1, 1]);
        let inner_packet = ipv4(b"hello");
        outer.extend(&inner_packet);
        outer.extend([0; 7]);
        assert_eq!(inner(Outer::Ipv4, &outer), Some(&inner_packet[..]));
    }

    #[test]
    fn what_is_no_whole_packet_is_refused() {
        let whole = ipv4(&ipv6(b"hello"));
        for len in 0..whole.len() {
            assert_eq!(inner(Outer::Ipv4, &whole[..len]), None, "{len}");
        }
        assert_eq!(inner(Outer::Ipv6, &[0x50; 60]), None);
    }
}
