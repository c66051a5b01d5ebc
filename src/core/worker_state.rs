//! What one worker owns, as far as the management core sees it.

use std::net::IpAddr;

use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::real_server::RealServerId;
use crate::ipvs::service::ServiceId;

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
    /// IP protocol number.
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
    /// Protocol state; named by `state_name`.
    pub state: u8,
    /// Milliseconds until it expires if nothing more arrives.
    pub expires_in_ms: u32,
    /// Packets from the client.
    pub in_packets: u32,
    /// The service it was made for.
    pub service: ServiceId,
    /// The real server it goes to.
    pub real_server: RealServerId,
    /// Flag bits of the connection.
    pub flags: u16,
}
