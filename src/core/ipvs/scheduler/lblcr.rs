//! lblcr: every destination address keeps a set of servers. The set grows when its servers are crowded, and shrinks
//! when it has not changed for long.
//!
//! Follows Linux ip_vs_lblcr.c; a set holds a bounded number of servers.

use super::lblc::{is_crowded, position};
use super::locality::Locality;
use super::pick::{CostByWeight, takes};
use super::{Loads, Pick, Scheduler, locality};
use crate::ipvs::service::VirtualService;

pub(super) struct LocalityBasedLeastConnectionWithReplication;

impl Scheduler for LocalityBasedLeastConnectionWithReplication {
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        let (service, now, lifetime_ms) = (ask.service, ask.now, ask.lblcr_lifetime_ms);
        let destination = locality::destination(service.id, ask.flow.dst_words);
        let Some(known) = ask.localities.find(destination, now, lifetime_ms) else {
            let index = ask.least_by_weight(|server| ask.overhead(server))?;
            let server = service.servers.get(index)?.id;
            ask.localities.remember(destination, server, now);
            return Some(index);
        };
        let set = *known;
        let least = least_of(ask, &set);
        if set.len() > 1
            && now.since_ms(set.changed) > lifetime_ms
            && let Some(most) = most_of(ask, &set)
        {
            let server = service.servers.get(most)?.id;
            ask.localities
                .find(destination, now, lifetime_ms)?
                .take_out(server, now);
        }
        if let Some(index) = least
            && !is_crowded(ask, service.servers.get(index)?)
        {
            return Some(index);
        }
        let index = ask.least_by_weight(|server| ask.overhead(server))?;
        let server = service.servers.get(index)?.id;
        ask.localities.find(destination, now, lifetime_ms)?.add(server, now);
        Some(index)
    }
}

/// Positions of the set's servers that the service lists, newest of the set first.
fn listed<'a>(service: &'a VirtualService, set: &'a Locality) -> impl Iterator<Item = usize> + 'a {
    set.servers().filter_map(|id| position(service, id))
}

/// The server with the least connections for its weight among those that may take one (`ip_vs_dest_set_min`).
fn least_of<L: Loads>(ask: &Pick<'_, L>, set: &Locality) -> Option<usize> {
    let mut least: Option<(usize, CostByWeight)> = None;
    for index in listed(ask.service, set) {
        let server = ask.service.servers.get(index)?;
        if !takes(server, ask.loads) {
            continue;
        }
        let own = ask.overhead_by_weight(server);
        if least.is_none_or(|(_, best)| own < best) {
            least = Some((index, own));
        }
    }
    least.map(|(index, _)| index)
}

/// The server with the most connections for its weight (`ip_vs_dest_set_max`).
fn most_of<L: Loads>(ask: &Pick<'_, L>, set: &Locality) -> Option<usize> {
    let mut most: Option<(usize, CostByWeight)> = None;
    for index in listed(ask.service, set) {
        let server = ask.service.servers.get(index)?;
        if server.weight == 0 {
            continue;
        }
        let own = ask.overhead_by_weight(server);
        if most.is_none_or(|(_, best)| own > best) {
            most = Some((index, own));
        }
    }
    most.map(|(index, _)| index)
}
