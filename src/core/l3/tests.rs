//! What routing must answer in networks as an operator sets them up. Longest prefix is compared with a linear scan.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;

use super::fib::{Rule, RuleAction};
use super::*;
use crate::address::{Addr4, Addr6};

const LAN: DeviceId = DeviceId(0);
const WAN: DeviceId = DeviceId(1);
const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const WAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const RS_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn v4(text: &str) -> Addr4 {
    Addr4::from_ip(ip(text)).unwrap()
}

fn v6(text: &str) -> Addr6 {
    Addr6::from_ip(ip(text)).unwrap()
}

fn key(device: DeviceId, vlan: u16, addr: &str) -> NeighbourKey {
    NeighbourKey::of(device, vlan, ip(addr))
}

fn via(device: DeviceId, gateway: Option<&str>) -> RouteKind {
    RouteKind::Via {
        device,
        vlan: 0,
        gateway: gateway.map(ip),
        mtu: None,
        source: None,
    }
}

fn via_mtu(gateway: &str, mtu: u16) -> RouteKind {
    RouteKind::Via {
        device: WAN,
        vlan: 0,
        gateway: Some(ip(gateway)),
        mtu: Some(mtu),
        source: None,
    }
}

/// LAN 192.0.2.1/24 and 2001:db8:2::1/64; WAN 198.51.100.1/24 with the default route by .254; both known.
fn director() -> L3Builder {
    let mut builder = L3Builder::new();
    lay(&mut builder);
    builder
}

fn lay(builder: &mut L3Builder) {
    builder
        .interface(Interface::new(LAN, 0, LAN_MAC, 1500, "lan"))
        .interface(Interface::new(WAN, 0, WAN_MAC, 1500, "wan"))
        .connected(LAN, 0, net("192.0.2.1/24"))
        .connected(LAN, 0, net("2001:db8:2::1/64"))
        .connected(WAN, 0, net("198.51.100.1/24"))
        .route(net("0.0.0.0/0"), via(WAN, Some("198.51.100.254")))
        .neighbour(key(LAN, 0, "192.0.2.11"), NeighbourState::Resolved(RS_MAC))
        .neighbour(key(LAN, 0, "2001:db8:2::11"), NeighbourState::Resolved(RS_MAC))
        .neighbour(key(LAN, 0, "192.0.2.99"), NeighbourState::Failed)
        .neighbour(key(WAN, 0, "198.51.100.254"), NeighbourState::Resolved(ROUTER_MAC));
}

fn hop_to<A: Address>(l3: &L3, dst: A) -> Hop {
    match l3.route(dst) {
        Route::Hop(id) => *l3.hop(id),
        other => panic!("{dst:?}: {other:?}"),
    }
}

fn untagged_hop(device: DeviceId, src_mac: [u8; 6], dst_mac: [u8; 6]) -> Hop {
    Hop {
        device,
        mtu: 1500,
        vlan: 0,
        src_mac,
        dst_mac,
    }
}

#[test]
fn a_neighbour_on_the_link_is_reached_directly() {
    let l3 = director().build(1);
    let expected = untagged_hop(LAN, LAN_MAC, RS_MAC);
    assert_eq!(hop_to(&l3, v4("192.0.2.11")), expected);
    assert_eq!(hop_to(&l3, v6("2001:db8:2::11")), expected);
}

#[test]
fn what_is_not_on_a_link_goes_by_the_gateway() {
    let l3 = director().build(1);
    let expected = untagged_hop(WAN, WAN_MAC, ROUTER_MAC);
    assert_eq!(hop_to(&l3, v4("203.0.113.7")), expected);
    assert_eq!(l3.route(v6("2001:db8:ffff::1")), Route::Unreachable);
}

#[test]
fn an_unknown_neighbour_is_named_with_its_link_and_a_failed_one_says_so() {
    let l3 = director().build(1);
    assert_eq!(l3.route(v4("192.0.2.12")), Route::Unresolved(key(LAN, 0, "192.0.2.12")));
    assert_eq!(
        l3.route(v4("192.0.2.99")),
        Route::NeighbourFailed(key(LAN, 0, "192.0.2.99"))
    );
    assert_eq!(
        l3.neighbour(&key(LAN, 0, "192.0.2.99")),
        Route::NeighbourFailed(key(LAN, 0, "192.0.2.99"))
    );
    assert_eq!(
        l3.neighbour(&key(WAN, 0, "192.0.2.11")),
        Route::Unresolved(key(WAN, 0, "192.0.2.11"))
    );
}

#[test]
fn the_lowest_metric_wins_whatever_the_order() {
    for flipped in [false, true] {
        let mut builder = director();
        let mut routes = [
            (100, via(LAN, Some("192.0.2.11"))),
            (200, via(WAN, Some("198.51.100.254"))),
        ];
        if flipped {
            routes.reverse();
        }
        for (metric, kind) in routes {
            builder.route_with_metric(net("203.0.113.0/24"), metric, kind);
        }
        assert_eq!(hop_to(&builder.build(1), v4("203.0.113.7")).dst_mac, RS_MAC);
    }
}

#[test]
fn special_routes_swallow_or_refuse() {
    let mut builder = director();
    builder
        .route(net("203.0.113.0/24"), RouteKind::Blackhole)
        .route(net("203.0.113.128/25"), RouteKind::Unreachable)
        .route_with_metric(net("2001:db8::/32"), u32::MAX, RouteKind::Unreachable);
    let l3 = builder.build(1);
    assert_eq!(l3.route(v4("203.0.113.1")), Route::Blackhole);
    assert_eq!(l3.route(v4("203.0.113.200")), Route::Unreachable);
    assert_eq!(l3.route(v6("2001:db8:9::1")), Route::Unreachable);
}

/// As the kernel does once it has had a rule of its own; before that a longer prefix of main goes first.
#[test]
fn own_addresses_are_local_even_under_a_more_specific_main_route() {
    let mut builder = L3Builder::new();
    let mut fib = Fib::default();
    fib.set_rules(true, vec![Rule::new(5, RuleAction::Nop)]);
    fib.set_rules(true, Fib::default_rules(true));
    builder.fib(fib);
    lay(&mut builder);
    builder
        .local_route(net("203.0.113.0/24"), RouteKind::Local)
        .route(net("203.0.113.7/32"), via(WAN, Some("198.51.100.254")));
    let l3 = builder.build(1);
    assert_eq!(l3.route(v4("203.0.113.7")), Route::Local);
    assert!(l3.is_local(v4("203.0.113.200")) && l3.is_local(v4("192.0.2.1")) && l3.is_local(v6("2001:db8:2::1")));
    assert!(!l3.is_local(v4("192.0.2.11")) && !l3.is_local(v4("198.51.100.254")));
    assert_eq!(l3.route(v4("192.0.2.1")), Route::Local);
}

#[test]
fn a_route_mtu_binds_its_own_traffic_and_no_other() {
    let mut builder = director();
    builder
        .route(net("203.0.113.0/24"), via_mtu("198.51.100.254", 1400))
        .route(net("203.0.113.128/25"), via_mtu("198.51.100.254", 1280))
        .route(net("203.0.113.192/26"), via_mtu("198.51.100.254", 9000));
    let l3 = builder.build(1);
    assert_eq!(hop_to(&l3, v4("203.0.113.1")).mtu, 1400);
    assert_eq!(hop_to(&l3, v4("203.0.113.129")).mtu, 1280);
    assert_eq!(
        hop_to(&l3, v4("203.0.113.193")).mtu,
        1500,
        "a route cannot widen its interface"
    );
    assert_eq!(hop_to(&l3, v4("203.0.114.1")).mtu, 1500);
    assert_eq!(hop_to(&l3, v4("203.0.113.1")).dst_mac, ROUTER_MAC);
    assert_eq!(hop_to(&l3, v4("192.0.2.11")).dst_mac, RS_MAC);
}

#[test]
fn equal_paths_share_and_a_failed_one_stands_back() {
    let mut builder = director();
    builder
        .neighbour(key(WAN, 0, "198.51.100.253"), NeighbourState::Resolved(RS_MAC))
        .route(net("203.0.113.0/24"), via(WAN, Some("198.51.100.254")))
        .route(net("203.0.113.0/24"), via(WAN, Some("198.51.100.253")));
    let clients = || (0..=255).map(|last| Addr4([203, 0, 113, last]));
    let l3 = builder.clone().build(1);
    let by_second = clients()
        .filter(|&client| hop_to(&l3, client).dst_mac == RS_MAC)
        .count();
    assert!((64..192).contains(&by_second), "{by_second}");

    builder.neighbour(key(WAN, 0, "198.51.100.253"), NeighbourState::Failed);
    let l3 = builder.build(2);
    assert!(clients().all(|client| hop_to(&l3, client).dst_mac == ROUTER_MAC));
}

#[test]
fn a_vlan_is_an_interface_of_its_own() {
    let mut builder = director();
    builder
        .interface(Interface::new(LAN, 7, LAN_MAC, 1496, "lan.7"))
        .connected(LAN, 7, net("203.0.113.1/24"))
        .neighbour(key(LAN, 7, "203.0.113.11"), NeighbourState::Resolved(RS_MAC));
    let l3 = builder.build(1);
    let hop = hop_to(&l3, v4("203.0.113.11"));
    assert_eq!((hop.device, hop.vlan, hop.mtu), (LAN, 7, 1496));
    assert_eq!(
        l3.route(v4("203.0.113.12")),
        Route::Unresolved(key(LAN, 7, "203.0.113.12"))
    );
    assert_eq!(l3.mtu(LAN), 1500);
}

#[test]
fn an_ipv4_route_may_have_an_ipv6_gateway() {
    let mut builder = director();
    builder
        .neighbour(key(LAN, 0, "fe80::1"), NeighbourState::Resolved(ROUTER_MAC))
        .route(net("203.0.113.0/24"), via(LAN, Some("fe80::1")));
    assert_eq!(hop_to(&builder.build(1), v4("203.0.113.7")).dst_mac, ROUTER_MAC);
}

#[test]
fn the_director_speaks_from_the_route_source_then_the_next_hops_network_then_the_first_address() {
    let mut builder = director();
    builder
        .connected(WAN, 0, net("198.18.0.1/15"))
        .route(net("203.0.113.0/24"), via(WAN, Some("198.18.0.254")));
    let preferred = RouteKind::Via {
        device: WAN,
        vlan: 0,
        gateway: Some(ip("198.18.0.254")),
        mtu: None,
        source: Some(ip("192.0.2.1")),
    };
    builder
        .route(net("203.0.113.7/32"), preferred)
        .address(WAN, 0, net("fe80::1/64"));
    let l3 = builder.build(1);
    assert_eq!(l3.source_for(v4("203.0.113.7")), Some(v4("192.0.2.1")));
    assert_eq!(l3.source_for(v4("203.0.113.8")), Some(v4("198.18.0.1")));
    assert_eq!(l3.source_for(v4("203.0.114.1")), Some(v4("198.51.100.1")));
    assert_eq!(l3.source_address(WAN), Some(v4("198.51.100.1")));
    assert_eq!(
        l3.source_address::<Addr6>(WAN),
        None,
        "a link-local address does not leave its link"
    );
    assert_eq!(l3.source_address(LAN), Some(v6("2001:db8:2::1")));
}

#[test]
fn what_refers_to_no_interface_leads_nowhere_and_a_foreign_hop_fits_nothing() {
    let mut builder = director();
    let ghost = DeviceId(9);
    builder
        .neighbour(key(ghost, 0, "203.0.113.1"), NeighbourState::Resolved(RS_MAC))
        .route(net("203.0.113.0/24"), via(ghost, None));
    let l3 = builder.build(1);
    assert_eq!(l3.route(v4("203.0.113.1")), Route::Elsewhere);
    assert_eq!(l3.hop(HopId(u16::MAX)).mtu, 0);
    assert_eq!(l3.mtu(ghost), 0);
    assert_eq!(L3::default().route(v4("192.0.2.1")), Route::Unreachable);
}

#[test]
fn hops_end_before_their_ids_do() {
    let mut builder = L3Builder::new();
    builder
        .interface(Interface::new(LAN, 0, LAN_MAC, 1500, "lan"))
        .route(net("198.18.0.0/15"), via(LAN, None));
    for low in 0..70_000u32 {
        let addr = IpAddr::from((0xc612_0000 + low).to_be_bytes());
        let key = NeighbourKey::of(LAN, 0, addr);
        builder.neighbour(key, NeighbourState::Resolved(RS_MAC));
    }
    let l3 = builder.build(1);
    assert_eq!(l3.hops_count(), crate::limits::HOPS_MAX);
    assert_eq!(
        l3.route(v4("198.18.255.254")),
        Route::Hop(HopId(65_534)),
        "65535 means no hop in a conn"
    );
    assert!(matches!(l3.route(v4("198.18.255.255")), Route::Unresolved(_)));
}

/// Prefixes around few high bits, so that they overlap.
fn prefix4() -> impl Strategy<Value = Ipv4Net> {
    (any::<u32>(), 0..=32u8).prop_map(|(bits, len)| Ipv4Net::new((bits & 0xc007_0003).into(), len).unwrap().trunc())
}

fn prefix6() -> impl Strategy<Value = Ipv6Net> {
    (any::<u128>(), 0..=128u8).prop_map(|(bits, len)| {
        Ipv6Net::new((bits & (0xc007 << 112 | 0x3)).into(), len)
            .unwrap()
            .trunc()
    })
}

/// The obvious twin: of all prefixes that contain `dst` the longest, then the lowest metric, then the one given first.
fn scan(routes: &[(IpNet, u32)], dst: IpAddr) -> Option<usize> {
    let covering = (0..routes.len()).filter(|&index| routes[index].0.contains(&dst));
    covering.min_by_key(|&index| (std::cmp::Reverse(routes[index].0.prefix_len()), routes[index].1, index))
}

fn different(mut routes: Vec<(IpNet, u32)>) -> Vec<(IpNet, u32)> {
    let mut seen = Vec::new();
    routes.retain(|route| {
        let is_new = !seen.contains(route);
        seen.push(*route);
        is_new
    });
    routes
}

/// Route number `index` has a gateway of its own, by which a test recognises it.
fn gateway(index: usize) -> IpAddr {
    IpAddr::from([192, 0, (index >> 8) as u8, index as u8])
}

fn check_against_scan<A: Address>(routes: &[(IpNet, u32)], destinations: &[A]) {
    let mut builder = L3Builder::new();
    builder.interface(Interface::new(LAN, 0, LAN_MAC, 1500, "lan"));
    for (index, (prefix, metric)) in routes.iter().enumerate() {
        let kind = RouteKind::Via {
            device: LAN,
            vlan: 0,
            gateway: Some(gateway(index)),
            mtu: None,
            source: None,
        };
        builder.route_with_metric(*prefix, *metric, kind);
    }
    let l3 = builder.build(1);
    for &dst in destinations {
        let entry = match l3.decide(&RouteQuery::output(dst.to_ip())) {
            Decision::Forward { path, .. } => Some(path.gateway),
            _ => None,
        };
        let expected = scan(routes, dst.to_ip()).map(|index| Some(gateway(index)));
        assert_eq!(entry, expected, "{dst:?} in {routes:?}");
    }
}

proptest! {
    #![proptest_config(crate::testing::properties())]

    #[test]
    fn the_trie_finds_what_a_linear_scan_finds(
        routes4 in prop::collection::vec((prefix4(), 0..3u32), 0..40),
        routes6 in prop::collection::vec((prefix6(), 0..3u32), 0..40),
        low4 in prop::collection::vec(any::<u32>(), 20),
        low6 in prop::collection::vec(any::<u128>(), 20),
    ) {
        let routes4: Vec<(IpNet, u32)> = routes4.into_iter().map(|(prefix, metric)| (prefix.into(), metric)).collect();
        let routes6: Vec<(IpNet, u32)> = routes6.into_iter().map(|(prefix, metric)| (prefix.into(), metric)).collect();
        // Those of equal metric would share.
        let (routes4, routes6) = (different(routes4), different(routes6));
        let near4: Vec<Addr4> = low4.iter().map(|bits| Addr4((bits & 0xc007_0007).to_be_bytes())).collect();
        let near6: Vec<Addr6> = low6.iter().map(|bits| Addr6((bits & (0xc007 << 112 | 0x7)).to_be_bytes())).collect();
        check_against_scan(&routes4, &near4);
        check_against_scan(&routes6, &near6);
    }
}

#[test]
fn the_tables_are_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<L3>();
}
