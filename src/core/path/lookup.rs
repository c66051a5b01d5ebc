//! Stage 3: which connection, and in which direction?
//!
//! A pipeline, so that no packet waits for memory alone: each key is hashed as it is parsed, and its bucket fetched
//! ([`Family::push`](crate::worker_state::context::Family::push)); its tag is compared, and the connection fetched,
//! [`AHEAD`] packets before the path comes to it; the spine compares the keys. A core has some two dozen cache lines
//! under way at once and drops what it is asked to fetch beyond that, so the connections of a whole burst are too many.

use crate::address::Address;
use crate::ipvs::conn::table::ConnTable;
use crate::worker_state::context::LookupEntry;

/// How many packets before its own a connection is fetched.
const AHEAD: usize = 10;

/// Fetches the connections of the first packets.
#[inline(always)]
pub(crate) fn begin<A: Address>(table: &ConnTable<A>, entries: &mut [LookupEntry<A>]) {
    for entry in entries.iter_mut().take(AHEAD) {
        entry.candidate = table.prefetch_candidate(entry.hash);
    }
}

/// Before packet `at` is forwarded: fetches the connection of one behind it.
#[inline(always)]
pub(crate) fn look_ahead<A: Address>(table: &ConnTable<A>, entries: &mut [LookupEntry<A>], at: usize) {
    if let Some(later) = entries.get_mut(at + AHEAD) {
        later.candidate = table.prefetch_candidate(later.hash);
    }
}
