//! Bulk sync: every connection of this worker for a backup that lacks them, a slice of the table at a time.
//!
//! In:  where the walk is and for how many connections there is space. Out: their entries, as [`announce`] makes them, and
//!      where the walk goes on. A connection stays in its slot, so one that lives through a whole walk is sent.
//! Never: changes a connection, so packets sync out what they would without a walk; reads more than a bounded number of
//!      slots a call.
//! Templates and what they control come in the order of their slots: a backup binds none to the other.

use crate::address::Address;
use crate::conn_record::DumpCursor;
use crate::ipvs::conn::ConnFlags;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::sync::SyncConn;
use crate::limits::{SYNC_BULK_STEP_SLOTS, SYNC_BULK_STEPS_MAX};
use crate::path::sync::announce;
use crate::snapshot::Snapshot;
use crate::worker_state::WorkerState;

/// Templates that decide nothing any more are not sent either.
const NOT_COPIED: ConnFlags = announce::SILENT.union(ConnFlags::RETIRED);

/// What became of one slice of a walk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// How many connections were sent.
    pub copied: u32,
    /// Where the walk goes on; `None` at its end.
    pub next: Option<DumpCursor>,
}

/// Gives `take` the entries of at most `conns_max` connections from `from` on. With less space than
/// [`SYNC_BULK_STEP_SLOTS`] the walk stays where it is.
pub fn copy(worker: &WorkerState, from: DumpCursor, conns_max: usize, mut take: impl FnMut(SyncConn)) -> Slice {
    let (snapshot, families) = (worker.snapshot(), worker.families());
    match from {
        DumpCursor::V4(slot) => {
            let (copied, next) = slice(snapshot, &families.v4.table, (slot, conns_max), &mut take);
            let next = next.map_or(DumpCursor::V6(0), DumpCursor::V4);
            Slice {
                copied,
                next: Some(next),
            }
        }
        DumpCursor::V6(slot) => {
            let (copied, next) = slice(snapshot, &families.v6.table, (slot, conns_max), &mut take);
            let next = next.map(DumpCursor::V6);
            Slice { copied, next }
        }
    }
}

fn slice<A: Address>(
    snapshot: &Snapshot,
    table: &ConnTable<A>,
    (from, conns_max): (u32, usize),
    take: &mut impl FnMut(SyncConn),
) -> (u32, Option<u32>) {
    let (mut copied, mut at) = (0, from);
    for _ in 0..SYNC_BULK_STEPS_MAX {
        if copied as usize + SYNC_BULK_STEP_SLOTS > conns_max {
            break;
        }
        let next = table.scan(at, SYNC_BULK_STEP_SLOTS, |_, both| {
            if both.0.flags.intersects(NOT_COPIED) || !announce::is_synced_out(&snapshot.sysctls, both.0) {
                return;
            }
            if let Some(synced) = announce::entry(snapshot.sync_policy.mode, both) {
                take(synced);
                copied += 1;
            }
        });
        let Some(next) = next else { return (copied, None) };
        at = next;
    }
    (copied, Some(at))
}
