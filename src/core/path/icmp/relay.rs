//! Stage 2 for ICMP: an error about one of our connections goes on to the other end of it.
//!
//! In:  an ICMP or ICMPv6 error that quotes a packet of a connection, from either side, from the end itself or
//!      a router on the way; or one that quotes a packet which we wrapped for a tunnel.
//! Out: NAT, FULLNAT: the error with outer and quoted addresses and ports rewritten; DR, TUN: forwarded like
//!      the connection's packets; about a tunnel: the error to the client. Others are the kernel's.
//!      With `schedule_icmp` one about no connection may begin it.
//! Never: changes a connection's state or keeps it alive.
//! Ref:  RFC 792, RFC 4443; Linux net/netfilter/ipvs/ip_vs_core.c `ip_vs_in_icmp`, `ip_vs_out_icmp`, `ip_vs_nat_icmp`.

use zerocopy::FromBytes;
use zerocopy::network_endian::U16;

use crate::address::{Addr4, Addr6, Address, AddressFamily, Endpoint, FlowKey};
use crate::frame::Frame;
use crate::headers::{Flow, Headers};
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{Conn, ConnIndex, Direction};
use crate::ipvs::forwarding::ForwardingMode;
use crate::limits::TIMEOUT_STATELESS_MS;
use crate::path::admit::{self, Admission};
use crate::path::client_address;
use crate::path::forward::{rewrite, tunnel};
use crate::path::fragments::cut;
use crate::path::icmp::relay_tunnel;
use crate::path::ownership;
use crate::path::parse::{Embedded, embedded};
use crate::path::resolve::{self, NextHop, RouteError};
use crate::path::schedule::{self, Refusal};
use crate::verdict::{DropReason, Verdict};
use crate::wire::icmp::{self, IcmpHeader};
use crate::wire::ipv4::Ipv4Header;
use crate::wire::{checksum, tcp};
use crate::worker_state::context::Context;

/// See the module.
#[cold]
pub(crate) fn icmp_error<F: Frame>(
    ctx: &mut Context<'_>,
    v4: &mut ConnTable<Addr4>,
    v6: &mut ConnTable<Addr6>,
    headers: &Headers,
    outer: &Flow,
    frame: &mut F,
) -> Verdict {
    let Some(quoted) = embedded(frame.bytes(), headers).filter(|_| is_passed_on(frame.bytes(), headers)) else {
        return Verdict::Punt;
    };
    let known = match &quoted.reply {
        Flow::V4(key) => about(ctx, v4, headers, &quoted, key, frame)
            .or_else(|| relay_tunnel::about_tunnel(ctx, v4, headers, &quoted, frame)),
        Flow::V6(key) => about(ctx, v6, headers, &quoted, key, frame),
    };
    let decided = known.or_else(|| match (outer, &quoted.reply) {
        _ if !ctx.snapshot.sysctls.schedule_icmp => None,
        (Flow::V4(outer), Flow::V4(key)) => begin(
            ctx,
            v4,
            &Related {
                headers,
                quoted,
                outer,
                key,
            },
            frame,
        ),
        (Flow::V6(outer), Flow::V6(key)) => begin(
            ctx,
            v6,
            &Related {
                headers,
                quoted,
                outer,
                key,
            },
            frame,
        ),
        _ => None,
    });
    decided.unwrap_or(Verdict::Punt)
}

/// An error about a connection that nobody knows.
struct Related<'a, A: Address> {
    headers: &'a Headers,
    quoted: Embedded,
    /// The flow of the error itself.
    outer: &'a FlowKey<A>,
    /// The flow of the client that it is about.
    key: &'a FlowKey<A>,
}

/// With `schedule_icmp` an error may begin the connection that it is about. The protocol's machine does not
/// see it: the connection has no state yet, and the timeout of one.
fn begin<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    error: &Related<'_, A>,
    frame: &mut F,
) -> Option<Verdict> {
    let Related {
        headers,
        quoted,
        outer,
        key,
    } = error;
    if !Embedded::has_ports(quoted.protocol) {
        return None;
    }
    let service = match admit::admit_error(ctx, outer, key)? {
        Admission::Schedule(service) => service,
        Admission::Decided(verdict) => return Some(verdict),
        Admission::Refuse => return None,
    };
    let index = match schedule::begin(ctx, table, service, headers, key) {
        Ok(index) => index,
        // Nobody is told about an error (`ip_vs_leave`).
        Err(Refusal::NoServer) => return Some(Verdict::Drop(DropReason::NoRealServer)),
        Err(Refusal::Drop(reason)) => return Some(Verdict::Drop(reason)),
    };
    let conn = table.conn_mut(index);
    conn.state = 0;
    table.set_timeout(index, TIMEOUT_STATELESS_MS, ctx.now);
    let verdict = to_server(ctx, table, index, headers, quoted, frame);
    schedule::end_one_packet(ctx, table, index);
    Some(verdict)
}

/// Of ICMPv4 the kernel passes on three types; parameter problems and redirects are its own stack's.
pub(crate) fn is_passed_on(frame: &[u8], headers: &Headers) -> bool {
    let kind = frame.get(usize::from(headers.l4_offset)).copied();
    match headers.family {
        AddressFamily::Ipv4 => matches!(
            kind,
            Some(icmp::V4_UNREACHABLE | icmp::V4_SOURCE_QUENCH | icmp::V4_TIME_EXCEEDED)
        ),
        AddressFamily::Ipv6 => true,
    }
}

/// `None` when the quoted packet is of no connection, here or on another worker.
fn about<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    headers: &Headers,
    quoted: &Embedded,
    key: &FlowKey<A>,
    frame: &mut F,
) -> Option<Verdict> {
    match table.lookup(key) {
        Some((index, Direction::Inbound)) => Some(to_server(ctx, table, index, headers, quoted, frame)),
        Some((index, Direction::Outbound)) => Some(to_client(ctx, table, index, headers, quoted, frame)),
        None => ownership::other_owner(ctx, key).map(Verdict::Handoff),
    }
}

/// Whether the ICMP checksum is right; the kernel drops an error of which it is not.
pub(crate) fn is_checksum_right(frame: &[u8], headers: &Headers) -> bool {
    let Some(message) = frame.get(usize::from(headers.l4_offset)..usize::from(headers.packet_end)) else {
        return false;
    };
    let sum = checksum::sum(message);
    match headers.family {
        AddressFamily::Ipv4 => sum == checksum::VALID,
        AddressFamily::Ipv6 => {
            let pseudo = rewrite::pseudo_header_v6(frame, headers, icmp::PROTOCOL_V6);
            pseudo.is_some_and(|pseudo| checksum::add(sum, pseudo) == checksum::VALID)
        }
    }
}

/// An error about what we sent to the client: on to the real server.
fn to_server<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    index: ConnIndex,
    headers: &Headers,
    quoted: &Embedded,
    frame: &mut F,
) -> Verdict {
    if !is_checksum_right(frame.bytes(), headers) {
        return Verdict::Drop(DropReason::IcmpChecksum);
    }
    let conn = table.conn_mut(index);
    let id = conn.real_server;
    let Some(slot) = ctx.snapshot.services.real_server(id).filter(|slot| slot.available) else {
        return Verdict::Drop(DropReason::RealServerGone);
    };
    ctx.own
        .server(id)
        .count(Direction::Inbound, headers.packet_len() as u64);
    let next_hop = match resolve::next_hop(ctx, conn, Direction::Inbound, slot.server.addr) {
        Ok(next_hop) => next_hop,
        Err(RouteError::Local) => return to_local_server(conn, headers, quoted, frame.bytes_mut()),
        Err(RouteError::Drop(reason)) => return Verdict::Drop(reason),
        Err(RouteError::Unreachable) => return Verdict::Drop(DropReason::NoRoute),
    };
    if headers.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    match conn.mode() {
        ForwardingMode::Nat | ForwardingMode::FullNat => {
            rewrite::decrement_ttl(frame.bytes_mut(), headers);
            translate(frame.bytes_mut(), headers, quoted, &ends_at_server(conn));
            depart(ctx, headers, frame, A::FAMILY, &next_hop)
        }
        ForwardingMode::Tunnel => tunnel::send(ctx, headers, frame, conn, &slot.server, &next_hop),
        ForwardingMode::DirectRouting | ForwardingMode::Local => {
            rewrite::decrement_ttl(frame.bytes_mut(), headers);
            depart(ctx, headers, frame, A::FAMILY, &next_hop)
        }
    }
}

/// The sender may be a router: in NAT its address stays; a FULLNAT server hears from us only.
fn ends_at_server<A: Address>(conn: &Conn<A>) -> NewEnds<A> {
    NewEnds {
        src: (conn.local != conn.client).then_some(conn.local.addr),
        dst: conn.real.addr,
        quoted_src: conn.real,
        quoted_dst: conn.local,
    }
}

/// To a server that is the director itself, whose stack knows the connection by its rewritten ends.
fn to_local_server<A: Address>(conn: &Conn<A>, headers: &Headers, quoted: &Embedded, frame: &mut [u8]) -> Verdict {
    if conn.mode() == ForwardingMode::Nat {
        translate(frame, headers, quoted, &ends_at_server(conn));
    }
    Verdict::Punt
}

/// An error about what we sent to the real server: on to the client, in the name of the VIP whoever sent it.
fn to_client<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    index: ConnIndex,
    headers: &Headers,
    quoted: &Embedded,
    frame: &mut F,
) -> Verdict {
    let conn = table.conn_mut(index);
    let next_hop = match resolve::next_hop(ctx, conn, Direction::Outbound, conn.client.addr.to_ip()) {
        Ok(next_hop) => next_hop,
        Err(RouteError::Drop(reason)) => return Verdict::Drop(reason),
        Err(RouteError::Local | RouteError::Unreachable) => return Verdict::Drop(DropReason::NoRoute),
    };
    if headers.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    if !is_checksum_right(frame.bytes(), headers) {
        return Verdict::Drop(DropReason::IcmpChecksum);
    }
    count_out(ctx, conn, headers.packet_len());
    rewrite::decrement_ttl(frame.bytes_mut(), headers);
    translate_to_client(frame.bytes_mut(), headers, quoted, conn);
    depart(ctx, headers, frame, A::FAMILY, &next_hop)
}

/// An error about what was sent to the real server of `conn`, as the client is to see it.
pub(crate) fn translate_to_client<A: Address>(frame: &mut [u8], headers: &Headers, quoted: &Embedded, conn: &Conn<A>) {
    if conn.proxy_header_len != 0
        && quoted.protocol == tcp::PROTOCOL
        && let Some(segment) = frame.get_mut(usize::from(quoted.l4_offset)..)
    {
        client_address::quoted_sequence(conn, segment);
    }
    let ends = NewEnds {
        src: Some(conn.virt.addr),
        dst: conn.client.addr,
        quoted_src: conn.client,
        quoted_dst: conn.virt,
    };
    translate(frame, headers, quoted, &ends);
}

/// Counts a packet that goes to the client in the connection's name.
pub(crate) fn count_out<A: Address>(ctx: &Context<'_>, conn: &Conn<A>, packet_len: usize) {
    ctx.own
        .server(conn.real_server)
        .count(Direction::Outbound, packet_len as u64);
}

fn depart<F: Frame>(
    ctx: &mut Context<'_>,
    headers: &Headers,
    frame: &mut F,
    family: AddressFamily,
    next_hop: &NextHop<'_>,
) -> Verdict {
    let is_oversize = headers.packet_len() > usize::from(next_hop.hop.mtu);
    if is_oversize && headers.dont_fragment {
        return Verdict::Drop(DropReason::MtuExceeded);
    }
    let verdict = resolve::depart(frame, headers, family, next_hop);
    if is_oversize {
        cut::to_fit(ctx, frame.bytes(), next_hop.hop.mtu, verdict)
    } else {
        verdict
    }
}

/// The new ends of an error and of the packet it quotes.
struct NewEnds<A: Address> {
    /// `None`: stays.
    src: Option<A>,
    dst: A,
    quoted_src: Endpoint<A>,
    quoted_dst: Endpoint<A>,
}

/// Rewrites outer and quoted packet. The upper checksum of the quoted packet stays
/// as it is, like in the kernel: whoever reads it looks at the ports only.
fn translate<A: Address>(frame: &mut [u8], headers: &Headers, quoted: &Embedded, ends: &NewEnds<A>) {
    rewrite::set_addresses(frame, headers.l3_offset, ends.src, ends.dst);
    rewrite::set_addresses(
        frame,
        quoted.l3_offset,
        Some(ends.quoted_src.addr),
        ends.quoted_dst.addr,
    );
    if Embedded::has_ports(quoted.protocol) {
        let (src, dst) = (ends.quoted_src.port, ends.quoted_dst.port);
        set_ports(frame, quoted.l4_offset, headers.packet_end, src, dst);
    }
    if A::FAMILY == AddressFamily::Ipv4 {
        Ipv4Header::fill_checksum_at(frame, headers.l3_offset);
        Ipv4Header::fill_checksum_at(frame, quoted.l3_offset);
    }
    fill_checksum(frame, headers);
}

/// Writes the two ports at `l4_offset` of a packet that ends at `end`, if it has that many bytes.
pub(crate) fn set_ports(frame: &mut [u8], l4_offset: u16, end: u16, src: u16, dst: u16) {
    if let Some(segment) = frame.get_mut(usize::from(l4_offset)..usize::from(end))
        && let Some((ports, _)) = segment.split_first_chunk_mut::<4>()
    {
        let ([src_high, src_low], [dst_high, dst_low]) = (src.to_be_bytes(), dst.to_be_bytes());
        ports.copy_from_slice(&[src_high, src_low, dst_high, dst_low]);
    }
}

fn fill_checksum(frame: &mut [u8], headers: &Headers) {
    let pseudo = match headers.family {
        AddressFamily::Ipv4 => 0,
        AddressFamily::Ipv6 => rewrite::pseudo_header_v6(frame, headers, icmp::PROTOCOL_V6).unwrap_or(0),
    };
    let Some(message) = frame.get_mut(usize::from(headers.l4_offset)..usize::from(headers.packet_end)) else {
        return;
    };
    if let Ok((header, _)) = IcmpHeader::mut_from_prefix(message) {
        header.checksum = U16::ZERO;
    }
    let sum = checksum::add(checksum::sum(message), pseudo);
    if let Ok((header, _)) = IcmpHeader::mut_from_prefix(message) {
        header.checksum = U16::new(!sum);
    }
}
