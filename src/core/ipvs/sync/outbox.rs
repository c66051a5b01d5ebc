//! The queue of connections that the path syncs out, until the worker passes them to the management core.
//!
//! In:  connections that are due, in order. Out: the same, oldest first.
//! Bounded and allocated once. The worker empties it after every burst. So it fills only if a burst and a housekeeping
//! pass together sync out more connections than it can hold. The path counts connections that it then drops.

use std::cell::RefCell;
use std::collections::VecDeque;

use super::SyncConn;
use crate::limits::SYNC_OUTBOX_MAX;

/// See the module. Only its worker uses it.
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

    /// Adds `conn`; `false` when it is full.
    pub(crate) fn push(&self, conn: SyncConn) -> bool {
        let Ok(mut waiting) = self.waiting.try_borrow_mut() else {
            return false;
        };
        // A push beyond the capacity would allocate.
        let fits = waiting.len() < SYNC_OUTBOX_MAX;
        if fits {
            waiting.push_back(conn);
        }
        fits
    }

    /// Takes the oldest connection out.
    pub(crate) fn take(&mut self) -> Option<SyncConn> {
        self.waiting.get_mut().pop_front()
    }
}
