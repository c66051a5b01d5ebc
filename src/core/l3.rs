//! The kernel's interfaces, routes, neighbours and addresses, as the path reads them.
//!
//! A mirror: the kernel stays the network's control plane and the only place where an operator changes
//! these. Built by the management core, immutable here.

use std::net::IpAddr;

/// Index of a device (NIC) in the order of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u8);

/// Index of a hop in [`L3`]; only meaningful together with the [`L3::generation`] it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HopId(pub u16);

/// A next hop that is not in the neighbour table yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NeighbourKey {
    /// The device behind which it is.
    pub device: DeviceId,
    /// Its address on that link.
    pub addr: IpAddr,
}

/// A resolved next hop: all that is needed to put a packet on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The device to transmit on.
    pub device: DeviceId,
    /// Largest IP packet in octets.
    pub mtu: u16,
    /// 802.1Q VLAN id of the interface the route goes out of; 0 for untagged.
    pub vlan: u16,
    /// The device's own MAC address.
    pub src_mac: [u8; 6],
    /// The neighbour's MAC address.
    pub dst_mac: [u8; 6],
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct L3 {
    /// Grows with every change; hops cached with another generation must be looked up again.
    pub generation: u32,
}
