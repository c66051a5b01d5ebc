//! twos: the less loaded of two servers, which are drawn at random by weight.
//!
//! Follows Linux ip_vs_twos.c with two of its quirks: the range of the random weight includes the sum, which favours
//! the first server very slightly, and the second choice wins only if it is strictly better. Loads and sums of weights
//! do not overflow here; the kernel's 32 bits can.

use super::{Loads, Pick, Scheduler};
use crate::random::Random;

pub(super) struct PowerOfTwoChoices;

impl Scheduler for PowerOfTwoChoices {
    #[inline]
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        let (first, second) = two_by_weight(ask, |random, total| {
            let inclusive = random.below_u64(total.saturating_add(1));
            inclusive.saturating_sub(1)
        })?;
        let servers = &ask.service.servers;
        let by_weight = |index: usize| Some(ask.overhead_by_weight(servers.get(index)?));
        Some(if by_weight(first)? > by_weight(second)? {
            second
        } else {
            first
        })
    }
}

/// Two servers at random by weight; they may be the same. `draw` gives a number below the sum of weights.
#[inline]
pub(super) fn two_by_weight<L: Loads>(
    ask: &mut Pick<'_, L>,
    draw: impl Fn(&mut Random, u64) -> u64,
) -> Option<(usize, usize)> {
    let total: u64 = ask.takers().map(|(_, server)| u64::from(server.weight)).sum();
    if total == 0 {
        return None;
    }
    let random = &mut ask.state.random;
    let targets = [draw(random, total), draw(random, total)];
    let [first, second] = targets.map(|target| {
        let mut reached = 0;
        ask.takers().find(|(_, server)| {
            reached += u64::from(server.weight);
            target < reached
        })
    });
    Some((first?.0, second?.0))
}
