//! wlc: the server with the fewest connections for its weight, the first one on a tie.
//!
//! Follows Linux ip_vs_wlc.c.

use super::{FlowHint, Loads, Memory, Scheduler, SchedulerState};
use crate::ipvs::service::VirtualService;

pub(super) struct WeightedLeastConnection;

impl Scheduler for WeightedLeastConnection {
    #[inline]
    fn pick<L: Loads>(
        service: &VirtualService,
        _state: &mut SchedulerState,
        _flow: &FlowHint,
        loads: &L,
        _memory: &mut Memory<'_>,
    ) -> Option<usize> {
        service.least_by_weight(loads, |server| service.overhead.of(server.id, loads))
    }
}
