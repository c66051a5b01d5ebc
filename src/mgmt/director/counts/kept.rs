//! Counts that outlive the process: what they were when the services last changed, and what workers have counted since.
//!
//! In:  [`KeptCounts`] that an earlier process stored, and the counters of its workers, which a crash does not end.
//!      Out: [`Counts`] that go on as if nothing had happened. Rates begin anew.
//! Servers and services are named by address, because a later process gives them other slots.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lvs_api::ServiceId;
use lvs_core::ipvs::real_server::RealServerId;
use lvs_core::ipvs::service_table::ServiceTable;
use lvs_core::ipvs::stats::{Estimator, Totals};
use serde::{Deserialize, Serialize};

use super::{Count, Counts, ServerCount};
use crate::mgmt::director::convert;

/// See the module. Its text is the same for later versions: they may add fields with defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptCounts {
    total: Totals,
    services: Vec<KeptService>,
    servers: Vec<KeptServer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptService {
    service: ServiceId,
    totals: Totals,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptServer {
    /// By which its workers' counters are found.
    slot: u32,
    /// `None` once its service was deleted.
    service: Option<ServiceId>,
    server: SocketAddr,
    /// Whether its service lists it.
    listed: bool,
    totals: Totals,
    /// What the workers' counters were when they were last added to `totals`.
    seen: Totals,
}

impl KeptCounts {
    /// The slots of servers that `table` lists too: the earlier process's, then this one's.
    pub fn same_servers(&self, table: &ServiceTable) -> Vec<(RealServerId, RealServerId)> {
        let listed = self.servers.iter().filter(|server| server.listed);
        let slots: HashMap<_, _> = listed
            .map(|kept| ((kept.service, kept.server), RealServerId(kept.slot)))
            .collect();
        let servers = table.services().iter().flat_map(|service| {
            let id = Some(convert::id(&service.key));
            service.servers.iter().map(move |server| (id, server))
        });
        let same = servers.filter_map(|(service, server)| {
            let before = slots.get(&(service, SocketAddr::new(server.addr, server.port)))?;
            Some((*before, server.id))
        });
        same.collect()
    }
}

/// Stores counts where a later process finds them; at once or not at all.
pub type Store = Box<dyn FnMut(&KeptCounts) -> std::io::Result<()> + Send>;

/// Stores the counts when services or servers have changed.
pub struct Keeper {
    store: Store,
    /// The table that the stored counts are of.
    stored: Option<Arc<ServiceTable>>,
    has_failed: bool,
}

impl Keeper {
    /// Nothing is stored yet.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            stored: None,
            has_failed: false,
        }
    }

    /// Stores `counts` if the table is not the one that it was the last time.
    pub fn look(&mut self, counts: &Counts, table: &Arc<ServiceTable>) {
        if !self.stored.as_ref().is_some_and(|stored| Arc::ptr_eq(stored, table)) {
            self.store(counts, table);
        }
    }

    /// Stores `counts`. A failure is logged once, and the next look tries again.
    pub fn store(&mut self, counts: &Counts, table: &Arc<ServiceTable>) {
        match (self.store)(&counts.kept(table)) {
            Ok(()) => (self.stored, self.has_failed) = (Some(Arc::clone(table)), false),
            Err(error) => {
                if !self.has_failed {
                    log::warn!("statistics as they are now will not outlive lvsd: {error}");
                }
                (self.stored, self.has_failed) = (None, true);
            }
        }
    }
}

impl Counts {
    /// What a later process needs to go on with them.
    fn kept(&self, table: &ServiceTable) -> KeptCounts {
        let services = table.services().iter().map(|service| KeptService {
            service: convert::id(&service.key),
            totals: self.service(service.id).totals,
        });
        let servers = table.real_servers().map(|slot| KeptServer {
            slot: slot.server.id.0,
            service: table.service(slot.service).map(|service| convert::id(&service.key)),
            server: SocketAddr::new(slot.server.addr, slot.server.port),
            listed: slot.available,
            totals: self.server(slot.server.id).totals,
            seen: self.seen.get(&slot.server.id).copied().unwrap_or_default(),
        });
        KeptCounts {
            total: self.total.totals,
            services: services.collect(),
            servers: servers.collect(),
        }
    }

    /// The counts of an earlier process for the services and servers of `table`. `counted` gives what its workers had
    /// counted of a server by its slot there, if anybody knows. Those of this process have counted nothing yet.
    pub fn resumed(kept: &KeptCounts, counted: impl Fn(RealServerId) -> Option<Totals>, table: &ServiceTable) -> Self {
        let mut total = kept.total;
        let mut of_services: HashMap<ServiceId, Totals> =
            kept.services.iter().map(|kept| (kept.service, kept.totals)).collect();
        let mut of_servers = HashMap::new();
        for server in &kept.servers {
            let growth = counted(RealServerId(server.slot)).map_or_else(Totals::default, |now| now.since(server.seen));
            total = total.plus(growth);
            let Some(service) = server.service else {
                continue;
            };
            if let Some(of_service) = of_services.get_mut(&service) {
                *of_service = of_service.plus(growth);
            }
            if server.listed {
                of_servers.insert((service, server.server), server.totals.plus(growth));
            }
        }
        let mut counts = Self {
            total: going_on(total),
            ..Self::default()
        };
        for service in table.services() {
            let id = convert::id(&service.key);
            let totals = of_services.get(&id).copied().unwrap_or_default();
            counts.services.insert(service.id, (service.born, going_on(totals)));
            for server in service.servers.iter() {
                let end = SocketAddr::new(server.addr, server.port);
                let totals = of_servers.get(&(id, end)).copied().unwrap_or_default();
                let count = ServerCount {
                    born: service.born,
                    is_listed: true,
                    sampled: totals,
                    count: going_on(totals),
                };
                counts.servers.insert(server.id, count);
            }
        }
        counts
    }
}

fn going_on(totals: Totals) -> Count {
    Count {
        totals,
        estimator: Estimator::starting_at(totals),
    }
}
