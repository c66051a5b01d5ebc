//! Cycles by stage of the worker's loop, in builds with the feature `stages`. Other builds do nothing here, at no cost.
//!
//! In:  a mark at the end of each stage of each burst. Out: the sum of cycles since the mark before, by stage.
//! One thread sets marks, and any thread may read the sums. Nothing on the path depends on them.

use std::sync::atomic::AtomicU64;

use crate::single_writer::SingleWriter;

/// A stage of the worker loop, or of the path where it works on a burst as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
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
    Housekeeping,
}

impl Stage {
    /// All stages, in their order.
    pub const ALL: [Self; 8] = [
        Self::Receive,
        Self::Admit,
        Self::Parse,
        Self::Tags,
        Self::Forward,
        Self::Dispatch,
        Self::Transmit,
        Self::Housekeeping,
    ];
}

/// See the module. It is part of a worker's counters.
#[derive(Debug, Default)]
pub struct StageCycles {
    sums: [AtomicU64; Stage::ALL.len()],
    last: AtomicU64,
}

impl StageCycles {
    /// Starts at the time-stamp `cycles`: nothing before it counts.
    pub fn begin(&self, cycles: u64) {
        self.last.set(cycles);
    }

    /// The end of `stage` at the time-stamp `cycles`.
    #[inline(always)]
    pub fn mark(&self, stage: Stage, cycles: u64) {
        if let Some(sum) = self.sums.get(stage as usize) {
            sum.add(cycles.wrapping_sub(self.last.get()));
        }
        self.last.set(cycles);
    }

    /// Cycles by stage.
    pub fn sums(&self) -> [u64; Stage::ALL.len()] {
        std::array::from_fn(|stage| self.sums[stage].get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_gets_the_cycles_since_the_mark_before() {
        let stages = StageCycles::default();
        stages.begin(1_000);
        for round in 0..3u64 {
            stages.mark(Stage::Receive, 1_000 + round * 10 + 7);
            stages.mark(Stage::Forward, 1_000 + round * 10 + 10);
        }
        let sums = stages.sums();
        assert_eq!((sums[Stage::Receive as usize], sums[Stage::Forward as usize]), (21, 9));
    }
}
