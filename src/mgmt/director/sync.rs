//! Sync daemons: desired state like services, and the sockets that follow it.

use std::time::Instant;

use lvs_api::netlink::{DaemonRequest, DaemonRow, Errno};
use lvs_api::{Action, ApiError, ErrorCode, SyncDaemon, SyncDaemonStatus, SyncRole};
use lvs_core::counters::WorkerCounters;
use lvs_core::ipvs::sync::SyncRoles;
use lvs_core::ipvs::sync::daemon::{self, SyncRole as CoreRole};
use lvs_core::ipvs::sync::policy::ImportRefusal;
use lvs_core::single_writer::SingleWriter;

use super::{Director, convert};
use crate::mgmt::sync::settings::SyncSettings;
use crate::mgmt::sync::sockets::OpenError;

/// `IP_VS_STATE_MASTER`.
const STATE_MASTER: u32 = 1;
/// `IP_VS_STATE_BACKUP`.
const STATE_BACKUP: u32 = 2;
/// The MTU that messages are fitted to while their interface does not exist, in bytes.
const LINK_MTU: u16 = 1_500;

impl Director {
    /// Sync daemons as they run, the master first.
    pub fn sync_daemons(&self) -> Vec<SyncDaemonStatus> {
        let status = |desired: &daemon::SyncDaemon| {
            let running = self.sync.status(desired.role);
            let (max_len_bytes, tally) = running.unzip();
            let tally = tally.cloned().unwrap_or_default();
            let refused = tally.refused.into_iter().chain(self.refused_by_workers(desired.role));
            SyncDaemonStatus {
                daemon: convert::sync_daemon(desired),
                max_len_bytes: max_len_bytes.unwrap_or_else(|| desired.effective_max_len(LINK_MTU)),
                running: max_len_bytes.is_some(),
                messages: tally.messages,
                connections: tally.connections,
                authenticated: self.sync.policy().is_authenticated,
                imported_connections: match desired.role {
                    CoreRole::Master => 0,
                    CoreRole::Backup => self.imported(),
                },
                bulk: self.sync.bulk_status(desired.role),
                refused: refused.map(|(name, count)| (name.to_owned(), count)).collect(),
            }
        };
        self.desired.daemons.iter().map(status).collect()
    }

    /// Connections that workers could not sync out or did not import, by reason.
    fn refused_by_workers(&self, role: CoreRole) -> Vec<(&'static str, u64)> {
        let sum = |of: &dyn Fn(&WorkerCounters) -> u64| -> u64 {
            self.workers.iter().map(|worker| of(worker.counters())).sum()
        };
        let mut refused = match role {
            CoreRole::Master => vec![("worker_queue_full", sum(&|counters| counters.synced_out_dropped.get()))],
            CoreRole::Backup => {
                let count = |refusal: &ImportRefusal| {
                    let refusal = *refusal;
                    (
                        refusal.name(),
                        sum(&move |counters| counters.import_refusals_of(refusal)),
                    )
                };
                ImportRefusal::ALL.iter().map(count).collect()
            }
        };
        refused.retain(|(_, count)| *count > 0);
        refused
    }

    /// Entries of the workers' connection tables that were imported.
    fn imported(&self) -> u64 {
        let imported = self.workers.iter().flat_map(|worker| &worker.counters().imported);
        imported.map(SingleWriter::get).sum()
    }

    /// Replaces what sync daemons follow. This is not journaled, because the configuration file says it.
    pub fn set_sync_settings(&mut self, settings: SyncSettings, now: Instant) {
        if self.sync.configure(settings) {
            self.publish_soon(now);
        }
    }

    /// Opens and closes sockets as the desired state says. It waits until there are workers, because the kernel twins
    /// exist then.
    pub(super) fn follow_sync(&mut self, now: Instant) {
        if !self.workers.is_empty() {
            self.sync.follow(&self.desired.daemons, &self.desired.sysctls, now);
        }
    }

    /// Carries connections between workers and daemons. To be called every millisecond.
    pub fn tend_sync(&mut self, now: Instant) {
        self.follow_sync(now);
        self.sync.tend(&self.workers, &self.desired.sysctls);
    }

    /// Opens the sockets of a daemon before the daemon enters the desired state, so that the client gets an error if the
    /// machine refuses.
    pub(super) fn open_sync(&mut self, desired: &SyncDaemon) -> Result<(), ApiError> {
        let daemon = convert::core_sync_daemon(desired);
        let is_sound = daemon.check().is_ok() && !self.desired.has_mixed_families();
        if !is_sound || self.sync.status(daemon.role).is_some() {
            // Refused for that below.
            return Ok(());
        }
        let refused = |error: &OpenError| {
            let code = match error {
                OpenError::NoInterface { .. } => ErrorCode::NoSuchInterface,
                OpenError::Refused { .. } => ErrorCode::Refused,
            };
            ApiError::new(code, error.to_string()).at("interface")
        };
        self.sync
            .start(&daemon, &self.desired.sysctls)
            .map_err(|error| refused(&error))
    }

    pub(super) fn sync_roles(&self) -> SyncRoles {
        let has = |role| self.desired.daemons.iter().any(|daemon| daemon.role == role);
        SyncRoles {
            master: has(CoreRole::Master),
            backup: has(CoreRole::Backup),
        }
    }

    /// Running daemons as `GET_DAEMON` shows them.
    pub(super) fn daemon_rows(&self) -> Vec<DaemonRow> {
        let row = |status: SyncDaemonStatus| DaemonRow {
            state: match status.daemon.role {
                SyncRole::Master => STATE_MASTER,
                SyncRole::Backup => STATE_BACKUP,
            },
            interface: status.daemon.interface,
            sync_id: u32::from(status.daemon.sync_id),
            max_len: status.max_len_bytes,
            group: status.daemon.group,
            port: status.daemon.port,
            ttl: status.daemon.ttl,
        };
        self.sync_daemons().into_iter().map(row).collect()
    }

    /// `NEW_DAEMON`, in the kernel's order: families, interface, whether it runs, role.
    pub(super) fn start_daemon(&mut self, desired: &DaemonRequest) -> Result<(), Errno> {
        let given = |value: u16, default| if value == 0 { default } else { value };
        let role = role_of(desired.state);
        let daemon = SyncDaemon {
            // A role that there is not is refused last.
            role: role.unwrap_or(SyncRole::Master),
            interface: desired.interface.clone(),
            sync_id: u8::try_from(desired.sync_id).map_err(|_| Errno::Invalid)?,
            // The kernel shortens what does not fit.
            max_len_bytes: desired.max_len.min(daemon::MESSAGE_MAX),
            group: desired.group.unwrap_or(SyncDaemon::GROUP_DEFAULT),
            port: given(desired.port, SyncDaemon::PORT_DEFAULT),
            ttl: given(u16::from(desired.ttl), u16::from(SyncDaemon::TTL_DEFAULT)) as u8,
        };
        if self.desired.has_mixed_families() {
            return Err(Errno::Invalid);
        }
        if nix::net::if_::if_nametoindex(daemon.interface.as_str()).is_err() {
            return Err(Errno::NoDevice);
        }
        if role.is_none() {
            return Err(Errno::Invalid);
        }
        self.act(Action::StartSyncDaemon(daemon))
    }

    /// `DEL_DAEMON`.
    pub(super) fn stop_daemon(&mut self, state: u32) -> Result<(), Errno> {
        self.act(Action::StopSyncDaemon(role_of(state).ok_or(Errno::Invalid)?))
    }
}

const fn role_of(state: u32) -> Option<SyncRole> {
    match state {
        STATE_MASTER => Some(SyncRole::Master),
        STATE_BACKUP => Some(SyncRole::Backup),
        _ => None,
    }
}
