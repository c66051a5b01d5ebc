//! A small network for tests: clients behind device 0, real servers behind device 1, both families.
//!
//! | | device 0 "wan" | device 1 "lan" |
//! |---|---|---|
//! | director | 192.0.2.1/24, 2001:db8:a::1/64 | 198.51.100.1/24, 2001:db8:b::1/64 |
//! | VIPs | 192.0.2.100, 2001:db8:a::100 | |
//! | neighbours | clients .2–.9, gateway .254 (default route) | real servers .11–.19 |

use std::net::IpAddr;

use ipnet::IpNet;

use crate::l3::{DeviceId, Interface, L3Builder, NeighbourKey, NeighbourState, RouteKind};

/// The device towards clients.
pub const WAN: DeviceId = DeviceId(0);
/// The device towards real servers.
pub const LAN: DeviceId = DeviceId(1);

/// MAC of the director's own device.
pub const fn director_mac(device: DeviceId) -> [u8; 6] {
    [2, 0, 0, 0, 0, device.0 + 1]
}

/// MAC of neighbour `number` on `device`.
pub const fn neighbour_mac(device: DeviceId, number: u8) -> [u8; 6] {
    [2, 0, 0, 0, device.0 + 1, number]
}

/// The network of the module's table.
///
/// # Panics
/// Never, because all texts are constant.
pub fn network() -> L3Builder {
    let net = |text: &str| text.parse::<IpNet>().expect("a prefix");
    let mut builder = L3Builder::new();
    for (device, name) in [(WAN, "wan"), (LAN, "lan")] {
        builder.interface(Interface::new(device, 0, director_mac(device), 1_500, name));
    }
    for (device, address) in [
        (WAN, "192.0.2.1/24"),
        (WAN, "2001:db8:a::1/64"),
        (LAN, "198.51.100.1/24"),
        (LAN, "2001:db8:b::1/64"),
    ] {
        builder.connected(device, 0, net(address));
    }
    builder
        .address(WAN, 0, net("192.0.2.100/32"))
        .address(WAN, 0, net("2001:db8:a::100/128"));
    for (prefix, gateway) in [("0.0.0.0/0", "192.0.2.254"), ("::/0", "2001:db8:a::254")] {
        let gateway = gateway.parse().ok();
        builder.route(
            net(prefix),
            RouteKind::Via {
                device: WAN,
                vlan: 0,
                gateway,
                mtu: None,
                source: None,
            },
        );
    }
    let mut neighbour = |device, addr: String, number| {
        let addr: IpAddr = addr.parse().expect("an address");
        let state = NeighbourState::Resolved(neighbour_mac(device, number));
        builder.neighbour(NeighbourKey::of(device, 0, addr), state);
    };
    for number in (2..10).chain([254]) {
        neighbour(WAN, format!("192.0.2.{number}"), number);
        neighbour(WAN, format!("2001:db8:a::{number}"), number);
    }
    for number in 11..20 {
        neighbour(LAN, format!("198.51.100.{number}"), number);
        neighbour(LAN, format!("2001:db8:b::{number}"), number);
    }
    builder
}
