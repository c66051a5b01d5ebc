//! The kernel's interfaces, addresses, routes and neighbours, as the path reads them.
//!
//! In:  what the management core mirrors from the kernel by rtnetlink, through [`L3Builder`].
//! Out: for a destination the [`Hop`] that puts it on the wire, or why there is none ([`Route`]).
//! The path asks only for a new connection or a stale hop, so the code is simple rather than fast; no lookup allocates.
//! Never: changes after it was built. An operator changes these things in the kernel only.
//! Ref:  Linux net/ipv4/fib_frontend.c, net/ipv4/route.c, net/ipv6/route.c; what routing itself does: [`fib`].

mod build;
pub mod fib;
mod interface;
mod neighbour;
mod route;
mod stack;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::address::{Address, AddressFamily};
use crate::limits::DEVICES_MAX;
pub use build::L3Builder;
use fib::{Decision, Fib, Leg, Path, RouteAction, RouteQuery, Selectors};
pub use interface::{Interface, InterfaceAddress, InterfaceId};
pub use neighbour::{Hop, HopId, NeighbourKey, NeighbourState};
pub use route::{Route, RouteKind};
pub(crate) use stack::StackChecks;
pub use stack::{ReversePath, Stack, StackInterface};

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

/// See [`L3::with_reroute`].
const NO_REROUTE: u32 = 1 << 31;

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
    /// See [`Self::set_stack`].
    pub(crate) stack: Stack,
    /// By device, as every burst asks.
    stack_checks: [StackChecks; DEVICES_MAX],
    interfaces: Vec<Known>,
    /// Positions in `interfaces`.
    by_id: HashMap<InterfaceId, u16>,
    /// Positions in `interfaces` by device, VLAN id and MAC address: every frame with a tag asks. See [`Self::receiver`].
    receivers: HashMap<(DeviceId, u16, [u8; 6]), u16>,
    fib: Fib,
    neighbours: HashMap<NeighbourKey, NeighbourEntry>,
    hops: Vec<Hop>,
    /// By device: of its kernel twin, because the destination of every frame is compared with it.
    macs: [[u8; 6]; DEVICES_MAX],
    /// See [`L3Builder::punted_vlan`].
    punted_vlans: Vec<(DeviceId, u16)>,
    /// See [`L3Builder::punted_mac`].
    punted_macs: Vec<(DeviceId, [u8; 6])>,
    /// Of untagged macvlans.
    other_macs: Vec<(DeviceId, [u8; 6])>,
}

/// An interface and what follows from it.
#[derive(Clone, Debug)]
struct Known {
    interface: Interface,
    /// The MTUs of hops by it: its own first, then those smaller ones that routes impose.
    mtus: Vec<u16>,
    /// See [`L3::unresolved_hop`].
    unresolved: Hop,
}

impl Known {
    fn new(interface: Interface) -> Self {
        let unresolved = Hop {
            device: interface.device,
            mtu: interface.mtu,
            vlan: 0,
            src_mac: interface.mac,
            dst_mac: [0; 6],
        };
        Self {
            mtus: vec![interface.mtu],
            unresolved,
            interface,
        }
    }

    fn set_mtus(&mut self, imposed: &[u16]) {
        let own = self.interface.mtu;
        self.mtus = std::iter::once(own)
            .chain(imposed.iter().copied().filter(|&mtu| mtu < own))
            .collect();
    }
}

/// What is known about a neighbour.
#[derive(Clone, Copy, Debug)]
enum NeighbourEntry {
    /// Its hops lie side by side in [`L3::hops`], one for each of its interface's [MTUs](Known).
    Resolved {
        first_hop: u16,
    },
    Failed,
}

impl L3 {
    /// Where a packet to `dst` goes that the director itself sends, as IPVS sends it to a real server.
    pub fn route<A: Address>(&self, dst: A) -> Route {
        self.resolve(&RouteQuery::output(dst.to_ip()))
    }

    /// The same, with a generation that says whether replies are routed again (`snat_reroute`): hops that connections
    /// remember depend on it.
    #[must_use]
    pub fn with_reroute(self: Arc<Self>, reroutes: bool) -> Arc<Self> {
        let generation = self.generation & !NO_REROUTE | if reroutes { 0 } else { NO_REROUTE };
        if self.generation == generation {
            return self;
        }
        let mut other = Self::clone(&self);
        other.generation = generation;
        Arc::new(other)
    }

    /// Where a packet goes: what the kernel's rules and tables say, and then the neighbour behind the route. Of several
    /// equal paths one whose neighbour has failed is taken only if all have failed.
    pub fn resolve(&self, query: &RouteQuery) -> Route {
        match self.decide(query) {
            Decision::Local | Decision::Broadcast => Route::Local,
            Decision::NoRoute | Decision::Unreachable | Decision::Prohibit => Route::Unreachable,
            Decision::Blackhole => Route::Blackhole,
            Decision::Unfollowed => Route::Elsewhere,
            Decision::Forward { path, leg } => self.resolve_path(path, leg, query.dst),
        }
    }

    /// What the kernel's routing says.
    pub fn decide(&self, query: &RouteQuery) -> Decision<'_> {
        self.fib.lookup(query, |path| {
            let key = |addr| self.known(path.interface).map(|known| known.key(addr));
            let key = key(path.gateway.unwrap_or(query.dst));
            !matches!(
                key.and_then(|key| self.neighbours.get(&key)),
                Some(NeighbourEntry::Failed)
            )
        })
    }

    /// What [`Self::resolve`] must know of a packet besides its destination.
    pub fn selectors(&self, family: AddressFamily) -> Selectors {
        self.fib.selectors(family == AddressFamily::Ipv4)
    }

    /// Whether [`Self::resolve`] needs nothing but the destination.
    #[inline]
    pub fn is_by_destination(&self, family: AddressFamily) -> bool {
        self.fib.is_by_destination(family == AddressFamily::Ipv4)
    }

    /// The kernel's routing.
    pub const fn fib(&self) -> &Fib {
        &self.fib
    }

    fn resolve_path(&self, path: &Path, leg: &Leg, dst: IpAddr) -> Route {
        let Some(known) = self.known(path.interface) else {
            return Route::Elsewhere;
        };
        let class = leg
            .mtu
            .and_then(|mtu| known.mtus.iter().position(|&other| other == mtu));
        self.neighbour_at(&known.key(path.gateway.unwrap_or(dst)), class.unwrap_or(0) as u16)
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
        self.fib.local(addr.to_ip()).is_some()
    }

    /// Whether `addr` is an address of the director: like [`Self::is_local`] without broadcasts.
    pub fn is_own<A: Address>(&self, addr: A) -> bool {
        self.fib.local(addr.to_ip()) == Some(RouteAction::Local)
    }

    /// Whether `addr` is a broadcast or anycast address of a network of the director.
    pub fn is_broadcast<A: Address>(&self, addr: A) -> bool {
        self.fib.local(addr.to_ip()) == Some(RouteAction::Broadcast)
    }

    /// The first address of this family and of global scope on `device`, the untagged interface first. The director's
    /// own ICMP errors have it as source.
    pub fn source_address<A: Address>(&self, device: DeviceId) -> Option<A> {
        let of_device = || self.interfaces().filter(|interface| interface.device == device);
        let twin = of_device().filter(|interface| interface.is_twin());
        twin.chain(of_device())
            .find_map(|interface| interface.source_address(None, None))
    }

    /// The source address for packets of the director itself to `dst`.
    pub fn source_for<A: Address>(&self, dst: A) -> Option<A> {
        self.source_of(&RouteQuery::output(dst.to_ip())).and_then(A::from_ip)
    }

    /// The source address for a packet of the director itself, chosen as in the kernel: the route's preferred source
    /// (IPv4), otherwise an address of the outgoing interface, otherwise one of any interface.
    pub fn source_of(&self, query: &RouteQuery) -> Option<IpAddr> {
        match query.dst {
            IpAddr::V4(_) => self.source_in::<crate::address::Addr4>(query).map(Address::to_ip),
            IpAddr::V6(_) => self.source_in::<crate::address::Addr6>(query).map(Address::to_ip),
        }
    }

    fn source_in<A: Address>(&self, query: &RouteQuery) -> Option<A> {
        let Decision::Forward { path, leg } = self.decide(query) else {
            return None;
        };
        if let Some(preferred) = leg.source.and_then(A::from_ip) {
            return Some(preferred);
        }
        let dst = Some(query.dst);
        self.known(path.interface)
            .and_then(|known| known.interface.source_address(dst, path.gateway))
            .or_else(|| {
                self.interfaces()
                    .find_map(|interface| interface.source_address(dst, None))
            })
    }

    /// The address from which outer packets of a tunnel go to `dst`.
    pub fn tunnel_source(&self, dst: IpAddr) -> Option<IpAddr> {
        self.source_of(&RouteQuery::output(dst))
    }

    /// The question where outer packets of a tunnel to `dst` go: the kernel asks once more with the address that the
    /// first answer gave (`ip_vs_xmit.c` `do_output_route4`; IPv6 is asked once).
    pub fn tunnel_query(&self, dst: IpAddr) -> RouteQuery {
        let query = RouteQuery::output(dst);
        match self.tunnel_source(dst) {
            Some(source) if dst.is_ipv4() => query.from(source),
            _ => query,
        }
    }

    /// The MAC address of `device`'s kernel twin. It is all zero while the device has none.
    #[inline]
    pub fn mac(&self, device: DeviceId) -> [u8; 6] {
        self.macs.get(usize::from(device.0)).copied().unwrap_or_default()
    }

    /// The interface that receives a frame of `device` with this VLAN id, 0 for none, to this MAC address: a macvlan of
    /// that address, otherwise the VLAN or the twin itself, which also take frames to the MAC address below them.
    #[inline]
    pub fn receiver(&self, device: DeviceId, vlan: u16, mac: [u8; 6]) -> Option<&Interface> {
        let position = self.receivers.get(&(device, vlan, mac))?;
        let known = self.interfaces.get(usize::from(*position))?;
        Some(&known.interface)
    }

    /// The MAC address to which an untagged frame is, if it is that of a macvlan of the device.
    #[inline]
    pub fn other_mac(&self, device: DeviceId, frame: &[u8]) -> Option<[u8; 6]> {
        let is_to = |other: &&(DeviceId, [u8; 6])| other.0 == device && frame.starts_with(&other.1);
        self.other_macs.iter().find(is_to).map(|other| other.1)
    }

    /// Whether frames of this VLAN or to this MAC address are left to the kernel.
    pub fn is_punted(&self, device: DeviceId, vlan: u16, mac: [u8; 6]) -> bool {
        self.punted_vlans.contains(&(device, vlan)) || self.punted_macs.contains(&(device, mac))
    }

    /// All MAC addresses that the kernel has on `device`, that of the twin first.
    pub fn macs(&self, device: DeviceId) -> Vec<[u8; 6]> {
        let of_device = self.interfaces().filter(|interface| interface.device == device);
        let mut macs = vec![self.mac(device)];
        let punted = self
            .punted_macs
            .iter()
            .filter(|(known, _)| *known == device)
            .map(|(_, mac)| *mac);
        for mac in of_device.map(|interface| interface.mac).chain(punted) {
            if !macs.contains(&mac) {
                macs.push(mac);
            }
        }
        macs
    }

    /// A hop to a neighbour that is not resolved yet. MAC address and VLAN tag are missing; the packet gets them later.
    pub fn unresolved_hop(&self, key: &NeighbourKey) -> &Hop {
        self.known(key.interface).map_or(&NO_HOP, |known| &known.unresolved)
    }

    /// Largest IP packet in bytes on `device`'s untagged interface; 0 if there is none.
    pub fn mtu(&self, device: DeviceId) -> u16 {
        self.interface(device, 0).map_or(0, |interface| interface.mtu)
    }

    /// The interface of `device` with this VLAN id, 0 for its kernel twin.
    pub fn interface(&self, device: DeviceId, vlan: u16) -> Option<&Interface> {
        let mut interfaces = self.interfaces();
        interfaces.find(|interface| (interface.device, interface.vlan, interface.is_macvlan) == (device, vlan, false))
    }

    /// The interface of this index.
    pub fn interface_of(&self, id: InterfaceId) -> Option<&Interface> {
        self.known(id).map(|known| &known.interface)
    }

    /// All interfaces, in the order they were given.
    pub fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces.iter().map(|known| &known.interface)
    }

    /// How many hops there are: for each resolved neighbour one for each MTU that routes impose.
    pub fn hops_count(&self) -> usize {
        self.hops.len()
    }

    fn known(&self, id: InterfaceId) -> Option<&Known> {
        let position = self.by_id.get(&id)?;
        self.interfaces.get(usize::from(*position))
    }

    fn neighbour_at(&self, key: &NeighbourKey, mtu_class: u16) -> Route {
        match self.neighbours.get(key) {
            Some(NeighbourEntry::Resolved { first_hop }) => Route::Hop(HopId(first_hop.saturating_add(mtu_class))),
            Some(NeighbourEntry::Failed) => Route::NeighbourFailed(*key),
            None => Route::Unresolved(*key),
        }
    }
}

impl Known {
    const fn key(&self, addr: IpAddr) -> NeighbourKey {
        NeighbourKey {
            device: self.interface.device,
            interface: self.interface.id,
            addr,
        }
    }
}
