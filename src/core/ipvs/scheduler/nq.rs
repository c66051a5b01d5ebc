//! nq: the first idle server, whatever its weight above 0; without one, as sed.
//!
//! Follows Linux ip_vs_nq.c.

use super::{FlowHint, Loads, Memory, Scheduler, SchedulerState, sed};
use crate::ipvs::service::VirtualService;

pub(super) struct NeverQueue;

impl Scheduler for NeverQueue {
    #[inline]
    fn pick<L: Loads>(
        service: &VirtualService,
        state: &mut SchedulerState,
        flow: &FlowHint,
        loads: &L,
        memory: &mut Memory<'_>,
    ) -> Option<usize> {
        let idle = service
            .servers
            .iter()
            .position(|server| VirtualService::takes(server, loads) && loads.active(server.id) == 0);
        idle.or_else(|| sed::ShortestExpectedDelay::pick(service, state, flow, loads, memory))
    }
}
