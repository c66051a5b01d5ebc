//! Unsafe module 2: fetches a cache line from memory before it is needed.
//!
//! In:  a reference to what a later stage of the burst will read or write.
//! Out: nothing; a prefetch changes no state and cannot fault.
//! Never: needed for a correct result. On machines other than x86-64 it does nothing.
#![allow(unsafe_code)]

/// Fetches the first cache line of `reference`'s referent for reading, into all cache levels.
#[inline(always)]
pub fn prefetch_read<T>(reference: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHT0 is a hint that never faults whatever the address, and SSE is part of x86-64.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(reference).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = reference;
}

/// The time-stamp counter, for measuring builds only. No decision depends on it.
#[cfg(feature = "stages")]
#[inline(always)]
pub fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reading the time-stamp counter has no precondition.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// Fetches the first cache line of `reference`'s referent for writing. It takes a shared reference, because it does not
/// change anything itself.
#[inline(always)]
pub fn prefetch_write<T>(reference: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above; PREFETCHW is likewise a hint (the compiler falls back to PREFETCHT0 without it).
    unsafe {
        use core::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_ET0>(core::ptr::from_ref(reference).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = reference;
}
