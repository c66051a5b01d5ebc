//! Frames that wait until the kernel has resolved a neighbour. Their order is kept, their number and time are bounded.

use std::collections::VecDeque;

use lvs_core::l3::NeighbourKey;
use lvs_core::limits::{HELD_MAX, HELD_PER_NEIGHBOUR_MAX};
use lvs_core::tick::Tick;

use crate::dpdk::Mbuf;

/// Milliseconds that a frame waits. The kernel gives up after three probes, one per second.
const WAIT_MS: u32 = 3_000;

/// Milliseconds between two requests for the same neighbour.
const REQUEST_PERIOD_MS: u32 = 1_000;

/// A frame that waits.
#[derive(Debug)]
pub struct Held {
    /// The frame. Only the MAC addresses are missing.
    pub mbuf: Mbuf,
    /// The neighbour that it waits for.
    pub neighbour: NeighbourKey,
    since: Tick,
}

/// A neighbour that frames wait for.
#[derive(Debug)]
struct Waiting {
    neighbour: NeighbourKey,
    frames_count: usize,
    request_at: Tick,
}

/// See the module. The oldest frame comes first.
#[derive(Debug)]
pub struct Hold {
    frames: VecDeque<Held>,
    // A search goes from the front to the back. The list has one entry per silent neighbour, at most HELD_MAX, and only
    // frames without a resolved neighbour need it.
    waiting: Vec<Waiting>,
}

impl Hold {
    /// An empty hold whose memory suffices for all that it may ever hold.
    pub fn new() -> Self {
        Self {
            frames: VecDeque::with_capacity(HELD_MAX),
            waiting: Vec::with_capacity(HELD_MAX),
        }
    }

    /// How many frames wait: 0 to [`HELD_MAX`].
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether no frame waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Lets a frame wait. Returns it when too many wait already, for this neighbour or in total.
    pub fn push(&mut self, mbuf: Mbuf, neighbour: NeighbourKey, now: Tick) -> Result<(), Mbuf> {
        if self.frames.len() >= HELD_MAX {
            return Err(mbuf);
        }
        match self.waiting.iter_mut().find(|waiting| waiting.neighbour == neighbour) {
            Some(waiting) if waiting.frames_count >= HELD_PER_NEIGHBOUR_MAX => return Err(mbuf),
            Some(waiting) => waiting.frames_count += 1,
            // There are never more neighbours than frames, so the list does not grow.
            None => self.waiting.push(Waiting {
                neighbour,
                frames_count: 1,
                request_at: now,
            }),
        }
        self.frames.push_back(Held {
            mbuf,
            neighbour,
            since: now,
        });
        Ok(())
    }

    /// Takes out the oldest frame that has waited too long.
    pub fn pop_expired(&mut self, now: Tick) -> Option<Held> {
        let oldest = self.frames.front()?;
        if now.since_ms(oldest.since) < WAIT_MS {
            None
        } else {
            self.pop()
        }
    }

    /// Takes out the oldest frame. The order is kept if a caller takes each frame once and puts back
    /// ([`Self::put_back`]) those that still wait.
    pub fn pop(&mut self) -> Option<Held> {
        let held = self.frames.pop_front()?;
        if let Some(index) = self
            .waiting
            .iter()
            .position(|waiting| waiting.neighbour == held.neighbour)
            && let Some(waiting) = self.waiting.get_mut(index)
        {
            waiting.frames_count -= 1;
            if waiting.frames_count == 0 {
                self.waiting.swap_remove(index);
            }
        }
        Some(held)
    }

    /// Lets a frame wait for the remainder of its time. Returns it when too many wait already.
    pub fn put_back(&mut self, held: Held, now: Tick) -> Result<(), Mbuf> {
        self.push(held.mbuf, held.neighbour, now)?;
        if let Some(last) = self.frames.back_mut() {
            last.since = held.since;
        }
        Ok(())
    }

    /// Calls `request` for each neighbour that is due. Where `request` returns `false`, the next call tries again.
    pub fn request_neighbours(&mut self, now: Tick, mut request: impl FnMut(NeighbourKey) -> bool) {
        for waiting in &mut self.waiting {
            if now.reached(waiting.request_at) && request(waiting.neighbour) {
                waiting.request_at = now.plus_ms(REQUEST_PERIOD_MS);
            }
        }
    }
}

impl Default for Hold {
    fn default() -> Self {
        Self::new()
    }
}
