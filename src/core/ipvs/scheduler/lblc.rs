//! lblc, for caches: every destination address keeps its server. wlc picks the server of a new destination, and of one
//! whose server has too many connections.
//!
//! Follows Linux ip_vs_lblc.c. As there, a remembered server is used even if its upper threshold is reached.

use super::{Loads, Pick, Scheduler, locality};
use crate::ipvs::real_server::{RealServer, RealServerId};
use crate::ipvs::service::VirtualService;

pub(super) struct LocalityBasedLeastConnection;

impl Scheduler for LocalityBasedLeastConnection {
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        let destination = locality::destination(ask.service.id, ask.flow.dst_words);
        let known = ask.localities.find(destination, ask.now, ask.lblc_lifetime_ms);
        let server = known.and_then(|known| known.servers().next());
        if let Some(index) = server.and_then(|server| position(ask.service, server)) {
            let server = &ask.service.servers[index];
            if server.weight > 0 && !is_crowded(ask, server) {
                return Some(index);
            }
        }
        let index = ask.least_by_weight(|server| ask.overhead(server))?;
        let server = ask.service.servers.get(index)?.id;
        ask.localities.remember(destination, server, ask.now);
        Some(index)
    }
}

/// The position of a server in the service, if the service still lists it.
pub(super) fn position(service: &VirtualService, id: RealServerId) -> Option<usize> {
    service.servers.iter().position(|server| server.id == id)
}

/// More active connections than its weight, while some server has less than half of its own (`is_overloaded`).
pub(super) fn is_crowded<L: Loads>(ask: &Pick<'_, L>, server: &RealServer) -> bool {
    let active = |server: &RealServer| u64::from(ask.loads.active(server.id));
    active(server) > u64::from(server.weight)
        && ask
            .service
            .servers
            .iter()
            .any(|other| active(other) * 2 < u64::from(other.weight))
}
