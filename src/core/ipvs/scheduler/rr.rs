//! rr: servers in turn, newest first. Weights do not count, except that 0 excludes a server.
//!
//! Follows Linux ip_vs_rr.c.

use super::pick::takes;
use super::{HEAD, Loads, Pick, Scheduler, SchedulerState};
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
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        let servers = &ask.service.servers;
        let first = match ask.state.cursor {
            HEAD => ask.state.head_start(servers.len()),
            cursor => cursor as usize + 1,
        };
        let after = servers.iter().enumerate().skip(first);
        let mut round = after.chain(servers.iter().enumerate().take(first));
        let (index, _) = round.find(|(_, server)| takes(server, ask.loads))?;
        ask.state.cursor = index as u32;
        Some(index)
    }
}

/// The position of the cursor in the new list: the same server, or the nearest one before it that still exists
/// (`ip_vs_rr_del_dest`).
fn followed(cursor: u32, old: &[RealServer], new: &[RealServer]) -> u32 {
    if cursor == HEAD {
        return HEAD;
    }
    let until_cursor = old.iter().take(cursor as usize + 1).rev();
    let mut survivors = until_cursor.filter_map(|server| new.iter().position(|candidate| candidate.id == server.id));
    survivors.next().map_or(HEAD, |index| index as u32)
}
