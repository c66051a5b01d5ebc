//! Sending and receiving. A send finds a socket for IPVS and diverts it to lvsd.
//!
//! A send never fails, because keepalived takes a failed send for success. A receive on a dead or silent connection returns
//! an error message for the pending request and never an end of file, after which keepalived would ask for ever.

use core::ffi::{c_int, c_void};
use core::mem::{size_of, zeroed};
use core::ptr::null_mut;
use core::slice;
use core::sync::atomic::Ordering;

use libc::{iovec, msghdr, size_t, sockaddr, sockaddr_nl, socklen_t, ssize_t};

use crate::connection::{disconnect, divert, may_have_port_id, number_option, rename, return_to_kernel};
use crate::netlink::{HEAD_BYTES, begin, is_for_another, is_ours, note_answer};
use crate::next::{errno, set_errno};
use crate::tracked::{self, Tracked};
use crate::{next, settings};

/// The pieces of a message.
///
/// # Safety
/// `message` is a valid msghdr whose pieces are valid.
unsafe fn pieces<'message>(message: *const msghdr) -> &'message [iovec] {
    // SAFETY: the caller vouches for the struct.
    let (first, count) = unsafe { ((*message).msg_iov, (*message).msg_iovlen) };
    // musl keeps 32 bits and padding here.
    let count = count as u32 as usize;
    if first.is_null() {
        return &[];
    }
    // SAFETY: the caller vouches for so many pieces.
    unsafe { slice::from_raw_parts(first, count) }
}

/// The first bytes of a message.
///
/// # Safety
/// As for [`pieces`], and the pieces' memory is readable.
unsafe fn head(message: *const msghdr, head: &mut [u8; HEAD_BYTES]) -> usize {
    let mut free = head.iter_mut();
    let mut count = 0;
    // SAFETY: the caller vouches for it.
    for piece in unsafe { pieces(message) } {
        if piece.iov_base.is_null() {
            continue;
        }
        // SAFETY: the caller vouches for the piece.
        let bytes = unsafe { slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len) };
        for (from, to) in bytes.iter().zip(free.by_ref()) {
            *to = *from;
            count += 1;
        }
    }
    count
}

fn is_generic_netlink(fd: c_int) -> bool {
    number_option(fd, libc::SO_DOMAIN) == Some(libc::AF_NETLINK)
        && number_option(fd, libc::SO_PROTOCOL) == Some(libc::NETLINK_GENERIC)
}

/// The port id the kernel gave the socket.
fn port_id(fd: c_int) -> u32 {
    // SAFETY: all zeros is a valid sockaddr_nl.
    let mut name: sockaddr_nl = unsafe { zeroed() };
    let mut len = size_of::<sockaddr_nl>() as socklen_t;
    // SAFETY: the name is a sockaddr_nl of that length.
    let failed = unsafe { next::getsockname(fd, (&raw mut name).cast(), &raw mut len) } != 0;
    if failed || name.nl_pid == 0 {
        // SAFETY: asks for the process id.
        return unsafe { libc::getpid() } as u32;
    }
    name.nl_pid
}

/// Sends a message to the daemon if it is a request for IPVS. `None` when it is for the kernel.
///
/// # Safety
/// As for sendmsg.
pub(crate) unsafe fn request(fd: c_int, message: *const msghdr) -> Option<ssize_t> {
    let mut bytes = [0; HEAD_BYTES];
    // SAFETY: sendmsg's contract.
    let count = unsafe { head(message, &mut bytes) };
    let head = bytes.get(..count)?;
    let entry = match tracked::find(fd) {
        // Nothing is no message, and for the daemon it would be the end.
        Some(_) if head.is_empty() => return Some(0),
        Some(entry) if is_for_another(head) && return_to_kernel(fd, entry) => return None,
        Some(entry) => entry,
        None if is_ours(head) && settings::enabled() && is_generic_netlink(fd) => {
            let kind = number_option(fd, libc::SO_TYPE).unwrap_or(libc::SOCK_RAW);
            tracked::remember(port_id(fd), kind)?
        }
        None => return None,
    };
    let before = errno();
    entry.bound.store(true, Ordering::Relaxed);
    begin(entry, head);
    let was_alive = !entry.dead.load(Ordering::Acquire);
    // SAFETY: sendmsg's contract, twice.
    let sent = unsafe { (was_alive && transmit(fd, message)) || (divert(fd, entry) && transmit(fd, message)) };
    if !sent {
        disconnect(fd, entry);
    }
    set_errno(before);
    // SAFETY: sendmsg's contract.
    let len = unsafe { pieces(message) }
        .iter()
        .fold(0_usize, |sum, piece| sum.saturating_add(piece.iov_len));
    Some(ssize_t::try_from(len).unwrap_or(ssize_t::MAX))
}

/// Sends the message. Returns whether the daemon got it.
///
/// # Safety
/// As for sendmsg.
unsafe fn transmit(fd: c_int, message: *const msghdr) -> bool {
    loop {
        // SAFETY: a shallow copy of a valid struct.
        let mut bare = unsafe { *message };
        bare.msg_name = null_mut();
        bare.msg_namelen = 0;
        bare.msg_control = null_mut();
        bare.msg_controllen = 0;
        // SAFETY: the copy is valid where the original is.
        if unsafe { next::sendmsg(fd, &raw const bare, libc::MSG_NOSIGNAL) } >= 0 {
            return true;
        }
        if errno() != libc::EINTR {
            return false;
        }
    }
}

fn is_nonblocking(fd: c_int, flags: c_int) -> bool {
    // SAFETY: reads flags of a descriptor.
    let status = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags & libc::MSG_DONTWAIT != 0 || (status >= 0 && status & libc::O_NONBLOCK != 0)
}

/// What to do after a receive without data.
enum NoData {
    Retry,
    Disconnect,
    Return,
}

fn after_no_data(fd: c_int, entry: &Tracked, result: ssize_t, flags: c_int) -> NoData {
    if result == 0 {
        return NoData::Disconnect;
    }
    match errno() {
        libc::EAGAIN if is_nonblocking(fd, flags) => NoData::Return,
        // No request is pending. A netlink socket would continue to wait.
        libc::EAGAIN if !entry.waiting.load(Ordering::Acquire) => NoData::Retry,
        libc::EAGAIN | libc::ECONNRESET | libc::ENOTCONN | libc::EPIPE => NoData::Disconnect,
        _ => NoData::Return,
    }
}

/// Receives from the daemon as if from the kernel.
///
/// # Safety
/// As for recvmsg.
pub(crate) unsafe fn answer(fd: c_int, entry: &Tracked, message: *mut msghdr, flags: c_int) -> ssize_t {
    let before = errno();
    // SAFETY: recvmsg's contract.
    let (name, name_len, control_len) =
        unsafe { ((*message).msg_name, (*message).msg_namelen, (*message).msg_controllen) };
    // SAFETY: recvmsg's contract.
    let capacity = unsafe { pieces(message) }
        .iter()
        .fold(0_usize, |sum, piece| sum.saturating_add(piece.iov_len));
    let result = loop {
        // SAFETY: recvmsg's contract; the name is put back below.
        let result = unsafe {
            (*message).msg_name = null_mut();
            (*message).msg_namelen = 0;
            (*message).msg_controllen = control_len;
            next::recvmsg(fd, message, flags)
        };
        if result > 0 || (result == 0 && capacity == 0) {
            break result;
        }
        match after_no_data(fd, entry, result, flags) {
            NoData::Retry => {}
            NoData::Return => break result,
            NoData::Disconnect if disconnect(fd, entry) => {}
            // No descriptor is left. An error is better than an end of file.
            NoData::Disconnect => {
                set_errno(libc::ENODEV);
                break -1;
            }
        }
    };
    // SAFETY: recvmsg's contract; the name is the caller's.
    unsafe {
        (*message).msg_name = name;
        (*message).msg_namelen = name_len;
        if result >= 0 {
            set_errno(before);
            (*message).msg_namelen = write_kernel_name(name, name_len);
            if flags & libc::MSG_PEEK == 0 {
                note(entry, message, usize::try_from(result).unwrap_or(0));
            }
        }
    }
    result
}

/// # Safety
/// The message's pieces were just filled with at most `count` bytes.
unsafe fn note(entry: &Tracked, message: *const msghdr, count: usize) {
    // Clients pass one piece. Messages in further pieces are ignored.
    // SAFETY: the caller vouches for it.
    let Some(piece) = (unsafe { pieces(message) }).first() else {
        return;
    };
    if !piece.iov_base.is_null() {
        // SAFETY: so many bytes of the piece exist and were written.
        let bytes = unsafe { slice::from_raw_parts(piece.iov_base.cast::<u8>(), count.min(piece.iov_len)) };
        note_answer(entry, bytes);
    }
}

/// Writes {AF_NETLINK, port 0}, the kernel's name, up to `capacity` bytes. Returns the length of the whole name.
///
/// # Safety
/// `name` is null or has `capacity` writable bytes.
unsafe fn write_kernel_name(name: *mut c_void, capacity: socklen_t) -> socklen_t {
    // SAFETY: the caller vouches for it.
    if name.is_null() {
        0
    } else {
        unsafe { write_name(name, capacity, 0) }
    }
}

/// Writes a netlink name up to `capacity` bytes. Returns the length of the whole name.
///
/// # Safety
/// `name` has `capacity` writable bytes.
pub(crate) unsafe fn write_name(name: *mut c_void, capacity: socklen_t, port_id: u32) -> socklen_t {
    // SAFETY: all zeros is a valid sockaddr_nl.
    let mut whole: sockaddr_nl = unsafe { zeroed() };
    whole.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    whole.nl_pid = port_id;
    let len = size_of::<sockaddr_nl>();
    // SAFETY: copies no more bytes than either side has; they do not overlap.
    unsafe {
        core::ptr::copy_nonoverlapping(
            (&raw const whole).cast::<u8>(),
            name.cast::<u8>(),
            len.min(capacity as usize),
        )
    };
    len as socklen_t
}

pub(crate) fn flat(piece: &mut iovec) -> msghdr {
    // SAFETY: all zeros is a valid msghdr.
    let mut message: msghdr = unsafe { zeroed() };
    message.msg_iov = piece;
    message.msg_iovlen = 1;
    message
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    if !message.is_null() {
        // SAFETY: the caller keeps sendmsg's contract.
        if let Some(sent) = unsafe { request(fd, message) } {
            return sent;
        }
    }
    // SAFETY: as above.
    unsafe { next::sendmsg(fd, message, flags) }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendto(
    fd: c_int,
    bytes: *const c_void,
    len: size_t,
    flags: c_int,
    name: *const sockaddr,
    name_len: socklen_t,
) -> ssize_t {
    let mut piece = piece(bytes.cast_mut(), len);
    // SAFETY: the caller keeps sendto's contract, which makes the message valid.
    if let Some(sent) = unsafe { request(fd, &flat(&mut piece)) } {
        return sent;
    }
    // SAFETY: as above.
    unsafe { next::sendto(fd, bytes, len, flags, name, name_len) }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn send(fd: c_int, bytes: *const c_void, len: size_t, flags: c_int) -> ssize_t {
    let mut piece = piece(bytes.cast_mut(), len);
    // SAFETY: the caller keeps send's contract, which makes the message valid.
    if let Some(sent) = unsafe { request(fd, &flat(&mut piece)) } {
        return sent;
    }
    // SAFETY: as above.
    unsafe { next::send(fd, bytes, len, flags) }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    match tracked::find(fd) {
        // SAFETY: the caller keeps recvmsg's contract.
        Some(entry) if !message.is_null() => unsafe { answer(fd, entry, message, flags) },
        // SAFETY: as above.
        _ => unsafe { next::recvmsg(fd, message, flags) },
    }
}

/// Where recvfrom writes the name of the sender, if anywhere.
#[derive(Clone, Copy)]
pub(crate) struct SenderName {
    name: *mut sockaddr,
    len: *mut socklen_t,
}

impl SenderName {
    pub(crate) const NONE: Self = Self {
        name: null_mut(),
        len: null_mut(),
    };
}

/// Receives into one piece of memory.
///
/// # Safety
/// As for recvfrom.
pub(crate) unsafe fn answer_flat(
    fd: c_int,
    entry: &Tracked,
    mut piece: iovec,
    flags: c_int,
    sender: SenderName,
) -> ssize_t {
    let mut message = flat(&mut piece);
    if !sender.name.is_null() && !sender.len.is_null() {
        message.msg_name = sender.name.cast();
        // SAFETY: recvfrom's contract.
        message.msg_namelen = unsafe { *sender.len };
    }
    // SAFETY: recvfrom's contract makes the message valid.
    let result = unsafe { answer(fd, entry, &raw mut message, flags) };
    if result >= 0 && !message.msg_name.is_null() {
        // SAFETY: recvfrom's contract.
        unsafe { *sender.len = message.msg_namelen };
    }
    result
}

pub(crate) const fn piece(bytes: *mut c_void, len: size_t) -> iovec {
    iovec {
        iov_base: bytes,
        iov_len: len,
    }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recvfrom(
    fd: c_int,
    bytes: *mut c_void,
    len: size_t,
    flags: c_int,
    name: *mut sockaddr,
    name_len: *mut socklen_t,
) -> ssize_t {
    match tracked::find(fd) {
        // SAFETY: the caller keeps recvfrom's contract.
        Some(entry) => unsafe { answer_flat(fd, entry, piece(bytes, len), flags, SenderName { name, len: name_len }) },
        // SAFETY: as above.
        None => unsafe { next::recvfrom(fd, bytes, len, flags, name, name_len) },
    }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recv(fd: c_int, bytes: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
    match tracked::find(fd) {
        // SAFETY: the caller keeps recv's contract.
        Some(entry) => unsafe { answer_flat(fd, entry, piece(bytes, len), flags, SenderName::NONE) },
        // SAFETY: as above.
        None => unsafe { next::recv(fd, bytes, len, flags) },
    }
}

/// Programs that were built with fortified headers call this instead of recvfrom.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __recvfrom_chk(
    fd: c_int,
    bytes: *mut c_void,
    len: size_t,
    capacity: size_t,
    flags: c_int,
    name: *mut sockaddr,
    name_len: *mut socklen_t,
) -> ssize_t {
    match tracked::find(fd) {
        // SAFETY: the caller keeps recvfrom's contract; the C library reports a length beyond the capacity.
        Some(entry) if len <= capacity => unsafe {
            answer_flat(fd, entry, piece(bytes, len), flags, SenderName { name, len: name_len })
        },
        // SAFETY: as above.
        _ => unsafe { next::__recvfrom_chk(fd, bytes, len, capacity, flags, name, name_len) },
    }
}

/// Programs that were built with fortified headers call this instead of recv.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __recv_chk(
    fd: c_int,
    bytes: *mut c_void,
    len: size_t,
    capacity: size_t,
    flags: c_int,
) -> ssize_t {
    match tracked::find(fd) {
        // SAFETY: the caller keeps recv's contract; the C library reports a length beyond the capacity.
        Some(entry) if len <= capacity => unsafe { answer_flat(fd, entry, piece(bytes, len), flags, SenderName::NONE) },
        // SAFETY: as above.
        _ => unsafe { next::__recv_chk(fd, bytes, len, capacity, flags) },
    }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bind(fd: c_int, name: *const sockaddr, name_len: socklen_t) -> c_int {
    if let Some(entry) = tracked::find(fd)
        && !name.is_null()
        && name_len as usize >= size_of::<sockaddr_nl>()
    {
        // SAFETY: the caller keeps bind's contract: so many bytes are readable.
        let name = unsafe { name.cast::<sockaddr_nl>().read_unaligned() };
        // Messages to groups come from the kernel.
        if name.nl_groups == 0 || !return_to_kernel(fd, entry) {
            return give_name(fd, entry, name.nl_pid);
        }
    }
    // SAFETY: the caller keeps bind's contract.
    unsafe { next::bind(fd, name, name_len) }
}

/// Gives the socket the port id that the program asks for, as the kernel would.
fn give_name(fd: c_int, entry: &Tracked, port_id: u32) -> c_int {
    let own = entry.port_id.load(Ordering::Relaxed);
    if entry.bound.load(Ordering::Relaxed) {
        // It has one for ever.
        if port_id == 0 || port_id == own {
            return 0;
        }
        set_errno(libc::EINVAL);
        return -1;
    }
    if port_id != 0 && port_id != own {
        if !may_have_port_id(port_id) {
            set_errno(libc::EADDRINUSE);
            return -1;
        }
        entry.port_id.store(port_id, Ordering::Relaxed);
        if !entry.dead.load(Ordering::Acquire) {
            rename(fd, entry);
        }
    }
    entry.bound.store(true, Ordering::Relaxed);
    0
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getsockname(fd: c_int, name: *mut sockaddr, name_len: *mut socklen_t) -> c_int {
    match tracked::find(fd) {
        Some(entry) if !name.is_null() && !name_len.is_null() => {
            let is_bound = entry.bound.load(Ordering::Relaxed);
            let port_id = if is_bound {
                entry.port_id.load(Ordering::Relaxed)
            } else {
                0
            };
            // SAFETY: the caller keeps getsockname's contract.
            unsafe { *name_len = write_name(name.cast(), *name_len, port_id) };
            0
        }
        // SAFETY: as above.
        _ => unsafe { next::getsockname(fd, name, name_len) },
    }
}
