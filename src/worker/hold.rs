//! Frames that wait until the kernel has resolved a neighbour, in order, bounded in number and time.

use std::collections::VecDeque;

use lvs_core::l3::NeighbourKey;
use lvs_core::limits::{HELD_MAX, HELD_PER_NEIGHBOUR_MAX};
use lvs_core::tick::Tick;

use crate::dpdk::Mbuf;

/// Milliseconds that a frame waits: the kernel gives up after three probes, one a second.
const WAIT_MS: u32 = 3_000;

/// Milliseconds between two requests for the same neighbour.
const ASK_AGAIN_MS: u32 = 1_000;

/// A frame that waits.
#[derive(Debug)]
pub struct Held {
    /// Complete but for the MAC addresses.
    pub mbuf: Mbuf,
    /// What it waits for.
    pub neighbour: NeighbourKey,
    since: Tick,
}

/// A neighbour that frames wait for.
#[derive(Debug)]
struct Waiting {
    neighbour: NeighbourKey,
    frames_count: usize,
    ask_at: Tick,
}

/// See the module. Oldest first.
#[derive(Debug)]
pub struct Hold {
    frames: VecDeque<Held>,
    // Searched from the front: it is as long as the networks have silent neighbours, at most HELD_MAX, and is
    // touched by frames without a neighbour only.
    waiting: Vec<Waiting>,
}

impl Hold {
    /// An empty one with room for all it may ever hold.
    pub fn new() -> Self {
        Self {
            frames: VecDeque::with_capacity(HELD_MAX),
            waiting: Vec::with_capacity(HELD_MAX),
        }
    }

    /// Frames that wait: 0 to [`HELD_MAX`].
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Lets a frame wait; gives it back when too many wait already for this or any neighbour.
    pub fn push(&mut self, mbuf: Mbuf, neighbour: NeighbourKey, now: Tick) -> Result<(), Mbuf> {
        if self.frames.len() >= HELD_MAX {
            return Err(mbuf);
        }
        match self.waiting.iter_mut().find(|waiting| waiting.neighbour == neighbour) {
            Some(waiting) if waiting.frames_count >= HELD_PER_NEIGHBOUR_MAX => return Err(mbuf),
            Some(waiting) => waiting.frames_count += 1,
            // Fewer neighbours than frames, so there is room.
            None => self.waiting.push(Waiting {
                neighbour,
                frames_count: 1,
                ask_at: now,
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

    /// Takes out the oldest frame. Taking each once and giving back ([`Self::give_back`]) those that still
    /// wait keeps their order.
    pub fn pop(&mut self) -> Option<Held> {
        let held = self.frames.pop_front()?;
        if let Some(place) = self
            .waiting
            .iter()
            .position(|waiting| waiting.neighbour == held.neighbour)
            && let Some(waiting) = self.waiting.get_mut(place)
        {
            waiting.frames_count -= 1;
            if waiting.frames_count == 0 {
                self.waiting.swap_remove(place);
            }
        }
        Some(held)
    }

    /// Lets a frame wait on, for the rest of its time; gives it back when there is no room.
    pub fn give_back(&mut self, held: Held, now: Tick) -> Result<(), Mbuf> {
        self.push(held.mbuf, held.neighbour, now)?;
        if let Some(last) = self.frames.back_mut() {
            last.since = held.since;
        }
        Ok(())
    }

    /// Calls `ask` for each neighbour whose turn it is; one that it cannot take now is tried again.
    pub fn ask(&mut self, now: Tick, mut ask: impl FnMut(NeighbourKey) -> bool) {
        for waiting in &mut self.waiting {
            if now.reached(waiting.ask_at) && ask(waiting.neighbour) {
                waiting.ask_at = now.plus_ms(ASK_AGAIN_MS);
            }
        }
    }
}

impl Default for Hold {
    fn default() -> Self {
        Self::new()
    }
}
