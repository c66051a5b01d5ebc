//! Numbers that one thread writes and any thread reads.
//!
//! A change is a relaxed load and a relaxed store, not a locked read-modify-write. There is one writer, so no change is
//! lost. A reader sees a value that was true a moment ago.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A counter or gauge with one writer.
pub trait SingleWriter {
    /// The plain number.
    type Value;

    /// Adds `n`, wrapping. Only the writer may call it.
    fn add(&self, n: Self::Value);

    /// Subtracts `n`, stopping at 0. Only the writer may call it.
    fn sub(&self, n: Self::Value);

    /// Replaces the value. Only the writer may call it.
    fn set(&self, value: Self::Value);

    /// The value. Any thread may call it.
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
