//! Everything that changes the desired state: one enum is the API and the journal.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    MarkRule, Server, ServerPatch, Service, ServiceId, ServicePatch, Settings, State, SyncDaemon, SyncRole,
    TimeoutsPatch,
};

/// A change to the desired state. It is refused or carried out as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Adds a service with its servers and local addresses. Refused when a service has this id.
    AddService(Service),
    /// Changes a service. Refused when there is no such service. Its connections stay.
    EditService {
        /// Which one.
        service: ServiceId,
        /// The change.
        patch: ServicePatch,
    },
    /// Deletes a service. Refused when there is no such service. Its connections lose their real servers.
    DeleteService(ServiceId),
    /// Deletes all services. Never refused.
    Flush,
    /// Adds a server. Refused when there is no such service, or when it has this server already.
    AddServer {
        /// The service that it belongs to.
        service: ServiceId,
        /// The new server.
        server: Server,
    },
    /// Changes a server. Refused when the service does not have it. Its connections stay.
    EditServer {
        /// The service that it belongs to.
        service: ServiceId,
        /// Which server.
        server: SocketAddr,
        /// The change.
        patch: ServerPatch,
    },
    /// Deletes a server. Refused when the service does not have it. Its packets are dropped until it is added again.
    DeleteServer {
        /// The service that it belongs to.
        service: ServiceId,
        /// Which server.
        server: SocketAddr,
    },
    /// Sets the pool. Refused when there is no such service. An empty list turns FULLNAT back into NAT.
    SetLocalAddresses {
        /// The service that it belongs to.
        service: ServiceId,
        /// The whole pool, in order.
        addresses: Vec<IpAddr>,
    },
    /// Sets timeouts. Refused when a value is out of range.
    SetTimeouts(TimeoutsPatch),
    /// Starts a sync daemon. Refused when one of this role runs, or when its interface does not exist.
    StartSyncDaemon(SyncDaemon),
    /// Stops a sync daemon. Refused when none of this role runs.
    StopSyncDaemon(SyncRole),
    /// Sets the named settings. Refused when a name does not exist or does not take its value. The others stay.
    SetSysctls(Settings),
    /// Sets all rules of the classifier. Refused when one of them is.
    SetMarks(Vec<MarkRule>),
    /// Adds a rule. Refused when another rule has the same conditions.
    AddMark {
        /// How many rules come before it; absent: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        position: Option<usize>,
        /// The new rule.
        rule: MarkRule,
    },
    /// Legal when there are more rules than that.
    DeleteMark {
        /// How many rules come before it.
        position: usize,
    },
    /// The desired state becomes exactly this one; what is equal is left alone.
    ReplaceState(State),
}
