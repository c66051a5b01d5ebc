//! An interface of the director: a device's kernel twin, or what stands on it: a VLAN, a macvlan.
//!
//! In:  name, MAC, MTU and addresses as the kernel has them.
//! Out: the address from which the director sends.
//! Never: handles frames. A VLAN is a (device, id) pair here and a tag in `path/forward/ethernet`.
//! Ref:  Linux net/ipv4/devinet.c `inet_select_addr`.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::address::Address;
use crate::l3::DeviceId;
use crate::l3::fib::Vrf;

/// The kernel's index of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceId(pub u32);

impl InterfaceId {
    /// No interface has this index.
    pub const NONE: Self = Self(0);
    /// The loopback interface of every network namespace (`LOOPBACK_IFINDEX`).
    pub const LOOPBACK: Self = Self(1);

    /// The index that an interface gets where no kernel gives it one.
    pub const fn of(device: DeviceId, vlan: u16) -> Self {
        Self(1 << 24 | (device.0 as u32) << 12 | vlan as u32)
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's index of it.
    pub id: InterfaceId,
    /// The device whose frames it sends and receives.
    pub device: DeviceId,
    /// 802.1Q VLAN id, 1 to 4094; 0 for the untagged interface.
    pub vlan: u16,
    /// Whether it has its MAC address beside the interface of the same device and VLAN (`ip link … type macvlan`).
    pub is_macvlan: bool,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// The kernel's name for it.
    pub name: String,
    /// The VRF that it belongs to.
    pub vrf: Option<Vrf>,
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
            id: InterfaceId::of(device, vlan),
            device,
            vlan,
            is_macvlan: false,
            mac,
            mtu,
            name: name.to_owned(),
            vrf: None,
            addresses: Vec::new(),
        }
    }

    /// Whether it is a device's kernel twin itself.
    pub const fn is_twin(&self) -> bool {
        self.vlan == 0 && !self.is_macvlan
    }

    /// The address of family `A` that the director has towards `dst`, by the router `gateway` if there is one: of
    /// IPv4 the first one in the router's network, otherwise the first one (`inet_select_addr`); of IPv6 the one with
    /// the longest prefix in common with `dst` (`ipv6_dev_get_saddr`).
    pub(super) fn source_address<A: Address>(&self, dst: Option<IpAddr>, gateway: Option<IpAddr>) -> Option<A> {
        let globals = || self.addresses.iter().filter(|address| address.global);
        let of_family = |address: &InterfaceAddress| A::from_ip(address.net.addr());
        match dst {
            Some(IpAddr::V6(dst)) => {
                let common = |address: &&InterfaceAddress| match address.net {
                    IpNet::V6(net) => {
                        let common = (net.addr().to_bits() ^ dst.to_bits()).leading_zeros() as u8;
                        common.min(net.prefix_len())
                    }
                    IpNet::V4(_) => 0,
                };
                // Of equal ones the first.
                let candidates = globals().filter(|address| of_family(address).is_some());
                candidates.rev().max_by_key(common).and_then(of_family)
            }
            _ => {
                let near = gateway.and_then(|gateway| {
                    let mut candidates = globals().filter(|address| address.net.contains(&gateway));
                    candidates.find_map(of_family)
                });
                near.or_else(|| globals().find_map(of_family))
            }
        }
    }
}
