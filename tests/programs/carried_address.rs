//! Finds the client's address in packets that a FULLNAT director sent: TOA, UOA.
//!
//! In:  a packet as a raw socket hands it out: with its IPv4 header, or without its IPv6 headers.
//! Out: ports, and the client where the packet names one.

use std::net::{IpAddr, SocketAddr};

/// Between IPv6 and UDP.
pub const OPTION_PROTOCOL: u8 = 248;

const TOA_V4: u8 = 254;
const TOA_V6: u8 = 253;
const UOA: u8 = 31;

/// What a packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Port of the sender.
    pub port: u16,
    /// Port of the receiver.
    pub to_port: u16,
    /// Whether it is a SYN.
    pub is_syn: bool,
    /// The client, where it is named.
    pub client: Option<SocketAddr>,
}

/// A TCP segment.
pub fn of_segment(from: IpAddr, packet: &[u8]) -> Option<Carried> {
    let (_, segment) = behind_ip(from, packet)?;
    let header_len = usize::from(segment.get(12)? >> 4) * 4;
    let client = option(segment.get(20..header_len)?, &[TOA_V4, TOA_V6]);
    Some(Carried {
        client,
        is_syn: segment.get(13)? & 0x02 != 0,
        ..ports(segment)?
    })
}

/// A UDP datagram with its IPv4 header; behind IPv6 nothing is named so.
pub fn of_datagram(from: IpAddr, packet: &[u8]) -> Option<Carried> {
    let (options, datagram) = behind_ip(from, packet)?;
    Some(Carried {
        client: option(options, &[UOA]),
        ..ports(datagram)?
    })
}

/// A datagram behind the option protocol.
pub fn of_wrapped(from: IpAddr, packet: &[u8]) -> Option<Carried> {
    let (_, wrapped) = behind_ip(from, packet)?;
    let len = usize::from(word(wrapped, 2)?);
    Some(Carried {
        client: option(wrapped.get(4..len)?, &[UOA]),
        ..ports(wrapped.get(len..)?)?
    })
}

/// IPv4 options, and what is behind the IP header.
fn behind_ip(from: IpAddr, packet: &[u8]) -> Option<(&[u8], &[u8])> {
    if from.is_ipv6() {
        return Some((&[], packet));
    }
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    Some((packet.get(20..header_len)?, packet.get(header_len..)?))
}

fn ports(upper: &[u8]) -> Option<Carried> {
    Some(Carried {
        port: word(upper, 0)?,
        to_port: word(upper, 2)?,
        is_syn: false,
        client: None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// Port and address in the first option of one of these kinds.
fn option(mut options: &[u8], kinds: &[u8]) -> Option<SocketAddr> {
    loop {
        let kind = *options.first()?;
        if kind == 0 {
            return None;
        }
        let len = if kind == 1 {
            1
        } else {
            usize::from(*options.get(1)?).max(2)
        };
        if kinds.contains(&kind) {
            let value = options.get(2..len)?;
            let addr = match value.len() {
                6 => IpAddr::from(<[u8; 4]>::try_from(&value[2..]).ok()?),
                18 => IpAddr::from(<[u8; 16]>::try_from(&value[2..]).ok()?),
                _ => return None,
            };
            return Some(SocketAddr::new(addr, word(value, 0)?));
        }
        options = options.get(len..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

    #[test]
    fn toa_stands_among_the_options_of_a_segment() {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x90, 0x02, 0, 0, 0, 0, 0, 0]);
        packet.extend([2, 4, 5, 0xb4, 1, 1, 1, 1, 254, 8, 0x1f, 0x90, 198, 51, 100, 2]);
        let mut expected = Carried {
            port: 40_000,
            to_port: 80,
            is_syn: true,
            client: "198.51.100.2:8080".parse().ok(),
        };
        assert_eq!(of_segment(V4, &packet), Some(expected));
        packet[48] = 77;
        expected.client = None;
        assert_eq!(of_segment(V4, &packet), Some(expected));
        assert_eq!(of_segment(V4, &packet[..50]), None);
    }

    #[test]
    fn uoa_is_an_ip_option_or_a_protocol_of_its_own() {
        let mut packet = vec![0; 20];
        packet[0] = 0x47;
        packet.extend([31, 8, 0x1f, 0x90, 198, 51, 100, 2, 0x9c, 0x40, 0, 53, 0, 8, 0, 0]);
        let read = of_datagram(V4, &packet).unwrap();
        assert_eq!((read.port, read.client), (40_000, "198.51.100.2:8080".parse().ok()));
        let mut wrapped = vec![0x20, 17, 0, 24, 31, 20, 0x1f, 0x90, 0x20, 1, 0x0d, 0xb8];
        wrapped.extend([0; 11]);
        wrapped.extend([2, 0x9c, 0x40, 0, 53, 0, 8, 0, 0]);
        let read = of_wrapped(V6, &wrapped).unwrap();
        assert_eq!((read.to_port, read.client), (53, "[2001:db8::2]:8080".parse().ok()));
        assert_eq!(of_wrapped(V6, &wrapped[..20]), None);
    }
}
