//! The packet that an ICMP error quotes.
//!
//! In:  a frame that parsed as ICMP or ICMPv6.
//! Out: where the quoted packet lies, and its flow turned round: the key of the connection the error is about.
//! Never: expects more of the quoted packet than the ports behind its IP header, nor a right checksum in it.
//! Ref:  RFC 792, RFC 4443 2.4; Linux `ip_vs_in_icmp`.

use zerocopy::FromBytes;

use super::ipv6;
use crate::address::{Address, AddressFamily, Endpoint, FlowKey};
use crate::headers::{Flow, Fragment, Headers};
use crate::wire::icmp::{self, IcmpHeader};
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv6::Ipv6Header;
use crate::wire::{sctp, tcp, udp};

/// A packet quoted in an ICMP error, with offsets from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// Source and destination exchanged: as its receiver would answer. Ports are 0 for protocols without.
    pub reply: Flow,
    /// Where its IP header begins.
    pub l3_offset: u16,
    /// Where its TCP, UDP, SCTP or tunnel header begins.
    pub l4_offset: u16,
    /// Its protocol, behind all extension headers.
    pub protocol: u8,
}

impl Embedded {
    /// Whether `protocol` begins with the two ports.
    pub(crate) const fn has_ports(protocol: u8) -> bool {
        matches!(protocol, tcp::PROTOCOL | udp::PROTOCOL | sctp::PROTOCOL)
    }
}

/// The packet quoted in the ICMP error `frame`. `None` when the packet is no ICMP error, or the quoted one is
/// too short or a later fragment.
pub fn embedded(frame: &[u8], headers: &Headers) -> Option<Embedded> {
    if headers.fragment != Fragment::Whole {
        return None;
    }
    let quoted_at = headers.l4_offset.checked_add(IcmpHeader::LEN as u16)?;
    let message = frame.get(usize::from(headers.l4_offset)..usize::from(headers.packet_end))?;
    let (icmp, _) = IcmpHeader::ref_from_prefix(message).ok()?;
    match (headers.family, headers.protocol) {
        (AddressFamily::Ipv4, icmp::PROTOCOL_V4) if icmp::is_v4_error(icmp.kind) => {
            quoted_v4(frame, quoted_at, headers.packet_end)
        }
        (AddressFamily::Ipv6, icmp::PROTOCOL_V6) if icmp::is_v6_error(icmp.kind) => {
            quoted_v6(frame, quoted_at, headers.packet_end)
        }
        _ => None,
    }
}

/// The IPv4 packet that begins at `l3_offset` of `frame` and is quoted up to `end`.
pub(crate) fn quoted_v4(frame: &[u8], l3_offset: u16, end: u16) -> Option<Embedded> {
    let quoted = frame.get(usize::from(l3_offset)..usize::from(end))?;
    let (ip, _) = Ipv4Header::ref_from_prefix(quoted).ok()?;
    let is_sound = ip.version_ihl >> 4 == 4 && ip.header_len() >= Ipv4Header::LEN && ip.fragment_offset() == 0;
    let segment = is_sound.then(|| quoted.get(ip.header_len()..))??;
    Some(Embedded {
        reply: Flow::V4(reversed(ip.src, ip.dst, ip.protocol, segment)?),
        l3_offset,
        l4_offset: l3_offset.checked_add(ip.header_len() as u16)?,
        protocol: ip.protocol,
    })
}

fn quoted_v6(frame: &[u8], l3_offset: u16, end: u16) -> Option<Embedded> {
    let quoted = frame.get(usize::from(l3_offset)..usize::from(end))?;
    let (ip, payload) = Ipv6Header::ref_from_prefix(quoted).ok()?;
    let upper = ipv6::walk(ip.next_header, payload).ok()?;
    let is_sound = ip.version() == 6 && upper.fragment != Fragment::Later;
    let reply = is_sound.then(|| reversed(ip.src, ip.dst, upper.protocol, upper.segment))??;
    Some(Embedded {
        reply: Flow::V6(reply),
        l3_offset,
        l4_offset: end.checked_sub(upper.segment.len() as u16)?,
        protocol: upper.protocol,
    })
}

fn reversed<A: Address>(src: A, dst: A, protocol: u8, segment: &[u8]) -> Option<FlowKey<A>> {
    let (src_port, dst_port) = if Embedded::has_ports(protocol) {
        let ([src_high, src_low, dst_high, dst_low], _) = segment.split_first_chunk::<4>()?;
        (
            u16::from_be_bytes([*src_high, *src_low]),
            u16::from_be_bytes([*dst_high, *dst_low]),
        )
    } else {
        (0, 0)
    };
    Some(FlowKey {
        src: Endpoint::new(dst, dst_port),
        dst: Endpoint::new(src, src_port),
        protocol,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::parse::{Parsed, parse};
    use crate::testing::{hex, icmp4, icmp6, tcp4, udp6};

    fn reply_to_quoted(frame: &[u8]) -> Option<Flow> {
        let Ok(Parsed::Ip(headers, _)) = parse(frame) else {
            panic!("not an IP packet")
        };
        embedded(frame, &headers).map(|quoted| quoted.reply)
    }

    fn flow(frame: &[u8]) -> Flow {
        let Ok(Parsed::Ip(_, flow)) = parse(frame) else {
            panic!("not an IP packet")
        };
        flow
    }

    #[test]
    fn a_recorded_error_is_about_the_flow_it_quotes() {
        // nat_ttl: time exceeded from the VIP.
        let frame = hex(
            "020000000102020000000001080045c00044e90c000040017c870a0000640a0000020b0009800000000045000028\
             10034000010655680a0000020a000064b3b00050000003e900001389501072105dec0000",
        );
        let answer = tcp4("10.0.0.100:80 > 10.0.0.2:46000").build();
        assert_eq!(reply_to_quoted(&frame), Some(flow(&answer)));
    }

    #[test]
    fn the_ports_are_enough_and_three_bytes_of_them_are_not() {
        let quoted = udp6("[2001:db8::1]:53 > [2001:db8::2]:4000")
            .destination_options(8)
            .payload(b"12345678")
            .build();
        let answer = udp6("[2001:db8::2]:4000 > [2001:db8::1]:53").build();
        let error = |len: usize| {
            icmp6("2001:db8::9 > 2001:db8::1")
                .icmp(1, 4, 0)
                .payload(&quoted[14..14 + len])
                .build()
        };
        assert_eq!(reply_to_quoted(&error(40 + 8 + 4)), Some(flow(&answer)));
        assert_eq!(reply_to_quoted(&error(40 + 8 + 3)), None);
    }

    #[test]
    fn an_echo_request_is_about_nothing() {
        let quoted = tcp4("192.0.2.1:80 > 198.51.100.1:40000").build();
        let ping = icmp4("198.51.100.1 > 192.0.2.1")
            .icmp(8, 0, 0)
            .payload(&quoted[14..])
            .build();
        assert_eq!(reply_to_quoted(&ping), None);
    }

    #[test]
    fn a_quoted_later_fragment_is_about_nothing() {
        let quoted = udp6("[2001:db8::1]:53 > [2001:db8::2]:4000")
            .fragment(8, true)
            .payload(&[0; 16])
            .build();
        let error = icmp6("2001:db8::9 > 2001:db8::1")
            .icmp(1, 4, 0)
            .payload(&quoted[14..])
            .build();
        assert_eq!(reply_to_quoted(&error), None);
    }
}
