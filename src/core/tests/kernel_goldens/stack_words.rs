//! The kernel's settings of reverse-path filters and forwarding, as recordings change them.

use std::collections::HashMap;

use lvs_core::l3::{L3, ReversePath, Stack, StackInterface};

/// Settings of the stack, by their names in `/proc/sys`.
#[derive(Default)]
pub struct StackWords {
    filter_of_all: u8,
    filters: HashMap<String, u8>,
    is_forwarding_off: bool,
    forwarding: HashMap<String, bool>,
    is_v6_forwarding_off: bool,
}

impl StackWords {
    /// Whether the setting is one of these.
    pub fn set(&mut self, name: &str, value: &str) -> bool {
        let Ok(value) = value.parse::<u8>() else {
            return false;
        };
        let name = name.replace('/', ".");
        match &*name {
            "net.ipv4.ip_forward" | "net.ipv4.conf.all.forwarding" => {
                self.is_forwarding_off = value == 0;
                self.forwarding.clear();
            }
            "net.ipv6.conf.all.forwarding" => self.is_v6_forwarding_off = value == 0,
            "net.ipv4.conf.all.rp_filter" => self.filter_of_all = value,
            _ => {
                let words = name.strip_prefix("net.ipv4.conf.");
                match words.and_then(|words| words.rsplit_once('.')) {
                    Some((interface, "rp_filter")) => self.filters.insert(interface.to_owned(), value).is_some(),
                    Some((interface, "forwarding")) => {
                        self.forwarding.insert(interface.to_owned(), value != 0).is_some()
                    }
                    _ => return false,
                };
            }
        }
        true
    }

    /// As the director's L3 has them.
    pub fn stack(&self, l3: &L3) -> Stack {
        let interfaces = l3.interfaces().map(|interface| StackInterface {
            interface: interface.id,
            reverse_path: ReversePath::of(self.filter_of_all, self.filter_of(&interface.name)),
            forwards_v4: *self.forwarding.get(&interface.name).unwrap_or(&!self.is_forwarding_off),
            accepts_local: false,
        });
        Stack {
            interfaces: interfaces.collect(),
            forwards_v6: !self.is_v6_forwarding_off,
        }
    }

    /// Interfaces that are made later begin with the setting of `default`.
    fn filter_of(&self, interface: &str) -> u8 {
        let is_first = ["eth0", "eth1"].contains(&interface);
        let default = self.filters.get("default").filter(|_| !is_first);
        *self.filters.get(interface).or(default).unwrap_or(&0)
    }
}
