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
use crate::{netlink, next, rewire, settings, tracked};

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
pub(crate) fn connect_once() -> Option<c_int> {
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
    let family_len = offset_of!(sockaddr_un, sun_path) as socklen_t;
    // SAFETY: the name is a sockaddr_un of that length. A name of only the family asks for a free abstract one, by which a
    // program that inherits the socket knows it.
    let connected = unsafe {
        next::bind(fd, (&raw const name).cast(), family_len) == 0
            && next::connect(fd, (&raw const name).cast(), len) == 0
    };
    if !connected {
        close(fd);
        return None;
    }
    REACHED.store(true, Ordering::Relaxed);
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
    connect().is_some_and(|connection| say_hello(fd, tracked, connection, replace))
}

/// Puts a connection behind the descriptor of a socket that nobody else knows yet. Returns whether that worked.
pub(crate) fn begin_as(fd: c_int, tracked: &Tracked, connection: c_int) -> bool {
    say_hello(fd, tracked, connection, |fd, fresh| {
        let replaced = rewire::replace_one(fd, fresh);
        close(fresh);
        replaced
    })
}

/// Says hello on a connection and puts it behind `fd`. Returns whether that worked.
fn say_hello(fd: c_int, tracked: &Tracked, connection: c_int, replace: impl Fn(c_int, c_int) -> bool) -> bool {
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

/// Makes `fd` and its copies refer to the socket of `fresh`, and closes `fresh`.
fn replace(fd: c_int, fresh: c_int) -> bool {
    let replaced = rewire::replace_all(fd, fresh);
    close(fresh);
    replaced
}

/// Makes `fd` a netlink socket of the kernel with the name and options that it has so far. Returns whether that worked.
pub(crate) fn return_to_kernel(fd: c_int, tracked: &Tracked) -> bool {
    let kind = tracked.kind.load(Ordering::Relaxed) | libc::SOCK_CLOEXEC;
    // SAFETY: makes a socket.
    let fresh = unsafe { next::socket(libc::AF_NETLINK, kind, libc::NETLINK_GENERIC) };
    if fresh < 0 {
        return false;
    }
    let options = tracked.options.load(Ordering::Relaxed);
    for option in (1..=31).filter(|option| options & 1 << option != 0) {
        let on: c_int = 1;
        let len = size_of::<c_int>() as socklen_t;
        // SAFETY: the value is an int of that length.
        unsafe { next::setsockopt(fresh, libc::SOL_NETLINK, option, (&raw const on).cast(), len) };
    }
    if tracked.bound.load(Ordering::Relaxed) {
        bind_netlink(fresh, tracked.port_id.load(Ordering::Relaxed));
    }
    let replaced = replace(fd, fresh);
    if replaced {
        tracked.forget();
    }
    replaced
}

/// Gives a netlink socket a port id; 0 for any. Returns whether that worked.
fn bind_netlink(fd: c_int, port_id: u32) -> bool {
    // SAFETY: all zeros is a valid sockaddr_nl.
    let mut name: libc::sockaddr_nl = unsafe { zeroed() };
    name.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    name.nl_pid = port_id;
    // SAFETY: the name is a sockaddr_nl of that length.
    unsafe {
        next::bind(
            fd,
            (&raw const name).cast(),
            size_of::<libc::sockaddr_nl>() as socklen_t,
        ) == 0
    }
}

/// Whether the kernel would give a socket this port id.
pub(crate) fn may_have_port_id(port_id: u32) -> bool {
    if tracked::has_port_id(port_id) {
        return false;
    }
    // SAFETY: makes a socket.
    let probe = unsafe {
        next::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_GENERIC,
        )
    };
    if probe < 0 {
        return true;
    }
    let is_free = bind_netlink(probe, port_id);
    close(probe);
    is_free
}

/// A port id as the kernel gives them: the process's id, then numbers that are none.
pub(crate) fn free_port_id() -> u32 {
    /// The first of the kernel's own, which it counts downwards.
    const FIRST: u32 = 0_u32.wrapping_sub(4097);
    // SAFETY: asks for the process id.
    let own = unsafe { libc::getpid() } as u32;
    if !tracked::has_port_id(own) {
        return own;
    }
    let mut candidate = FIRST;
    while tracked::has_port_id(candidate) {
        candidate = candidate.wrapping_sub(1);
    }
    candidate
}

/// Sends the daemon the port id that its answers must carry from now on.
pub(crate) fn rename(fd: c_int, tracked: &Tracked) {
    send_all(fd, &hello(tracked.port_id.load(Ordering::Relaxed)));
}

/// Finds connections among the descriptors that this process began with: a program may inherit a netlink socket.
pub(crate) fn adopt_inherited() {
    if !settings::enabled() {
        return;
    }
    let before = crate::next::errno();
    rewire::each_descriptor(|fd| {
        if is_connection(fd)
            && let Some(entry) = tracked::remember(free_port_id(), libc::SOCK_RAW)
        {
            entry.bound.store(true, Ordering::Relaxed);
            entry.dead.store(false, Ordering::Release);
            entry.follow(fd);
        }
    });
    crate::next::set_errno(before);
}

/// Whether a descriptor is a connection to the daemon that stands for a netlink socket.
fn is_connection(fd: c_int) -> bool {
    if tracked::inode_of(fd) == 0 {
        return false;
    }
    // SAFETY: all zeros is a valid sockaddr_un.
    let (mut own, mut peer): (sockaddr_un, sockaddr_un) = unsafe { (zeroed(), zeroed()) };
    let (mut own_len, mut peer_len) = (
        size_of::<sockaddr_un>() as socklen_t,
        size_of::<sockaddr_un>() as socklen_t,
    );
    // SAFETY: the names are sockaddr_un of that length.
    let is_known = unsafe {
        next::getpeername(fd, (&raw mut peer).cast(), &raw mut peer_len) == 0
            && next::getsockname(fd, (&raw mut own).cast(), &raw mut own_len) == 0
    };
    let is_unix = c_int::from(peer.sun_family) == libc::AF_UNIX;
    let has_name = own_len as usize > offset_of!(sockaddr_un, sun_path);
    // The daemon opens its socket by a longer name and renames it.
    let path = settings::socket_path().to_bytes();
    let is_daemon = peer
        .sun_path
        .iter()
        .zip(path)
        .all(|(found, wanted)| *found as u8 == *wanted);
    is_known && is_unix && has_name && is_daemon
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
