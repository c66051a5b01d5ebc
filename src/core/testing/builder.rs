//! Packets that read like a sentence:
//! `tcp4("198.51.100.1:40000 > 192.0.2.1:80").syn().mss(1460).vlan(7).payload(b"..").build()`.
//!
//! Lengths and checksums are right unless a call makes them wrong. It panics on ends that it cannot read.

mod emit;

use std::net::{IpAddr, SocketAddr};

use crate::frame::vec::VecFrame;
use crate::wire::ethernet::{ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN};
use crate::wire::ipv6::{NEXT_AUTHENTICATION, NEXT_DESTINATION, NEXT_HOP_BY_HOP, NEXT_ROUTING};
use crate::wire::{icmp, sctp, tcp, udp};

/// A packet being described; see the module.
#[derive(Clone, Debug)]
#[must_use]
pub struct PacketBuilder {
    src: SocketAddr,
    dst: SocketAddr,
    protocol: u8,
    src_mac: [u8; 6],
    dst_mac: [u8; 6],
    tags: Vec<(u16, u16)>,
    ttl: u8,
    tos: u8,
    flow_label: u32,
    identification: u16,
    dont_fragment: bool,
    ip_options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    fragment: Option<(u16, bool)>,
    atomic: bool,
    tcp: Tcp,
    icmp: (u8, u8, u32),
    payload: Vec<u8>,
    checksum: Checksum,
    is_header_checksum_wrong: bool,
    frame_min: usize,
}

#[derive(Clone, Debug)]
struct Tcp {
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    window: u16,
    options: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checksum {
    Right,
    Wrong,
    Absent,
}

macro_rules! starts {
    ($($(#[$doc:meta])* $name:ident = $protocol:expr, $is_v4:literal;)*) => {
        $($(#[$doc])* pub fn $name(ends: &str) -> PacketBuilder { PacketBuilder::new(ends, $protocol, $is_v4) })*
    };
}

starts! {
    /// TCP over IPv4: `"198.51.100.1:40000 > 192.0.2.1:80"`. No flag is set.
    tcp4 = tcp::PROTOCOL, true;
    /// TCP over IPv6: `"[2001:db8::1]:40000 > [2001:db8::2]:80"`. No flag is set.
    tcp6 = tcp::PROTOCOL, false;
    /// UDP over IPv4.
    udp4 = udp::PROTOCOL, true;
    /// UDP over IPv6.
    udp6 = udp::PROTOCOL, false;
    /// SCTP over IPv4; the payload is the chunks.
    sctp4 = sctp::PROTOCOL, true;
    /// SCTP over IPv6; the payload is the chunks.
    sctp6 = sctp::PROTOCOL, false;
    /// ICMP: `"198.51.100.1 > 192.0.2.1"`. By default an echo request.
    icmp4 = icmp::PROTOCOL_V4, true;
    /// ICMPv6: `"2001:db8::1 > 2001:db8::2"`. By default an echo request.
    icmp6 = icmp::PROTOCOL_V6, false;
}

impl PacketBuilder {
    fn new(ends: &str, protocol: u8, is_v4: bool) -> Self {
        let (src, dst) = ends.split_once('>').expect("two ends: source > destination");
        let (src, dst) = (end(src), end(dst));
        assert!(
            src.is_ipv4() == is_v4 && dst.is_ipv4() == is_v4,
            "{ends}: the wrong family"
        );
        let echo = if is_v4 {
            icmp::V4_ECHO_REQUEST
        } else {
            icmp::V6_ECHO_REQUEST
        };
        Self {
            src,
            dst,
            protocol,
            src_mac: [0x02, 0, 0, 0, 0x01, 0x02],
            dst_mac: [0x02, 0, 0, 0, 0, 0x01],
            tags: Vec::new(),
            ttl: 64,
            tos: 0,
            flow_label: 0,
            identification: 0x1001,
            dont_fragment: false,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            atomic: false,
            tcp: Tcp {
                flags: 0,
                sequence: 1_000,
                acknowledgement: 0,
                window: 29_200,
                options: Vec::new(),
            },
            icmp: (echo, 0, 0x0001_0001),
            payload: Vec::new(),
            checksum: Checksum::Right,
            is_header_checksum_wrong: false,
            frame_min: 0,
        }
    }

    /// Sets SYN.
    pub fn syn(self) -> Self {
        self.tcp_flags(tcp::SYN)
    }

    /// Sets ACK.
    pub fn ack(self) -> Self {
        self.tcp_flags(tcp::ACK)
    }

    /// Sets FIN.
    pub fn fin(self) -> Self {
        self.tcp_flags(tcp::FIN)
    }

    /// Sets RST.
    pub fn rst(self) -> Self {
        self.tcp_flags(tcp::RST)
    }

    /// Sets PSH.
    pub fn psh(self) -> Self {
        self.tcp_flags(tcp::PSH)
    }

    /// Sets these TCP flags in addition to the others.
    pub fn tcp_flags(mut self, flags: u8) -> Self {
        self.tcp.flags |= flags;
        self
    }

    /// The TCP sequence number; 1000 by default.
    pub fn sequence(mut self, sequence: u32) -> Self {
        self.tcp.sequence = sequence;
        self
    }

    /// The TCP acknowledgement number; 0 by default. It does not set ACK.
    pub fn acknowledgement(mut self, acknowledgement: u32) -> Self {
        self.tcp.acknowledgement = acknowledgement;
        self
    }

    /// The TCP window; 29200 by default.
    pub fn window(mut self, window: u16) -> Self {
        self.tcp.window = window;
        self
    }

    /// A TCP maximum segment size option.
    pub fn mss(self, mss: u16) -> Self {
        let [high, low] = mss.to_be_bytes();
        self.tcp_option(&[2, 4, high, low])
    }

    /// A TCP option as it stands on the wire; the header is padded to words.
    pub fn tcp_option(mut self, option: &[u8]) -> Self {
        self.tcp.options.extend_from_slice(option);
        self
    }

    /// Type, code and second word of an ICMP or ICMPv6 message; what an error quotes is its payload.
    pub fn icmp(mut self, kind: u8, code: u8, rest: u32) -> Self {
        self.icmp = (kind, code, rest);
        self
    }

    /// What follows the L4 header, or in a later fragment the IP header.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// A payload of `len` bytes 0, 1, 2 … 255, 0 …
    pub fn payload_len(mut self, len: usize) -> Self {
        self.payload = (0..len).map(|index| index as u8).collect();
        self
    }

    /// TTL or hop limit; 64 by default.
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// TOS byte or traffic class; 0 by default.
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// IPv6 flow label; 0 by default.
    pub fn flow_label(mut self, flow_label: u32) -> Self {
        self.flow_label = flow_label;
        self
    }

    /// Identification of an IPv4 packet or of IPv6 fragments; 0x1001 by default.
    pub fn identification(mut self, identification: u16) -> Self {
        self.identification = identification;
        self
    }

    /// Sets DF.
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// IPv4 options as they stand on the wire; padded to words.
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        self.ip_options.extend_from_slice(options);
        self
    }

    /// An IPv6 hop-by-hop options header of `len` bytes (a multiple of 8).
    pub fn hop_by_hop(self, len: usize) -> Self {
        self.options_header(NEXT_HOP_BY_HOP, len)
    }

    /// An IPv6 destination options header of `len` bytes (a multiple of 8).
    pub fn destination_options(self, len: usize) -> Self {
        self.options_header(NEXT_DESTINATION, len)
    }

    /// An IPv6 routing header with no segments left.
    pub fn routing(mut self) -> Self {
        self.extensions.push((NEXT_ROUTING, vec![0, 0, 4, 0, 0, 0, 0, 0]));
        self
    }

    /// An IPv6 authentication header with a check value of `value_len` bytes (a multiple of 4).
    pub fn authentication(mut self, value_len: usize) -> Self {
        let mut header = vec![0; 12 + value_len];
        header[1] = (header.len() / 4 - 2) as u8;
        self.extensions.push((NEXT_AUTHENTICATION, header));
        self
    }

    /// A fragment whose payload begins at `offset` bytes (a multiple of 8). With `more`, others follow. A fragment
    /// whose offset is not 0 has no L4 header.
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        assert!(offset.is_multiple_of(8), "fragments begin at a multiple of 8");
        self.fragment = Some((offset, more));
        self
    }

    /// An IPv6 fragment header in a packet that is whole (RFC 6946).
    pub fn atomic_fragment(mut self) -> Self {
        self.atomic = true;
        self
    }

    /// An 802.1Q tag inside the tags so far.
    pub fn vlan(mut self, id: u16) -> Self {
        self.tags.push((ETHERTYPE_VLAN, id));
        self
    }

    /// An 802.1ad service tag inside the tags so far.
    pub fn service_vlan(mut self, id: u16) -> Self {
        self.tags.push((ETHERTYPE_SERVICE_VLAN, id));
        self
    }

    /// The sender's MAC address; 02:00:00:00:01:02 by default.
    pub fn src_mac(mut self, mac: [u8; 6]) -> Self {
        self.src_mac = mac;
        self
    }

    /// The receiver's MAC address; 02:00:00:00:00:01 by default.
    pub fn dst_mac(mut self, mac: [u8; 6]) -> Self {
        self.dst_mac = mac;
        self
    }

    /// Padding to at least `len` bytes of frame; a NIC pads to 60.
    pub fn padded_to(mut self, len: usize) -> Self {
        self.frame_min = len;
        self
    }

    /// A wrong checksum in the L4 header.
    pub fn wrong_checksum(mut self) -> Self {
        self.checksum = Checksum::Wrong;
        self
    }

    /// 0 instead of a checksum in the L4 header: with UDP "none".
    pub fn without_checksum(mut self) -> Self {
        self.checksum = Checksum::Absent;
        self
    }

    /// A wrong IPv4 header checksum.
    pub fn wrong_header_checksum(mut self) -> Self {
        self.is_header_checksum_wrong = true;
        self
    }

    /// The frame's bytes.
    pub fn build(&self) -> Vec<u8> {
        emit::frame(self)
    }

    /// The frame in a [`VecFrame`].
    pub fn frame(&self) -> VecFrame {
        VecFrame::new(&self.build())
    }

    fn options_header(mut self, kind: u8, len: usize) -> Self {
        assert!(
            len >= 8 && len.is_multiple_of(8),
            "options headers are multiples of 8 bytes"
        );
        let mut header = vec![0, (len / 8 - 1) as u8];
        // All options are Pad1.
        header.resize(len, 0);
        self.extensions.push((kind, header));
        self
    }
}

fn end(text: &str) -> SocketAddr {
    let text = text.trim();
    let portless = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 0));
    text.parse()
        .or_else(|_| portless())
        .unwrap_or_else(|_| panic!("{text:?} is no address with port"))
}

#[cfg(test)]
mod tests;
