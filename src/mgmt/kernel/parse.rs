//! rtnetlink messages read into plain records.
//!
//! In:  messages as the netlink crates decode them.
//! Out: a record, or `None` for what never concerns the mirror (other families and tables, multicast,
//!      proxies, routes by TOS or source prefix).
//! Never: fails; an attribute that is missing leaves its default, as the kernel means it.
//! Ref:  rtnetlink(7); Linux include/uapi/linux/{rtnetlink,neighbour,if_addr,if_link}.h.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use lvs_core::l3::InterfaceAddress;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{InfoData, InfoVlan, LinkAttribute, LinkInfo, LinkMessage, VlanProtocol};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags, RouteType,
    RouteVia,
};

use super::network::{AddressRecord, LinkRecord, NeighbourRecord, PathRecord, Reported, RouteAction, RouteRecord};

/// `RT_TABLE_MAIN` and `RT_TABLE_LOCAL` (uapi/linux/rtnetlink.h).
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;

/// An Ethernet interface.
pub(super) fn link(message: &LinkMessage) -> Option<LinkRecord> {
    let mut record = LinkRecord {
        ifindex: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        vlan: None,
    };
    let (mut parent, mut vlan) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => record.name.clone_from(name),
            LinkAttribute::Address(bytes) => record.mac = bytes.as_slice().try_into().ok()?,
            LinkAttribute::Mtu(mtu) => record.mtu = clamp_u16(*mtu),
            LinkAttribute::Link(ifindex) => parent = Some(*ifindex),
            LinkAttribute::LinkInfo(infos) => vlan = infos.iter().find_map(vlan_id),
            _ => {}
        }
    }
    record.vlan = parent.zip(vlan);
    // A sub-interface that is no 802.1Q VLAN (macvlan, QinQ) stands on its parent, but not as we could send.
    Some(record)
}

/// The id, if this is an 802.1Q VLAN; 802.1ad is not spoken here.
fn vlan_id(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(attributes)) = info else {
        return None;
    };
    let foreign = |attribute: &InfoVlan| matches!(attribute, InfoVlan::Protocol(VlanProtocol::Ieee8021Ad));
    if attributes.iter().any(foreign) {
        return None;
    }
    attributes.iter().find_map(|attribute| match attribute {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })
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
    let global = wide_scope && !flags.contains(AddressFlags::Deprecated);
    Some(AddressRecord {
        ifindex: message.header.index,
        address: InterfaceAddress { net, global },
    })
}

/// A route of the local or main table that a packet to its prefix takes whatever its TOS and source.
pub(super) fn route(message: &RouteMessage) -> Option<RouteRecord> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let (mut destination, mut metric, mut mtu, mut source) = (None, 0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(wide) => table = *wide,
            RouteAttribute::Destination(addr) => destination = route_address(addr),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::PrefSource(addr) => source = route_address(addr),
            RouteAttribute::Metrics(metrics) => mtu = metrics.iter().find_map(route_mtu),
            _ => {}
        }
    }
    let special_choice = header.tos != 0 || header.source_prefix_length != 0;
    let cloned = header.flags.contains(RouteFlags::Cloned);
    if !matches!(table, TABLE_MAIN | TABLE_LOCAL) || special_choice || cloned {
        return None;
    }
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let prefix = IpNet::new(destination.unwrap_or(unspecified), header.destination_prefix_length).ok()?;
    let action = action(message)?;
    Some(RouteRecord {
        local_table: table == TABLE_LOCAL,
        prefix,
        metric,
        mtu,
        source,
        action,
    })
}

fn action(message: &RouteMessage) -> Option<RouteAction> {
    match message.header.kind {
        RouteType::Unicast => Some(paths(message)),
        RouteType::Local => Some(RouteAction::Local),
        RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => Some(RouteAction::Broadcast),
        RouteType::BlackHole => Some(RouteAction::Blackhole),
        RouteType::Unreachable | RouteType::Prohibit => Some(RouteAction::Unreachable),
        // `throw` means: as if this table had no such route; with local and main alone nothing comes after.
        RouteType::Throw => Some(RouteAction::Unreachable),
        _ => None,
    }
}

fn paths(message: &RouteMessage) -> RouteAction {
    let (mut ifindex, mut many) = (None, Vec::new());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::MultiPath(hops) => many.extend(hops.iter().filter_map(path_of)),
            // MPLS, SEG6 and the like would have to be pushed on; not sending is better than sending bare.
            RouteAttribute::EncapType(_) => return RouteAction::Unreachable,
            _ => {}
        }
    }
    if let Some(ifindex) = ifindex.filter(|_| !message.header.flags.contains(RouteFlags::Dead)) {
        many.push(PathRecord {
            ifindex,
            gateway: gateway(&message.attributes),
        });
    }
    RouteAction::Via(many)
}

fn path_of(hop: &RouteNextHop) -> Option<PathRecord> {
    let encapsulated = hop
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::EncapType(_)));
    if hop.flags.contains(RouteNextHopFlags::Dead) || encapsulated {
        return None;
    }
    Some(PathRecord {
        ifindex: hop.interface_index,
        gateway: gateway(&hop.attributes),
    })
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
