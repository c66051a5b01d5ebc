//! What the path needs of a buffer. An mbuf is one kind, [`vec::VecFrame`] another.
//!
//! A stage that may change a packet's length, or calls one that may, takes a `Frame`. What only reads or rewrites bytes
//! in place takes a slice.

pub mod vec;

/// One Ethernet frame in one contiguous buffer with headroom and tailroom.
pub trait Frame {
    /// The frame from its destination MAC to its last byte (no FCS).
    fn bytes(&self) -> &[u8];

    /// The same, writable.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Grows the frame by `count` bytes at its front; `false` (and unchanged) without headroom.
    /// The new bytes have no defined content.
    #[must_use]
    fn prepend(&mut self, count: usize) -> bool;

    /// Drops `count` bytes at the front; `false` (and unchanged) when the frame is shorter.
    #[must_use]
    fn trim_front(&mut self, count: usize) -> bool;

    /// Grows the frame by `count` bytes at its end; `false` (and unchanged) without tailroom.
    #[must_use]
    fn append(&mut self, count: usize) -> bool;

    /// Cuts the frame to `len` bytes; longer than it is: no effect.
    fn truncate(&mut self, len: usize);
}
