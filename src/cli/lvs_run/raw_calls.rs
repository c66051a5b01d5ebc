//! System calls of `lvs-run` that have no safe wrapper. All unsafe code of `lvs-run` is here.
//!
//! In:  descriptors and plain values. Out: results with error numbers.
//! Never: decides anything, keeps a descriptor. Ref: seccomp_unotify(2), close_range(2).

#![allow(
    unsafe_code,
    reason = "ioctls and descriptors by number have no safe wrapper in a kept crate"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::{Errno, Result};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

fn outcome(result: libc::c_long) -> Result<i32> {
    if result < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(i32::try_from(result).unwrap_or(i32::MAX))
}

/// Answers a notification: the calling process gets a copy of `fd` as the result of its call.
pub(crate) fn answer_with_descriptor(
    listener: impl AsFd,
    notification: u64,
    fd: impl AsFd,
    close_on_exec: bool,
) -> Result<i32> {
    let request = libc::seccomp_notif_addfd {
        id: notification,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: fd.as_fd().as_raw_fd().cast_unsigned(),
        newfd: 0,
        newfd_flags: if close_on_exec {
            libc::O_CLOEXEC.cast_unsigned()
        } else {
            0
        },
    };
    let listener = listener.as_fd().as_raw_fd();
    // SAFETY: the ioctl reads the struct it is given, and both descriptors are open for the call.
    let result = unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const request) };
    outcome(result.into())
}

/// Makes the kernel run the supervisor at once on the caller's CPU when a call waits. Needs Linux 6.6.
pub(crate) fn wake_synchronously(listener: impl AsFd) -> Result<()> {
    /// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`.
    const SYNC_WAKE_UP: u64 = 1;
    let listener = listener.as_fd().as_raw_fd();
    // SAFETY: the ioctl takes flags by value.
    let result = unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
    outcome(result.into()).map(|_| ())
}

/// Makes the next exec close every descriptor except the standard three.
pub(crate) fn close_others_on_exec() -> Result<()> {
    let (first, last, flags) = (3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: takes numbers only. With this flag it closes nothing now.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    outcome(result).map(|_| ())
}

/// Sets an option of SOL_NETLINK.
pub(crate) fn set_netlink_option(socket: impl AsFd, option: i32, value: &[u8]) -> Result<()> {
    let len = libc::socklen_t::try_from(value.len()).unwrap_or(0);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the value is readable for its length.
    let result = unsafe { libc::setsockopt(fd, libc::SOL_NETLINK, option, value.as_ptr().cast(), len) };
    outcome(result.into()).map(|_| ())
}

/// Borrows the listener of a filter. libseccomp keeps it open until this process ends.
pub(crate) fn listener(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: libseccomp has just made it and never closes it.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Registers `fd` with the runtime, which then waits for it to be ready.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays open and the same until it is dropped, and the registration ends before that.
    let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(watched?)
}

/// The bytes of a `struct statx`, as the kernel writes them.
pub(crate) fn statx_bytes(found: &rustix::fs::Statx) -> Vec<u8> {
    let len = size_of::<rustix::fs::Statx>();
    // SAFETY: the struct is the kernel's own: numbers only, without padding that was not written.
    unsafe { std::slice::from_raw_parts((&raw const *found).cast::<u8>(), len) }.to_vec()
}

/// Asks for an option of SOL_NETLINK. Returns the length of the value.
pub(crate) fn netlink_option(socket: impl AsFd, option: i32, value: &mut [u8]) -> Result<usize> {
    let mut len = libc::socklen_t::try_from(value.len()).unwrap_or(0);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the value is writable for its length.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_NETLINK, option, value.as_mut_ptr().cast(), &raw mut len) };
    outcome(result.into()).map(|_| usize::try_from(len).unwrap_or(0))
}
