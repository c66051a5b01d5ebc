//! Timers of connections: a hierarchical wheel of doubly linked lists through the connections.
//!
//! Time is counted in units of 64 ms; a unit's number modulo 2²⁶ is split into four levels, as on a clock:
//!
//! ```text
//! level 0: 256 slots of 64 ms (16.4 s) | 1: 64 of 16.4 s (17 min) | 2: 64 of 17 min (19 h) | 3: 64 of 19 h (50 d)
//! ```
//!
//! A timer sits on the level of the highest digit in which its unit differs from the wheel's position. When the
//! position enters a slot of a higher level, its timers come down; when it enters a slot of level 0, they fire.
//! Each call of `advance` handles one timer or passes one unit, so a caller's budget bounds the work. The position and
//! the lists hold all state between calls. Packets never touch the wheel: when a timer fires, the table looks whether
//! its connection was idle meanwhile.

use zerocopy::FromBytes;

use crate::arena::{Arena, ArenaError, ArenaSlice, FormerArena, slice_bytes};
use crate::ipvs::conn::ColdConn;
use crate::limits::TIMEOUT_MAX_SEC;
use crate::prefetch::prefetch_write;
use crate::tick::Tick;

/// No connection: the end of a list.
pub(super) const NONE: u32 = u32::MAX;

const UNIT_SHIFT: u32 = 6;
/// Milliseconds of one unit: how late a timer may fire.
pub(super) const UNIT_MS: u32 = 1 << UNIT_SHIFT;
const UNIT_MASK: u32 = u32::MAX >> UNIT_SHIFT;
/// Bits of a unit below each level, and the first slot of each level.
const LEVELS: [Level; 4] = [
    Level {
        below: 0,
        slots: 256,
        first: 0,
    },
    Level {
        below: 8,
        slots: 64,
        first: 256,
    },
    Level {
        below: 14,
        slots: 64,
        first: 320,
    },
    Level {
        below: 20,
        slots: 64,
        first: 384,
    },
];
const SLOTS: usize = 448;

struct Level {
    below: u32,
    slots: u32,
    first: u32,
}

impl Level {
    const fn slot_of(&self, unit: u32) -> u32 {
        self.first + (unit >> self.below & (self.slots - 1))
    }
}

#[derive(Clone, Copy, FromBytes)]
#[repr(C, align(64))]
struct Wheel {
    heads: [u32; SLOTS],
    /// The next unit to be served. Everything before it has fired.
    position: u32,
    unused: [u32; 15],
}

/// See the module.
pub(super) struct TimerWheel {
    wheel: ArenaSlice<Wheel>,
}

/// What [`TimerWheel::advance`] did.
pub(super) enum WheelEvent {
    /// Everything up to now has been served.
    Done,
    /// It passed one unit, or moved one timer down a level.
    Moved,
    /// This connection's timer fired and is no longer armed.
    Fired(u32),
}

impl TimerWheel {
    pub(super) const BYTES: usize = slice_bytes::<Wheel>(1);

    pub(super) fn carve(arena: &mut Arena) -> Result<Self, ArenaError> {
        Ok(Self { wheel: arena.carve(1)? })
    }

    /// Carves the wheel of an earlier process, which nobody reads.
    pub(super) fn pass_by(arena: &mut FormerArena<'_>) -> Option<()> {
        arena.carve::<Wheel>(1).map(drop)
    }

    /// Empties a new wheel. Its position is set by the first timer.
    pub(super) fn reset(&mut self) {
        *self.wheel.at_mut(0) = Wheel {
            heads: [NONE; SLOTS],
            position: 0,
            unused: [0; 15],
        };
    }

    /// Puts the position of an empty wheel at `now`.
    pub(super) fn start(&mut self, now: Tick) {
        self.wheel.at_mut(0).position = now.0 >> UNIT_SHIFT;
    }

    /// Arms the timer of connection `index`, which must not be armed, to fire at `expiry` or up to 64 ms
    /// later; at once when that has passed.
    pub(super) fn arm(&mut self, conns: &mut ArenaSlice<ColdConn>, index: u32, expiry: Tick) {
        let unit = self.not_served(unit_of(expiry));
        self.link(conns, index, unit);
    }

    /// Arms it anew if `expiry` is before the time at which it would fire.
    pub(super) fn arm_earlier(&mut self, conns: &mut ArenaSlice<ColdConn>, index: u32, expiry: Tick) {
        let unit = self.not_served(unit_of(expiry));
        let position = self.position();
        if ahead(unit, position) < ahead(conns.at(index as usize).timer.fires_at, position) {
            self.disarm(conns, index);
            self.link(conns, index, unit);
        }
    }

    /// Takes connection `index` out of the wheel, in which it must be.
    pub(super) fn disarm(&mut self, conns: &mut ArenaSlice<ColdConn>, index: u32) {
        let timer = &mut conns.at_mut(index as usize).timer;
        let (next, previous, slot) = (timer.next, timer.previous, timer.slot);
        timer.slot = 0;
        if previous == NONE {
            self.set_head(slot.wrapping_sub(1), next);
        } else {
            conns.at_mut(previous as usize).timer.next = next;
        }
        if next != NONE {
            conns.at_mut(next as usize).timer.previous = previous;
        }
    }

    /// Whether the unit of `now` or one before it has not been served yet.
    #[inline]
    pub(super) fn is_due(&self, now: Tick) -> bool {
        ahead(now.0 >> UNIT_SHIFT, self.position()) <= UNIT_MASK / 2
    }

    /// One unit of work towards `now`.
    pub(super) fn advance(&mut self, conns: &mut ArenaSlice<ColdConn>, now: Tick) -> WheelEvent {
        if !self.is_due(now) {
            return WheelEvent::Done;
        }
        let position = self.position();
        for level in LEVELS[1..].iter().rev() {
            if position & ((1 << level.below) - 1) != 0 {
                continue;
            }
            if let Some(index) = self.pop(conns, level.slot_of(position)) {
                let unit = conns.at(index as usize).timer.fires_at;
                self.link(conns, index, unit);
                return WheelEvent::Moved;
            }
        }
        if let Some(index) = self.pop(conns, LEVELS[0].slot_of(position)) {
            return WheelEvent::Fired(index);
        }
        self.wheel.at_mut(0).position = position.wrapping_add(1) & UNIT_MASK;
        WheelEvent::Moved
    }

    #[inline]
    fn position(&self) -> u32 {
        self.wheel.at(0).position
    }

    /// `unit`, or the next unit to serve if `unit` has been served.
    fn not_served(&self, unit: u32) -> u32 {
        let position = self.position();
        if ahead(unit, position) > UNIT_MASK / 2 {
            position
        } else {
            unit
        }
    }

    fn set_head(&mut self, slot: u32, index: u32) {
        if let Some(head) = self.wheel.at_mut(0).heads.get_mut(slot as usize) {
            *head = index;
        }
    }

    fn link(&mut self, conns: &mut ArenaSlice<ColdConn>, index: u32, unit: u32) {
        let differing = unit ^ self.position();
        let level = LEVELS
            .iter()
            .rev()
            .find(|level| differing >> level.below != 0)
            .unwrap_or(&LEVELS[0]);
        let slot = level.slot_of(unit);
        let next = self.wheel.at(0).heads.get(slot as usize).copied().unwrap_or(NONE);
        self.set_head(slot, index);
        if next != NONE {
            conns.at_mut(next as usize).timer.previous = index;
        }
        let timer = &mut conns.at_mut(index as usize).timer;
        timer.next = next;
        timer.previous = NONE;
        timer.fires_at = unit;
        timer.slot = slot + 1;
    }

    /// Takes the first connection out of `slot` and fetches the timer of the one behind it for the next call.
    fn pop(&mut self, conns: &mut ArenaSlice<ColdConn>, slot: u32) -> Option<u32> {
        let index = self
            .wheel
            .at(0)
            .heads
            .get(slot as usize)
            .copied()
            .filter(|&index| index != NONE)?;
        self.disarm(conns, index);
        let next = conns.at(index as usize).timer.next;
        if next != NONE {
            prefetch_write(conns.at(next as usize));
        }
        Some(index)
    }

    /// Counts the timers in the wheel, checking every link. Reads everything.
    #[cfg(test)]
    pub(super) fn count_armed(&self, conns: &ArenaSlice<ColdConn>) -> usize {
        let mut count = 0;
        for (slot, &head) in (1..).zip(&self.wheel[0].heads) {
            let (mut index, mut previous) = (head, NONE);
            while index != NONE {
                let timer = &conns[index as usize].timer;
                assert_eq!((timer.slot, timer.previous), (slot, previous), "connection {index}");
                (index, previous) = (timer.next, index);
                count += 1;
                assert!(count <= conns.len(), "a list without end in slot {slot}");
            }
        }
        count
    }
}

/// The first unit that begins at or after `tick`.
const fn unit_of(tick: Tick) -> u32 {
    tick.0.wrapping_add((1 << UNIT_SHIFT) - 1) >> UNIT_SHIFT
}

/// How many units `unit` lies ahead of `position`, modulo the wheel: more than half means behind.
const fn ahead(unit: u32, position: u32) -> u32 {
    unit.wrapping_sub(position) & UNIT_MASK
}

/// `ms` after `start`. A longer timeout than the clock can represent is cut to the longest one.
pub(super) const fn expiry(start: Tick, ms: u32) -> Tick {
    let longest = TIMEOUT_MAX_SEC * 1_000;
    start.plus_ms(if ms < longest { ms } else { longest })
}
