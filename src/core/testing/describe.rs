//! One line about a frame, for the message of a failing test.

use std::fmt::Write;

use zerocopy::FromBytes;

use crate::address::{Address, FlowKey};
use crate::headers::{Flow, Fragment, Headers};
use crate::path::parse::{Parsed, embedded, parse};
use crate::wire::arp::{ArpPacket, OPERATION_REQUEST};
use crate::wire::ethernet::{ETHERTYPE_ARP, EthernetHeader};
use crate::wire::{icmp, sctp, tcp, udp};

/// Letters of the TCP flags, lowest bit first.
const TCP_FLAGS: &[u8] = b"FSRPAUEC";

/// One line about any bytes: `TCP S 198.51.100.1:40000 > 192.0.2.1:80 ttl 64 len 40 | MACs | 54 bytes`.
pub fn describe(frame: &[u8]) -> String {
    let what = match parse(frame) {
        Ok(Parsed::Ip(headers, Flow::V4(key))) => packet(frame, &headers, &key),
        Ok(Parsed::Ip(headers, Flow::V6(key))) => packet(frame, &headers, &key),
        Ok(Parsed::Other) => other(frame),
        Err(reason) => format!("{} {}", reason.name(), digits(frame)),
    };
    let macs = match EthernetHeader::ref_from_prefix(frame) {
        Ok((ethernet, _)) => format!("{} > {}", mac(&ethernet.src), mac(&ethernet.dst)),
        Err(_) => "no MACs".into(),
    };
    format!("{what} | {macs} | {} bytes", frame.len())
}

fn packet<A: Address>(frame: &[u8], headers: &Headers, key: &FlowKey<A>) -> String {
    let mut line = match headers.protocol {
        tcp::PROTOCOL => format!("TCP {}", flags(headers.tcp_flags)),
        udp::PROTOCOL => "UDP".into(),
        sctp::PROTOCOL => "SCTP".into(),
        icmp::PROTOCOL_V4 | icmp::PROTOCOL_V6 => message(frame, headers),
        protocol => format!("protocol {protocol}"),
    };
    let (src, dst) = (key.src, key.dst);
    let has_ports = src.port != 0 || dst.port != 0;
    let end = |addr: A, port: u16| {
        if has_ports {
            std::net::SocketAddr::new(addr.to_ip(), port).to_string()
        } else {
            addr.to_ip().to_string()
        }
    };
    let _ = write!(line, " {} > {}", end(src.addr, src.port), end(dst.addr, dst.port));
    let _ = write!(line, " ttl {} len {}", headers.ttl, headers.packet_len());
    if headers.dont_fragment && matches!(A::FAMILY, crate::address::AddressFamily::Ipv4) {
        line.push_str(" DF");
    }
    match headers.fragment {
        Fragment::Whole => {}
        Fragment::First => line.push_str(" first fragment"),
        Fragment::Later => line.push_str(" later fragment"),
        Fragment::Atomic => line.push_str(" atomic fragment"),
    }
    if headers.vlan != 0 {
        let _ = write!(line, " vlan {}", headers.vlan);
    }
    line
}

fn message(frame: &[u8], headers: &Headers) -> String {
    let message = frame.get(usize::from(headers.l4_offset)..usize::from(headers.packet_end));
    let Some([kind, code, ..]) = message else {
        return "ICMP cut".into();
    };
    match embedded(frame, headers).map(|quoted| quoted.reply) {
        Some(Flow::V4(key)) => format!("ICMP {kind}/{code} about {:?}:{}", key.dst.addr, key.dst.port),
        Some(Flow::V6(key)) => format!("ICMP {kind}/{code} about {:?}:{}", key.dst.addr, key.dst.port),
        None => format!("ICMP {kind}/{code}"),
    }
}

fn flags(byte: u8) -> String {
    let set = TCP_FLAGS.iter().enumerate().filter(|(bit, _)| byte & (1 << bit) != 0);
    let letters: String = set.map(|(_, &letter)| char::from(letter)).collect();
    if letters.is_empty() { "-".into() } else { letters }
}

fn other(frame: &[u8]) -> String {
    let Ok((ethernet, rest)) = EthernetHeader::ref_from_prefix(frame) else {
        return digits(frame);
    };
    match ArpPacket::ref_from_prefix(rest) {
        Ok((arp, _)) if ethernet.ethertype.get() == ETHERTYPE_ARP => {
            let what = if arp.operation.get() == OPERATION_REQUEST {
                "who has"
            } else {
                "reply to"
            };
            format!(
                "ARP {what} {:?} from {:?} {}",
                arp.target,
                arp.sender,
                mac(&arp.sender_mac)
            )
        }
        _ => format!("ethertype {:04x}", ethernet.ethertype.get()),
    }
}

fn mac(bytes: &[u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// The first bytes in hexadecimal.
fn digits(frame: &[u8]) -> String {
    frame.iter().take(64).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{hex, icmp4, tcp4, udp6};

    #[test]
    fn a_line_tells_what_differs_between_packets() {
        let syn = tcp4("198.51.100.1:40000 > 192.0.2.1:80")
            .syn()
            .dont_fragment()
            .vlan(7)
            .build();
        assert_eq!(
            describe(&syn),
            "TCP S 198.51.100.1:40000 > 192.0.2.1:80 ttl 64 len 40 DF vlan 7 | \
             02:00:00:00:01:02 > 02:00:00:00:00:01 | 58 bytes"
        );
        let fragment = udp6("[2001:db8::1]:1 > [2001:db8::2]:2")
            .fragment(8, false)
            .payload(b"x")
            .build();
        assert!(describe(&fragment).starts_with("UDP 2001:db8::1 > 2001:db8::2 ttl 64 len 49 later fragment"));
        let error = icmp4("192.0.2.9 > 198.51.100.1")
            .icmp(3, 3, 0)
            .payload(&syn[18..])
            .build();
        assert!(describe(&error).starts_with("ICMP 3/3 about 198.51.100.1:40000 192.0.2.9 > 198.51.100.1 "));
    }

    #[test]
    fn what_is_no_packet_is_described_too() {
        let arp = hex("ffffffffffff020000000102080600010800060400010200000001020a0000020000000000000a000064");
        assert!(describe(&arp).starts_with("ARP who has 10.0.0.100 from 10.0.0.2 02:00:00:00:01:02 |"));
        assert_eq!(describe(&[0xab]), "truncated ab | no MACs | 1 bytes");
        assert!(describe(&[0; 60]).starts_with("ethertype 0000 |"));
    }
}
