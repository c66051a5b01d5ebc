//! lblcr: every destination address keeps a set of servers, which grows when it is crowded and shrinks
//! when it has been left alone for long.
//!
//! Follows Linux ip_vs_lblcr.c; a set holds a bounded number of servers.

use super::lblc::{is_crowded, position};
use super::locality::Locality;
use super::{CostByWeight, FlowHint, Loads, Memory, Scheduler, SchedulerState, locality};
use crate::ipvs::real_server::RealServer;
use crate::ipvs::service::VirtualService;

pub(super) struct LocalityBasedLeastConnectionWithReplication;

impl Scheduler for LocalityBasedLeastConnectionWithReplication {
    fn pick<L: Loads>(
        service: &VirtualService,
        _state: &mut SchedulerState,
        flow: &FlowHint,
        loads: &L,
        memory: &mut Memory<'_>,
    ) -> Option<usize> {
        let (now, lifetime_ms) = (memory.now, memory.lblcr_lifetime_ms);
        let destination = locality::destination(service.id, flow.dst_words);
        let by_wlc = || service.least_by_weight(loads, |server| service.overhead.of(server.id, loads));
        let Some(known) = memory.localities.find(destination, now, lifetime_ms) else {
            let index = by_wlc()?;
            memory
                .localities
                .remember(destination, service.servers.get(index)?.id, now);
            return Some(index);
        };
        let least = least_of(service, known, loads);
        if known.len() > 1
            && now.since_ms(known.changed) > lifetime_ms
            && let Some(most) = most_of(service, known, loads)
        {
            known.take_out(service.servers.get(most)?.id, now);
        }
        if let Some(index) = least
            && !is_crowded(service, service.servers.get(index)?, loads)
        {
            return Some(index);
        }
        let index = by_wlc()?;
        known.add(service.servers.get(index)?.id, now);
        Some(index)
    }
}

/// Positions of the set's servers that the service lists, newest of the set first.
fn listed<'a>(service: &'a VirtualService, known: &'a Locality) -> impl Iterator<Item = usize> + 'a {
    known.servers().filter_map(|id| position(service, id))
}

fn by_weight<L: Loads>(service: &VirtualService, server: &RealServer, loads: &L) -> CostByWeight {
    CostByWeight {
        cost: service.overhead.of(server.id, loads),
        weight: server.weight,
    }
}

/// The server with the least connections for its weight among those that may take one (`ip_vs_dest_set_min`).
fn least_of<L: Loads>(service: &VirtualService, known: &Locality, loads: &L) -> Option<usize> {
    let mut least: Option<(usize, CostByWeight)> = None;
    for index in listed(service, known) {
        let server = service.servers.get(index)?;
        if !VirtualService::takes(server, loads) {
            continue;
        }
        let own = by_weight(service, server, loads);
        if least.is_none_or(|(_, best)| own < best) {
            least = Some((index, own));
        }
    }
    least.map(|(index, _)| index)
}

/// The server with the most connections for its weight (`ip_vs_dest_set_max`).
fn most_of<L: Loads>(service: &VirtualService, known: &Locality, loads: &L) -> Option<usize> {
    let mut most: Option<(usize, CostByWeight)> = None;
    for index in listed(service, known) {
        let server = service.servers.get(index)?;
        if server.weight == 0 {
            continue;
        }
        let own = by_weight(service, server, loads);
        if most.is_none_or(|(_, best)| own > best) {
            most = Some((index, own));
        }
    }
    most.map(|(index, _)| index)
}
