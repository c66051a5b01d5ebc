//! Socket options: a connection to lvsd answers them as a netlink socket would.
//!
//! The options by which old tools program the kernel's IPVS are refused, because a tool that cannot reach lvsd must not
//! configure the kernel as a second director. Ref: linux/ip_vs.h `IP_VS_BASE_CTL`.

use core::ffi::{c_int, c_void};
use core::mem::size_of;

use libc::socklen_t;

use crate::next::set_errno;
use crate::{next, settings, tracked};

/// `IP_VS_BASE_CTL` and what follows.
const KERNEL_IPVS: core::ops::RangeInclusive<c_int> = 1152..=1167;

fn is_kernel_ipvs(level: c_int, option: c_int) -> bool {
    level == libc::IPPROTO_IP && KERNEL_IPVS.contains(&option) && settings::enabled()
}

/// The answer of a netlink socket.
fn netlink_value(level: c_int, option: c_int) -> Option<c_int> {
    match (level, option) {
        (libc::SOL_SOCKET, libc::SO_DOMAIN) => Some(libc::AF_NETLINK),
        (libc::SOL_SOCKET, libc::SO_PROTOCOL) => Some(libc::NETLINK_GENERIC),
        (libc::SOL_SOCKET, libc::SO_TYPE) => Some(libc::SOCK_RAW),
        (libc::SOL_NETLINK, _) => Some(0),
        _ => None,
    }
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
        set_errno(libc::ENOPROTOOPT);
        return -1;
    }
    if level == libc::SOL_NETLINK && tracked::find(fd).is_some() {
        return 0;
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
        set_errno(libc::ENOPROTOOPT);
        return -1;
    }
    if let Some(answer) = netlink_value(level, option)
        && !value.is_null()
        && !len.is_null()
        && tracked::find(fd).is_some()
    {
        // SAFETY: the caller keeps getsockopt's contract: `len` bytes are writable.
        unsafe {
            let written = size_of::<c_int>().min(*len as usize);
            core::ptr::copy_nonoverlapping((&raw const answer).cast::<u8>(), value.cast::<u8>(), written);
            *len = written as socklen_t;
        }
        return 0;
    }
    // SAFETY: the caller keeps getsockopt's contract.
    unsafe { next::getsockopt(fd, level, option, value, len) }
}
