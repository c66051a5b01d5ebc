//! Stage 6: the connection's protocol state, its timeout, and which kind of connection its server counts.
//!
//! In:  a packet of a known connection.
//! Out: state, timeout and the active/inactive counters, changed only when the packet changes them.
//! Ref: Linux net/netfilter/ipvs/ip_vs_proto_tcp.c `set_tcp_state`, ip_vs_conn.c `ip_vs_conn_expire`.

use crate::address::Address;
use crate::counters::WorkerCounters;
use crate::headers::Headers;
use crate::ipvs::conn::table::{ConnTable, Expiry};
use crate::ipvs::conn::{Conn, ConnFlags, ConnIndex, ConnMut, Direction};
use crate::ipvs::load_board::LoadBoard;
use crate::ipvs::persistence;
use crate::ipvs::protocol;
use crate::ipvs::protocol::sctp::{self, SctpEvent, SctpState};
use crate::ipvs::protocol::tcp::{self, TcpState};
use crate::ipvs::real_server::{RealServer, RealServerId};
use crate::limits::{RESPONSE_MAX_MS, TEMPLATE_EXTENSION_MS, TIMEOUT_MAX_MS};
use crate::path::schedule::local_end;
use crate::path::sync::announce;
use crate::single_writer::SingleWriter;
use crate::wire;
use crate::wire::tcp::{ACK, FIN, RST, SYN};
use crate::worker_state::context::Context;

/// See the module.
#[inline]
pub(crate) fn packet<A: Address>(
    ctx: &Context<'_>,
    table: &mut ConnTable<A>,
    (index, direction): (ConnIndex, Direction),
    headers: &Headers,
) {
    let conn = table.conn_mut(index);
    if headers.protocol == wire::tcp::PROTOCOL {
        // Almost every packet: data or ACK in ESTABLISHED stays there.
        const EVENTS: u8 = SYN | FIN | RST | ACK;
        if conn.state != TcpState::Established as u8 || headers.tcp_flags & EVENTS != ACK {
            if conn.flags.contains(ConnFlags::TIMED) {
                responded(ctx, &mut table.both_mut(index), direction);
            }
            tcp_event(ctx, table.conn_mut(index), direction, headers.tcp_flags);
            assure_template(table, index, TcpState::Established as u8);
        }
    } else if headers.protocol == wire::sctp::PROTOCOL {
        sctp_event(ctx, conn, direction, headers.sctp_chunk);
        assure_template(table, index, SctpState::Established as u8);
    } else if direction == Direction::Outbound {
        if conn.flags.contains(ConnFlags::TIMED) {
            responded(ctx, &mut table.both_mut(index), direction);
        }
        assure_template(table, index, protocol::udp::NORMAL);
    }
    let conn = table.conn(index);
    let timeout_ms = timeout_ms(ctx, conn);
    if conn.timeout_ms != timeout_ms {
        table.set_timeout(index, timeout_ms, ctx.now);
    }
}

/// The timeout of `conn` in its present state: that of its service, if this has one for established connections.
#[inline]
fn timeout_ms<A: Address>(ctx: &Context<'_>, conn: &Conn<A>) -> u32 {
    let is_established = match conn.protocol {
        wire::tcp::PROTOCOL => conn.state == TcpState::Established as u8,
        wire::sctp::PROTOCOL => conn.state == SctpState::Established as u8,
        _ => false,
    };
    if is_established
        && let Some(slot) = ctx.snapshot.services.real_server(conn.real_server)
        && slot.established_ms != 0
    {
        return slot.established_ms;
    }
    protocol::timeout_ms(&ctx.snapshot.timeouts, conn.protocol, conn.state)
}

fn tcp_event<A: Address>(ctx: &Context<'_>, conn: &mut Conn<A>, direction: Direction, tcp_flags: u8) {
    let state = conn.tcp_state().unwrap_or(TcpState::None);
    let no_output = conn.flags.contains(ConnFlags::NO_OUTPUT);
    let next = if ctx.defence.is_tcp_secure() {
        tcp::next_secure(state, direction, no_output, tcp_flags)
    } else {
        tcp::next(state, direction, no_output, tcp_flags)
    };
    conn.state = next as u8;
    count_as(ctx, conn, tcp::is_active(next));
}

fn sctp_event<A: Address>(ctx: &Context<'_>, conn: &mut Conn<A>, direction: Direction, chunk: u8) {
    let state = conn.sctp_state().unwrap_or(SctpState::None);
    let no_output = conn.flags.contains(ConnFlags::NO_OUTPUT);
    let next = sctp::next(state, direction, no_output, SctpEvent::of_chunk(chunk));
    conn.state = next as u8;
    count_as(ctx, conn, sctp::is_active(next));
}

/// Begins to measure how long the real server takes to answer (wrt), if its answer will pass here.
pub(crate) fn time_response<A: Address>(ctx: &Context<'_>, conn: &mut ConnMut<'_, A>) {
    let is_measured = matches!(conn.protocol, wire::tcp::PROTOCOL | wire::udp::PROTOCOL);
    if is_measured && conn.flags.contains(ConnFlags::OUTBOUND_INDEXED) {
        conn.flags.insert(ConnFlags::TIMED);
        conn.cold.asked_us = ctx.scheduling.loads.us();
    }
}

/// The first packet after the one that asked. From the client it is a SYN once more: the answer could be to
/// either (Karn), so there will be no measure.
#[cold]
fn responded<A: Address>(ctx: &Context<'_>, conn: &mut ConnMut<'_, A>, direction: Direction) {
    conn.flags.remove(ConnFlags::TIMED);
    let us = ctx.scheduling.loads.us().wrapping_sub(conn.cold.asked_us);
    if direction == Direction::Outbound && us < RESPONSE_MAX_MS * 1_000 {
        LoadBoard::responded(ctx.own, conn.real_server, us, ctx.now);
    }
}

/// The template of a connection that has reached `state` is kept by `drop_entry` (`ip_vs_control_assure_ct`).
#[inline]
fn assure_template<A: Address>(table: &mut ConnTable<A>, index: ConnIndex, state: u8) {
    let conn = table.conn(index);
    if conn.flags.contains(ConnFlags::CONTROLLED) && conn.state == state {
        let template = ConnIndex(table.cold(index).control);
        table.conn_mut(template).state = persistence::STATE_ASSURED;
    }
}

/// Moves the connection between its server's ActiveConn and InActConn.
pub(crate) fn count_as<A: Address>(ctx: &Context<'_>, conn: &mut Conn<A>, active: bool) {
    let was_active = !conn.flags.contains(ConnFlags::INACTIVE);
    if active == was_active {
        return;
    }
    conn.flags ^= ConnFlags::INACTIVE;
    let server = ctx.own.server(conn.real_server);
    server.unbind(was_active);
    server.bind(active);
    publish_load(ctx, conn.real_server);
}

/// Shows the other workers, if there are any, how many connections of this server there are here.
#[inline]
fn publish_load(ctx: &Context<'_>, id: RealServerId) {
    if ctx.ownership.workers_count > 1 {
        ctx.own.publish_conns(id);
    }
}

/// One connection more with `server`, which may be one too many (`ip_vs_bind_dest`).
pub(crate) fn bind(ctx: &Context<'_>, server: &RealServer, active: bool) {
    let counters = ctx.own.server(server.id);
    counters.bind(active);
    if server.upper_threshold > 0 && server.overloaded(false, conns(ctx, server.id)) {
        counters.overloaded.set(1);
    }
    publish_load(ctx, server.id);
}

/// What the end of `conn` changes in counters, those of its server above all (`ip_vs_unbind_dest`).
fn unbind<A: Address>(ctx: &Context<'_>, conn: &Conn<A>) {
    if conn.flags.contains(ConnFlags::SYNCED) {
        ctx.own.imported_of(A::FAMILY).sub(1);
    }
    let id = conn.real_server;
    let counters = ctx.own.server(id);
    if conn.flags.contains(ConnFlags::TEMPLATE) {
        counters.persistent.sub(1);
        return;
    }
    counters.unbind(!conn.flags.contains(ConnFlags::INACTIVE));
    if counters.overloaded.get() != 0 {
        let slot = ctx.snapshot.services.real_server(id);
        let still = slot.is_some_and(|slot| slot.server.overloaded(true, conns(ctx, id)));
        counters.overloaded.set(u32::from(still));
    }
    publish_load(ctx, id);
}

/// Connections of a server at all workers, templates not counted: for servers with a threshold, which wants the
/// number as it is.
fn conns(ctx: &Context<'_>, id: RealServerId) -> u32 {
    WorkerCounters::conns_of_all(ctx.counters, id)
}

/// Takes a connection out before its time.
pub(crate) fn forget<A: Address>(ctx: &mut Context<'_>, table: &mut ConnTable<A>, index: ConnIndex) {
    let conn = table.conn(index);
    unbind(ctx, conn);
    let both = (conn, table.cold(index));
    local_end::give_up(&mut ctx.scheduling.resting, table.hasher(), both, ctx.now);
    table.remove(index);
}

/// Removes at most `budget` connections that have been idle for their timeout.
pub(crate) fn expire<A: Address>(ctx: &mut Context<'_>, table: &mut ConnTable<A>, budget: usize) {
    let hasher = table.hasher();
    table.expire(ctx.now, budget, |mut conn| {
        if conn.cold.controlled > 0 {
            conn.last_seen = ctx.now;
            conn.timeout_ms = TEMPLATE_EXTENSION_MS;
            announce::extension(ctx, &mut conn);
            return Expiry::Rearm {
                ms: TEMPLATE_EXTENSION_MS,
            };
        }
        if conn.timeout_ms > TIMEOUT_MAX_MS {
            // More than the clock can count: what is left of it. The next packet begins anew.
            conn.timeout_ms -= TIMEOUT_MAX_MS;
            conn.last_seen = conn.last_seen.plus_ms(TIMEOUT_MAX_MS);
            return Expiry::Rearm {
                ms: conn
                    .timeout_ms
                    .saturating_sub(ctx.now.since_ms(conn.last_seen))
                    .min(TIMEOUT_MAX_MS),
            };
        }
        unbind(ctx, &conn);
        local_end::give_up(&mut ctx.scheduling.resting, &hasher, (&conn, conn.cold), ctx.now);
        ctx.own.conns_expired.add(1);
        Expiry::Remove
    });
}
