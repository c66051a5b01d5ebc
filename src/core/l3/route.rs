//! Routes: the longest prefix, then the lowest metric, then equal paths side by side.
//!
//! In:  the kernel's routes of one table, both families.
//! Out: the [`RouteEntry`] that covers a destination; what it means for a packet is a [`Route`].
//! Never: policy rules, TOS routes, tables other than local and main.
//! Ref:  Linux net/ipv4/fib_trie.c `fib_table_lookup`, net/ipv4/fib_semantics.c `fib_props`.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use crate::address::Address;
use crate::l3::{DeviceId, HopId, NeighbourKey};

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
    /// No route, or one of kind unreachable, prohibit or throw.
    Unreachable,
    /// A blackhole: drop the packet silently.
    Blackhole,
}

/// A route as the kernel has it.
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

/// A route that is not a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    Local,
    Broadcast,
    Unreachable,
    Blackhole,
}

/// One of the equal paths of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) device: DeviceId,
    pub(super) vlan: u16,
    pub(super) gateway: Option<IpAddr>,
    pub(super) source: Option<IpAddr>,
    /// As the route gave it.
    pub(super) mtu: Option<u16>,
    /// Which of its neighbour's hops has that MTU; 0 for the interface's own. Set when the L3 is built.
    pub(super) mtu_class: u16,
}

/// All routes of the lowest metric for one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteEntry {
    pub(super) metric: u32,
    pub(super) special: Option<Special>,
    pub(super) paths: Vec<Path>,
}

impl RouteEntry {
    pub(super) fn is_local(&self) -> bool {
        matches!(self.special, Some(Special::Local | Special::Broadcast))
    }

    pub(super) fn is_own(&self) -> bool {
        self.special == Some(Special::Local)
    }

    fn new(metric: u32, kind: RouteKind) -> Self {
        let (special, path) = match kind {
            RouteKind::Local => (Some(Special::Local), None),
            RouteKind::Broadcast => (Some(Special::Broadcast), None),
            RouteKind::Unreachable => (Some(Special::Unreachable), None),
            RouteKind::Blackhole => (Some(Special::Blackhole), None),
            RouteKind::Via {
                device,
                vlan,
                gateway,
                mtu,
                source,
            } => (
                None,
                Some(Path {
                    device,
                    vlan,
                    gateway,
                    source,
                    mtu,
                    mtu_class: 0,
                }),
            ),
        };
        Self {
            metric,
            special,
            paths: path.into_iter().collect(),
        }
    }

    /// A lower metric replaces the entry. A path of equal metric is added. Of two routes of equal metric that are not
    /// both paths, the earlier one stays.
    fn merge(&mut self, other: Self) {
        if other.metric < self.metric {
            *self = other;
        } else if other.metric == self.metric && self.special.is_none() && other.special.is_none() {
            for path in other.paths {
                if !self.paths.contains(&path) {
                    self.paths.push(path);
                }
            }
        }
    }
}

/// One of the kernel's tables.
#[derive(Clone, Default)]
pub(super) struct RouteTable {
    v4: PrefixMap<Ipv4Net, RouteEntry>,
    v6: PrefixMap<Ipv6Net, RouteEntry>,
}

impl RouteTable {
    pub(super) fn insert(&mut self, prefix: IpNet, metric: u32, kind: RouteKind) {
        let entry = RouteEntry::new(metric, kind);
        let known = match prefix {
            IpNet::V4(net) => self.v4.get_mut(&net.trunc()),
            IpNet::V6(net) => self.v6.get_mut(&net.trunc()),
        };
        if let Some(known) = known {
            known.merge(entry);
            return;
        }
        match prefix {
            IpNet::V4(net) => drop(self.v4.insert(net.trunc(), entry)),
            IpNet::V6(net) => drop(self.v6.insert(net.trunc(), entry)),
        }
    }

    /// The entry with the longest prefix that contains `dst`.
    pub(super) fn find<A: Address>(&self, dst: A) -> Option<&RouteEntry> {
        match dst.to_ip() {
            IpAddr::V4(addr) => self.v4.get_lpm(&Ipv4Net::from(addr)).map(|(_, entry)| entry),
            IpAddr::V6(addr) => self.v6.get_lpm(&Ipv6Net::from(addr)).map(|(_, entry)| entry),
        }
    }

    /// All paths, for the builder to give them their MTU classes.
    pub(super) fn paths_mut(&mut self) -> impl Iterator<Item = &mut Path> {
        let v4 = self.v4.values_mut();
        v4.chain(self.v6.values_mut()).flat_map(|entry| entry.paths.iter_mut())
    }
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v4 = self.v4.iter().map(|(prefix, entry)| (IpNet::V4(prefix), entry));
        let v6 = self.v6.iter().map(|(prefix, entry)| (IpNet::V6(prefix), entry));
        formatter.debug_map().entries(v4.chain(v6)).finish()
    }
}

/// Which of `count` equal paths is tried first for `dst`. A multiplicative hash spreads neighbouring clients. (The
/// kernel's `fib_multipath_hash` also uses the source, which the caller does not give.)
pub(super) fn spread<A: Address>(dst: A, count: usize) -> usize {
    let mixed = u64::from(dst.fold()).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    ((mixed * count as u64) >> 32) as usize
}
