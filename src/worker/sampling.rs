//! Which passes are timed for the latency histogram: one of so many that moved frames.
//!
//! A pass is timed from its first poll to the end of its transmission: what every frame in it waited at
//! most. Frames that another worker finishes are timed there, from the pass that took them over.

/// One of so many busy passes. A prime, so that it never keeps step with housekeeping, which comes every
/// 64 busy passes under load.
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

    /// Once a busy pass: whether it is timed.
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
