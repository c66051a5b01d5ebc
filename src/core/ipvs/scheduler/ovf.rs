//! ovf: the heaviest server that has no more active connections than its weight, the first one on a tie.
//!
//! Follows Linux ip_vs_ovf.c.

use std::cmp::Reverse;

use super::{Loads, Pick, Scheduler};

pub(super) struct WeightedOverflow;

impl Scheduler for WeightedOverflow {
    #[inline]
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        ask.least(|server| {
            let has_capacity = ask.loads.active(server.id) <= server.weight;
            has_capacity.then_some(Reverse(server.weight))
        })
    }
}
