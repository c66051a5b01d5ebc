//! Stage 3: which connection, and in which direction?
//!
//! Three passes over the burst so that no packet waits for memory alone: hash each key as it is parsed and ask for its
//! bucket ([`Family::push`](crate::worker_state::context::Family::push)); compare tags and ask for the connections; compare keys
//! (done by the spine, packet by packet).

use crate::address::Address;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{Conn, Direction};
use crate::worker_state::context::{Family, LookupEntry};

/// Second pass: asks for the connection that each bucket's tags point to.
#[inline]
pub(crate) fn prefetch_conns<A: Address>(family: &mut Family<A>) {
    let Family {
        table, entries, count, ..
    } = family;
    for entry in entries.get_mut(..*count).unwrap_or_default() {
        entry.candidate = table.prefetch_candidate(entry.hash);
    }
}

/// Third pass: the connection itself, and the packet's direction, if the second pass found it. `changes` is
/// [`ConnTable::changes`] at the time of that pass: what it found counts only while no packet in between has made or ended
/// a connection.
#[inline(always)]
pub(crate) fn confirm<'t, A: Address>(
    table: &'t mut ConnTable<A>,
    changes: u32,
    entry: &LookupEntry<A>,
) -> Option<(&'t mut Conn<A>, Direction)> {
    if table.changes() == changes {
        table.confirm(entry.candidate, &entry.key)
    } else {
        None
    }
}
