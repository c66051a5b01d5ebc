//! Builds an [`L3`] from what the kernel reports.
//!
//! In:  interfaces, addresses, routes and neighbours, in any order.
//! Out: the immutable [`L3`]. The same input in the same order gives the same hops.
//! Never: fails. An object of an interface that does not exist has no effect. In the kernel such an object disappears
//! with its interface.

use std::net::IpAddr;

use hashbrown::HashMap;
use ipnet::IpNet;

use crate::l3::interface::{Interface, InterfaceAddress};
use crate::l3::neighbour::{Hop, NeighbourKey, NeighbourState};
use crate::l3::route::RouteKind;
use crate::l3::{DeviceId, L3, NeighbourEntry};
use crate::limits::HOPS_MAX;

/// The MTUs that routes impose, by interface. Position 0 stands for the interface's own.
type MtuClasses = HashMap<(DeviceId, u16), Vec<u16>>;

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

    /// Adds an interface, or replaces the one with the same device and VLAN.
    pub fn interface(&mut self, interface: Interface) -> &mut Self {
        self.l3
            .interfaces
            .retain(|known| (known.device, known.vlan) != (interface.device, interface.vlan));
        for address in &interface.addresses {
            self.l3
                .local
                .insert(IpNet::from(address.net.addr()), 0, RouteKind::Local);
        }
        if interface.vlan == 0
            && let Some(mac) = self.l3.macs.get_mut(usize::from(interface.device.0))
        {
            *mac = interface.mac;
        }
        self.l3.interfaces.push(interface);
        self
    }

    /// Adds an address to an interface that was added before. The address is local. Unless it is link-local or
    /// loopback, the director may send from it. Routes are separate objects, as in the kernel: [`Self::route`] or
    /// [`Self::connected`] makes the network of the address reachable.
    pub fn address(&mut self, device: DeviceId, vlan: u16, net: IpNet) -> &mut Self {
        self.l3.local.insert(IpNet::from(net.addr()), 0, RouteKind::Local);
        let mut interfaces = self.l3.interfaces.iter_mut();
        if let Some(interface) = interfaces.find(|interface| (interface.device, interface.vlan) == (device, vlan)) {
            interface.addresses.push(InterfaceAddress {
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
        self.l3.main.insert(prefix, metric, kind);
        self
    }

    /// Adds a route of the local table, which is asked before main.
    pub fn local_route(&mut self, prefix: IpNet, kind: RouteKind) -> &mut Self {
        self.l3.local.insert(prefix, 0, kind);
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
        self.l3.unresolved_hops = self.l3.interfaces.iter().map(unresolved_hop).collect();
        let classes = self.assign_mtu_classes();
        for (key, state) in std::mem::take(&mut self.neighbours) {
            self.add_hops(key, state, &classes);
        }
        self.l3
    }

    /// Gives every path whose MTU is smaller than its interface's an MTU class on that interface.
    fn assign_mtu_classes(&mut self) -> MtuClasses {
        let mut classes: MtuClasses = self
            .l3
            .interfaces
            .iter()
            .map(|known| ((known.device, known.vlan), vec![known.mtu]))
            .collect();
        for path in self.l3.local.paths_mut().chain(self.l3.main.paths_mut()) {
            let Some(mtus) = classes.get_mut(&(path.device, path.vlan)) else {
                continue;
            };
            let own = mtus.first().copied().unwrap_or(0);
            let Some(mtu) = path.mtu.filter(|&mtu| mtu < own) else {
                continue;
            };
            let class = mtus.iter().position(|&known| known == mtu).unwrap_or(mtus.len());
            if class == mtus.len() {
                mtus.push(mtu);
            }
            path.mtu_class = class as u16;
        }
        classes
    }

    fn add_hops(&mut self, key: NeighbourKey, state: NeighbourState, classes: &MtuClasses) {
        let NeighbourState::Resolved(dst_mac) = state else {
            self.l3.neighbours.insert(key, NeighbourEntry::Failed);
            return;
        };
        let Some(src_mac) = self.l3.interface(key.device, key.vlan).map(|interface| interface.mac) else {
            return;
        };
        let Some(mtus) = classes.get(&(key.device, key.vlan)) else {
            return;
        };
        if self.l3.hops.len() + mtus.len() > HOPS_MAX {
            return;
        }
        let first_hop = self.l3.hops.len() as u16;
        let hop = |&mtu: &u16| Hop {
            device: key.device,
            mtu,
            vlan: key.vlan,
            src_mac,
            dst_mac,
        };
        self.l3.hops.extend(mtus.iter().map(hop));
        self.l3.neighbours.insert(key, NeighbourEntry::Resolved { first_hop });
    }
}

fn unresolved_hop(interface: &Interface) -> Hop {
    Hop {
        device: interface.device,
        mtu: interface.mtu,
        vlan: 0,
        src_mac: interface.mac,
        dst_mac: [0; 6],
    }
}

/// Whether an address is valid beyond its link. Its range decides.
fn is_global(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => !addr.is_loopback() && !addr.is_link_local(),
        IpAddr::V6(addr) => !addr.is_loopback() && !addr.is_unicast_link_local(),
    }
}
