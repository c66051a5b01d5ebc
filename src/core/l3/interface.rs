//! An interface of the director: a device's kernel twin, or a VLAN sub-interface on it.
//!
//! In:  name, MAC, MTU and addresses as the kernel has them.
//! Out: the address from which the director sends.
//! Never: handles frames. A VLAN is a (device, id) pair here and a tag in `path/forward/ethernet`.
//! Ref:  Linux net/ipv4/devinet.c `inet_select_addr`.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::address::Address;
use crate::l3::DeviceId;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The device whose frames it sends and receives.
    pub device: DeviceId,
    /// 802.1Q VLAN id, 1 to 4094; 0 for the untagged interface.
    pub vlan: u16,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// The kernel's name for it.
    pub name: String,
    /// Its addresses in the kernel's order. The first one of a family and scope is the primary one.
    pub addresses: Vec<InterfaceAddress>,
}

/// An address of an [`Interface`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// The address with the length of its network.
    pub net: IpNet,
    /// Whether packets that leave the link may have it as source (scope global or site, not deprecated).
    pub global: bool,
}

impl Interface {
    /// An interface without addresses.
    pub fn new(device: DeviceId, vlan: u16, mac: [u8; 6], mtu: u16, name: &str) -> Self {
        Self {
            device,
            vlan,
            mac,
            mtu,
            name: name.to_owned(),
            addresses: Vec::new(),
        }
    }

    /// The global address of family `A` whose network contains `towards`, otherwise the first global one.
    pub(super) fn source_address<A: Address>(&self, towards: Option<IpAddr>) -> Option<A> {
        let globals = || self.addresses.iter().filter(|address| address.global);
        let near = towards.and_then(|towards| {
            let mut candidates = globals().filter(|address| address.net.contains(&towards));
            candidates.find_map(|address| A::from_ip(address.net.addr()))
        });
        near.or_else(|| globals().find_map(|address| A::from_ip(address.net.addr())))
    }
}
