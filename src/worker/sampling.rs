//! Which passes are timed for the latency histogram: a fixed share of those that moved frames.
//!
//! The time runs from the first poll of a pass to the end of its transmission. No frame in it waited longer. A frame that
//! was handed off is timed by the worker that finishes it, in the pass that took it.

/// One of so many busy passes is timed. A prime number, so that samples never coincide with housekeeping, which comes
/// every 64 busy passes under load.
const BUSY_PASSES_PER_SAMPLE: u32 = 61;

/// Counts busy passes down to the next sample.
#[derive(Debug)]
pub(super) struct Sampling {
    passes_left: u32,
}

impl Sampling {
    pub(super) const fn new() -> Self {
        Self { passes_left: 1 }
    }

    /// To be called once per busy pass. Returns whether it is timed.
    #[inline]
    pub(super) fn is_due(&mut self) -> bool {
        self.passes_left = self.passes_left.wrapping_sub(1);
        if self.passes_left > 0 {
            return false;
        }
        self.passes_left = BUSY_PASSES_PER_SAMPLE;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_busy_pass_and_then_one_of_sixty_one_is_timed() {
        let mut sampling = Sampling::new();
        let timed: Vec<_> = (0..200).filter(|_| sampling.is_due()).collect();
        assert_eq!(timed, [0, 61, 122, 183]);
    }
}
