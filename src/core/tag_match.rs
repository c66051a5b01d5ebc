//! Unsafe module 3: compares the eight tags of a bucket at once.
//!
//! In:  eight 16-bit numbers and another one. Out: a bit for each that is equal to it.
//! It uses SSE2, which every x86-64 has: four instructions instead of thirty. Other machines compare one by one.
#![allow(unsafe_code)]

/// Bit `n` is set when `tags[n] == wanted`; bits 8 and above are clear.
#[inline(always)]
pub fn equal(tags: &[u16; 8], wanted: u16) -> u32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of x86-64; the unaligned load reads the 16 bytes of `tags`.
    unsafe {
        use core::arch::x86_64::{
            _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16, _mm_setzero_si128,
        };
        let all = _mm_loadu_si128(tags.as_ptr().cast());
        let same = _mm_cmpeq_epi16(all, _mm_set1_epi16(wanted.cast_signed()));
        _mm_movemask_epi8(_mm_packs_epi16(same, _mm_setzero_si128())).cast_unsigned()
    }
    #[cfg(not(target_arch = "x86_64"))]
    one_by_one(tags, wanted)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn one_by_one(tags: &[u16; 8], wanted: u16) -> u32 {
    (0..8).fold(0, |bits, place| bits | u32::from(tags[place] == wanted) << place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn all_at_once_finds_what_one_by_one_finds() {
        let mut random = Random::new(1);
        for _ in 0..10_000 {
            let tags = std::array::from_fn(|_| random.below(4) as u16 * 0x5555);
            for wanted in [0, 1, 0x5555, 0xaaaa, 0xffff] {
                assert_eq!(equal(&tags, wanted), one_by_one(&tags, wanted), "{tags:x?} {wanted:x}");
            }
        }
    }
}
