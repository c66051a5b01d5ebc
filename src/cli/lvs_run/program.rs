//! Finds a program and decides how it can be led to lvsd, by what its file is.
//!
//! In:  a word as typed in a shell. Out: a path; what keeps a library out of the program; what keeps a supervisor out.
//! For a script its interpreter counts. Ref: execve(2) "Interpreter scripts"; ld.so(8) "secure-execution mode".

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::elf::{COMPANION_MACHINE, Image, OWN_MACHINE};

/// Bytes of a script's first line that the kernel reads.
const FIRST_LINE_BYTES: u64 = 256;
/// The longest chain of scripts whose interpreter is a script.
const INTERPRETERS_MAX: usize = 5;

/// Why a library cannot be preloaded into a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// There is no dynamic loader.
    Static,
    /// Set-uid or set-gid.
    SetId,
    /// File capabilities.
    Capabilities,
    /// Go's runtime makes its system calls itself.
    Go,
    /// A loader that is not glibc's, as musl's.
    Loader(PathBuf),
    /// It does not use the C library at all.
    NoLibc,
    /// A program for another kind of machine, by its `EM_*` number.
    Machine(u64),
    /// The 32-bit programs of this machine.
    ThirtyTwoBit,
    /// The ABI x32: 64-bit registers, 32-bit pointers.
    X32,
    /// Not readable, so nothing is known about it.
    Unreadable,
    /// Neither an ELF file nor a script.
    Unknown,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static => out.write_str("it is linked statically"),
            Self::SetId => out.write_str("it is set-uid or set-gid"),
            Self::Capabilities => out.write_str("it has file capabilities"),
            Self::Go => out.write_str("it is a Go program, which makes its system calls itself"),
            Self::Loader(path) => write!(out, "its loader is {}, not glibc's", path.display()),
            Self::NoLibc => out.write_str("it does not use the C library"),
            Self::Machine(number) => write!(out, "it is a program for another machine (ELF machine {number})"),
            Self::ThirtyTwoBit => out.write_str("it is a 32-bit program"),
            Self::X32 => out.write_str("it is a program of the x32 ABI"),
            Self::Unreadable => out.write_str("its file is not readable"),
            Self::Unknown => out.write_str("it is neither an ELF file nor a script"),
        }
    }
}

impl Obstacle {
    /// Whether a supervisor cannot lead the program either.
    pub(crate) fn bars_supervisor(&self) -> bool {
        matches!(self, Self::X32)
    }
}

/// A program in the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
}

impl Program {
    /// Finds a program as a shell does.
    pub(crate) fn find(name: &OsStr) -> Option<Self> {
        let is_program = |path: &PathBuf| {
            fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        if name.as_bytes().contains(&b'/') {
            return Some(PathBuf::from(name)).filter(is_program).map(|path| Self { path });
        }
        let path = env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
        let mut places = env::split_paths(&path).map(|folder| folder.join(name));
        places.find(is_program).map(|path| Self { path })
    }

    /// What keeps a library out of the program.
    pub(crate) fn obstacle(&self) -> Option<Obstacle> {
        // The kernel ignores these bits on a script.
        self.image().map_or_else(Some, |(path, image)| {
            privileges(&path).or_else(|| foreign(&image)).or_else(|| deaf(&image))
        })
    }

    /// Whether the program is a tool whose every way to IPVS is known: it links libnl's generic netlink itself.
    pub(crate) fn is_libnl_tool(&self) -> bool {
        self.image().is_ok_and(|(_, image)| {
            let is_libnl = |name: &Vec<u8>| name.starts_with(b"libnl-genl-3.so");
            image.needed.iter().any(is_libnl)
        })
    }

    /// The ELF file that runs in the end: the program itself, or the interpreter of a script.
    fn image(&self) -> Result<(PathBuf, Image), Obstacle> {
        let mut path = self.path.clone();
        for _ in 0..=INTERPRETERS_MAX {
            let Ok(file) = File::open(&path) else {
                return Err(Obstacle::Unreadable);
            };
            if let Some(image) = Image::read(&file) {
                return Ok((path, image));
            }
            path = interpreter(&file).ok_or(Obstacle::Unknown)?;
        }
        Err(Obstacle::Unknown)
    }
}

fn privileges(path: &Path) -> Option<Obstacle> {
    const SET_ID: u32 = 0o6000;
    if fs::metadata(path).is_ok_and(|found| found.mode() & SET_ID != 0) {
        return Some(Obstacle::SetId);
    }
    let mut value = [0; 64];
    rustix::fs::getxattr(path, "security.capability", &mut value)
        .is_ok()
        .then_some(Obstacle::Capabilities)
}

/// Whether the program's calls or loader are not those of this machine.
fn foreign(image: &Image) -> Option<Obstacle> {
    match (image.machine, image.is_64_bit, image.is_little_endian) {
        (OWN_MACHINE, true, true) => None,
        (OWN_MACHINE, false, true) => Some(Obstacle::X32),
        (COMPANION_MACHINE, false, true) => Some(Obstacle::ThirtyTwoBit),
        (machine, ..) => Some(Obstacle::Machine(machine)),
    }
}

/// Whether a library in front of the C library would not see all of the program's calls.
fn deaf(image: &Image) -> Option<Obstacle> {
    let Some(loader) = &image.loader else {
        return Some(Obstacle::Static);
    };
    let loader = Path::new(OsStr::from_bytes(loader));
    let is_glibc = loader
        .file_name()
        .is_some_and(|name| name.as_bytes().starts_with(b"ld-linux"));
    let needs = |library: &[u8]| image.needed.iter().any(|name| name.starts_with(library));
    if image.is_go || needs(b"libgo.so") {
        Some(Obstacle::Go)
    } else if !is_glibc {
        Some(Obstacle::Loader(loader.to_owned()))
    } else if image.needed.is_empty() {
        Some(Obstacle::NoLibc)
    } else {
        None
    }
}

/// The interpreter: `/usr/bin/perl` of `#! /usr/bin/perl -w`, `python3` of `#!/usr/bin/env -S python3 -u`.
fn interpreter(mut file: &File) -> Option<PathBuf> {
    let mut head = Vec::new();
    file.by_ref().take(FIRST_LINE_BYTES).read_to_end(&mut head).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = line
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty());
    let first = words.next()?;
    if !first.ends_with(b"/env") {
        return Some(PathBuf::from(OsStr::from_bytes(first)));
    }
    // Options and assignments come before the name of the program.
    let mut names = words.map(|word| word.strip_prefix(b"-S").unwrap_or(word));
    let name = names.find(|word| !word.is_empty() && !word.starts_with(b"-") && !word.contains(&b'='))?;
    Program::find(OsStr::from_bytes(name)).map(|program| program.path)
}
