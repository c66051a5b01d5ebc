//! Which paths are files of a kernel with IPVS, under whatever name a program gives them.
//!
//! In:  a folder's descriptor and a path. Out: the canonical name, and the empty file of that name beside lvsd's socket, of
//! which the system can say what a program asks. The twin of `lvs_api::kernel_files`, without memory of its own.

use core::ffi::{CStr, c_char, c_int};

use crate::settings;

/// Longer paths are none of these files.
const PATH_BYTES: usize = 512;

/// A path with its closing NUL.
#[derive(Clone, Copy)]
pub(crate) struct Path {
    bytes: [u8; PATH_BYTES],
    len: usize,
}

impl Path {
    const fn new() -> Self {
        Self {
            bytes: [0; PATH_BYTES],
            len: 0,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// As C knows it. The last byte is always a NUL.
    pub(crate) fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }

    /// Appends what fits. Returns whether all did.
    fn push(&mut self, text: &[u8]) -> bool {
        let free = self.bytes.get_mut(self.len..PATH_BYTES - 1).unwrap_or_default();
        if text.len() > free.len() {
            return false;
        }
        for (to, from) in free.iter_mut().zip(text) {
            *to = *from;
        }
        self.len += text.len();
        true
    }

    fn truncate(&mut self, len: usize) {
        for byte in self.bytes.iter_mut().skip(len) {
            *byte = 0;
        }
        self.len = self.len.min(len);
    }

    /// Appends the parts of a path. `..` takes the last one away.
    fn append(&mut self, path: &[u8]) -> bool {
        path.split(|byte| *byte == b'/').all(|part| match part {
            b"" | b"." => true,
            b".." => {
                let cut = self.bytes().iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                self.truncate(cut);
                true
            }
            part => self.push(b"/") && self.push(part),
        })
    }

    fn link(name: &CStr) -> Option<Self> {
        let mut path = Self::new();
        // SAFETY: the name is a C string, and the buffer is writable for the length given.
        let len = unsafe { libc::readlink(name.as_ptr(), path.bytes.as_mut_ptr().cast(), PATH_BYTES - 1) };
        path.len = usize::try_from(len).ok()?;
        Some(path)
    }

    /// The folder behind a descriptor.
    fn of_folder(fd: c_int) -> Option<Self> {
        if fd == libc::AT_FDCWD {
            return Self::link(c"/proc/self/cwd");
        }
        let mut name = Self::new();
        name.push(b"/proc/self/fd/");
        let mut digits = [0; 10];
        let mut rest = u32::try_from(fd).ok()?;
        let mut count = 0;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
            count += 1;
            if rest == 0 {
                break;
            }
        }
        name.push(digits.get(10 - count..)?);
        Self::link(CStr::from_bytes_until_nul(&name.bytes).ok()?)
    }

    /// The setting that this canonical path is.
    pub(crate) fn is_setting(&self) -> bool {
        self.bytes().starts_with(SYSCTLS) && self.len > SYSCTLS.len()
    }

    pub(crate) fn is_module_list(&self) -> bool {
        self.bytes() == MODULES
    }

    /// The empty file of this name beside lvsd's socket.
    pub(crate) fn twin(&self) -> Option<Self> {
        let mut twin = Self::new();
        let is_whole = twin.push(settings::socket_path().to_bytes()) && twin.push(FILES) && twin.push(self.bytes());
        is_whole.then_some(twin)
    }
}

const SYSCTLS: &[u8] = b"/proc/sys/net/ipv4/vs";
const MODULES: &[u8] = b"/proc/modules";
/// What the name of the folder adds to that of the socket.
const FILES: &[u8] = b".files";

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part == word)
}

/// The canonical path, if it is one of a kernel with IPVS.
///
/// # Safety
/// `path` is a C string or null.
pub(crate) unsafe fn ours(folder: c_int, path: *const c_char) -> Option<Path> {
    if path.is_null() {
        return None;
    }
    // SAFETY: the caller vouches for it.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    let is_absolute = path.first() == Some(&b'/');
    let may_be = contains(path, b"ip_vs") || contains(path, b"vs") || contains(path, b"modules");
    let is_below = !is_absolute && folder != libc::AT_FDCWD && !path.is_empty();
    if !(may_be || is_below) || !settings::enabled() {
        return None;
    }
    let mut whole = Path::new();
    if !is_absolute {
        let base = Path::of_folder(folder)?;
        let base = base.bytes();
        let own = base
            .strip_prefix(settings::socket_path().to_bytes())
            .and_then(|rest| rest.strip_prefix(FILES));
        if !whole.append(own.unwrap_or(base)) {
            return None;
        }
    }
    whole.append(path).then_some(())?;
    let whole = of_own_process(whole)?;
    let is_below = |folder: &[u8]| {
        let rest = whole.bytes().strip_prefix(folder);
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    };
    let module = whole.bytes().strip_prefix(b"/sys/module/ip_vs");
    let is_module = module.is_some_and(|rest| matches!(rest.first(), None | Some(b'/' | b'_')));
    let is_ours = whole.bytes().starts_with(b"/proc/net/ip_vs") || is_below(SYSCTLS) || is_module;
    (is_ours || whole.is_module_list()).then_some(whole)
}

/// `/proc/net/x` for `/proc/PROCESS/net/x` and `/proc/PROCESS/task/THREAD/net/x`.
fn of_own_process(path: Path) -> Option<Path> {
    let is_process = |name: &[u8]| name == b"self" || name == b"thread-self" || name.iter().all(u8::is_ascii_digit);
    let rest = |path: &Path| {
        let rest = path.bytes().strip_prefix(b"/proc/")?;
        let end = rest.iter().position(|byte| *byte == b'/')?;
        let (process, mut rest) = rest.split_at_checked(end)?;
        if let Some(thread) = rest.strip_prefix(b"/task/") {
            let end = thread.iter().position(|byte| *byte == b'/')?;
            rest = thread.get(end..)?;
        }
        let is_net = is_process(process) && rest.starts_with(b"/net/");
        is_net.then(|| path.len - rest.len())
    };
    let Some(cut) = rest(&path) else {
        return Some(path);
    };
    let mut plain = Path::new();
    let is_whole = plain.push(b"/proc") && plain.push(path.bytes().get(cut..)?);
    is_whole.then_some(plain)
}
