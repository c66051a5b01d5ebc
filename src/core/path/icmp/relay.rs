//! Stage 2, ICMP: an error about one of our connections goes on to the other end of it.
//!
//! In:  an ICMP or ICMPv6 error that quotes a packet of a connection, from either side, from the end itself or
//!      a router on the way; or one that quotes a packet which the director put into a tunnel.
//! Out: NAT, FULLNAT: the error with the addresses and ports of both packets rewritten; DR, TUN: forwarded like
//!      the connection's packets; about a tunnel: see [`relay_tunnel`]. Others are the kernel's.
//!      With `schedule_icmp` one about no connection may begin it. Drops: `icmp_checksum`, `real_server_gone`,
//!      `no_route`, `ttl_expired`, `mtu_exceeded`, `no_real_server`.
//! Never: changes a connection's state or keeps it alive; translates an error in whose own IPv4 header record route or
//!        timestamp has been filled in: the kernel finds its checksum wrong and drops it (`icmp_checksum`).
//! Ref:  RFC 792, RFC 4443; Linux net/netfilter/ipvs/ip_vs_core.c `ip_vs_in_icmp`, `ip_vs_out_icmp`, `ip_vs_nat_icmp`.

use zerocopy::FromBytes;
use zerocopy::network_endian::U16;

use crate::address::{Address, AddressFamily, Endpoint, FlowKey};
use crate::frame::Frame;
use crate::headers::Headers;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{ColdConn, Conn, ConnIndex, Direction};
use crate::ipvs::forwarding::ForwardingMode;
use crate::limits::TIMEOUT_STATELESS_MS;
use crate::packet::Packet;
use crate::path::admit::{self, Admission};
use crate::path::forward::resolve::{self, NextHop, RouteError, ToServer};
use crate::path::forward::{rewrite, tunnel};
use crate::path::fragments::cut;
use crate::path::icmp::relay_tunnel;
use crate::path::parse::{Embedded, embedded};
use crate::path::schedule::{self, Opening, Refusal};
use crate::path::stack::checks;
use crate::path::stack::ip_options;
use crate::path::{client_address, ownership};
use crate::verdict::{DropReason, Verdict};
use crate::wire::icmp::{self, IcmpHeader};
use crate::wire::ipv4::Ipv4Header;
use crate::wire::{checksum, tcp};
use crate::worker_state::context::{Context, Families, InFamilies};

/// An ICMP error, whose own flow is the packet's key, and the packet that it quotes.
pub(crate) struct Relayed<'e, 'p, A: Address, F> {
    pub(crate) packet: &'e mut Packet<'p, A, F>,
    pub(crate) quoted: Embedded,
    /// The flow of an answer to the quoted packet.
    pub(crate) reply: FlowKey<A>,
}

impl<'e, 'p, A: InFamilies, F: Frame> Relayed<'e, 'p, A, F> {
    /// `None` when the packet is no ICMP error, or one that only the kernel's stack looks at.
    pub(crate) fn of(packet: &'e mut Packet<'p, A, F>) -> Option<Self> {
        let quoted = embedded(packet.frame.bytes(), &packet.headers)?;
        if !is_passed_on(packet.frame.bytes(), &packet.headers) {
            return None;
        }
        let reply = *A::key(&quoted.reply)?;
        Some(Self { packet, quoted, reply })
    }
}

/// See the module.
#[cold]
pub(crate) fn icmp_error<A: InFamilies, F: Frame>(
    ctx: &mut Context<'_>,
    families: &mut Families,
    packet: &mut Packet<'_, A, F>,
) -> Verdict {
    let Some(mut error) = Relayed::of(packet) else {
        return Verdict::Punt;
    };
    about(ctx, &mut A::family(families).table, &mut error)
        .or_else(|| relay_tunnel::about_tunnel(ctx, &mut families.v4.table, &mut error))
        .or_else(|| begin(ctx, &mut A::family(families).table, &mut error))
        .unwrap_or(Verdict::Punt)
}

/// `None` when the quoted packet is of no connection, here or on another worker.
fn about<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    error: &mut Relayed<'_, '_, A, F>,
) -> Option<Verdict> {
    let found = table.lookup(&error.reply);
    if found.is_some() && checks::is_from_elsewhere(ctx, error.packet) {
        return Some(Verdict::Drop(DropReason::ReversePath));
    }
    match found {
        Some((index, Direction::Inbound)) => Some(to_server(ctx, table, index, error)),
        Some((index, Direction::Outbound)) => Some(to_client(ctx, table, index, error)),
        None => ownership::other_owner(ctx, &error.reply).map(Verdict::Handoff),
    }
}

/// With `schedule_icmp` an error may begin the connection that it is about. The protocol's machine does not
/// see it: the connection has no state yet, and the timeout of one.
fn begin<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    error: &mut Relayed<'_, '_, A, F>,
) -> Option<Verdict> {
    if !ctx.snapshot.sysctls.schedule_icmp || !Embedded::has_ports(error.quoted.protocol) {
        return None;
    }
    let service = match admit::admit_error(ctx, error.packet.key, &error.reply)? {
        Admission::Schedule(service) => service,
        Admission::Decided(verdict) => return Some(verdict),
        Admission::Refuse | Admission::Reset => return None,
    };
    let opening = Opening {
        service,
        headers: &error.packet.headers,
        key: &error.reply,
        former: None,
    };
    let index = match schedule::begin(ctx, table, &opening) {
        Ok(index) => index,
        // An error is not answered (`ip_vs_leave`).
        Err(Refusal::NoServer) => return Some(Verdict::Drop(DropReason::NoRealServer)),
        Err(Refusal::Drop(reason)) => return Some(Verdict::Drop(reason)),
    };
    let conn = table.conn_mut(index);
    conn.state = 0;
    table.set_timeout(index, TIMEOUT_STATELESS_MS, ctx.now);
    let verdict = to_server(ctx, table, index, error);
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
    error: &mut Relayed<'_, '_, A, F>,
) -> Verdict {
    let Relayed { packet, quoted: _, .. } = error;
    if !is_checksum_right(packet.frame.bytes(), &packet.headers) {
        return Verdict::Drop(DropReason::IcmpChecksum);
    }
    let conn = table.conn_mut(index);
    let id = conn.real_server;
    let Some(slot) = ctx.snapshot.services.real_server(id).filter(|slot| slot.available) else {
        return Verdict::Drop(DropReason::RealServerGone);
    };
    ctx.count(conn, Direction::Inbound, packet.headers.packet_len());
    let server = &slot.server;
    let next_hop = match resolve::to_server(ctx, conn, server) {
        Ok(next_hop) => next_hop,
        Err(RouteError::Local) if conn.mode() == ForwardingMode::Bypass => return Verdict::Drop(DropReason::NoRoute),
        Err(RouteError::Local) => return to_local_server(conn, error),
        Err(RouteError::Drop(reason)) => return Verdict::Drop(reason),
        Err(RouteError::Unreachable) => return Verdict::Drop(DropReason::NoRoute),
    };
    if packet.headers.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    let is_filled = ip_options::are_there(&packet.headers) && ip_options::fill(ctx, conn, Direction::Inbound, packet);
    if is_filled && conn.mode().sees_replies() {
        return Verdict::Drop(DropReason::IcmpChecksum);
    }
    match conn.mode() {
        ForwardingMode::Nat | ForwardingMode::FullNat => {
            rewrite::decrement_ttl(packet.frame.bytes_mut(), &packet.headers);
            error.translate(&ends_at_server(conn));
            depart(ctx, error.packet, &next_hop)
        }
        ForwardingMode::Tunnel => {
            let mtu = tunnel::mtu(ctx, server, &next_hop);
            let to = ToServer { server, next_hop, mtu };
            tunnel::send(ctx, conn, packet, &to)
        }
        ForwardingMode::DirectRouting | ForwardingMode::Local | ForwardingMode::Bypass => {
            rewrite::decrement_ttl(packet.frame.bytes_mut(), &packet.headers);
            depart(ctx, packet, &next_hop)
        }
    }
}

/// The sender may be a router: in NAT its address stays; a FULLNAT server hears from us only.
fn ends_at_server<A: Address>(conn: &Conn<A>) -> NewEnds<A> {
    NewEnds {
        src: (conn.local() != conn.client()).then_some(conn.local().addr),
        dst: conn.real().addr,
        quoted_src: conn.real(),
        quoted_dst: conn.local(),
    }
}

/// To a server that is the director itself, whose stack knows the connection by its rewritten ends.
fn to_local_server<A: Address, F: Frame>(conn: &Conn<A>, error: &mut Relayed<'_, '_, A, F>) -> Verdict {
    if conn.mode() == ForwardingMode::Nat {
        error.translate(&ends_at_server(conn));
    }
    Verdict::Punt
}

/// An error about what we sent to the real server: on to the client, in the name of the VIP whoever sent it.
fn to_client<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    index: ConnIndex,
    error: &mut Relayed<'_, '_, A, F>,
) -> Verdict {
    if !checks::may_forward(ctx, error.packet) {
        return Verdict::Drop(DropReason::NotForwarding);
    }
    let conn = table.conn_mut(index);
    let next_hop = match resolve::to_client(ctx, conn, error.packet) {
        Ok(next_hop) => next_hop,
        Err(RouteError::Drop(reason)) => return Verdict::Drop(reason),
        Err(RouteError::Local | RouteError::Unreachable) => return Verdict::Drop(DropReason::NoRoute),
    };
    let packet = &mut *error.packet;
    if packet.headers.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    if !is_checksum_right(packet.frame.bytes(), &packet.headers) {
        return Verdict::Drop(DropReason::IcmpChecksum);
    }
    ctx.count(conn, Direction::Outbound, packet.headers.packet_len());
    if ip_options::are_there(&packet.headers) && ip_options::fill(ctx, conn, Direction::Outbound, packet) {
        return Verdict::Drop(DropReason::IcmpChecksum);
    }
    rewrite::decrement_ttl(packet.frame.bytes_mut(), &packet.headers);
    error.translate_to_client(table.both(index));
    depart(ctx, error.packet, &next_hop)
}

fn depart<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    packet: &mut Packet<'_, A, F>,
    next_hop: &NextHop<'_>,
) -> Verdict {
    let is_oversize = packet.headers.packet_len() > usize::from(next_hop.hop.mtu);
    if is_oversize && packet.headers.dont_fragment {
        return Verdict::Drop(DropReason::MtuExceeded);
    }
    let verdict = resolve::depart(packet, next_hop);
    if is_oversize {
        cut::to_fit(ctx, packet, next_hop.hop.mtu, verdict)
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

impl<A: Address, F: Frame> Relayed<'_, '_, A, F> {
    /// An error about what was sent to the real server of `conn`, as the client is to see it.
    pub(crate) fn translate_to_client(&mut self, (conn, cold): (&Conn<A>, &ColdConn)) {
        if (conn.proxy_header_len != 0 || conn.isn_delta != 0)
            && self.quoted.protocol == tcp::PROTOCOL
            && let Some(segment) = self
                .packet
                .frame
                .bytes_mut()
                .get_mut(usize::from(self.quoted.l4_offset)..)
        {
            client_address::quoted_sequence((conn, cold), segment);
        }
        self.translate(&NewEnds {
            src: Some(conn.virt().addr),
            dst: conn.client().addr,
            quoted_src: conn.client(),
            quoted_dst: conn.virt(),
        });
    }

    /// Rewrites the error and the quoted packet. The upper checksum of the quoted packet stays
    /// as it is, like in the kernel: whoever reads it looks at the ports only.
    fn translate(&mut self, ends: &NewEnds<A>) {
        let (headers, quoted) = (&self.packet.headers, &self.quoted);
        let frame = self.packet.frame.bytes_mut();
        rewrite::set_addresses(frame, headers.l3_offset, ends.src, ends.dst);
        let (src, dst) = (ends.quoted_src, ends.quoted_dst);
        rewrite::set_addresses(frame, quoted.l3_offset, Some(src.addr), dst.addr);
        let segment = usize::from(quoted.l4_offset)..usize::from(headers.packet_end);
        if Embedded::has_ports(quoted.protocol)
            && let Some(segment) = frame.get_mut(segment)
        {
            rewrite::set_ports(segment, src.port, dst.port);
        }
        if A::FAMILY == AddressFamily::Ipv4 {
            Ipv4Header::fill_checksum_at(frame, headers.l3_offset);
            Ipv4Header::fill_checksum_at(frame, quoted.l3_offset);
        }
        fill_checksum(frame, headers);
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
