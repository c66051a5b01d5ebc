//! A connection as listings, captures and explanations show it, and the place where a listing goes on.
//!
//! In:  a connection of a worker's table and the snapshot. Out: a copy that is valid after the connection ended.

use std::net::IpAddr;

use crate::address::{Address, Endpoint};
use crate::ipvs::conn::{ColdConn, Conn, ConnFlags};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::real_server::RealServerId;
use crate::ipvs::service::ServiceId;
use crate::ipvs::{persistence, protocol};
use crate::snapshot::Snapshot;
use crate::tick::Tick;

/// Where a dump of connections goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpCursor {
    /// In the IPv4 table, from this slot.
    V4(u32),
    /// In the IPv6 table, from this slot.
    V6(u32),
}

/// A connection as listings show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnRecord {
    /// IP protocol number; 0 for the template of a fwmark service.
    pub protocol: u8,
    /// CIP and client port.
    pub client: (IpAddr, u16),
    /// VIP and service port.
    pub virt: (IpAddr, u16),
    /// FULLNAT: local address and port; otherwise the client again.
    pub local: (IpAddr, u16),
    /// RIP and real port.
    pub real: (IpAddr, u16),
    /// How it is forwarded.
    pub mode: ForwardingMode,
    /// Protocol state, or a template's; named by [`ConnRecord::state_name`].
    pub state: u8,
    /// Milliseconds until it expires if nothing more arrives.
    pub expires_in_ms: u32,
    /// Packets from the client.
    pub in_packets: u32,
    /// The service it was made for.
    pub service: ServiceId,
    /// The real server it goes to.
    pub real_server: RealServerId,
    /// Of the connection.
    pub flags: ConnFlags,
}

impl ConnRecord {
    /// A connection as it is now.
    pub(crate) fn of<A: Address>(snapshot: &Snapshot, (conn, cold): (&Conn<A>, &ColdConn), now: Tick) -> Self {
        let end = |endpoint: Endpoint<A>| (endpoint.addr.to_ip(), endpoint.port);
        let real_server = conn.real_server;
        let mode = conn.mode();
        // A tunnel may lead to a server of the other family, which only its slot can name.
        let real = match snapshot.services.real_server(real_server) {
            Some(slot) if mode == ForwardingMode::Tunnel => (slot.server.addr, conn.real().port),
            _ => end(conn.real()),
        };
        Self {
            protocol: conn.ip_protocol(),
            client: end(conn.client()),
            virt: end(conn.virt()),
            local: end(conn.local()),
            real,
            mode,
            state: conn.state,
            expires_in_ms: conn.timeout_ms.saturating_sub(now.since_ms(conn.last_seen)),
            in_packets: conn.in_packets,
            service: cold.service,
            real_server,
            flags: conn.flags,
        }
    }

    /// The state as `ipvsadm -Lnc` names it.
    pub fn state_name(&self) -> &'static str {
        if !self.flags.contains(ConnFlags::TEMPLATE) {
            protocol::state_name(self.protocol, self.state)
        } else {
            persistence::state_name(self.state)
        }
    }
}
