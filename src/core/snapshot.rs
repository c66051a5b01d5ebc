//! What workers read: an immutable picture of services and network, which is replaced as a whole.
//!
//! The management core builds a new one and sends it to every worker's mailbox. It drops the old one when every worker
//! has returned its reference between two bursts.

use std::sync::Arc;

use crate::ipvs::mark::MarkRules;
use crate::ipvs::protocol::Timeouts;
use crate::ipvs::service_table::ServiceTable;
use crate::ipvs::sync::SyncRoles;
use crate::ipvs::sync::policy::SyncPolicy;
use crate::ipvs::sysctl::Sysctls;
use crate::l3::L3;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Services and their real servers.
    pub services: Arc<ServiceTable>,
    /// Interfaces, routes, neighbours and local addresses, mirrored from the kernel.
    pub l3: Arc<L3>,
    /// Connection timeouts.
    pub timeouts: Timeouts,
    /// Which packets belong to which fwmark service.
    pub marks: Arc<MarkRules>,
    /// The kernel's settings.
    pub sysctls: Sysctls,
    /// Which sync daemons run.
    pub sync: SyncRoles,
    /// What they sync out, and what they believe.
    pub sync_policy: SyncPolicy,
    /// How many workers share the traffic: 1 up to [`crate::limits::WORKERS_MAX`].
    pub workers_count: u8,
    /// Grows with every snapshot of a director. [`crate::counters::WorkerCounters::generation`] shows which one a
    /// worker uses.
    pub generation: u64,
}

impl Snapshot {
    /// Whether clients' packets go to the kernel, even those of known connections (`backup_only`).
    #[inline]
    pub const fn leaves_clients_alone(&self) -> bool {
        self.sync.backup && self.sysctls.backup_only
    }

    /// Whether clients may get resets. Not while this director only imports connections: another one serves them, and
    /// some may still be on their way here.
    #[inline]
    pub const fn may_reset(&self) -> bool {
        !self.sync.backup || self.sync.master
    }
}
