//! rr: servers in turn, newest first, whatever their weight unless it is 0.
//!
//! Follows Linux ip_vs_rr.c.

use super::{FlowHint, HEAD, Loads, Memory, Scheduler, SchedulerState};
use crate::ipvs::real_server::RealServer;
use crate::ipvs::service::VirtualService;

pub(super) struct RoundRobin;

impl Scheduler for RoundRobin {
    fn adopt(state: &mut SchedulerState, old: Option<&VirtualService>, new: &VirtualService) {
        if let Some(old) = old {
            state.cursor = followed(state.cursor, &old.servers, &new.servers);
        }
    }

    #[inline]
    fn pick<L: Loads>(
        service: &VirtualService,
        state: &mut SchedulerState,
        _flow: &FlowHint,
        loads: &L,
        _memory: &mut Memory<'_>,
    ) -> Option<usize> {
        let count = service.servers.len();
        let first = if state.cursor == HEAD {
            state.head_start(count)
        } else {
            state.cursor as usize + 1
        };
        let after = service.servers.iter().enumerate().skip(first);
        let mut round = after.chain(service.servers.iter().enumerate().take(first.min(count)));
        let (index, _) = round.find(|(_, server)| VirtualService::takes(server, loads))?;
        state.cursor = index as u32;
        Some(index)
    }
}

/// Where the cursor is in the new list: on the same server, or on the nearest one before it that is
/// still there (`ip_vs_rr_del_dest`).
fn followed(cursor: u32, old: &[RealServer], new: &[RealServer]) -> u32 {
    if cursor == HEAD {
        return HEAD;
    }
    let until_cursor = old.iter().take(cursor as usize + 1).rev();
    let mut survivors = until_cursor.filter_map(|server| new.iter().position(|candidate| candidate.id == server.id));
    survivors.next().map_or(HEAD, |index| index as u32)
}
