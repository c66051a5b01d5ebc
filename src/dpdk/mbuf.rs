//! One packet buffer with one owner. Dropping it returns it to its pool.
//!
//! All accessors work on the first segment. [`Mbuf::is_whole`] returns whether it is the only one.

use std::ptr::NonNull;

use dpdk_sys::{
    MBUF_BUF_ADDR, MBUF_BUF_LEN, MBUF_DATA_LEN, MBUF_DATA_OFF, MBUF_NB_SEGS, MBUF_PKT_LEN, MbufField, rte_mbuf,
};
use lvs_core::frame::Frame;

/// See the module. It has the size of a pointer, so an array of them is what DPDK's burst functions take.
#[repr(transparent)]
#[derive(Debug)]
pub struct Mbuf(NonNull<rte_mbuf>);

// SAFETY: a buffer is owned by one place at a time and may be freed on any thread (the pool is multi-threaded).
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// Takes ownership.
    ///
    /// # Safety
    /// `raw` is a live mbuf of a pool of this process with reference count 1, and nobody else uses it.
    #[inline]
    pub(super) unsafe fn from_raw(raw: NonNull<rte_mbuf>) -> Self {
        Self(raw)
    }

    #[inline]
    fn get<T: Copy>(&self, field: MbufField<T>) -> T {
        // SAFETY: owned, so live and not written by anybody else while borrowed.
        unsafe { *field.of(self.0.as_ptr()) }
    }

    #[inline]
    fn get_mut<T>(&mut self, field: MbufField<T>) -> &mut T {
        // SAFETY: owned and borrowed exclusively.
        unsafe { &mut *field.of(self.0.as_ptr()) }
    }

    /// Bytes of the frame in its first segment.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "no caller treats an empty frame specially")]
    pub fn len(&self) -> usize {
        usize::from(self.get(MBUF_DATA_LEN))
    }

    /// Whether the frame has only one segment. Frames that are larger than the pool's buffers arrive in several.
    #[inline]
    pub fn is_whole(&self) -> bool {
        self.get(MBUF_NB_SEGS) == 1
    }

    /// Asks the CPU to load the frame's first bytes soon.
    #[inline]
    pub fn prefetch(&self) {
        let first = self.data();
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch of any address has no effect but on the cache.
        unsafe {
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(first.cast::<i8>());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = first;
    }

    /// Fills an empty buffer: `read` gets all bytes behind the headroom and returns how many it used. On an error the
    /// buffer stays empty.
    pub fn fill<E>(&mut self, read: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<usize, E> {
        let capacity = usize::from(self.get(MBUF_BUF_LEN)) - usize::from(self.get(MBUF_DATA_OFF));
        // SAFETY: data_off..buf_len is inside the buffer, which is mapped, zeroed at start and ours alone.
        let target = unsafe { std::slice::from_raw_parts_mut(self.data(), capacity) };
        let count = read(target)?.min(capacity);
        self.set_len(count as u16);
        Ok(count)
    }

    #[inline]
    fn data(&self) -> *mut u8 {
        let (buffer, offset) = (self.get(MBUF_BUF_ADDR), self.get(MBUF_DATA_OFF));
        // SAFETY: data_off <= buf_len is DPDK's invariant, kept by every function here.
        unsafe { buffer.cast::<u8>().add(usize::from(offset)) }
    }

    #[inline]
    fn set_len(&mut self, len: u16) {
        let other_segments = self.get(MBUF_PKT_LEN) - u32::from(self.get(MBUF_DATA_LEN));
        *self.get_mut(MBUF_PKT_LEN) = other_segments + u32::from(len);
        *self.get_mut(MBUF_DATA_LEN) = len;
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: owned, and never used again.
        unsafe { dpdk_sys::shim_pktmbuf_free(self.0.as_ptr()) };
    }
}

impl Frame for Mbuf {
    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: data_off + data_len <= buf_len is DPDK's invariant; the buffer is mapped and initialised.
        unsafe { std::slice::from_raw_parts(self.data(), self.len()) }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data(), self.len()) }
    }

    #[inline]
    fn prepend(&mut self, count: usize) -> bool {
        if count > usize::from(self.get(MBUF_DATA_OFF)) || count + self.len() > usize::from(u16::MAX) {
            return false;
        }
        *self.get_mut(MBUF_DATA_OFF) -= count as u16;
        *self.get_mut(MBUF_DATA_LEN) += count as u16;
        *self.get_mut(MBUF_PKT_LEN) += count as u32;
        true
    }

    #[inline]
    fn trim_front(&mut self, count: usize) -> bool {
        if count > self.len() {
            return false;
        }
        *self.get_mut(MBUF_DATA_OFF) += count as u16;
        *self.get_mut(MBUF_DATA_LEN) -= count as u16;
        *self.get_mut(MBUF_PKT_LEN) -= count as u32;
        true
    }

    #[inline]
    fn append(&mut self, count: usize) -> bool {
        let capacity = usize::from(self.get(MBUF_BUF_LEN)) - usize::from(self.get(MBUF_DATA_OFF));
        let tailroom = capacity - self.len();
        if count > tailroom || !self.is_whole() {
            return false;
        }
        self.set_len(self.get(MBUF_DATA_LEN) + count as u16);
        true
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        if len < self.len() {
            self.set_len(len as u16);
        }
    }
}
