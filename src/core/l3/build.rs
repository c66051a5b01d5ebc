//! Builds an [`L3`] from what the kernel reports.
//!
//! In:  interfaces, addresses, routes and neighbours, in any order; or routing as a whole.
//! Out: the immutable [`L3`]. The same input in the same order gives the same hops.
//! Never: fails. An object of an interface that does not exist has no effect. In the kernel such an object disappears
//! with its interface.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::l3::fib::{Fib, Placement, RouteEntry, TABLE_LOCAL, TABLE_MAIN, Target};
use crate::l3::interface::{Interface, InterfaceAddress, InterfaceId};
use crate::l3::neighbour::{Hop, NeighbourKey, NeighbourState};
use crate::l3::route::RouteKind;
use crate::l3::{DeviceId, Known, L3, NeighbourEntry};
use crate::limits::HOPS_MAX;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct L3Builder {
    l3: L3,
    neighbours: Vec<(NeighbourKey, NeighbourState)>,
}

impl L3Builder {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an interface, or replaces the one with the same index.
    pub fn interface(&mut self, interface: Interface) -> &mut Self {
        self.l3.interfaces.retain(|known| known.interface.id != interface.id);
        if interface.is_twin()
            && let Some(mac) = self.l3.macs.get_mut(usize::from(interface.device.0))
        {
            *mac = interface.mac;
        }
        self.l3.interfaces.push(Known::new(interface));
        self
    }

    /// Takes the kernel's routing as a whole.
    pub fn fib(&mut self, fib: Fib) -> &mut Self {
        self.l3.fib = fib;
        self
    }

    /// VLAN tags of a device that the kernel knows something about which is not followed here.
    pub fn punted_vlan(&mut self, device: DeviceId, vlan: u16) -> &mut Self {
        self.l3.punted_vlans.push((device, vlan));
        self
    }

    /// A MAC address behind a device that belongs to something of the kernel which is not followed here.
    pub fn punted_mac(&mut self, device: DeviceId, mac: [u8; 6]) -> &mut Self {
        self.l3.punted_macs.push((device, mac));
        self
    }

    /// Adds an address to an interface that was added before. The address is local. Unless it is link-local or
    /// loopback, the director may send from it. Routes are separate objects, as in the kernel: [`Self::route`] or
    /// [`Self::connected`] makes the network of the address reachable.
    pub fn address(&mut self, device: DeviceId, vlan: u16, net: IpNet) -> &mut Self {
        self.address_of(InterfaceId::of(device, vlan), net)
    }

    /// The same for any interface.
    pub fn address_of(&mut self, id: InterfaceId, net: IpNet) -> &mut Self {
        self.local_route(IpNet::from(net.addr()), RouteKind::Local);
        let mut interfaces = self.l3.interfaces.iter_mut();
        if let Some(known) = interfaces.find(|known| known.interface.id == id) {
            known.interface.addresses.push(InterfaceAddress {
                net,
                global: is_global(net.addr()),
            });
        }
        self
    }

    /// Adds an address with the on-link route of its network, as `ip addr add` does.
    pub fn connected(&mut self, device: DeviceId, vlan: u16, net: IpNet) -> &mut Self {
        let on_link = RouteKind::Via {
            device,
            vlan,
            gateway: None,
            mtu: None,
            source: Some(net.addr()),
        };
        self.address(device, vlan, net).route(net.trunc(), on_link)
    }

    /// Adds a route of the main table with metric 0.
    pub fn route(&mut self, prefix: IpNet, kind: RouteKind) -> &mut Self {
        self.route_with_metric(prefix, 0, kind)
    }

    /// Adds a route of the main table. For one prefix the lowest metric counts; routes of equal metric are equal paths.
    pub fn route_with_metric(&mut self, prefix: IpNet, metric: u32, kind: RouteKind) -> &mut Self {
        let entry = kind.entry(metric);
        self.l3.fib.change(TABLE_MAIN, prefix, |routes| {
            let equal = routes
                .iter_mut()
                .find(|known| known.metric == metric && known.action == entry.action);
            if let Some(known) = equal {
                join(known, &entry);
            } else {
                crate::l3::fib::insert(routes, entry, Placement::Last);
            }
        });
        self
    }

    /// Adds a route of the local table, which is asked before main.
    pub fn local_route(&mut self, prefix: IpNet, kind: RouteKind) -> &mut Self {
        let entry = kind.entry(0);
        self.l3.fib.change(TABLE_LOCAL, prefix, |routes| {
            if !routes.contains(&entry) {
                crate::l3::fib::insert(routes, entry, Placement::Last);
            }
        });
        self
    }

    /// Adds a neighbour. If two have the same key, the later one counts.
    pub fn neighbour(&mut self, key: NeighbourKey, state: NeighbourState) -> &mut Self {
        self.neighbours.push((key, state));
        self
    }

    /// The finished tables. Neighbours beyond [`HOPS_MAX`] hops stay unresolved.
    pub fn build(mut self, generation: u32) -> L3 {
        self.l3.generation = generation;
        let mtus = self.l3.fib.mtus();
        for (position, known) in self.l3.interfaces.iter_mut().enumerate() {
            known.set_mtus(&mtus);
            self.l3.by_id.insert(known.interface.id, position as u16);
            if known.interface.vlan == 0 && known.interface.is_macvlan {
                self.l3.other_macs.push((known.interface.device, known.interface.mac));
            }
        }
        self.add_receivers();
        for (key, state) in std::mem::take(&mut self.neighbours) {
            self.add_hops(key, state);
        }
        self.l3
    }

    /// By which MAC addresses interfaces receive: those of macvlans go before the address of the device below them.
    fn add_receivers(&mut self) {
        let l3 = &mut self.l3;
        for is_macvlan in [true, false] {
            for (position, Known { interface, .. }) in l3.interfaces.iter().enumerate() {
                if interface.is_macvlan != is_macvlan {
                    continue;
                }
                let (device, vlan) = (interface.device, interface.vlan);
                let twin = l3.macs.get(usize::from(device.0)).copied().unwrap_or_default();
                let macs = if is_macvlan {
                    [interface.mac; 2]
                } else {
                    [interface.mac, twin]
                };
                for mac in macs {
                    l3.receivers.entry((device, vlan, mac)).or_insert(position as u16);
                }
            }
        }
    }

    fn add_hops(&mut self, key: NeighbourKey, state: NeighbourState) {
        let NeighbourState::Resolved(dst_mac) = state else {
            self.l3.neighbours.insert(key, NeighbourEntry::Failed);
            return;
        };
        let Some(known) = self
            .l3
            .by_id
            .get(&key.interface)
            .and_then(|&at| self.l3.interfaces.get(usize::from(at)))
        else {
            return;
        };
        let Interface { device, vlan, mac, .. } = known.interface;
        if self.l3.hops.len() + known.mtus.len() > HOPS_MAX {
            return;
        }
        let first_hop = self.l3.hops.len() as u16;
        let hop = |&mtu: &u16| Hop {
            device,
            mtu,
            vlan,
            src_mac: mac,
            dst_mac,
        };
        self.l3.hops.extend(known.mtus.iter().map(hop));
        self.l3.neighbours.insert(key, NeighbourEntry::Resolved { first_hop });
    }
}

/// Adds the paths of `other` to those of `known`.
fn join(known: &mut RouteEntry, other: &RouteEntry) {
    let mut leg = (*known.leg).clone();
    if let (Target::Paths(paths), Target::Paths(more)) = (&mut leg.target, &other.leg.target) {
        let mut joined = paths.to_vec();
        joined.extend(more.iter().filter(|path| !paths.contains(path)));
        *paths = joined.into();
        known.leg = leg.into();
    }
}

/// Whether an address is valid beyond its link. Its range decides.
fn is_global(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => !addr.is_loopback() && !addr.is_link_local(),
        IpAddr::V6(addr) => !addr.is_loopback() && !addr.is_unicast_link_local(),
    }
}
