//! Calls on a diverted socket other than sending, which needs none of this: the pair carries datagrams as they are.
//!
//! In:  a call. Out: what a netlink socket would have answered. Ref: netlink(7).

use rustix::io::Errno;
use rustix::net::bind;
use rustix::net::netlink::SocketAddrNetlink;

use super::notification::Notification;
use super::relay::Diverted;
use super::{receive, target};
use crate::lvs_run::filter::Wish;
use crate::lvs_run::raw_calls;

/// `struct sockaddr_nl`: family, padding, port id, groups.
pub(super) const NAME_BYTES: usize = 12;
/// Longer values than any option of netlink has.
const OPTION_MAX_BYTES: usize = 64;

/// A netlink name as programs read it.
pub(super) fn name_bytes(port_id: u32, groups: u32) -> [u8; NAME_BYTES] {
    let family = u32::from((libc::AF_NETLINK as u16).to_le()).to_le_bytes();
    let mut bytes = [0; NAME_BYTES];
    let parts = [family, port_id.to_ne_bytes(), groups.to_ne_bytes()];
    for (room, part) in bytes.chunks_exact_mut(4).zip(parts) {
        room.copy_from_slice(&part);
    }
    bytes
}

/// Answers a call on a diverted socket.
pub(super) fn grant(wish: Wish, call: Notification, diverted: &std::rc::Rc<Diverted>) {
    let outcome = match wish {
        Wish::Bind => bind_as_wished(&call, diverted),
        // The kernel is where requests go anyway.
        Wish::Connect => Ok(()),
        Wish::SocketName => name(&call, diverted),
        Wish::SetOption => set_option(&call, diverted),
        Wish::GetOption => option(&call),
        Wish::ReceiveFrom | Wish::ReceiveMessage => return receive::start(wish, call),
        Wish::Socket | Wish::Open | Wish::OpenAt | Wish::Execute => return call.proceed(),
    };
    call.conclude(outcome);
}

fn bind_as_wished(call: &Notification, diverted: &Diverted) -> Result<(), Errno> {
    let mut name = [0; NAME_BYTES];
    call.memory()?.read(call.arguments[1], &mut name)?;
    let number = |from: usize| {
        name.get(from..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |word| u32::from_ne_bytes(*word))
    };
    let (port_id, groups) = (number(4), number(8));
    let bound = diverted.name().pid();
    // A signal may have taken back the same call after it was carried out.
    if bound != 0 && groups == 0 && (port_id == 0 || port_id == bound) {
        return Ok(());
    }
    bind(&diverted.kernel, &SocketAddrNetlink::new(port_id, groups))
}

/// Writes a value where a length says how much room there is, and the length it has.
pub(super) fn write_sized(call: &Notification, value: &[u8], address: u64, length_address: u64) -> Result<(), Errno> {
    let memory = call.memory()?;
    let mut room = [0; 4];
    memory.read(length_address, &mut room)?;
    let room = usize::try_from(u32::from_ne_bytes(room)).unwrap_or(usize::MAX);
    memory.write(address, value.get(..room).unwrap_or(value))?;
    let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    memory.write(length_address, &len.to_ne_bytes())
}

fn name(call: &Notification, diverted: &Diverted) -> Result<(), Errno> {
    let name = diverted.name();
    write_sized(
        call,
        &name_bytes(name.pid(), name.groups()),
        call.arguments[1],
        call.arguments[2],
    )
}

fn set_option(call: &Notification, diverted: &Diverted) -> Result<(), Errno> {
    let len = usize::try_from(call.arguments[4]).unwrap_or(usize::MAX);
    let mut value = vec![0; len.min(OPTION_MAX_BYTES)];
    call.memory()?.read(call.arguments[3], &mut value)?;
    raw_calls::set_netlink_option(&diverted.kernel, call.arguments[2] as i32, &value)
}

fn option(call: &Notification) -> Result<(), Errno> {
    let value = match (call.arguments[1] as i32, call.arguments[2] as i32) {
        (libc::SOL_SOCKET, libc::SO_DOMAIN) => libc::AF_NETLINK,
        (libc::SOL_SOCKET, libc::SO_PROTOCOL) => libc::NETLINK_GENERIC,
        (libc::SOL_SOCKET, libc::SO_TYPE) => libc::SOCK_RAW,
        _ => 0,
    };
    write_sized(call, &value.to_ne_bytes(), call.arguments[3], call.arguments[4])
}

/// A copy of the socket that the call is made on.
pub(super) fn theirs(call: &Notification) -> std::io::Result<std::os::fd::OwnedFd> {
    target::descriptor(call.thread, call.descriptor())
}
