//! Connections with one outbound key: several services can lead one client's port to one server's port.
//!
//! ```text
//! KeyIndex -> newest -shadowed-> older -shadowed-> oldest        all but the newest have ConnFlags::SHADOWED
//! ```
//!
//! Replies go to the newest, as in the kernel. When it ends, the next older one gets the key back. Stores are in such
//! an order that [`super::recovery`] can finish or undo what a process had begun when it died.

use crate::address::Address;
use crate::ipvs::conn::table::{ConnTable, store_barrier, value_of};
use crate::ipvs::conn::{ColdConn, ConnFlags, ConnIndex, Direction};

/// How many connections may have the same outbound key. Several services can lead one client's port to one server's
/// port.
pub(super) const SAME_OUTBOUND_MAX: usize = 16;

impl<A: Address> ConnTable<A> {
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
        let is_newer = |other: &u32| self.cold.at(*other as usize).shadowed == index.0;
        let Some(newer) = self.same_outbound(newest).find(is_newer) else {
            return;
        };
        self.index.remove(hash, value_of(newest.0, Direction::Outbound));
        if !self.index.insert(hash, value_of(index.0, Direction::Outbound)) {
            // There was a place for the other one.
            let _ = self.index.insert(hash, value_of(newest.0, Direction::Outbound));
            return;
        }
        self.conn_mut(index).flags.remove(ConnFlags::SHADOWED);
        store_barrier();
        self.cold.at_mut(newer as usize).shadowed = self.cold(index).shadowed;
        store_barrier();
        self.cold_mut(index).shadowed = newest.0;
        store_barrier();
        self.conn_mut(newest).flags.insert(ConnFlags::SHADOWED);
    }

    /// The connections with one outbound key, the newest first.
    pub(super) fn same_outbound(&self, newest: ConnIndex) -> impl Iterator<Item = u32> {
        let older = |slot: &u32| {
            let older = self.cold.at(*slot as usize).shadowed;
            (older != ColdConn::NO_CONTROL).then_some(older)
        };
        std::iter::successors(Some(newest.0), older).take(SAME_OUTBOUND_MAX)
    }

    /// Whether one more connection may have the outbound key of `newest`.
    pub(super) fn may_share_with(&self, newest: ConnIndex) -> bool {
        self.same_outbound(newest).count() < SAME_OUTBOUND_MAX
    }

    /// Removes the outbound key of `slot` from the index. The next older connection with that key gets it back.
    pub(super) fn release_outbound(&mut self, slot: u32) {
        let conn = self.conns.at(slot as usize);
        let (key, is_shadowed) = (conn.outbound_key(), conn.flags.contains(ConnFlags::SHADOWED));
        let older = self.cold.at(slot as usize).shadowed;
        let hash = self.hash(&key);
        if is_shadowed {
            let newest = self.find(hash, &key).map(|(index, _)| index);
            let newer = newest.and_then(|newest| {
                let mut all = self.same_outbound(newest);
                all.find(|newer| self.cold.at(*newer as usize).shadowed == slot)
            });
            if let Some(newer) = newer {
                self.cold.at_mut(newer as usize).shadowed = older;
            }
            return;
        }
        let found = self.index.remove(hash, value_of(slot, Direction::Outbound));
        debug_assert!(
            found,
            "the outbound key of a connection was changed while it was in the table"
        );
        if older != ColdConn::NO_CONTROL {
            self.conns.at_mut(older as usize).flags.remove(ConnFlags::SHADOWED);
            let stored = self.index.insert(hash, value_of(older, Direction::Outbound));
            debug_assert!(stored, "a place was freed a moment ago");
        }
    }
}
