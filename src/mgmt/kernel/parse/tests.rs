//! What a kernel without the feature cannot show us (VLAN), and the corners.

use rtnetlink::packet_route::link::InfoKind;
use rtnetlink::packet_route::route::RouteLwEnCapType;

use super::*;

fn vlan_link(protocol: VlanProtocol) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = 9;
    message.attributes = vec![
        LinkAttribute::IfName("lan.7".into()),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, 7]),
        LinkAttribute::Mtu(70_000),
        LinkAttribute::Link(4),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(7), InfoVlan::Protocol(protocol)])),
        ]),
    ];
    message
}

#[test]
fn a_vlan_sub_interface_is_its_parent_and_its_id() {
    let record = link(&vlan_link(VlanProtocol::Ieee8021Q)).unwrap();
    assert_eq!(record.vlan, Some((4, 7)));
    assert_eq!(
        (record.ifindex, record.name.as_str(), record.mac),
        (9, "lan.7", [2, 0, 0, 0, 0, 7])
    );
    assert_eq!(
        record.mtu,
        u16::MAX,
        "larger than any IPv4 packet is as good as the largest"
    );
    assert_eq!(link(&vlan_link(VlanProtocol::Ieee8021Ad)).unwrap().vlan, None);
}

#[test]
fn vlan_interfaces_of_a_twin_are_ours_and_vlans_on_vlans_are_not() {
    use crate::mgmt::kernel::network::{self, Neighbours, Network};
    use crate::mgmt::kernel::{DeviceId, MirroredTwin};
    use lvs_core::address::Addr4;
    use lvs_core::l3::Route;

    let plain = |ifindex, vlan| LinkRecord {
        ifindex,
        name: format!("if{ifindex}"),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        vlan,
    };
    let mut network = Network::new(&[MirroredTwin {
        device: DeviceId(2),
        ifindex: 4,
    }]);
    for link in [
        plain(4, None),
        plain(9, Some((4, 7))),
        plain(10, Some((9, 8))),
        plain(11, Some((3, 7))),
    ] {
        network.add_link(link);
    }
    assert_eq!(network.interface_of(4), Some((DeviceId(2), 0)));
    assert_eq!(network.interface_of(9), Some((DeviceId(2), 7)));
    assert_eq!(network.interface_of(10), None);
    assert_eq!(network.interface_of(11), None);
    assert_eq!(network.ifindex_of(DeviceId(2), 7), Some(9));
    network.add_route(RouteRecord {
        local_table: false,
        prefix: "203.0.113.0/24".parse().unwrap(),
        metric: 0,
        mtu: None,
        source: None,
        action: RouteAction::Via(vec![PathRecord {
            ifindex: 9,
            gateway: None,
        }]),
    });
    let mut neighbours = Neighbours::default();
    let addr = "203.0.113.11".parse().unwrap();
    neighbours.apply(NeighbourRecord {
        ifindex: 9,
        addr,
        reported: Reported::Valid {
            mac: [2, 0, 0, 0, 0, 9],
            idle: false,
        },
    });
    let l3 = network::build(&network, &neighbours, 1);
    let Route::Hop(id) = l3.route(Addr4([203, 0, 113, 11])) else {
        panic!("{l3:#?}")
    };
    assert_eq!(
        (l3.hop(id).vlan, l3.hop(id).device, l3.hop(id).dst_mac),
        (7, DeviceId(2), [2, 0, 0, 0, 0, 9])
    );
}

fn unicast(attributes: Vec<RouteAttribute>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = 254;
    message.header.kind = RouteType::Unicast;
    message.attributes = attributes;
    message
}

#[test]
fn a_route_that_would_need_a_label_is_not_sent_bare() {
    let bare = unicast(vec![RouteAttribute::Oif(4)]);
    assert_eq!(
        route(&bare).unwrap().action,
        RouteAction::Via(vec![PathRecord {
            ifindex: 4,
            gateway: None
        }])
    );
    let labelled = unicast(vec![
        RouteAttribute::Oif(4),
        RouteAttribute::EncapType(RouteLwEnCapType::Mpls),
    ]);
    assert_eq!(route(&labelled).unwrap().action, RouteAction::Unreachable);
}

#[test]
fn routes_by_tos_by_source_of_other_tables_and_cached_ones_are_left_out() {
    let changes: [fn(&mut RouteMessage); 4] = [
        |message| message.header.tos = 0x10,
        |message| message.header.source_prefix_length = 24,
        |message| message.attributes.push(RouteAttribute::Table(1000)),
        |message| message.header.flags = RouteFlags::Cloned,
    ];
    for change in changes {
        let mut message = unicast(vec![RouteAttribute::Oif(4)]);
        change(&mut message);
        assert_eq!(route(&message), None, "{message:?}");
    }
}

#[test]
fn a_tentative_address_is_not_in_use_and_a_link_local_one_is_no_source() {
    let mut message = AddressMessage::default();
    message.header.prefix_len = 64;
    message.attributes = vec![AddressAttribute::Address("2001:db8::1".parse().unwrap())];
    assert!(address(&message).unwrap().address.global);
    message.header.scope = AddressScope::Link;
    assert!(!address(&message).unwrap().address.global);
    message
        .attributes
        .push(AddressAttribute::Flags(AddressFlags::Tentative));
    assert_eq!(address(&message), None);
}

#[test]
fn the_own_end_of_a_point_to_point_link_is_its_address() {
    let mut message = AddressMessage::default();
    message.header.prefix_len = 32;
    message.attributes = vec![
        AddressAttribute::Address("192.0.2.2".parse().unwrap()),
        AddressAttribute::Local("192.0.2.1".parse().unwrap()),
    ];
    assert_eq!(address(&message).unwrap().address.net.to_string(), "192.0.2.1/32");
}

#[test]
fn neighbours_without_a_usable_mac_are_pending_and_multicast_ones_nothing() {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.state = NeighbourState::Reachable;
    message.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::Inet(
        [192, 0, 2, 9].into(),
    ))];
    assert_eq!(neighbour(&message, false).unwrap().reported, Reported::Pending);
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 9]));
    let expected = Reported::Valid {
        mac: [2, 0, 0, 0, 0, 9],
        idle: false,
    };
    assert_eq!(neighbour(&message, false).unwrap().reported, expected);
    assert_eq!(neighbour(&message, true).unwrap().reported, Reported::Gone);
    message.header.flags = NeighbourFlags::Proxy;
    assert_eq!(neighbour(&message, false), None);
    message.header.flags = NeighbourFlags::default();
    message.attributes[0] = NeighbourAttribute::Destination(NeighbourAddress::Inet([224, 0, 0, 1].into()));
    assert_eq!(neighbour(&message, false), None);
}
