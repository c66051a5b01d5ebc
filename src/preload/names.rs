//! What programs ask about names: `stat`, `access`, `opendir`. The system answers it for the empty file of that name.
//!
//! In:  a path. Out: the same call, for files of IPVS with the path of the twin.

use core::ffi::{c_char, c_int, c_uint, c_void};

use libc::{size_t, ssize_t};

use crate::next::set_errno;
use crate::{next, path};

/// The path to ask about instead. `None` when the path is the kernel's own.
///
/// # Safety
/// `path` is a C string or null.
unsafe fn twin(folder: c_int, name: *const c_char) -> Option<path::Path> {
    // SAFETY: the caller vouches for it.
    let found = unsafe { path::ours(folder, name) }?;
    if found.is_module_list() { None } else { found.twin() }
}

macro_rules! of_path {
    ($($name:ident($path:ident $(, $arg:ident: $kind:ty)*) -> $result:ty;)*) => {$(
        /// See the C library.
        ///
        /// # Safety
        /// As for the C function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($path: *const c_char $(, $arg: $kind)*) -> $result {
            // SAFETY: the caller keeps the C function's contract.
            unsafe {
                match twin(libc::AT_FDCWD, $path) {
                    Some(twin) => next::$name(twin.as_ptr() $(, $arg)*),
                    None => next::$name($path $(, $arg)*),
                }
            }
        }
    )*};
}

of_path! {
    stat(path, status: *mut c_void) -> c_int;
    stat64(path, status: *mut c_void) -> c_int;
    lstat(path, status: *mut c_void) -> c_int;
    lstat64(path, status: *mut c_void) -> c_int;
    opendir(path) -> *mut c_void;
    readlink(path, target: *mut c_char, len: size_t) -> ssize_t;
    __readlink_chk(path, target: *mut c_char, len: size_t, capacity: size_t) -> ssize_t;
}

/// The canonical path, if there is a file of this name: as realpath gives it.
///
/// # Safety
/// `name` is a C string or null; `resolved` is null or has `PATH_MAX` writable bytes.
unsafe fn resolve(name: *const c_char, resolved: *mut c_char) -> Option<*mut c_char> {
    // SAFETY: the caller vouches for it; the copy is no longer than the path, which is below PATH_MAX.
    unsafe {
        let found = path::ours(libc::AT_FDCWD, name).filter(|found| !found.is_module_list())?;
        if next::access(found.twin()?.as_ptr(), libc::F_OK) != 0 {
            return Some(core::ptr::null_mut());
        }
        if resolved.is_null() {
            return Some(libc::strdup(found.as_ptr()));
        }
        let len = found.bytes().len() + 1;
        core::ptr::copy_nonoverlapping(found.as_ptr(), resolved, len);
        Some(resolved)
    }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realpath(path: *const c_char, resolved: *mut c_char) -> *mut c_char {
    // SAFETY: the caller keeps the C function's contract.
    unsafe { resolve(path, resolved).unwrap_or_else(|| next::realpath(path, resolved)) }
}

/// Programs that were built with fortified headers call this instead of realpath.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __realpath_chk(path: *const c_char, resolved: *mut c_char, capacity: size_t) -> *mut c_char {
    // SAFETY: the caller keeps the C function's contract.
    unsafe { resolve(path, resolved).unwrap_or_else(|| next::__realpath_chk(path, resolved, capacity)) }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn canonicalize_file_name(path: *const c_char) -> *mut c_char {
    // SAFETY: the caller keeps the C function's contract.
    unsafe { resolve(path, core::ptr::null_mut()).unwrap_or_else(|| next::canonicalize_file_name(path)) }
}

macro_rules! of_folder {
    ($($name:ident($($before:ident: $first:ty,)? [$folder:ident, $path:ident] $(, $arg:ident: $kind:ty)*);)*) => {$(
        /// See the C library.
        ///
        /// # Safety
        /// As for the C function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($before: $first,)? $folder: c_int, $path: *const c_char $(, $arg: $kind)*) -> c_int {
            // SAFETY: the caller keeps the C function's contract.
            unsafe {
                match twin($folder, $path) {
                    Some(twin) => next::$name($($before,)? libc::AT_FDCWD, twin.as_ptr() $(, $arg)*),
                    None => next::$name($($before,)? $folder, $path $(, $arg)*),
                }
            }
        }
    )*};
}

of_folder! {
    fstatat([folder, path], status: *mut c_void, flags: c_int);
    fstatat64([folder, path], status: *mut c_void, flags: c_int);
    statx([folder, path], flags: c_int, mask: c_uint, status: *mut c_void);
    __fxstatat(version: c_int, [folder, path], status: *mut c_void, flags: c_int);
    __fxstatat64(version: c_int, [folder, path], status: *mut c_void, flags: c_int);
}

/// What older programs call instead of stat and lstat.
macro_rules! versioned {
    ($($name:ident;)*) => {$(
        /// See the C library.
        ///
        /// # Safety
        /// As for the C function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(version: c_int, path: *const c_char, status: *mut c_void) -> c_int {
            // SAFETY: the caller keeps the C function's contract.
            unsafe {
                match twin(libc::AT_FDCWD, path) {
                    Some(twin) => next::$name(version, twin.as_ptr(), status),
                    None => next::$name(version, path, status),
                }
            }
        }
    )*};
}

versioned! {
    __xstat;
    __xstat64;
    __lxstat;
    __lxstat64;
}

/// A kernel's files of IPVS can be read by all, settings be written by root, and none be executed.
fn judge(found: &path::Path, twin: &path::Path, mode: c_int) -> c_int {
    // SAFETY: the path is a C string.
    if unsafe { next::access(twin.as_ptr(), libc::F_OK) } != 0 {
        return -1;
    }
    // SAFETY: takes nothing.
    let is_root = unsafe { libc::geteuid() } == 0;
    let writes = mode & libc::W_OK != 0 && !(found.is_setting() && is_root);
    // SAFETY: the path is a C string.
    let executes = mode & libc::X_OK != 0 && unsafe { next::access(twin.as_ptr(), libc::X_OK) } != 0;
    if writes || executes {
        set_errno(libc::EACCES);
        return -1;
    }
    0
}

macro_rules! of_access {
    ($($name:ident;)*) => {$(
        /// See the C library.
        ///
        /// # Safety
        /// As for the C function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(path: *const c_char, mode: c_int) -> c_int {
            // SAFETY: the caller keeps the C function's contract.
            unsafe {
                match path::ours(libc::AT_FDCWD, path).and_then(|found| Some((found, found.twin()?))) {
                    Some((found, twin)) if !found.is_module_list() => judge(&found, &twin, mode),
                    _ => next::$name(path, mode),
                }
            }
        }
    )*};
}

of_access! {
    access;
    euidaccess;
    eaccess;
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn faccessat(folder: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int {
    // SAFETY: the caller keeps the C function's contract.
    unsafe {
        match path::ours(folder, path).and_then(|found| Some((found, found.twin()?))) {
            Some((found, twin)) if !found.is_module_list() => judge(&found, &twin, mode),
            _ => next::faccessat(folder, path, mode, flags),
        }
    }
}
