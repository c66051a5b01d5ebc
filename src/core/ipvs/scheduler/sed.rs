//! sed: the server with the shortest expected delay of a new connection: (active + 1) / weight.
//!
//! Inactive connections do not count, so the heaviest server gets all UDP. Follows Linux ip_vs_sed.c.

use super::{Loads, Pick, Scheduler};

pub(super) struct ShortestExpectedDelay;

impl Scheduler for ShortestExpectedDelay {
    #[inline]
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        ask.least_by_weight(|server| u64::from(ask.loads.active(server.id)) + 1)
    }
}
