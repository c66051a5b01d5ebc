//! rtnetlink messages read into plain records.
//!
//! In:  messages as the netlink crates decode them.
//! Out: a record, or `None` for what never concerns the mirror (other families, multicast, proxies, cached routes).
//! Never: fails; an attribute that is missing leaves its default, as the kernel means it.
//! Ref:  rtnetlink(7); Linux include/uapi/linux/{rtnetlink,neighbour,if_addr,if_link}.h.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv6Net};
use lvs_core::l3::fib::{Leg, Path, RouteAction, RouteEntry, Target};
use lvs_core::l3::{InterfaceAddress, InterfaceId};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVlan, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, VlanProtocol,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags, RouteType,
    RouteVia,
};

use super::records::{AddressRecord, LinkKind, LinkRecord, NeighbourRecord, Reported, RouteRecord};

pub(super) mod object;
pub(super) mod rule;

/// An Ethernet interface, or one that carries a rule's packets.
pub(super) fn link(message: &LinkMessage) -> LinkRecord {
    let flags = message.header.flags;
    let mut record = LinkRecord {
        ifindex: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        kind: LinkKind::Plain,
        master: None,
        group: 0,
        is_up: flags.contains(LinkFlags::Up),
        has_carrier: flags.contains(LinkFlags::Running),
    };
    let mut below = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => record.name.clone_from(name),
            LinkAttribute::Address(bytes) => record.mac = bytes.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => record.mtu = clamp_u16(*mtu),
            LinkAttribute::Link(ifindex) => below = Some(*ifindex),
            LinkAttribute::Controller(ifindex) => record.master = Some(*ifindex).filter(|&ifindex| ifindex != 0),
            LinkAttribute::Group(group) => record.group = *group,
            _ => {}
        }
    }
    let infos = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos.as_slice()),
        _ => None,
    });
    record.kind = infos
        .flatten()
        .fold(LinkKind::Plain, |kind, info| kind_of(info, below).unwrap_or(kind));
    record
}

fn kind_of(info: &LinkInfo, below: Option<u32>) -> Option<LinkKind> {
    match info {
        LinkInfo::Kind(InfoKind::Bridge) => Some(LinkKind::Bridge),
        LinkInfo::Kind(InfoKind::MacVlan) => Some(LinkKind::Macvlan { below: below? }),
        LinkInfo::Data(InfoData::Vrf(attributes)) => attributes.iter().find_map(|attribute| match attribute {
            InfoVrf::TableId(table) => Some(LinkKind::Vrf { table: *table }),
            _ => None,
        }),
        LinkInfo::Data(InfoData::Vlan(attributes)) => {
            let is_service = |attribute: &InfoVlan| matches!(attribute, InfoVlan::Protocol(VlanProtocol::Ieee8021Ad));
            let id = attributes.iter().find_map(|attribute| match attribute {
                InfoVlan::Id(id) => Some(*id),
                _ => None,
            })?;
            let below = below?;
            Some(if attributes.iter().any(is_service) {
                LinkKind::ServiceVlan { below, id }
            } else {
                LinkKind::Vlan { below, id }
            })
        }
        _ => None,
    }
}

/// An address that is in use: duplicate detection has passed, or is not done.
pub(super) fn address(message: &AddressMessage) -> Option<AddressRecord> {
    let (mut local, mut peer) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(addr) => local = Some(*addr),
            AddressAttribute::Address(addr) => peer = Some(*addr),
            AddressAttribute::Flags(wide) => flags |= *wide,
            _ => {}
        }
    }
    let unusable = AddressFlags::Dadfailed | AddressFlags::Tentative;
    // Optimistic addresses are tentative and yet usable (RFC 4429).
    if flags.intersects(unusable) && !flags.contains(AddressFlags::Optimistic) {
        return None;
    }
    // On a point-to-point link IFA_ADDRESS is the other end; the own one is IFA_LOCAL, absent for IPv6.
    let net = IpNet::new(local.or(peer)?, message.header.prefix_len).ok()?;
    let wide_scope = matches!(message.header.scope, AddressScope::Universe | AddressScope::Site);
    // Of IPv4 networks the kernel speaks from the primary address; in IPv6 the flag means a temporary one.
    let is_second = net.addr().is_ipv4() && flags.contains(AddressFlags::Secondary);
    let global = wide_scope && !is_second && !flags.contains(AddressFlags::Deprecated);
    Some(AddressRecord {
        ifindex: message.header.index,
        address: InterfaceAddress { net, global },
    })
}

/// A route of any table; `None` for cached ones.
pub(super) fn route(message: &RouteMessage) -> Option<RouteRecord> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let (mut destination, mut from, mut metric, mut mtu, mut source) = (None, None, 0, None, None);
    let mut object = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(wide) => table = *wide,
            RouteAttribute::Destination(addr) => destination = route_address(addr),
            RouteAttribute::Source(addr) => from = route_address(addr),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::PrefSource(addr) => source = route_address(addr),
            RouteAttribute::Metrics(metrics) => mtu = metrics.iter().find_map(route_mtu),
            RouteAttribute::NhId(id) => object = Some(*id),
            _ => {}
        }
    }
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let prefix = IpNet::new(destination.unwrap_or(unspecified), header.destination_prefix_length).ok()?;
    let from = match from {
        Some(IpAddr::V6(addr)) => Some(Box::new(Ipv6Net::new(addr, header.source_prefix_length).ok()?)),
        _ => None,
    };
    let action = action(header.kind)?;
    let target = match (action, object) {
        (RouteAction::Forward, Some(id)) => Target::Object(id),
        // An address may be local on several interfaces: each is a route of its own.
        (RouteAction::Forward | RouteAction::Local | RouteAction::Broadcast, _) => Target::Paths(paths(message).into()),
        _ => Target::Nowhere,
    };
    let leg = Arc::new(Leg { target, mtu, source });
    Some(RouteRecord {
        table,
        prefix,
        entry: RouteEntry {
            tos: header.tos,
            metric,
            action,
            from,
            leg,
        },
    })
}

const fn action(kind: RouteType) -> Option<RouteAction> {
    match kind {
        RouteType::Unicast => Some(RouteAction::Forward),
        RouteType::Local => Some(RouteAction::Local),
        RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => Some(RouteAction::Broadcast),
        RouteType::BlackHole => Some(RouteAction::Blackhole),
        RouteType::Unreachable => Some(RouteAction::Unreachable),
        RouteType::Prohibit => Some(RouteAction::Prohibit),
        RouteType::Throw => Some(RouteAction::Throw),
        _ => None,
    }
}

fn paths(message: &RouteMessage) -> Vec<Path> {
    let (mut ifindex, mut many) = (None, Vec::new());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::MultiPath(hops) => many.extend(hops.iter().map(path_of)),
            _ => {}
        }
    }
    // IPv6 repeats the first of several paths.
    if let Some(ifindex) = ifindex.filter(|_| many.is_empty()) {
        let is_dead = message.header.flags.contains(RouteFlags::Dead);
        many.push(path(ifindex, &message.attributes, is_dead));
    }
    many
}

fn path_of(hop: &RouteNextHop) -> Path {
    let is_dead = hop.flags.contains(RouteNextHopFlags::Dead);
    let mut path = path(hop.interface_index, &hop.attributes, is_dead);
    path.weight = u32::from(hop.hops) + 1;
    path
}

fn path(ifindex: u32, attributes: &[RouteAttribute], is_dead: bool) -> Path {
    // MPLS, SEG6 and the like would have to be pushed on; not sending is better than sending bare.
    let is_encapsulated = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::EncapType(_));
    let mut path = Path::new(InterfaceId(ifindex), gateway(attributes));
    path.is_dead = is_dead;
    path.unfollowed = attributes.iter().any(is_encapsulated);
    path
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(addr) => route_address(addr),
        RouteAttribute::Via(RouteVia::Inet(addr)) => Some((*addr).into()),
        RouteAttribute::Via(RouteVia::Inet6(addr)) => Some((*addr).into()),
        _ => None,
    })
}

fn route_address(addr: &RouteAddress) -> Option<IpAddr> {
    match addr {
        RouteAddress::Inet(addr) => Some((*addr).into()),
        RouteAddress::Inet6(addr) => Some((*addr).into()),
        _ => None,
    }
}

fn route_mtu(metric: &RouteMetric) -> Option<u16> {
    match metric {
        RouteMetric::Mtu(mtu) if *mtu != 0 => Some(clamp_u16(*mtu)),
        _ => None,
    }
}

/// A unicast neighbour; `gone` for RTM_DELNEIGH.
pub(super) fn neighbour(message: &NeighbourMessage, gone: bool) -> Option<NeighbourRecord> {
    let header = &message.header;
    if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6)
        || header.flags.contains(NeighbourFlags::Proxy)
    {
        return None;
    }
    let (mut addr, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => addr = Some(IpAddr::from(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => addr = Some(IpAddr::from(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    let addr = addr.filter(|addr| !addr.is_multicast())?;
    let reported = if gone {
        Reported::Gone
    } else {
        reported(header.state, mac)
    };
    Some(NeighbourRecord {
        ifindex: header.ifindex,
        addr,
        reported,
    })
}

/// NUD_VALID states have a MAC that may be used (include/net/neighbour.h).
fn reported(state: NeighbourState, mac: Option<[u8; 6]>) -> Reported {
    use NeighbourState as Nud;
    match (state, mac) {
        (Nud::Failed, _) => Reported::Failed,
        (Nud::Stale, Some(mac)) => Reported::Valid { mac, idle: true },
        (Nud::Reachable | Nud::Delay | Nud::Probe | Nud::Noarp | Nud::Permanent, Some(mac)) => {
            Reported::Valid { mac, idle: false }
        }
        _ => Reported::Pending,
    }
}

fn clamp_u16(value: u32) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
