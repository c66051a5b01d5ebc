//! wrt: the server where a connection may expect the shortest response: response time · (active + 1) / weight.
//!
//! Response times are measured where replies pass (SYN to SYN-ACK, first request to first reply). Of more than a
//! few servers only two random ones are compared, so that not all connections run to the one that is fastest at
//! present. No kernel has this scheduler.

use super::{CostByWeight, FlowHint, Loads, Memory, Scheduler, SchedulerState, twos};
use crate::ipvs::real_server::RealServer;
use crate::ipvs::service::VirtualService;

/// So many servers are all compared.
const SCANNED_MAX: usize = 4;

pub(super) struct WeightedResponseTime;

impl Scheduler for WeightedResponseTime {
    const MEASURED: bool = true;

    #[inline]
    fn pick<L: Loads>(
        service: &VirtualService,
        state: &mut SchedulerState,
        _flow: &FlowHint,
        loads: &L,
        _memory: &mut Memory<'_>,
    ) -> Option<usize> {
        let cost = |server: &RealServer| {
            let conns = u64::from(loads.active(server.id)) + 1;
            loads.response_us(server.id).saturating_mul(conns)
        };
        if service.servers.len() <= SCANNED_MAX {
            return service.least_by_weight(loads, cost);
        }
        let (first, second) = twos::two_by_weight(service, loads, |total| state.random.below_u64(total))?;
        let by_weight = |index: usize| {
            let server = service.servers.get(index)?;
            let (cost, weight) = (cost(server), server.weight);
            Some(CostByWeight { cost, weight })
        };
        Some(if by_weight(second)? < by_weight(first)? {
            second
        } else {
            first
        })
    }
}
