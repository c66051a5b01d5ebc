//! Sums of all workers' counters per real server, per service and in total, and their rates.
//!
//! Workers' counters only grow and are never reset; here the growth since the last look is added up, so
//! a service keeps the counts of servers it lost, a deleted server that returns resumes, and zeroing is ours.

use std::collections::HashMap;
use std::sync::Arc;

use lvs_core::ipvs::real_server::RealServerId;
use lvs_core::ipvs::service::ServiceId;
use lvs_core::ipvs::service_table::ServiceTable;
use lvs_core::ipvs::stats::{Estimator, Rates, Totals};
use lvs_core::single_writer::SingleWriter;

use crate::mgmt::worker_handle::WorkerHandle;

mod kept;

pub use kept::{Keeper, KeptCounts, Store};

/// One object's counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Since it exists or was zeroed.
    pub totals: Totals,
    estimator: Estimator,
}

impl Count {
    fn add(&mut self, growth: Totals) {
        self.totals = self.totals.plus(growth);
    }

    /// Smoothed, as of the last sample.
    pub const fn rates(&self) -> Rates {
        self.estimator.rates()
    }
}

/// Present connections of a real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// In an active state.
    pub active: u32,
    /// All others.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
}

/// The present connections of one real server over all workers.
pub fn load(workers: &[Arc<dyn WorkerHandle>], id: RealServerId) -> Load {
    let mut load = Load::default();
    for worker in workers {
        let counters = worker.counters().server(id);
        load.active += counters.active.get();
        load.inactive += counters.inactive.get();
        load.persistent += counters.persistent.get();
    }
    load
}

/// The counts of a real server.
#[derive(Clone, Copy, Debug, Default)]
struct ServerCount {
    /// Of the service that lists it.
    born: u64,
    is_listed: bool,
    /// At the last sample while it was listed.
    sampled: Totals,
    count: Count,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Counts {
    /// The sum of the workers' counters of a slot at the last look, whichever server or service had the slot.
    seen: HashMap<RealServerId, Totals>,
    /// A deleted server that returns to another service of the same name begins anew, at what its estimator saw last
    /// (`__ip_vs_update_dest`, `ip_vs_zero_stats`).
    servers: HashMap<RealServerId, ServerCount>,
    /// Each with the time when the service was added. It differs for a new service in a reused slot.
    services: HashMap<ServiceId, (u64, Count)>,
    total: Count,
}

impl Counts {
    /// Adds what was counted since the last look.
    pub fn collect(&mut self, table: &ServiceTable, workers: &[Arc<dyn WorkerHandle>]) {
        for slot in table.real_servers() {
            let id = slot.server.id;
            let now = workers.iter().fold(Totals::default(), |sum, worker| {
                sum.plus(worker.counters().server(id).totals())
            });
            let seen = self.seen.entry(id).or_default();
            let growth = now.since(*seen);
            *seen = now;
            self.total.add(growth);
            let service = table.service(slot.service);
            if let Some(service) = service {
                self.of_service(service.id, service.born).add(growth);
            }
            let of_server = self.servers.entry(id).or_default();
            of_server.count.add(growth);
            of_server.is_listed = slot.available;
            if let Some(service) = service.filter(|service| slot.available && service.born != of_server.born) {
                of_server.born = service.born;
                of_server.count = Count {
                    totals: of_server.count.totals.since(of_server.sampled),
                    ..Count::default()
                };
                of_server.sampled = Totals::default();
            }
        }
    }

    fn of_service(&mut self, id: ServiceId, born: u64) -> &mut Count {
        let entry = self.services.entry(id).or_insert((born, Count::default()));
        if entry.0 != born {
            *entry = (born, Count::default());
        }
        &mut entry.1
    }

    /// Feeds the estimators: every 2 s, after [`Self::collect`].
    pub fn sample(&mut self) {
        for count in self.all() {
            count.estimator.sample(count.totals);
        }
        for server in self.servers.values_mut().filter(|server| server.is_listed) {
            server.sampled = server.count.totals;
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Count> {
        let servers = self.servers.values_mut().map(|server| &mut server.count);
        let services = self.services.values_mut().map(|(_, count)| count);
        servers.chain(services).chain([&mut self.total])
    }

    /// Sets everything to 0, rates included (`ipvsadm -Z`).
    pub fn zero(&mut self) {
        for count in self.all() {
            *count = Count::default();
        }
        self.servers
            .values_mut()
            .for_each(|server| server.sampled = Totals::default());
    }

    /// Sets one service and its servers to 0 (`ipvsadm -Z` of a service).
    pub fn zero_service(&mut self, id: ServiceId, servers: impl Iterator<Item = RealServerId>) {
        if let Some((_, count)) = self.services.get_mut(&id) {
            *count = Count::default();
        }
        for server in servers {
            if let Some(server) = self.servers.get_mut(&server) {
                (server.count, server.sampled) = (Count::default(), Totals::default());
            }
        }
    }

    /// Forgets servers and services whose slots are free again.
    pub fn forget(&mut self, table: &ServiceTable) {
        self.servers.retain(|id, _| table.real_server(*id).is_some());
        self.services
            .retain(|id, (born, _)| table.service(*id).is_some_and(|service| service.born == *born));
    }

    /// Of one real server.
    pub fn server(&self, id: RealServerId) -> Count {
        self.servers.get(&id).map(|server| server.count).unwrap_or_default()
    }

    /// Of one service.
    pub fn service(&self, id: ServiceId) -> Count {
        self.services.get(&id).map(|(_, count)| *count).unwrap_or_default()
    }

    /// Of everything.
    pub const fn total(&self) -> Count {
        self.total
    }
}
