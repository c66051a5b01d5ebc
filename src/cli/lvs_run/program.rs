//! Finds a program and checks whether a library can be preloaded into it.
//!
//! In:  a word as typed in a shell. Out: a path, and the obstacle to LD_PRELOAD, if there is one.
//! For a script its interpreter counts. Ref: ELF-64 specification; ld.so(8) "secure-execution mode".

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bytes read of a program. They hold its headers.
const HEAD_BYTES: u64 = 16 << 10;
/// The longest chain of scripts whose interpreter is a script.
const INTERPRETERS_MAX: usize = 4;
const PT_INTERP: u32 = 3;

/// Why a library cannot be preloaded into a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// There is no dynamic loader.
    Static,
    /// Set-uid or set-gid.
    SetId,
    /// File capabilities.
    Capabilities,
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

    /// The obstacle to LD_PRELOAD. `None` also for a program that cannot be read, which the system will refuse itself.
    pub(crate) fn obstacle(&self) -> Option<Obstacle> {
        let mut path = self.path.clone();
        for _ in 0..INTERPRETERS_MAX {
            if let Some(obstacle) = privileges(&path) {
                return Some(obstacle);
            }
            let head = head(&path)?;
            match interpreter(&head) {
                Some(next) => path = next,
                None => return (is_elf(&head) && !is_dynamic(&head)).then_some(Obstacle::Static),
            }
        }
        None
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

fn head(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path).ok()?.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    Some(head)
}

/// The interpreter: `/usr/bin/perl` of `#! /usr/bin/perl -w`.
fn interpreter(head: &[u8]) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = line
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty());
    let first = words.next()?;
    if first.ends_with(b"/env") {
        return Program::find(OsStr::from_bytes(words.next()?)).map(|program| program.path);
    }
    Some(PathBuf::from(OsStr::from_bytes(first)))
}

fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

/// Whether a 64-bit little-endian ELF file names a dynamic loader.
fn is_dynamic(head: &[u8]) -> bool {
    let number = |offset: usize, len: usize| {
        let bytes = head.get(offset..offset.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let table = || {
        let start = usize::try_from(number(32, 8)?).ok()?;
        let size = usize::try_from(number(54, 2)?).ok()?;
        let count = usize::try_from(number(56, 2)?).ok()?;
        Some((start, size, count))
    };
    let Some((start, size, count)) = table() else {
        return false;
    };
    (0..count).any(|index| {
        let entry = size.checked_mul(index).and_then(|offset| start.checked_add(offset));
        entry.and_then(|entry| number(entry, 4)) == Some(u64::from(PT_INTERP))
    })
}
