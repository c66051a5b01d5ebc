//! lblc: every destination address keeps its server, for caches; a new or overloaded one goes by wlc.
//!
//! Follows Linux ip_vs_lblc.c. A remembered server is used although its upper threshold is reached, as there.

use super::{FlowHint, Loads, Memory, Scheduler, SchedulerState, locality};
use crate::ipvs::real_server::{RealServer, RealServerId};
use crate::ipvs::service::VirtualService;

pub(super) struct LocalityBasedLeastConnection;

impl Scheduler for LocalityBasedLeastConnection {
    fn pick<L: Loads>(
        service: &VirtualService,
        _state: &mut SchedulerState,
        flow: &FlowHint,
        loads: &L,
        memory: &mut Memory<'_>,
    ) -> Option<usize> {
        let destination = locality::destination(service.id, flow.dst_words);
        let known = memory.localities.find(destination, memory.now, memory.lblc_lifetime_ms);
        let server = known.and_then(|known| known.servers().next());
        if let Some(index) = server.and_then(|server| position(service, server)) {
            let server = &service.servers[index];
            if server.weight > 0 && !is_crowded(service, server, loads) {
                return Some(index);
            }
        }
        let index = service.least_by_weight(loads, |server| service.overhead.of(server.id, loads))?;
        memory
            .localities
            .remember(destination, service.servers.get(index)?.id, memory.now);
        Some(index)
    }
}

/// Where the service lists a server, if it still does.
pub(super) fn position(service: &VirtualService, id: RealServerId) -> Option<usize> {
    service.servers.iter().position(|server| server.id == id)
}

/// More active connections than its weight, while some server has less than half of its own (`is_overloaded`).
pub(super) fn is_crowded<L: Loads>(service: &VirtualService, server: &RealServer, loads: &L) -> bool {
    let active = |server: &RealServer| u64::from(loads.active(server.id));
    active(server) > u64::from(server.weight)
        && service
            .servers
            .iter()
            .any(|other| active(other) * 2 < u64::from(other.weight))
}
