//! sed: the server where a new connection may expect the shortest delay: (active + 1) / weight.
//!
//! Inactive connections do not count, so all UDP goes to the heaviest server. Follows Linux ip_vs_sed.c.

use super::{FlowHint, Loads, Memory, Scheduler, SchedulerState};
use crate::ipvs::service::VirtualService;

pub(super) struct ShortestExpectedDelay;

impl Scheduler for ShortestExpectedDelay {
    #[inline]
    fn pick<L: Loads>(
        service: &VirtualService,
        _state: &mut SchedulerState,
        _flow: &FlowHint,
        loads: &L,
        _memory: &mut Memory<'_>,
    ) -> Option<usize> {
        service.least_by_weight(loads, |server| u64::from(loads.active(server.id)) + 1)
    }
}
