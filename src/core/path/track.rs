//! Step 6: the connection's protocol state, its timeout, and which kind of connection its server counts.
//!
//! In:  a packet of a known connection.
//! Out: state, timeout and the active/inactive counters, changed only when the packet changes them.
//! Ref: Linux net/netfilter/ipvs/ip_vs_proto_tcp.c `set_tcp_state`, ip_vs_conn.c `ip_vs_conn_expire`.

use crate::address::Address;
use crate::counters::SingleWriter;
use crate::ipvs::conn::table::{ConnTable, Expiry};
use crate::ipvs::conn::{Conn, ConnIndex, Direction, FLAG_INACTIVE, FLAG_NO_OUTPUT};
use crate::ipvs::protocol::{self, tcp};
use crate::ipvs::real_server::RealServerId;
use crate::path::headers::Headers;
use crate::wire::PROTOCOL_TCP;
use crate::wire::tcp::{FLAG_ACK, FLAG_FIN, FLAG_RST, FLAG_SYN};
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
    let conn = table.conn(index);
    let quiet = if headers.protocol == PROTOCOL_TCP {
        // Almost every packet: data or ACK in ESTABLISHED stays there.
        conn.state == tcp::TcpState::Established as u8
            && headers.tcp_flags & (FLAG_SYN | FLAG_FIN | FLAG_RST | FLAG_ACK) == FLAG_ACK
            && conn.timeout_ms == step.snapshot.timeouts.tcp_established_ms()
    } else {
        conn.timeout_ms == step.snapshot.timeouts.udp_ms()
    };
    if !quiet {
        change(step, table, index, direction, headers);
    }
}

fn change<A: Address>(
    step: &Step<'_>,
    table: &mut ConnTable<A>,
    index: ConnIndex,
    direction: Direction,
    headers: &Headers,
) {
    let conn = table.conn_mut(index);
    let timeouts = &step.snapshot.timeouts;
    if headers.protocol == PROTOCOL_TCP {
        let no_output = conn.flags & FLAG_NO_OUTPUT != 0;
        let next = tcp::next(tcp::TcpState::from_u8(conn.state), direction, no_output, headers.tcp_flags);
        conn.state = next as u8;
        count_as(step, conn, tcp::is_active(next));
    }
    let timeout_ms = protocol::timeout_ms(timeouts, conn.protocol, conn.state);
    if conn.timeout_ms != timeout_ms {
        table.set_timeout(index, timeout_ms, step.now);
    }
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

/// Removes at most `budget` connections that have been idle for their timeout.
pub(crate) fn expire<A: Address>(step: &Step<'_>, table: &mut ConnTable<A>, budget: usize) {
    table.expire(step.now, budget, |conn| {
        step.own.server(RealServerId(conn.real_server)).unbind(conn.flags & FLAG_INACTIVE == 0);
        step.own.conns_expired.add(1);
        Expiry::Remove
    });
}
