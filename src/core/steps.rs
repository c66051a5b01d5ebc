//! Cycles by step of a packet's way, in builds with the feature `steps`; in others nothing at all, at no cost.
//!
//! In:  a mark at the end of each step of each burst. Out: the sum of cycles since the mark before, by step.
//! One thread marks, anybody reads the sums. Nothing on the path depends on them.

use std::sync::atomic::AtomicU64;

use crate::counters::SingleWriter;

/// A step of the worker loop, or of the path where it works on a burst as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StepName {
    /// Poll of a receive queue: the driver.
    Receive,
    /// Prefetch and count of what arrived.
    Admit,
    /// Headers, hash, prefetch of buckets.
    Parse,
    /// Tags, prefetch of connections.
    Tags,
    /// Connection, state, rewrite, next hop.
    Forward,
    /// Into the batch of a device.
    Dispatch,
    /// Transmit and free: the driver.
    Transmit,
    /// Timers, commands, and everything else of a pass.
    House,
}

impl StepName {
    /// All, in the order of a packet's way.
    pub const ALL: [Self; 8] = [
        Self::Receive,
        Self::Admit,
        Self::Parse,
        Self::Tags,
        Self::Forward,
        Self::Dispatch,
        Self::Transmit,
        Self::House,
    ];
}

/// See the module. Lives among a worker's counters.
#[derive(Debug, Default)]
pub struct StepCycles {
    sums: [AtomicU64; StepName::ALL.len()],
    last: AtomicU64,
}

impl StepCycles {
    /// Nothing before the time-stamp `cycles` counts.
    pub fn begin(&self, cycles: u64) {
        self.last.set(cycles);
    }

    /// The end of `step` at the time-stamp `cycles`.
    #[inline(always)]
    pub fn mark(&self, step: StepName, cycles: u64) {
        if let Some(sum) = self.sums.get(step as usize) {
            sum.add(cycles.wrapping_sub(self.last.get()));
        }
        self.last.set(cycles);
    }

    /// Cycles by step.
    pub fn sums(&self) -> [u64; StepName::ALL.len()] {
        std::array::from_fn(|step| self.sums[step].get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_gets_the_cycles_since_the_mark_before() {
        let steps = StepCycles::default();
        steps.begin(1_000);
        for round in 0..3u64 {
            steps.mark(StepName::Receive, 1_000 + round * 10 + 7);
            steps.mark(StepName::Forward, 1_000 + round * 10 + 10);
        }
        let sums = steps.sums();
        assert_eq!(
            (sums[StepName::Receive as usize], sums[StepName::Forward as usize]),
            (21, 9)
        );
    }
}
