//! Step 3: which connection, and in which direction?
//!
//! Three passes over the burst so that no packet waits for memory alone: hash each key as it is parsed and ask for its
//! bucket ([`Lane::push`](crate::worker_state::Lane::push)); compare tags and ask for the connections; compare keys
//! (done by the spine, packet by packet).

use crate::address::{Address, FlowKey};
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{ConnIndex, Direction};
use crate::worker_state::{Lane, LaneEntry};

/// Second pass: asks for the connection that each bucket's tags point to.
#[inline]
pub(crate) fn prefetch_conns<A: Address>(lane: &mut Lane<A>) {
    let Lane {
        table, entries, count, ..
    } = lane;
    for entry in entries.iter_mut().take(*count) {
        entry.candidate = table.prefetch_candidate(entry.hash);
    }
}

/// Third pass: the connection itself. `changes` is [`ConnTable::changes`] at the time of the second pass: what that
/// found counts only while no packet in between has made or ended a connection.
#[inline(always)]
pub(crate) fn find<A: Address>(
    table: &ConnTable<A>,
    changes: u32,
    entry: &LaneEntry<A>,
) -> Option<(ConnIndex, Direction)> {
    let confirmed = if table.changes() == changes {
        table.confirm(entry.candidate, &entry.key)
    } else {
        None
    };
    confirmed.or_else(|| find_anywhere(table, entry.hash, &entry.key))
}

#[inline(never)]
fn find_anywhere<A: Address>(table: &ConnTable<A>, hash: u64, key: &FlowKey<A>) -> Option<(ConnIndex, Direction)> {
    table.find(hash, key)
}
