//! The zeroed region for a worker's connection table: hugepages where DPDK has them, else ordinary memory.

use std::num::NonZero;
use std::ptr::NonNull;

use lvs_core::arena::Arena;

use crate::dpdk::{Eal, last_error};

/// The region could not be had.
#[derive(Debug, thiserror::Error)]
#[error("no {mb} MiB for connections: {cause}; lower conns_max or give the machine more memory (hugepages)")]
pub struct MemoryError {
    mb: usize,
    cause: String,
}

/// A zeroed region, page-aligned, that lives until the process ends: for `Arena::from_raw`.
///
/// All its pages are touched here, so that no worker ever waits for a page fault. With hugepages it comes out
/// of DPDK's heap, which takes free hugepages beyond `memory_mb` as needed.
pub fn zeroed_region(eal: &Eal, len: usize) -> Result<NonNull<u8>, MemoryError> {
    let refused = |cause| MemoryError {
        mb: len.div_ceil(1 << 20),
        cause,
    };
    if eal.hugepages() {
        // SAFETY: the EAL runs; the name may be null; the result is zeroed and never freed.
        let region = unsafe { dpdk_sys::rte_zmalloc_socket(std::ptr::null(), len, 4096, dpdk_sys::SHIM_SOCKET_ID_ANY) };
        return NonNull::new(region.cast::<u8>()).ok_or_else(|| refused(last_error()));
    }
    map_ordinary(len).map_err(|cause| refused(cause.to_string()))
}

/// An arena over a fresh region of `len` octets for a connection table.
pub fn arena(eal: &Eal, len: usize) -> Result<Arena, MemoryError> {
    let region = zeroed_region(eal, len)?;
    // SAFETY: the region is zeroed, page-aligned, `len` octets long, nobody else's, and never unmapped.
    Ok(unsafe { Arena::from_raw(region, len) })
}

fn map_ordinary(len: usize) -> nix::Result<NonNull<u8>> {
    use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};
    let len = NonZero::new(len.next_multiple_of(4096)).ok_or(nix::errno::Errno::EINVAL)?;
    // SAFETY: a fresh private mapping aliases nothing; it is never unmapped. The advice changes no content.
    let region = unsafe {
        let region = mmap_anonymous(
            None,
            len,
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            MapFlags::MAP_PRIVATE,
        )?;
        // Best effort: fewer TLB misses where transparent hugepages are on.
        let _ = madvise(region, len.get(), MmapAdvise::MADV_HUGEPAGE);
        // Older kernels than 5.14 do not know it; pages are then faulted in by the first packets.
        let _ = madvise(region, len.get(), MmapAdvise::MADV_POPULATE_WRITE);
        region
    };
    Ok(region.cast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_region_is_zeroed_and_page_aligned() {
        let len = 3 * (1 << 20) + 17;
        let region = map_ordinary(len).unwrap();
        assert_eq!(region.as_ptr().align_offset(4096), 0);
        // SAFETY: mapped readable for `len` octets and never unmapped.
        let bytes = unsafe { std::slice::from_raw_parts(region.as_ptr(), len) };
        assert!(bytes.iter().all(|&byte| byte == 0));
    }
}
