//! All connections of one worker and one family. A packet finds its connection by the key of either direction.
//!
//! ```text
//! FlowKey -hash-> KeyIndex bucket (64 B) -tag-> Conn (2 or 3 lines)      TimerWheel -> Conn, free stack -> Conn
//! ```
//!
//! In:  the keys of a burst. The caller hashes all, then calls `prefetch_bucket`, `prefetch_candidate` and `find` for
//!      all, one after the other, so that the cache misses overlap. Out: connections by [`ConnIndex`].
//! Never: allocates after [`ConnTable::new`], panics, grows, or searches longer than 18 buckets.
//! All of it lies in the [`Arena`], the timer wheel's position and the secret included.

use zerocopy::FromBytes;

use crate::address::{Address, FlowKey};
use crate::arena::{Arena, ArenaError, ArenaSlice, HEADER_BYTES, slice_bytes};
use crate::ipvs::conn::key::KeyHash;
use crate::ipvs::conn::key_index::KeyIndex;
use crate::ipvs::conn::timer_wheel::{self, TimerWheel, WheelEvent};
use crate::ipvs::conn::{Conn, ConnFlags, ConnIndex, Direction, TimerLink};
use crate::ipvs::persistence;
use crate::prefetch::prefetch_write;
use crate::tick::Tick;

/// Why a connection was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// The table is full, or (once in 10¹² insertions at most) its index found no free place.
    Full,
    /// Another connection has this inbound key, or too many have this outbound key.
    Exists,
}

/// What becomes of a connection whose timer fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// The table removes it.
    Remove,
    /// It stays. Its timer fires again after so many milliseconds (at least one unit of the wheel, 64 ms).
    Rearm {
        /// Milliseconds from now.
        ms: u32,
    },
}

/// How many connections may have the same outbound key. Several services can lead one client's port to one server's
/// port.
const SAME_OUTBOUND_MAX: usize = 16;

/// The connection that a bucket's tags most likely mean. [`ConnTable::confirm`] accepts it until [`ConnTable::changes`]
/// changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate(u32);

impl Candidate {
    /// No connection.
    pub const NONE: Self = Self(u32::MAX);
}

/// How many insertions before its use a free slot is fetched.
const SLOTS_AHEAD: u32 = 8;

const MAGIC: u64 = u64::from_le_bytes(*b"conntabl");

/// What must survive besides index, wheel and connections.
#[derive(Clone, Copy, FromBytes)]
#[repr(C, align(64))]
struct State {
    magic: u64,
    capacity: u32,
    conn_bytes: u32,
    secret: [u64; 4],
    len: u32,
    /// How many slots were used and freed: the length of the stack `free`.
    freed: u32,
    /// First of the slots that were never used: everything from here on is untouched memory.
    fresh: u32,
    unused: u32,
}

/// See the module.
pub struct ConnTable<A: Address> {
    hash: KeyHash,
    index: KeyIndex,
    conns: ArenaSlice<Conn<A>>,
    /// A stack of free slots. A list through the connections would cost a cache miss for each insertion.
    free: ArenaSlice<u32>,
    wheel: TimerWheel,
    state: ArenaSlice<State>,
    changes: u32,
}

impl<A: Address> ConnTable<A> {
    /// Bytes of an arena for `capacity` connections, everything included.
    pub fn bytes_needed(capacity: usize) -> usize {
        HEADER_BYTES
            + slice_bytes::<State>(1)
            + TimerWheel::BYTES
            + KeyIndex::bytes_needed(2 * capacity)
            + slice_bytes::<u32>(capacity)
            + slice_bytes::<Conn<A>>(capacity)
    }

    /// An empty table for `capacity` connections, each found from both directions, whose keys are hashed
    /// with `secret` (random, from the operating system).
    ///
    /// # Errors
    /// Too little memory, or memory that holds an earlier process's state.
    pub fn new(arena: &mut Arena, capacity: usize, secret: [u64; 4]) -> Result<Self, ArenaError> {
        if arena.is_recovered() {
            return Err(ArenaError::NotEmpty);
        }
        let mut table = Self::carve(arena, capacity, secret)?;
        table.wheel.reset();
        *table.state.at_mut(0) = State {
            magic: MAGIC,
            capacity: capacity as u32,
            conn_bytes: size_of::<Conn<A>>() as u32,
            secret,
            len: 0,
            freed: 0,
            fresh: 0,
            unused: 0,
        };
        Ok(table)
    }

    /// The table that an earlier process left in `arena`, with all its connections. That process must have
    /// stopped between two operations on the table, not within one, and ticks must go on from where they were.
    ///
    /// # Errors
    /// [`ArenaError::OtherLayout`] when there is none of this capacity and family.
    pub fn attach(arena: &mut Arena, capacity: usize) -> Result<Self, ArenaError> {
        if !arena.is_recovered() {
            return Err(ArenaError::OtherLayout);
        }
        let mut table = Self::carve(arena, capacity, [0; 4])?;
        let state = table.state.at(0);
        let matches = state.magic == MAGIC
            && state.capacity as usize == capacity
            && state.conn_bytes as usize == size_of::<Conn<A>>();
        if !matches {
            return Err(ArenaError::OtherLayout);
        }
        table.hash = KeyHash::new(state.secret);
        Ok(table)
    }

    fn carve(arena: &mut Arena, capacity: usize, secret: [u64; 4]) -> Result<Self, ArenaError> {
        if capacity > 1 << 29 {
            return Err(ArenaError::CountOutOfRange(capacity));
        }
        let state = arena.carve(1)?;
        let wheel = TimerWheel::carve(arena)?;
        let index = KeyIndex::carve(arena, 2 * capacity)?;
        let free = arena.carve(capacity)?;
        let conns = arena.carve(capacity)?;
        Ok(Self {
            hash: KeyHash::new(secret),
            index,
            conns,
            free,
            wheel,
            state,
            changes: 0,
        })
    }

    /// How many connections there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.state.at(0).len as usize
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there can be.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.conns.len()
    }

    /// The keyed hash of `key`, for the lookups below.
    #[inline(always)]
    pub fn hash(&self, key: &FlowKey<A>) -> u64 {
        self.hash.hash(key)
    }

    /// [`Self::hash`] apart from the table.
    #[inline]
    pub fn hasher(&self) -> impl Fn(&FlowKey<A>) -> u64 + use<A> {
        let hash = self.hash;
        move |key| hash.hash(key)
    }

    /// Fetches the bucket of `hash`.
    #[inline(always)]
    pub fn prefetch_bucket(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Reads the bucket of `hash` and fetches the connection it most likely means.
    #[inline(always)]
    pub fn prefetch_candidate(&self, hash: u64) -> Candidate {
        let Some(value) = self.index.candidate(hash) else {
            return Candidate::NONE;
        };
        let conn = self.conns.at((value >> 1) as usize);
        prefetch_write(conn);
        if size_of::<Conn<A>>() > 128 {
            prefetch_write(&conn.last_seen);
        }
        Candidate(value)
    }

    /// How often connections have come, gone or been taken out of the index.
    #[inline(always)]
    pub const fn changes(&self) -> u32 {
        self.changes
    }

    /// The connection and direction of `key` if they are those of `candidate`, which must have been read since the
    /// last change. Otherwise [`Self::find`] may still find another.
    #[inline(always)]
    pub fn confirm(&mut self, candidate: Candidate, key: &FlowKey<A>) -> Option<(&mut Conn<A>, Direction)> {
        let direction = direction_of(candidate.0);
        let conn = self.conns.at_mut((candidate.0 >> 1) as usize);
        (candidate != Candidate::NONE && conn.is(key, direction)).then_some((conn, direction))
    }

    /// [`Self::lookup`] where the caller has the `hash` of `key` already.
    #[inline(always)]
    pub fn find(&self, hash: u64, key: &FlowKey<A>) -> Option<(ConnIndex, Direction)> {
        let value = self.index.find(hash, |value| {
            self.conns.at((value >> 1) as usize).is(key, direction_of(value))
        })?;
        Some((ConnIndex(value >> 1), direction_of(value)))
    }

    /// The connection of `key`, and the direction of its packets.
    #[inline]
    pub fn lookup(&self, key: &FlowKey<A>) -> Option<(ConnIndex, Direction)> {
        self.find(self.hash(key), key)
    }

    /// Adds `conn`, last seen `now`, to expire after its `timeout_ms`. With [`ConnFlags::OUTBOUND_INDEXED`] its
    /// outbound key is indexed too. If several connections have that key (several services lead one client's port to
    /// one server's port), a lookup finds the newest, as in the kernel.
    ///
    /// # Errors
    /// See [`InsertError`]; the table is unchanged.
    pub fn insert(&mut self, conn: Conn<A>, now: Tick) -> Result<ConnIndex, InsertError> {
        self.insert_at(conn, None, now)
    }

    /// [`Self::insert`] for a caller who may know that the outbound key of `conn` is free, and then has its hash.
    ///
    /// # Errors
    /// See [`InsertError`]; the table is unchanged.
    pub(crate) fn insert_at(
        &mut self,
        conn: Conn<A>,
        free_outbound: Option<u64>,
        now: Tick,
    ) -> Result<ConnIndex, InsertError> {
        let (inbound, outbound) = (conn.inbound_key(), conn.outbound_key());
        let both = conn.flags.contains(ConnFlags::OUTBOUND_INDEXED);
        let inbound_hash = self.hash(&inbound);
        let mut outbound_hash = free_outbound.unwrap_or(0);
        let mut older = None;
        if both && free_outbound.is_none() {
            outbound_hash = self.hash(&outbound);
            self.prefetch_bucket(outbound_hash);
            older = match self.find(outbound_hash, &outbound) {
                None => None,
                Some((index, Direction::Outbound)) if self.may_share_with(index) => Some(index),
                Some(_) => return Err(InsertError::Exists),
            };
        }
        if both && inbound == outbound || self.find(inbound_hash, &inbound).is_some() {
            return Err(InsertError::Exists);
        }
        let Some(slot) = self.free_slot() else {
            return Err(InsertError::Full);
        };
        if !self.index.insert(inbound_hash, value_of(slot, Direction::Inbound)) {
            return Err(InsertError::Full);
        }
        if let Some(older) = older {
            // The new connection takes its place in the index.
            self.index.remove(outbound_hash, value_of(older.0, Direction::Outbound));
            self.conn_mut(older).flags.insert(ConnFlags::SHADOWED);
        }
        if both && !self.index.insert(outbound_hash, value_of(slot, Direction::Outbound)) {
            self.index.remove(inbound_hash, value_of(slot, Direction::Inbound));
            return Err(InsertError::Full);
        }
        self.changes = self.changes.wrapping_add(1);
        self.take_slot(now);
        *self.conns.at_mut(slot as usize) = Conn {
            last_seen: now,
            timer: TimerLink::default(),
            shadowed: older.map_or(Conn::<A>::NO_CONTROL, |older| older.0),
            ..conn
        };
        self.wheel
            .arm(&mut self.conns, slot, timer_wheel::expiry(now, conn.timeout_ms));
        Ok(ConnIndex(slot))
    }

    /// Lets replies find the connection at `index` and no other of its outbound key. No effect if they do already.
    pub fn make_newest(&mut self, index: ConnIndex) {
        if !self.is_there(index) || !self.conn(index).flags.contains(ConnFlags::SHADOWED) {
            return;
        }
        let outbound = self.conn(index).outbound_key();
        let hash = self.hash(&outbound);
        let Some((newest, Direction::Outbound)) = self.find(hash, &outbound) else {
            return;
        };
        let is_newer = |other: &u32| self.conns.at(*other as usize).shadowed == index.0;
        let Some(newer) = self.same_outbound(newest).find(is_newer) else {
            return;
        };
        self.index.remove(hash, value_of(newest.0, Direction::Outbound));
        if !self.index.insert(hash, value_of(index.0, Direction::Outbound)) {
            // There was a place for the other one.
            let _ = self.index.insert(hash, value_of(newest.0, Direction::Outbound));
            return;
        }
        self.conns.at_mut(newer as usize).shadowed = self.conn(index).shadowed;
        self.conn_mut(newest).flags.insert(ConnFlags::SHADOWED);
        let conn = self.conn_mut(index);
        conn.flags.remove(ConnFlags::SHADOWED);
        conn.shadowed = newest.0;
        self.changes = self.changes.wrapping_add(1);
    }

    /// Puts `conn` under the control of `template`, which stays in the table as long as it controls any connection. No
    /// effect if one of the two is not in the table or if `conn` is controlled already.
    pub fn control(&mut self, conn: ConnIndex, template: ConnIndex) {
        if !self.is_there(conn) || !self.is_there(template) || self.conn(conn).flags.contains(ConnFlags::CONTROLLED) {
            return;
        }
        let child = self.conn_mut(conn);
        child.control = template.0;
        child.flags.insert(ConnFlags::CONTROLLED);
        self.conn_mut(template).controlled += 1;
    }

    /// Removes a template from the index, so that it decides nothing any more. It stays in the table as long as it
    /// controls connections (`ip_vs_check_template`).
    pub fn retire(&mut self, template: ConnIndex) {
        let slot = template.0;
        let conn = self.conn(template);
        if !self.is_there(template) || conn.flags & (ConnFlags::TEMPLATE | ConnFlags::RETIRED) != ConnFlags::TEMPLATE {
            return;
        }
        let old = self.hash(&conn.inbound_key());
        self.changes = self.changes.wrapping_add(1);
        self.index.remove(old, value_of(slot, Direction::Inbound));
        let conn = self.conn_mut(template);
        conn.flags.insert(ConnFlags::RETIRED);
        conn.virt.port = persistence::PORT_RETIRED;
        conn.real.port = persistence::PORT_RETIRED;
    }

    /// Removes a connection at once. No effect if there is none at `index`.
    pub fn remove(&mut self, index: ConnIndex) {
        if self.is_there(index) {
            self.prefetch_buckets_of(index.0);
            self.wheel.disarm(&mut self.conns, index.0);
            self.release(index.0);
        }
    }

    /// The connection at `index`. If it has been removed, the caller gets whatever is there now.
    #[inline(always)]
    pub fn conn(&self, index: ConnIndex) -> &Conn<A> {
        self.conns.at(index.0 as usize)
    }

    /// The same, writable. See [`Conn`] for what must not be changed.
    #[inline(always)]
    pub fn conn_mut(&mut self, index: ConnIndex) -> &mut Conn<A> {
        self.conns.at_mut(index.0 as usize)
    }

    /// Lets the connection expire after `timeout_ms` without a packet. `now` becomes its `last_seen`. The timer is
    /// changed only if it would fire too late; 0 expires the connection at once.
    #[inline]
    pub fn set_timeout(&mut self, index: ConnIndex, timeout_ms: u32, now: Tick) {
        let conn = self.conn_mut(index);
        conn.last_seen = now;
        let changed = timeout_ms != conn.timeout_ms;
        conn.timeout_ms = timeout_ms;
        if changed && self.is_there(index) {
            self.wheel
                .arm_earlier(&mut self.conns, index.0, timer_wheel::expiry(now, timeout_ms));
        }
    }

    /// Whether [`Self::expire`] would find anything to do.
    #[inline]
    pub fn is_timer_due(&self, now: Tick) -> bool {
        !self.is_empty() && self.wheel.is_due(now)
    }

    /// Serves the timers up to `now` and asks `decide` about every connection that has been idle for its timeout. It
    /// ends after `budget` units of work (one timer, or 64 ms of time), and the next call continues there. Returns how
    /// many connections it asked `decide` about.
    pub fn expire(&mut self, now: Tick, budget: usize, mut decide: impl FnMut(&mut Conn<A>) -> Expiry) -> usize {
        let mut decided = 0;
        if self.is_empty() {
            return decided;
        }
        // One fired connection waits for the next one, while its buckets are fetched.
        let mut waiting = None;
        for _ in 0..budget {
            match self.wheel.advance(&mut self.conns, now) {
                WheelEvent::Done => break,
                WheelEvent::Moved => {}
                WheelEvent::Fired(slot) => {
                    self.prefetch_buckets_of(slot);
                    let before = waiting.replace(slot);
                    decided += before.map_or(0, |slot| self.fired(slot, now, &mut decide));
                }
            }
        }
        decided + waiting.map_or(0, |slot| self.fired(slot, now, &mut decide))
    }

    /// Handles a connection whose timer fired. Returns 1 if it asked `decide`.
    fn fired(&mut self, slot: u32, now: Tick, decide: &mut impl FnMut(&mut Conn<A>) -> Expiry) -> usize {
        let conn = self.conns.at_mut(slot as usize);
        let idle_until = timer_wheel::expiry(conn.last_seen, conn.timeout_ms);
        if !now.reached(idle_until) {
            self.wheel.arm(&mut self.conns, slot, idle_until);
            return 0;
        }
        match decide(conn) {
            Expiry::Remove => self.release(slot),
            Expiry::Rearm { ms } => {
                let again = timer_wheel::expiry(now, ms.max(timer_wheel::UNIT_MS));
                self.wheel.arm(&mut self.conns, slot, again);
            }
        }
        1
    }

    /// Passes the connections in at most `slots_max` slots, from slot `from` on, to `visit`. Returns the slot for the
    /// next call; `None` at the end. Connections that begin or end between two calls may or may not be visited.
    pub fn scan(&self, from: u32, slots_max: usize, mut visit: impl FnMut(ConnIndex, &Conn<A>)) -> Option<u32> {
        let used = self.state.at(0).fresh;
        let until = u32::try_from(slots_max).map_or(used, |max| from.saturating_add(max).min(used));
        for slot in from..until {
            let conn = self.conns.at(slot as usize);
            if conn.timer.slot != 0 {
                visit(ConnIndex(slot), conn);
            }
        }
        (until < used).then_some(until)
    }

    #[inline]
    fn is_there(&self, index: ConnIndex) -> bool {
        (index.0 as usize) < self.conns.len() && self.conn(index).timer.slot != 0
    }

    /// The slot the next connection will take: the one freed last, or the first that was never used.
    fn free_slot(&self) -> Option<u32> {
        let state = self.state.at(0);
        match state.freed.checked_sub(1) {
            Some(last) => Some(*self.free.at(last as usize)),
            None => (state.fresh < state.capacity).then_some(state.fresh),
        }
    }

    /// Takes the slot that [`Self::free_slot`] returned, and fetches one that will be taken soon.
    fn take_slot(&mut self, now: Tick) {
        let state = self.state.at_mut(0);
        if state.len == 0 {
            self.wheel.start(now);
        }
        state.len += 1;
        let soon = match state.freed.checked_sub(1) {
            Some(last) => {
                state.freed = last;
                *self.free.at(last.saturating_sub(SLOTS_AHEAD) as usize)
            }
            None => {
                state.fresh += 1;
                state.fresh + SLOTS_AHEAD
            }
        };
        let soon = self.conns.at(soon as usize);
        prefetch_write(soon);
        prefetch_write(&soon.timer);
    }

    fn prefetch_buckets_of(&self, slot: u32) {
        let conn = self.conns.at(slot as usize);
        self.prefetch_bucket(self.hash(&conn.inbound_key()));
        if conn.flags.contains(ConnFlags::OUTBOUND_INDEXED) {
            self.prefetch_bucket(self.hash(&conn.outbound_key()));
        }
    }

    /// The connections with one outbound key, the newest first.
    fn same_outbound(&self, newest: ConnIndex) -> impl Iterator<Item = u32> {
        let older = |slot: &u32| {
            let older = self.conns.at(*slot as usize).shadowed;
            (older != Conn::<A>::NO_CONTROL).then_some(older)
        };
        std::iter::successors(Some(newest.0), older).take(SAME_OUTBOUND_MAX)
    }

    /// Whether one more connection may have the outbound key of `newest`.
    fn may_share_with(&self, newest: ConnIndex) -> bool {
        self.same_outbound(newest).count() < SAME_OUTBOUND_MAX
    }

    /// Removes the outbound key of `slot` from the index. The next older connection with that key gets it back.
    fn release_outbound(&mut self, slot: u32) {
        let conn = self.conns.at(slot as usize);
        let (key, older, is_shadowed) = (
            conn.outbound_key(),
            conn.shadowed,
            conn.flags.contains(ConnFlags::SHADOWED),
        );
        let hash = self.hash(&key);
        if is_shadowed {
            let newest = self.find(hash, &key).map(|(index, _)| index);
            let newer = newest.and_then(|newest| {
                let mut all = self.same_outbound(newest);
                all.find(|newer| self.conns.at(*newer as usize).shadowed == slot)
            });
            if let Some(newer) = newer {
                self.conns.at_mut(newer as usize).shadowed = older;
            }
            return;
        }
        let found = self.index.remove(hash, value_of(slot, Direction::Outbound));
        debug_assert!(
            found,
            "the outbound key of a connection was changed while it was in the table"
        );
        if older != Conn::<A>::NO_CONTROL {
            self.conns.at_mut(older as usize).flags.remove(ConnFlags::SHADOWED);
            let stored = self.index.insert(hash, value_of(older, Direction::Outbound));
            debug_assert!(stored, "a place was freed a moment ago");
        }
    }

    /// Removes the connection in `slot` from the index and frees the slot. Its timer must not be armed.
    fn release(&mut self, slot: u32) {
        self.changes = self.changes.wrapping_add(1);
        let conn = self.conns.at(slot as usize);
        let inbound_hash = self.hash(&conn.inbound_key());
        if conn.flags.contains(ConnFlags::OUTBOUND_INDEXED) {
            self.release_outbound(slot);
        }
        let conn = self.conns.at(slot as usize);
        let (retired, controlled_by) = (conn.flags.contains(ConnFlags::RETIRED), conn.control);
        let found = self.index.remove(inbound_hash, value_of(slot, Direction::Inbound));
        debug_assert!(
            found || retired,
            "the inbound key of a connection was changed while it was in the table"
        );
        if controlled_by != Conn::<A>::NO_CONTROL {
            let template = self.conns.at_mut(controlled_by as usize);
            template.controlled = template.controlled.saturating_sub(1);
        }
        let state = self.state.at_mut(0);
        *self.free.at_mut(state.freed as usize) = slot;
        state.freed += 1;
        state.len = state.len.saturating_sub(1);
    }
}

#[inline(always)]
const fn value_of(slot: u32, direction: Direction) -> u32 {
    slot << 1 | direction as u32
}

#[inline(always)]
const fn direction_of(value: u32) -> Direction {
    if value & 1 == 0 {
        Direction::Inbound
    } else {
        Direction::Outbound
    }
}

#[cfg(test)]
mod tests;
