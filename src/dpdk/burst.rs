//! Up to 32 packet buffers in a fixed array. Dropping it frees all buffers that it still holds at once.

use std::mem::MaybeUninit;

use lvs_core::limits::BURST_MAX;

use crate::dpdk::Mbuf;

/// See the module.
pub struct Burst {
    // The first `len` are initialised.
    mbufs: [MaybeUninit<Mbuf>; BURST_MAX],
    len: usize,
}

impl Burst {
    /// An empty burst.
    #[inline]
    pub const fn new() -> Self {
        Self {
            mbufs: [const { MaybeUninit::uninit() }; BURST_MAX],
            len: 0,
        }
    }

    /// How many buffers it holds: 0 to [`BURST_MAX`].
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no buffer.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether no other buffer fits.
    #[inline]
    pub const fn is_full(&self) -> bool {
        self.len == BURST_MAX
    }

    /// Adds a buffer. Returns it when the burst is full.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf) -> Result<(), Mbuf> {
        match self.mbufs.get_mut(self.len) {
            Some(slot) => {
                slot.write(mbuf);
                self.len += 1;
                Ok(())
            }
            None => Err(mbuf),
        }
    }

    /// The buffers.
    #[inline]
    pub fn as_slice(&self) -> &[Mbuf] {
        // SAFETY: the first `len` are initialised and MaybeUninit<Mbuf> has the layout of Mbuf.
        unsafe { std::slice::from_raw_parts(self.mbufs.as_ptr().cast::<Mbuf>(), self.len) }
    }

    /// The buffers, writable.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [Mbuf] {
        // SAFETY: as in `as_slice`.
        unsafe { std::slice::from_raw_parts_mut(self.mbufs.as_mut_ptr().cast::<Mbuf>(), self.len) }
    }

    /// Takes all buffers out, in order. Dropping the iterator frees those that it has not yielded.
    #[inline]
    pub fn drain(&mut self) -> Drain<'_> {
        let len = std::mem::take(&mut self.len);
        Drain {
            burst: self,
            next: 0,
            len,
        }
    }

    /// Frees all buffers at once.
    #[inline]
    pub fn free(&mut self) {
        self.free_from(0);
    }

    /// Bytes of all frames together.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.as_slice().iter().map(|mbuf| mbuf.len() as u64).sum()
    }

    /// Asks the CPU to load the first bytes of every frame soon.
    #[inline]
    pub fn prefetch(&self) {
        for mbuf in self.as_slice() {
            mbuf.prefetch();
        }
    }

    /// Empties the burst and lets `fill` write buffers into its array. `fill` returns how many.
    ///
    /// # Safety
    /// `fill` returns `n` <= 32 and has written `n` owned mbufs to the front of the array.
    #[inline]
    pub(super) unsafe fn refill(&mut self, fill: impl FnOnce(*mut *mut dpdk_sys::rte_mbuf, u16) -> u16) {
        self.free();
        let count = fill(self.mbufs.as_mut_ptr().cast(), BURST_MAX as u16);
        self.len = usize::from(count).min(BURST_MAX);
    }

    /// Offers the buffers to `take`, which returns how many of the first it took. The others, if any, are passed to
    /// `refused` and freed.
    ///
    /// # Safety
    /// `take` owns the first `n` mbufs from then on, `n` being what it returns.
    #[inline]
    pub(super) unsafe fn give(
        &mut self,
        take: impl FnOnce(*mut *mut dpdk_sys::rte_mbuf, u16) -> u16,
        refused: impl FnOnce(&[Mbuf]),
    ) {
        let len = self.len;
        let taken = usize::from(take(self.mbufs.as_mut_ptr().cast(), len as u16)).min(len);
        if let Some(left) = self.mbufs.get(taken..len).filter(|left| !left.is_empty()) {
            // SAFETY: those below `len` are initialised, those from `taken` on are still ours; `MaybeUninit<Mbuf>`
            // has the layout of `Mbuf`.
            refused(unsafe { std::slice::from_raw_parts(left.as_ptr().cast::<Mbuf>(), left.len()) });
        }
        self.free_from(taken);
    }

    /// Frees the buffers from `first` on and forgets the ones before, which have another owner now.
    #[inline]
    fn free_from(&mut self, first: usize) {
        let count = std::mem::take(&mut self.len).saturating_sub(first);
        if count > 0 {
            // SAFETY: `first..first + count` were initialised and are ours; `len` is 0, so none is used again.
            unsafe { dpdk_sys::rte_pktmbuf_free_bulk(self.mbufs.as_mut_ptr().add(first).cast(), count as u32) };
        }
    }
}

impl Default for Burst {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Burst {
    #[inline]
    fn drop(&mut self) {
        self.free();
    }
}

impl std::fmt::Debug for Burst {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Burst of {}", self.len)
    }
}

/// The iterator of [`Burst::drain`].
#[derive(Debug)]
pub struct Drain<'a> {
    burst: &'a mut Burst,
    next: usize,
    len: usize,
}

impl Iterator for Drain<'_> {
    type Item = Mbuf;

    #[inline]
    fn next(&mut self) -> Option<Mbuf> {
        if self.next == self.len {
            return None;
        }
        let slot = self.burst.mbufs.get(self.next)?;
        self.next += 1;
        // SAFETY: slots below the drained length are initialised and each is read once: the burst's own
        // length is 0 and `next` only grows.
        Some(unsafe { slot.assume_init_read() })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len - self.next, Some(self.len - self.next))
    }
}

impl ExactSizeIterator for Drain<'_> {}

impl Drop for Drain<'_> {
    fn drop(&mut self) {
        for mbuf in self {
            drop(mbuf);
        }
    }
}
