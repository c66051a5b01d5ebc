//! fo: the heaviest server, the first one on a tie; the others wait until it is overloaded or quiesced.
//!
//! Follows Linux ip_vs_fo.c.

use std::cmp::Reverse;

use super::{FlowHint, Loads, Memory, Scheduler, SchedulerState};
use crate::ipvs::service::VirtualService;

pub(super) struct WeightedFailover;

impl Scheduler for WeightedFailover {
    #[inline]
    fn pick<L: Loads>(
        service: &VirtualService,
        _state: &mut SchedulerState,
        _flow: &FlowHint,
        loads: &L,
        _memory: &mut Memory<'_>,
    ) -> Option<usize> {
        service.least(loads, |server| Some(Reverse(server.weight)))
    }
}
