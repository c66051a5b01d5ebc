//! wrt: the server with the shortest expected response: response time · (active + 1) / weight.
//!
//! Response times are measured if replies pass (SYN to SYN-ACK, first request to first reply). If there are more than a
//! few servers, only two random ones are compared, so that not all connections go to the one that is fastest at
//! present. No kernel has this scheduler.

use super::pick::CostByWeight;
use super::{Loads, Pick, Scheduler, twos};
use crate::ipvs::real_server::RealServer;

/// Up to so many servers are all compared.
const SCANNED_MAX: usize = 4;

pub(super) struct WeightedResponseTime;

impl Scheduler for WeightedResponseTime {
    const MEASURED: bool = true;

    #[inline]
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        let (servers, loads) = (&ask.service.servers, ask.loads);
        let cost = |server: &RealServer| {
            let conns = u64::from(loads.active(server.id)) + 1;
            loads.response_us(server.id).saturating_mul(conns)
        };
        if servers.len() <= SCANNED_MAX {
            return ask.least_by_weight(cost);
        }
        let (first, second) = twos::two_by_weight(ask, |random, total| random.below_u64(total))?;
        let by_weight = |index: usize| {
            let server = servers.get(index)?;
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
