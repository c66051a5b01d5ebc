//! A [`Frame`] in a vector, with headroom and tailroom like an mbuf. The offline mode and tests use it.

use crate::frame::Frame;

/// Bytes in front of a new frame: DPDK's `RTE_PKTMBUF_HEADROOM`.
const HEADROOM: usize = 128;
/// Bytes behind a new frame.
const TAILROOM: usize = 512;
/// What headroom and tailroom are filled with, so that a test sees bytes that nobody wrote.
const UNDEFINED: u8 = 0xa5;

/// See the module. Two are equal when their frames are, whatever surrounds them.
#[derive(Clone, Debug)]
pub struct VecFrame {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl VecFrame {
    /// A frame of these bytes with 128 bytes of headroom and 512 of tailroom.
    pub fn new(bytes: &[u8]) -> Self {
        Self::with_headroom(bytes, HEADROOM, TAILROOM)
    }

    /// A frame of these bytes with headroom and tailroom as given.
    pub fn with_headroom(bytes: &[u8], headroom: usize, tailroom: usize) -> Self {
        let mut buffer = vec![UNDEFINED; headroom + bytes.len() + tailroom];
        let end = headroom + bytes.len();
        buffer[headroom..end].copy_from_slice(bytes);
        Self {
            buffer,
            start: headroom,
            end,
        }
    }
}

impl Frame for VecFrame {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    fn prepend(&mut self, count: usize) -> bool {
        let Some(start) = self.start.checked_sub(count) else {
            return false;
        };
        self.buffer[start..self.start].fill(UNDEFINED);
        self.start = start;
        true
    }

    fn trim_front(&mut self, count: usize) -> bool {
        if count > self.end - self.start {
            return false;
        }
        self.start += count;
        true
    }

    fn append(&mut self, count: usize) -> bool {
        if count > self.buffer.len() - self.end {
            return false;
        }
        self.buffer[self.end..self.end + count].fill(UNDEFINED);
        self.end += count;
        true
    }

    fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start.saturating_add(len));
    }
}

impl PartialEq for VecFrame {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for VecFrame {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_grows_and_shrinks_within_its_buffer_and_is_unchanged_beyond_it() {
        let mut frame = VecFrame::with_headroom(b"frame", 2, 1);
        assert!(!frame.prepend(3) && !frame.append(2) && !frame.trim_front(6));
        assert_eq!(frame.bytes(), b"frame");
        assert!(frame.prepend(2) && frame.append(1));
        assert_eq!(frame.bytes(), b"\xa5\xa5frame\xa5");
        assert!(frame.trim_front(3));
        frame.truncate(4);
        frame.truncate(9);
        assert_eq!(frame.bytes(), b"rame");
    }
}
