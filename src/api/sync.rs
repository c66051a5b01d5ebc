//! Sync daemons: directors that sync their connections to each other.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The direction in which connections are synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SyncRole {
    /// Sends.
    Master,
    /// Receives.
    Backup,
}

impl SyncRole {
    /// Both, in the order in which they are listed.
    pub const ALL: [Self; 2] = [Self::Master, Self::Backup];

    /// As `ipvsadm --start-daemon` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Backup => "backup",
        }
    }
}

impl fmt::Display for SyncRole {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for SyncRole {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or("give master or backup")
    }
}

const fn group_default() -> IpAddr {
    SyncDaemon::GROUP_DEFAULT
}

const fn port_default() -> u16 {
    SyncDaemon::PORT_DEFAULT
}

const fn ttl_default() -> u8 {
    SyncDaemon::TTL_DEFAULT
}

/// A sync daemon (`ipvsadm --start-daemon`); at most one of each role runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncDaemon {
    /// Which way.
    pub role: SyncRole,
    /// Kernel interface that messages leave or arrive by: a device's twin, or any other.
    #[schema(example = "lan")]
    pub interface: String,
    /// Only messages of this number are taken; a backup with 0 takes all. Default: 0.
    #[serde(default)]
    pub sync_id: u8,
    /// Bytes of a message at most; 0 for what fits the link. Default: 0.
    #[serde(default)]
    pub max_len_bytes: u16,
    /// Multicast group. Default: 224.0.0.81.
    #[serde(default = "group_default")]
    #[schema(value_type = String)]
    pub group: IpAddr,
    /// UDP port. Default: 8848.
    #[serde(default = "port_default")]
    pub port: u16,
    /// TTL or hop limit of messages. Default: 1.
    #[serde(default = "ttl_default")]
    pub ttl: u8,
}

impl SyncDaemon {
    /// The kernel's.
    pub const GROUP_DEFAULT: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 81));
    /// The kernel's.
    pub const PORT_DEFAULT: u16 = 8_848;
    /// The kernel's.
    pub const TTL_DEFAULT: u8 = 1;
}

/// `GET /v1/sync-daemons`: a daemon as it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SyncDaemonStatus {
    /// As configured.
    pub daemon: SyncDaemon,
    /// Bytes of a message at most, on this link.
    pub max_len_bytes: u16,
    /// Whether its sockets are open; otherwise they are tried again every second (the interface is not there).
    pub running: bool,
    /// Messages sent or received, malformed ones included.
    pub messages: u64,
    /// Connections in them.
    pub connections: u64,
    /// Whether messages are signed, and only signed ones are taken (`sync.key_file`).
    pub authenticated: bool,
    /// Of a backup: imported connections in the connection tables now.
    pub imported_connections: u64,
    /// Whether backups have all connections.
    pub bulk: SyncBulk,
    /// How many messages, entries or connections were not synced out or not imported, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// How bulk sync stands: a backup that lacks connections asks the master for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SyncBulkState {
    /// `sync.bulk_rate` is 0.
    Off,
    /// A master that nobody asked; a backup that has heard of no lvsd.
    None,
    /// A backup lacks connections, and the master has not begun. A master begins when earlier asks are long enough ago.
    Waiting,
    /// The master sends all its connections.
    Running,
    /// A master has sent all; a backup has heard all, and every message since.
    Complete,
}

impl SyncBulkState {
    /// As listings show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::None => "none",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Complete => "complete",
        }
    }
}

/// Bulk sync of a daemon since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SyncBulk {
    /// How it stands.
    pub state: SyncBulkState,
    /// How often all connections were sent; of a backup: heard.
    pub runs: u64,
    /// Connections sent, the run under way included; of a backup: those of its whole runs.
    pub connections: u64,
    /// How far the run under way is: 0 to 100.
    pub progress_percent: u8,
}
