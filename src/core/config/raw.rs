//! The file as serde reads it. Every key with a sensible default is optional, every value has its place in the text,
//! and only types are checked.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use toml::Spanned;

use super::service::RawService;

/// A value that may be left out.
pub(super) type Optional<T> = Option<Spanned<T>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    #[serde(default)]
    pub(super) eal: RawEal,
    #[serde(default)]
    pub(super) workers: RawWorkers,
    #[serde(default)]
    pub(super) connections: RawConnections,
    #[serde(default)]
    pub(super) timeouts: RawTimeouts,
    #[serde(default)]
    pub(super) api: RawApi,
    #[serde(default)]
    pub(super) metrics: RawMetrics,
    #[serde(default)]
    pub(super) journal: RawJournal,
    #[serde(default)]
    pub(super) ipvs: RawIpvs,
    #[serde(default)]
    pub(super) sysctl: BTreeMap<Spanned<String>, Spanned<toml::Value>>,
    #[serde(default)]
    pub(super) mark: Vec<RawMark>,
    #[serde(default)]
    pub(super) sync: RawSync,
    #[serde(default)]
    pub(super) sync_daemon: Vec<RawSyncDaemon>,
    #[serde(default)]
    pub(super) device: Vec<RawDevice>,
    #[serde(default)]
    pub(super) service: Vec<Spanned<RawService>>,
}

impl RawConfig {
    pub(super) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

/// Whether DPDK uses hugepages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hugepages {
    /// If the machine has any.
    Auto,
    /// The daemon does not start without them.
    Require,
    /// Ordinary memory: for tests and virtual devices.
    Never,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEal {
    pub(super) hugepages: Optional<Hugepages>,
    pub(super) memory_mb: Optional<u32>,
    pub(super) mbufs: Optional<u32>,
    pub(super) main_core: Optional<u16>,
    pub(super) worker_cores: Optional<Vec<Spanned<u16>>>,
    pub(super) extra_args: Optional<Vec<String>>,
}

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// It polls without pause, for the least latency.
    Spin,
    /// It polls with the processor's pause instruction, which leaves more to the sibling hyperthread.
    Pause,
    /// It sleeps between polls, for machines that do other things too.
    Sleep,
    /// It polls while frames arrive. Otherwise it sleeps until a device interrupts, or for times that grow.
    Adaptive,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWorkers {
    pub(super) count: Optional<u32>,
    pub(super) idle: Optional<Idle>,
    pub(super) idle_sleep_us: Optional<u32>,
    pub(super) standstill_sec: Optional<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConnections {
    pub(super) ipv4_max: Optional<u32>,
    pub(super) ipv6_max: Optional<u32>,
    pub(super) local_port_rest_sec: Optional<u32>,
    pub(super) keep: Optional<bool>,
    pub(super) state_dir: Optional<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTimeouts {
    pub(super) tcp_sec: Optional<u32>,
    pub(super) tcp_fin_sec: Optional<u32>,
    pub(super) udp_sec: Optional<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawApi {
    pub(super) socket: Optional<String>,
    pub(super) group: Optional<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMetrics {
    pub(super) listen: Optional<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJournal {
    pub(super) path: Optional<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawOverhead {
    Classic,
    Current,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIpvs {
    pub(super) overhead: Optional<RawOverhead>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDevice {
    pub(super) name: Spanned<String>,
    pub(super) dpdk: Spanned<String>,
    pub(super) mac: Optional<String>,
    pub(super) rx_queue_size: Optional<u16>,
    pub(super) tx_queue_size: Optional<u16>,
    pub(super) mtu: Optional<u16>,
    pub(super) promiscuous: Optional<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMark {
    pub(super) mark: Spanned<u32>,
    pub(super) protocol: Optional<String>,
    pub(super) source: Optional<String>,
    pub(super) destination: Optional<String>,
    pub(super) source_ports: Optional<Vec<Spanned<String>>>,
    pub(super) destination_ports: Optional<Vec<Spanned<String>>>,
    pub(super) device: Optional<String>,
    pub(super) divert: Optional<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawMode {
    Kernel,
    Every,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawAccept {
    Configured,
    Kernel,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSync {
    pub(super) mode: Optional<RawMode>,
    pub(super) accept: Optional<RawAccept>,
    pub(super) peers: Optional<Vec<Spanned<String>>>,
    pub(super) key_file: Optional<String>,
    pub(super) table_percent: Optional<u8>,
    pub(super) bulk_rate: Optional<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawRole {
    Master,
    Backup,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSyncDaemon {
    pub(super) role: Spanned<RawRole>,
    pub(super) interface: Spanned<String>,
    pub(super) sync_id: Optional<u16>,
    pub(super) max_len_bytes: Optional<u32>,
    pub(super) group: Optional<IpAddr>,
    pub(super) port: Optional<u16>,
    pub(super) ttl: Optional<u16>,
}
