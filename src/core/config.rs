//! What `lvsd.toml` says, as plain data.
//!
//! In: the text of the file. Out: a [`Config`] that is valid as far as this can be checked without the machine, or a
//! [`ConfigError`] that names file, line, key, cause and cure. No I/O.
//! `conf/lvsd.reference.toml` explains every key; a test compares it with the code.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::ipvs::client_address::ClientAddress;
use crate::ipvs::desired::{DesiredServices, ServerSpec, ServiceError, ServiceSpec};
use crate::ipvs::mark::MarkRules;
use crate::ipvs::protocol::Timeouts;
use crate::ipvs::scheduler::Overhead;
use crate::ipvs::sync::daemon::SyncDaemon;
use crate::ipvs::sync::policy::SyncPolicy;
use crate::ipvs::sysctl::Sysctls;
use crate::limits::SYNC_BULK_RATE_DEFAULT;

mod error;
mod marks;
mod raw;
mod service;
mod sync_daemons;
mod sysctls;
mod validate;

pub use error::{ConfigError, ConfigProblem};
pub use raw::{Hugepages, Idle};

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// DPDK's environment.
    pub eal: EalConfig,
    /// The polling cores.
    pub workers: WorkersConfig,
    /// Sizes of the connection tables.
    pub connections: ConnectionsConfig,
    /// Idle timeouts of connections.
    pub timeouts: Timeouts,
    /// The management interface.
    pub api: ApiConfig,
    /// Monitoring.
    pub metrics: MetricsConfig,
    /// Where the journal of the desired state lies.
    pub journal: JournalConfig,
    /// How schedulers weigh connections.
    pub overhead: Overhead,
    /// Which packets belong to which fwmark service.
    pub marks: MarkRules,
    /// The kernel's settings.
    pub sysctls: Sysctls,
    /// What sync daemons sync out and believe, whoever starts them.
    pub sync: SyncConfig,
    /// Sync daemons that run from the start, at most one of each role.
    pub sync_daemons: Vec<SyncDaemon>,
    /// NICs in the order of the file: [`crate::l3::DeviceId`] is the index.
    pub devices: Vec<DeviceConfig>,
    /// Services that exist from the start.
    pub services: Vec<ServiceConfig>,
}

/// `[eal]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EalConfig {
    /// Whether hugepages are used.
    pub hugepages: Hugepages,
    /// Memory that DPDK takes at start, in MiB; 0 for as much as it needs.
    pub memory_mb: u32,
    /// Packet buffers. The daemon raises a number that is smaller than what queues and rings can hold.
    pub mbufs: u32,
    /// The core of the management thread.
    pub main_core: u16,
    /// One core for each worker; empty: the cores that follow the main core.
    pub worker_cores: Vec<u16>,
    /// Further arguments for `rte_eal_init`.
    pub extra_args: Vec<String>,
}

impl Default for EalConfig {
    fn default() -> Self {
        Self {
            hugepages: Hugepages::Auto,
            memory_mb: 0,
            mbufs: 0,
            main_core: 0,
            worker_cores: Vec::new(),
            extra_args: Vec::new(),
        }
    }
}

/// `[workers]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkersConfig {
    /// 1 to [`crate::limits::WORKERS_MAX`].
    pub count: u8,
    /// What a worker does when there is nothing to do.
    pub idle: Idle,
    /// How long it sleeps with [`Idle::Sleep`], or sleeps at most with [`Idle::Adaptive`], in microseconds.
    pub idle_sleep_us: u32,
    /// How long it may make no pass before it stands still, in seconds.
    pub standstill_sec: u32,
}

impl Default for WorkersConfig {
    fn default() -> Self {
        Self {
            count: 1,
            idle: Idle::Pause,
            idle_sleep_us: 50,
            standstill_sec: 5,
        }
    }
}

/// `[connections]`: capacities over all workers together and what memory they need, fixed at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionsConfig {
    /// IPv4 connections.
    pub ipv4_max: u32,
    /// IPv6 connections.
    pub ipv6_max: u32,
    /// How long a local port of FULLNAT rests before a connection of another client gets it, in seconds; 0 for not at
    /// all.
    pub local_port_rest_sec: u32,
    /// Whether connections outlive the process.
    pub keep: bool,
    /// Directory on a tmpfs that has what outlives it.
    pub state_dir: PathBuf,
}

impl Default for ConnectionsConfig {
    fn default() -> Self {
        Self {
            ipv4_max: 262_144,
            ipv6_max: 65_536,
            local_port_rest_sec: 60,
            keep: true,
            state_dir: "/dev/shm/lvsd".into(),
        }
    }
}

/// `[api]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// Group that may use it; empty for the daemon's own.
    pub group: String,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            socket: "/run/lvsd/api.sock".into(),
            group: String::new(),
        }
    }
}

/// `[metrics]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Where `/metrics` is served by TCP; `None` for the admin socket only.
    pub listen: Option<SocketAddr>,
}

/// `[journal]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalConfig {
    /// Path of the file.
    pub path: PathBuf,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            path: "/var/lib/lvsd/journal".into(),
        }
    }
}

/// `[sync]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncConfig {
    /// What workers need to know of it.
    pub policy: SyncPolicy,
    /// Connections a second that a bulk sync sends at most; 0 for no bulk sync.
    pub bulk_rate: u32,
    /// The directors whose messages are taken; empty for all.
    pub peers: Vec<IpAddr>,
    /// The file with the key of messages; `None` for messages in the kernel's form, which nobody signs.
    pub key_file: Option<PathBuf>,
}

impl Default for SyncConfig {
    fn default() -> Self {
        Self {
            policy: SyncPolicy::default(),
            bulk_rate: SYNC_BULK_RATE_DEFAULT,
            peers: Vec::new(),
            key_file: None,
        }
    }
}

/// One `[[device]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Name of the kernel twin interface.
    pub name: String,
    /// PCI address, or a DPDK virtual device with its arguments.
    pub dpdk: String,
    /// MAC address of NIC and twin; `None` for the NIC's own.
    pub mac: Option<[u8; 6]>,
    /// Descriptors of a receive queue.
    pub rx_queue_size: u16,
    /// Descriptors of a transmit queue.
    pub tx_queue_size: u16,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Whether frames to other MAC addresses are received.
    pub promiscuous: bool,
}

impl DeviceConfig {
    /// A device with only the required keys.
    pub fn new(name: &str, dpdk: &str) -> Self {
        Self {
            name: name.into(),
            dpdk: dpdk.into(),
            mac: None,
            rx_queue_size: 1_024,
            tx_queue_size: 1_024,
            mtu: 1_500,
            promiscuous: false,
        }
    }
}

/// One `[[service]]` with its real servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Key, scheduler and its options.
    pub spec: ServiceSpec,
    /// Its local-address pool; empty for none.
    pub local_addresses: Vec<IpAddr>,
    /// In the order of the file, which is the order of addition.
    pub servers: Vec<ServerSpec>,
}

impl Config {
    /// The configuration that `text` describes; `file_name` is only for messages.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, ConfigError> {
        let raw = raw::RawConfig::parse(text).map_err(|error| ConfigError::of_toml(&error, text, file_name))?;
        validate::validate(raw).map_err(|invalid| invalid.located(text, file_name))
    }

    /// The services of the file, as the management core starts with them.
    pub fn desired_services(&self) -> Result<DesiredServices, ServiceError> {
        let mut desired = DesiredServices::new(self.overhead);
        for service in &self.services {
            service.add_to(&mut desired)?;
        }
        Ok(desired)
    }
}

impl ServiceConfig {
    /// Adds the service, its pool and its servers. On an error, the parts before it stay.
    pub fn add_to(&self, desired: &mut DesiredServices) -> Result<(), ServiceError> {
        // What hides the client needs the pool, and the pool a service.
        desired.add_service(ServiceSpec {
            client_address: ClientAddress::None,
            ..self.spec
        })?;
        desired.set_local_addresses(&self.spec.key, self.local_addresses.clone())?;
        if self.spec.client_address != ClientAddress::None {
            desired.edit_service(self.spec)?;
        }
        for server in &self.servers {
            desired.add_server(&self.spec.key, *server)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
