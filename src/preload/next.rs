//! The C library's functions, which have the same names as this library's and come next in the search order.

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};

use libc::{FILE, iovec, mmsghdr, mode_t, msghdr, size_t, sockaddr, socklen_t, ssize_t, timespec};

/// The address of a function, looked up once.
struct Next {
    name: &'static CStr,
    address: AtomicUsize,
}

impl Next {
    const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            address: AtomicUsize::new(0),
        }
    }

    fn find(&self) -> *mut c_void {
        let known = self.address.load(Ordering::Relaxed);
        if known != 0 {
            return known as *mut c_void;
        }
        // SAFETY: the name is a C string; RTLD_NEXT asks for the definition after this library's.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.address.store(found as usize, Ordering::Relaxed);
        found
    }
}

macro_rules! next {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $result:ty, else $missing:expr;)*) => {$(
        /// The C library's function of this name.
        ///
        /// # Safety
        /// As for the C function.
        pub(crate) unsafe fn $name($($arg: $kind),*) -> $result {
            static NEXT: Next = Next::new(match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => c"",
            });
            let found = NEXT.find();
            if found.is_null() {
                set_errno(libc::ENOSYS);
                return $missing;
            }
            // SAFETY: the symbol of this name has this C prototype, and is not null.
            let function: unsafe extern "C" fn($($kind),*) -> $result = unsafe { core::mem::transmute(found) };
            // SAFETY: the caller keeps the C function's contract.
            unsafe { function($($arg),*) }
        }
    )*};
}

next! {
    sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t, else -1;
    recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t, else -1;
    sendto(fd: c_int, data: *const c_void, len: size_t, flags: c_int, name: *const sockaddr, name_len: socklen_t) -> ssize_t, else -1;
    send(fd: c_int, data: *const c_void, len: size_t, flags: c_int) -> ssize_t, else -1;
    recvfrom(fd: c_int, data: *mut c_void, len: size_t, flags: c_int, name: *mut sockaddr, name_len: *mut socklen_t) -> ssize_t, else -1;
    recv(fd: c_int, data: *mut c_void, len: size_t, flags: c_int) -> ssize_t, else -1;
    __recvfrom_chk(fd: c_int, data: *mut c_void, len: size_t, capacity: size_t, flags: c_int, name: *mut sockaddr, name_len: *mut socklen_t) -> ssize_t, else -1;
    __recv_chk(fd: c_int, data: *mut c_void, len: size_t, capacity: size_t, flags: c_int) -> ssize_t, else -1;
    bind(fd: c_int, name: *const sockaddr, name_len: socklen_t) -> c_int, else -1;
    getsockname(fd: c_int, name: *mut sockaddr, name_len: *mut socklen_t) -> c_int, else -1;
    setsockopt(fd: c_int, level: c_int, option: c_int, value: *const c_void, len: socklen_t) -> c_int, else -1;
    getsockopt(fd: c_int, level: c_int, option: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int, else -1;
    execv(path: *const c_char, argv: *const *const c_char) -> c_int, else -1;
    execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int, else -1;
    fopen(path: *const c_char, mode: *const c_char) -> *mut FILE, else core::ptr::null_mut();
    fopen64(path: *const c_char, mode: *const c_char) -> *mut FILE, else core::ptr::null_mut();
    open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int, else -1;
    open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int, else -1;
    openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int, else -1;
    openat64(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int, else -1;
    __open_2(path: *const c_char, flags: c_int) -> c_int, else -1;
    __open64_2(path: *const c_char, flags: c_int) -> c_int, else -1;
    __openat_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int, else -1;
    __openat64_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int, else -1;
    creat(path: *const c_char, mode: mode_t) -> c_int, else -1;
    creat64(path: *const c_char, mode: mode_t) -> c_int, else -1;
    stat(path: *const c_char, status: *mut c_void) -> c_int, else -1;
    stat64(path: *const c_char, status: *mut c_void) -> c_int, else -1;
    lstat(path: *const c_char, status: *mut c_void) -> c_int, else -1;
    lstat64(path: *const c_char, status: *mut c_void) -> c_int, else -1;
    fstatat(dir: c_int, path: *const c_char, status: *mut c_void, flags: c_int) -> c_int, else -1;
    fstatat64(dir: c_int, path: *const c_char, status: *mut c_void, flags: c_int) -> c_int, else -1;
    statx(dir: c_int, path: *const c_char, flags: c_int, mask: c_uint, status: *mut c_void) -> c_int, else -1;
    __fxstatat(version: c_int, dir: c_int, path: *const c_char, status: *mut c_void, flags: c_int) -> c_int, else -1;
    __fxstatat64(version: c_int, dir: c_int, path: *const c_char, status: *mut c_void, flags: c_int) -> c_int, else -1;
    __xstat(version: c_int, path: *const c_char, status: *mut c_void) -> c_int, else -1;
    __xstat64(version: c_int, path: *const c_char, status: *mut c_void) -> c_int, else -1;
    __lxstat(version: c_int, path: *const c_char, status: *mut c_void) -> c_int, else -1;
    __lxstat64(version: c_int, path: *const c_char, status: *mut c_void) -> c_int, else -1;
    readlink(path: *const c_char, target: *mut c_char, len: size_t) -> ssize_t, else -1;
    __readlink_chk(path: *const c_char, target: *mut c_char, len: size_t, capacity: size_t) -> ssize_t, else -1;
    realpath(path: *const c_char, resolved: *mut c_char) -> *mut c_char, else core::ptr::null_mut();
    __realpath_chk(path: *const c_char, resolved: *mut c_char, capacity: size_t) -> *mut c_char, else core::ptr::null_mut();
    canonicalize_file_name(path: *const c_char) -> *mut c_char, else core::ptr::null_mut();
    opendir(path: *const c_char) -> *mut c_void, else core::ptr::null_mut();
    access(path: *const c_char, mode: c_int) -> c_int, else -1;
    euidaccess(path: *const c_char, mode: c_int) -> c_int, else -1;
    eaccess(path: *const c_char, mode: c_int) -> c_int, else -1;
    faccessat(dir: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int, else -1;
    socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int, else -1;
    connect(fd: c_int, name: *const sockaddr, name_len: socklen_t) -> c_int, else -1;
    getpeername(fd: c_int, name: *mut sockaddr, name_len: *mut socklen_t) -> c_int, else -1;
    shutdown(fd: c_int, how: c_int) -> c_int, else -1;
    write(fd: c_int, data: *const c_void, len: size_t) -> ssize_t, else -1;
    writev(fd: c_int, pieces: *const iovec, count: c_int) -> ssize_t, else -1;
    read(fd: c_int, data: *mut c_void, len: size_t) -> ssize_t, else -1;
    __read_chk(fd: c_int, data: *mut c_void, len: size_t, capacity: size_t) -> ssize_t, else -1;
    readv(fd: c_int, pieces: *const iovec, count: c_int) -> ssize_t, else -1;
    sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int, else -1;
    recvmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, limit: *mut timespec) -> c_int, else -1;
    execvp(file: *const c_char, argv: *const *const c_char) -> c_int, else -1;
    execvpe(file: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int, else -1;
    posix_spawn(pid: *mut c_int, path: *const c_char, actions: *const c_void, attributes: *const c_void, argv: *const *const c_char, envp: *const *const c_char) -> c_int, else libc::ENOSYS;
    posix_spawnp(pid: *mut c_int, path: *const c_char, actions: *const c_void, attributes: *const c_void, argv: *const *const c_char, envp: *const *const c_char) -> c_int, else libc::ENOSYS;
}

/// Sets the calling thread's error number.
pub(crate) fn set_errno(errno: c_int) {
    // SAFETY: the C library gives a valid address for as long as the thread lives.
    unsafe { *libc::__errno_location() = errno }
}

/// The calling thread's error number.
pub(crate) fn errno() -> c_int {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() }
}
