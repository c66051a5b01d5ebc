//! Connections of the tables of an earlier process, which is read where it lies, brought into a new table.
//!
//! A new table is filled as though an earlier process had left it so, and is then recovered
//! ([`super::recovery`]): index, timers, templates and equal outbound keys are made anew.
//!
//! In:  memory of layout 3, the present one, and which slots of it go where. Out: records that were whole; the table.
//! Never: writes to that memory, or believes an index or a list in it.

use crate::address::Address;
use crate::arena::{Arena, ArenaError, FormerArena, FormerSlice};
use crate::ipvs::conn::key::KeyHash;
use crate::ipvs::conn::key_index::KeyIndex;
use crate::ipvs::conn::table::recovery::is_whole;
use crate::ipvs::conn::table::{ConnTable, MAGIC, Recovery, State};
use crate::ipvs::conn::timer_wheel::TimerWheel;
use crate::ipvs::conn::{ColdConn, Conn, ConnFlags, ConnMut};
use crate::ipvs::real_server::RealServerId;
use crate::ipvs::sync::FLAGS_IMPORTED;
use crate::tick::Tick;

/// A table of an earlier process.
pub(crate) struct FormerTable<'m, A: Address> {
    hash: KeyHash,
    conns: FormerSlice<'m, Conn<A>>,
    cold: FormerSlice<'m, ColdConn>,
}

/// What is in a slot of a former table.
pub(crate) enum FormerSlot<A: Address> {
    /// No connection.
    Free,
    /// A record that is not to be believed.
    Torn,
    /// A connection.
    Whole(Conn<A>, ColdConn),
}

/// A connection's slot in one of the former tables. In order: connections by table and slot, then copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FormerPlace {
    /// Whether it becomes a copy for replies ([`ConnFlags::REPLIES_ONLY`]), as another worker gets the connection.
    pub(crate) is_copy: bool,
    /// Which of the former tables.
    pub(crate) table: u16,
    /// Its slot there.
    pub(crate) slot: u32,
}

impl<'m, A: Address> FormerTable<'m, A> {
    /// A table of layout 3; `None` when it was none of this capacity and family.
    pub(crate) fn carve(arena: &mut FormerArena<'m>, capacity: usize, secret: [u64; 4]) -> Option<Self> {
        let state = arena.carve::<State>(1)?.get(0)?;
        TimerWheel::pass_by(arena)?;
        KeyIndex::pass_by(arena, capacity.checked_mul(2)?)?;
        arena.carve::<u32>(capacity)?;
        let (conns, cold) = (arena.carve(capacity)?, arena.carve(capacity)?);
        let matches = state.magic == MAGIC
            && state.capacity as usize == capacity
            && state.conn_bytes as usize == size_of::<Conn<A>>();
        matches.then(|| Self {
            hash: KeyHash::new(secret),
            conns,
            cold,
        })
    }

    /// How many slots it has.
    pub(crate) const fn slots(&self) -> u32 {
        self.conns.len() as u32
    }

    /// What is in a slot.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> FormerSlot<A> {
        let Some(cold) = self.cold.get(slot as usize).filter(|cold| cold.commit != 0) else {
            return FormerSlot::Free;
        };
        match self.conns.get(slot as usize) {
            Some(conn) if is_whole(&self.hash, &conn, &cold) => FormerSlot::Whole(conn, cold),
            _ => FormerSlot::Torn,
        }
    }
}

impl<A: Address> ConnTable<A> {
    /// A new table with the connections of `former` tables that `origins` name, in their order, as far as `keep` wants
    /// them: see [`Self::recover`], also for `secret` and `now`.
    ///
    /// # Errors
    /// Too little memory, memory that holds an earlier process's state, or fewer slots than connections.
    pub(crate) fn rehome(
        arena: &mut Arena,
        capacity: usize,
        (secret, now): ([u64; 4], Tick),
        (former, origins): (&[Option<&FormerTable<'_, A>>], &[FormerPlace]),
        mut keep: impl FnMut(ConnMut<'_, A>) -> bool,
    ) -> Result<(Self, Recovery), ArenaError> {
        let mut table = Self::new(arena, capacity, secret)?;
        if origins.len() > capacity {
            return Err(ArenaError::CountOutOfRange(origins.len()));
        }
        for (slot, origin) in origins.iter().enumerate() {
            let Some(Some(from)) = former.get(usize::from(origin.table)) else {
                continue;
            };
            let FormerSlot::Whole(conn, cold) = from.get(origin.slot) else {
                continue;
            };
            let (conn, cold) = if origin.is_copy {
                copy_for_replies(conn, cold)
            } else {
                (conn, led_to_new_slots(cold, *origin, origins))
            };
            *table.conns.at_mut(slot) = conn;
            *table.cold.at_mut(slot) = cold;
        }
        let recovery = table.rebuild(origins.len() as u32, now, &mut keep);
        Ok((table, recovery))
    }
}

/// The other worker has the client, its real server's counts and all else that a client's packet needs.
fn copy_for_replies<A: Address>(conn: Conn<A>, cold: ColdConn) -> (Conn<A>, ColdConn) {
    const COPIED: ConnFlags = FLAGS_IMPORTED
        .union(ConnFlags::SYNCED)
        .union(ConnFlags::OUTBOUND_INDEXED);
    let conn = Conn {
        flags: conn.flags & COPIED | ConnFlags::REPLIES_ONLY,
        real_server: RealServerId::UNBOUND,
        ..conn
    };
    let cold = ColdConn {
        control: ColdConn::NO_CONTROL,
        shadowed: ColdConn::NO_CONTROL,
        ..cold
    };
    (conn, cold)
}

/// What a connection says about others, in the slots of the table to which they all go. Of the rest it says nothing.
fn led_to_new_slots(cold: ColdConn, of: FormerPlace, origins: &[FormerPlace]) -> ColdConn {
    let led = |slot: u32| {
        if slot == ColdConn::NO_CONTROL {
            return slot;
        }
        let place = origins.binary_search(&FormerPlace { slot, ..of });
        place.map_or(ColdConn::NO_CONTROL, |place| place as u32)
    };
    ColdConn {
        control: led(cold.control),
        shadowed: led(cold.shadowed),
        ..cold
    }
}
