//! The connections that an earlier process left behind, however it ended.
//!
//! Only records are believed that were whole ([`ColdConn::commit_word`]). Index, timers, free slots and all that
//! connections say about each other (templates, equal outbound keys) are made anew from them. A process that dies
//! within an operation leaves the connection of that operation as before it or as after it; recovery may itself be
//! ended at any store and begun again.
//!
//! In:  the memory of an earlier table of this family and capacity. Out: the table, and what was lost.
//! Never: believes an index, a length or a list of that memory; loops without end.

use std::ops::AddAssign;

use crate::address::Address;
use crate::arena::{Arena, ArenaError};
use crate::ipvs::conn::key::KeyHash;
use crate::ipvs::conn::table::same_outbound::SAME_OUTBOUND_MAX;
use crate::ipvs::conn::table::{ConnTable, MAGIC, NO_PROTOCOL, State, store_barrier, value_of};
use crate::ipvs::conn::{ColdConn, Conn, ConnFlags, ConnIndex, ConnMut, Direction, TimerLink, timer_wheel};
use crate::limits::TIMEOUT_MAX_SEC;
use crate::tick::Tick;

/// How many slots before their keys are indexed their buckets are fetched.
const AHEAD: u32 = 16;

/// What became of the connections of an earlier process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// They go on.
    pub kept: usize,
    /// Their records were torn or damaged, or contradicted others.
    pub torn: usize,
    /// The caller had no use for them.
    pub refused: usize,
}

impl AddAssign for Recovery {
    fn add_assign(&mut self, other: Self) {
        self.kept += other.kept;
        self.torn += other.torn;
        self.refused += other.refused;
    }
}

/// Slots that say something about other slots.
#[derive(Default)]
struct Relations {
    /// An older connection has their outbound key.
    linked: Vec<u32>,
    /// A template controls them.
    controlled: Vec<u32>,
}

impl<A: Address> ConnTable<A> {
    /// The table that an earlier process left in `arena`, with its connections as far as they are whole and `keep`
    /// wants them. `secret` must be that of the earlier process, and `now` goes on from its ticks.
    /// `keep` has to find its real server and service again, and may change whatever does not belong to the
    /// connection's identity (see [`Conn`]).
    ///
    /// Not for a worker that forwards: it takes some 100 ns a connection and allocates.
    ///
    /// # Errors
    /// [`ArenaError::OtherLayout`] when there is none of this capacity and family.
    pub fn recover(
        arena: &mut Arena,
        capacity: usize,
        secret: [u64; 4],
        now: Tick,
        mut keep: impl FnMut(ConnMut<'_, A>) -> bool,
    ) -> Result<(Self, Recovery), ArenaError> {
        if !arena.is_recovered() {
            return Err(ArenaError::OtherLayout);
        }
        let mut table = Self::carve(arena, capacity, secret)?;
        let state = *table.state.at(0);
        let matches = state.magic == MAGIC
            && state.capacity as usize == capacity
            && state.conn_bytes as usize == size_of::<Conn<A>>();
        if !matches {
            return Err(ArenaError::OtherLayout);
        }
        let recovery = table.rebuild(table.used_slots(), now, &mut keep);
        Ok((table, recovery))
    }

    /// All but the records, which lie in the slots below `used`.
    pub(super) fn rebuild(&mut self, used: u32, now: Tick, keep: &mut impl FnMut(ConnMut<'_, A>) -> bool) -> Recovery {
        let mut recovery = Recovery::default();
        self.index.clear();
        self.wheel.reset();
        self.wheel.start(now);
        *self.state.at_mut(0) = State::new::<A>(self.capacity(), used);
        let mut relations = Relations::default();
        for slot in 0..used {
            self.prefetch_buckets_of(slot + AHEAD);
            let is_committed = self.cold.at(slot as usize).commit != 0;
            let is_whole = is_committed && self.is_whole(slot) && self.index_inbound(slot);
            recovery.torn += usize::from(is_committed && !is_whole);
            if !is_whole {
                self.discard(slot);
                continue;
            }
            self.refresh(slot, now);
            self.state.at_mut(0).len += 1;
            relations.note(slot, (self.conns.at(slot as usize), self.cold.at(slot as usize)));
        }
        recovery.torn += self.relate_outbound(used, &relations);
        self.relate_templates(&relations.controlled);
        self.arm_all(used);
        // What a template controls is judged before the template.
        for wants_template in [false, true] {
            for slot in 0..used {
                let flags = self.conns.at(slot as usize).flags;
                if !self.is_committed(slot) || flags.contains(ConnFlags::TEMPLATE) != wants_template {
                    continue;
                }
                if keep(self.both_mut(ConnIndex(slot))) {
                    recovery.kept += 1;
                } else {
                    recovery.refused += 1;
                    self.refuse(ConnIndex(slot));
                }
            }
        }
        recovery
    }

    fn arm_all(&mut self, used: u32) {
        for slot in 0..used {
            if self.is_committed(slot) {
                let conn = self.conns.at(slot as usize);
                let expiry = timer_wheel::expiry(conn.last_seen, conn.timeout_ms);
                self.wheel.arm(&mut self.cold, slot, expiry);
            }
        }
    }

    /// A template that still controls connections decides nothing from now on, and ends with the last of them.
    fn refuse(&mut self, index: ConnIndex) {
        if self.cold(index).controlled > 0 {
            self.retire(index);
        } else {
            self.remove(index);
        }
    }

    /// From this slot on there is no connection.
    fn used_slots(&self) -> u32 {
        let slots = 0..self.capacity() as u32;
        slots
            .rev()
            .find(|&slot| self.is_committed(slot))
            .map_or(0, |last| last + 1)
    }

    fn is_committed(&self, slot: u32) -> bool {
        self.cold.at(slot as usize).commit != 0
    }

    fn is_whole(&self, slot: u32) -> bool {
        let (conn, cold) = self.both(ConnIndex(slot));
        is_whole(&self.hash, conn, cold)
    }

    /// Frees a slot whose record is not to be believed.
    fn discard(&mut self, slot: u32) {
        self.withdraw(slot);
        self.cold.at_mut(slot as usize).timer = TimerLink::default();
        self.conns.at_mut(slot as usize).protocol = NO_PROTOCOL;
        let state = self.state.at_mut(0);
        *self.free.at_mut(state.freed as usize) = slot;
        state.freed += 1;
    }

    /// `false` when another connection has the key. A retired template is not in the index.
    fn index_inbound(&mut self, slot: u32) -> bool {
        let conn = self.conns.at(slot as usize);
        if conn.flags.contains(ConnFlags::RETIRED) {
            return true;
        }
        let key = conn.inbound_key();
        let hash = self.hash(&key);
        self.find(hash, &key).is_none() && self.index.insert(hash, value_of(slot, Direction::Inbound))
    }

    /// What another process knew and this one does not: next hops, timers, times ahead of now, counts.
    fn refresh(&mut self, slot: u32, now: Tick) {
        let (conn, cold) = (self.conns.at_mut(slot as usize), self.cold.at_mut(slot as usize));
        conn.hops = [Conn::<A>::NO_HOP; 2];
        let idle_ms = now.since_ms(conn.last_seen);
        if !now.reached(conn.last_seen) {
            conn.last_seen = now;
        } else if idle_ms > conn.timeout_ms {
            // It ends at once, however long no process was there: ticks repeat.
            conn.last_seen = Tick(now.0.wrapping_sub(conn.timeout_ms));
        }
        cold.timer = TimerLink::default();
        cold.controlled = 0;
    }

    /// Lets replies find the newest of all connections with one outbound key. Returns how many connections it gave up.
    fn relate_outbound(&mut self, used: u32, relations: &Relations) -> usize {
        for &slot in &relations.linked {
            let older = self.cold.at(slot as usize).shadowed;
            if self.has_same_outbound(slot, older) {
                self.conns.at_mut(older as usize).flags.insert(ConnFlags::SHADOWED);
            } else {
                self.cold.at_mut(slot as usize).shadowed = ColdConn::NO_CONTROL;
            }
        }
        let mut lost = 0;
        let mut behind = Vec::new();
        for slot in 0..used {
            self.prefetch_buckets_of(slot + AHEAD);
            let flags = self.conns.at(slot as usize).flags;
            if !flags.contains(ConnFlags::OUTBOUND_INDEXED) || !self.is_committed(slot) {
                continue;
            }
            if flags.contains(ConnFlags::SHADOWED) || !self.index_outbound(slot) {
                behind.push(slot);
            }
        }
        for slot in behind {
            if self.is_committed(slot) && !self.put_behind(slot) {
                lost += 1;
                self.give_up(slot);
            }
        }
        lost
    }

    fn has_same_outbound(&self, slot: u32, other: u32) -> bool {
        let (conn, other_conn) = (self.conns.at(slot as usize), self.conns.at(other as usize));
        (other as usize) < self.capacity()
            && other != slot
            && self.is_committed(other)
            && other_conn.flags.contains(ConnFlags::OUTBOUND_INDEXED)
            && other_conn.outbound_key() == conn.outbound_key()
    }

    /// `false` when another connection has the key.
    fn index_outbound(&mut self, slot: u32) -> bool {
        let key = self.conns.at(slot as usize).outbound_key();
        let hash = self.hash(&key);
        self.find(hash, &key).is_none() && self.index.insert(hash, value_of(slot, Direction::Outbound))
    }

    /// Puts `slot` behind all others with its outbound key, unless it is among them. If there is none, replies find it.
    /// `false` when there are too many, or when another connection has the key for its own client.
    fn put_behind(&mut self, slot: u32) -> bool {
        let key = self.conns.at(slot as usize).outbound_key();
        let newest = match self.find(self.hash(&key), &key) {
            Some((newest, Direction::Outbound)) => newest,
            Some((_, Direction::Inbound)) => return false,
            None => {
                self.conns.at_mut(slot as usize).flags.remove(ConnFlags::SHADOWED);
                return self.index_outbound(slot);
            }
        };
        let chain: Vec<u32> = self.same_outbound(newest).collect();
        if chain.contains(&slot) {
            return true;
        }
        let Some(&oldest) = chain.last().filter(|_| chain.len() < SAME_OUTBOUND_MAX) else {
            return false;
        };
        self.conns.at_mut(slot as usize).flags.insert(ConnFlags::SHADOWED);
        self.cold.at_mut(slot as usize).shadowed = ColdConn::NO_CONTROL;
        store_barrier();
        self.cold.at_mut(oldest as usize).shadowed = slot;
        true
    }

    /// Takes out a connection whose timer is not armed yet and whose outbound key is not indexed.
    fn give_up(&mut self, slot: u32) {
        let key = self.conns.at(slot as usize).inbound_key();
        self.index.remove(self.hash(&key), value_of(slot, Direction::Inbound));
        self.discard(slot);
        self.state.at_mut(0).len -= 1;
    }

    /// Counts what each template controls. Whoever names none is not controlled.
    fn relate_templates(&mut self, controlled: &[u32]) {
        for &slot in controlled {
            let template = self.cold.at(slot as usize).control;
            let is_template = (template as usize) < self.capacity()
                && self.is_committed(template)
                && self.conns.at(template as usize).flags.contains(ConnFlags::TEMPLATE);
            if !self.is_committed(slot) {
                continue;
            }
            if is_template {
                self.cold.at_mut(template as usize).controlled += 1;
            } else {
                self.conns.at_mut(slot as usize).flags.remove(ConnFlags::CONTROLLED);
                self.cold.at_mut(slot as usize).control = ColdConn::NO_CONTROL;
            }
        }
    }
}

/// Whether a record of a table whose keys are hashed so is to be believed.
pub(super) fn is_whole<A: Address>(hash: &KeyHash, conn: &Conn<A>, cold: &ColdConn) -> bool {
    let outbound_hash = if conn.flags.contains(ConnFlags::OUTBOUND_INDEXED) {
        hash.hash(&conn.outbound_key())
    } else {
        0
    };
    cold.commit == ColdConn::commit_word(conn, hash.hash(&conn.inbound_key()), outbound_hash)
        && conn.timeout_ms <= TIMEOUT_MAX_SEC.saturating_mul(1_000)
}

impl Relations {
    fn note<A: Address>(&mut self, slot: u32, (conn, cold): (&Conn<A>, &ColdConn)) {
        if cold.shadowed != ColdConn::NO_CONTROL {
            self.linked.push(slot);
        }
        if conn.flags.contains(ConnFlags::CONTROLLED) {
            self.controlled.push(slot);
        }
    }
}
