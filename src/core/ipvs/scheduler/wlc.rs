//! wlc: the server with the fewest connections for its weight, the first one on a tie.
//!
//! Follows Linux ip_vs_wlc.c.

use super::{Loads, Pick, Scheduler};

pub(super) struct WeightedLeastConnection;

impl Scheduler for WeightedLeastConnection {
    #[inline]
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        ask.least_by_weight(|server| ask.overhead(server))
    }
}
