//! Rings of frames between one worker and the thread that serves the kernel twins.
//!
//! The worker's side never makes a system call: the thread looks into the rings by itself.

use lvs_core::l3::DeviceId;
use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::dpdk::Mbuf;

/// Frames that may wait for the twin thread: what arrives in the millisecond that it may sleep, at 1 Mpps.
pub const PUNTED_SLOTS: usize = 1_024;

/// Frames from the twins that may wait for a worker.
pub const INJECTED_SLOTS: usize = 512;

/// A frame on its way to or from the kernel twin of `device`.
#[derive(Debug)]
pub struct TwinFrame {
    /// The frame, unchanged.
    pub mbuf: Mbuf,
    /// Whose twin.
    pub device: DeviceId,
}

/// The worker's end: where punted frames go.
#[derive(Debug)]
pub struct PuntedFrames(Producer<TwinFrame>);

/// The worker's end: where frames from the twins come from.
#[derive(Debug)]
pub struct InjectedFrames(Consumer<TwinFrame>);

/// The twin thread's end of one worker's rings.
#[derive(Debug)]
pub struct TwinEnd {
    punted: Consumer<TwinFrame>,
    injected: Producer<TwinFrame>,
}

/// Both ends of one worker's rings.
pub fn line() -> (PuntedFrames, InjectedFrames, TwinEnd) {
    let (give_punted, punted) = RingBuffer::new(PUNTED_SLOTS);
    let (injected, take_injected) = RingBuffer::new(INJECTED_SLOTS);
    (
        PuntedFrames(give_punted),
        InjectedFrames(take_injected),
        TwinEnd { punted, injected },
    )
}

impl PuntedFrames {
    /// Gives a frame to the twin thread; gives it back when the ring is full.
    #[inline]
    pub fn give(&mut self, mbuf: Mbuf, device: DeviceId) -> Result<(), Mbuf> {
        self.0
            .push(TwinFrame { mbuf, device })
            .map_err(|PushError::Full(frame)| frame.mbuf)
    }
}

impl InjectedFrames {
    /// The next frame from a twin.
    #[inline]
    pub fn take(&mut self) -> Option<TwinFrame> {
        self.0.pop().ok()
    }
}

impl TwinEnd {
    /// The next frame for a twin.
    pub fn take(&mut self) -> Option<TwinFrame> {
        self.punted.pop().ok()
    }

    /// Whether the worker can be given another frame.
    pub fn has_room(&self) -> bool {
        !self.injected.is_full()
    }

    /// Gives the worker a frame to transmit; gives it back when the ring is full.
    pub fn give(&mut self, frame: TwinFrame) -> Result<(), TwinFrame> {
        self.injected.push(frame).map_err(|PushError::Full(frame)| frame)
    }
}
