//! Puts another socket behind all descriptors of one: its copies by dup, and where pollers wait for it.
//!
//! In:  a descriptor and a fresh socket. Out: every descriptor of this process that meant the old socket means the fresh one,
//! and every epoll instance that waited for the old one waits for the fresh one, with the same events and data.
//! Ref: proc(5) "fdinfo", epoll(7) Q1 and Q6.

use core::ffi::{CStr, c_int, c_long};

use libc::epoll_event;

use crate::tracked::inode_of;

/// More copies and registrations than event loops make.
const COPIES_MAX: usize = 64;
const NAME_BYTES: usize = 32;

/// Where a poller waits for one of the descriptors.
#[derive(Clone, Copy)]
struct Registration {
    poller: c_int,
    fd: c_int,
    events: u32,
    data: u64,
}

const NO_REGISTRATION: Registration = Registration {
    poller: -1,
    fd: -1,
    events: 0,
    data: 0,
};

/// Makes all descriptors of the socket behind `fd` refer to `fresh`, and keeps their blocking mode and close-on-exec.
/// `fresh` stays open. Returns whether `fd` itself was replaced.
pub(crate) fn replace_all(fd: c_int, fresh: c_int) -> bool {
    let inode = inode_of(fd);
    let mut copies = [-1; COPIES_MAX];
    let mut registrations = [NO_REGISTRATION; COPIES_MAX];
    let mut count = 0;
    if inode != 0 {
        each_descriptor(|other| {
            if other != fd && inode_of(other) == inode {
                push(&mut copies, other);
            }
        });
        each_descriptor(|poller| {
            each_registration(poller, |found| {
                let is_one = found.fd == fd || copies.contains(&found.fd);
                if let Some(place) = registrations.get_mut(count).filter(|_| is_one) {
                    *place = found;
                    count += 1;
                }
            })
        });
    }
    let is_replaced = replace_one(fd, fresh);
    for copy in copies.into_iter().filter(|copy| *copy >= 0) {
        put(fresh, copy);
    }
    for found in registrations.into_iter().take(count) {
        let mut event = epoll_event {
            events: found.events,
            u64: found.data,
        };
        // SAFETY: the event is valid for the call.
        unsafe { libc::epoll_ctl(found.poller, libc::EPOLL_CTL_ADD, found.fd, &raw mut event) };
    }
    is_replaced
}

/// Makes `fd` alone refer to `fresh`, and keeps its blocking mode and close-on-exec.
pub(crate) fn replace_one(fd: c_int, fresh: c_int) -> bool {
    // SAFETY: fcntl takes descriptors and flags only.
    unsafe {
        let status = libc::fcntl(fd, libc::F_GETFL);
        if status >= 0 && status & libc::O_NONBLOCK != 0 {
            libc::fcntl(fresh, libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK);
        }
    }
    put(fresh, fd)
}

fn push(places: &mut [c_int; COPIES_MAX], value: c_int) {
    if let Some(free) = places.iter_mut().find(|place| **place < 0) {
        *free = value;
    }
}

/// Makes `old` refer to the socket of `fresh` and keeps its close-on-exec.
fn put(fresh: c_int, old: c_int) -> bool {
    // SAFETY: fcntl and dup3 take descriptors and flags only.
    unsafe {
        let flags = libc::fcntl(old, libc::F_GETFD);
        let flags = if flags & libc::FD_CLOEXEC == 0 {
            0
        } else {
            libc::O_CLOEXEC
        };
        libc::dup3(fresh, old, flags) >= 0
    }
}

fn open(path: &CStr, flags: c_int) -> c_int {
    // SAFETY: the path is a C string. The library's own open would look at the path again.
    unsafe {
        libc::syscall(
            libc::SYS_openat,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags | libc::O_CLOEXEC,
            0,
        ) as c_int
    }
}

fn close(fd: c_int) {
    // SAFETY: closes a descriptor of this module.
    unsafe { libc::close(fd) };
}

/// Calls `visit` with every open descriptor of this process, as far as a folder's listing goes.
pub(crate) fn each_descriptor(mut visit: impl FnMut(c_int)) {
    let folder = open(c"/proc/self/fd", libc::O_RDONLY | libc::O_DIRECTORY);
    if folder < 0 {
        return;
    }
    // Aligned as the kernel's entries are.
    let mut buffer = [0_u64; 256];
    loop {
        let len = size_of_val(&buffer);
        // SAFETY: the buffer is writable for its length.
        let filled: c_long = unsafe { libc::syscall(libc::SYS_getdents64, folder, buffer.as_mut_ptr(), len) };
        let Ok(filled) = usize::try_from(filled) else {
            break;
        };
        if filled == 0 {
            break;
        }
        // SAFETY: the kernel wrote so many bytes, no more than the buffer has.
        let mut entries = unsafe { core::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), filled.min(len)) };
        // struct linux_dirent64: inode, offset, length at 16, type, name at 19.
        while let Some(size) = entries.get(16..).and_then(|rest| rest.first_chunk()) {
            let size = usize::from(u16::from_ne_bytes(*size));
            let name = entries.get(19..size).unwrap_or_default();
            if let Some(fd) = number(name, 10).and_then(|fd| c_int::try_from(fd).ok())
                && fd != folder
            {
                visit(fd);
            }
            match entries.get(size.max(1)..) {
                Some(rest) => entries = rest,
                None => break,
            }
        }
    }
    close(folder);
}

/// The number at the beginning of a text. `None` when there is none.
fn number(text: &[u8], base: u32) -> Option<u64> {
    let mut value: Option<u64> = None;
    for byte in text {
        let Some(digit) = char::from(*byte).to_digit(base) else {
            break;
        };
        let old = value.unwrap_or(0);
        value = Some(old.wrapping_mul(u64::from(base)).wrapping_add(u64::from(digit)));
    }
    value
}

/// The value behind a word of a line.
fn field(line: &[u8], word: &[u8], base: u32) -> Option<u64> {
    let at = line.windows(word.len()).position(|part| part == word)?;
    let rest = line.get(at + word.len()..)?;
    let start = rest.iter().position(|byte| *byte != b' ')?;
    number(rest.get(start..)?, base)
}

fn info_path(fd: c_int) -> [u8; NAME_BYTES] {
    let mut name = [0; NAME_BYTES];
    let mut digits = [0; 10];
    let (mut rest, mut count) = (fd.unsigned_abs(), 0);
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
        if rest == 0 {
            break;
        }
    }
    let digits = digits.iter().skip(10 - count);
    for (to, from) in name.iter_mut().zip(b"/proc/self/fdinfo/".iter().chain(digits)) {
        *to = *from;
    }
    name
}

/// Calls `visit` with what an epoll instance waits for: lines such as `tfd: 5 events: 19 data: 5 pos:0 ino:1 sdev:8`.
fn each_registration(poller: c_int, mut visit: impl FnMut(Registration)) {
    let path = info_path(poller);
    let Ok(path) = CStr::from_bytes_until_nul(&path) else {
        return;
    };
    let info = open(path, libc::O_RDONLY);
    if info < 0 {
        return;
    }
    let mut buffer = [0_u8; 2048];
    let mut kept = 0;
    loop {
        let free = buffer.get_mut(kept..).unwrap_or_default();
        // SAFETY: the rest of the buffer is writable for its length.
        let len = unsafe { libc::syscall(libc::SYS_read, info, free.as_mut_ptr(), free.len()) };
        let len = usize::try_from(len).unwrap_or(0);
        if len == 0 {
            break;
        }
        let filled = (kept + len).min(buffer.len());
        let mut begin = 0;
        while let Some(end) = buffer
            .get(begin..filled)
            .and_then(|rest| rest.iter().position(|byte| *byte == b'\n'))
        {
            let line = buffer.get(begin..begin + end).unwrap_or_default();
            if let Some(found) = registration(poller, line) {
                visit(found);
            }
            begin += end + 1;
        }
        buffer.copy_within(begin.min(filled)..filled, 0);
        kept = filled.saturating_sub(begin);
    }
    close(info);
}

fn registration(poller: c_int, line: &[u8]) -> Option<Registration> {
    Some(Registration {
        poller,
        fd: c_int::try_from(field(line, b"tfd:", 10)?).ok()?,
        events: field(line, b"events:", 16)? as u32,
        data: field(line, b"data:", 16)?,
    })
}
