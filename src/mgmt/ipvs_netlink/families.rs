//! The families of generic netlink: the host kernel's, and IPVS, which is lvsd's.
//!
//! In:  nothing. Out: the messages of a dump. The kernel answers such a question at once, so nothing waits here.
//! Never: lists the kernel's own IPVS.

use std::os::fd::AsRawFd;

use lvs_api::netlink::{Addressee, Messages, ask_families, family, family_of_kernel};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Bytes of a datagram of the kernel's at most.
const DATAGRAM_BYTES: usize = 64 << 10;
/// Datagrams of a dump at most. A kernel has some dozens of families, a few to a datagram.
const DATAGRAMS_MAX: usize = 256;
/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ENDS: [u16; 2] = [2, 3];

/// All families, IPVS last. Where the kernel does not answer, IPVS alone.
pub fn all(to: Addressee) -> Vec<Vec<u8>> {
    let mut families = Vec::new();
    if let Err(errno) = of_kernel(to, &mut families) {
        log::debug!("generic netlink: the kernel lists no families: {errno}");
    }
    families.push(family(to));
    families
}

fn of_kernel(to: Addressee, families: &mut Vec<Vec<u8>>) -> nix::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let kernel = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags,
        SockProtocol::NetlinkGeneric,
    )?;
    send(kernel.as_raw_fd(), &ask_families(), MsgFlags::empty())?;
    let mut buffer = vec![0; DATAGRAM_BYTES];
    for _ in 0..DATAGRAMS_MAX {
        let len = recv(kernel.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for message in Messages::new(buffer.get(..len).unwrap_or_default()) {
            if ENDS.contains(&message.kind) {
                return Ok(());
            }
            families.extend(family_of_kernel(to, &message));
        }
    }
    Ok(())
}
