//! The director: the only writer of the desired state.
//!
//! In:  an [`Action`]. Out: validated, carried out, journaled, and a new snapshot on its way to every
//! worker ([`publication`]), in that order; or a refusal and nothing changed. A journal that cannot be written refuses
//! nothing: forwarding comes before persistence.
//! A disk that hangs holds up one change for some seconds, and no other.
//! Never: reads a clock (the caller gives `now`), imports DPDK.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use lvs_api::{Action, ApiError, JournalStatus, State, StateDiff};
use lvs_core::counters::WorkerCounters;
use lvs_core::ipvs::scheduler::Overhead;
use lvs_core::ipvs::service_table::ServiceTable;
use lvs_core::l3::L3;

use crate::mgmt::journal::{Damage, Journal, JournalError, Rewrite, Rewritten, Unsynced};
use crate::mgmt::sync::SyncDaemons;
use crate::mgmt::worker_handle::WorkerHandle;

pub mod convert;
pub mod counts;
mod desired_state;
pub mod diff;
mod ipvs_table;
mod own_source;
pub mod publication;
mod report;
pub mod settings;
mod standstill;
mod sync;
pub mod tend;
mod unicast;
mod why;

#[cfg(test)]
mod tests;

use counts::Counts;
use desired_state::DesiredState;
use publication::Publication;
use standstill::Standstill;

/// What the journal brought back.
#[derive(Debug, Default)]
pub struct RestoreReport {
    /// Actions since the last whole state.
    pub actions: usize,
    /// Actions that this version refuses and leaves out, each with its reason.
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
    /// Present if counts outlive the process.
    keeper: Option<counts::Keeper>,
    overhead: Overhead,
    sync: SyncDaemons,
    publication: Publication,
    standstill: Standstill,
}

impl Director {
    /// Brings back the desired state of the journal at `path`, for a director without devices.
    pub fn restore(path: &Path) -> Result<(Self, RestoreReport), JournalError> {
        Self::restore_with_devices(path, Arc::default())
    }

    /// Brings back the desired state of the journal at `path`; mark rules may name `devices`, by their ids.
    /// Nothing is published before [`Self::attach`].
    pub fn restore_with_devices(path: &Path, devices: Arc<[String]>) -> Result<(Self, RestoreReport), JournalError> {
        let (journal, restored) = Journal::open(path)?;
        let mut report = RestoreReport {
            actions: restored.actions.len(),
            damage: restored.damage,
            ..RestoreReport::default()
        };
        let mut desired = DesiredState::new(devices);
        let mut refused = desired.restore(&restored.whole);
        refused.extend(restored.actions.iter().filter_map(|action| desired.apply(action).err()));
        report.refused = refused.iter().map(ToString::to_string).collect();
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
            keeper: None,
            overhead: Overhead::default(),
            sync: SyncDaemons::new(),
            publication: Publication::default(),
            standstill: Standstill::default(),
        };
        Ok((director, report))
    }

    /// Gives the director its workers and publishes to them.
    pub fn attach(&mut self, workers: Vec<Arc<dyn WorkerHandle>>, now: Instant) {
        self.workers = workers;
        self.publish_soon(now);
    }

    /// Gives the director the twin thread's counters. Its drops are shown together with those of the workers.
    pub fn attach_twins(&mut self, counters: Arc<WorkerCounters>) {
        self.twins = Some(counters);
    }

    /// The workers, by id.
    pub fn workers(&self) -> &[Arc<dyn WorkerHandle>] {
        &self.workers
    }

    /// Carries out one action. When this returns it is journaled, or the journal is stale; its snapshot may still be on the
    /// way ([`publication::changes_arrive`]).
    pub fn apply(&mut self, action: Action, now: Instant) -> Result<(), ApiError> {
        if let Action::ReplaceState(state) = action {
            return self.replace(state, false, now).map(|_| ());
        }
        match &action {
            Action::StartSyncDaemon(daemon) => self.open_sync(daemon)?,
            Action::AddServer { server, .. } => unicast::server(&self.l3, server)?,
            Action::AddService(service) => unicast::servers_of(&self.l3, service)?,
            _ => {}
        }
        own_source::check(&self.l3, &self.desired.services, &action)?;
        if matches!(action, Action::DeleteService(_) | Action::Flush) {
            // Everything counted so far belongs to the old service, even if a new one of the same name follows at once.
            self.count();
        }
        self.desired.apply(&action)?;
        self.journal.append(&action, now);
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
        self.journal.append(&Action::ReplaceState(state), now);
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
        let whole = desired.whole(base.clone());
        self.journal.append_whole(whole, now);
        self.count();
        self.desired = desired;
        self.base = base;
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

    /// How schedulers weigh active against inactive connections. This is not journaled, because the configuration file
    /// says it.
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
        self.store_changed_counts();
    }

    /// From now on clients wait, so no change waits for a disk that hangs.
    pub fn begin_service(&mut self) {
        self.journal.begin_service();
    }

    /// What must reach the disk. The caller runs it on another thread.
    pub fn unsynced(&mut self) -> Option<Unsynced> {
        self.journal.unsynced()
    }

    /// What was journaled did not reach the disk, or nobody knows whether it did.
    pub fn journal_not_synced(&mut self, reason: &str, now: Instant) {
        self.journal.not_synced(reason, now);
    }

    /// The journal to be written anew, if that is due. The caller does it on another thread and gives the outcome to
    /// [`Self::journal_rewritten`].
    pub fn rewrite_journal(&mut self, now: Instant) -> Option<Rewrite> {
        self.journal.wants_rewrite(now).then(|| self.begin_rewrite())
    }

    /// The same when the director ends: a stale journal is due then, whatever the pause.
    pub fn last_rewrite(&mut self) -> Option<Rewrite> {
        self.journal.is_stale().then(|| self.begin_rewrite())
    }

    fn begin_rewrite(&mut self) -> Rewrite {
        let whole = self.desired.whole(self.base.clone());
        self.journal.begin_rewrite(whole)
    }

    /// The new journal is on the disk, or could not be written.
    pub fn journal_rewritten(&mut self, written: std::io::Result<Rewritten>, now: Instant) {
        self.journal.finish_rewrite(written, now);
    }

    /// Whether the journal holds every change.
    pub fn journal_status(&self) -> JournalStatus {
        self.journal.status()
    }

    fn changed(&mut self, now: Instant) {
        self.follow_sync(now);
        self.publish_soon(now);
    }
}
