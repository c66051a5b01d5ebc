//! Opening the files of a kernel with IPVS: the daemon writes their texts and takes values for its settings.
//!
//! In:  a path and how it is opened. Out: a descriptor of an anonymous file with the text, a connection that takes values, a
//! folder, or an error. `open` and `openat` have variable arguments in C. On Linux these come in the same registers as fixed
//! ones.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::{size_of, zeroed};
use core::ptr::null_mut;

use libc::{FILE, cmsghdr, iovec, mode_t, msghdr, size_t, ssize_t};

use crate::connection::connect;
use crate::next::{errno, set_errno};
use crate::path::{self, Path};
use crate::{next, tracked};

const FILE_MAGIC: [u8; 8] = *b"LVSDPF1\0";
const WRITE_MAGIC: [u8; 8] = *b"LVSDFW1\0";
/// A longer path is none of these files.
const REQUEST_BYTES: usize = 128;

/// The daemon's text of `path`, or -1 with an error number.
fn text(path: &Path, close_on_exec: bool) -> c_int {
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

/// A connection on which each datagram is a value for the setting, or -1 with an error number.
fn setting(path: &Path, close_on_exec: bool) -> c_int {
    let Some(connection) = connect() else {
        set_errno(libc::ENOENT);
        return -1;
    };
    let mut request = [0; REQUEST_BYTES];
    let len = WRITE_MAGIC.len() + path.bytes().len();
    for (to, from) in request.iter_mut().zip(WRITE_MAGIC.iter().chain(path.bytes())) {
        *to = *from;
    }
    let request = request.get(..len).unwrap_or_default();
    // SAFETY: the slice is readable for its length.
    let sent = unsafe { next::send(connection, request.as_ptr().cast(), request.len(), libc::MSG_NOSIGNAL) };
    if sent <= 0 {
        // SAFETY: closes what connect opened.
        unsafe { libc::close(connection) };
        set_errno(libc::ENOENT);
        return -1;
    }
    if !close_on_exec {
        // SAFETY: changes a flag of a descriptor of this function.
        unsafe { libc::fcntl(connection, libc::F_SETFD, 0) };
    }
    tracked::remember_setting(connection);
    connection
}

/// Writes a value and waits for what the daemon says of it.
///
/// # Safety
/// As for write.
pub(crate) unsafe fn write_setting(fd: c_int, bytes: *const c_void, len: size_t) -> ssize_t {
    let mut errno_bytes = [0_u8; 4];
    // SAFETY: write's contract; the array is writable for its length.
    let answered = unsafe {
        next::send(fd, bytes, len, libc::MSG_NOSIGNAL) >= 0
            && next::recv(fd, errno_bytes.as_mut_ptr().cast(), errno_bytes.len(), 0) == 4
    };
    match (answered, c_int::from_ne_bytes(errno_bytes)) {
        (true, 0) => ssize_t::try_from(len).unwrap_or(ssize_t::MAX),
        (true, errno) => {
            set_errno(errno);
            -1
        }
        (false, _) => {
            set_errno(libc::EIO);
            -1
        }
    }
}

fn ask(connection: c_int, path: &Path, close_on_exec: bool) -> Option<c_int> {
    let mut request = [0; REQUEST_BYTES];
    let path = path.bytes();
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

/// The functions of a stream that are ours; the others are null.
#[repr(C)]
struct StreamFunctions {
    read: *const c_void,
    write: unsafe extern "C" fn(*mut c_void, *const c_char, size_t) -> ssize_t,
    seek: *const c_void,
    close: unsafe extern "C" fn(*mut c_void) -> c_int,
}

unsafe extern "C" {
    fn fopencookie(cookie: *mut c_void, mode: *const c_char, functions: StreamFunctions) -> *mut FILE;
}

unsafe extern "C" fn write_stream(cookie: *mut c_void, bytes: *const c_char, len: size_t) -> ssize_t {
    // SAFETY: the C library passes readable bytes; the cookie is a descriptor.
    let written = unsafe { write_setting(cookie as usize as c_int, bytes.cast(), len) };
    // A stream's function says 0 where write says -1.
    written.max(0)
}

unsafe extern "C" fn close_stream(cookie: *mut c_void) -> c_int {
    // SAFETY: the cookie is a descriptor that only the stream has.
    unsafe { libc::close(cookie as usize as c_int) }
}

/// The file as a C stream, for programs that read or write line by line.
///
/// # Safety
/// `mode` is a C string.
unsafe fn stream(path: &Path, mode: *const c_char) -> *mut FILE {
    // SAFETY: the caller vouches for it.
    let words = unsafe { CStr::from_ptr(mode) }.to_bytes();
    let close_on_exec = words.contains(&b'e');
    if words.first() != Some(&b'r') || words.contains(&b'+') {
        let fd = descriptor(path, libc::O_WRONLY | if close_on_exec { libc::O_CLOEXEC } else { 0 });
        if fd < 0 {
            return null_mut();
        }
        let functions = StreamFunctions {
            read: core::ptr::null(),
            write: write_stream,
            seek: core::ptr::null(),
            close: close_stream,
        };
        // SAFETY: the functions have the prototypes of a stream's, and the cookie is a number.
        return unsafe { fopencookie(fd as usize as *mut c_void, c"w".as_ptr(), functions) };
    }
    let fd = descriptor(path, if close_on_exec { libc::O_CLOEXEC } else { 0 });
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

fn fail(errno: c_int) -> c_int {
    set_errno(errno);
    -1
}

fn descriptor(path: &Path, flags: c_int) -> c_int {
    let Some(twin) = path.twin() else {
        return fail(libc::ENOENT);
    };
    // SAFETY: the path is a C string; a folder is opened only as one.
    let folder = unsafe { next::open(twin.as_ptr(), libc::O_DIRECTORY | (flags & libc::O_CLOEXEC), 0) };
    if folder >= 0 {
        return folder;
    }
    // SAFETY: the path is a C string.
    let exists = path.is_module_list() || unsafe { next::access(twin.as_ptr(), libc::F_OK) } == 0;
    let creates = flags & (libc::O_CREAT | libc::O_EXCL) == libc::O_CREAT | libc::O_EXCL;
    // SAFETY: takes nothing.
    let is_root = unsafe { libc::geteuid() } == 0;
    match flags & libc::O_ACCMODE {
        _ if !exists => fail(libc::ENOENT),
        _ if creates => fail(libc::EEXIST),
        _ if flags & libc::O_DIRECTORY != 0 => fail(libc::ENOTDIR),
        libc::O_RDONLY => text(path, flags & libc::O_CLOEXEC != 0),
        _ if path.is_setting() && is_root => setting(path, flags & libc::O_CLOEXEC != 0),
        _ => fail(libc::EACCES),
    }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fopen(name: *const c_char, mode: *const c_char) -> *mut FILE {
    // SAFETY: the caller keeps fopen's contract.
    match unsafe { path::ours(libc::AT_FDCWD, name) } {
        // SAFETY: as above.
        Some(path) if !mode.is_null() => unsafe { stream(&path, mode) },
        // SAFETY: as above.
        _ => unsafe { next::fopen(name, mode) },
    }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fopen64(name: *const c_char, mode: *const c_char) -> *mut FILE {
    // SAFETY: the caller keeps fopen's contract.
    match unsafe { path::ours(libc::AT_FDCWD, name) } {
        // SAFETY: as above.
        Some(path) if !mode.is_null() => unsafe { stream(&path, mode) },
        // SAFETY: as above.
        _ => unsafe { next::fopen64(name, mode) },
    }
}

macro_rules! opens {
    ($($name:ident($path:ident, $flags:expr $(, $arg:ident: $kind:ty)*);)*) => {$(
        /// See the C library.
        ///
        /// # Safety
        /// As for the C function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($path: *const c_char $(, $arg: $kind)*) -> c_int {
            // SAFETY: the caller keeps the C function's contract.
            match unsafe { path::ours(libc::AT_FDCWD, $path) } {
                Some(found) => descriptor(&found, $flags),
                // SAFETY: as above.
                None => unsafe { next::$name($path $(, $arg)*) },
            }
        }
    )*};
}

opens! {
    open(path, flags, flags: c_int, mode: mode_t);
    open64(path, flags, flags: c_int, mode: mode_t);
    __open_2(path, flags, flags: c_int);
    __open64_2(path, flags, flags: c_int);
    creat(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, mode: mode_t);
    creat64(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, mode: mode_t);
}

macro_rules! opens_below {
    ($($name:ident($folder:ident, $path:ident, $flags:ident $(, $arg:ident: $kind:ty)?);)*) => {$(
        /// See the C library.
        ///
        /// # Safety
        /// As for the C function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($folder: c_int, $path: *const c_char, $flags: c_int $(, $arg: $kind)?) -> c_int {
            // SAFETY: the caller keeps the C function's contract.
            match unsafe { path::ours($folder, $path) } {
                Some(found) => descriptor(&found, $flags),
                // SAFETY: as above.
                None => unsafe { next::$name($folder, $path, $flags $(, $arg)?) },
            }
        }
    )*};
}

opens_below! {
    openat(folder, path, flags, mode: mode_t);
    openat64(folder, path, flags, mode: mode_t);
    __openat_2(folder, path, flags);
    __openat64_2(folder, path, flags);
}
