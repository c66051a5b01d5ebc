//! Randomness is a parameter: a small generator seeded by the caller.
//!
//! Used where the kernel uses `get_random_u32` (twos, local-port start, IP ids), never for secrets:
//! the hash secret comes from the operating system.

/// SplitMix64 (Steele, Lea, Flood 2014): one multiply-xorshift chain, good enough for spreading.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that yields the same sequence for the same `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    #[inline]
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// The next 32 bits.
    #[inline]
    pub const fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    /// Like [`Self::below`], for wide bounds.
    #[inline]
    pub const fn below_u64(&mut self, bound: u64) -> u64 {
        ((self.next_u64() as u128 * bound as u128) >> 64) as u64
    }

    /// A number below `bound` without division (Lemire's multiply-shift); 0 for bound 0.
    #[inline]
    pub const fn below(&mut self, bound: u32) -> u32 {
        ((self.next_u32() as u64 * bound as u64) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_stays_below_and_spreads() {
        let mut random = Random::new(7);
        let mut seen = [0u32; 5];
        for _ in 0..5_000 {
            seen[random.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (800..1_200).contains(&count)), "{seen:?}");
        assert_eq!(random.below(0), 0);
        let wide: Vec<u64> = (0..100).map(|_| random.below_u64(1 << 40)).collect();
        assert!(wide.iter().all(|&number| number < 1 << 40), "{wide:?}");
        assert!(wide.iter().any(|&number| number > 1 << 39) && wide.iter().any(|&number| number < 1 << 38));
        assert_eq!(random.below_u64(0), 0);
    }
}
