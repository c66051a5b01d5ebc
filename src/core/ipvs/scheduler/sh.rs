//! sh: the client's address decides. The servers fill 256 buckets in turn, each as many in a row as its weight (at
//! least one).
//!
//! Options `sh-fallback` (clients of an unavailable server get the next one of the table) and `sh-port`. Follows Linux
//! ip_vs_sh.c.

use super::{Loads, Pick, Scheduler, SchedulerFlags, SchedulerTable, TableInputs, hash_to_byte};
use crate::ipvs::real_server::RealServer;

/// `IP_VS_SH_TAB_SIZE`.
const BUCKETS_COUNT: usize = 256;

pub(super) struct SourceHashing;

impl Scheduler for SourceHashing {
    const FLAG_NAMES: &'static [&'static str] = &["sh-fallback", "sh-port"];

    fn table(inputs: &TableInputs<'_>) -> SchedulerTable {
        let in_a_row =
            |(index, server): (usize, &RealServer)| std::iter::repeat_n(index as u16, server.weight.max(1) as usize);
        let round = inputs.servers.iter().enumerate().flat_map(in_a_row);
        SchedulerTable::Buckets(round.cycle().take(BUCKETS_COUNT).collect())
    }

    #[inline]
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        let SchedulerTable::Buckets(buckets) = &ask.service.table else {
            return None;
        };
        let flags = ask.service.scheduler_flags;
        let hash = usize::from(hash_to_byte(ask.flow.client_hash(flags)));
        let (index, takes) = ask.bucket(buckets, hash)?;
        if takes {
            return Some(index);
        }
        if !flags.contains(SchedulerFlags::FALLBACK) {
            return None;
        }
        // The kernel adds the hash to an offset that already contains it: the walk begins at twice the hash.
        let walk = (0..BUCKETS_COUNT).map(|offset| (2 * hash + offset) % BUCKETS_COUNT);
        walk.filter_map(|at| ask.bucket(buckets, at))
            .find(|&(_, takes)| takes)
            .map(|(index, _)| index)
    }
}
