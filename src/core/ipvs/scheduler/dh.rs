//! dh: the destination address decides. The servers fill 256 buckets in turn, whatever their weight.
//!
//! There is no fallback: a bucket whose server is quiesced or overloaded refuses connections. Follows Linux ip_vs_dh.c.

use super::{Loads, Pick, Scheduler, SchedulerTable, TableInputs, hash_to_byte};

/// `IP_VS_DH_TAB_SIZE`.
const BUCKETS_COUNT: usize = 256;

pub(super) struct DestinationHashing;

impl Scheduler for DestinationHashing {
    fn table(inputs: &TableInputs<'_>) -> SchedulerTable {
        let round = (0..inputs.servers.len()).map(|index| index as u16);
        SchedulerTable::Buckets(round.cycle().take(BUCKETS_COUNT).collect())
    }

    #[inline]
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        let SchedulerTable::Buckets(buckets) = &ask.service.table else {
            return None;
        };
        let hash = usize::from(hash_to_byte(ask.flow.dst_fold));
        let (index, takes) = ask.bucket(buckets, hash)?;
        takes.then_some(index)
    }
}
