//! All connections of one worker and one family. A packet finds its connection by the key of either direction.
//!
//! ```text
//! FlowKey -hash-> KeyIndex bucket (64 B) -tag-> Conn (1 or 2 lines), ColdConn      TimerWheel -> ColdConn, free stack
//! ```
//!
//! In:  the keys of a burst. The caller hashes all, then calls `prefetch_bucket`, `prefetch_candidate` and `find` for
//!      all, one after the other, so that the cache misses overlap. Out: connections by [`ConnIndex`].
//! Never: allocates after [`ConnTable::new`], panics, grows, or searches longer than 18 buckets.
//! All of it lies in the [`Arena`]. What a later process needs of it are the connections: [`ConnTable::recover`].

use std::sync::atomic::{Ordering, compiler_fence};

use zerocopy::FromBytes;

use crate::address::{Address, FlowKey};
use crate::arena::{Arena, ArenaError, ArenaSlice, HEADER_BYTES, slice_bytes};
use crate::ipvs::conn::key::KeyHash;
use crate::ipvs::conn::key_index::KeyIndex;
use crate::ipvs::conn::timer_wheel::{self, TimerWheel, WheelEvent};
use crate::ipvs::conn::{ColdConn, Conn, ConnFlags, ConnIndex, ConnMut, Direction};
use crate::ipvs::persistence;
use crate::prefetch::prefetch_write;
use crate::tick::Tick;

mod former;
mod recovery;
mod same_outbound;

pub(crate) use former::{FormerPlace, FormerSlot, FormerTable};
pub use recovery::Recovery;

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

/// The connection that a bucket's tags most likely mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate(u32);

impl Candidate {
    /// No connection.
    pub const NONE: Self = Self(u32::MAX);
}

/// How many insertions before its use a free slot is fetched.
const SLOTS_AHEAD: u32 = 8;

/// Protocol of a slot without a connection. No key that is looked up has it.
const NO_PROTOCOL: u8 = 0;

const MAGIC: u64 = u64::from_le_bytes(*b"conntabl");

/// What the table is, and how its slots are used.
#[derive(Clone, Copy, FromBytes)]
#[repr(C, align(64))]
struct State {
    magic: u64,
    capacity: u32,
    conn_bytes: u32,
    len: u32,
    /// How many slots were used and freed: the length of the stack `free`.
    freed: u32,
    /// First of the slots that were never used: everything from here on is untouched memory.
    fresh: u32,
    unused: [u32; 9],
}

impl State {
    /// Of a table without connections, of which the slots below `fresh` are not free yet.
    const fn new<A: Address>(capacity: usize, fresh: u32) -> Self {
        Self {
            magic: MAGIC,
            capacity: capacity as u32,
            conn_bytes: size_of::<Conn<A>>() as u32,
            len: 0,
            freed: 0,
            fresh,
            unused: [0; 9],
        }
    }
}

/// See the module.
pub struct ConnTable<A: Address> {
    hash: KeyHash,
    index: KeyIndex,
    conns: ArenaSlice<Conn<A>>,
    /// The other part of each connection, at the same index.
    cold: ArenaSlice<ColdConn>,
    /// A stack of free slots. A list through the connections would cost a cache miss for each insertion.
    free: ArenaSlice<u32>,
    wheel: TimerWheel,
    state: ArenaSlice<State>,
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
            + slice_bytes::<ColdConn>(capacity)
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
        *table.state.at_mut(0) = State::new::<A>(capacity, 0);
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
        let cold = arena.carve(capacity)?;
        Ok(Self {
            hash: KeyHash::new(secret),
            index,
            conns,
            cold,
            free,
            wheel,
            state,
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
        if size_of::<Conn<A>>() > 64 {
            prefetch_write(&conn.timeout_ms);
        }
        Candidate(value)
    }

    /// The connection and direction of `key` if they are those of `candidate`. Otherwise [`Self::find`] may still find
    /// others. The table may have changed since the candidate was read: a slot that is free has no key.
    #[inline(always)]
    pub fn confirm(&mut self, candidate: Candidate, key: &FlowKey<A>) -> Option<(&mut Conn<A>, Direction)> {
        let direction = direction_of(candidate.0);
        let conn = self.conns.at_mut((candidate.0 >> 1) as usize);
        let is_it = candidate != Candidate::NONE && conn.is(key, direction) && conn.is_found(direction);
        is_it.then_some((conn, direction))
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
        self.insert_at((&conn, &ColdConn::default()), None, now)
    }

    /// [`Self::insert`] for a caller who may know that the outbound key of `conn` is free, and then has its hash.
    ///
    /// # Errors
    /// See [`InsertError`]; the table is unchanged.
    pub(crate) fn insert_at(
        &mut self,
        (conn, cold): (&Conn<A>, &ColdConn),
        free_outbound: Option<u64>,
        now: Tick,
    ) -> Result<ConnIndex, InsertError> {
        debug_assert!(cold.commit == 0, "only the table commits");
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
        let Some(slot) = self.take_slot(now) else {
            return Err(InsertError::Full);
        };
        if !self.index.insert(inbound_hash, value_of(slot, Direction::Inbound)) {
            self.give_back(slot);
            return Err(InsertError::Full);
        }
        if let Some(older) = older {
            // The new connection takes its place in the index.
            self.index.remove(outbound_hash, value_of(older.0, Direction::Outbound));
        }
        if both && !self.index.insert(outbound_hash, value_of(slot, Direction::Outbound)) {
            self.index.remove(inbound_hash, value_of(slot, Direction::Inbound));
            self.give_back(slot);
            return Err(InsertError::Full);
        }
        let hot = self.conns.at_mut(slot as usize);
        *hot = *conn;
        hot.last_seen = now;
        let behind = self.cold.at_mut(slot as usize);
        *behind = *cold;
        behind.shadowed = older.map_or(ColdConn::NO_CONTROL, |older| older.0);
        self.wheel
            .arm(&mut self.cold, slot, timer_wheel::expiry(now, conn.timeout_ms));
        self.commit(slot, ColdConn::commit_word(conn, inbound_hash, outbound_hash));
        if let Some(older) = older {
            self.conn_mut(older).flags.insert(ConnFlags::SHADOWED);
        }
        Ok(ConnIndex(slot))
    }

    /// Puts `conn` under the control of `template`, which stays in the table as long as it controls any connection. No
    /// effect if one of the two is not in the table or if `conn` is controlled already.
    pub fn control(&mut self, conn: ConnIndex, template: ConnIndex) {
        if !self.is_there(conn) || !self.is_there(template) || self.conn(conn).flags.contains(ConnFlags::CONTROLLED) {
            return;
        }
        self.conn_mut(conn).flags.insert(ConnFlags::CONTROLLED);
        self.cold_mut(conn).control = template.0;
        self.cold_mut(template).controlled += 1;
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
        self.index.remove(old, value_of(slot, Direction::Inbound));
        self.withdraw(slot);
        let conn = self.conn_mut(template);
        conn.flags.insert(ConnFlags::RETIRED);
        conn.ends[0].dst.port = persistence::PORT_RETIRED;
        conn.ends[1].src.port = persistence::PORT_RETIRED;
        let conn = self.conn(template);
        self.commit(slot, ColdConn::commit_word(conn, self.hash(&conn.inbound_key()), 0));
    }

    /// Removes a connection at once. No effect if there is none at `index`.
    pub fn remove(&mut self, index: ConnIndex) {
        if self.is_there(index) {
            self.prefetch_buckets_of(index.0);
            self.wheel.disarm(&mut self.cold, index.0);
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

    /// The other part of the connection at `index`.
    #[inline(always)]
    pub fn cold(&self, index: ConnIndex) -> &ColdConn {
        self.cold.at(index.0 as usize)
    }

    /// The same, writable.
    #[inline(always)]
    pub fn cold_mut(&mut self, index: ConnIndex) -> &mut ColdConn {
        self.cold.at_mut(index.0 as usize)
    }

    /// Both parts of the connection at `index`.
    #[inline(always)]
    pub fn both(&self, index: ConnIndex) -> (&Conn<A>, &ColdConn) {
        (self.conn(index), self.cold(index))
    }

    /// The same, writable.
    #[inline(always)]
    pub fn both_mut(&mut self, index: ConnIndex) -> ConnMut<'_, A> {
        ConnMut::of(self.conns.at_mut(index.0 as usize), self.cold.at_mut(index.0 as usize))
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
                .arm_earlier(&mut self.cold, index.0, timer_wheel::expiry(now, timeout_ms));
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
    pub fn expire(&mut self, now: Tick, budget: usize, mut decide: impl FnMut(ConnMut<'_, A>) -> Expiry) -> usize {
        let mut decided = 0;
        if self.is_empty() {
            return decided;
        }
        // One fired connection waits for the next one, while its buckets are fetched.
        let mut waiting = None;
        for _ in 0..budget {
            match self.wheel.advance(&mut self.cold, now) {
                WheelEvent::Done => break,
                WheelEvent::Moved => {}
                WheelEvent::Fired(slot) => {
                    self.prefetch_behind(slot);
                    self.prefetch_buckets_of(slot);
                    let before = waiting.replace(slot);
                    decided += before.map_or(0, |slot| self.fired(slot, now, &mut decide));
                }
            }
        }
        decided + waiting.map_or(0, |slot| self.fired(slot, now, &mut decide))
    }

    /// Handles a connection whose timer fired. Returns 1 if it asked `decide`.
    fn fired(&mut self, slot: u32, now: Tick, decide: &mut impl FnMut(ConnMut<'_, A>) -> Expiry) -> usize {
        let conn = self.conns.at_mut(slot as usize);
        let idle_until = timer_wheel::expiry(conn.last_seen, conn.timeout_ms);
        if !now.reached(idle_until) {
            self.wheel.arm(&mut self.cold, slot, idle_until);
            return 0;
        }
        match decide(ConnMut::of(conn, self.cold.at_mut(slot as usize))) {
            Expiry::Remove => self.release(slot),
            Expiry::Rearm { ms } => {
                let again = timer_wheel::expiry(now, ms.max(timer_wheel::UNIT_MS));
                self.wheel.arm(&mut self.cold, slot, again);
            }
        }
        1
    }

    /// Passes the connections in at most `slots_max` slots, from slot `from` on, to `visit`. Returns the slot for the
    /// next call; `None` at the end. Connections that begin or end between two calls may or may not be visited.
    pub fn scan(
        &self,
        from: u32,
        slots_max: usize,
        mut visit: impl FnMut(ConnIndex, (&Conn<A>, &ColdConn)),
    ) -> Option<u32> {
        let used = self.state.at(0).fresh;
        let until = u32::try_from(slots_max).map_or(used, |max| from.saturating_add(max).min(used));
        for slot in from..until {
            let (conn, cold) = self.both(ConnIndex(slot));
            if cold.timer.slot != 0 {
                visit(ConnIndex(slot), (conn, cold));
            }
        }
        (until < used).then_some(until)
    }

    #[inline]
    fn is_there(&self, index: ConnIndex) -> bool {
        (index.0 as usize) < self.conns.len() && self.cold(index).timer.slot != 0
    }

    /// Takes the slot that was freed last, or the first that was never used, and fetches one that will be taken soon.
    #[inline]
    fn take_slot(&mut self, now: Tick) -> Option<u32> {
        let state = self.state.at_mut(0);
        let (slot, soon) = match state.freed.checked_sub(1) {
            Some(last) => {
                state.freed = last;
                let soon = last.saturating_sub(SLOTS_AHEAD) as usize;
                (*self.free.at(last as usize), *self.free.at(soon))
            }
            None => {
                let slot = state.fresh;
                if slot == state.capacity {
                    return None;
                }
                state.fresh = slot + 1;
                (slot, slot + SLOTS_AHEAD)
            }
        };
        if state.len == 0 {
            self.wheel.start(now);
        }
        state.len += 1;
        prefetch_write(self.conns.at(soon as usize));
        prefetch_write(self.cold.at(soon as usize));
        Some(slot)
    }

    /// Frees a slot.
    #[inline]
    fn give_back(&mut self, slot: u32) {
        let state = self.state.at_mut(0);
        *self.free.at_mut(state.freed as usize) = slot;
        state.freed += 1;
        state.len = state.len.saturating_sub(1);
    }

    /// Fetches the connection that was behind `slot` in the wheel, and will probably be the next to fire.
    fn prefetch_behind(&self, slot: u32) {
        let next = self.cold.at(slot as usize).timer.next;
        if next != timer_wheel::NONE {
            prefetch_write(self.conns.at(next as usize));
        }
    }

    fn prefetch_buckets_of(&self, slot: u32) {
        let conn = self.conns.at(slot as usize);
        self.prefetch_bucket(self.hash(&conn.inbound_key()));
        if conn.flags.contains(ConnFlags::OUTBOUND_INDEXED) {
            self.prefetch_bucket(self.hash(&conn.outbound_key()));
        }
    }

    /// From here on the connection in `slot` outlives the process.
    #[inline]
    fn commit(&mut self, slot: u32, word: u32) {
        store_barrier();
        self.cold.at_mut(slot as usize).commit = word;
        store_barrier();
    }

    /// From here on it does not.
    #[inline]
    fn withdraw(&mut self, slot: u32) {
        store_barrier();
        self.cold.at_mut(slot as usize).commit = 0;
        store_barrier();
    }

    /// Removes the connection in `slot` from the index and frees the slot. Its timer must not be armed.
    fn release(&mut self, slot: u32) {
        let conn = self.conns.at(slot as usize);
        let inbound_hash = self.hash(&conn.inbound_key());
        if conn.flags.contains(ConnFlags::OUTBOUND_INDEXED) {
            self.release_outbound(slot);
        }
        self.withdraw(slot);
        let conn = self.conns.at(slot as usize);
        let retired = conn.flags.contains(ConnFlags::RETIRED);
        let controlled_by = self.cold.at(slot as usize).control;
        let found = self.index.remove(inbound_hash, value_of(slot, Direction::Inbound));
        debug_assert!(
            found || retired,
            "the inbound key of a connection was changed while it was in the table"
        );
        self.conns.at_mut(slot as usize).protocol = NO_PROTOCOL;
        if controlled_by != ColdConn::NO_CONTROL {
            let template = self.cold.at_mut(controlled_by as usize);
            template.controlled = template.controlled.saturating_sub(1);
        }
        self.give_back(slot);
    }
}

/// Stores before it reach the memory before those behind it, whenever the process ends: no processor retires stores of
/// one thread in another order than the program's, and the compiler does not move them over this.
#[inline(always)]
fn store_barrier() {
    compiler_fence(Ordering::SeqCst);
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
