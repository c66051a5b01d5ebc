//! Reverse-path filters, forwarding and the like as this namespace's kernel is set, and when they change.
//!
//! In:  the interfaces of the mirror; `/proc/sys/net`; netlink's notices of network settings.
//! Out: the [`Stack`] of an L3.
//! Never: reads the notices: they say that something changed, the files say what it is now.
//! Ref:  Linux net/ipv4/devinet.c `devinet_conf_proc`, net/ipv6/addrconf.c `addrconf_sysctl_forward`.

use std::io;
use std::str::FromStr;

use lvs_core::l3::{Interface, ReversePath, Stack, StackInterface};
use nix::libc::{RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

/// As bits.
const GROUPS: u32 = 1 << (RTNLGRP_IPV4_NETCONF - 1) | 1 << (RTNLGRP_IPV6_NETCONF - 1);

/// Hears of changes.
pub(super) struct StackWatch(TokioSocket);

impl std::fmt::Debug for StackWatch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("StackWatch")
    }
}

impl StackWatch {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind(&SocketAddr::new(0, GROUPS))?;
        Ok(Self(socket))
    }

    /// Waits for a notice. A lost one is as good as one that came.
    pub(super) async fn changed(&mut self) {
        let _ = self.0.recv_from_full().await;
    }
}

/// What is set now. A file that cannot be read is an interface that has gone.
pub(super) fn read<'a>(interfaces: impl IntoIterator<Item = &'a Interface>) -> Stack {
    let all_filter = setting("ipv4/conf/all/rp_filter").unwrap_or(0);
    let all_accepts = setting::<u8>("ipv4/conf/all/accept_local");
    let of = |interface: &Interface| {
        let name = &interface.name;
        StackInterface {
            interface: interface.id,
            reverse_path: ReversePath::of(all_filter, setting(&format!("ipv4/conf/{name}/rp_filter")).unwrap_or(0)),
            forwards_v4: setting(&format!("ipv4/conf/{name}/forwarding")) != Some(0),
            accepts_local: [all_accepts, setting(&format!("ipv4/conf/{name}/accept_local"))].contains(&Some(1)),
        }
    };
    Stack {
        interfaces: interfaces.into_iter().map(of).collect(),
        forwards_v6: setting("ipv6/conf/all/forwarding") != Some(0),
    }
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = std::fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::{File, read_to_string, write};
    use std::io::Write;

    use lvs_core::address::AddressFamily;
    use lvs_core::l3::{DeviceId, InterfaceId};
    use lvs_core::testing::{udp4, udp6};

    use super::*;
    use crate::mgmt::namespace::{add_ipv6_address, in_namespace, ip};
    use crate::mgmt::twin;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0x11, 0x22];

    /// How many packets this namespace has forwarded.
    fn forwarded() -> (u64, u64) {
        let v4 = read_to_string("/proc/thread-self/net/snmp").unwrap();
        let mut v4 = v4.lines().filter(|line| line.starts_with("Ip:"));
        let (names, values) = (v4.next().unwrap(), v4.next().unwrap());
        let place = names.split(' ').position(|name| name == "ForwDatagrams").unwrap();
        let v6 = read_to_string("/proc/thread-self/net/snmp6").unwrap();
        let v6 = v6.lines().find(|line| line.starts_with("Ip6OutForwDatagrams")).unwrap();
        let number = |text: Option<&str>| text.unwrap().parse().unwrap();
        (
            number(values.split(' ').nth(place)),
            number(v6.split_whitespace().nth(1)),
        )
    }

    fn set(name: &str, value: u8) {
        write(format!("/proc/sys/net/{name}"), value.to_string()).unwrap();
    }

    #[test]
    fn the_kernel_forwards_packets_from_its_own_addresses_when_it_is_said_to() {
        in_namespace(|| {
            let twin = twin::open_alone(DeviceId(0), "lan", MAC, 1_500).unwrap();
            ip("addr add 192.0.2.1/24 dev lan");
            ip("link add out type veth peer name far");
            ip("link set far up");
            ip("link set out up");
            ip("addr add 198.51.100.1/24 dev out");
            ip("neigh add 198.51.100.2 lladdr 02:00:00:00:00:02 dev out nud permanent");
            add_ipv6_address("2001:db8:5::1/64", "out");
            ip("neigh add 2001:db8:5::2 lladdr 02:00:00:00:00:02 dev out nud permanent");
            ip("addr add 203.0.113.80/32 dev lo");
            add_ipv6_address("2001:db8:80::1/128", "lo");
            let frames = [
                udp4("203.0.113.80:53 > 198.51.100.2:1000").dst_mac(MAC).build(),
                udp6("[2001:db8:80::1]:53 > [2001:db8:5::2]:1000").dst_mac(MAC).build(),
            ];
            let id = InterfaceId(twin.ifindex);
            let mut interface = Interface::new(DeviceId(0), 0, MAC, 1_500, "lan");
            interface.id = id;
            let mut wire = File::from(twin.fd);
            set("ipv4/conf/all/rp_filter", 0);
            for case in 0..12_u8 {
                let (filter, accepts, forwards) = (case % 3, case / 3 % 2, case / 6);
                set("ipv4/conf/all/forwarding", forwards);
                set("ipv6/conf/all/forwarding", forwards);
                set("ipv4/conf/lan/rp_filter", filter);
                set("ipv4/conf/lan/accept_local", accepts);
                let stack = read([&interface]);
                let before = forwarded();
                for frame in &frames {
                    wire.write_all(frame).unwrap();
                }
                let after = forwarded();
                let expected = [AddressFamily::Ipv4, AddressFamily::Ipv6].map(|family| stack.forwards_own(family, id));
                let seen = [after.0 > before.0, after.1 > before.1];
                assert_eq!(
                    seen, expected,
                    "rp_filter {filter}, accept_local {accepts}, forwarding {forwards}"
                );
            }
        });
    }
}
