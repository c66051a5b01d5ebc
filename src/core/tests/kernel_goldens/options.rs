//! What the kernel's stack does with the options of packets that the director leaves to it.
//!
//! In:  a packet. Out: whether it goes on, and how it is refused; record route and timestamp filled in.
//! Ref: Linux net/ipv4/ip_input.c `ip_rcv_options`, ip_forward.c `ip_forward_options`, net/ipv6/exthdrs.c.

use std::net::IpAddr;

use lvs_core::address::{Addr4, Address, AddressFamily, FlowKey};
use lvs_core::headers::Headers;
use lvs_core::l3::L3;
use lvs_core::path::icmp::build::IcmpError;
use lvs_core::wire::icmp;
use lvs_core::wire::ipv4::Ipv4Header;
use lvs_core::wire::ipv4_options::{EchoedOptions, Filling, Ipv4Options};
use lvs_core::wire::ipv6_options::{self, HopByHop};

/// What becomes of a packet because of its options.
pub enum Judgement {
    Pass,
    Drop,
    /// An ICMP error with these options.
    Refuse(IcmpError, EchoedOptions),
}

pub fn are_there(headers: &Headers) -> bool {
    headers.family == AddressFamily::Ipv4 && usize::from(headers.l4_offset - headers.l3_offset) > Ipv4Header::LEN
}

/// The address in whose name the stack speaks about a packet.
pub fn speaker<A: Address>(l3: &L3, key: &FlowKey<A>) -> Option<A> {
    if l3.is_local(key.dst.addr) {
        Some(key.dst.addr)
    } else {
        l3.source_for(key.src.addr)
    }
}

pub fn judge<A: Address>(l3: &L3, frame: &[u8], headers: &Headers, key: &FlowKey<A>) -> Judgement {
    let packet = &frame[usize::from(headers.l3_offset)..usize::from(headers.packet_end)];
    if A::FAMILY == AddressFamily::Ipv6 {
        return match ipv6_options::judge(packet) {
            HopByHop::Pass => Judgement::Pass,
            HopByHop::Discard => Judgement::Drop,
            HopByHop::ParameterProblem { code, pointer } => {
                let error = IcmpError::Relayed {
                    kind: icmp::V6_PARAMETER_PROBLEM,
                    code,
                    rest: pointer,
                };
                Judgement::Refuse(error, EchoedOptions::NONE)
            }
        };
    }
    if !are_there(headers) {
        return Judgement::Pass;
    }
    let mut header = packet[..usize::from(headers.l4_offset - headers.l3_offset)].to_vec();
    let Some(source) = speaker(l3, key) else {
        return Judgement::Drop;
    };
    let options = read(l3, &mut header, (source, source));
    match options.wrong {
        Some(pointer) => {
            let error = IcmpError::Relayed {
                kind: icmp::V4_PARAMETER_PROBLEM,
                code: 0,
                rest: u32::from(pointer) << 24,
            };
            match echo(l3, &options, &header, source) {
                Some(echoed) => Judgement::Refuse(error, echoed),
                None => Judgement::Drop,
            }
        }
        None if options.has_source_route => Judgement::Drop,
        None => Judgement::Pass,
    }
}

/// Fills in what an error quotes, whose checksum stays.
pub fn fill<A: Address>(l3: &L3, frame: &mut [u8], headers: &Headers, source: A) {
    fill_with(l3, frame, headers, (source, source));
}

fn fill_with<A: Address>(l3: &L3, frame: &mut [u8], headers: &Headers, addresses: (A, A)) {
    if are_there(headers) {
        let header = &mut frame[usize::from(headers.l3_offset)..usize::from(headers.l4_offset)];
        read(l3, header, addresses);
    }
}

/// Fills in the options of a packet that a router hands on: its address towards the next hop.
pub fn fill_forwarded<A: Address>(l3: &L3, frame: &mut [u8], headers: &Headers, key: &FlowKey<A>) {
    if let Some(source) = l3.source_for(key.dst.addr).filter(|_| are_there(headers)) {
        let time_source = l3.source_for(key.src.addr).unwrap_or(source);
        fill_with(l3, frame, headers, (source, time_source));
        let ip = &mut frame[usize::from(headers.l3_offset)..usize::from(headers.l4_offset)];
        ip[10..12].fill(0);
        let sum = !lvs_core::wire::checksum::sum(ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

fn read<A: Address>(l3: &L3, header: &mut [u8], addresses: (A, A)) -> Ipv4Options {
    with_filling(l3, addresses, |filling| Ipv4Options::read(header, filling))
}

fn echo<A: Address>(l3: &L3, options: &Ipv4Options, header: &[u8], source: A) -> Option<EchoedOptions> {
    with_filling(l3, (source, source), |filling| options.echo(header, filling))
}

fn with_filling<A: Address, R>(l3: &L3, addresses: (A, A), run: impl FnOnce(&Filling<'_>) -> R) -> R {
    let v4 = |address: A| match address.to_ip() {
        IpAddr::V4(v4) => Addr4(v4.octets()),
        IpAddr::V6(_) => Addr4::default(),
    };
    let is_other_host = |addr: Addr4| {
        let first = addr.0[0];
        first != 0 && first < 224 && !l3.is_local(addr)
    };
    run(&Filling {
        address: v4(addresses.0),
        time_address: v4(addresses.1),
        time_ms: 0,
        is_other_host: &is_other_host,
    })
}
