//! sh: the client's address decides. 256 buckets, filled by the servers in turn, each as many in a row as
//! its weight (at least one).
//!
//! Options `sh-fallback` (clients of an unavailable server move on through the table) and `sh-port`.
//! Follows Linux ip_vs_sh.c.

use super::{
    FlowHint, Loads, Memory, Scheduler, SchedulerFlags, SchedulerState, SchedulerTable, TableInputs, hash_to_byte,
};
use crate::ipvs::service::VirtualService;

/// `IP_VS_SH_TAB_SIZE`.
const BUCKETS_COUNT: usize = 256;

pub(super) struct SourceHashing;

impl Scheduler for SourceHashing {
    const FLAG_NAMES: &'static [&'static str] = &["sh-fallback", "sh-port"];

    fn table(inputs: &TableInputs<'_>) -> SchedulerTable {
        let in_a_row = |(index, server): (usize, &crate::ipvs::real_server::RealServer)| {
            std::iter::repeat_n(index as u16, server.weight.max(1) as usize)
        };
        let round = inputs.servers.iter().enumerate().flat_map(in_a_row);
        SchedulerTable::Buckets(round.cycle().take(BUCKETS_COUNT).collect())
    }

    #[inline]
    fn pick<L: Loads>(
        service: &VirtualService,
        _state: &mut SchedulerState,
        flow: &FlowHint,
        loads: &L,
        _memory: &mut Memory<'_>,
    ) -> Option<usize> {
        let SchedulerTable::Buckets(buckets) = &service.table else {
            return None;
        };
        let with_port = service.scheduler_flags.contains(SchedulerFlags::PORT);
        let port = if with_port { u32::from(flow.src_port) } else { 0 };
        let hash = usize::from(hash_to_byte(flow.src_fold.wrapping_add(port)));
        let (index, takes) = service.bucket(buckets, hash, loads)?;
        if takes {
            return Some(index);
        }
        if !service.scheduler_flags.contains(SchedulerFlags::FALLBACK) {
            return None;
        }
        // The kernel adds the hash to an offset that already contains it: the walk begins at twice the hash.
        let walk = (0..BUCKETS_COUNT).map(|offset| (2 * hash + offset) % BUCKETS_COUNT);
        walk.filter_map(|at| service.bucket(buckets, at, loads))
            .find(|&(_, takes)| takes)
            .map(|(index, _)| index)
    }
}
