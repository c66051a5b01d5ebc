//! Lets frames into the NICs for every MAC address that the kernel has on their twins: of macvlans, VLAN interfaces and
//! VRRP.
//!
//! In:  each new [`L3`]. Out: the devices' filters; a device without enough of them becomes promiscuous, with a line in
//! the log.
//! Never: takes the device's own address away.

use std::collections::BTreeSet;

use lvs_core::l3::{DeviceId, L3};

use crate::dpdk::device::Device;

/// What a device can do about its filters.
pub trait Filters {
    /// Its name.
    fn name(&self) -> &str;

    /// See [`crate::dpdk::device::Device::filter_mac`].
    fn filter_mac(&self, mac: [u8; 6], is_wanted: bool) -> bool;

    /// See [`crate::dpdk::device::Device::receive_everything`].
    fn receive_everything(&self) -> bool;
}

impl Filters for Device {
    fn name(&self) -> &str {
        self.name()
    }

    fn filter_mac(&self, mac: [u8; 6], is_wanted: bool) -> bool {
        self.filter_mac(mac, is_wanted)
    }

    fn receive_everything(&self) -> bool {
        self.receive_everything()
    }
}

/// What one device lets in.
#[derive(Debug, Default)]
struct Known {
    macs: BTreeSet<[u8; 6]>,
    /// Its filters were not enough.
    is_promiscuous: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct MacFilters(Vec<Known>);

impl MacFilters {
    /// Brings the filters of `devices`, which are in the order of their ids, to what `l3` needs.
    pub fn follow<'d>(&mut self, devices: impl Iterator<Item = &'d (impl Filters + 'd)>, l3: &L3) {
        for (number, device) in devices.enumerate() {
            if self.0.len() == number {
                self.0.push(Known::default());
            }
            if let Some(known) = self.0.get_mut(number) {
                let macs = l3.macs(DeviceId(number as u8));
                known.follow(device, macs.into_iter().skip(1).collect());
            }
        }
    }
}

impl Known {
    fn follow(&mut self, device: &impl Filters, wanted: BTreeSet<[u8; 6]>) {
        for &mac in self.macs.difference(&wanted) {
            // One that stays lets in what the path drops.
            device.filter_mac(mac, false);
        }
        for &mac in wanted.difference(&self.macs) {
            if self.is_promiscuous || device.filter_mac(mac, true) {
                continue;
            }
            let name = device.name();
            self.is_promiscuous = true;
            if device.receive_everything() {
                log::info!("device \"{name}\" cannot filter another MAC address; it receives all frames from now on");
            } else {
                log::warn!(
                    "device \"{name}\" can neither filter another MAC address nor receive all frames; what is sent to the \
                     kernel's other addresses on it may not arrive: set promiscuous = true for it, or use another driver"
                );
            }
        }
        self.macs = wanted;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use lvs_core::l3::{Interface, InterfaceId, L3Builder};

    use super::*;

    /// A device with places for two more addresses.
    #[derive(Default)]
    struct Nic {
        macs: RefCell<Vec<[u8; 6]>>,
        is_promiscuous: RefCell<bool>,
    }

    impl Filters for Nic {
        fn name(&self) -> &str {
            "wan"
        }

        fn filter_mac(&self, mac: [u8; 6], is_wanted: bool) -> bool {
            let mut macs = self.macs.borrow_mut();
            macs.retain(|known| *known != mac);
            if is_wanted && macs.len() == 2 {
                return false;
            }
            macs.extend(is_wanted.then_some(mac));
            true
        }

        fn receive_everything(&self) -> bool {
            *self.is_promiscuous.borrow_mut() = true;
            true
        }
    }

    fn l3(macs: &[u8]) -> L3 {
        let mut builder = L3Builder::new();
        builder.interface(Interface::new(DeviceId(0), 0, [2, 0, 0, 0, 0, 1], 1_500, "wan"));
        for &mac in macs {
            let mut vrrp = Interface::new(DeviceId(0), 0, [0, 0, 0x5E, 0, 1, mac], 1_500, "vrrp");
            (vrrp.id, vrrp.is_macvlan) = (InterfaceId(100 + u32::from(mac)), true);
            builder.interface(vrrp);
        }
        builder.build(1)
    }

    #[test]
    fn virtual_addresses_come_and_go_and_one_too_many_opens_the_device() {
        let (nic, mut filters) = (Nic::default(), MacFilters::default());
        let mut follow = |macs: &[u8]| {
            filters.follow(std::iter::once(&nic), &l3(macs));
            (nic.macs.borrow().len(), *nic.is_promiscuous.borrow())
        };
        assert_eq!(follow(&[]), (0, false));
        assert_eq!(follow(&[51, 52]), (2, false));
        assert_eq!(follow(&[52]), (1, false));
        assert_eq!(follow(&[52, 53]), (2, false));
        assert_eq!(follow(&[52, 53, 54]), (2, true));
        assert_eq!(follow(&[]), (0, true));
    }
}
