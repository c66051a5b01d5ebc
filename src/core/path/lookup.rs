//! Step 3: which connection, and in which direction?
//!
//! Three passes over the burst so that no packet waits for memory alone: hash all keys and ask for their
//! buckets; compare tags and ask for the connections; compare keys (done by the spine, packet by packet).

use crate::address::Address;
use crate::worker_state::Lane;

/// First pass: hashes every key and asks for its bucket.
#[inline]
pub(crate) fn hash_and_prefetch_buckets<A: Address>(lane: &mut Lane<A>) {
    let Lane {
        table, entries, count, ..
    } = lane;
    for entry in entries.iter_mut().take(*count) {
        entry.hash = table.hash(&entry.key);
        table.prefetch_bucket(entry.hash);
    }
}

/// Second pass: asks for the connection that each bucket's tags point to.
#[inline]
pub(crate) fn prefetch_conns<A: Address>(lane: &mut Lane<A>) {
    let Lane {
        table, entries, count, ..
    } = lane;
    for entry in entries.iter().take(*count) {
        table.prefetch_candidate(entry.hash);
    }
}
