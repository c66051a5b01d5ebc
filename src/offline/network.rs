//! Learns the network of a capture from its frames, because there is no kernel to ask.
//!
//! * The director has the VIPs and local addresses of the configuration. Its devices' own addresses are unknown.
//! * A device's MAC is the configured one. Otherwise it is the MAC to which most frames of its interface are addressed,
//!   where frames to the director's addresses count first.
//! * The sender of a frame is a neighbour on that device with that MAC. A real server that sends no frame is a neighbour on
//!   the last device, with the MAC 02:00 and its last four bytes. Everybody is on-link.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use lvs_core::config::Config;
use lvs_core::headers::Flow;
use lvs_core::ipvs::service::ServiceKey;
use lvs_core::l3::{DeviceId, Interface, L3, L3Builder, NeighbourKey, NeighbourState, RouteKind};
use lvs_core::path::parse::{Parsed, parse};

use super::files::Captured;

type Mac = [u8; 6];

/// See the module.
pub(super) fn learn(config: &Config, frames: &[Captured]) -> L3 {
    let own = own_addresses(config);
    let devices = config.devices.len().max(1);
    let mut builder = L3Builder::new();
    for number in 0..devices {
        let device = DeviceId(number as u8);
        let known = config.devices.get(number);
        let mac = known.and_then(|known| known.mac);
        let mac = mac.unwrap_or_else(|| learn_mac(device, &own, frames));
        let mtu = known.map_or(1_500, |known| known.mtu);
        let name = known.map_or("device 0", |known| &known.name);
        builder.interface(Interface::new(device, 0, mac, mtu, name));
    }
    for addr in &own {
        builder.address(DeviceId(0), 0, IpNet::from(*addr));
    }
    let last = DeviceId((devices - 1) as u8);
    let mut neighbours: HashMap<IpAddr, (DeviceId, Mac)> = HashMap::new();
    for server in config.services.iter().flat_map(|service| &service.servers) {
        neighbours.insert(server.addr, (last, made_up_mac(server.addr)));
    }
    for frame in frames {
        if let Some(((src, _), Some(mac))) = ends(&frame.bytes).map(|ends| (ends, mac_at(&frame.bytes, 6)))
            && usize::from(frame.device.0) < devices
            && !own.contains(&src)
        {
            neighbours.insert(src, (frame.device, mac));
        }
    }
    for (addr, (device, mac)) in neighbours {
        let on_link = RouteKind::Via {
            device,
            vlan: 0,
            gateway: None,
            mtu: None,
            source: None,
        };
        builder.route(IpNet::from(addr), on_link);
        builder.neighbour(NeighbourKey::of(device, 0, addr), NeighbourState::Resolved(mac));
    }
    builder.build(1)
}

/// VIPs, destinations of mark rules that are single addresses, and local addresses.
fn own_addresses(config: &Config) -> HashSet<IpAddr> {
    let mut own = HashSet::new();
    for service in &config.services {
        if let ServiceKey::Address { addr, .. } = service.spec.key {
            own.insert(addr);
        }
        own.extend(service.local_addresses.iter().copied());
    }
    let marked = config.marks.rules().iter().filter_map(|rule| rule.destination);
    own.extend(
        marked
            .filter(|net| net.prefix_len() == net.max_prefix_len())
            .map(|net| net.addr()),
    );
    own
}

/// The unicast MAC to which most frames of a device go. Frames to own addresses count first.
fn learn_mac(device: DeviceId, own: &HashSet<IpAddr>, frames: &[Captured]) -> Mac {
    let mut votes: HashMap<Mac, (u64, u64)> = HashMap::new();
    for frame in frames.iter().filter(|frame| frame.device == device) {
        let Some(mac) = mac_at(&frame.bytes, 0).filter(|mac| mac[0] & 1 == 0) else {
            continue;
        };
        let votes = votes.entry(mac).or_default();
        votes.1 += 1;
        votes.0 += u64::from(ends(&frame.bytes).is_some_and(|(_, dst)| own.contains(&dst)));
    }
    let most = votes.into_iter().max_by_key(|(mac, votes)| (*votes, *mac));
    most.map_or([2, 0, 0, 0, 0xff, device.0], |(mac, _)| mac)
}

/// Source and destination of an IP packet.
fn ends(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match parse(frame) {
        Ok(Parsed::Ip(_, Flow::V4(key))) => Some((key.src.addr.0.into(), key.dst.addr.0.into())),
        Ok(Parsed::Ip(_, Flow::V6(key))) => Some((key.src.addr.0.into(), key.dst.addr.0.into())),
        _ => None,
    }
}

fn mac_at(frame: &[u8], offset: usize) -> Option<Mac> {
    frame.get(offset..)?.first_chunk().copied()
}

fn made_up_mac(addr: IpAddr) -> Mac {
    let [a, b, c, d] = match addr {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => *v6.octets().last_chunk().unwrap_or(&[0; 4]),
    };
    [2, 0, a, b, c, d]
}
