//! A server behind a virtual service.

use std::net::IpAddr;

use crate::ipvs::forwarding::ForwardingMode;

/// Slot of a real server: indexes its counters and loads on every worker. Stable for the life of the
/// object, which outlives its deletion by the trash period (`ip_vs_trash_get_dest`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealServerId(pub u32);

/// A real server as one service lists it; workers see it read-only through the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServer {
    /// Its slot.
    pub id: RealServerId,
    /// Its address; another family than the service's only with [`ForwardingMode::Tunnel`].
    pub addr: IpAddr,
    /// Its port; the service's own port in DR and TUN.
    pub port: u16,
    /// 0 (quiesced) to 65535.
    pub weight: u32,
    /// `Nat`, `Tunnel` or `DirectRouting` as configured; `FullNat` once the service has a local-address pool.
    pub mode: ForwardingMode,
    /// `-x`: connections (active + inactive) at which it is overloaded; 0 for none.
    pub upper_threshold: u32,
    /// `-y`: connections below which it takes new ones again; 0 for ¾ of the upper one.
    pub lower_threshold: u32,
}
