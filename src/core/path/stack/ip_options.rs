//! Beside the stages: what a router does because of a packet's options.
//!
//! In:  a packet with IPv4 options or an IPv6 hop-by-hop header. Out: whether it may be balanced; record route and
//!      timestamp filled in; the options that an ICMP error repeats.
//! Never: judges what is wrong with options or asks for a route: such packets are the kernel's, which answers or drops them.
//! Ref:  Linux net/ipv4/ip_input.c `ip_rcv_options`, ip_forward.c `ip_forward_options`, icmp.c `__icmp_send`,
//!       net/ipv6/exthdrs.c `ipv6_parse_hopopts`.

use std::net::IpAddr;

use crate::address::{Addr4, Address, AddressFamily};
use crate::frame::Frame;
use crate::headers::Headers;
use crate::ipvs::conn::{Conn, Direction};
use crate::l3::L3;
use crate::packet::Packet;
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv4_options::{EchoedOptions, Filling, Ipv4Options, LEN_MAX};
use crate::wire::ipv6::Ipv6Header;
use crate::wire::ipv6_options::{self, HopByHop};
use crate::worker_state::context::Context;

/// Whether there is anything between the fixed header and what is above IP.
#[inline(always)]
pub(crate) const fn are_there(headers: &Headers) -> bool {
    let fixed = match headers.family {
        AddressFamily::Ipv4 => Ipv4Header::LEN as u16,
        AddressFamily::Ipv6 => Ipv6Header::LEN as u16,
    };
    headers.l4_offset != headers.l3_offset + fixed
}

/// Whether the kernel's stack would hand a packet with these options on.
#[cold]
pub(crate) fn may_pass(frame: &[u8], headers: &Headers) -> bool {
    let range = usize::from(headers.l3_offset)..usize::from(headers.packet_end);
    let packet = frame.get(range).unwrap_or_default();
    if headers.family == AddressFamily::Ipv6 {
        return ipv6_options::judge(packet) == HopByHop::Pass;
    }
    let mut copy = [0; Ipv4Header::LEN + LEN_MAX];
    let len = usize::from(headers.l4_offset - headers.l3_offset);
    let (Some(copy), Some(header)) = (copy.get_mut(..len), packet.get(..len)) else {
        return false;
    };
    copy.copy_from_slice(header);
    // With what they are filled is of no interest here.
    let filling = Filling {
        address: Addr4::default(),
        time_address: Addr4::default(),
        time_ms: 0,
        is_other_host: &|_| true,
    };
    let options = Ipv4Options::read(copy, &filling);
    options.wrong.is_none() && !options.has_source_route
}

/// Fills in record route and timestamp of a packet of `conn` that is about to leave: with the VIP, or, where replies are
/// not routed anew from it, with the director's address towards the client; beside a time with its address towards who
/// sent it. Whether there was anything to fill in.
#[cold]
pub(crate) fn fill<A: Address, F: Frame>(
    ctx: &Context<'_>,
    conn: &Conn<A>,
    direction: Direction,
    packet: &mut Packet<'_, A, F>,
) -> bool {
    let address = match direction {
        Direction::Inbound => Some(packet.key.dst.addr),
        Direction::Outbound if ctx.snapshot.sysctls.snat_reroute => Some(conn.virt().addr),
        Direction::Outbound => ctx.snapshot.l3.source_for(conn.client().addr),
    };
    let l3_offset = packet.headers.l3_offset;
    let time_address = match direction {
        Direction::Inbound => address,
        Direction::Outbound => ctx.snapshot.l3.source_for(packet.key.src.addr),
    };
    let Some(options) = read(ctx, packet, (address, time_address)) else {
        return false;
    };
    Ipv4Header::fill_checksum_at(packet.frame.bytes_mut(), l3_offset);
    options.is_filled()
}

/// The options that an ICMP error from `source` about a packet repeats. The error quotes the packet with its options
/// filled in and its checksum as it was, like the kernel's. `None` when the kernel could not answer.
#[cold]
pub(crate) fn echo<A: Address, F: Frame>(
    ctx: &Context<'_>,
    packet: &mut Packet<'_, A, F>,
    source: A,
) -> Option<EchoedOptions> {
    let (src, dst) = (packet.key.src.addr, packet.key.dst.addr);
    let l3 = &ctx.snapshot.l3;
    let address = if l3.is_local(dst) {
        Some(dst)
    } else {
        l3.source_for(src)
    };
    let Some(options) = read(ctx, packet, (address, address)) else {
        return Some(EchoedOptions::NONE);
    };
    let header = header_mut(packet)?;
    let addresses = (Some(source), Some(source));
    options.echo(header, &filling(ctx, addresses, &|addr| is_other_host(l3, addr)))
}

/// Reads and fills in, routes and times; `None` for IPv6.
fn read<A: Address, F: Frame>(
    ctx: &Context<'_>,
    packet: &mut Packet<'_, A, F>,
    addresses: (Option<A>, Option<A>),
) -> Option<Ipv4Options> {
    let l3 = &ctx.snapshot.l3;
    let is_other_host = |addr| is_other_host(l3, addr);
    let filling = filling(ctx, addresses, &is_other_host);
    Some(Ipv4Options::read(header_mut(packet)?, &filling))
}

fn filling<'a, A: Address>(
    ctx: &Context<'_>,
    (address, time_address): (Option<A>, Option<A>),
    is_other_host: &'a dyn Fn(Addr4) -> bool,
) -> Filling<'a> {
    let v4 = |address: Option<A>| match address.map(Address::to_ip) {
        Some(IpAddr::V4(v4)) => Addr4(v4.octets()),
        _ => Addr4::default(),
    };
    Filling {
        address: v4(address),
        time_address: v4(time_address),
        time_ms: (ctx.time_of_day)(),
        is_other_host,
    }
}

fn header_mut<'p, A: Address, F: Frame>(packet: &'p mut Packet<'_, A, F>) -> Option<&'p mut [u8]> {
    let Headers {
        l3_offset, l4_offset, ..
    } = packet.headers;
    let range = usize::from(l3_offset)..usize::from(l4_offset);
    let header = packet.frame.bytes_mut().get_mut(range)?;
    (A::FAMILY == AddressFamily::Ipv4).then_some(header)
}

/// Whether the kernel takes an address for another host's (`inet_addr_type`: `RTN_UNICAST`).
fn is_other_host(l3: &L3, addr: Addr4) -> bool {
    let IpAddr::V4(v4) = addr.to_ip() else {
        return false;
    };
    !(v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] == 0 || l3.is_local(addr))
}
