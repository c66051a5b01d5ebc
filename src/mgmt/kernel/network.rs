//! What the mirror remembers of the kernel's network, and the [`L3`] made of it.
//!
//! In:  plain records of links, addresses, routes and neighbours.
//! Out: whether a packet could notice a difference; an [`L3`].
//! Never: keeps what is not about a twin, so that a change elsewhere on the host changes nothing here.
//! Ref:  Linux include/net/neighbour.h (NUD_VALID), net/core/rtnetlink.c.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use lvs_core::l3::{DeviceId, Interface, InterfaceAddress, L3, L3Builder, NeighbourKey, NeighbourState, RouteKind};

use super::MirroredTwin;

/// A kernel interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkRecord {
    pub(super) ifindex: u32,
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u16,
    /// Parent interface and 802.1Q id.
    pub(super) vlan: Option<(u32, u16)>,
}

/// An address of an interface that is in use (not tentative).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddressRecord {
    pub(super) ifindex: u32,
    pub(super) address: InterfaceAddress,
}

/// One path of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathRecord {
    pub(super) ifindex: u32,
    pub(super) gateway: Option<IpAddr>,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RouteAction {
    Via(Vec<PathRecord>),
    Local,
    Broadcast,
    Unreachable,
    Blackhole,
}

/// A route of the local or main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteRecord {
    /// In the local table, which goes before main.
    pub(super) local_table: bool,
    pub(super) prefix: IpNet,
    pub(super) metric: u32,
    pub(super) mtu: Option<u16>,
    pub(super) source: Option<IpAddr>,
    pub(super) action: RouteAction,
}

/// What the kernel says about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reported {
    /// It has a MAC; `idle` when the kernel has not confirmed it lately (STALE).
    Valid {
        mac: [u8; 6],
        idle: bool,
    },
    Failed,
    /// Being asked for (INCOMPLETE) or not even that (NONE).
    Pending,
    /// Its entry was removed.
    Gone,
}

/// A neighbour entry or the end of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NeighbourRecord {
    pub(super) ifindex: u32,
    pub(super) addr: IpAddr,
    pub(super) reported: Reported,
}

/// Links, addresses and routes of the twins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Network {
    twins: Vec<MirroredTwin>,
    links: BTreeMap<u32, LinkRecord>,
    addresses: Vec<AddressRecord>,
    routes: Vec<RouteRecord>,
}

impl Network {
    pub(super) fn new(twins: &[MirroredTwin]) -> Self {
        Self {
            twins: twins.to_vec(),
            ..Self::default()
        }
    }

    /// Links must be added before what stands on them.
    pub(super) fn add_link(&mut self, link: LinkRecord) {
        let device_below = |ifindex| self.twins.iter().any(|twin| twin.ifindex == ifindex);
        if device_below(link.ifindex) || link.vlan.is_some_and(|(parent, _)| device_below(parent)) {
            self.links.insert(link.ifindex, link);
        }
    }

    pub(super) fn add_address(&mut self, record: AddressRecord) {
        if self.links.contains_key(&record.ifindex) {
            self.addresses.push(record);
        }
    }

    /// Routes out of interfaces that are no twins are left out: DPDK devices cannot carry their traffic,
    /// and the host's own default route by its management NIC must not hide the director's.
    pub(super) fn add_route(&mut self, mut route: RouteRecord) {
        if let RouteAction::Via(paths) = &mut route.action {
            paths.retain(|path| self.links.contains_key(&path.ifindex));
            if paths.is_empty() {
                return;
            }
        }
        self.routes.push(route);
    }

    /// Device and VLAN id of a kernel interface: a twin, or a VLAN sub-interface directly on one.
    pub(super) fn interface_of(&self, ifindex: u32) -> Option<(DeviceId, u16)> {
        let link = self.links.get(&ifindex)?;
        let (below, vlan) = link.vlan.unwrap_or((ifindex, 0));
        self.twins
            .iter()
            .find(|twin| twin.ifindex == below)
            .map(|twin| (twin.device, vlan))
    }

    pub(super) fn ifindex_of(&self, device: DeviceId, vlan: u16) -> Option<u32> {
        self.links
            .keys()
            .copied()
            .find(|&ifindex| self.interface_of(ifindex) == Some((device, vlan)))
    }
}

/// A neighbour as packets see it, and whether the kernel has lately confirmed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Neighbour {
    state: NeighbourState,
    idle: bool,
}

/// Neighbours of all interfaces, by kernel interface index and address.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbours {
    entries: HashMap<(u32, IpAddr), Neighbour>,
}

impl Neighbours {
    /// Takes an event; whether a packet could notice.
    ///
    /// A neighbour that failed stays failed while the kernel asks again: its packets are refused as before,
    /// rather than held at every new attempt.
    pub(super) fn apply(&mut self, record: NeighbourRecord) -> bool {
        let key = (record.ifindex, record.addr);
        let before = self.entries.get(&key).map(|known| known.state);
        let after = match record.reported {
            Reported::Valid { mac, idle } => Some(Neighbour {
                state: NeighbourState::Resolved(mac),
                idle,
            }),
            Reported::Failed => Some(Neighbour {
                state: NeighbourState::Failed,
                idle: true,
            }),
            Reported::Pending if before == Some(NeighbourState::Failed) => Some(Neighbour {
                state: NeighbourState::Failed,
                idle: false,
            }),
            Reported::Pending | Reported::Gone => None,
        };
        match after {
            Some(neighbour) => drop(self.entries.insert(key, neighbour)),
            None => drop(self.entries.remove(&key)),
        }
        before != after.map(|neighbour| neighbour.state)
    }

    /// Takes a whole listing; whether a packet could notice.
    pub(super) fn replace(&mut self, listed: Vec<NeighbourRecord>) -> bool {
        let before = std::mem::take(&mut self.entries);
        // Those that failed and are being asked for again are still to be known as failed.
        let failed = before.iter().filter(|(_, known)| known.state == NeighbourState::Failed);
        self.entries.extend(failed.map(|(&key, &known)| (key, known)));
        let mut present = Vec::with_capacity(listed.len());
        for record in listed {
            self.apply(record);
            present.push((record.ifindex, record.addr));
        }
        let present: std::collections::HashSet<_> = present.into_iter().collect();
        self.entries.retain(|key, _| present.contains(key));
        let states = |entries: &HashMap<_, Neighbour>| -> HashMap<(u32, IpAddr), NeighbourState> {
            entries.iter().map(|(&key, known)| (key, known.state)).collect()
        };
        states(&before) != states(&self.entries)
    }

    /// Those the kernel should be asked for: stale or failed.
    pub(super) fn idle(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        self.entries.iter().filter(|(_, known)| known.idle).map(|(&key, _)| key)
    }
}

/// The tables as workers read them.
pub(super) fn build(network: &Network, neighbours: &Neighbours, generation: u32) -> L3 {
    let mut builder = L3Builder::new();
    for link in network.links.values() {
        let Some((device, vlan)) = network.interface_of(link.ifindex) else {
            continue;
        };
        let mut interface = Interface::new(device, vlan, link.mac, link.mtu, &link.name);
        let own = network.addresses.iter().filter(|record| record.ifindex == link.ifindex);
        interface.addresses.extend(own.map(|record| record.address));
        builder.interface(interface);
    }
    for route in &network.routes {
        add_route(&mut builder, network, route);
    }
    let mut ordered: Vec<_> = neighbours.entries.iter().collect();
    ordered.sort_unstable_by_key(|(key, _)| **key);
    for (&(ifindex, addr), neighbour) in ordered {
        if let Some((device, vlan)) = network.interface_of(ifindex) {
            builder.neighbour(NeighbourKey { device, vlan, addr }, neighbour.state);
        }
    }
    builder.build(generation)
}

fn add_route(builder: &mut L3Builder, network: &Network, route: &RouteRecord) {
    let mut add = |kind| {
        if route.local_table {
            builder.local_route(route.prefix, kind);
        } else {
            builder.route_with_metric(route.prefix, route.metric, kind);
        }
    };
    match &route.action {
        RouteAction::Local => add(RouteKind::Local),
        RouteAction::Broadcast => add(RouteKind::Broadcast),
        RouteAction::Unreachable => add(RouteKind::Unreachable),
        RouteAction::Blackhole => add(RouteKind::Blackhole),
        RouteAction::Via(paths) => {
            for path in paths {
                let Some((device, vlan)) = network.interface_of(path.ifindex) else {
                    continue;
                };
                let (gateway, mtu, source) = (path.gateway, route.mtu, route.source);
                add(RouteKind::Via {
                    device,
                    vlan,
                    gateway,
                    mtu,
                    source,
                });
            }
        }
    }
}
