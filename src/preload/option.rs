//! Socket options: a connection to lvsd answers them as a netlink socket would.
//!
//! The options by which old tools program the kernel's IPVS go to lvsd as well. Ref: netlink(7).

use core::ffi::{c_int, c_void};
use core::mem::size_of;
use core::sync::atomic::Ordering;

use libc::socklen_t;

use crate::connection::return_to_kernel;
use crate::next::set_errno;
use crate::tracked::Tracked;
use crate::{kernel_option, next, settings, tracked};

/// `IP_VS_BASE_CTL` and what follows.
const KERNEL_IPVS: core::ops::RangeInclusive<c_int> = 1152..=1167;

fn is_kernel_ipvs(level: c_int, option: c_int) -> bool {
    level == libc::IPPROTO_IP && KERNEL_IPVS.contains(&option) && settings::enabled()
}

/// `NETLINK_LIST_MEMBERSHIPS`.
const LIST_MEMBERSHIPS: c_int = 9;
/// `NETLINK_ADD_MEMBERSHIP`, `NETLINK_DROP_MEMBERSHIP`.
const MEMBERSHIPS: core::ops::RangeInclusive<c_int> = 1..=2;

/// Whether this is an option of SOL_NETLINK that is on or off.
const fn is_switch(option: c_int) -> bool {
    matches!(option, 3 | 4 | 5 | 8 | 10 | 11 | 12)
}

/// The answer of a netlink socket, or an error number.
fn netlink_value(entry: &Tracked, level: c_int, option: c_int) -> Option<Result<c_int, c_int>> {
    let options = entry.options.load(Ordering::Relaxed);
    match (level, option) {
        (libc::SOL_SOCKET, libc::SO_DOMAIN) => Some(Ok(libc::AF_NETLINK)),
        (libc::SOL_SOCKET, libc::SO_PROTOCOL) => Some(Ok(libc::NETLINK_GENERIC)),
        (libc::SOL_SOCKET, libc::SO_TYPE) => Some(Ok(entry.kind.load(Ordering::Relaxed))),
        (libc::SOL_NETLINK, option) if is_switch(option) => Some(Ok(c_int::from(options & 1 << option != 0))),
        (libc::SOL_NETLINK, _) => Some(Err(libc::ENOPROTOOPT)),
        _ => None,
    }
}

/// Sets an option of SOL_NETLINK. `None` when the kernel has to do it, on a socket of its own.
///
/// # Safety
/// As for setsockopt.
unsafe fn set_netlink(
    fd: c_int,
    entry: &Tracked,
    option: c_int,
    value: *const c_void,
    len: socklen_t,
) -> Option<c_int> {
    let fail = |errno| {
        set_errno(errno);
        Some(-1)
    };
    if MEMBERSHIPS.contains(&option) && return_to_kernel(fd, entry) {
        return None;
    }
    if !is_switch(option) {
        return fail(libc::ENOPROTOOPT);
    }
    if value.is_null() || (len as usize) < size_of::<c_int>() {
        return fail(libc::EINVAL);
    }
    // SAFETY: setsockopt's contract: so many bytes are readable.
    if unsafe { value.cast::<c_int>().read_unaligned() } != 0 {
        entry.options.fetch_or(1 << option, Ordering::Relaxed);
    } else {
        entry.options.fetch_and(!(1 << option), Ordering::Relaxed);
    }
    Some(0)
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn setsockopt(
    fd: c_int,
    level: c_int,
    option: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    if is_kernel_ipvs(level, option) {
        // SAFETY: the caller keeps setsockopt's contract.
        return unsafe { kernel_option::set(option, value, len) };
    }
    if level == libc::SOL_NETLINK
        && let Some(entry) = tracked::find(fd)
        // SAFETY: the caller keeps setsockopt's contract.
        && let Some(result) = unsafe { set_netlink(fd, entry, option, value, len) }
    {
        return result;
    }
    // SAFETY: the caller keeps setsockopt's contract.
    unsafe { next::setsockopt(fd, level, option, value, len) }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    option: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    if is_kernel_ipvs(level, option) {
        // SAFETY: the caller keeps getsockopt's contract.
        return unsafe { kernel_option::get(option, value, len) };
    }
    if matches!(level, libc::SOL_SOCKET | libc::SOL_NETLINK)
        && !value.is_null()
        && !len.is_null()
        && let Some(entry) = tracked::find(fd)
    {
        if (level, option) == (libc::SOL_NETLINK, LIST_MEMBERSHIPS) {
            // SAFETY: the caller keeps getsockopt's contract. It is in no group.
            unsafe { *len = 0 };
            return 0;
        }
        match netlink_value(entry, level, option) {
            // SAFETY: the caller keeps getsockopt's contract: `len` bytes are writable.
            Some(Ok(answer)) => unsafe {
                let written = size_of::<c_int>().min(*len as usize);
                core::ptr::copy_nonoverlapping((&raw const answer).cast::<u8>(), value.cast::<u8>(), written);
                *len = written as socklen_t;
                return 0;
            },
            Some(Err(errno)) => {
                set_errno(errno);
                return -1;
            }
            None => {}
        }
    }
    // SAFETY: the caller keeps getsockopt's contract.
    unsafe { next::getsockopt(fd, level, option, value, len) }
}
