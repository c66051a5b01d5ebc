//! nq: the first idle server, whatever its weight above 0. If no server is idle, sed picks.
//!
//! Follows Linux ip_vs_nq.c.

use super::{Loads, Pick, Scheduler, sed};

pub(super) struct NeverQueue;

impl Scheduler for NeverQueue {
    #[inline]
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        let idle = ask.takers().find(|(_, server)| ask.loads.active(server.id) == 0);
        match idle {
            Some((index, _)) => Some(index),
            None => sed::ShortestExpectedDelay::pick(ask),
        }
    }
}
