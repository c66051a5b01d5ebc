//! Step 6: the connection's protocol state, its timeout, and which kind of connection its server counts.
//!
//! In:  a packet of a known connection.
//! Out: state, timeout and the active/inactive counters, changed only when the packet changes them.
//! Ref: Linux net/netfilter/ipvs/ip_vs_proto_tcp.c `set_tcp_state`, ip_vs_conn.c `ip_vs_conn_expire`.

use crate::address::Address;
use crate::counters::SingleWriter;
use crate::ipvs::conn::table::{ConnTable, Expiry};
use crate::ipvs::conn::{Conn, ConnIndex, Direction, FLAG_INACTIVE, FLAG_NO_OUTPUT};
use crate::ipvs::protocol;
use crate::ipvs::protocol::tcp::{self, TcpState};
use crate::ipvs::real_server::RealServerId;
use crate::path::headers::Headers;
use crate::wire;
use crate::wire::tcp::{ACK, FIN, RST, SYN};
use crate::worker_state::Step;

/// See the module.
#[inline]
pub(crate) fn packet<A: Address>(
    step: &Step<'_>,
    table: &mut ConnTable<A>,
    index: ConnIndex,
    direction: Direction,
    headers: &Headers,
) {
    let conn = table.conn_mut(index);
    if headers.protocol == wire::tcp::PROTOCOL {
        // Almost every packet: data or ACK in ESTABLISHED stays there.
        const EVENTS: u8 = SYN | FIN | RST | ACK;
        if conn.state != TcpState::Established as u8 || headers.tcp_flags & EVENTS != ACK {
            tcp_event(step, conn, direction, headers.tcp_flags);
        }
    }
    let timeout_ms = protocol::timeout_ms(&step.snapshot.timeouts, conn.protocol, conn.state);
    if conn.timeout_ms != timeout_ms {
        table.set_timeout(index, timeout_ms, step.now);
    }
}

fn tcp_event<A: Address>(step: &Step<'_>, conn: &mut Conn<A>, direction: Direction, tcp_flags: u8) {
    let state = TcpState::from_u8(conn.state).unwrap_or(TcpState::None);
    let no_output = conn.flags & FLAG_NO_OUTPUT != 0;
    let next = tcp::next(state, direction, no_output, tcp_flags);
    conn.state = next as u8;
    count_as(step, conn, tcp::is_active(next));
}

/// Moves the connection between its server's ActiveConn and InActConn.
fn count_as<A: Address>(step: &Step<'_>, conn: &mut Conn<A>, active: bool) {
    let was_active = conn.flags & FLAG_INACTIVE == 0;
    if active == was_active {
        return;
    }
    conn.flags ^= FLAG_INACTIVE;
    let server = step.own.server(RealServerId(conn.real_server));
    server.unbind(was_active);
    server.bind(active);
}

/// Whether a client reuses the port of a connection that is over: its SYN then begins another one, which
/// is scheduled afresh (`conn_reuse_mode` 1, ip_vs_core.c `is_new_conn_expected`).
#[inline]
pub(crate) fn is_begun_anew<A: Address>(table: &ConnTable<A>, index: ConnIndex, headers: &Headers) -> bool {
    if headers.tcp_flags & SYN == 0 {
        return false;
    }
    let conn = table.conn(index);
    let over = [TcpState::TimeWait as u8, TcpState::Close as u8].contains(&conn.state);
    over && conn.control == Conn::<A>::NO_CONTROL
}

/// Ends a connection before its time.
pub(crate) fn expire_now<A: Address>(step: &Step<'_>, table: &mut ConnTable<A>, index: ConnIndex) {
    uncount(step, table.conn(index));
    table.remove(index);
}

/// Removes at most `budget` connections that have been idle for their timeout.
pub(crate) fn expire<A: Address>(step: &Step<'_>, table: &mut ConnTable<A>, budget: usize) {
    table.expire(step.now, budget, |conn| {
        uncount(step, conn);
        Expiry::Remove
    });
}

/// Takes a connection that ends off its server's count.
fn uncount<A: Address>(step: &Step<'_>, conn: &Conn<A>) {
    let active = conn.flags & FLAG_INACTIVE == 0;
    step.own.server(RealServerId(conn.real_server)).unbind(active);
    step.own.conns_expired.add(1);
}
