//! `/proc/net/ip_vs*`: the kernel has these files only with its own IPVS, so the daemon writes them.
//!
//! In:  a path and how it is opened. Out: a descriptor of an anonymous file with the text, or ENOENT.
//! `open` and `openat` have variable arguments in C. On Linux these come in the same registers as fixed ones.

use core::ffi::{CStr, c_char, c_int};
use core::mem::{size_of, zeroed};
use core::ptr::null_mut;

use libc::{FILE, cmsghdr, iovec, mode_t, msghdr};

use crate::connection::connect;
use crate::next::{errno, set_errno};
use crate::{next, settings};

const FILE_MAGIC: [u8; 8] = *b"LVSDPF1\0";
const FOLDER: &[u8] = b"/proc/net/ip_vs";
/// A longer path is none of these files.
const REQUEST_BYTES: usize = 64;

/// # Safety
/// `path` is a C string or null.
unsafe fn ours<'path>(path: *const c_char) -> Option<&'path CStr> {
    if path.is_null() {
        return None;
    }
    // SAFETY: the caller vouches for it.
    let path = unsafe { CStr::from_ptr(path) };
    (path.to_bytes().starts_with(FOLDER) && settings::enabled()).then_some(path)
}

/// The daemon's text of `path`, or -1 with an error number.
fn text(path: &CStr, close_on_exec: bool) -> c_int {
    let before = errno();
    let found = connect().and_then(|connection| {
        let found = ask(connection, path, close_on_exec);
        // SAFETY: closes what connect opened.
        unsafe { libc::close(connection) };
        found
    });
    set_errno(if found.is_some() { before } else { libc::ENOENT });
    found.unwrap_or(-1)
}

fn ask(connection: c_int, path: &CStr, close_on_exec: bool) -> Option<c_int> {
    let mut request = [0; REQUEST_BYTES];
    let path = path.to_bytes();
    let len = FILE_MAGIC.len() + path.len();
    for (to, from) in request.iter_mut().zip(FILE_MAGIC.iter().chain(path)) {
        *to = *from;
    }
    let request = request.get(..len)?;
    // SAFETY: the slice is readable for its length.
    let sent = unsafe { next::send(connection, request.as_ptr().cast(), request.len(), libc::MSG_NOSIGNAL) };
    if usize::try_from(sent) != Ok(len) {
        return None;
    }
    let mut byte = 0_u8;
    // Aligned as control messages must be, and large enough for one descriptor.
    let mut control = [0_u64; 4];
    let mut piece = iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    // SAFETY: all zeros is a valid msghdr.
    let mut message: msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<[u64; 4]>() as _;
    let flags = if close_on_exec { libc::MSG_CMSG_CLOEXEC } else { 0 };
    // SAFETY: all parts of the message are valid.
    if unsafe { next::recvmsg(connection, &raw mut message, flags) } <= 0 {
        return None;
    }
    // SAFETY: the kernel filled the control buffer. The header is read only if it is whole and holds descriptors.
    unsafe {
        let header: *const cmsghdr = libc::CMSG_FIRSTHDR(&raw const message);
        let whole = !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS
            && (*header).cmsg_len as usize >= libc::CMSG_LEN(size_of::<c_int>() as u32) as usize;
        whole.then(|| libc::CMSG_DATA(header).cast::<c_int>().read_unaligned())
    }
}

/// The text as a C stream, for programs that read line by line.
///
/// # Safety
/// `mode` is a C string.
unsafe fn stream(path: &CStr, mode: *const c_char) -> *mut FILE {
    // SAFETY: the caller vouches for it.
    let close_on_exec = unsafe { CStr::from_ptr(mode) }.to_bytes().contains(&b'e');
    let fd = text(path, close_on_exec);
    if fd < 0 {
        return null_mut();
    }
    // SAFETY: the descriptor is ours to give away, and "r" is a C string.
    let stream = unsafe { libc::fdopen(fd, c"r".as_ptr()) };
    if stream.is_null() {
        // SAFETY: nobody took the descriptor.
        unsafe { libc::close(fd) };
    }
    stream
}

fn descriptor(path: &CStr, flags: c_int) -> c_int {
    if flags & libc::O_ACCMODE != libc::O_RDONLY {
        set_errno(libc::EACCES);
        return -1;
    }
    text(path, flags & libc::O_CLOEXEC != 0)
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fopen(path: *const c_char, mode: *const c_char) -> *mut FILE {
    // SAFETY: the caller keeps fopen's contract.
    match unsafe { ours(path) } {
        // SAFETY: as above.
        Some(path) if !mode.is_null() => unsafe { stream(path, mode) },
        // SAFETY: as above.
        _ => unsafe { next::fopen(path, mode) },
    }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fopen64(path: *const c_char, mode: *const c_char) -> *mut FILE {
    // SAFETY: the caller keeps fopen's contract.
    match unsafe { ours(path) } {
        // SAFETY: as above.
        Some(path) if !mode.is_null() => unsafe { stream(path, mode) },
        // SAFETY: as above.
        _ => unsafe { next::fopen64(path, mode) },
    }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller keeps open's contract.
    match unsafe { ours(path) } {
        Some(path) => descriptor(path, flags),
        // SAFETY: as above.
        None => unsafe { next::open(path, flags, mode) },
    }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller keeps open's contract.
    match unsafe { ours(path) } {
        Some(path) => descriptor(path, flags),
        // SAFETY: as above.
        None => unsafe { next::open64(path, flags, mode) },
    }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller keeps openat's contract.
    match unsafe { ours(path) } {
        Some(path) => descriptor(path, flags),
        // SAFETY: as above.
        None => unsafe { next::openat(directory, path, flags, mode) },
    }
}
