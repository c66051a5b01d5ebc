//! The slow path: from lookup to verdict, in order, for any packet.
//!
//! In:  a whole TCP, UDP or SCTP packet and its connection, if there is one.
//! Out: its verdict. A packet with a connection is counted, changes its state, is rewritten and sent; one without
//!      goes through [`admit`] and may begin one. Drops: `real_server_gone`, `local_real_server`, `no_route`, and
//!      those of the stages that it calls.
//! Never: is taken by a packet for which [`fast_path`](crate::path::fast_path) does the same.
//! Ref: Linux net/netfilter/ipvs/ip_vs_core.c `ip_vs_in_hook`, `handle_response`.
//!
//! Order of the kernel: `ip_vs_in` counts and changes state before it looks at TTL and MTU, so a packet
//! that expires here still made or moved its connection. On the way back the stack's `ip_forward` comes
//! first, so there TTL and MTU are looked at before anything is counted.

use crate::address::Address;
use crate::frame::Frame;
use crate::headers::Headers;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{Conn, ConnFlags, ConnIndex, ConnMut, Direction};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::protocol::sctp::SctpState;
use crate::ipvs::protocol::tcp::TcpState;
use crate::ipvs::real_server::{RealServer, RealServerId};
use crate::ipvs::tunnel_kind::TunnelKind;
use crate::l3::InterfaceId;
use crate::limits::BURST_MAX;
use crate::packet::{Origin, Packet};
use crate::path::admit::{self, Admission};
use crate::path::classify::{self, Class};
use crate::path::client_address;
use crate::path::forward::resolve::{self, RouteError, ToServer};
use crate::path::forward::rewrite::{self, Rewrite};
use crate::path::forward::tunnel;
use crate::path::fragments::cut;
use crate::path::icmp::build::IcmpError;
use crate::path::icmp::refuse;
use crate::path::parse::{self, Parsed};
use crate::path::reset::{self, Cause};
use crate::path::schedule;
use crate::path::stack::checks;
use crate::path::stack::ip_options;
use crate::path::sync::announce;
use crate::path::track;
use crate::verdict::{DropReason, Verdict};
use crate::wire::{sctp, tcp};
use crate::worker_state::context::{Context, Families, in_family};

/// See the module.
#[inline(never)]
pub(crate) fn process<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    found: Option<(ConnIndex, Direction)>,
    packet: &mut Packet<'_, A, F>,
) -> Verdict {
    if ctx.checks.is_any
        && let Some(verdict) = checks::refuse(ctx, table, found, packet)
    {
        return verdict;
    }
    // The local end of the client's last connection, if that ended with this packet.
    let former = match found {
        Some((index, Direction::Inbound)) => {
            if !must_reschedule(ctx, table, index, &packet.headers) {
                return inbound(ctx, table, index, packet);
            }
            let former = table.conn(index).former_end();
            track::forget(ctx, table, index);
            former
        }
        Some((index, Direction::Outbound)) => return outbound(ctx, table, index, packet),
        None => None,
    };
    match admit::admit(ctx, packet) {
        Admission::Decided(verdict) => verdict,
        Admission::Schedule(service) => schedule::first_packet(ctx, table, (service, former), packet),
        Admission::Refuse => refuse::stray(ctx, packet),
        Admission::Reset => reset::send(ctx, packet, Cause::Unknown).unwrap_or(Verdict::Punt),
    }
}

/// Whether a client's packet of `conn` must begin anew: the connection has to go then (`ip_vs_in`:
/// `is_new_conn_expected`, `expire_nodest_conn`).
#[inline]
fn must_reschedule<A: Address>(
    ctx: &Context<'_>,
    table: &mut ConnTable<A>,
    index: ConnIndex,
    headers: &Headers,
) -> bool {
    let goes_on = headers.tcp_flags & tcp::SYN == 0 && headers.protocol != sctp::PROTOCOL;
    if goes_on && !ctx.snapshot.sysctls.expire_nodest_conn {
        return false;
    }
    let must = is_finished(ctx, table.conn(index), headers);
    if !must && headers.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
        client_address::again(ctx, &mut table.both_mut(index), headers);
        // Two services may lead one client's port to one server's port. Whoever begins anew gets the answer; the
        // kernel gives it to the connection that was made last, and the client waits in vain.
        table.make_newest(index);
    }
    must
}

/// Whether the connection ends with this packet of its client, which then begins a new one.
#[cold]
pub(crate) fn is_finished<A: Address>(ctx: &Context<'_>, conn: &Conn<A>, headers: &Headers) -> bool {
    let sysctls = &ctx.snapshot.sysctls;
    let slot = ctx.snapshot.services.real_server(conn.real_server);
    let begins = headers.tcp_flags & tcp::SYN != 0 || headers.sctp_chunk == sctp::CHUNK_INIT;
    let is_nodest = match slot {
        Some(slot) => !slot.available || begins && slot.server.weight == 0,
        // One that was never bound is not left behind by a server.
        None => conn.real_server != RealServerId::UNBOUND,
    };
    if sysctls.expire_nodest_conn && is_nodest {
        return true;
    }
    let mode = sysctls.conn_reuse_mode;
    if !begins || mode == 0 || conn.flags.contains(ConnFlags::CONTROLLED) {
        return false;
    }
    match headers.protocol {
        tcp::PROTOCOL => match conn.tcp_state() {
            Some(TcpState::TimeWait | TcpState::Close) => true,
            Some(TcpState::FinWait) => mode & 2 != 0 && conn.flags.contains(ConnFlags::NO_OUTPUT),
            _ => false,
        },
        _ => conn.state == SctpState::Closed as u8,
    }
}

/// Client → real server.
#[inline]
pub(crate) fn inbound<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    index: ConnIndex,
    packet: &mut Packet<'_, A, F>,
) -> Verdict {
    let conn = table.conn_mut(index);
    let id = conn.real_server;
    let unbound;
    let server = match ctx.snapshot.services.real_server(id) {
        Some(slot) if slot.available => &slot.server,
        _ if id == RealServerId::UNBOUND => {
            unbound = unbound_server(conn);
            &unbound
        }
        _ => return to_gone_server(ctx, table, index, packet),
    };
    conn.last_seen = ctx.now;
    conn.in_packets = conn.in_packets.wrapping_add(1);
    ctx.count(conn, Direction::Inbound, packet.headers.packet_len());
    track::packet(ctx, table, (index, Direction::Inbound), &packet.headers);
    announce::packet(ctx, table, index);

    let conn = table.conn_mut(index);
    let mode = conn.mode();
    let next_hop = match resolve::to_server(ctx, conn, server) {
        Ok(next_hop) => next_hop,
        Err(RouteError::Local) if mode == ForwardingMode::Bypass => return Verdict::Drop(DropReason::NoRoute),
        Err(RouteError::Local) => return to_local_server(conn, &packet.headers, packet.frame.bytes_mut()),
        Err(RouteError::Drop(DropReason::RouteElsewhere)) => {
            return to_server_elsewhere(conn, &packet.headers, packet.frame.bytes_mut());
        }
        // Towards real servers the kernel answers the client even when the route says blackhole.
        Err(RouteError::Drop(_) | RouteError::Unreachable) => {
            return refuse::to_client(ctx, packet, server, IcmpError::HostUnreachable);
        }
    };
    if packet.headers.ttl <= 1 {
        return refuse::to_client(ctx, packet, server, IcmpError::TimeExceeded);
    }
    let mtu = match mode {
        ForwardingMode::Tunnel => tunnel::mtu(ctx, server, &next_hop),
        _ => next_hop.hop.mtu,
    };
    if mode == ForwardingMode::Tunnel && mtu < tunnel::mtu_min(server) {
        // Nor may the fast path send by it.
        conn.hops[Direction::Inbound as usize] = Conn::<A>::NO_HOP;
        return Verdict::Drop(DropReason::MtuExceeded);
    }
    let to = ToServer { server, mtu, next_hop };
    let is_oversize = packet.headers.packet_len() > usize::from(to.mtu);
    if is_oversize | client_address::concerns_inbound(conn, &packet.headers) {
        return unusual(ctx, &mut table.both_mut(index), packet, &to);
    }
    rewritten(ctx, conn, packet, &to)
}

/// The connection's real server was deleted. The packet is dropped, or its client gets a reset and the connection ends.
#[cold]
fn to_gone_server<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    index: ConnIndex,
    packet: &mut Packet<'_, A, F>,
) -> Verdict {
    if !is_reset(ctx, packet) {
        return Verdict::Drop(DropReason::RealServerGone);
    }
    match reset::send(ctx, packet, Cause::ServerGone) {
        None => Verdict::Drop(DropReason::RealServerGone),
        Some(refused @ Verdict::Drop(_)) => refused,
        Some(sent) => {
            track::forget(ctx, table, index);
            sent
        }
    }
}

/// Whether the client of a connection without a real server gets a reset, as the service of its packet now is.
pub(crate) fn is_reset<A: Address, F>(ctx: &Context<'_>, packet: &Packet<'_, A, F>) -> bool {
    admit::service_of(ctx, packet.key).is_some_and(|service| reset::is_due(ctx, service, packet))
}

/// What a connection of another director says about its real server, which is not configured here: the kernel
/// forwards its packets all the same.
#[cold]
fn unbound_server<A: Address>(conn: &Conn<A>) -> RealServer {
    RealServer {
        id: RealServerId::UNBOUND,
        addr: conn.real().addr.to_ip(),
        port: conn.real().port,
        weight: 0,
        mode: conn.mode(),
        tunnel: TunnelKind::IpIp,
        upper_threshold: 0,
        lower_threshold: 0,
    }
}

/// A packet that is too long, or one that carries the client's address or a MSS to the real server or whose sequence
/// number is changed or remembered.
#[inline(never)]
fn unusual<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    conn: &mut ConnMut<'_, A>,
    packet: &mut Packet<'_, A, F>,
    to: &ToServer<'_>,
) -> Verdict {
    let mode = conn.mode();
    let is_oversize = packet.headers.packet_len() > usize::from(to.mtu);
    if is_oversize && let Some(error) = refuse::too_big_error(ctx, packet, mode, to.mtu) {
        return refuse::to_client(ctx, packet, to.server, error);
    }
    let proxy_header_first = client_address::inbound(ctx, conn, packet, to.mtu);
    let verdict = rewritten(ctx, conn, packet, to);
    let verdict = match verdict {
        Verdict::Drop(_) => verdict,
        _ if proxy_header_first && (is_oversize || packet.origin != Origin::Whole) => {
            client_address::send_before_pieces(ctx, conn, packet, verdict)
        }
        _ if proxy_header_first => client_address::send_before(ctx, conn, packet, verdict),
        _ => verdict,
    };
    match mode {
        // The tunnel cuts its outer packet itself.
        ForwardingMode::Tunnel => verdict,
        _ if is_oversize => cut::to_fit(ctx, packet, to.mtu, verdict),
        _ => verdict,
    }
}

/// Changes the packet as its mode wants it and puts it on its way.
#[inline(always)]
fn rewritten<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    conn: &Conn<A>,
    packet: &mut Packet<'_, A, F>,
    to: &ToServer<'_>,
) -> Verdict {
    if ip_options::are_there(&packet.headers) {
        ip_options::fill(ctx, conn, Direction::Inbound, packet);
    }
    match conn.mode() {
        ForwardingMode::Nat | ForwardingMode::FullNat => {
            let rewrite = Rewrite::of(conn, Direction::Inbound);
            rewrite::apply(packet.frame.bytes_mut(), &packet.headers, &rewrite);
            resolve::depart(packet, &to.next_hop)
        }
        ForwardingMode::DirectRouting | ForwardingMode::Local | ForwardingMode::Bypass => {
            rewrite::decrement_ttl(packet.frame.bytes_mut(), &packet.headers);
            resolve::depart(packet, &to.next_hop)
        }
        ForwardingMode::Tunnel => tunnel::send(ctx, conn, packet, to),
    }
}

/// Real server → client, in NAT and FULLNAT.
#[inline]
pub(crate) fn outbound<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    index: ConnIndex,
    packet: &mut Packet<'_, A, F>,
) -> Verdict {
    if !checks::may_forward(ctx, packet) {
        return Verdict::Drop(DropReason::NotForwarding);
    }
    let conn = table.conn_mut(index);
    let next_hop = match resolve::to_client(ctx, conn, packet) {
        Ok(next_hop) => next_hop,
        Err(RouteError::Local) => return to_own_client(ctx, table, index, packet),
        Err(RouteError::Drop(DropReason::RouteElsewhere)) => return to_client_elsewhere(ctx, table, index, packet),
        Err(RouteError::Drop(reason)) => return Verdict::Drop(reason),
        Err(RouteError::Unreachable) => {
            let client = conn.client().addr;
            return refuse::without_route(ctx, packet, client);
        }
    };
    if packet.headers.ttl <= 1 {
        return refuse::as_router(ctx, packet, IcmpError::TimeExceeded);
    }
    let mtu = next_hop.hop.mtu;
    let is_oversize = packet.headers.packet_len() > usize::from(mtu);
    if is_oversize && let Some(error) = refuse::too_big_error(ctx, packet, ForwardingMode::Nat, mtu) {
        return refuse::as_router(ctx, packet, error);
    }
    if ip_options::are_there(&packet.headers) {
        ip_options::fill(ctx, conn, Direction::Outbound, packet);
    }
    let rewrite = note_reply(ctx, table, index, packet);
    rewrite::apply(packet.frame.bytes_mut(), &packet.headers, &rewrite);
    let verdict = resolve::depart(packet, &next_hop);
    if is_oversize {
        return cut::to_fit(ctx, packet, mtu, verdict);
    }
    verdict
}

/// Counts and tracks a reply that goes on; how it is to be rewritten.
#[inline(always)]
fn note_reply<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    index: ConnIndex,
    packet: &mut Packet<'_, A, F>,
) -> Rewrite<A> {
    let conn = table.conn_mut(index);
    let id = conn.real_server;
    let rewrite = Rewrite::of(conn, Direction::Outbound);
    let carries_client_address = client_address::concerns_outbound(conn);
    conn.last_seen = ctx.now;
    if ctx.snapshot.services.real_server(id).is_some_and(|slot| slot.available) {
        ctx.count(conn, Direction::Outbound, packet.headers.packet_len());
    }
    track::packet(ctx, table, (index, Direction::Outbound), &packet.headers);
    announce::reply(ctx, &mut table.both_mut(index));
    if carries_client_address {
        client_address::outbound(
            ctx,
            &mut table.both_mut(index),
            &packet.headers,
            packet.frame.bytes_mut(),
        );
    }
    rewrite
}

/// The kernel's route to the client is not followed here. The kernel gets the reply to forward, from the VIP, where it
/// is set to forward packets from an address of its own.
#[cold]
fn to_client_elsewhere<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    index: ConnIndex,
    packet: &mut Packet<'_, A, F>,
) -> Verdict {
    let receiver = resolve::receiver(ctx, packet).map_or(InterfaceId::NONE, |interface| interface.id);
    if !ctx.snapshot.l3.forwards_own(A::FAMILY, receiver) {
        return Verdict::Drop(DropReason::RouteElsewhere);
    }
    if packet.headers.ttl <= 1 {
        return refuse::as_router(ctx, packet, IcmpError::TimeExceeded);
    }
    to_own_client(ctx, table, index, packet)
}

/// The stack gets the reply, from the VIP: the director itself is the client ([`super::from_host`]), or it forwards.
#[cold]
fn to_own_client<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    index: ConnIndex,
    packet: &mut Packet<'_, A, F>,
) -> Verdict {
    let rewrite = note_reply(ctx, table, index, packet);
    rewrite::apply_keeping_ttl(packet.frame.bytes_mut(), &packet.headers, &rewrite);
    Verdict::Punt
}

/// The director itself is the real server: its stack gets the packet, of DR and TUN as it is, because the VIP is
/// its own, masqueraded rewritten. What the stack answers comes back through the twin ([`super::from_host`]).
/// The kernel refuses to masquerade to a loopback address; in FULLNAT the stack would be asked by itself.
#[cold]
fn to_local_server<A: Address>(conn: &Conn<A>, headers: &Headers, frame: &mut [u8]) -> Verdict {
    match conn.mode() {
        ForwardingMode::FullNat => return Verdict::Drop(DropReason::LocalRealServer),
        ForwardingMode::Nat if conn.real().addr.to_ip().is_loopback() => {
            return Verdict::Drop(DropReason::LocalRealServer);
        }
        ForwardingMode::Nat => {
            let rewrite = Rewrite::of(conn, Direction::Inbound);
            rewrite::apply_keeping_ttl(frame, headers, &rewrite);
        }
        ForwardingMode::DirectRouting | ForwardingMode::Tunnel | ForwardingMode::Local | ForwardingMode::Bypass => {}
    }
    Verdict::Punt
}

/// The kernel's route to the real server is not followed here. A masqueraded packet is left to the kernel, which
/// forwards it as a router. The others are dropped: DR's are addressed to the VIP and would be delivered to the kernel
/// itself, a tunnel's are for the director to wrap, and a FULLNAT server's answer to a local address would reach the
/// kernel, which would reset the connection.
#[cold]
fn to_server_elsewhere<A: Address>(conn: &Conn<A>, headers: &Headers, frame: &mut [u8]) -> Verdict {
    if conn.mode() != ForwardingMode::Nat {
        return Verdict::Drop(DropReason::RouteElsewhere);
    }
    let rewrite = Rewrite::of(conn, Direction::Inbound);
    rewrite::apply_keeping_ttl(frame, headers, &rewrite);
    Verdict::Punt
}

/// While another director serves the clients: only replies of connections that are known here are ours.
#[cold]
pub(crate) fn only_replies<F: Frame>(
    ctx: &mut Context<'_>,
    families: &mut Families,
    frames: &mut [F],
    verdicts: &mut [Verdict],
) {
    for (frame, verdict) in frames.iter_mut().zip(verdicts.iter_mut()).take(BURST_MAX) {
        *verdict = match parse::parse(frame.bytes()) {
            Ok(Parsed::Ip(headers, flow)) => in_family!(&flow, |key| {
                let mut packet = Packet::whole(headers, key, frame);
                only_reply(ctx, &mut families.of(key).table, &mut packet)
            }),
            Ok(Parsed::Other) => Verdict::Punt,
            Err(reason) => Verdict::Drop(reason),
        };
    }
}

fn only_reply<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    packet: &mut Packet<'_, A, F>,
) -> Verdict {
    match classify::classify(ctx, packet.frame.bytes(), &packet.headers) {
        Class::Balanced => {}
        Class::Decided(verdict) => return verdict,
        Class::Fragment | Class::Icmp => return Verdict::Punt,
    }
    match table.lookup(packet.key) {
        Some((index, Direction::Outbound)) => outbound(ctx, table, index, packet),
        _ => Verdict::Punt,
    }
}
