//! wlt: the server with the least traffic for its weight, the first one on a tie.
//!
//! Traffic as in [`super::lt`].

use super::{FlowHint, Loads, Memory, Scheduler, SchedulerState, lt};
use crate::ipvs::service::VirtualService;

pub(super) struct WeightedLeastTraffic;

impl Scheduler for WeightedLeastTraffic {
    const MEASURED: bool = true;

    #[inline]
    fn pick<L: Loads>(
        service: &VirtualService,
        _state: &mut SchedulerState,
        _flow: &FlowHint,
        loads: &L,
        _memory: &mut Memory<'_>,
    ) -> Option<usize> {
        let per_conn = lt::expected(service, loads);
        service.least_by_weight(loads, |server| lt::traffic(server, loads, per_conn))
    }
}
