//! Connections to lvsd, and the replacement of a dead one.
//!
//! A dead connection is replaced by a datagram socket that is connected to itself and holds the error message. Poll and
//! recv see that message until it is read. After that the socket waits as a netlink socket would. After an end of file
//! keepalived would ask for ever.

use core::ffi::{CStr, c_int, c_void};
use core::mem::{MaybeUninit, offset_of, size_of, zeroed};
use core::sync::atomic::{AtomicBool, Ordering};

use libc::{sockaddr, sockaddr_un, socklen_t, timeval};

use crate::tracked::Tracked;
use crate::{netlink, next, settings};

const HELLO_MAGIC: [u8; 8] = *b"LVSDNL1\0";
const CANCEL_MAGIC: [u8; 8] = *b"LVSDCN1\0";
const RETRY_MS: u32 = 100;

/// Whether this process has ever reached the daemon. It waits for the daemon only before that.
static REACHED: AtomicBool = AtomicBool::new(false);

fn close(fd: c_int) {
    // SAFETY: closes a descriptor this module opened.
    unsafe { libc::close(fd) };
}

/// Sends one datagram. Returns whether all of it was sent.
fn send_all(fd: c_int, bytes: &[u8]) -> bool {
    // SAFETY: the slice is readable for its length.
    let sent = unsafe { next::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    usize::try_from(sent) == Ok(bytes.len())
}

fn set_time_limit(fd: c_int, option: c_int, timeout_ms: u32) {
    let limit = timeval {
        tv_sec: libc::time_t::from(timeout_ms / 1000),
        tv_usec: libc::suseconds_t::from(timeout_ms % 1000 * 1000),
    };
    let len = size_of::<timeval>() as socklen_t;
    // SAFETY: the value is a timeval of that length.
    unsafe { next::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const limit).cast(), len) };
}

/// A connected socket with a time limit on its calls, or `None`.
fn connect_once() -> Option<c_int> {
    // SAFETY: makes a socket.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return None;
    }
    set_time_limit(fd, libc::SO_SNDTIMEO, settings::timeout_ms());
    set_time_limit(fd, libc::SO_RCVTIMEO, settings::timeout_ms());
    // SAFETY: all zeros is a valid sockaddr_un.
    let mut name: sockaddr_un = unsafe { zeroed() };
    name.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let path = settings::socket_path().to_bytes_with_nul();
    if path.len() > name.sun_path.len() {
        close(fd);
        return None;
    }
    for (to, from) in name.sun_path.iter_mut().zip(path) {
        *to = *from as libc::c_char;
    }
    let len = size_of::<sockaddr_un>() as socklen_t;
    // SAFETY: the name is a sockaddr_un of that length.
    if unsafe { libc::connect(fd, (&raw const name).cast(), len) } != 0 {
        close(fd);
        return None;
    }
    Some(fd)
}

/// A connection. If the daemon was never reached before, this waits as long as the environment allows.
pub(crate) fn connect() -> Option<c_int> {
    let mut left_ms = if REACHED.load(Ordering::Relaxed) {
        0
    } else {
        settings::wait_ms()
    };
    loop {
        if let Some(fd) = connect_once() {
            REACHED.store(true, Ordering::Relaxed);
            return Some(fd);
        }
        if left_ms == 0 {
            return None;
        }
        let pause_ms = left_ms.min(RETRY_MS);
        // SAFETY: sleeps.
        unsafe { libc::usleep(pause_ms * 1000) };
        left_ms -= pause_ms;
    }
}

/// Replaces the socket of `fd` by a connection on which hello was sent. Returns whether that worked.
pub(crate) fn divert(fd: c_int, tracked: &Tracked) -> bool {
    let Some(connection) = connect() else {
        return false;
    };
    if !send_all(connection, &hello(tracked.port_id.load(Ordering::Relaxed))) {
        close(connection);
        return false;
    }
    let replaced = replace(fd, connection);
    if replaced {
        tracked.follow(fd);
        tracked.dead.store(false, Ordering::Release);
    }
    replaced
}

fn hello(port_id: u32) -> [u8; 48] {
    let mut comm = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, comm.as_mut_ptr()) };
    // SAFETY: asks for the process id.
    let pid = unsafe { libc::getpid() };
    let parts: [&[u8]; 6] = [
        &HELLO_MAGIC,
        &port_id.to_ne_bytes(),
        &pid.to_ne_bytes(),
        &comm,
        &inode(c"/proc/self/ns/net").to_ne_bytes(),
        &settings::timeout_ms().to_ne_bytes(),
    ];
    let mut bytes = [0; 48];
    let source = parts.iter().flat_map(|part| part.iter());
    for (to, from) in bytes.iter_mut().zip(source) {
        *to = *from;
    }
    bytes
}

fn inode(path: &CStr) -> u64 {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the path is a C string; stat writes the struct or fails.
    if unsafe { libc::stat(path.as_ptr(), status.as_mut_ptr()) } != 0 {
        return 0;
    }
    // SAFETY: it did not fail.
    unsafe { status.assume_init() }.st_ino
}

/// Makes `fd` refer to the socket of `fresh`, keeps its blocking mode and close-on-exec, and closes `fresh`.
fn replace(fd: c_int, fresh: c_int) -> bool {
    // SAFETY: fcntl and dup3 take descriptors and flags only.
    let replaced = unsafe {
        let status = libc::fcntl(fd, libc::F_GETFL);
        if status >= 0 && status & libc::O_NONBLOCK != 0 {
            libc::fcntl(fresh, libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK);
        }
        let keep = libc::fcntl(fd, libc::F_GETFD) & libc::FD_CLOEXEC == 0;
        libc::dup3(fresh, fd, if keep { 0 } else { libc::O_CLOEXEC }) >= 0
    };
    close(fresh);
    replaced
}

/// Drops the connection of `fd`, so that no late answer is read from it, and answers a pending request with `ENODEV`.
/// Fails only when the process has no descriptor left.
pub(crate) fn disconnect(fd: c_int, tracked: &Tracked) -> bool {
    if !tracked.dead.load(Ordering::Acquire) {
        let mut cancel = [0; 12];
        let sequence = tracked.sequence.load(Ordering::Relaxed).to_ne_bytes();
        for (to, from) in cancel.iter_mut().zip(CANCEL_MAGIC.iter().chain(&sequence)) {
            *to = *from;
        }
        // SAFETY: the array is readable for its length.
        unsafe {
            next::send(
                fd,
                cancel.as_ptr().cast(),
                cancel.len(),
                libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            )
        };
        // SAFETY: takes a descriptor only.
        unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
    }
    let Some(fresh) = self_connected() else {
        return false;
    };
    if tracked.waiting.swap(false, Ordering::AcqRel) {
        send_all(fresh, &netlink::error(tracked, libc::ENODEV));
    }
    let replaced = replace(fd, fresh);
    if replaced {
        tracked.follow(fd);
        tracked.dead.store(true, Ordering::Release);
    }
    replaced
}

/// A socket that receives what is sent on it, and never an end of file.
fn self_connected() -> Option<c_int> {
    // SAFETY: makes a socket.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return None;
    }
    // SAFETY: all zeros is a valid sockaddr_un.
    let mut name: sockaddr_un = unsafe { zeroed() };
    name.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let address = (&raw mut name).cast::<sockaddr>();
    let mut len = size_of::<sockaddr_un>() as socklen_t;
    // SAFETY: a name of only the family asks for a free abstract one; it is then read back into a
    // sockaddr_un and connected to.
    let connected = unsafe {
        next::bind(fd, address, offset_of!(sockaddr_un, sun_path) as socklen_t) == 0
            && next::getsockname(fd, address, &raw mut len) == 0
            && libc::connect(fd, address, len) == 0
    };
    if connected {
        return Some(fd);
    }
    close(fd);
    None
}

/// The value of a socket option that is a number.
pub(crate) fn number_option(fd: c_int, option: c_int) -> Option<c_int> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as socklen_t;
    let target: *mut c_void = (&raw mut value).cast();
    // SAFETY: the value is an int of that length.
    let failed = unsafe { next::getsockopt(fd, libc::SOL_SOCKET, option, target, &raw mut len) } != 0;
    (!failed).then_some(value)
}
