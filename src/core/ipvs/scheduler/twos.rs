//! twos: two servers at random by weight, the less loaded of them.
//!
//! Follows Linux ip_vs_twos.c, with two quirks kept: the random weight includes the sum, which favours the
//! first server very slightly, and the second choice wins only when it is strictly better. Loads are
//! compared in 64 bits where the kernel's 32 can overflow.

use super::{FlowHint, Loads, Memory, Scheduler, SchedulerState};
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
            let inclusive = state.random.below(total.saturating_add(1));
            inclusive.saturating_sub(1)
        })?;
        let (first, second) = (service.servers.get(first_index)?, service.servers.get(second_index)?);
        let first_load = service.overhead.of(first.id, loads) * u64::from(second.weight);
        let second_load = service.overhead.of(second.id, loads) * u64::from(first.weight);
        Some(if first_load > second_load {
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
    mut draw: impl FnMut(u32) -> u32,
) -> Option<(usize, usize)> {
    let takers = || {
        let servers = service.servers.iter().enumerate();
        servers.filter(|(_, server)| VirtualService::takes(server, loads))
    };
    let total: u64 = takers().map(|(_, server)| u64::from(server.weight)).sum();
    let total = u32::try_from(total).unwrap_or(u32::MAX);
    if total == 0 {
        return None;
    }
    let targets = [u64::from(draw(total)), u64::from(draw(total))];
    let [first, second] = targets.map(|target| {
        let mut reached = 0;
        takers().find(|(_, server)| {
            reached += u64::from(server.weight);
            target < reached
        })
    });
    Some((first?.0, second?.0))
}
