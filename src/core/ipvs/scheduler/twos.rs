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
        let takers = || {
            service
                .servers
                .iter()
                .enumerate()
                .filter(|(_, server)| VirtualService::takes(server, loads))
        };
        let total: u64 = takers().map(|(_, server)| u64::from(server.weight)).sum();
        if total == 0 {
            return None;
        }
        let bound = u32::try_from(total + 1).unwrap_or(u32::MAX);
        let targets = [
            u64::from(state.random.below(bound)),
            u64::from(state.random.below(bound)),
        ];
        let [first, second] = targets.map(|target| {
            let mut reached = 0;
            takers().find(|(_, server)| {
                reached += u64::from(server.weight);
                target <= reached
            })
        });
        let ((first_index, first), (second_index, second)) = (first?, second?);
        let first_load = service.overhead.of(first.id, loads) * u64::from(second.weight);
        let second_load = service.overhead.of(second.id, loads) * u64::from(first.weight);
        Some(if first_load > second_load {
            second_index
        } else {
            first_index
        })
    }
}
