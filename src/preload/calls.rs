//! The other calls on netlink sockets: making one, its names, and the ways to send and receive without an address.
//!
//! A socket for generic netlink is a connection to lvsd from the beginning, where lvsd answers. So whatever waits for it,
//! copies it or inherits it has the right one. With a message for another family it becomes the kernel's.

use core::ffi::{c_int, c_uint, c_void};
use core::sync::atomic::Ordering;

use libc::{iovec, mmsghdr, size_t, sockaddr, socklen_t, ssize_t, timespec};

use crate::connection::{begin_as, connect_once, free_port_id};
use crate::next::{errno, set_errno};
use crate::socket::{answer, answer_flat, flat, piece, request, write_name};
use crate::{files, next, settings, tracked};

/// What is not a flag in the type of a socket.
pub(crate) const KIND_MASK: c_int = 0xf;

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    // SAFETY: takes numbers only.
    let fd = unsafe { next::socket(domain, kind, protocol) };
    let is_generic = domain == libc::AF_NETLINK && protocol == libc::NETLINK_GENERIC;
    if fd < 0 || !is_generic || !settings::enabled() {
        return fd;
    }
    let before = errno();
    if let Some(connection) = connect_once() {
        let entry = tracked::remember(free_port_id(), kind & KIND_MASK);
        // Without lvsd the socket stays the kernel's, until a request for IPVS tries again.
        if let Some(entry) = entry {
            begin_as(fd, entry, connection);
        }
    }
    set_errno(before);
    fd
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn connect(fd: c_int, name: *const sockaddr, name_len: socklen_t) -> c_int {
    if let Some(entry) = tracked::find(fd) {
        entry.bound.store(true, Ordering::Relaxed);
        return 0;
    }
    // SAFETY: the caller keeps connect's contract.
    unsafe { next::connect(fd, name, name_len) }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getpeername(fd: c_int, name: *mut sockaddr, name_len: *mut socklen_t) -> c_int {
    if tracked::find(fd).is_some() && !name.is_null() && !name_len.is_null() {
        // SAFETY: the caller keeps getpeername's contract.
        unsafe { *name_len = write_name(name.cast(), *name_len, 0) };
        return 0;
    }
    // SAFETY: the caller keeps getpeername's contract.
    unsafe { next::getpeername(fd, name, name_len) }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shutdown(fd: c_int, how: c_int) -> c_int {
    if tracked::find(fd).is_some() {
        set_errno(libc::EOPNOTSUPP);
        return -1;
    }
    // SAFETY: takes numbers only.
    unsafe { next::shutdown(fd, how) }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, len: size_t) -> ssize_t {
    if tracked::is_setting(fd) {
        // SAFETY: the caller keeps write's contract.
        return unsafe { files::write_setting(fd, bytes, len) };
    }
    let mut piece = piece(bytes.cast_mut(), len);
    // SAFETY: the caller keeps write's contract, which makes the message valid.
    if let Some(sent) = unsafe { request(fd, &flat(&mut piece)) } {
        return sent;
    }
    // SAFETY: as above.
    unsafe { next::write(fd, bytes, len) }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, pieces: *const iovec, count: c_int) -> ssize_t {
    if !pieces.is_null() && count > 0 {
        // SAFETY: all zeros is a valid iovec; it is replaced by the caller's list.
        let mut message = flat(unsafe { &mut *pieces.cast_mut() });
        message.msg_iovlen = count as _;
        // SAFETY: the caller keeps writev's contract, which makes the message valid.
        if let Some(sent) = unsafe { request(fd, &raw const message) } {
            return sent;
        }
    }
    // SAFETY: the caller keeps writev's contract.
    unsafe { next::writev(fd, pieces, count) }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(fd: c_int, bytes: *mut c_void, len: size_t) -> ssize_t {
    match tracked::find(fd) {
        // SAFETY: the caller keeps read's contract.
        Some(entry) => unsafe { answer_flat(fd, entry, piece(bytes, len), 0, crate::socket::SenderName::NONE) },
        // SAFETY: as above.
        None => unsafe { next::read(fd, bytes, len) },
    }
}

/// Programs that were built with fortified headers call this instead of read.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __read_chk(fd: c_int, bytes: *mut c_void, len: size_t, capacity: size_t) -> ssize_t {
    match tracked::find(fd) {
        // SAFETY: the caller keeps read's contract; the C library reports a length beyond the capacity.
        Some(entry) if len <= capacity => unsafe {
            answer_flat(fd, entry, piece(bytes, len), 0, crate::socket::SenderName::NONE)
        },
        // SAFETY: as above.
        _ => unsafe { next::__read_chk(fd, bytes, len, capacity) },
    }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn readv(fd: c_int, pieces: *const iovec, count: c_int) -> ssize_t {
    match tracked::find(fd) {
        Some(entry) if !pieces.is_null() && count > 0 => {
            // SAFETY: the caller keeps readv's contract, which makes the message valid.
            unsafe {
                let mut message = flat(&mut *pieces.cast_mut());
                message.msg_iovlen = count as _;
                answer(fd, entry, &raw mut message, 0)
            }
        }
        // SAFETY: as above.
        _ => unsafe { next::readv(fd, pieces, count) },
    }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
    let mut sent = 0;
    while !messages.is_null() && sent < count {
        // SAFETY: the caller keeps sendmmsg's contract: so many structs are valid.
        let done = unsafe {
            let message = messages.add(sent as usize);
            let len = request(fd, &raw const (*message).msg_hdr);
            if let Some(len) = len {
                (*message).msg_len = c_uint::try_from(len).unwrap_or(c_uint::MAX);
            }
            len.is_some()
        };
        if !done {
            break;
        }
        sent += 1;
    }
    if sent > 0 {
        return c_int::try_from(sent).unwrap_or(c_int::MAX);
    }
    // SAFETY: the caller keeps sendmmsg's contract.
    unsafe { next::sendmmsg(fd, messages, count, flags) }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recvmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    limit: *mut timespec,
) -> c_int {
    let Some(entry) = tracked::find(fd).filter(|_| !messages.is_null() && count > 0) else {
        // SAFETY: the caller keeps recvmmsg's contract.
        return unsafe { next::recvmmsg(fd, messages, count, flags, limit) };
    };
    let before = errno();
    let mut received = 0;
    while received < count {
        // One datagram is waited for. Others are taken when they are there.
        let wait = if received == 0 {
            flags
        } else {
            flags | libc::MSG_DONTWAIT
        };
        // SAFETY: the caller keeps recvmmsg's contract: so many structs are valid.
        let len = unsafe {
            let message = messages.add(received as usize);
            let len = answer(fd, entry, &raw mut (*message).msg_hdr, wait & !libc::MSG_WAITFORONE);
            if let Ok(len) = c_uint::try_from(len) {
                (*message).msg_len = len;
            }
            len
        };
        if len < 0 {
            break;
        }
        received += 1;
    }
    if received == 0 {
        return -1;
    }
    set_errno(before);
    c_int::try_from(received).unwrap_or(c_int::MAX)
}
