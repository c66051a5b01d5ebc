//! fo: the heaviest server, the first one on a tie; the others wait until it is overloaded or quiesced.
//!
//! Follows Linux ip_vs_fo.c.

use std::cmp::Reverse;

use super::{Loads, Pick, Scheduler};

pub(super) struct WeightedFailover;

impl Scheduler for WeightedFailover {
    #[inline]
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        ask.least(|server| Some(Reverse(server.weight)))
    }
}
