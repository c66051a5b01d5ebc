//! Everything that changes the desired state: one enum is the API and the journal.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    MarkRule, Server, ServerPatch, Service, ServiceId, ServicePatch, Settings, State, SyncDaemon, SyncRole,
    TimeoutsPatch,
};

/// A change to the desired state. Refused as a whole or carried out as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Legal when no service has this id; its servers and local addresses come along.
    AddService(Service),
    /// Legal when the service exists; connections stay.
    EditService {
        /// Which one.
        service: ServiceId,
        /// What becomes of it.
        patch: ServicePatch,
    },
    /// Legal when the service exists. Its connections lose their real servers.
    DeleteService(ServiceId),
    /// Always legal: no service is left.
    Flush,
    /// Legal when the service exists and has no such server.
    AddServer {
        /// Of which service.
        service: ServiceId,
        /// The new server.
        server: Server,
    },
    /// Legal when the service has this server; connections stay.
    EditServer {
        /// Of which service.
        service: ServiceId,
        /// Which server.
        server: SocketAddr,
        /// What becomes of it.
        patch: ServerPatch,
    },
    /// Legal when the service has this server. Its packets are dropped until it is added again.
    DeleteServer {
        /// Of which service.
        service: ServiceId,
        /// Which server.
        server: SocketAddr,
    },
    /// Legal when the service exists; an empty list turns FULLNAT back into NAT.
    SetLocalAddresses {
        /// Of which service.
        service: ServiceId,
        /// The whole pool, in order.
        addresses: Vec<IpAddr>,
    },
    /// Legal when every value is in range.
    SetTimeouts(TimeoutsPatch),
    /// Legal when no daemon of this role runs and its interface is there.
    StartSyncDaemon(SyncDaemon),
    /// Legal when a daemon of this role runs.
    StopSyncDaemon(SyncRole),
    /// Legal when every name exists and takes its value; settings that are not named stay.
    SetSysctls(Settings),
    /// Legal when every rule is: these are the classifier's rules then.
    SetMarks(Vec<MarkRule>),
    /// Legal when no other rule has the same conditions.
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
