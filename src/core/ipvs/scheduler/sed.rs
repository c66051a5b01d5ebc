//! sed: the server where a new connection may expect the shortest delay: (active + 1) / weight.
//!
//! Inactive connections do not count, so all UDP goes to the heaviest server. Follows Linux ip_vs_sed.c.

use super::{Loads, Pick, Scheduler};

pub(super) struct ShortestExpectedDelay;

impl Scheduler for ShortestExpectedDelay {
    #[inline]
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        ask.least_by_weight(|server| u64::from(ask.loads.active(server.id)) + 1)
    }
}
