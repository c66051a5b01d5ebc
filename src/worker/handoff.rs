//! Rings of frames between workers, one for each ordered pair. They are wait-free and have one producer and one consumer.
//!
//! A worker hands a frame off to the worker that owns its connection, or to one that has the transmit queue which this
//! worker lacks.

use arrayvec::ArrayVec;
use lvs_core::l3::DeviceId;
use lvs_core::limits::WORKERS_MAX;
use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::dpdk::Mbuf;

/// Slots of one ring between two of `workers_count` workers.
///
/// A worker that shares its CPU may not run for some milliseconds. At half a million packets per second 512 slots are too
/// few for that (a lab lost 6 %). With many workers each ring carries few frames, and all rings together must not hold
/// most of the pool's buffers.
pub const fn slots(workers_count: usize) -> usize {
    match workers_count {
        0..=2 => 4_096,
        3..=4 => 2_048,
        5..=8 => 1_024,
        _ => 512,
    }
}

/// A frame for another worker.
#[derive(Debug)]
pub enum Handoff {
    /// The receiver owns its connection and processes it.
    Process {
        /// The frame, unchanged since it was received.
        mbuf: Mbuf,
        /// The device that received it.
        from: DeviceId,
    },
    /// The kernel sends it as a reply of a connection that the receiver owns.
    FromHost {
        /// The frame.
        mbuf: Mbuf,
        /// The device whose twin sent it and by which it leaves.
        device: DeviceId,
    },
    /// It is complete, and the receiver has the transmit queue.
    Transmit {
        /// The frame.
        mbuf: Mbuf,
        /// The device to transmit on.
        to: DeviceId,
    },
}

impl Handoff {
    fn into_mbuf(self) -> Mbuf {
        match self {
            Self::Process { mbuf, .. } | Self::FromHost { mbuf, .. } | Self::Transmit { mbuf, .. } => mbuf,
        }
    }
}

/// The rings on which other workers hand frames off to this one. The worker holds them itself: polling an empty ring writes
/// to its consumer, and on the heap the consumers of two workers would share a cache line.
#[derive(Debug, Default)]
pub struct HandoffReceivers(ArrayVec<Consumer<Handoff>, WORKERS_MAX>);

/// The rings on which this worker hands frames off, by worker. There is none at its own index.
#[derive(Debug, Default)]
pub struct HandoffSenders(ArrayVec<Option<Producer<Handoff>>, WORKERS_MAX>);

impl HandoffReceivers {
    /// How many workers may hand frames off to this one.
    #[inline]
    pub fn peers_count(&self) -> usize {
        self.0.len()
    }

    /// The next frame from a peer, whose number is below [`Self::peers_count`].
    #[inline]
    pub fn receive(&mut self, peer: usize) -> Option<Handoff> {
        self.0.get_mut(peer)?.pop().ok()
    }
}

impl HandoffSenders {
    /// Hands a frame off to a worker. Returns its buffer when the ring is full or when there is no such other worker.
    #[inline]
    pub fn send(&mut self, worker: usize, handoff: Handoff) -> Result<(), Mbuf> {
        match self.0.get_mut(worker) {
            Some(Some(ring)) => ring
                .push(handoff)
                .map_err(|PushError::Full(handoff)| handoff.into_mbuf()),
            _ => Err(handoff.into_mbuf()),
        }
    }
}

/// The rings between `workers_count` workers, by worker.
///
/// # Panics
/// When there are more than [`WORKERS_MAX`].
pub fn mesh(workers_count: usize) -> Vec<(HandoffReceivers, HandoffSenders)> {
    let mut all_receivers: Vec<_> = (0..workers_count).map(|_| HandoffReceivers::default()).collect();
    let mut all_senders = Vec::with_capacity(workers_count);
    for from in 0..workers_count {
        let mut senders = HandoffSenders::default();
        for (to, receivers) in all_receivers.iter_mut().enumerate() {
            let (producer, consumer) = (from != to).then(|| RingBuffer::new(slots(workers_count))).unzip();
            receivers.0.extend(consumer);
            senders.0.push(producer);
        }
        all_senders.push(senders);
    }
    all_receivers.into_iter().zip(all_senders).collect()
}
