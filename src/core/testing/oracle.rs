//! The slow, obvious twin of incremental checksums: it computes every checksum from scratch, by its definition.

use crate::address::{Addr4, Addr6};
use crate::headers::{Flow, Fragment, Headers};
use crate::path::parse::{Parsed, parse};
use crate::wire::{icmp, sctp, tcp, udp};

/// The Internet checksum (RFC 1071) of the concatenated `parts`. All but the last must have an even length.
pub(super) fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// CRC32c (RFC 9260 appendix A), bit by bit. SCTP sends its least significant byte first.
pub fn crc32c(bytes: &[u8]) -> u32 {
    /// The Castagnoli polynomial, reflected.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |crc: u32| {
        if crc & 1 == 0 {
            crc >> 1
        } else {
            (crc >> 1) ^ POLYNOMIAL
        }
    };
    !bytes
        .iter()
        .fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}

/// What is wrong with the checksums of a frame, one phrase each; nothing when all are right. Of a fragment only the IP
/// header is checked, and of a frame without an IP packet nothing.
pub fn checksum_faults(frame: &[u8]) -> Vec<String> {
    let (headers, flow) = match parse(frame) {
        Ok(Parsed::Ip(headers, flow)) => (headers, flow),
        Ok(Parsed::Other) => return Vec::new(),
        Err(reason) => return vec![format!("does not parse: {}", reason.name())],
    };
    let mut faults = Vec::new();
    if matches!(flow, Flow::V4(_)) {
        let header = &frame[usize::from(headers.l3_offset)..usize::from(headers.l4_offset)];
        faults.extend(fault("IPv4 header", internet_checksum(&[header])));
    }
    if headers.fragment == Fragment::Whole {
        faults.extend(upper_fault(frame, &headers, &flow));
    }
    faults
}

fn upper_fault(frame: &[u8], headers: &Headers, flow: &Flow) -> Option<String> {
    let segment = &frame[usize::from(headers.l4_offset)..usize::from(headers.packet_end)];
    match headers.protocol {
        tcp::PROTOCOL => fault("TCP", with_pseudo_header(flow, segment)),
        icmp::PROTOCOL_V4 if matches!(flow, Flow::V4(_)) => fault("ICMP", internet_checksum(&[segment])),
        icmp::PROTOCOL_V6 if matches!(flow, Flow::V6(_)) => fault("ICMPv6", with_pseudo_header(flow, segment)),
        udp::PROTOCOL => {
            let len = usize::from(u16::from_be_bytes([segment[4], segment[5]]));
            let Some(datagram) = segment.get(..len).filter(|_| len >= 8) else {
                return Some(format!("UDP length {len} in a packet of {}", segment.len()));
            };
            match (flow, &datagram[6..8]) {
                (Flow::V4(_), [0, 0]) => None,
                (Flow::V6(_), [0, 0]) => Some("no UDP checksum over IPv6".into()),
                _ => fault("UDP", with_pseudo_header(flow, datagram)),
            }
        }
        sctp::PROTOCOL => {
            let mut packet = segment.to_vec();
            packet[8..12].fill(0);
            let found = u32::from_le_bytes([segment[8], segment[9], segment[10], segment[11]]);
            let expected = crc32c(&packet);
            (found != expected).then(|| format!("SCTP checksum {found:08x} instead of {expected:08x}"))
        }
        _ => None,
    }
}

fn with_pseudo_header(flow: &Flow, segment: &[u8]) -> u16 {
    let (addresses, protocol) = match flow {
        Flow::V4(key) => (
            [key.src.addr, key.dst.addr].map(|Addr4(bytes)| bytes).concat(),
            key.protocol,
        ),
        Flow::V6(key) => (
            [key.src.addr, key.dst.addr].map(|Addr6(bytes)| bytes).concat(),
            key.protocol,
        ),
    };
    let [len_high, len_low] = (segment.len() as u16).to_be_bytes();
    internet_checksum(&[&addresses, &[0, protocol, len_high, len_low], segment])
}

/// Data that contain their right checksum have the checksum 0.
fn fault(what: &str, checksum: u16) -> Option<String> {
    (checksum != 0).then(|| format!("{what} checksum off by {checksum:04x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{hex, sctp4, tcp4, udp6};

    #[test]
    fn the_check_value_of_crc32c_comes_out() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn frames_of_the_kernel_have_no_faults() {
        // nat_ttl: a SYN as it went out; no_dest: an ICMP error; v6_no_dest: an ICMPv6 error.
        for frame in [
            "02000000020b02000000000208004500002810014000010655c20a0000020a01000bb3b01f90000003e80000000050027210529c0000",
            "020000000102020000000001080045c0003d6fcd00004001f5cd0a0000640a000002030311810000000045000021\
             10074000401116600a0000020a000064bf680035000ddbe87175657279",
            "02000000010202000000000186dd600b92c500393a40fd00000a000000000000000000000100fd00000a0000000000000000\
             0000000201049241000000006000000000091140fd00000a000000000000000000000002fd00000a00000000000000000000\
             01009c4000350009f74e71",
        ] {
            assert_eq!(checksum_faults(&hex(frame)), Vec::<String>::new());
        }
    }

    #[test]
    fn wrong_checksums_are_found() {
        let wrong = [
            tcp4("198.51.100.1:1 > 192.0.2.1:2").wrong_checksum().build(),
            udp6("[2001:db8::1]:1 > [2001:db8::2]:2").wrong_checksum().build(),
            udp6("[2001:db8::1]:1 > [2001:db8::2]:2").without_checksum().build(),
            sctp4("198.51.100.1:1 > 192.0.2.1:2").wrong_checksum().build(),
            tcp4("198.51.100.1:1 > 192.0.2.1:2").wrong_header_checksum().build(),
        ];
        for frame in wrong {
            assert_eq!(checksum_faults(&frame).len(), 1, "{:?}", checksum_faults(&frame));
        }
    }
}
