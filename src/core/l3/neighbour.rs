//! Neighbours, and the hops that lead to them.
//!
//! In:  the kernel's neighbour entries (ARP and ND).
//! Out: for each resolved neighbour the Ethernet addresses, VLAN and MTU that put a packet on the wire.
//! Never: resolves a neighbour. The kernel does that, when it is asked with a [`NeighbourKey`].
//! Ref:  Linux net/core/neighbour.c.

use std::net::IpAddr;

use crate::l3::{DeviceId, InterfaceId};

/// Index of a hop in [`crate::l3::L3`]. It is valid for the generation from which it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HopId(pub u16);

/// What identifies a neighbour, resolved or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NeighbourKey {
    /// The device that leads to it.
    pub device: DeviceId,
    /// The interface that leads to it.
    pub interface: InterfaceId,
    /// Its address on that link.
    pub addr: IpAddr,
}

impl NeighbourKey {
    /// A neighbour of the interface that no kernel has given an index.
    pub const fn of(device: DeviceId, vlan: u16, addr: IpAddr) -> Self {
        Self {
            device,
            interface: InterfaceId::of(device, vlan),
            addr,
        }
    }
}

/// What the kernel knows about a neighbour. A neighbour that it does not know, or that it is still resolving, is
/// absent.
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
    /// 802.1Q VLAN id of the outgoing interface; 0 for untagged.
    pub vlan: u16,
    /// The interface's own MAC address.
    pub src_mac: [u8; 6],
    /// The neighbour's MAC address.
    pub dst_mac: [u8; 6],
}
