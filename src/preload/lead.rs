//! Whether the library can be loaded into a program that this one starts, and if not, who else leads it to lvsd.
//!
//! In:  the path of a program. Out: yes, or no. A program that is static, of Go, of another C library, of another machine or
//! privileged is started by `lvs-run`, which supervises it or refuses it. The launcher looks again and more closely.
//! Ref: elf(5), ld.so(8) "secure-execution mode".

use core::ffi::{CStr, c_char, c_int, c_long};
use core::mem::MaybeUninit;

/// Bytes of a program's beginning: its header, its program headers, the name of its loader.
const HEAD_BYTES: usize = 4096;
/// How far the mark of a Go program may be from the beginning of its writable data.
const GO_MARK_WITHIN_BYTES: u64 = 1 << 18;
const GO_MARK: &[u8] = b"\xff Go buildinf:";
const GO_NOTE: &[u8] = b"Go\0\0";
/// `EM_*` of this machine.
const OWN_MACHINE: u64 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
/// The longest chain of scripts whose interpreter is a script.
const INTERPRETERS_MAX: usize = 4;
const PATH_BYTES: usize = 256;

struct File {
    fd: c_int,
}

impl File {
    fn open(path: &CStr) -> Option<Self> {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        // SAFETY: the path is a C string. The library's own open would look at the path again.
        let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0) };
        (fd >= 0).then_some(Self { fd: fd as c_int })
    }

    /// Reads at an offset. Returns how many bytes there are.
    fn read(&self, bytes: &mut [u8], offset: u64) -> usize {
        let offset = offset as libc::off_t;
        // SAFETY: the slice is writable for its length.
        let len = unsafe { libc::pread(self.fd, bytes.as_mut_ptr().cast(), bytes.len(), offset) };
        usize::try_from(len).unwrap_or(0)
    }

    fn is_privileged(&self) -> bool {
        const SET_ID: libc::mode_t = 0o6000;
        let mut status = MaybeUninit::<libc::stat>::uninit();
        let mut value = [0_u8; 64];
        // SAFETY: fstat writes the struct or fails; the array is writable for its length.
        unsafe {
            let is_set_id =
                libc::fstat(self.fd, status.as_mut_ptr()) == 0 && status.assume_init().st_mode & SET_ID != 0;
            let name = c"security.capability".as_ptr();
            is_set_id || libc::fgetxattr(self.fd, name, value.as_mut_ptr().cast(), value.len()) > 0
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: closes the descriptor of this value.
        unsafe { libc::close(self.fd) };
    }
}

fn number(bytes: &[u8], offset: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset.checked_add(len)?)?;
    Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part == word)
}

/// Whether the library cannot be loaded into the program at `path`. What cannot be read or is no program is the system's to
/// refuse.
pub(crate) fn needs_launcher(path: &CStr) -> bool {
    let mut name = [0_u8; PATH_BYTES];
    for (to, from) in name.iter_mut().take(PATH_BYTES - 1).zip(path.to_bytes()) {
        *to = *from;
    }
    for _ in 0..INTERPRETERS_MAX {
        let Some(file) = CStr::from_bytes_until_nul(&name).ok().and_then(File::open) else {
            return false;
        };
        let mut head = [0; HEAD_BYTES];
        let len = file.read(&mut head, 0);
        let head = head.get(..len).unwrap_or_default();
        if head.starts_with(b"\x7fELF") {
            return file.is_privileged() || !is_ours(&file, head).unwrap_or(false);
        }
        let Some(line) = head
            .strip_prefix(b"#!")
            .and_then(|rest| rest.split(|byte| *byte == b'\n').next())
        else {
            return false;
        };
        let mut words = line
            .split(|byte| matches!(byte, b' ' | b'\t'))
            .filter(|word| !word.is_empty());
        let Some(interpreter) = words.next() else {
            return false;
        };
        // env starts its program through this library again.
        let mut next = [0_u8; PATH_BYTES];
        for (to, from) in next.iter_mut().take(PATH_BYTES - 1).zip(interpreter) {
            *to = *from;
        }
        name = next;
    }
    false
}

/// Whether an ELF file is a dynamic program of this machine on glibc, and not of Go.
fn is_ours(file: &File, head: &[u8]) -> Option<bool> {
    let is_own = head.get(4..6)? == [2, 1] && number(head, 18, 2)? == OWN_MACHINE;
    if !is_own {
        return Some(false);
    }
    let (start, size, count) = (number(head, 32, 8)?, number(head, 54, 2)?, number(head, 56, 2)?);
    let (mut has_loader, mut is_go) = (false, false);
    for index in 0..count {
        let at = usize::try_from(start.checked_add(size.checked_mul(index)?)?).ok()?;
        let entry = head.get(at..)?;
        let (kind, flags) = (number(entry, 0, 4)?, number(entry, 4, 4)?);
        let (offset, len) = (number(entry, 8, 8)?, number(entry, 32, 8)?);
        match kind {
            3 => {
                let mut loader = [0; PATH_BYTES];
                let read = file.read(&mut loader, offset);
                has_loader = contains(loader.get(..read)?, b"/ld-linux");
            }
            4 => {
                let mut note = [0; PATH_BYTES];
                let read = file.read(&mut note, offset).min(usize::try_from(len).ok()?);
                is_go = is_go || contains(note.get(..read)?, GO_NOTE);
            }
            // A segment with writable data.
            1 if flags & 2 != 0 => is_go = is_go || has_mark(file, offset, len.min(GO_MARK_WITHIN_BYTES)),
            _ => {}
        }
    }
    Some(has_loader && !is_go)
}

fn has_mark(file: &File, start: u64, len: u64) -> bool {
    let mut buffer = [0; HEAD_BYTES];
    let mut at = start;
    let end = start.saturating_add(len);
    while at < end {
        let read = file.read(&mut buffer, at);
        if read < GO_MARK.len() {
            return false;
        }
        if contains(buffer.get(..read).unwrap_or_default(), GO_MARK) {
            return true;
        }
        // The mark may lie across the end of what was read.
        at += (read - GO_MARK.len() + 1) as c_long as u64;
    }
    false
}

/// The path of a program that is found as a shell does it; `buffer` holds it.
///
/// # Safety
/// `name` is a C string.
pub(crate) unsafe fn find(name: *const c_char, buffer: &mut [u8; PATH_BYTES]) -> Option<&CStr> {
    // SAFETY: the caller vouches for it; the environment's values are C strings.
    let (name, path) = unsafe {
        let path = libc::getenv(c"PATH".as_ptr());
        let path = if path.is_null() {
            c"/bin:/usr/bin"
        } else {
            CStr::from_ptr(path)
        };
        (CStr::from_ptr(name).to_bytes(), path.to_bytes())
    };
    let mut folders = path.split(|byte| *byte == b':');
    let no_folder: &[u8] = b"";
    let mut folder = if name.contains(&b'/') {
        Some(no_folder)
    } else {
        folders.next()
    };
    while let Some(place) = folder {
        let slash: &[u8] = if place.is_empty() { b"" } else { b"/" };
        let whole = place.iter().chain(slash).chain(name);
        *buffer = [0; PATH_BYTES];
        for (to, from) in buffer.iter_mut().take(PATH_BYTES - 1).zip(whole) {
            *to = *from;
        }
        let found = CStr::from_bytes_until_nul(buffer.as_slice()).ok()?;
        // SAFETY: the path is a C string.
        let is_program = unsafe { libc::syscall(libc::SYS_faccessat, libc::AT_FDCWD, found.as_ptr(), libc::X_OK) } == 0;
        if is_program {
            break;
        }
        folder = if name.contains(&b'/') { None } else { folders.next() };
    }
    folder?;
    CStr::from_bytes_until_nul(buffer.as_slice()).ok()
}

/// Space for the path of a program.
pub(crate) const fn buffer() -> [u8; PATH_BYTES] {
    [0; PATH_BYTES]
}
