//! What a kernel without the feature cannot show us (VLAN), and the corners.

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
    let record = link(&vlan_link(VlanProtocol::Ieee8021Q));
    assert_eq!(record.kind, LinkKind::Vlan { below: 4, id: 7 });
    assert_eq!(
        (record.ifindex, record.name.as_str(), record.mac),
        (9, "lan.7", [2, 0, 0, 0, 0, 7])
    );
    assert_eq!(
        record.mtu,
        u16::MAX,
        "larger than any IPv4 packet is as good as the largest"
    );
    let service = link(&vlan_link(VlanProtocol::Ieee8021Ad));
    assert_eq!(service.kind, LinkKind::ServiceVlan { below: 4, id: 7 });
}

#[test]
fn a_macvlan_a_vrf_and_a_bridge_are_told_by_their_kind() {
    let of = |infos: Vec<LinkInfo>| {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::Link(4),
            LinkAttribute::Controller(3),
            LinkAttribute::LinkInfo(infos),
        ];
        link(&message)
    };
    let macvlan = of(vec![LinkInfo::Kind(InfoKind::MacVlan)]);
    assert_eq!(
        (macvlan.kind, macvlan.master),
        (LinkKind::Macvlan { below: 4 }, Some(3))
    );
    let vrf = of(vec![
        LinkInfo::Kind(InfoKind::Vrf),
        LinkInfo::Data(InfoData::Vrf(vec![InfoVrf::TableId(77)])),
    ]);
    assert_eq!(vrf.kind, LinkKind::Vrf { table: 77 });
    assert_eq!(of(vec![LinkInfo::Kind(InfoKind::Bridge)]).kind, LinkKind::Bridge);
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
    let path = |message: &RouteMessage| match &route(message).unwrap().entry.leg.target {
        Target::Paths(paths) => paths[0],
        other => panic!("{other:?}"),
    };
    let bare = unicast(vec![RouteAttribute::Oif(4)]);
    assert_eq!(path(&bare), Path::new(InterfaceId(4), None));
    let labelled = unicast(vec![
        RouteAttribute::Oif(4),
        RouteAttribute::EncapType(RouteLwEnCapType::Mpls),
    ]);
    assert!(path(&labelled).unfollowed);
}

#[test]
fn cached_routes_are_left_out() {
    let mut message = unicast(vec![RouteAttribute::Oif(4)]);
    assert!(route(&message).is_some());
    message.header.flags = RouteFlags::Cloned;
    assert_eq!(route(&message), None);
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
