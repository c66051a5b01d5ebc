//! Where the path leaves what is to be told, until its worker has carried it to the management core.
//!
//! In:  connections that are due, in order. Out: the same, oldest first.
//! Bounded and allocated once. The worker empties it after every burst, so it never fills unless a burst and a
//! housekeeping pass together have more to tell than there is room for; what finds none is counted.

use std::cell::RefCell;
use std::collections::VecDeque;

use super::SyncConn;
use crate::limits::SYNC_OUTBOX_MAX;

/// See the module. Shared within its worker only.
#[derive(Debug)]
pub struct Outbox {
    waiting: RefCell<VecDeque<SyncConn>>,
}

impl Outbox {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self {
            waiting: RefCell::new(VecDeque::with_capacity(SYNC_OUTBOX_MAX)),
        }
    }

    /// Adds `conn`; `false` when there is no room.
    pub(crate) fn push(&self, conn: SyncConn) -> bool {
        let Ok(mut waiting) = self.waiting.try_borrow_mut() else {
            return false;
        };
        // Never beyond what was allocated.
        let has_room = waiting.len() < SYNC_OUTBOX_MAX;
        if has_room {
            waiting.push_back(conn);
        }
        has_room
    }

    /// The oldest of those that wait.
    pub(crate) fn take(&mut self) -> Option<SyncConn> {
        self.waiting.get_mut().pop_front()
    }
}
