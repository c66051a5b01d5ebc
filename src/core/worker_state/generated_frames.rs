//! Frames that the path makes besides those of the burst: fragments of a packet that is too long for a link, fragments
//! of a reassembled datagram, and ICMP errors that do not reuse a frame of the burst.
//!
//! In:  whole frames with their verdicts, while the path processes a burst.
//! Out: the same frames in order. The worker loop copies each into a buffer of its own.
//! Never: allocates after start. The path drops a frame that does not fit and counts it as `generated_frames_full`.

use crate::limits::{GENERATED_BYTES_MAX, GENERATED_FRAMES_MAX};
use crate::verdict::Verdict;

/// See the module.
#[derive(Debug)]
pub struct GeneratedFrames {
    bytes: Box<[u8]>,
    used: usize,
    /// Verdict and end of each frame; a frame begins where the one before it ends.
    frames: Vec<(Verdict, usize)>,
    taken: usize,
}

impl GeneratedFrames {
    /// Allocates space for all frames that one burst can generate.
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; GENERATED_BYTES_MAX].into_boxed_slice(),
            used: 0,
            frames: Vec::with_capacity(GENERATED_FRAMES_MAX),
            taken: 0,
        }
    }

    /// Appends a frame that consists of `parts`. Returns `false` if it does not fit.
    #[must_use]
    pub(crate) fn push(&mut self, verdict: Verdict, parts: &[&[u8]]) -> bool {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if self.frames.len() == self.frames.capacity() {
            return false;
        }
        let Some(mut space) = self.bytes.get_mut(self.used..self.used + len) else {
            return false;
        };
        for part in parts {
            let Some((to, rest)) = std::mem::take(&mut space).split_at_mut_checked(part.len()) else {
                return false;
            };
            to.copy_from_slice(part);
            space = rest;
        }
        self.used += len;
        self.frames.push((verdict, self.used));
        true
    }

    /// Returns the current fill level, for [`Self::rewind`].
    pub(crate) fn mark(&self) -> (usize, usize) {
        (self.frames.len(), self.used)
    }

    /// Removes the frames that were pushed since the mark.
    pub(crate) fn rewind(&mut self, (frames_count, used): (usize, usize)) {
        self.frames.truncate(frames_count);
        self.used = used;
    }

    /// Takes the oldest frame. When none is left, all space is free again.
    pub(crate) fn take(&mut self) -> Option<(Verdict, &[u8])> {
        let begin = match self.taken.checked_sub(1) {
            Some(before) => self.frames.get(before)?.1,
            None => 0,
        };
        let Some(&(verdict, end)) = self.frames.get(self.taken) else {
            self.frames.clear();
            (self.used, self.taken) = (0, 0);
            return None;
        };
        self.taken += 1;
        Some((verdict, self.bytes.get(begin..end)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l3::DeviceId;

    #[test]
    fn frames_come_out_once_in_order_and_then_all_space_is_free_again() {
        let mut generated = GeneratedFrames::new();
        for _ in 0..3 {
            assert!(generated.push(Verdict::Transmit(DeviceId(1)), &[b"ab", b"", b"c"]));
            assert!(generated.push(Verdict::Punt, &[b"d"]));
            assert_eq!(
                generated.take(),
                Some((Verdict::Transmit(DeviceId(1)), b"abc".as_slice()))
            );
            assert_eq!(generated.take(), Some((Verdict::Punt, b"d".as_slice())));
            assert_eq!(generated.take(), None);
        }
    }

    #[test]
    fn a_frame_that_does_not_fit_is_refused_and_earlier_frames_stay() {
        let mut generated = GeneratedFrames::new();
        let half = vec![7; GENERATED_BYTES_MAX / 2];
        assert!(generated.push(Verdict::Punt, &[&half]));
        assert!(generated.push(Verdict::Punt, &[&half]));
        assert!(!generated.push(Verdict::Punt, &[b"x"]));
        assert_eq!(generated.take().map(|(_, frame)| frame.len()), Some(half.len()));
        let mut many = GeneratedFrames::new();
        let refused = (0..2 * GENERATED_FRAMES_MAX)
            .filter(|_| !many.push(Verdict::Punt, &[]))
            .count();
        assert!(refused > 0 && many.frames.capacity() >= GENERATED_FRAMES_MAX);
    }
}
