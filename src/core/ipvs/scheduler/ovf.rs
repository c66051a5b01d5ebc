//! ovf: the heaviest server that has no more active connections than its weight, the first one on a tie.
//!
//! Follows Linux ip_vs_ovf.c.

use std::cmp::Reverse;

use super::{FlowHint, Loads, Memory, Scheduler, SchedulerState};
use crate::ipvs::service::VirtualService;

pub(super) struct WeightedOverflow;

impl Scheduler for WeightedOverflow {
    #[inline]
    fn pick<L: Loads>(
        service: &VirtualService,
        _state: &mut SchedulerState,
        _flow: &FlowHint,
        loads: &L,
        _memory: &mut Memory<'_>,
    ) -> Option<usize> {
        service.least(loads, |server| {
            let has_room = loads.active(server.id) <= server.weight;
            has_room.then_some(Reverse(server.weight))
        })
    }
}
