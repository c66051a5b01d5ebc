//! The packet that an ICMP error quotes.
//!
//! In:  a frame that parsed as ICMP or ICMPv6.
//! Out: the flow of the quoted packet, turned round: the key of the connection the error is about.
//! Never: expects more of the quoted packet than eight octets behind its IP header, nor a right checksum in it.
//! Ref:  RFC 792, RFC 4443 2.4; Linux `ip_vs_in_icmp`.

use zerocopy::FromBytes;

use super::ipv6;
use crate::address::{Address, AddressFamily, Endpoint, FlowKey};
use crate::path::{Flow, Fragment, Headers};
use crate::wire::icmp::{self, IcmpHeader};
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv6::Ipv6Header;
use crate::wire::{sctp, tcp, udp};

/// The flow of the packet quoted in the ICMP error `frame`, with source and destination exchanged: as its
/// receiver would answer. `None` when the packet is no ICMP error, or the quoted one is too short or a later
/// fragment. Ports are 0 for protocols without.
pub fn embedded_flow(frame: &[u8], headers: &Headers) -> Option<Flow> {
    if headers.fragment != Fragment::Whole {
        return None;
    }
    let message = frame.get(usize::from(headers.l4_offset)..usize::from(headers.packet_end))?;
    let (icmp, quoted) = IcmpHeader::ref_from_prefix(message).ok()?;
    match (headers.family, headers.protocol) {
        (AddressFamily::Ipv4, icmp::PROTOCOL_V4) if icmp::is_v4_error(icmp.kind) => quoted_v4(quoted),
        (AddressFamily::Ipv6, icmp::PROTOCOL_V6) if icmp::is_v6_error(icmp.kind) => quoted_v6(quoted),
        _ => None,
    }
}

fn quoted_v4(quoted: &[u8]) -> Option<Flow> {
    let (ip, _) = Ipv4Header::ref_from_prefix(quoted).ok()?;
    let is_sound = ip.version_ihl >> 4 == 4 && ip.header_len() >= Ipv4Header::LEN && ip.fragment_offset() == 0;
    let segment = is_sound.then(|| quoted.get(ip.header_len()..))??;
    Some(Flow::V4(reversed(ip.src, ip.dst, ip.protocol, segment)?))
}

fn quoted_v6(quoted: &[u8]) -> Option<Flow> {
    let (ip, payload) = Ipv6Header::ref_from_prefix(quoted).ok()?;
    let end = ipv6::walk(ip.next_header, payload).ok()?;
    let is_sound = ip.version() == 6 && end.fragment != Fragment::Later;
    is_sound
        .then(|| reversed(ip.src, ip.dst, end.protocol, end.segment))?
        .map(Flow::V6)
}

fn reversed<A: Address>(src: A, dst: A, protocol: u8, segment: &[u8]) -> Option<FlowKey<A>> {
    let (src_port, dst_port) = match protocol {
        // These three begin alike.
        tcp::PROTOCOL | udp::PROTOCOL | sctp::PROTOCOL => {
            let ([src_high, src_low, dst_high, dst_low, ..], _) = segment.split_first_chunk::<8>()?;
            (
                u16::from_be_bytes([*src_high, *src_low]),
                u16::from_be_bytes([*dst_high, *dst_low]),
            )
        }
        _ => (0, 0),
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

    fn embedded(frame: &[u8]) -> Option<Flow> {
        let Ok(Parsed::Ip(headers, _)) = parse(frame) else {
            panic!("not an IP packet")
        };
        embedded_flow(frame, &headers)
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
        assert_eq!(embedded(&frame), Some(flow(&answer)));
    }

    #[test]
    fn eight_octets_of_the_upper_header_are_enough_and_seven_are_not() {
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
        assert_eq!(embedded(&error(40 + 8 + 8)), Some(flow(&answer)));
        assert_eq!(embedded(&error(40 + 8 + 7)), None);
    }

    #[test]
    fn an_echo_request_is_about_nothing() {
        let quoted = tcp4("192.0.2.1:80 > 198.51.100.1:40000").build();
        let ping = icmp4("198.51.100.1 > 192.0.2.1")
            .icmp(8, 0, 0)
            .payload(&quoted[14..])
            .build();
        assert_eq!(embedded(&ping), None);
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
        assert_eq!(embedded(&error), None);
    }
}
