//! Rings of frames between workers, one for each ordered pair: wait-free, one producer and one consumer.
//!
//! A frame goes to the worker that owns its connection, or to one that has a transmit queue of a device of
//! which this worker has none.

use arrayvec::ArrayVec;
use lvs_core::l3::DeviceId;
use lvs_core::limits::WORKERS_MAX;
use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::dpdk::Mbuf;

/// Frames that may wait in one ring between two of `workers_count` workers.
///
/// A worker that shares its CPU may be off it for some milliseconds, in which 512 frames are not enough at
/// half a million packets a second (measured: 6 % lost in a lab). Among many workers each ring carries
/// little, and all rings together must not pin the pool.
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
    /// The receiver owns its connection: decide about it.
    Process {
        /// The frame as it was received.
        mbuf: Mbuf,
        /// The device it was received from.
        from: DeviceId,
    },
    /// The kernel sends it, and the receiver owns the connection that it is a reply of.
    FromHost {
        /// The frame.
        mbuf: Mbuf,
        /// The device whose twin it came from, and by which it leaves.
        device: DeviceId,
    },
    /// It is complete; only the queue is missing.
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

/// What other workers hand to this one. Within the worker: polling an empty ring writes to its end, and on the heap the ends
/// of two workers lie on one cache line.
#[derive(Debug, Default)]
pub struct Inbox(ArrayVec<Consumer<Handoff>, WORKERS_MAX>);

/// What this worker hands to others; nothing at its own index.
#[derive(Debug, Default)]
pub struct Outbox(ArrayVec<Option<Producer<Handoff>>, WORKERS_MAX>);

impl Inbox {
    /// How many workers may hand something over.
    #[inline]
    pub fn peers_count(&self) -> usize {
        self.0.len()
    }

    /// The next frame from the peer at this place: 0 to [`Self::peers_count`].
    #[inline]
    pub fn take(&mut self, peer: usize) -> Option<Handoff> {
        self.0.get_mut(peer)?.pop().ok()
    }
}

impl Outbox {
    /// Hands a frame to a worker; gives it back when its ring is full, or when there is no such other worker.
    #[inline]
    pub fn give(&mut self, worker: usize, handed: Handoff) -> Result<(), Mbuf> {
        match self.0.get_mut(worker) {
            Some(Some(ring)) => ring.push(handed).map_err(|PushError::Full(handed)| handed.into_mbuf()),
            _ => Err(handed.into_mbuf()),
        }
    }
}

/// The rings between `workers_count` workers, by worker.
///
/// # Panics
/// When there are more than [`WORKERS_MAX`].
pub fn mesh(workers_count: usize) -> Vec<(Inbox, Outbox)> {
    let mut inboxes: Vec<_> = (0..workers_count).map(|_| Inbox::default()).collect();
    let mut outboxes = Vec::with_capacity(workers_count);
    for giver in 0..workers_count {
        let mut outbox = Outbox::default();
        for (taker, inbox) in inboxes.iter_mut().enumerate() {
            let (producer, consumer) = (giver != taker).then(|| RingBuffer::new(slots(workers_count))).unzip();
            inbox.0.extend(consumer);
            outbox.0.push(producer);
        }
        outboxes.push(outbox);
    }
    inboxes.into_iter().zip(outboxes).collect()
}
