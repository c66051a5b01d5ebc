//! twos: two servers at random by weight, the less loaded of them.
//!
//! Follows Linux ip_vs_twos.c, with two quirks kept: the random weight includes the sum, which favours the
//! first server very slightly, and the second choice wins only when it is strictly better. Loads and
//! sums of weights do not overflow, as the kernel's 32 bits can.

use super::{CostByWeight, FlowHint, Loads, Memory, Scheduler, SchedulerState};
use crate::ipvs::real_server::RealServer;
use crate::ipvs::service::VirtualService;

pub(super) struct PowerOfTwoChoices;

impl Scheduler for PowerOfTwoChoices {
    #[inline]
    fn pick<L: Loads>(
        service: &VirtualService,
        state: &mut SchedulerState,
        _flow: &FlowHint,
        loads: &L,
        _memory: &mut Memory<'_>,
    ) -> Option<usize> {
        let (first_index, second_index) = two_by_weight(service, loads, |total| {
            let inclusive = state.random.below_u64(total.saturating_add(1));
            inclusive.saturating_sub(1)
        })?;
        let (first, second) = (service.servers.get(first_index)?, service.servers.get(second_index)?);
        let by_weight = |server: &RealServer| CostByWeight {
            cost: service.overhead.of(server.id, loads),
            weight: server.weight,
        };
        Some(if by_weight(first) > by_weight(second) {
            second_index
        } else {
            first_index
        })
    }
}

/// Two servers at random by weight; they may be the same. `draw` gives a number below the sum of weights.
#[inline]
pub(super) fn two_by_weight<L: Loads>(
    service: &VirtualService,
    loads: &L,
    mut draw: impl FnMut(u64) -> u64,
) -> Option<(usize, usize)> {
    let takers = || {
        let servers = service.servers.iter().enumerate();
        servers.filter(|(_, server)| VirtualService::takes(server, loads))
    };
    let total: u64 = takers().map(|(_, server)| u64::from(server.weight)).sum();
    if total == 0 {
        return None;
    }
    let targets = [draw(total), draw(total)];
    let [first, second] = targets.map(|target| {
        let mut reached = 0;
        takers().find(|(_, server)| {
            reached += u64::from(server.weight);
            target < reached
        })
    });
    Some((first?.0, second?.0))
}
