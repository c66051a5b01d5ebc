//! Reverse-path filters and forwarding as this namespace's kernel is set, and when they change.
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
    let of = |interface: &Interface| {
        let name = &interface.name;
        StackInterface {
            interface: interface.id,
            reverse_path: ReversePath::of(all_filter, setting(&format!("ipv4/conf/{name}/rp_filter")).unwrap_or(0)),
            forwards_v4: setting(&format!("ipv4/conf/{name}/forwarding")) != Some(0),
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
