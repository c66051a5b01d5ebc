//! How a program's ABI lays out the structs of its calls: offsets and widths for 64 and for 32 bits.
//!
//! Ref: Linux include/uapi/linux/socket.h, arch/x86/include/uapi/asm/stat.h; the compat structs of 32-bit Arm are the same.

use rustix::io::Errno;

use super::target::Memory;

/// The layout of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) is_64_bit: bool,
}

/// Offsets in a `struct msghdr`.
#[derive(Clone, Copy, Debug)]
pub(super) struct MessageHeader {
    pub(super) name_len: u64,
    pub(super) pieces: u64,
    pub(super) pieces_count: u64,
    pub(super) control_len: u64,
    pub(super) flags: u64,
    /// Where `msg_len` is in a `struct mmsghdr`, and how far the next one is.
    pub(super) received: u64,
    pub(super) next: u64,
}

impl Layout {
    /// Bytes of a `long` or a pointer.
    pub(super) const fn word(self) -> u64 {
        if self.is_64_bit { 8 } else { 4 }
    }

    /// Reads a `long`, a `size_t` or a pointer.
    pub(super) fn read_word(self, memory: &Memory, address: u64) -> Result<u64, Errno> {
        if self.is_64_bit {
            return memory.number(address).ok_or(Errno::FAULT);
        }
        let mut bytes = [0; 4];
        memory.read(address, &mut bytes)?;
        Ok(u64::from(u32::from_ne_bytes(bytes)))
    }

    /// Writes a `size_t` of 0.
    pub(super) fn write_zero(self, memory: &Memory, address: u64) -> Result<(), Errno> {
        let zero: &[u8] = if self.is_64_bit { &[0; 8] } else { &[0; 4] };
        memory.write(address, zero)
    }

    pub(super) const fn message(self) -> MessageHeader {
        if self.is_64_bit {
            MessageHeader {
                name_len: 8,
                pieces: 16,
                pieces_count: 24,
                control_len: 40,
                flags: 48,
                received: 56,
                next: 64,
            }
        } else {
            MessageHeader {
                name_len: 4,
                pieces: 8,
                pieces_count: 12,
                control_len: 20,
                flags: 24,
                received: 28,
                next: 32,
            }
        }
    }

    /// `struct stat` of this machine as the program knows it: itself, or `struct stat64` of 32 bits.
    pub(super) fn status(self, found: &rustix::fs::Stat) -> Vec<u8> {
        if self.is_64_bit {
            wide_status(found)
        } else {
            narrow_status(found)
        }
    }
}

/// Puts `value` at `offset`.
fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(offset..offset + value.len()) {
        place.copy_from_slice(value);
    }
}

#[cfg(target_arch = "x86_64")]
fn wide_status(found: &rustix::fs::Stat) -> Vec<u8> {
    let mut bytes = vec![0; 144];
    put(&mut bytes, 0, &found.st_dev.to_ne_bytes());
    put(&mut bytes, 8, &found.st_ino.to_ne_bytes());
    put(&mut bytes, 16, &found.st_nlink.to_ne_bytes());
    put(&mut bytes, 24, &found.st_mode.to_ne_bytes());
    put(&mut bytes, 28, &found.st_uid.to_ne_bytes());
    put(&mut bytes, 32, &found.st_gid.to_ne_bytes());
    put(&mut bytes, 40, &found.st_rdev.to_ne_bytes());
    put(&mut bytes, 48, &found.st_size.to_ne_bytes());
    put(&mut bytes, 56, &found.st_blksize.to_ne_bytes());
    put(&mut bytes, 64, &found.st_blocks.to_ne_bytes());
    for (offset, value) in [
        (72, found.st_atime.cast_unsigned()),
        (80, found.st_atime_nsec),
        (88, found.st_mtime.cast_unsigned()),
        (96, found.st_mtime_nsec),
        (104, found.st_ctime.cast_unsigned()),
        (112, found.st_ctime_nsec),
    ] {
        put(&mut bytes, offset, &value.to_ne_bytes());
    }
    bytes
}

#[cfg(target_arch = "aarch64")]
fn wide_status(found: &rustix::fs::Stat) -> Vec<u8> {
    let mut bytes = vec![0; 128];
    put(&mut bytes, 0, &found.st_dev.to_ne_bytes());
    put(&mut bytes, 8, &found.st_ino.to_ne_bytes());
    put(&mut bytes, 16, &found.st_mode.to_ne_bytes());
    put(&mut bytes, 20, &found.st_nlink.to_ne_bytes());
    put(&mut bytes, 24, &found.st_uid.to_ne_bytes());
    put(&mut bytes, 28, &found.st_gid.to_ne_bytes());
    put(&mut bytes, 48, &found.st_size.to_ne_bytes());
    put(&mut bytes, 56, &found.st_blksize.to_ne_bytes());
    put(&mut bytes, 64, &found.st_blocks.to_ne_bytes());
    bytes
}

/// `struct stat64`: 96 bytes on 32-bit x86.
#[allow(clippy::unnecessary_cast, reason = "some fields are narrower on other machines")]
fn narrow_status(found: &rustix::fs::Stat) -> Vec<u8> {
    let low = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0).to_ne_bytes();
    let mut bytes = vec![0; 96];
    put(&mut bytes, 0, &(found.st_dev as u64).to_ne_bytes());
    put(&mut bytes, 12, &low(found.st_ino));
    put(&mut bytes, 16, &found.st_mode.to_ne_bytes());
    put(&mut bytes, 20, &low(found.st_nlink as u64));
    put(&mut bytes, 24, &found.st_uid.to_ne_bytes());
    put(&mut bytes, 28, &found.st_gid.to_ne_bytes());
    put(&mut bytes, 44, &found.st_size.to_ne_bytes());
    put(&mut bytes, 52, &low(found.st_blksize as u64));
    put(&mut bytes, 56, &(found.st_blocks as u64).to_ne_bytes());
    put(&mut bytes, 64, &low(found.st_atime as u64));
    put(&mut bytes, 72, &low(found.st_mtime as u64));
    put(&mut bytes, 80, &low(found.st_ctime as u64));
    put(&mut bytes, 88, &found.st_ino.to_ne_bytes());
    bytes
}
