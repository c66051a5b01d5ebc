//! lc: the server with the fewest connections, the first one on a tie. Weights do not count, except that 0 excludes a
//! server.
//!
//! Follows Linux ip_vs_lc.c.

use super::{Loads, Pick, Scheduler};

pub(super) struct LeastConnection;

impl Scheduler for LeastConnection {
    #[inline]
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        ask.least(|server| Some(ask.overhead(server)))
    }
}
