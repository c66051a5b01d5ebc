//! The pools of all packet buffers: one on each NUMA node in use, created at start.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::dpdk::{Eal, Mbuf, last_error};

/// The mode of the pool's shared ring. With it, a thread that is preempted inside the ring does not block the others (DPDK
/// programmer's guide, ring library, "MP_RTS"). That happens where workers share a CPU.
const RING: &std::ffi::CStr = c"ring_mt_rts";

/// Bytes that DPDK needs for each buffer besides its data (mbuf, object header, alignment).
const OVERHEAD_BYTES: usize = 128 + 64 + 64;

/// The largest Ethernet header: two VLAN tags.
const ETHERNET_MAX: usize = 14 + 2 * 4;

/// How many buffers, and of which size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// The number of buffers. Every rx descriptor holds one: [`PoolSettings::mbufs_needed`].
    pub mbufs: u32,
    /// Buffers that each thread keeps for itself: 0 to 512, at most two thirds of the pool.
    pub cache: u32,
    /// The largest MTU of any device in bytes.
    pub mtu_max: u16,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            mbufs: 16_383,
            cache: 256,
            mtu_max: 1_500,
        }
    }
}

impl PoolSettings {
    /// Bytes for a frame in each buffer, without the headroom. Never below DPDK's usual 2048.
    pub const fn frame_capacity(&self) -> usize {
        let needed = self.mtu_max as usize + ETHERNET_MAX;
        if needed > 2_048 {
            needed.next_multiple_of(64)
        } else {
            2_048
        }
    }

    /// MiB of DPDK memory for the pool and for queues with `descriptors` descriptors in total, to be set as
    /// [`crate::dpdk::EalSettings::memory_mb`]. Includes a margin for drivers and the allocator.
    pub fn memory_needed_mb(&self, descriptors: u32) -> u32 {
        let buffer = OVERHEAD_BYTES + dpdk_sys::SHIM_PKTMBUF_HEADROOM as usize + self.frame_capacity();
        let bytes = self.mbufs as usize * (buffer + 16) + descriptors as usize * 64;
        (bytes / (1 << 20)) as u32 + 48
    }

    /// The number of buffers that always suffices: for all rx and tx descriptors, every ring and every thread's cache when
    /// they are full, and for frames in flight.
    pub const fn mbufs_needed(descriptors: u32, ring_slots: u32, threads: u32, cache: u32) -> u32 {
        descriptors + ring_slots + threads * (cache * 3 / 2 + 64) + 1_024
    }
}

/// The pool could not be created.
#[derive(Debug, thiserror::Error)]
#[error(
    "no packet buffers: {mbufs} buffers of {bytes} bytes refused ({cause}); \
     give DPDK more memory (memory_mb) or ask for fewer buffers"
)]
pub struct PoolError {
    mbufs: u32,
    bytes: usize,
    cause: String,
}

/// A handle of a pool. The pool itself lives until the process ends.
#[derive(Clone, Copy, Debug)]
pub struct Mempool {
    raw: NonNull<dpdk_sys::rte_mempool>,
    size: u32,
}

// SAFETY: DPDK's mempools are made for alloc and free from many threads at once; the handle is read-only.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// Allocates all buffers, on any NUMA node.
    pub fn create(eal: &Eal, settings: &PoolSettings) -> Result<Self, PoolError> {
        Self::create_on(eal, settings, dpdk_sys::SHIM_SOCKET_ID_ANY)
    }

    fn create_on(_eal: &Eal, settings: &PoolSettings, socket: i32) -> Result<Self, PoolError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("lvsd_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let name = CString::new(name).unwrap_or_default();
        let bytes = dpdk_sys::SHIM_PKTMBUF_HEADROOM as usize + settings.frame_capacity();
        // DPDK refuses a cache larger than the pool divided by its flush factor of 1.5.
        let cache = settings
            .cache
            .min(dpdk_sys::SHIM_MEMPOOL_CACHE_MAX)
            .min(settings.mbufs * 2 / 3);
        let refused = |cause| PoolError {
            mbufs: settings.mbufs,
            bytes,
            cause,
        };
        let Ok(buffer_bytes) = u16::try_from(bytes) else {
            return Err(refused("larger than 65535".to_owned()));
        };
        // SAFETY: the EAL runs; both names are C strings that the call copies.
        let pool = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create_by_ops(
                name.as_ptr(),
                settings.mbufs,
                cache,
                0,
                buffer_bytes,
                socket,
                RING.as_ptr(),
            )
        };
        let raw = NonNull::new(pool).ok_or_else(|| refused(last_error()))?;
        let size = settings.mbufs;
        Ok(Self { raw, size })
    }

    /// The number of all buffers.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// How many buffers have an owner: queues, bursts, rings. A difference before and after a test is a leak. This walks all
    /// caches, so it is not for the packet path.
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives for ever.
        unsafe { dpdk_sys::rte_mempool_in_use_count(self.raw.as_ptr()) }
    }

    /// How many buffers are free, including those in caches.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives for ever.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.raw.as_ptr()) }
    }

    /// Allocates an empty buffer. Returns `None` when the pool is exhausted.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives for ever; the buffer returned is owned by nobody else.
        unsafe { NonNull::new(dpdk_sys::shim_pktmbuf_alloc(self.raw.as_ptr())).map(|raw| Mbuf::from_raw(raw)) }
    }

    pub(super) fn as_ptr(self) -> *mut dpdk_sys::rte_mempool {
        self.raw.as_ptr()
    }
}

/// A pool on each NUMA node with NICs or workers. All have the same size, so they suffice whichever NICs carry the traffic.
#[derive(Clone, Debug)]
pub struct Pools(Vec<(Option<u16>, Mempool)>);

impl Pools {
    /// Allocates a pool on each of `nodes`, which has at least one entry. `None` means any node. The pool of a node without
    /// memory lies on another node.
    ///
    /// # Errors
    /// No node has enough memory.
    pub fn create(eal: &Eal, settings: &PoolSettings, nodes: &[Option<u16>]) -> Result<Self, PoolError> {
        let on = |node: &Option<u16>| {
            let local = node.and_then(|node| match Mempool::create_on(eal, settings, i32::from(node)) {
                Ok(pool) => Some(pool),
                Err(error) => {
                    log::warn!("NUMA node {node}: {error}; taken from another node");
                    None
                }
            });
            Ok((*node, local.map_or_else(|| Mempool::create(eal, settings), Ok)?))
        };
        nodes.iter().map(on).collect::<Result<_, _>>().map(Self)
    }

    /// The pool of a node. Returns the first pool where the node has none or is not known.
    ///
    /// # Panics
    /// When there is no pool at all, which [`Self::create`] excludes.
    pub fn of(&self, node: Option<u16>) -> Mempool {
        let found = self.0.iter().find(|(of, _)| *of == node);
        found.unwrap_or(&self.0[0]).1
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = Mempool> + '_ {
        self.0.iter().map(|(_, pool)| *pool)
    }
}
