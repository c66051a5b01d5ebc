//! What the kernel's stack is set to do with packets that it receives: reverse-path filters and forwarding.
//!
//! In:  `rp_filter`, `forwarding` and `accept_local` of interfaces, which a packet of a connection is held to like any
//!      other.
//! Out: whether a source may send by an interface ([`L3::accepts_source`]); whether an interface forwards.
//! Never: judges addresses that no packet may come from; that is admission's.
//! Ref:  RFC 3704; Linux net/ipv4/fib_frontend.c `__fib_validate_source`, net/ipv4/route.c `ip_route_input_slow`,
//!       net/ipv6/ip6_output.c `ip6_forward`.

use crate::address::AddressFamily;
use crate::l3::fib::{Decision, RouteQuery};
use crate::l3::{DeviceId, InterfaceId, Known, L3};
use crate::limits::DEVICES_MAX;

/// `rp_filter` of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReversePath {
    /// Nothing is asked.
    #[default]
    Off,
    /// Packets to the source must leave by the interface that received it.
    Strict,
    /// The source must have a route.
    Loose,
}

impl ReversePath {
    /// As the kernel reads the numbers of `all` and of the interface: the higher one counts.
    pub fn of(all: u8, interface: u8) -> Self {
        match all.max(interface) {
            0 => Self::Off,
            1 => Self::Strict,
            _ => Self::Loose,
        }
    }
}

/// The settings of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackInterface {
    /// See [`crate::l3::Interface::id`].
    pub interface: InterfaceId,
    /// `net.ipv4.conf.*.rp_filter`.
    pub reverse_path: ReversePath,
    /// `net.ipv4.conf.*.forwarding`.
    pub forwards_v4: bool,
    /// `net.ipv4.conf.*.accept_local`: whether it takes packets from addresses of the machine itself.
    pub accepts_local: bool,
}

/// The settings of all. An interface that is not listed forwards and filters nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// By interface.
    pub interfaces: Vec<StackInterface>,
    /// `net.ipv6.conf.all.forwarding`.
    pub forwards_v6: bool,
}

impl Default for Stack {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            forwards_v6: true,
        }
    }
}

impl Stack {
    fn interface(&self, id: InterfaceId) -> Option<&StackInterface> {
        self.interfaces.iter().find(|known| known.interface == id)
    }

    /// The reverse-path filter of an interface.
    pub fn reverse_path(&self, id: InterfaceId) -> ReversePath {
        self.interface(id).map_or(ReversePath::Off, |known| known.reverse_path)
    }

    /// Whether the stack forwards what an interface receives.
    pub fn forwards(&self, family: AddressFamily, id: InterfaceId) -> bool {
        match family {
            AddressFamily::Ipv4 => self.interface(id).is_none_or(|known| known.forwards_v4),
            AddressFamily::Ipv6 => self.forwards_v6,
        }
    }

    /// Whether the stack forwards what an interface receives from an address of the machine itself. Of IPv4 the kernel
    /// takes such packets only if `accept_local` says so. Under a strict filter it takes them only by the interface that
    /// has the address, which does not count here (`__fib_validate_source`).
    pub fn forwards_own(&self, family: AddressFamily, id: InterfaceId) -> bool {
        let takes = match family {
            AddressFamily::Ipv4 => self
                .interface(id)
                .is_some_and(|known| known.accepts_local && known.reverse_path != ReversePath::Strict),
            AddressFamily::Ipv6 => true,
        };
        takes && self.forwards(family, id)
    }

    /// Whether it is set to do anything else than to forward what comes.
    pub fn is_plain(&self) -> bool {
        let plain = |one: &StackInterface| one.reverse_path == ReversePath::Off && one.forwards_v4;
        self.forwards_v6 && self.interfaces.iter().all(plain)
    }
}

/// What has to be looked at for frames of one device.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StackChecks {
    /// Anything.
    pub(crate) is_any: bool,
    /// Packets must come by the interface by which their source is reached. Of what stands untagged on the device;
    /// tagged frames are looked at anew.
    pub(crate) is_strict: bool,
}

impl L3 {
    /// Takes what the kernel's stack is set to do with packets that it receives.
    pub fn set_stack(&mut self, stack: Stack) {
        let is_any = !stack.is_plain();
        self.stack_checks = [StackChecks {
            is_any,
            is_strict: false,
        }; DEVICES_MAX];
        for Known { interface, .. } in self.interfaces.iter().filter(|known| known.interface.vlan == 0) {
            if let Some(checks) = self.stack_checks.get_mut(usize::from(interface.device.0)) {
                checks.is_strict |= stack.reverse_path(interface.id) == ReversePath::Strict;
            }
        }
        self.stack = stack;
    }

    /// What has to be looked at for frames of `device`.
    #[inline]
    pub(crate) fn stack_checks(&self, device: DeviceId) -> StackChecks {
        self.stack_checks
            .get(usize::from(device.0))
            .copied()
            .unwrap_or_default()
    }

    /// Whether the stack takes a packet that `received` asks a route for, by the interface that it came by. IPv6 has no
    /// such filter.
    pub fn accepts_source(&self, received: &RouteQuery) -> bool {
        let filter = self.stack.reverse_path(received.iif);
        let (ReversePath::Strict | ReversePath::Loose, Some(src)) = (filter, received.src) else {
            return true;
        };
        if src.is_ipv6() {
            return true;
        }
        let back = RouteQuery {
            dst: src,
            src: Some(received.dst),
            iif: InterfaceId::LOOPBACK,
            ports: (received.ports.1, received.ports.0),
            ..*received
        };
        match self.decide(&back) {
            // Admission judges packets from own addresses; what is not followed cannot be judged.
            Decision::Local | Decision::Unfollowed => true,
            Decision::Broadcast
            | Decision::NoRoute
            | Decision::Unreachable
            | Decision::Prohibit
            | Decision::Blackhole => false,
            Decision::Forward { leg, .. } => {
                let mut paths = self.fib.paths(leg);
                // An interface without addresses is asked for the same interface whatever is set.
                paths.any(|path| path.interface == received.iif)
                    || filter == ReversePath::Loose && self.has_address(received.iif)
            }
        }
    }

    /// Whether the stack forwards what this interface receives.
    pub fn forwards(&self, family: AddressFamily, id: InterfaceId) -> bool {
        self.stack.forwards(family, id)
    }

    /// Whether the stack forwards what this interface receives from an address of the machine itself.
    pub fn forwards_own(&self, family: AddressFamily, id: InterfaceId) -> bool {
        self.stack.forwards_own(family, id)
    }

    fn has_address(&self, id: InterfaceId) -> bool {
        self.known(id).is_some_and(|known| {
            let mut addresses = known.interface.addresses.iter();
            addresses.any(|address| address.net.addr().is_ipv4())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l3::RouteKind;
    use crate::testing::network::{LAN, WAN, network};

    #[test]
    fn the_higher_number_of_all_and_of_the_interface_counts() {
        use ReversePath::{Loose, Off, Strict};
        let cases = [
            (0, 0, Off),
            (1, 0, Strict),
            (0, 1, Strict),
            (2, 1, Loose),
            (1, 2, Loose),
            (0, 2, Loose),
        ];
        for (all, own, expected) in cases {
            assert_eq!(ReversePath::of(all, own), expected, "{all} {own}");
        }
    }

    #[test]
    fn a_source_must_be_behind_the_interface_if_strict_and_reachable_if_loose() {
        let mut builder = network();
        for (prefix, kind) in [
            ("203.0.113.0/24", RouteKind::Unreachable),
            ("233.252.0.0/24", RouteKind::Blackhole),
        ] {
            builder.route(prefix.parse().unwrap(), kind);
        }
        let mut l3 = builder.build(1);
        let mut accepts = |reverse_path, src: [u8; 4], device| {
            let interface = InterfaceId::of(device, 0);
            l3.stack.interfaces = vec![StackInterface {
                interface,
                reverse_path,
                forwards_v4: true,
                accepts_local: false,
            }];
            let query = RouteQuery::output([203, 0, 113, 99].into()).from(src.into());
            l3.accepts_source(&RouteQuery {
                iif: interface,
                ..query
            })
        };
        for (src, device, strict, loose) in [
            ([192, 0, 2, 7], WAN, true, true),
            ([8, 8, 8, 8], WAN, true, true),
            ([8, 8, 8, 8], LAN, false, true),
            ([198, 51, 100, 11], WAN, false, true),
            ([198, 51, 100, 11], LAN, true, true),
            ([203, 0, 113, 1], WAN, false, false),
            ([233, 252, 0, 1], LAN, false, false),
        ] {
            assert!(accepts(ReversePath::Off, src, device));
            assert_eq!(
                accepts(ReversePath::Strict, src, device),
                strict,
                "{src:?} by {device:?}"
            );
            assert_eq!(accepts(ReversePath::Loose, src, device), loose, "{src:?} by {device:?}");
        }
    }
}
