//! Calls on a diverted socket, except sending: the pair carries datagrams without help.
//!
//! In:  a call. Out: the answer that a netlink socket would give. Ref: netlink(7).

use rustix::io::Errno;

use super::notification::Notification;
use super::relay::Diverted;
use super::{receive, target};
use crate::lvs_run::filter::Intercepted;
use crate::lvs_run::raw_calls;

/// `struct sockaddr_nl`: family, padding, port id, groups.
pub(super) const NAME_BYTES: usize = 12;
/// More bytes than the value of any netlink option has.
const OPTION_MAX_BYTES: usize = 64;

const NETLINK_CAP_ACK: i32 = 10;

/// The bytes of a netlink name.
pub(super) fn name_bytes(port_id: u32, groups: u32) -> [u8; NAME_BYTES] {
    let family = u32::from((libc::AF_NETLINK as u16).to_le()).to_le_bytes();
    let mut bytes = [0; NAME_BYTES];
    let parts = [family, port_id.to_ne_bytes(), groups.to_ne_bytes()];
    for (to, part) in bytes.chunks_exact_mut(4).zip(parts) {
        to.copy_from_slice(&part);
    }
    bytes
}

/// Answers a call on a diverted socket.
pub(super) fn answer(kind: Intercepted, call: Notification, diverted: &std::rc::Rc<Diverted>) {
    let outcome = match kind {
        Intercepted::Bind => bind_kernel_socket(&call, diverted),
        // Requests go to the kernel anyway.
        Intercepted::Connect => Ok(()),
        Intercepted::SocketName => name(&call, diverted),
        // The kernel is the peer of every netlink socket.
        Intercepted::PeerName => write_sized(&call, &name_bytes(0, 0), call.arguments[1], call.arguments[2]),
        Intercepted::Shutdown => Err(Errno::OPNOTSUPP),
        // Buffer sizes and timeouts are those of the program's end. Of 32-bit programs the filter sees no levels.
        Intercepted::SetOption if call.int(1) != libc::SOL_NETLINK => return call.proceed(),
        Intercepted::GetOption if !is_of_netlink(&call) => return call.proceed(),
        Intercepted::SetOption => set_option(&call, diverted),
        Intercepted::GetOption => option(&call, diverted),
        Intercepted::ReceiveFrom | Intercepted::ReceiveMessage | Intercepted::ReceiveMessages => {
            return receive::start(kind, call);
        }
        _ => return call.proceed(),
    };
    call.conclude(outcome);
}

fn bind_kernel_socket(call: &Notification, diverted: &Diverted) -> Result<(), Errno> {
    let mut name = [0; NAME_BYTES];
    call.memory()?.read(call.arguments[1], &mut name)?;
    let number = |from: usize| {
        name.get(from..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |word| u32::from_ne_bytes(*word))
    };
    let (port_id, groups) = (number(4), number(8));
    let bound = diverted.name().pid();
    // The program repeats a call that a signal interrupted, and the first attempt may have succeeded.
    if bound != 0 && groups == 0 && (port_id == 0 || port_id == bound) {
        return Ok(());
    }
    diverted.bind(port_id, groups)
}

/// Writes a value and its length. The length in memory says how many bytes fit.
pub(super) fn write_sized(call: &Notification, value: &[u8], address: u64, length_address: u64) -> Result<(), Errno> {
    let memory = call.memory()?;
    let mut capacity = [0; 4];
    memory.read(length_address, &mut capacity)?;
    let capacity = usize::try_from(u32::from_ne_bytes(capacity)).unwrap_or(usize::MAX);
    memory.write(address, value.get(..capacity).unwrap_or(value))?;
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
    raw_calls::set_netlink_option(&diverted.kernel, call.int(2), &value)?;
    if call.int(2) == NETLINK_CAP_ACK {
        diverted.caps_errors.set(value.iter().any(|byte| *byte != 0));
    }
    Ok(())
}

/// Whether a netlink socket answers the option otherwise than the program's end would.
fn is_of_netlink(call: &Notification) -> bool {
    match call.int(1) {
        libc::SOL_NETLINK => true,
        libc::SOL_SOCKET => matches!(call.int(2), libc::SO_DOMAIN | libc::SO_PROTOCOL | libc::SO_TYPE),
        _ => false,
    }
}

fn option(call: &Notification, diverted: &Diverted) -> Result<(), Errno> {
    let value = match (call.int(1), call.int(2)) {
        (libc::SOL_SOCKET, libc::SO_DOMAIN) => libc::AF_NETLINK,
        (libc::SOL_SOCKET, libc::SO_PROTOCOL) => libc::NETLINK_GENERIC,
        (libc::SOL_SOCKET, libc::SO_TYPE) => diverted.kind,
        (_, option) => return kernel_option(call, diverted, option),
    };
    write_sized(call, &value.to_ne_bytes(), call.arguments[3], call.arguments[4])
}

/// An option of netlink, as the kernel's socket has it.
fn kernel_option(call: &Notification, diverted: &Diverted, option: i32) -> Result<(), Errno> {
    let mut capacity = [0; 4];
    call.memory()?.read(call.arguments[4], &mut capacity)?;
    let capacity = usize::try_from(i32::from_ne_bytes(capacity)).map_err(|_| Errno::INVAL)?;
    let mut value = vec![0; capacity.min(OPTION_MAX_BYTES)];
    let len = raw_calls::netlink_option(&diverted.kernel, option, &mut value)?;
    let memory = call.memory()?;
    memory.write(call.arguments[3], value.get(..len).unwrap_or(&value))?;
    memory.write(call.arguments[4], &u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes())
}

/// A copy of the call's socket.
pub(super) fn theirs(call: &Notification) -> std::io::Result<std::os::fd::OwnedFd> {
    target::descriptor(call.thread, call.descriptor())
}
