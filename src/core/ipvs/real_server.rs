//! A server behind a virtual service, and the rule by which its thresholds make it overloaded and available again.
//!
//! Follows Linux net/netfilter/ipvs/ip_vs_conn.c `ip_vs_bind_dest()`, `ip_vs_unbind_dest()`.

use std::net::IpAddr;

use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::tunnel_kind::TunnelKind;

/// Slot of a real server, by which every worker indexes its counters and loads. It stays the same until the trash
/// period after the server's deletion is over (`ip_vs_trash_get_dest`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct RealServerId(pub u32);

impl RealServerId {
    /// Of a connection that another director synced and whose real server is not configured here.
    pub const UNBOUND: Self = Self(u32::MAX);
    /// Of a connection of an earlier process whose real server was deleted. Its packets are dropped, as those of any
    /// deleted server.
    pub const GONE: Self = Self(u32::MAX - 1);
}

/// A real server as one service lists it; workers see it read-only through the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServer {
    /// Its slot.
    pub id: RealServerId,
    /// Its address. Only with [`ForwardingMode::Tunnel`] may its family differ from the service's.
    pub addr: IpAddr,
    /// Its port as configured; never written into a packet in DR and TUN, which keep the service's port.
    pub port: u16,
    /// 0 (quiesced) to 2147483647.
    pub weight: u32,
    /// `Nat`, `Tunnel` or `DirectRouting` as configured; `FullNat` once the service has a local-address pool.
    pub mode: ForwardingMode,
    /// How TUN wraps packets; of no effect in other modes.
    pub tunnel: TunnelKind,
    /// `-x`: connections (active + inactive) at which it is overloaded; 0 for none.
    pub upper_threshold: u32,
    /// `-y`: connections below which it takes new ones again; 0 for ¾ of the upper one.
    pub lower_threshold: u32,
}

impl RealServer {
    /// Whether it is overloaded with `conns` connections (active + inactive, without templates), if `was` says whether
    /// it was so before. It becomes overloaded at the upper threshold and ceases to be so below the lower one.
    ///
    /// After an edit of the thresholds it is computed anew (`__ip_vs_update_dest`).
    #[inline]
    pub const fn overloaded(&self, was: bool, conns: u32) -> bool {
        if self.upper_threshold == 0 {
            return false;
        }
        if conns >= self.upper_threshold {
            return true;
        }
        was && conns >= self.lower_bound()
    }

    /// The lower threshold in force: the configured one, or the upper one less a quarter.
    #[inline]
    const fn lower_bound(&self) -> u32 {
        if self.lower_threshold > 0 {
            self.lower_threshold
        } else {
            self.upper_threshold - self.upper_threshold / 4
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(upper_threshold: u32, lower_threshold: u32) -> RealServer {
        RealServer {
            id: RealServerId(0),
            addr: "192.0.2.1".parse().unwrap(),
            port: 80,
            weight: 1,
            mode: ForwardingMode::Nat,
            tunnel: TunnelKind::IpIp,
            upper_threshold,
            lower_threshold,
        }
    }

    /// Fact 32 of the kernel recordings (thresholds_lower).
    #[test]
    fn with_x4_y2_it_is_refused_at_4_and_taken_again_at_1() {
        let server = server(4, 2);
        assert!(!server.overloaded(false, 3));
        assert!(server.overloaded(false, 4));
        assert!(server.overloaded(true, 3) && server.overloaded(true, 2));
        assert!(!server.overloaded(true, 1));
    }

    #[test]
    fn without_a_lower_threshold_it_is_three_quarters_of_the_upper() {
        let server = server(4, 0);
        assert!(server.overloaded(true, 3));
        assert!(!server.overloaded(true, 2));
    }

    #[test]
    fn without_an_upper_threshold_it_is_never_overloaded() {
        assert!(!server(0, 0).overloaded(true, u32::MAX));
    }
}
