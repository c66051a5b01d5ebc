//! The kernel's interfaces, addresses, routes and neighbours, as the path reads them.
//!
//! In:  what the management core mirrors from the kernel by rtnetlink, through [`L3Builder`].
//! Out: for a destination the [`Hop`] that puts it on the wire, or why there is none ([`Route`]).
//! The path asks only for a new connection or a stale hop, so the code is simple rather than fast; no lookup allocates.
//! Never: changes after it was built. An operator changes these things in the kernel only.
//! Ref:  Linux net/ipv4/fib_frontend.c (local table before main), net/ipv4/route.c, net/ipv6/route.c.

mod build;
mod interface;
mod neighbour;
mod route;
#[cfg(test)]
mod tests;

use hashbrown::HashMap;

use crate::address::Address;
use crate::limits::DEVICES_MAX;
pub use build::L3Builder;
pub use interface::{Interface, InterfaceAddress};
pub use neighbour::{Hop, HopId, NeighbourKey, NeighbourState};
pub use route::{Route, RouteKind};
use route::{RouteEntry, RouteTable};

/// Index of a device (NIC) in the order of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u8);

/// The hop of an id that does not exist. Its MTU is 0, so no packet fits.
const NO_HOP: Hop = Hop {
    device: DeviceId(0),
    mtu: 0,
    vlan: 0,
    src_mac: [0; 6],
    dst_mac: [0; 6],
};

/// The time between two ICMP errors of the kernel to one host after a burst; 0 for no limit (`net.ipv4.icmp_ratelimit`,
/// `net.ipv6.icmp.ratelimit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpPauses {
    /// Milliseconds between two errors of IPv4.
    pub v4_ms: u32,
    /// Milliseconds between two errors of IPv6 to a single host; networks get more.
    pub v6_ms: u32,
}

impl Default for IcmpPauses {
    fn default() -> Self {
        Self {
            v4_ms: 1_000,
            v6_ms: 1_000,
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct L3 {
    /// Grows with every change; hops cached with another generation must be looked up again.
    pub generation: u32,
    /// The kernel's limit of its ICMP errors, which the director applies to its own.
    pub icmp_pauses: IcmpPauses,
    interfaces: Vec<Interface>,
    /// The kernel's local table, with addresses. It is asked before main, even if main has a longer prefix.
    local: RouteTable,
    main: RouteTable,
    neighbours: HashMap<NeighbourKey, NeighbourEntry>,
    hops: Vec<Hop>,
    /// By interface: see [`Self::unresolved_hop`].
    unresolved_hops: Vec<Hop>,
    /// By device, because the destination of every frame is compared with it.
    macs: [[u8; 6]; DEVICES_MAX],
}

/// What is known about a neighbour.
#[derive(Clone, Copy, Debug)]
enum NeighbourEntry {
    /// Its hops lie side by side in [`L3::hops`], one for each [MTU class](Interface) of its interface.
    Resolved {
        first_hop: u16,
    },
    Failed,
}

impl L3 {
    /// Where a packet to `dst` goes. The local table decides first, then the longest prefix of main with the lowest
    /// metric, and then the neighbour behind it. The destination's hash selects one of several equal paths; a path
    /// whose neighbour has failed is selected only if all have failed.
    pub fn route<A: Address>(&self, dst: A) -> Route {
        match self.entry(dst) {
            Some(entry) => self.resolve(entry, dst),
            None => Route::Unreachable,
        }
    }

    /// The hop of `id`; one with MTU 0 if there is none (an id of another generation).
    #[inline]
    pub fn hop(&self, id: HopId) -> &Hop {
        self.hops.get(usize::from(id.0)).unwrap_or(&NO_HOP)
    }

    /// The neighbour itself, at its interface's MTU: `Hop`, `Unresolved` or `NeighbourFailed`.
    pub fn neighbour(&self, key: &NeighbourKey) -> Route {
        self.neighbour_at(key, 0)
    }

    /// Whether the kernel answers for `addr`: an address of any of its interfaces, a broadcast address, or an address
    /// inside a `local` route (`ip route add local 192.0.2.0/24 dev lo`).
    pub fn is_local<A: Address>(&self, addr: A) -> bool {
        self.local.find(addr).is_some_and(RouteEntry::is_local)
    }

    /// Whether `addr` is an address of the director: like [`Self::is_local`] without broadcasts.
    pub fn is_own<A: Address>(&self, addr: A) -> bool {
        self.local.find(addr).is_some_and(RouteEntry::is_own)
    }

    /// Whether `addr` is a broadcast or anycast address of a network of the director.
    pub fn is_broadcast<A: Address>(&self, addr: A) -> bool {
        self.is_local(addr) && !self.is_own(addr)
    }

    /// The first address of this family and of global scope on `device`, the untagged interface first. The director's
    /// own ICMP errors have it as source.
    pub fn source_address<A: Address>(&self, device: DeviceId) -> Option<A> {
        let untagged = self
            .interface(device, 0)
            .and_then(|interface| interface.source_address(None));
        let mut tagged = self.interfaces.iter().filter(|interface| interface.device == device);
        untagged.or_else(|| tagged.find_map(|interface| interface.source_address(None)))
    }

    /// The source address for packets of the director itself to `dst`, for the outer headers of tunnels. It is chosen
    /// as in the kernel: the route's preferred source, otherwise the outgoing interface's address in the next hop's
    /// network, otherwise its first address, otherwise one of any device.
    pub fn source_for<A: Address>(&self, dst: A) -> Option<A> {
        let path = self.entry(dst).and_then(|entry| entry.paths.first())?;
        if let Some(preferred) = path.source.and_then(A::from_ip) {
            return Some(preferred);
        }
        let towards = path.gateway.unwrap_or_else(|| dst.to_ip());
        self.interface(path.device, path.vlan)
            .and_then(|interface| interface.source_address(Some(towards)))
            .or_else(|| {
                self.interfaces
                    .iter()
                    .find_map(|interface| interface.source_address(None))
            })
    }

    /// The MAC address of `device`. Frames to any other address are not for the director. It is all zero while the
    /// device has no interface.
    #[inline]
    pub fn mac(&self, device: DeviceId) -> [u8; 6] {
        self.macs.get(usize::from(device.0)).copied().unwrap_or_default()
    }

    /// A hop to a neighbour that is not resolved yet. MAC address and VLAN tag are missing; the packet gets them later.
    pub fn unresolved_hop(&self, key: &NeighbourKey) -> &Hop {
        let of_key = |interface: &&Interface| (interface.device, interface.vlan) == (key.device, key.vlan);
        let position = self.interfaces.iter().position(|interface| of_key(&interface));
        position
            .and_then(|position| self.unresolved_hops.get(position))
            .unwrap_or(&NO_HOP)
    }

    /// Largest IP packet in bytes on `device`'s untagged interface; 0 if there is none.
    pub fn mtu(&self, device: DeviceId) -> u16 {
        self.interface(device, 0).map_or(0, |interface| interface.mtu)
    }

    /// The interface of `device` with this VLAN id, 0 for the untagged one.
    pub fn interface(&self, device: DeviceId, vlan: u16) -> Option<&Interface> {
        self.interfaces
            .iter()
            .find(|interface| interface.device == device && interface.vlan == vlan)
    }

    /// All interfaces, in the order they were given.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// How many hops there are: for each resolved neighbour one for each MTU that its routes impose.
    pub fn hops_count(&self) -> usize {
        self.hops.len()
    }

    /// The local table goes first: a route of main cannot take an address away from the director.
    fn entry<A: Address>(&self, dst: A) -> Option<&RouteEntry> {
        self.local.find(dst).or_else(|| self.main.find(dst))
    }

    fn resolve<A: Address>(&self, entry: &RouteEntry, dst: A) -> Route {
        let Some(special) = entry.special else {
            return self.choose_path(entry, dst);
        };
        match special {
            route::Special::Local | route::Special::Broadcast => Route::Local,
            route::Special::Unreachable => Route::Unreachable,
            route::Special::Blackhole => Route::Blackhole,
        }
    }

    fn choose_path<A: Address>(&self, entry: &RouteEntry, dst: A) -> Route {
        let count = entry.paths.len();
        let start = route::spread(dst, count);
        let mut found = Route::Unreachable;
        for path in entry.paths.iter().cycle().skip(start).take(count) {
            let addr = path.gateway.unwrap_or_else(|| dst.to_ip());
            let key = NeighbourKey {
                device: path.device,
                vlan: path.vlan,
                addr,
            };
            found = self.neighbour_at(&key, path.mtu_class);
            if !matches!(found, Route::NeighbourFailed(_)) {
                break;
            }
        }
        found
    }

    fn neighbour_at(&self, key: &NeighbourKey, mtu_class: u16) -> Route {
        match self.neighbours.get(key) {
            Some(NeighbourEntry::Resolved { first_hop }) => Route::Hop(HopId(first_hop.saturating_add(mtu_class))),
            Some(NeighbourEntry::Failed) => Route::NeighbourFailed(*key),
            None => Route::Unresolved(*key),
        }
    }
}
