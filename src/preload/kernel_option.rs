//! The old socket options of IPVS: lvsd answers them, on any socket of the program.
//!
//! In:  a getsockopt or setsockopt. Out: its result, with the caller's own struct as lvsd filled it.
//! Ref: linux/ip_vs.h `IP_VS_BASE_CTL`; `lvs_api::kernel_options`.

use core::ffi::{c_int, c_void};
use core::mem::zeroed;

use libc::{iovec, msghdr, socklen_t};

use crate::connection::connect;
use crate::next;
use crate::next::set_errno;

const MAGIC: [u8; 8] = *b"LVSDSO1\0";
const HEAD_BYTES: usize = 16;
/// Bytes of the caller's struct that a question is read from.
const QUESTION_BYTES: usize = 128;
/// Bytes of a struct at most that a change may have.
const CHANGE_BYTES: usize = 4096;

fn head(option: c_int, is_set: bool, len: u32) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    let abi = [u8::from(cfg!(target_pointer_width = "64")), u8::from(is_set)];
    let parts: [&[u8]; 4] = [&MAGIC, &abi, &(option as u16).to_ne_bytes(), &len.to_ne_bytes()];
    let source = parts.iter().flat_map(|part| part.iter());
    for (to, from) in head.iter_mut().zip(source) {
        *to = *from;
    }
    head
}

fn piece(bytes: *mut c_void, len: usize) -> iovec {
    iovec {
        iov_base: bytes,
        iov_len: len,
    }
}

/// Sends the head and `len` bytes of the struct, and receives an error number and, into `capacity` bytes, the struct.
/// Returns what of the struct came.
///
/// # Safety
/// `value` is readable for `len` and writable for `capacity` bytes.
unsafe fn exchange(
    head: &mut [u8; HEAD_BYTES],
    value: *mut c_void,
    len: usize,
    capacity: usize,
) -> Result<usize, c_int> {
    let Some(connection) = connect() else {
        return Err(libc::ENOPROTOOPT);
    };
    let mut errno_bytes = [0_u8; 4];
    // SAFETY: all zeros is a valid msghdr; the pieces are valid for the calls.
    let received = unsafe {
        let mut message: msghdr = zeroed();
        let mut pieces = [piece(head.as_mut_ptr().cast(), HEAD_BYTES), piece(value, len)];
        message.msg_iov = pieces.as_mut_ptr();
        message.msg_iovlen = 2;
        let sent = next::sendmsg(connection, &raw const message, libc::MSG_NOSIGNAL);
        pieces = [
            piece(errno_bytes.as_mut_ptr().cast(), errno_bytes.len()),
            piece(value, capacity),
        ];
        message.msg_iov = pieces.as_mut_ptr();
        let received = if sent < 0 {
            -1
        } else {
            next::recvmsg(connection, &raw mut message, 0)
        };
        libc::close(connection);
        received
    };
    let received = usize::try_from(received).unwrap_or(0);
    match (
        received.checked_sub(errno_bytes.len()),
        c_int::from_ne_bytes(errno_bytes),
    ) {
        (None, _) => Err(libc::ENOPROTOOPT),
        (Some(len), 0) => Ok(len),
        (Some(_), errno) => Err(errno),
    }
}

fn fail(errno: c_int) -> c_int {
    set_errno(errno);
    -1
}

/// # Safety
/// As for setsockopt.
pub(crate) unsafe fn set(option: c_int, value: *const c_void, len: socklen_t) -> c_int {
    let kept = if value.is_null() {
        0
    } else {
        (len as usize).min(CHANGE_BYTES)
    };
    // SAFETY: setsockopt's contract; nothing is written.
    match unsafe { exchange(&mut head(option, true, len), value.cast_mut(), kept, 0) } {
        Ok(_) => 0,
        Err(errno) => fail(errno),
    }
}

/// # Safety
/// As for getsockopt.
pub(crate) unsafe fn get(option: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int {
    if value.is_null() || len.is_null() {
        return fail(libc::EFAULT);
    }
    // SAFETY: getsockopt's contract.
    let len_given = unsafe { *len };
    let capacity = len_given as usize;
    // SAFETY: getsockopt's contract: so many bytes are there.
    match unsafe {
        exchange(
            &mut head(option, false, len_given),
            value,
            capacity.min(QUESTION_BYTES),
            capacity,
        )
    } {
        Ok(filled) => {
            // SAFETY: getsockopt's contract.
            unsafe { *len = filled as socklen_t };
            0
        }
        Err(errno) => fail(errno),
    }
}
