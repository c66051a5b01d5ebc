//! The kernel's routing tables.
//!
//! In:  routes as the kernel reports them, one by one. Out: for an address the route that the table says.
//! The order of the routes of one prefix is the kernel's: the longest source prefix, the highest TOS, the lowest metric.
//! Ref:  Linux net/ipv4/fib_trie.c `fib_table_lookup`, `fib_table_insert`; net/ipv6/ip6_fib.c `fib6_add_rt2node`.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv6Net};

use super::RouteQuery;
use super::nexthop::Leg;
use super::trie::Trie;

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteAction {
    /// Packets leave by its leg.
    Forward,
    /// To the director itself: an address of its own, `ip route add local`.
    Local,
    /// To the director too, but to an address of no single host: a broadcast, anycast or multicast route.
    Broadcast,
    /// The sender gets an ICMP error: there is no route.
    Unreachable,
    /// The sender gets an ICMP error: it may not.
    Prohibit,
    /// Packets are dropped silently.
    Blackhole,
    /// The table says nothing: the next rule is asked.
    Throw,
}

/// A route of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// Only for packets of this TOS; 0 for all.
    pub tos: u8,
    /// The lowest counts.
    pub metric: u32,
    /// What it does.
    pub action: RouteAction,
    /// Only for packets from this network (IPv6).
    pub from: Option<Box<Ipv6Net>>,
    /// Where it leads.
    pub leg: Arc<Leg>,
}

impl RouteEntry {
    fn rank(&self) -> (Reverse<u8>, Reverse<u8>, u32) {
        let from_len = self.from.as_ref().map_or(0, |from| from.prefix_len());
        (Reverse(from_len), Reverse(self.tos), self.metric)
    }

    /// Whether only the order decides between the two.
    pub(super) fn is_equal(&self, other: &Self) -> bool {
        (&self.from, self.tos, self.metric) == (&other.from, other.tos, other.metric)
    }

    pub(super) fn is_special(&self) -> bool {
        self.tos != 0 || self.from.is_some()
    }

    /// Whether it is for the source of the packet.
    pub(super) fn is_from(&self, query: &RouteQuery) -> bool {
        self.from
            .as_deref()
            .is_none_or(|from| matches!(query.src, Some(IpAddr::V6(src)) if from.contains(&src)))
    }
}

/// Where a route goes among those of its rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Behind them, as dumps list them.
    Last,
    /// Before them.
    First,
    /// In the place of the first of them.
    Replace,
}

pub(super) type Routes = Arc<[RouteEntry]>;

/// One table, both families.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) v4: Trie<u32, Routes>,
    pub(super) v6: Trie<u128, Routes>,
}

impl Table {
    /// See [`Trie::reuse`].
    pub(super) fn reuse(&mut self, known: &Self) {
        self.v4.reuse(&known.v4);
        self.v6.reuse(&known.v6);
    }

    /// Changes the routes of one prefix.
    pub(super) fn update(&mut self, prefix: IpNet, change: impl FnOnce(&mut Vec<RouteEntry>)) {
        let change = |present: Option<Routes>| {
            let mut routes = present.map(|present| present.to_vec()).unwrap_or_default();
            change(&mut routes);
            (!routes.is_empty()).then(|| Routes::from(routes))
        };
        match prefix {
            IpNet::V4(net) => self.v4.update(net.addr().to_bits(), net.prefix_len(), change),
            IpNet::V6(net) => self.v6.update(net.addr().to_bits(), net.prefix_len(), change),
        }
    }

    /// Asks `accept` about the routes of the prefixes that contain `addr`, the longest first.
    #[inline]
    pub(super) fn find<'t, T>(
        &'t self,
        addr: IpAddr,
        accept: &mut impl FnMut(u8, &'t Routes) -> Option<T>,
    ) -> Option<T> {
        match addr {
            IpAddr::V4(addr) => self.v4.find(addr.to_bits(), accept),
            IpAddr::V6(addr) => self.v6.find(addr.to_bits(), accept),
        }
    }
}

/// Adds a route to those of its prefix.
pub fn insert(routes: &mut Vec<RouteEntry>, route: RouteEntry, placement: Placement) {
    let rank = route.rank();
    let first = routes
        .iter()
        .position(|known| known.rank() >= rank)
        .unwrap_or(routes.len());
    let behind = routes
        .iter()
        .rposition(|known| known.rank() <= rank)
        .map_or(0, |at| at + 1);
    match placement {
        Placement::Last => routes.insert(behind, route),
        Placement::First => routes.insert(first, route),
        Placement::Replace => match routes.get_mut(first).filter(|known| known.rank() == rank) {
            Some(known) => *known = route,
            None => routes.insert(first, route),
        },
    }
}
