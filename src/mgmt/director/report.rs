//! What the director reports of what runs: services, counters, workers, drops.

use std::collections::BTreeMap;
use std::sync::Arc;

use lvs_api::{ApiError, DropCount, Latency, ServerStatus, ServiceId, ServiceStatus, Stats, Worker};
use lvs_core::ipvs::desired::ServiceListing;
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::real_server::RealServerId;
use lvs_core::ipvs::stats::Totals;
use lvs_core::ipvs::sysctl::Sysctls;
use lvs_core::latency::LatencyCounts;
use lvs_core::single_writer::SingleWriter;
use lvs_core::verdict::DropReason;

use super::counts::{self, Count, Counts, KeptCounts};
use super::{Director, convert};
use crate::mgmt::worker_handle::WorkerHandle;

impl Director {
    /// Every service as it runs, oldest first.
    pub fn services(&mut self) -> Vec<ServiceStatus> {
        self.count();
        self.desired
            .services
            .services()
            .map(|listing| self.status(&listing, convert::id(&listing.spec.key)))
            .collect()
    }

    /// One service as it runs.
    pub fn service(&mut self, id: &ServiceId) -> Result<ServiceStatus, ApiError> {
        self.count();
        let listing = self
            .desired
            .services
            .listing(&convert::key(id))
            .map_err(convert::refusal)?;
        Ok(self.status(&listing, *id))
    }

    /// The slot by which connections name a service; `None` if there is no such service.
    pub fn slot(&self, id: &ServiceId) -> Option<lvs_core::ipvs::service::ServiceId> {
        let listing = self.desired.services.listing(&convert::key(id)).ok()?;
        Some(listing.id)
    }

    fn status(&self, listing: &ServiceListing<'_>, service: ServiceId) -> ServiceStatus {
        let has_pool = !listing.local_addresses.is_empty();
        let count = self.counts.service(listing.id);
        let servers = listing.servers().map(|listed| {
            let forward = match listed.spec.mode {
                ForwardingMode::Nat if has_pool => ForwardingMode::FullNat,
                mode => mode,
            };
            let load = counts::load(&self.workers, listed.id);
            let count = self.counts.server(listed.id);
            ServerStatus {
                config: convert::server(&listed.spec),
                forward: forward.name().to_owned(),
                active_conns: load.active,
                inactive_conns: load.inactive,
                persistent_conns: load.persistent,
                totals: convert::totals(count.totals),
                rates: convert::rates(count.rates()),
            }
        });
        ServiceStatus::new(
            convert::service_settings(listing.spec),
            service,
            listing.local_addresses.to_vec(),
            self.workers
                .iter()
                .map(|worker| worker.counters().unrested_of(listing.id))
                .sum(),
            servers.collect(),
            convert::totals(count.totals),
            convert::rates(count.rates()),
        )
    }

    /// The counters of everything balanced since the start or the last zeroing.
    pub fn total(&mut self) -> Count {
        self.count();
        self.counts.total()
    }

    /// The same in the API's words.
    pub fn stats(&mut self) -> Stats {
        let total = self.total();
        Stats {
            totals: convert::totals(total.totals),
            rates: convert::rates(total.rates()),
        }
    }

    /// Sets every counter and rate of services and servers to 0.
    pub fn zero_stats(&mut self) {
        self.count();
        self.counts.zero();
        self.store_counts();
    }

    /// Goes on with the counts of an earlier process. `counted` gives what its workers had counted of a server by its
    /// slot there, if anybody knows. Returns the slots of servers that are there still: the earlier one, then the present
    /// one. Call it before [`Self::attach`].
    pub fn resume_counts(
        &mut self,
        kept: &KeptCounts,
        counted: impl Fn(RealServerId) -> Option<Totals>,
    ) -> Vec<(RealServerId, RealServerId)> {
        let table = self.current_table();
        self.counts = Counts::resumed(kept, counted, &table);
        kept.same_servers(&table)
    }

    /// From now on counts are stored for a later process when services or servers change.
    pub fn store_counts_with(&mut self, store: counts::Store) {
        let table = self.current_table();
        let mut keeper = counts::Keeper::new(store);
        keeper.store(&self.counts, &table);
        self.keeper = Some(keeper);
    }

    /// From now on counts do not outlive the process.
    pub fn store_counts_no_more(&mut self) {
        self.keeper = None;
    }

    /// Stores the counts, after a change of them that a later process must know at once.
    pub(super) fn store_counts(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            keeper.store(&self.counts, &self.table);
        }
    }

    /// Stores the counts if services or servers have changed since the last time. Call it after [`Self::count`].
    pub(super) fn store_changed_counts(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            keeper.look(&self.counts, &self.table);
        }
    }

    /// The same when the director ends.
    pub fn leave_counts(&mut self) {
        self.count();
        self.store_changed_counts();
    }

    /// Updates the rates. To be called every 2 s.
    pub fn sample(&mut self) {
        self.count();
        self.counts.sample();
    }

    /// The timeouts of connections.
    pub const fn timeouts(&self) -> lvs_api::Timeouts {
        convert::timeouts(&self.desired.timeouts)
    }

    /// The kernel's settings by their names, as `sysctl` prints them.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let shown = |name: &&str| Some(((*name).to_owned(), self.desired.sysctls.get(name)?));
        Sysctls::NAMES.iter().filter_map(shown).collect()
    }

    /// Each worker's own counters.
    pub fn worker_reports(&self) -> Vec<Worker> {
        let reports = self.workers.iter().enumerate();
        let report = |(index, worker): (usize, &Arc<dyn WorkerHandle>)| Worker {
            standstill_ms: self.standstill_ms(index),
            ..worker_report(index, &**worker)
        };
        reports.map(report).collect()
    }

    /// Dropped frames by reason, all workers and the twin thread together.
    pub fn drops(&self) -> Vec<DropCount> {
        let of = |reason: DropReason| {
            let workers = self.workers.iter().map(|worker| worker.counters().drops_of(reason));
            let twins = self.twins.iter().map(|twins| twins.drops_of(reason));
            workers.chain(twins).sum()
        };
        let named = |reason: &DropReason| DropCount {
            reason: reason.name().to_owned(),
            packets: of(*reason),
            meaning: reason.meaning().to_owned(),
        };
        DropReason::ALL.iter().map(named).collect()
    }

    pub(super) fn count(&mut self) {
        let table = self.current_table();
        self.counts.collect(&table, &self.workers);
    }
}

fn worker_report(index: usize, worker: &dyn WorkerHandle) -> Worker {
    let counters = worker.counters();
    let mut report = Worker {
        worker: u8::try_from(index).unwrap_or(u8::MAX),
        lcore: worker.lcore(),
        handoff_out_packets: counters.handoff_out.get(),
        drop_packets: counters.drops.iter().map(SingleWriter::get).sum(),
        consumed_packets: counters.consumed_frames.get(),
        generated_packets: counters.generated_frames.get(),
        client_address_packets: counters.client_addresses.get(),
        client_address_no_room_packets: counters.client_address_no_room.get(),
        local_ports_unrested: counters.local_ports_unrested.get(),
        held_packets: counters.held.get(),
        conns4: counters.conns_ipv4.get(),
        conns6: counters.conns_ipv6.get(),
        passes: counters.passes.get(),
        bursts: counters.bursts.get(),
        idle_polls: counters.idle_polls.get(),
        busy_cycles: counters.busy_cycles.get(),
        idle_cycles: counters.idle_cycles.get(),
        sleeps: counters.sleeps.get(),
        sleep_cycles: counters.sleep_cycles.get(),
        interrupts: counters.interrupts.get(),
        cycles_per_sec: worker.cycles_per_sec(),
        scheduler_picks: counters.scheduler_picks.get(),
        longest_pass_us: us(counters.longest_pass_cycles.get(), worker.cycles_per_sec()),
        handoff_in_packets: counters.handoff_in.get(),
        conns_expired: counters.conns_expired.get(),
        icmp_errors: counters.icmp_errors.get(),
        resets_unknown: counters.resets_unknown.get(),
        resets_server_gone: counters.resets_server_gone.get(),
        latency: latency(&counters.latency.read(), worker.cycles_per_sec()),
        ..Worker::default()
    };
    for device in &counters.devices {
        report.rx_packets += device.rx_packets.get();
        report.rx_bytes += device.rx_bytes.get();
        report.tx_packets += device.tx_packets.get();
        report.tx_bytes += device.tx_bytes.get();
        report.punt_packets += device.punted_packets.get();
    }
    report
}

/// Cycles as microseconds.
fn us(cycles: u64, cycles_per_sec: u64) -> u64 {
    let us = (u128::from(cycles) * 1_000_000).checked_div(u128::from(cycles_per_sec));
    us.map_or(0, |us| us as u64)
}

fn latency(counts: &LatencyCounts, hz: u64) -> Latency {
    let ns = |per_mille| (u128::from(counts.percentile(per_mille)) * 1_000_000_000 / u128::from(hz.max(1))) as u64;
    Latency {
        samples: counts.samples(),
        p50_ns: ns(500),
        p99_ns: ns(990),
        p999_ns: ns(999),
    }
}
