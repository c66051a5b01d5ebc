//! Starting programs: modprobe for IPVS succeeds and loads nothing, and what the library cannot follow gets a launcher.
//!
//! In:  a path and arguments. Out: the same call, or one with another path and other arguments, made on the stack because a
//! child of vfork has its parent's memory.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::null;

use crate::next::set_errno;
use crate::{lead, next, settings};

/// The most arguments of a command that is started in another way.
const ARGUMENTS_MAX: usize = 1024;
/// Ends with success and does nothing.
const NOTHING: &CStr = c"/bin/true";
/// `lvs-run --name ARGV0 --` stands before the path.
const BEFORE: usize = 5;

type Arguments = *const *const c_char;

/// What becomes of a command.
enum Verdict {
    Run,
    /// It would load IPVS and nothing else.
    Succeed,
    /// It would remove IPVS.
    Refuse,
    /// Some of its modules are those of IPVS.
    Without,
    /// The library cannot follow it.
    Launch,
}

fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

fn is_module(word: &[u8]) -> bool {
    let is_ip_vs = |rest: &[u8]| matches!(rest.first(), None | Some(b'_' | b'-' | b'.'));
    let word = base(word);
    let rest = word.strip_prefix(b"ip_vs").or_else(|| word.strip_prefix(b"ip-vs"));
    rest.is_some_and(is_ip_vs)
}

/// The argument of this number.
///
/// # Safety
/// `argv` is a list of C strings with a null at its end, and no argument before this one is missing.
unsafe fn argument<'a>(argv: Arguments, index: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller vouches for it.
    unsafe {
        let text = *argv.add(index);
        (!text.is_null()).then(|| CStr::from_ptr(text).to_bytes())
    }
}

/// # Safety
/// As for execve.
unsafe fn judge(path: &CStr, argv: Arguments) -> Verdict {
    // SAFETY: execve's contract.
    let first = unsafe { argument(argv, 0) }.unwrap_or_default();
    let is_modprobe = base(path.to_bytes()) == b"modprobe" || base(first) == b"modprobe";
    if !is_modprobe {
        return if lead::needs_launcher(path) {
            Verdict::Launch
        } else {
            Verdict::Run
        };
    }
    let (mut all, mut removes, mut ours, mut others, mut index) = (false, false, 0, 0, 1);
    // SAFETY: execve's contract; the loop ends at the null.
    while let Some(word) = unsafe { argument(argv, index) } {
        let is_short = word.len() > 1 && word.first() == Some(&b'-') && word.get(1) != Some(&b'-');
        match word {
            word if is_short => {
                all = all || word.contains(&b'a');
                removes = removes || word.contains(&b'r');
            }
            b"--all" => all = true,
            b"--remove" => removes = true,
            [b'-', ..] => {}
            word if is_module(word) && (ours + others == 0 || all || removes) => ours += 1,
            _ => others += 1,
        }
        index += 1;
    }
    match (ours, removes) {
        (0, _) => Verdict::Run,
        (_, true) => Verdict::Refuse,
        (_, false) if all && others > 0 => Verdict::Without,
        (_, false) => Verdict::Succeed,
    }
}

/// A command as it is started.
struct Command {
    path: *const c_char,
    list: [*const c_char; ARGUMENTS_MAX],
    is_changed: bool,
}

impl Command {
    /// What to start for `path`. `None` when it is refused.
    ///
    /// # Safety
    /// As for execve; `path` outlives the command.
    unsafe fn of(path: &CStr, argv: Arguments) -> Option<Self> {
        let mut command = Self {
            path: path.as_ptr(),
            list: [null(); ARGUMENTS_MAX],
            is_changed: false,
        };
        if argv.is_null() || !settings::enabled() {
            return Some(command);
        }
        // SAFETY: execve's contract.
        match unsafe { judge(path, argv) } {
            Verdict::Run => {}
            Verdict::Refuse => {
                set_errno(libc::ENOENT);
                return None;
            }
            Verdict::Succeed => command.path = NOTHING.as_ptr(),
            // SAFETY: execve's contract.
            Verdict::Without => unsafe { command.copy(argv, 0, 0, |word| !is_module(word)) }?,
            Verdict::Launch => {
                let launcher = settings::launcher().as_ptr();
                // SAFETY: execve's contract.
                let name = unsafe { *argv };
                let name = if name.is_null() { path.as_ptr() } else { name };
                let before = [launcher, c"--name".as_ptr(), name, c"--".as_ptr(), path.as_ptr()];
                for (to, from) in command.list.iter_mut().zip(before) {
                    *to = from;
                }
                command.path = launcher;
                // SAFETY: execve's contract.
                unsafe { command.copy(argv, usize::from(!(*argv).is_null()), BEFORE, |_| true) }?;
            }
        }
        Some(command)
    }

    /// Copies the arguments from `from` that `keep` keeps to the list's place `to`.
    ///
    /// # Safety
    /// As for execve.
    unsafe fn copy(&mut self, argv: Arguments, from: usize, to: usize, keep: impl Fn(&[u8]) -> bool) -> Option<()> {
        let (mut index, mut place) = (from, to);
        // SAFETY: execve's contract; the loop ends at the null.
        while let Some(word) = unsafe { argument(argv, index) } {
            if keep(word) {
                // The last place keeps its null.
                if place + 1 >= ARGUMENTS_MAX {
                    set_errno(libc::E2BIG);
                    return None;
                }
                // SAFETY: as above.
                *self.list.get_mut(place)? = unsafe { *argv.add(index) };
                place += 1;
            }
            index += 1;
        }
        self.is_changed = true;
        Some(())
    }

    fn arguments(&self, argv: Arguments) -> Arguments {
        if self.is_changed { self.list.as_ptr() } else { argv }
    }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execve(path: *const c_char, argv: Arguments, envp: Arguments) -> c_int {
    // SAFETY: the caller keeps execve's contract.
    unsafe {
        if path.is_null() {
            return next::execve(path, argv, envp);
        }
        match Command::of(CStr::from_ptr(path), argv) {
            Some(command) => next::execve(command.path, command.arguments(argv), envp),
            None => -1,
        }
    }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execv(path: *const c_char, argv: Arguments) -> c_int {
    // SAFETY: the caller keeps execv's contract.
    unsafe {
        if path.is_null() {
            return next::execv(path, argv);
        }
        match Command::of(CStr::from_ptr(path), argv) {
            Some(command) => next::execv(command.path, command.arguments(argv)),
            None => -1,
        }
    }
}

/// The command for a name that is looked for in PATH. Returns the name itself where the program starts as it is, because a
/// shell may have to run it.
///
/// # Safety
/// As for execvp.
unsafe fn found_in_path<T>(
    file: *const c_char,
    argv: Arguments,
    start: impl FnOnce(*const c_char, Arguments) -> T,
) -> Option<T> {
    let mut buffer = lead::buffer();
    // SAFETY: execvp's contract.
    unsafe {
        let Some(path) = (!file.is_null()).then(|| lead::find(file, &mut buffer)).flatten() else {
            return Some(start(file, argv));
        };
        let command = Command::of(path, argv)?;
        let is_as_it_is = command.path == path.as_ptr();
        let path = if is_as_it_is { file } else { command.path };
        Some(start(path, command.arguments(argv)))
    }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execvp(file: *const c_char, argv: Arguments) -> c_int {
    // SAFETY: the caller keeps execvp's contract.
    unsafe { found_in_path(file, argv, |path, argv| next::execvp(path, argv)) }.unwrap_or(-1)
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execvpe(file: *const c_char, argv: Arguments, envp: Arguments) -> c_int {
    // SAFETY: the caller keeps execvpe's contract.
    unsafe { found_in_path(file, argv, |path, argv| next::execvpe(path, argv, envp)) }.unwrap_or(-1)
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_spawn(
    pid: *mut c_int,
    path: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    argv: Arguments,
    envp: Arguments,
) -> c_int {
    // SAFETY: the caller keeps posix_spawn's contract.
    unsafe {
        if path.is_null() {
            return next::posix_spawn(pid, path, actions, attributes, argv, envp);
        }
        match Command::of(CStr::from_ptr(path), argv) {
            Some(command) => next::posix_spawn(pid, command.path, actions, attributes, command.arguments(argv), envp),
            None => libc::ENOENT,
        }
    }
}

/// See the C library.
///
/// # Safety
/// As for the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_spawnp(
    pid: *mut c_int,
    file: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    argv: Arguments,
    envp: Arguments,
) -> c_int {
    // SAFETY: the caller keeps posix_spawnp's contract.
    let started = unsafe {
        found_in_path(file, argv, |path, argv| {
            next::posix_spawnp(pid, path, actions, attributes, argv, envp)
        })
    };
    started.unwrap_or(libc::ENOENT)
}
