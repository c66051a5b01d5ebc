//! How long frames stay with a worker: a histogram in buckets of 12.5 %, in time-stamp cycles.
//!
//! In:  the cycles of sampled passes; one worker writes them. Out: counts that any thread may read: percentiles,
//!      metrics. The histogram is log-linear like an HDR histogram: eight buckets for each power of two. So 2 KB cover
//!      one cycle to several seconds. Never: divides, allocates or loops when a sample is added.

use std::sync::atomic::AtomicU64;

use crate::single_writer::SingleWriter;

/// Buckets for each power of two, as a power of two.
const SUB_BITS: u32 = 3;
/// Samples of 2³⁴ cycles and more (several seconds) share the last bucket.
const EXPONENT_MAX: u32 = 33;
/// How many buckets there are.
pub const LATENCY_BUCKETS: usize = ((EXPONENT_MAX - SUB_BITS + 2) << SUB_BITS) as usize;

/// See the module. One worker writes, anybody reads.
#[derive(Debug)]
pub struct LatencyHistogram {
    buckets: [AtomicU64; LATENCY_BUCKETS],
    sum_cycles: AtomicU64,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; LATENCY_BUCKETS],
            sum_cycles: AtomicU64::new(0),
        }
    }
}

impl LatencyHistogram {
    /// Adds one sample. Only for the one writer.
    #[inline]
    pub fn record(&self, cycles: u64) {
        if let Some(bucket) = self.buckets.get(bucket_of(cycles)) {
            bucket.add(1);
        }
        self.sum_cycles.add(cycles);
    }

    /// What was counted so far.
    pub fn read(&self) -> LatencyCounts {
        LatencyCounts {
            buckets: self.buckets.iter().map(SingleWriter::get).collect(),
            sum_cycles: self.sum_cycles.get(),
        }
    }
}

/// A histogram at one moment.
#[derive(Clone, Debug, Default)]
pub struct LatencyCounts {
    buckets: Vec<u64>,
    /// All samples together, in cycles.
    pub sum_cycles: u64,
}

impl LatencyCounts {
    /// How many samples there are.
    pub fn samples(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Each bucket that is not empty: the most cycles that fall into it, and its samples, in ascending order.
    pub fn filled(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let buckets = self.buckets.iter().enumerate().filter(|(_, samples)| **samples > 0);
        buckets.map(|(index, samples)| (bucket_end(index), *samples))
    }

    /// The cycles that `per_mille` of 1,000 samples do not exceed. The result is at most 12.5 % too large; 0 without
    /// samples.
    pub fn percentile(&self, per_mille: u64) -> u64 {
        let wanted = (self.samples() * per_mille).div_ceil(1_000).max(1);
        let mut seen = 0;
        for (end, samples) in self.filled() {
            seen += samples;
            if seen >= wanted {
                return end;
            }
        }
        0
    }
}

#[inline]
fn bucket_of(cycles: u64) -> usize {
    let exponent = (cycles | 1).ilog2();
    if exponent < SUB_BITS {
        return cycles as usize;
    }
    if exponent > EXPONENT_MAX {
        return LATENCY_BUCKETS - 1;
    }
    let shift = exponent - SUB_BITS;
    // The leading one of the shifted value counts as the first group of buckets.
    ((shift as usize) << SUB_BITS) + (cycles >> shift) as usize
}

/// The most cycles that fall into a bucket.
fn bucket_end(index: usize) -> u64 {
    let (group, sub) = (index >> SUB_BITS, (index as u64) & ((1 << SUB_BITS) - 1));
    match group {
        0 => index as u64,
        _ => (((1 << SUB_BITS) + sub + 1) << (group - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_bucket_ends_where_the_next_begins() {
        for index in 0..LATENCY_BUCKETS - 1 {
            let end = bucket_end(index);
            assert_eq!((bucket_of(end), bucket_of(end + 1)), (index, index + 1), "{end}");
        }
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(u64::MAX), LATENCY_BUCKETS - 1);
    }

    #[test]
    fn percentiles_of_nothing_are_zero_and_of_one_sample_that_sample() {
        let histogram = LatencyHistogram::default();
        assert_eq!((histogram.read().samples(), histogram.read().percentile(999)), (0, 0));
        histogram.record(5);
        assert_eq!(
            (histogram.read().percentile(1), histogram.read().percentile(1_000)),
            (5, 5)
        );
    }

    proptest! {
        #![proptest_config(crate::testing::properties())]

        #[test]
        fn percentiles_are_those_of_a_sorted_list_but_for_an_eighth(
            mut samples in proptest::collection::vec(0u64..1 << 34, 1..500),
            per_mille in 1u64..=1_000,
        ) {
            let histogram = LatencyHistogram::default();
            samples.iter().for_each(|sample| histogram.record(*sample));
            samples.sort_unstable();
            let rank = (samples.len() as u64 * per_mille).div_ceil(1_000).max(1) as usize - 1;
            let (exact, shown) = (samples[rank], histogram.read().percentile(per_mille));
            prop_assert!(shown >= exact && shown <= exact + exact / 8, "{} for {}", shown, exact);
            prop_assert_eq!(histogram.read().sum_cycles, samples.iter().sum::<u64>());
        }
    }
}
