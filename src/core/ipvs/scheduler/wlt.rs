//! wlt: the server with the least traffic for its weight, the first one on a tie.
//!
//! Traffic as in [`super::lt`].

use super::{Loads, Pick, Scheduler, lt};

pub(super) struct WeightedLeastTraffic;

impl Scheduler for WeightedLeastTraffic {
    const MEASURED: bool = true;

    #[inline]
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        let per_conn = lt::expected(ask.service, ask.loads);
        ask.least_by_weight(|server| lt::traffic(server, ask.loads, per_conn))
    }
}
