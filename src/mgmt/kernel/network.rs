//! What the mirror remembers of the kernel's network, and the [`L3`] made of it.
//!
//! In:  listings and changes. Out: whether a packet could notice a difference, and what to list again; an [`L3`].
//! Ref:  Linux net/core/rtnetlink.c, net/ipv4/fib_semantics.c `fib_sync_down_dev`.

use std::collections::BTreeMap;

use lvs_core::l3::fib::{Fib, Path, Placement, RouteEntry, Target, Vrf, insert};
use lvs_core::l3::{DeviceId, Interface, InterfaceId, L3, L3Builder, NeighbourKey};

use super::MirroredTwin;
use super::legs::Legs;
use super::listing::{Parts, Topology};
use super::neighbours::Neighbours;
use super::records::{AddressRecord, Change, LinkKind, LinkRecord, RouteRecord, RuleRecord};

/// More interfaces than this do not stand on each other (the kernel's `MAX_NEST_DEV`).
const NESTING_MAX: usize = 8;

/// Links, addresses and routing.
#[derive(Debug, Default)]
pub(super) struct Network {
    twins: Vec<MirroredTwin>,
    links: BTreeMap<u32, LinkRecord>,
    addresses: Vec<AddressRecord>,
    rules: Vec<RuleRecord>,
    fib: Fib,
    legs: Legs,
}

/// What stands on a twin: how its frames look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    device: DeviceId,
    vlan: u16,
    is_macvlan: bool,
}

/// What a change leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// A packet could notice.
    pub(super) is_visible: bool,
    /// What must be listed.
    pub(super) wanted: Parts,
}

impl Effect {
    const NONE: Self = Self::listing(false, false);
    const VISIBLE: Self = Self {
        is_visible: true,
        ..Self::NONE
    };

    const fn listing(topology: bool, routes: bool) -> Self {
        Self {
            is_visible: false,
            wanted: Parts {
                topology,
                routes,
                neighbours: false,
            },
        }
    }
}

impl Network {
    pub(super) fn new(twins: &[MirroredTwin]) -> Self {
        Self {
            twins: twins.to_vec(),
            ..Self::default()
        }
    }

    /// Takes a listing of links, addresses, rules and nexthop objects; whether anything differs.
    pub(super) fn set_topology(&mut self, topology: Topology) -> bool {
        let links: BTreeMap<_, _> = topology.links.into_iter().map(|link| (link.ifindex, link)).collect();
        let differs = (&links, &topology.addresses, &topology.rules) != (&self.links, &self.addresses, &self.rules)
            || *self.fib.objects() != topology.objects;
        (self.links, self.addresses, self.rules) = (links, topology.addresses, topology.rules);
        self.fib.set_objects(topology.objects);
        self.name_interfaces();
        differs
    }

    /// Takes a listing of routes.
    pub(super) fn set_routes(&mut self, (mut fib, legs): (Fib, Legs)) {
        fib.take_all_but_routes_of(&self.fib);
        self.fib = fib;
        self.legs.add(legs);
    }

    /// Knows what happened to the rules of IPv4, which a listing does not show.
    #[cfg(test)]
    pub(super) fn keep_history_of(&mut self, other: &Self) {
        self.fib.take_all_but_routes_of(&other.fib);
    }

    /// The kernel's routing.
    pub(super) const fn fib(&self) -> &Fib {
        &self.fib
    }

    /// What refers to interfaces by name or group.
    fn name_interfaces(&mut self) {
        for is_v4 in [true, false] {
            let rules = self.rules.iter().filter(|record| record.is_v4 == is_v4);
            let named = rules.map(|record| {
                let mut rule = record.rule.clone();
                rule.iif = record.iif.as_ref().map(|name| self.id_of(name));
                rule
            });
            let named = named.collect();
            self.fib.set_rules(is_v4, named);
        }
        let groups = self.links.values().filter(|link| link.group != 0);
        let groups = groups.map(|link| (InterfaceId(link.ifindex), link.group)).collect();
        self.fib.set_groups(groups);
    }

    fn id_of(&self, name: &str) -> InterfaceId {
        let link = self.links.values().find(|link| link.name == name);
        link.map_or(InterfaceId::NONE, |link| InterfaceId(link.ifindex))
    }

    /// Takes a change. What the kernel does not report in full leads to a listing: it drops IPv4 routes silently
    /// when a link goes down, an address goes away, or a nexthop object is deleted.
    pub(super) fn apply(&mut self, change: &Change) -> Effect {
        match change {
            Change::Route(record, placement) => {
                self.add_route(record.clone(), *placement);
                Effect::VISIBLE
            }
            Change::RouteGone(record) => {
                self.remove_route(record);
                Effect::VISIBLE
            }
            Change::Object(id, object) => {
                self.fib.set_object(*id, object.clone());
                Effect::VISIBLE
            }
            Change::ObjectGone(id) => {
                self.fib.remove_object(*id);
                Effect {
                    is_visible: true,
                    ..Effect::listing(true, true)
                }
            }
            Change::Link(link) => match self.links.get(&link.ifindex) {
                Some(known) if known == link => Effect::NONE,
                // What comes new has no routes to lose.
                None => Effect::listing(true, false),
                Some(_) => Effect::listing(true, true),
            },
            Change::LinkGone(ifindex) => {
                self.links.remove(ifindex);
                Effect {
                    is_visible: true,
                    ..Effect::listing(true, true)
                }
            }
            Change::AddressGone => Effect::listing(true, true),
            Change::AddressCame | Change::Rules => Effect::listing(true, false),
            Change::Lost | Change::Closed => Effect {
                is_visible: false,
                wanted: Parts {
                    topology: true,
                    routes: true,
                    neighbours: true,
                },
            },
            Change::Neighbour(_) => Effect::NONE,
        }
    }

    fn add_route(&mut self, mut record: RouteRecord, placement: Placement) {
        self.legs.share(&mut record.entry.leg);
        let RouteRecord { table, prefix, entry } = record;
        self.fib.change(table, prefix, |routes| {
            if routes.contains(&entry) {
                return;
            }
            if prefix.addr().is_ipv6() {
                add_v6(routes, entry, placement);
            } else {
                insert(routes, entry, placement);
            }
        });
    }

    fn remove_route(&mut self, record: &RouteRecord) {
        let RouteRecord { table, prefix, entry } = record;
        self.fib.change(*table, *prefix, |routes| {
            if prefix.addr().is_ipv6() {
                remove_v6(routes, entry);
                return;
            }
            let exact = routes.iter().position(|known| is_same(known, entry));
            if let Some(position) = exact {
                routes.remove(position);
            }
        });
    }

    /// How the frames of a kernel interface look, if it stands on a twin in a way that is followed.
    fn standing(&self, ifindex: u32) -> Option<Standing> {
        let (mut at, mut standing) = (ifindex, None::<(u16, bool)>);
        for _ in 0..NESTING_MAX {
            let (vlan, is_macvlan) = standing.unwrap_or((0, false));
            if let Some(twin) = self.twins.iter().find(|twin| twin.ifindex == at) {
                let device = twin.device;
                return Some(Standing {
                    device,
                    vlan,
                    is_macvlan,
                });
            }
            let link = self.links.get(&at)?;
            (at, standing) = match link.kind {
                LinkKind::Vlan { below, id } if vlan == 0 => (below, Some((id, is_macvlan))),
                LinkKind::Macvlan { below } => (below, Some((vlan, true))),
                LinkKind::Bridge => (self.only_port(at)?, Some((vlan, true))),
                _ => return None,
            };
        }
        None
    }

    /// The port of a bridge that has but one.
    fn only_port(&self, bridge: u32) -> Option<u32> {
        let mut ports = self.links.values().filter(|link| link.master == Some(bridge));
        let only = ports.next()?;
        ports.next().is_none().then_some(only.ifindex)
    }

    fn vrf_of(&self, link: &LinkRecord) -> Option<Vrf> {
        let master = self.links.get(&link.master?)?;
        match master.kind {
            LinkKind::Vrf { table } => Some(Vrf {
                interface: InterfaceId(master.ifindex),
                table,
            }),
            _ => None,
        }
    }

    /// Whether the interface of this index stands on a twin.
    pub(super) fn is_ours(&self, ifindex: u32) -> bool {
        self.standing(ifindex).is_some()
    }

    /// A twin has been made again.
    pub(super) fn set_twin(&mut self, twin: MirroredTwin) {
        self.twins.retain(|known| known.device != twin.device);
        self.twins.push(twin);
    }

    /// The tables as workers read them.
    pub(super) fn build(&self, neighbours: &Neighbours, generation: u32) -> L3 {
        let mut builder = L3Builder::new();
        builder.fib(self.fib.clone());
        for link in self.links.values() {
            if let Some(standing) = self.standing(link.ifindex) {
                builder.interface(self.interface(link, standing));
            } else {
                self.leave(&mut builder, link);
            }
        }
        for (ifindex, addr, state) in neighbours.sorted() {
            if let Some(Standing { device, .. }) = self.standing(ifindex) {
                let interface = InterfaceId(ifindex);
                builder.neighbour(
                    NeighbourKey {
                        device,
                        interface,
                        addr,
                    },
                    state,
                );
            }
        }
        builder.build(generation)
    }

    fn interface(&self, link: &LinkRecord, standing: Standing) -> Interface {
        let mut interface = Interface::new(standing.device, standing.vlan, link.mac, link.mtu, &link.name);
        interface.id = InterfaceId(link.ifindex);
        interface.is_macvlan = standing.is_macvlan;
        interface.vrf = self.vrf_of(link);
        let own = self.addresses.iter().filter(|record| record.ifindex == link.ifindex);
        interface.addresses.extend(own.map(|record| record.address));
        interface
    }

    /// Tags behind which the kernel has something that is not followed here are its own, and so is a bridge's MAC
    /// address.
    fn leave(&self, builder: &mut L3Builder, link: &LinkRecord) {
        let is_bridge = link.kind == LinkKind::Bridge;
        let ports = self
            .links
            .values()
            .filter(|port| is_bridge && port.master == Some(link.ifindex));
        for port in ports.filter_map(|port| self.standing(port.ifindex)) {
            builder.punted_mac(port.device, link.mac);
        }
        let mut kind = link.kind;
        for _ in 0..NESTING_MAX {
            let (LinkKind::Vlan { below, id } | LinkKind::ServiceVlan { below, id }) = kind else {
                return;
            };
            match self.standing(below) {
                Some(Standing { device, vlan, .. }) => {
                    builder.punted_vlan(device, if vlan == 0 { id } else { vlan });
                    return;
                }
                None => match self.links.get(&below) {
                    Some(link) => kind = link.kind,
                    None => return,
                },
            }
        }
    }
}

/// Whether `gone` is about `known`. A path may have died since.
fn is_same(known: &RouteEntry, gone: &RouteEntry) -> bool {
    let paths = |entry: &RouteEntry| match &entry.leg.target {
        Target::Paths(paths) => Some(
            paths
                .iter()
                .map(|path| (path.interface, path.gateway))
                .collect::<Vec<_>>(),
        ),
        _ => None,
    };
    let same_target = known.leg.target == gone.leg.target || paths(known).is_some() && paths(known) == paths(gone);
    (known.tos, known.metric, known.action) == (gone.tos, gone.metric, gone.action)
        && known.leg.source == gone.leg.source
        && same_target
}

fn is_same_class(known: &RouteEntry, other: &RouteEntry) -> bool {
    (&known.from, known.metric, known.action) == (&other.from, other.metric, other.action)
}

/// Adds a route where the kernel has it (`fib6_add_rt2node`).
fn add_v6(routes: &mut Vec<RouteEntry>, entry: RouteEntry, placement: Placement) {
    let place = if placement == Placement::Replace {
        let mut peers = routes.iter().enumerate().filter(|(_, known)| is_peer(known, &entry));
        let first = peers.clone().next();
        let same_kind = peers.find(|(_, known)| can_share(known) == can_share(&entry));
        same_kind.or(first).map(|(place, _)| place)
    } else {
        // All paths that share are named when one is added, and a listing has named routes before their events.
        routes.iter().position(|known| is_part(known, &entry))
    };
    match place.and_then(|place| routes.get_mut(place)) {
        Some(known) if placement == Placement::Replace => *known = entry,
        Some(known) => *known = in_order_of(known, entry),
        None => insert(routes, entry, Placement::Last),
    }
}

/// A new path is the last of those that share, but the first that is named.
fn in_order_of(known: &RouteEntry, mut entry: RouteEntry) -> RouteEntry {
    if let (Target::Paths(known), Target::Paths(paths)) = (&known.leg.target, &entry.leg.target) {
        let place = |path: &Path| known.iter().position(|known| known == path).unwrap_or(known.len());
        let mut paths = paths.to_vec();
        paths.sort_by_key(place);
        let mut leg = (*entry.leg).clone();
        leg.target = Target::Paths(paths.into());
        entry.leg = leg.into();
    }
    entry
}

fn is_peer(known: &RouteEntry, other: &RouteEntry) -> bool {
    (&known.from, known.metric) == (&other.from, other.metric)
}

/// Whether the kernel would have others share with this route (`rt6_qualify_for_ecmp`).
fn can_share(route: &RouteEntry) -> bool {
    matches!(&route.leg.target, Target::Paths(paths) if paths.iter().all(|path| path.gateway.is_some()))
}

fn is_part(known: &RouteEntry, whole: &RouteEntry) -> bool {
    let is_within = match (&known.leg.target, &whole.leg.target) {
        (Target::Paths(known), Target::Paths(whole)) => known.iter().all(|path| whole.contains(path)),
        (known, whole) => known == whole,
    };
    is_same_class(known, whole) && is_within
}

/// IPv6 names each path that goes.
fn remove_v6(routes: &mut Vec<RouteEntry>, gone: &RouteEntry) {
    let Target::Paths(lost) = &gone.leg.target else {
        if let Some(position) = routes.iter().position(|known| is_same(known, gone)) {
            routes.remove(position);
        }
        return;
    };
    let is_lost = |path: &Path| {
        lost.iter()
            .any(|lost| (lost.interface, lost.gateway) == (path.interface, path.gateway))
    };
    for known in routes.iter_mut().filter(|known| is_same_class(known, gone)) {
        if let Target::Paths(paths) = &known.leg.target
            && paths.iter().any(is_lost)
        {
            let mut leg = (*known.leg).clone();
            leg.target = Target::Paths(paths.iter().filter(|path| !is_lost(path)).copied().collect());
            known.leg = leg.into();
            break;
        }
    }
    routes.retain(|known| !matches!(&known.leg.target, Target::Paths(paths) if paths.is_empty()));
}
