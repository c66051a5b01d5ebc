//! Refuses to load the kernel's IPVS module. Tools try that by themselves when they find no IPVS.

use core::ffi::{CStr, c_char, c_int};

use crate::next::set_errno;
use crate::{next, settings};

/// The most arguments of a command that are checked.
const ARGUMENTS_MAX: usize = 16;

/// # Safety
/// `text` is a C string or null.
unsafe fn contains(text: *const c_char, word: &[u8]) -> bool {
    if text.is_null() {
        return false;
    }
    // SAFETY: the caller vouches for it.
    let text = unsafe { CStr::from_ptr(text) }.to_bytes();
    text.windows(word.len()).any(|part| part == word)
}

/// # Safety
/// As for execve.
unsafe fn loads_ipvs(path: *const c_char, argv: *const *const c_char) -> bool {
    // SAFETY: execve's contract.
    if argv.is_null() || !unsafe { contains(path, b"modprobe") } {
        return false;
    }
    for index in 0..ARGUMENTS_MAX {
        // SAFETY: execve's contract: a null ends the list, and the loop reads nothing after it.
        let argument = unsafe { *argv.add(index) };
        if argument.is_null() {
            return false;
        }
        // SAFETY: execve's contract.
        if unsafe { contains(argument, b"ip_vs") } {
            return settings::enabled();
        }
    }
    false
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execv(path: *const c_char, argv: *const *const c_char) -> c_int {
    // SAFETY: the caller keeps execv's contract.
    if unsafe { loads_ipvs(path, argv) } {
        set_errno(libc::ENOENT);
        return -1;
    }
    // SAFETY: as above.
    unsafe { next::execv(path, argv) }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int {
    // SAFETY: the caller keeps execve's contract.
    if unsafe { loads_ipvs(path, argv) } {
        set_errno(libc::ENOENT);
        return -1;
    }
    // SAFETY: as above.
    unsafe { next::execve(path, argv, envp) }
}
