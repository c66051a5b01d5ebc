//! Memory that a process shares with a child, for tests in which the child is killed.
#![allow(unsafe_code, reason = "memory that a child shares")]

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use lvs_core::arena::Arena;
use nix::libc::c_void;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Memory that a child inherits and shares.
pub struct Shared {
    start: NonNull<c_void>,
    len: NonZeroUsize,
}

impl Shared {
    /// `len` bytes and what makes them whole pages, all zero.
    pub fn new(len: usize) -> Self {
        let len = NonZeroUsize::new(len.next_multiple_of(4096)).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let start = unsafe { mmap_anonymous(None, len, protection, MapFlags::MAP_SHARED) };
        Self {
            start: start.expect("memory to share"),
            len,
        }
    }

    /// Where it begins.
    pub const fn start(&self) -> NonNull<c_void> {
        self.start
    }

    /// Other memory with what is in this one now.
    pub fn copy(&self) -> Self {
        let copy = Self::new(self.len.get());
        copy.write(&self.bytes());
        copy
    }

    /// What is in it now. Nobody writes meanwhile: the child stands still.
    pub fn bytes(&self) -> Vec<u8> {
        // SAFETY: mapped with this length, readable, and any byte is a valid `u8`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len.get()) }.to_vec()
    }

    /// Replaces all of it.
    pub fn write(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.len.get());
        // SAFETY: as long as the mapping, which is writable; no reference into it is in use.
        unsafe {
            self.start
                .cast::<u8>()
                .as_ptr()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        }
    }

    /// An arena in it.
    pub fn arena(&self) -> Arena {
        // SAFETY: page-aligned, readable, writable, all zero or an earlier arena; `self` outlives what is made of it.
        unsafe { Arena::from_raw(self.start.cast(), self.len.get()) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped with this length; the tables over it are gone.
        unsafe { munmap(self.start, self.len.get()) }.expect("it is mapped");
    }
}
