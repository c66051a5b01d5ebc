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

use crate::address::{Address, FlowKey};
use crate::frame::Frame;
use crate::headers::Flow;
use crate::headers::Headers;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{Conn, ConnFlags, ConnIndex, Direction};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::protocol::sctp::SctpState;
use crate::ipvs::protocol::tcp::TcpState;
use crate::ipvs::real_server::{RealServer, RealServerId};
use crate::ipvs::service::ServerSlot;
use crate::ipvs::tunnel_kind::TunnelKind;
use crate::limits::BURST_MAX;
use crate::path::admit::{self, Admission};
use crate::path::classify;
use crate::path::classify::Class;
use crate::path::forward::rewrite::{self, Rewrite};
use crate::path::forward::tunnel;
use crate::path::fragments::cut;
use crate::path::icmp::build::IcmpError;
use crate::path::icmp::refuse;
use crate::path::parse;
use crate::path::parse::Parsed;
use crate::path::resolve::{self, NextHop, RouteError};
use crate::path::schedule;
use crate::path::sync::announce;
use crate::path::{client_address, track};
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::complement;
use crate::wire::{sctp, tcp};
use crate::worker_state::context::Context;
use crate::worker_state::context::Families;

/// A packet of a known connection, on its way to its verdict.
pub(crate) struct Known<'a, A: Address> {
    pub(crate) index: ConnIndex,
    pub(crate) headers: &'a Headers,
    pub(crate) key: &'a FlowKey<A>,
}

/// See the module.
#[inline(never)]
pub(crate) fn process<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    found: Option<(ConnIndex, Direction)>,
    headers: &Headers,
    key: &FlowKey<A>,
    frame: &mut F,
) -> Verdict {
    match found {
        Some((index, Direction::Inbound)) if !must_reschedule(ctx, table, index, headers) => {
            inbound(ctx, table, &Known { index, headers, key }, frame)
        }
        Some((index, Direction::Outbound)) => outbound(ctx, table, &Known { index, headers, key }, frame),
        _ => match admit::admit(ctx, headers, key) {
            Admission::Decided(verdict) => verdict,
            Admission::Schedule(service) => schedule::first_packet(ctx, table, service, headers, key, frame),
            Admission::Refuse => refuse::stray(ctx, headers, key, frame),
        },
    }
}

/// Whether a client's packet of the connection at `index` must begin anew: the connection is gone then
/// (`ip_vs_in`: `is_new_conn_expected`, `expire_nodest_conn`).
#[inline]
pub(crate) fn must_reschedule<A: Address>(
    ctx: &Context<'_>,
    table: &mut ConnTable<A>,
    index: ConnIndex,
    headers: &Headers,
) -> bool {
    let plain = headers.tcp_flags & tcp::SYN == 0 && headers.protocol != sctp::PROTOCOL;
    if plain && !ctx.snapshot.sysctls.expire_nodest_conn {
        return false;
    }
    let must = is_finished(ctx, table.conn(index), headers);
    if must {
        track::forget(ctx, table, index);
    } else if headers.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
        client_address::again(ctx, table.conn_mut(index), headers);
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
    packet: &Known<'_, A>,
    frame: &mut F,
) -> Verdict {
    let conn = table.conn(packet.index);
    let id = conn.real_server;
    match ctx.snapshot.services.real_server(id) {
        Some(slot) if slot.available => inbound_to(ctx, table, packet, frame, slot),
        _ if id == RealServerId::UNBOUND => {
            let slot = unbound(conn);
            inbound_to(ctx, table, packet, frame, &slot)
        }
        _ => Verdict::Drop(DropReason::RealServerGone),
    }
}

/// What a connection of another director says about its real server, which is not configured here: the kernel
/// forwards its packets all the same.
#[cold]
fn unbound<A: Address>(conn: &Conn<A>) -> ServerSlot {
    let server = RealServer {
        id: RealServerId::UNBOUND,
        addr: conn.real.addr.to_ip(),
        port: conn.real.port,
        weight: 0,
        mode: conn.mode(),
        tunnel: TunnelKind::IpIp,
        upper_threshold: 0,
        lower_threshold: 0,
    };
    ServerSlot::gone(conn.service, server)
}

#[inline]
fn inbound_to<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    packet: &Known<'_, A>,
    frame: &mut F,
    slot: &ServerSlot,
) -> Verdict {
    let headers = packet.headers;
    let id = slot.server.id;
    let conn = table.conn_mut(packet.index);
    conn.last_seen = ctx.now;
    conn.in_packets = conn.in_packets.wrapping_add(1);
    ctx.own
        .server(id)
        .count(Direction::Inbound, headers.packet_len() as u64);
    track::packet(ctx, table, packet.index, Direction::Inbound, headers);
    announce::packet(ctx, table, packet.index);

    let conn = table.conn_mut(packet.index);
    let mode = conn.mode();
    let next_hop = match resolve::next_hop(ctx, conn, Direction::Inbound, slot.server.addr) {
        Ok(next_hop) => next_hop,
        Err(RouteError::Local) => return to_local_server(conn, headers, frame.bytes_mut()),
        // Towards real servers the kernel tells the client even when the route says blackhole.
        Err(RouteError::Drop(_) | RouteError::Unreachable) => {
            return refuse::to_client(
                ctx,
                packet,
                frame,
                &slot.server,
                IcmpError::HostUnreachable,
                DropReason::NoRoute,
            );
        }
    };
    if headers.ttl <= 1 {
        return refuse::to_client(
            ctx,
            packet,
            frame,
            &slot.server,
            IcmpError::TimeExceeded,
            DropReason::TtlExpired,
        );
    }
    let mtu = match mode {
        ForwardingMode::Tunnel => tunnel::mtu(ctx, &slot.server, &next_hop),
        _ => next_hop.hop.mtu,
    };
    let is_oversize = headers.packet_len() > usize::from(mtu);
    if is_oversize | conn.client_address.is_pending() {
        return unusual(ctx, conn, packet, frame, slot, (&next_hop, mtu));
    }
    rewritten(ctx, conn, mode, headers, frame, slot, &next_hop)
}

/// A packet that is longer than `mtu`, or one that has something to tell the real server.
#[inline(never)]
fn unusual<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    conn: &mut Conn<A>,
    packet: &Known<'_, A>,
    frame: &mut F,
    slot: &ServerSlot,
    (next_hop, mtu): (&NextHop<'_>, u16),
) -> Verdict {
    let mode = conn.mode();
    let is_oversize = packet.headers.packet_len() > usize::from(mtu);
    if is_oversize && let Some(error) = refuse::too_big_error(ctx, packet.headers, mode, mtu) {
        return refuse::to_client(ctx, packet, frame, &slot.server, error, DropReason::MtuExceeded);
    }
    let (headers, proxy_header_first) = if conn.client_address.is_pending() {
        client_address::inbound(ctx, conn, packet.headers, frame, mtu)
    } else {
        (*packet.headers, false)
    };
    let verdict = rewritten(ctx, conn, mode, &headers, frame, slot, next_hop);
    let verdict = if proxy_header_first {
        let will_be_cut = is_oversize || ctx.reassembled != 0;
        client_address::send_before(ctx, conn, &headers, frame, will_be_cut, verdict)
    } else {
        verdict
    };
    match mode {
        // The tunnel cuts its outer packet itself.
        ForwardingMode::Tunnel => verdict,
        _ if is_oversize => cut::to_fit(ctx, frame.bytes(), mtu, verdict),
        _ => verdict,
    }
}

/// Changes the packet as its mode wants it and puts it on its way.
#[inline(always)]
fn rewritten<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    conn: &Conn<A>,
    mode: ForwardingMode,
    headers: &Headers,
    frame: &mut F,
    slot: &ServerSlot,
    next_hop: &NextHop<'_>,
) -> Verdict {
    match mode {
        ForwardingMode::Nat | ForwardingMode::FullNat => {
            let rewrite = Rewrite {
                src: conn.local,
                dst: conn.real,
                l3_delta: conn.l3_delta,
                l4_delta: conn.l4_delta,
            };
            rewrite::apply(frame.bytes_mut(), headers, &rewrite);
            resolve::depart(frame, headers, A::FAMILY, next_hop)
        }
        ForwardingMode::DirectRouting | ForwardingMode::Local => {
            rewrite::decrement_ttl(frame.bytes_mut(), headers);
            resolve::depart(frame, headers, A::FAMILY, next_hop)
        }
        ForwardingMode::Tunnel => tunnel::send(ctx, headers, frame, conn, &slot.server, next_hop),
    }
}

/// Real server → client, in NAT and FULLNAT.
#[inline]
pub(crate) fn outbound<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    packet: &Known<'_, A>,
    frame: &mut F,
) -> Verdict {
    let headers = packet.headers;
    let conn = table.conn_mut(packet.index);
    let next_hop = match resolve::next_hop(ctx, conn, Direction::Outbound, conn.client.addr.to_ip()) {
        Ok(next_hop) => next_hop,
        Err(RouteError::Local) => return Verdict::Drop(DropReason::NoRoute),
        Err(RouteError::Drop(reason)) => return Verdict::Drop(reason),
        Err(RouteError::Unreachable) => {
            return refuse::as_router(ctx, packet, frame, IcmpError::HostUnreachable, DropReason::NoRoute);
        }
    };
    if headers.ttl <= 1 {
        return refuse::as_router(ctx, packet, frame, IcmpError::TimeExceeded, DropReason::TtlExpired);
    }
    let is_oversize = headers.packet_len() > usize::from(next_hop.hop.mtu);
    if is_oversize && let Some(error) = refuse::too_big_error(ctx, headers, ForwardingMode::Nat, next_hop.hop.mtu) {
        return refuse::as_router(ctx, packet, frame, error, DropReason::MtuExceeded);
    }
    let id = conn.real_server;
    let rewrite = Rewrite {
        src: conn.virt,
        dst: conn.client,
        l3_delta: complement(conn.l3_delta),
        l4_delta: complement(conn.l4_delta),
    };
    let carries_client_address = conn.client_address.is_pending();
    conn.last_seen = ctx.now;
    if ctx.snapshot.services.real_server(id).is_some_and(|slot| slot.available) {
        ctx.own
            .server(id)
            .count(Direction::Outbound, headers.packet_len() as u64);
    }
    track::packet(ctx, table, packet.index, Direction::Outbound, headers);
    if carries_client_address {
        client_address::outbound(ctx, table.conn_mut(packet.index), headers, frame.bytes_mut());
    }
    rewrite::apply(frame.bytes_mut(), headers, &rewrite);
    let verdict = resolve::depart(frame, headers, A::FAMILY, &next_hop);
    if is_oversize {
        return cut::to_fit(ctx, frame.bytes(), next_hop.hop.mtu, verdict);
    }
    verdict
}

/// The director itself is the real server: its stack gets the packet, of DR and TUN as it is, because the VIP is
/// its own, masqueraded rewritten. What the stack answers comes back through the twin ([`super::from_host`]).
/// The kernel refuses to masquerade to a loopback address; in FULLNAT the stack would be asked by itself.
#[cold]
fn to_local_server<A: Address>(conn: &Conn<A>, headers: &Headers, frame: &mut [u8]) -> Verdict {
    match conn.mode() {
        ForwardingMode::FullNat => return Verdict::Drop(DropReason::LocalRealServer),
        ForwardingMode::Nat if conn.real.addr.to_ip().is_loopback() => {
            return Verdict::Drop(DropReason::LocalRealServer);
        }
        ForwardingMode::Nat => {
            let rewrite = Rewrite {
                src: conn.local,
                dst: conn.real,
                l3_delta: conn.l3_delta,
                l4_delta: conn.l4_delta,
            };
            rewrite::apply_keeping_ttl(frame, headers, &rewrite);
        }
        ForwardingMode::DirectRouting | ForwardingMode::Tunnel | ForwardingMode::Local => {}
    }
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
            Ok(Parsed::Ip(headers, Flow::V4(key))) => reply_only(ctx, &mut families.v4.table, &headers, &key, frame),
            Ok(Parsed::Ip(headers, Flow::V6(key))) => reply_only(ctx, &mut families.v6.table, &headers, &key, frame),
            Ok(Parsed::Other) => Verdict::Punt,
            Err(reason) => Verdict::Drop(reason),
        };
    }
}

fn reply_only<A: Address, F: Frame>(
    ctx: &mut Context<'_>,
    table: &mut ConnTable<A>,
    headers: &Headers,
    key: &FlowKey<A>,
    frame: &mut F,
) -> Verdict {
    match classify::classify(ctx, frame.bytes(), headers) {
        Class::Balanced => {}
        Class::Decided(verdict) => return verdict,
        Class::Fragment | Class::Icmp => return Verdict::Punt,
    }
    match table.lookup(key) {
        Some((index, Direction::Outbound)) => outbound(ctx, table, &Known { index, headers, key }, frame),
        _ => Verdict::Punt,
    }
}
