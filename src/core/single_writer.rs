//! Numbers that one thread writes and any thread reads.
//!
//! A change is a relaxed load and a relaxed store, never a locked read-modify-write: there is one writer, so
//! nothing is lost, and a reader sees a value that was true a moment ago.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A counter or gauge with one writer.
pub trait SingleWriter {
    /// The plain number.
    type Value;

    /// Adds `n`, wrapping. Only for the one writer.
    fn add(&self, n: Self::Value);

    /// Takes `n` away, stopping at 0. Only for the one writer.
    fn sub(&self, n: Self::Value);

    /// Replaces the value. Only for the one writer.
    fn set(&self, value: Self::Value);

    /// The value, for anybody.
    fn get(&self) -> Self::Value;
}

macro_rules! single_writer {
    ($atomic:ty, $value:ty) => {
        impl SingleWriter for $atomic {
            type Value = $value;

            #[inline]
            fn add(&self, n: $value) {
                self.set(self.get().wrapping_add(n));
            }

            #[inline]
            fn sub(&self, n: $value) {
                self.set(self.get().saturating_sub(n));
            }

            #[inline]
            fn set(&self, value: $value) {
                self.store(value, Ordering::Relaxed);
            }

            #[inline]
            fn get(&self) -> $value {
                self.load(Ordering::Relaxed)
            }
        }
    };
}

single_writer!(AtomicU64, u64);
single_writer!(AtomicU32, u32);
