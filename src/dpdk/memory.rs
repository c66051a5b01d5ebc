//! The region for a worker's connection table: a file in memory, which a later process maps again, or zeroed hugepages
//! of DPDK, or ordinary memory.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::num::NonZero;
use std::ptr::NonNull;

use lvs_core::arena::Arena;
use nix::errno::Errno;
use nix::fcntl::posix_fallocate;
use nix::libc::{self, c_void};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use crate::dpdk::{Eal, last_error};

const READ_WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// The region could not be allocated.
#[derive(Debug, thiserror::Error)]
#[error("no {mb} MiB for connections: {cause}; lower conns_max or give the machine more memory (hugepages)")]
pub struct MemoryError {
    mb: usize,
    cause: String,
}

/// A zeroed, page-aligned region for `Arena::from_raw`. It lives until the process ends.
///
/// This function touches all its pages, so that no worker ever waits for a page fault. With hugepages the region comes from
/// DPDK's heap, which takes free hugepages beyond `memory_mb` as needed. It lies on `node` if that has enough memory.
pub fn zeroed_region(eal: &Eal, len: usize, node: Option<u16>) -> Result<NonNull<u8>, MemoryError> {
    let refused = |cause| MemoryError {
        mb: len.div_ceil(1 << 20),
        cause,
    };
    if eal.hugepages() {
        let on = |socket: i32| {
            // SAFETY: the EAL runs; the name may be null; the result is zeroed and never freed.
            let region = unsafe { dpdk_sys::rte_zmalloc_socket(std::ptr::null(), len, 4096, socket) };
            NonNull::new(region.cast::<u8>())
        };
        let local = node.and_then(|node| on(i32::from(node)));
        let region = local.or_else(|| on(dpdk_sys::SHIM_SOCKET_ID_ANY));
        return region.ok_or_else(|| refused(last_error()));
    }
    map_ordinary(len).map_err(|cause| refused(cause.to_string()))
}

/// An arena over the first `len` bytes of a file on a tmpfs or a hugetlbfs, which is all of the file. What an earlier
/// process left there stays. Like [`zeroed_region`] it touches all pages, and lives until the process ends.
///
/// The file must be mapped once only: its directory is locked, and each worker has its own file.
///
/// # Errors
/// The system refuses; [`io::ErrorKind::StorageFull`] where the file system has no space.
pub fn arena_of_file(file: &File, len: usize) -> io::Result<Arena> {
    let region = map_file(file, len)?;
    // SAFETY: page-aligned, at least `len` bytes long, zero or an earlier arena, never unmapped, nobody else's.
    Ok(unsafe { Arena::from_raw(region, len) })
}

/// The bytes of a file that nobody writes or shortens as long as this lives, mapped for reading.
#[derive(Debug)]
pub struct MappedFile {
    start: NonNull<c_void>,
    len: NonZero<usize>,
}

// SAFETY: it owns its mapping, which is only read.
unsafe impl Send for MappedFile {}
// SAFETY: as above.
unsafe impl Sync for MappedFile {}

impl MappedFile {
    /// Maps all of a file of an earlier process, in a directory that this one has locked.
    ///
    /// # Errors
    /// The file is empty, or the system refuses.
    pub fn of(file: &File) -> io::Result<Self> {
        let len = usize::try_from(file.metadata()?.len()).ok().and_then(NonZero::new);
        let len = len.ok_or(io::ErrorKind::UnexpectedEof)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe { mmap(None, len, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { start, len })
    }

    /// What is in the file.
    pub const fn bytes(&self) -> &[u8] {
        // SAFETY: mapped readable with this length as long as `self` lives; any byte is a valid `u8`; nobody writes to the
        // file meanwhile, as its directory is locked and this process only reads it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast_const().cast(), self.len.get()) }
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: mapped with this length; no reference into it outlives `self`.
        let _ = unsafe { munmap(self.start, self.len.get()) };
    }
}

fn map_file(file: &File, len: usize) -> io::Result<NonNull<u8>> {
    let file_len = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    let Some(map_len) = NonZero::new(file_len).filter(|_| file_len >= len) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    // SAFETY: a fresh mapping at an address of the kernel's choice; it is never unmapped. The advice changes no content.
    unsafe {
        let region = match mmap(None, map_len, READ_WRITE, MapFlags::MAP_SHARED, file, 0) {
            // So says hugetlbfs when too few pages are free.
            Err(Errno::ENOMEM) => return Err(io::ErrorKind::StorageFull.into()),
            region => region?,
        };
        let _ = madvise(region, map_len.get(), MmapAdvise::MADV_HUGEPAGE);
        match madvise(region, map_len.get(), MmapAdvise::MADV_POPULATE_WRITE) {
            Ok(()) => {}
            // Kernels before 5.14 do not know it: no page may be missing later, when a worker would die of that.
            Err(Errno::EINVAL) => match posix_fallocate(file, 0, file_len as i64) {
                Err(Errno::ENOSPC | Errno::ENOMEM) => return Err(io::ErrorKind::StorageFull.into()),
                allocated => allocated?,
            },
            Err(Errno::EFAULT | Errno::ENOMEM) => return Err(io::ErrorKind::StorageFull.into()),
            Err(other) => return Err(other.into()),
        }
        Ok(region.cast())
    }
}

/// While this lives, ordinary memory that this thread touches first comes from a NUMA node, if that has enough.
#[derive(Debug)]
pub struct Preference(PhantomData<*mut ()>);

impl Preference {
    /// Prefers `node`. `None` changes nothing.
    pub fn of(node: Option<u16>) -> Option<Self> {
        // The mask has one word. For nodes beyond it the kernel chooses.
        let mask = 1_u64.checked_shl(u32::from(node?))?;
        set_policy(libc::MPOL_PREFERRED, Some(&mask)).then_some(Self(PhantomData))
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        set_policy(libc::MPOL_DEFAULT, None);
    }
}

/// Calls set_mempolicy(2), which the C library does not have. Returns whether the kernel agreed.
fn set_policy(mode: libc::c_int, mask: Option<&u64>) -> bool {
    let nodes = mask.map_or(std::ptr::null(), std::ptr::from_ref);
    // The kernel subtracts one from this number.
    let bits = mask.map_or(0, |_| u64::BITS + 1);
    // SAFETY: reads one word of 64 bits, or nothing; changes where this thread's memory comes from, nothing else.
    unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, nodes, libc::c_ulong::from(bits)) == 0 }
}

/// An arena over a fresh region of `len` bytes for a connection table.
pub fn arena(eal: &Eal, len: usize, node: Option<u16>) -> Result<Arena, MemoryError> {
    let region = zeroed_region(eal, len, node)?;
    // SAFETY: the region is zeroed, page-aligned, `len` bytes long, nobody else's, and never unmapped.
    Ok(unsafe { Arena::from_raw(region, len) })
}

fn map_ordinary(len: usize) -> nix::Result<NonNull<u8>> {
    let len = NonZero::new(len.next_multiple_of(4096)).ok_or(Errno::EINVAL)?;
    // SAFETY: a fresh private mapping aliases nothing; it is never unmapped. The advice changes no content.
    let region = unsafe {
        let region = mmap_anonymous(None, len, READ_WRITE, MapFlags::MAP_PRIVATE)?;
        // Best effort: fewer TLB misses where transparent hugepages are on.
        let _ = madvise(region, len.get(), MmapAdvise::MADV_HUGEPAGE);
        // Kernels before 5.14 do not know it. There the first packets fault the pages in.
        let _ = madvise(region, len.get(), MmapAdvise::MADV_POPULATE_WRITE);
        region
    };
    Ok(region.cast())
}

#[cfg(test)]
mod tests {
    use lvs_core::arena::{FormerArena, LAYOUT_VERSION};

    use super::*;

    #[test]
    fn memory_of_a_node_that_is_there_can_be_preferred_and_no_other() {
        assert!(Preference::of(None).is_none());
        let preference = Preference::of(Some(0));
        assert!(preference.is_some());
        assert!(Preference::of(Some(63)).is_none(), "no such node");
        assert!(map_ordinary(1 << 20).is_ok());
    }

    #[test]
    fn what_is_written_to_a_file_s_region_is_there_when_it_is_mapped_again() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(8_192).unwrap();
        arena_of_file(&file, 5_000).unwrap().carve::<u64>(2).unwrap()[1] = 7;
        let mut again = arena_of_file(&file, 5_000).unwrap();
        assert!(again.is_recovered());
        assert_eq!(again.carve::<u64>(2).unwrap()[1], 7);
        let read = MappedFile::of(&file).unwrap();
        let mut former = FormerArena::of(read.bytes(), LAYOUT_VERSION).unwrap();
        assert_eq!(former.carve::<u64>(2).and_then(|slice| slice.get(1)), Some(7));
        file.set_len(0).unwrap();
        assert_eq!(
            MappedFile::of(&file).err().map(|error| error.kind()),
            Some(io::ErrorKind::UnexpectedEof)
        );
        file.set_len(8_192).unwrap();
        let too_long = arena_of_file(&file, 8_193).err();
        assert_eq!(too_long.map(|error| error.kind()), Some(io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn an_ordinary_region_is_zeroed_and_page_aligned() {
        let len = 3 * (1 << 20) + 17;
        let region = map_ordinary(len).unwrap();
        assert_eq!(region.as_ptr().align_offset(4096), 0);
        // SAFETY: mapped readable for `len` bytes and never unmapped.
        let bytes = unsafe { std::slice::from_raw_parts(region.as_ptr(), len) };
        assert!(bytes.iter().all(|&byte| byte == 0));
    }
}
