//! A supervised process: its memory, its descriptors, its identity.
//!
//! In:  a thread's id, addresses in its memory. Out: the content, or an error. Ref: proc(5), pidfd_getfd(2).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// The memory of a process.
pub(super) struct Memory {
    file: File,
}

impl Memory {
    pub(super) fn open(thread: u32) -> io::Result<Self> {
        let path = format!("/proc/{thread}/mem");
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Self { file })
    }

    /// Fills `bytes` or fails.
    pub(super) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        self.file.read_exact_at(bytes, address).map_err(|_| Errno::FAULT)
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.file.write_all_at(bytes, address).map_err(|_| Errno::FAULT)
    }

    /// A 64-bit number, or an address.
    pub(super) fn number(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes).ok()?;
        Some(u64::from_ne_bytes(bytes))
    }

    /// A C string, truncated at `max` bytes. The memory after it may not be mapped.
    pub(super) fn text(&self, address: u64, max: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; max];
        let len = self.file.read_at(&mut bytes, address).ok()?;
        bytes.truncate(len);
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(len);
        bytes.truncate(end);
        Some(bytes)
    }
}

/// The inode of the socket behind a thread's descriptor.
pub(super) fn socket_inode(thread: u32, fd: i32) -> Option<u64> {
    let link = fs::read_link(format!("/proc/{thread}/fd/{fd}")).ok()?;
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The inode of a descriptor of this process.
pub(super) fn inode(fd: impl AsFd) -> u64 {
    rustix::fs::fstat(fd).map_or(0, |status| status.st_ino)
}

/// A copy of a thread's descriptor.
pub(super) fn descriptor(thread: u32, fd: i32) -> io::Result<OwnedFd> {
    let process = Identity::of(thread).ok_or(Errno::SRCH)?.process;
    let process = Pid::from_raw(process).ok_or(Errno::SRCH)?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    Ok(pidfd_getfd(process, fd, PidfdGetfdFlags::empty())?)
}

/// The identity with which a thread acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) process: i32,
    pub(super) name: String,
    pub(super) user: u32,
    pub(super) groups: Vec<u32>,
}

impl Identity {
    pub(super) fn of(thread: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{thread}/status")).ok()?)
    }

    /// Parses `/proc/<id>/status`, where the effective user and group are the second of four.
    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim)
        };
        let effective = |name: &str| field(name)?.split_whitespace().nth(1)?.parse::<u32>().ok();
        let others = field("Groups")?
            .split_whitespace()
            .filter_map(|group| group.parse().ok());
        Some(Self {
            process: field("Tgid")?.parse().ok()?,
            name: field("Name")?.to_owned(),
            user: effective("Uid")?,
            groups: effective("Gid").into_iter().chain(others).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_of_a_process_is_the_effective_one() {
        let status = "Name:\tprobe\nTgid:\t77\nPid:\t78\nUid:\t0\t1000\t0\t0\nGid:\t0\t100\t0\t0\nGroups:\t4 24 \n";
        let expected = Identity {
            process: 77,
            name: "probe".into(),
            user: 1000,
            groups: vec![100, 4, 24],
        };
        assert_eq!(Identity::parse(status), Some(expected));
        assert_eq!(Identity::parse("Name:\tprobe\n"), None);
        let own = Identity::of(std::process::id()).unwrap();
        assert_eq!(own.user, rustix::process::geteuid().as_raw());
    }

    #[test]
    fn memory_is_read_and_written_where_it_is() {
        let value = Box::new(*b"text\0more");
        let address = value.as_ptr().addr() as u64;
        let memory = Memory::open(std::process::id()).unwrap();
        assert_eq!(memory.text(address, 9).unwrap(), b"text");
        assert_eq!(memory.text(address, 2).unwrap(), b"te");
        assert_eq!(memory.read(8, &mut [0; 4]), Err(Errno::FAULT));
        assert_eq!(memory.write(8, &[0; 4]), Err(Errno::FAULT));
    }
}
