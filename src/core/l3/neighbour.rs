//! Neighbours and the hops made of them.
//!
//! In:  the kernel's neighbour entries (ARP and ND).
//! Out: for each resolved one the Ethernet addresses, VLAN and MTU that put a packet on the wire.
//! Never: resolves; that is the kernel's work, asked for with a [`NeighbourKey`].
//! Ref:  Linux net/core/neighbour.c.

use std::net::IpAddr;

use crate::l3::DeviceId;

/// Index of a hop in [`crate::l3::L3`]; only meaningful together with the generation it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HopId(pub u16);

/// What identifies a neighbour, resolved or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NeighbourKey {
    /// The device behind which it is.
    pub device: DeviceId,
    /// 802.1Q VLAN id of the link it is on; 0 for untagged.
    pub vlan: u16,
    /// Its address on that link.
    pub addr: IpAddr,
}

/// What the kernel knows of a neighbour. One it does not know, or has only begun to ask for, is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// Its MAC address.
    Resolved([u8; 6]),
    /// It did not answer.
    Failed,
}

/// A resolved next hop: all that is needed to put a packet on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The device to transmit on.
    pub device: DeviceId,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// 802.1Q VLAN id of the interface the route goes out of; 0 for untagged.
    pub vlan: u16,
    /// The device's own MAC address.
    pub src_mac: [u8; 6],
    /// The neighbour's MAC address.
    pub dst_mac: [u8; 6],
}
