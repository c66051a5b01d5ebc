//! lt: the server with the least traffic, the first one on a tie.
//!
//! The traffic of a server is what the estimator shows (bytes in, and out if replies pass). For each connection since
//! the last sample, the average traffic of a connection of the service is added. Otherwise all connections between two
//! samples would go to one server. No kernel has this scheduler.

use super::{Loads, Pick, Scheduler};
use crate::ipvs::real_server::RealServer;
use crate::ipvs::service::VirtualService;

pub(super) struct LeastTraffic;

impl Scheduler for LeastTraffic {
    const MEASURED: bool = true;

    #[inline]
    fn pick<L: Loads>(ask: &mut Pick<'_, L>) -> Option<usize> {
        let per_conn = expected(ask.service, ask.loads);
        ask.least(|server| Some(traffic(server, ask.loads, per_conn)))
    }
}

/// The traffic that a new connection of the service is expected to bring. It is at least 1, so that a service without
/// traffic spreads its first connections too.
#[inline]
pub(super) fn expected<L: Loads>(service: &VirtualService, loads: &L) -> u64 {
    let (mut traffic, mut active) = (0u64, 0u64);
    for server in service.servers.iter() {
        traffic = traffic.saturating_add(loads.traffic(server.id));
        active += u64::from(loads.active(server.id));
    }
    (traffic / active.max(1)).max(1)
}

/// The traffic of a server, with the expected traffic of the connections that no sample contains yet.
#[inline]
pub(super) fn traffic<L: Loads>(server: &RealServer, loads: &L, per_conn: u64) -> u64 {
    let unseen = loads.assigned(server.id).saturating_mul(per_conn);
    loads.traffic(server.id).saturating_add(unseen)
}
