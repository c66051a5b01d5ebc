//! lc: the server with the fewest connections, the first one on a tie; weight 0 is skipped, else ignored.
//!
//! Follows Linux ip_vs_lc.c.

use super::{FlowHint, Loads, Memory, Scheduler, SchedulerState};
use crate::ipvs::service::VirtualService;

pub(super) struct LeastConnection;

impl Scheduler for LeastConnection {
    #[inline]
    fn pick<L: Loads>(
        service: &VirtualService,
        _state: &mut SchedulerState,
        _flow: &FlowHint,
        loads: &L,
        _memory: &mut Memory<'_>,
    ) -> Option<usize> {
        service.least(loads, |server| Some(service.overhead.of(server.id, loads)))
    }
}
