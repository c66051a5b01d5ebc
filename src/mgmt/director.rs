//! The director: the only writer of the desired state.
//!
//! In:  an [`Action`]. Out: validated, journaled, carried out, and a new snapshot on its way to every
//! worker ([`publication`]), in that order; or a refusal and nothing changed.
//! Never: waits for the disk, reads a clock (the caller gives `now`), imports DPDK.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use lvs_api::{
    Action, ApiError, ErrorCode, Mode, Server, ServerPatch, Service, ServiceId, ServicePatch, State, StateDiff, Tunnel,
};
use lvs_core::counters::WorkerCounters;
use lvs_core::ipvs::client_address;
use lvs_core::ipvs::desired::{DesiredServices, ServerListing, ServiceError, ServiceListing, ServiceSpec};
use lvs_core::ipvs::mark::MarkRules;
use lvs_core::ipvs::protocol::{TimeoutError, Timeouts};
use lvs_core::ipvs::scheduler::Overhead;
use lvs_core::ipvs::service_table::ServiceTable;
use lvs_core::ipvs::sync::daemon::SyncDaemon;
use lvs_core::ipvs::sysctl::Sysctls;
use lvs_core::l3::L3;

use crate::mgmt::journal::{Damage, Drained, Journal, JournalError, Whole};
use crate::mgmt::sync::Sync;
use crate::mgmt::worker_handle::WorkerHandle;

pub mod convert;
pub mod counts;
pub mod diff;
mod ipvs_table;
pub mod publication;
mod report;
pub mod settings;
mod sync;
pub mod tend;
mod unicast;
mod why;

#[cfg(test)]
mod tests;

use counts::Counts;
use publication::Publication;

/// What a worker is to see, besides services.
#[derive(Clone, Debug)]
struct DesiredState {
    services: DesiredServices,
    timeouts: Timeouts,
    /// The master first.
    daemons: Vec<SyncDaemon>,
    sysctls: Sysctls,
    marks: Arc<MarkRules>,
    /// Names of the devices that mark rules may name, by id.
    devices: Arc<[String]>,
}

/// What the journal brought back.
#[derive(Debug, Default)]
pub struct RestoreReport {
    /// Actions since the last whole state.
    pub actions: usize,
    /// Actions that this version refuses: each with its reason, left out.
    pub refused: Vec<String>,
    /// Present when the journal's end was torn.
    pub damage: Option<Damage>,
}

/// See the module.
pub struct Director {
    desired: DesiredState,
    /// The configuration file's part, as last loaded.
    base: State,
    journal: Journal,
    workers: Vec<Arc<dyn WorkerHandle>>,
    /// What the twin thread counts.
    twins: Option<Arc<WorkerCounters>>,
    l3: Arc<L3>,
    table: Arc<ServiceTable>,
    /// Of the services in `table`.
    table_revision: u64,
    counts: Counts,
    overhead: Overhead,
    sync: Sync,
    publication: Publication,
}

/// What has not reached the workers yet.
impl Director {
    /// Brings back the desired state of the journal at `path`, for a director without devices.
    pub fn restore(path: &Path) -> Result<(Self, RestoreReport), JournalError> {
        Self::restore_with_devices(path, Arc::default())
    }

    /// Brings back the desired state of the journal at `path`; mark rules may name `devices`, by their ids.
    /// No worker is told before [`Self::attach`].
    pub fn restore_with_devices(path: &Path, devices: Arc<[String]>) -> Result<(Self, RestoreReport), JournalError> {
        let (journal, restored) = Journal::open(path)?;
        let mut report = RestoreReport {
            actions: restored.actions.len(),
            damage: restored.damage,
            ..RestoreReport::default()
        };
        let mut desired = DesiredState {
            services: DesiredServices::default(),
            timeouts: Timeouts::default(),
            daemons: Vec::new(),
            sysctls: Sysctls::default(),
            marks: Arc::default(),
            devices,
        };
        for action in replayed(&restored.whole).iter().chain(&restored.actions) {
            if let Err(error) = desired.carry_out(action) {
                report.refused.push(error.to_string());
            }
        }
        let director = Self {
            desired,
            base: restored.whole.base,
            journal,
            workers: Vec::new(),
            twins: None,
            l3: Arc::new(L3::default()),
            table: Arc::new(ServiceTable::default()),
            table_revision: 0,
            counts: Counts::default(),
            overhead: Overhead::default(),
            sync: Sync::new(),
            publication: Publication::default(),
        };
        Ok((director, report))
    }

    /// Gives the director its workers and publishes to them.
    pub fn attach(&mut self, workers: Vec<Arc<dyn WorkerHandle>>, now: Instant) {
        self.workers = workers;
        self.publish_soon(now);
    }

    /// Tells the director what the twin thread counts: its drops are shown with the workers'.
    pub fn attach_twins(&mut self, counters: Arc<WorkerCounters>) {
        self.twins = Some(counters);
    }

    /// The workers, by id.
    pub fn workers(&self) -> &[Arc<dyn WorkerHandle>] {
        &self.workers
    }

    /// Carries out one action: journaled before, published after.
    pub fn apply(&mut self, action: Action, now: Instant) -> Result<(), ApiError> {
        if let Action::ReplaceState(state) = action {
            return self.replace(state, false, now).map(|_| ());
        }
        match &action {
            Action::StartSyncDaemon(daemon) => self.open_sync(daemon)?,
            Action::AddServer { server, .. } => self.refuse_broadcast(server)?,
            Action::AddService(service) => self.refuse_broadcasts(service)?,
            _ => {}
        }
        if matches!(action, Action::DeleteService(_) | Action::Flush) {
            // What was counted so far is the old service's, even if one of the same name follows at once.
            self.count();
        }
        self.journal.append(&action).map_err(|error| journal_failed(&error))?;
        if let Err(error) = self.desired.carry_out(&action) {
            self.journal.retract().map_err(|error| journal_failed(&error))?;
            return Err(error);
        }
        self.changed(now);
        Ok(())
    }

    /// Makes the desired state exactly `state`, or only computes what would change.
    pub fn replace(&mut self, state: State, dry_run: bool, now: Instant) -> Result<StateDiff, ApiError> {
        let (mut diff, edits) = diff::difference(&self.state(), &state)?;
        diff.dry_run = dry_run;
        let mut desired = self.desired.clone();
        desired.apply_edits(&edits)?;
        if dry_run || edits.is_empty() {
            return Ok(diff);
        }
        self.journal
            .append(&Action::ReplaceState(state))
            .map_err(|error| journal_failed(&error))?;
        self.count();
        self.desired = desired;
        self.changed(now);
        Ok(diff)
    }

    /// Makes the desired state `state` and remembers `base` as what the configuration file says.
    pub fn rebase(&mut self, state: State, base: State, now: Instant) -> Result<StateDiff, ApiError> {
        let (diff, edits) = diff::difference(&self.state(), &state)?;
        let mut desired = self.desired.clone();
        desired.apply_edits(&edits)?;
        let drained = desired.drained();
        let whole = Whole {
            state: desired.state(),
            base,
            drained,
        };
        self.journal.compact(&whole).map_err(|error| journal_failed(&error))?;
        self.count();
        self.desired = desired;
        self.base = whole.base;
        self.changed(now);
        Ok(diff)
    }

    /// The desired state.
    pub fn state(&self) -> State {
        self.desired.state()
    }

    /// The configuration file's part, as last loaded.
    pub const fn base(&self) -> &State {
        &self.base
    }

    /// The network as the kernel has it now.
    pub fn set_l3(&mut self, l3: Arc<L3>, now: Instant) {
        self.l3 = l3;
        self.publish_soon(now);
    }

    /// How schedulers weigh active against inactive connections. Not journaled: the configuration says it.
    pub fn set_overhead(&mut self, overhead: Overhead, now: Instant) {
        if self.overhead != overhead {
            self.overhead = overhead;
            self.desired.services.set_overhead(overhead);
            self.publish_soon(now);
        }
    }

    /// Frees the slots of long-deleted servers. To be called every second; `now_sec` never goes back.
    pub fn collect_trash(&mut self, now_sec: u64, now: Instant) {
        self.count();
        let workers = &self.workers;
        let is_idle = |id| counts::load(workers, id) == counts::Load::default();
        if self.desired.services.collect_trash(now_sec, is_idle) > 0 {
            let table = self.desired.services.build();
            self.counts.forget(&table);
            self.table = Arc::new(table);
            self.publish_soon(now);
        }
    }

    /// What must reach the disk, to be synced off this thread.
    pub fn unsynced(&mut self) -> Option<Vec<std::fs::File>> {
        self.journal.unsynced()
    }

    fn changed(&mut self, now: Instant) {
        self.follow_sync(now);
        if self.journal.wants_compaction() {
            let drained = self.desired.drained();
            let whole = Whole {
                state: self.state(),
                base: self.base.clone(),
                drained,
            };
            if let Err(error) = self.journal.compact(&whole) {
                log::warn!("{error}; the journal goes on growing");
            }
        }
        self.publish_soon(now);
    }
}

fn journal_failed(error: &JournalError) -> ApiError {
    ApiError::new(ErrorCode::JournalFailed, format!("nothing was changed: {error}"))
}

/// What leads to a whole state, service by service, so that one that is refused costs no other.
fn replayed(whole: &Whole) -> Vec<Action> {
    let mut services = whole.state.services.clone();
    let mut drains = Vec::new();
    for Drained {
        service,
        server,
        last_weight,
    } in &whole.drained
    {
        let of = services.iter_mut().find(|listed| listed.service == *service);
        let Some(found) = of.and_then(|of| of.servers.iter_mut().find(|listed| listed.server == *server)) else {
            continue;
        };
        // Added with the weight it had before, then drained again.
        found.weight = *last_weight;
        let patch = ServerPatch {
            weight: Some(0),
            ..ServerPatch::default()
        };
        drains.push(Action::EditServer {
            service: *service,
            server: *server,
            patch,
        });
    }
    let timeouts = whole
        .state
        .timeouts
        .map(|timeouts| Action::SetTimeouts(timeouts.into()));
    let daemons = whole.state.sync_daemons.iter().flatten().cloned();
    services
        .into_iter()
        .map(Action::AddService)
        .chain(drains)
        .chain(timeouts)
        .chain(daemons.map(Action::StartSyncDaemon))
        .chain(settings::replayed(&whole.state))
        .collect()
}

fn service_of(listing: &ServiceListing<'_>) -> Service {
    let servers: Vec<_> = listing.servers().map(|listed| listed.spec).collect();
    convert::service(listing.spec, listing.local_addresses, servers.iter())
}

impl DesiredState {
    /// Quiesced servers and the weight they had before: mh fills its table by it.
    fn drained(&self) -> Vec<Drained> {
        let mut drained = Vec::new();
        for listing in self.services.services() {
            let service = convert::id(&listing.spec.key);
            for listed in listing
                .servers()
                .filter(|listed| listed.spec.weight == 0 && listed.last_weight > 0)
            {
                let server = SocketAddr::new(listed.spec.addr, listed.spec.port);
                drained.push(Drained {
                    service,
                    server,
                    last_weight: listed.last_weight,
                });
            }
        }
        drained
    }

    fn state(&self) -> State {
        State {
            services: self.services.services().map(|listing| service_of(&listing)).collect(),
            timeouts: Some(convert::timeouts(&self.timeouts)),
            sync_daemons: Some(self.daemons.iter().map(convert::sync_daemon).collect()),
            sysctls: Some(settings::sysctls(&self.sysctls)),
            marks: Some(self.mark_rules()),
        }
    }

    /// One action as a whole or not at all, with the place of a refusal inside it.
    fn carry_out(&mut self, action: &Action) -> Result<(), ApiError> {
        match action {
            Action::AddService(service) => {
                let id = &service.service;
                self.add_service(service).inspect_err(|error| {
                    if error.code != ErrorCode::ServiceExists && self.services.listing(&convert::key(id)).is_ok() {
                        // Undoes the part that was carried out: the service was not there before.
                        let _ = self.services.delete_service(&convert::key(id));
                    }
                })
            }
            Action::EditService { service, patch } => self.edit_service(service, patch),
            Action::DeleteService(service) => self
                .services
                .delete_service(&convert::key(service))
                .map_err(convert::refusal),
            Action::Flush => {
                self.services.flush();
                Ok(())
            }
            Action::AddServer { service, server } => self.add_server(service, server),
            Action::EditServer { service, server, patch } => self.edit_server(service, *server, patch),
            Action::DeleteServer { service, server } => self
                .services
                .delete_server(&convert::key(service), server.ip(), server.port())
                .map_err(convert::refusal),
            Action::SetLocalAddresses { service, addresses } => self
                .services
                .set_local_addresses(&convert::key(service), addresses.clone())
                .map_err(convert::refusal),
            Action::SetTimeouts(patch) => {
                let lvs_api::TimeoutsPatch {
                    tcp_sec,
                    tcp_fin_sec,
                    udp_sec,
                } = *patch;
                let refused = |error: TimeoutError| {
                    let TimeoutError::TooLong { name, .. } = error;
                    ApiError::new(ErrorCode::Refused, error.to_string()).at(name)
                };
                self.timeouts.set(tcp_sec, tcp_fin_sec, udp_sec).map_err(refused)
            }
            Action::StartSyncDaemon(daemon) => self.start_sync_daemon(daemon),
            Action::StopSyncDaemon(role) => self.stop_sync_daemon(*role),
            Action::SetSysctls(named) => self.set_sysctls(named),
            Action::SetMarks(rules) => self.set_marks(rules),
            Action::AddMark { position, rule } => self.add_mark(*position, rule),
            Action::DeleteMark { position } => self.delete_mark(*position),
            Action::ReplaceState(state) => {
                let (_, edits) = diff::difference(&self.state(), state)?;
                let mut next = self.clone();
                next.apply_edits(&edits)?;
                *self = next;
                Ok(())
            }
        }
    }

    /// Several actions; on a refusal `self` is spoilt.
    fn apply_edits(&mut self, edits: &[diff::Edit]) -> Result<(), ApiError> {
        for edit in edits {
            self.carry_out(&edit.action).map_err(|error| {
                let place = match &error.place {
                    Some(inner) if inner.starts_with('[') => format!("{}{inner}", edit.place),
                    Some(inner) if !edit.place.is_empty() => format!("{}.{inner}", edit.place),
                    _ => edit.place.clone(),
                };
                error.at(place)
            })?;
        }
        Ok(())
    }

    fn add_service(&mut self, service: &Service) -> Result<(), ApiError> {
        let id = &service.service;
        let spec = convert::service_spec(service)?;
        let key = convert::key(id);
        let without_pool = ServiceSpec {
            client_address: client_address::ClientAddress::None,
            ..spec
        };
        self.services.add_service(without_pool).map_err(convert::refusal)?;
        if !service.local_addresses.is_empty() {
            let addresses = service.local_addresses.clone();
            self.services
                .set_local_addresses(&key, addresses)
                .map_err(convert::refusal)?;
        }
        if spec != without_pool {
            self.services.edit_service(spec).map_err(convert::refusal)?;
        }
        for (index, server) in service.servers.iter().enumerate() {
            self.add_server(id, server).map_err(|error| {
                let inner = error.place.clone().unwrap_or_default();
                error.at(format!("servers[{index}].{inner}"))
            })?;
        }
        Ok(())
    }

    fn edit_service(&mut self, id: &ServiceId, patch: &ServicePatch) -> Result<(), ApiError> {
        let listing = self.services.listing(&convert::key(id)).map_err(convert::refusal)?;
        let ServicePatch {
            scheduler,
            scheduler_flags,
            persistence,
            one_packet,
            client_address,
            mss_max,
        } = patch;
        let mut new = service_of(&listing);
        if let Some(scheduler) = scheduler
            && *scheduler != new.scheduler
        {
            new.scheduler.clone_from(scheduler);
            // Another scheduler has other options.
            new.scheduler_flags.clear();
        }
        if let Some(flags) = scheduler_flags {
            new.scheduler_flags.clone_from(flags);
        }
        new.persistence = persistence.unwrap_or(new.persistence);
        new.one_packet = one_packet.unwrap_or(new.one_packet);
        new.client_address = client_address.unwrap_or(new.client_address);
        new.mss_max = mss_max.unwrap_or(new.mss_max);
        let spec = convert::service_spec(&new)?;
        self.services.edit_service(spec).map_err(convert::refusal)
    }

    fn add_server(&mut self, id: &ServiceId, server: &Server) -> Result<(), ApiError> {
        let spec = convert::server_spec(server);
        self.refuse_mixed(&convert::key(id), spec.addr)?;
        self.services
            .add_server(&convert::key(id), spec)
            .map(|_| ())
            .map_err(convert::refusal)
    }

    fn edit_server(&mut self, id: &ServiceId, end: SocketAddr, patch: &ServerPatch) -> Result<(), ApiError> {
        let key = convert::key(id);
        let listing = self.services.listing(&key).map_err(convert::refusal)?;
        let is_it = |listed: &ServerListing| (listed.spec.addr, listed.spec.port) == (end.ip(), end.port());
        let found = listing.servers().find(is_it);
        let Some(old) = found else {
            let missing = ServiceError::NoSuchServer {
                service: key,
                addr: end.ip(),
                port: end.port(),
            };
            return Err(convert::refusal(missing));
        };
        let old = convert::server(&old.spec);
        let ServerPatch {
            mode,
            tunnel,
            weight,
            upper_threshold_conns,
            lower_threshold_conns,
        } = *patch;
        let mode = mode.unwrap_or(old.mode);
        let new = Server {
            server: end,
            mode,
            // A server that is no longer tunnelled keeps nothing of its tunnel.
            tunnel: tunnel.unwrap_or(if mode == Mode::Tunnel { old.tunnel } else { Tunnel::Ipip }),
            weight: weight.unwrap_or(old.weight),
            upper_threshold_conns: upper_threshold_conns.unwrap_or(old.upper_threshold_conns),
            lower_threshold_conns: lower_threshold_conns.unwrap_or(old.lower_threshold_conns),
        };
        self.services
            .edit_server(&key, convert::server_spec(&new))
            .map_err(convert::refusal)
    }
}
