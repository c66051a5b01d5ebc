//! What routing means for a packet, and routes in short for what builds an `L3` by hand.

use std::net::IpAddr;
use std::sync::Arc;

use crate::l3::fib::{Leg, Path, RouteAction, RouteEntry, Target};
use crate::l3::{DeviceId, HopId, InterfaceId, NeighbourKey};

/// What routing says about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The packet leaves by this hop.
    Hop(HopId),
    /// The kernel must first resolve this neighbour.
    Unresolved(NeighbourKey),
    /// The kernel asked for this neighbour and got no answer.
    NeighbourFailed(NeighbourKey),
    /// The destination is the director itself.
    Local,
    /// No route, or one of kind unreachable or prohibit.
    Unreachable,
    /// A blackhole: drop the packet silently.
    Blackhole,
    /// The kernel would send it by an interface that is no twin, or in a form that the director does not know.
    Elsewhere,
}

/// A route in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Out of an interface.
    Via {
        /// Device of the interface.
        device: DeviceId,
        /// VLAN id of the interface; 0 for untagged.
        vlan: u16,
        /// The router, of either family; `None` when the destination itself is on the link.
        gateway: Option<IpAddr>,
        /// Largest IP packet in bytes, if the route allows less than the interface.
        mtu: Option<u16>,
        /// Preferred source address.
        source: Option<IpAddr>,
    },
    /// To the director itself: an address of its own, `ip route add local`.
    Local,
    /// To the director too, but to an address of no single host: a broadcast, anycast or multicast route.
    Broadcast,
    /// Unreachable or prohibit.
    Unreachable,
    /// Packets are dropped silently.
    Blackhole,
}

impl RouteKind {
    /// The same as an entry of a table.
    pub fn entry(self, metric: u32) -> RouteEntry {
        let mut leg = Leg {
            target: Target::Nowhere,
            mtu: None,
            source: None,
        };
        let action = match self {
            Self::Local => RouteAction::Local,
            Self::Broadcast => RouteAction::Broadcast,
            Self::Unreachable => RouteAction::Unreachable,
            Self::Blackhole => RouteAction::Blackhole,
            Self::Via {
                device,
                vlan,
                gateway,
                mtu,
                source,
            } => {
                let path = Path::new(InterfaceId::of(device, vlan), gateway);
                leg = Leg {
                    target: Target::Paths(Box::new([path])),
                    mtu,
                    source,
                };
                RouteAction::Forward
            }
        };
        RouteEntry {
            tos: 0,
            metric,
            action,
            from: None,
            leg: Arc::new(leg),
        }
    }
}
