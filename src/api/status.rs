//! What the daemon reports: never sent by a client.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{Protocol, Server, ServiceId, SyncRole};

/// `GET /v1/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// Version of the API: `v1`.
    pub api: String,
    /// Version of the daemon.
    pub lvsd: String,
    /// Revision it was built from.
    pub revision: String,
    /// Its process id.
    pub pid: u32,
    /// IPv4 connections that fit its table, all workers together.
    pub conns4_max: u64,
    /// IPv6 connections that fit its table, all workers together.
    pub conns6_max: u64,
}

/// Cumulative counters; bytes are of IP packets (L3), as in ipvsadm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets from real servers (NAT and FULLNAT only).
    pub out_packets: u64,
    /// Bytes from clients.
    pub in_bytes: u64,
    /// Bytes from real servers (NAT and FULLNAT only).
    pub out_bytes: u64,
}

/// Rates of the kernel's estimator: smoothed, updated every 2 s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rates {
    /// Connections per second.
    pub connections_cps: u64,
    /// Packets per second from clients.
    pub in_pps: u64,
    /// Packets per second from real servers.
    pub out_pps: u64,
    /// Bytes per second from clients.
    pub in_bytes_per_sec: u64,
    /// Bytes per second from real servers.
    pub out_bytes_per_sec: u64,
}

/// `GET /v1/stats`: everything the director has balanced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// Counts since the start or the last zeroing.
    pub totals: Totals,
    /// Present rates.
    pub rates: Rates,
}

/// A real server as it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerStatus {
    /// As configured.
    pub config: Server,
    /// How the director reaches it: `Masq`, `FullNat`, `Tunnel`, `Route` or `Local`.
    pub forward: String,
    /// Connections in an active state (TCP `ESTABLISHED`, `SYN_*`).
    pub active_conns: u32,
    /// All its other connections.
    pub inactive_conns: u32,
    /// Persistence templates.
    pub persistent_conns: u32,
    /// Counts since the start or the last zeroing.
    pub totals: Totals,
    /// Present rates.
    pub rates: Rates,
}

/// `GET /v1/devices`: a NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Device {
    /// Its name in the configuration.
    pub name: String,
    /// Its MAC address.
    pub mac: String,
    /// The DPDK driver that runs it.
    pub driver: String,
    /// The kernel interface that is its twin, by its present name; empty while there is none.
    pub twin: String,
    /// Whether the link is up.
    pub link_up: bool,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Receive queues it has.
    #[serde(default)]
    pub rx_queues: u16,
    /// How it spreads flows over them.
    #[serde(default)]
    pub rss: RssState,
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames the NIC dropped because no worker took them in time.
    pub rx_missed: u64,
    /// Frames the NIC received with an error.
    pub rx_errors: u64,
    /// Frames the NIC could not send.
    pub tx_errors: u64,
    /// Receptions that found no buffer.
    pub rx_no_mbuf: u64,
    /// Frames that the kernel took from its twin.
    pub punt_packets: u64,
    /// Frames that the kernel sent through its twin.
    pub inject_packets: u64,
}

/// How a device spreads flows over its receive queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RssState {
    /// It has one queue.
    #[default]
    OneQueue,
    /// It spreads flows by RSS with the director's key: each worker gets the flows that it owns.
    Rss,
    /// It spreads flows by rules of its own: workers hand off the flows that they do not own.
    Own,
    /// It claims RSS but brings flows to the wrong workers, which hand them off.
    Mismatch,
    /// It has several queues, but all flows come by one: its worker hands off what it does not own.
    None,
}

impl RssState {
    /// As the API writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OneQueue => "one-queue",
            Self::Rss => "rss",
            Self::Own => "own",
            Self::Mismatch => "mismatch",
            Self::None => "none",
        }
    }

    /// Whether flows come as the device claims.
    pub const fn is_as_claimed(self) -> bool {
        !matches!(self, Self::Mismatch | Self::None)
    }
}

/// `GET /v1/buffers`: what frames are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Buffers {
    /// All there are.
    pub buffers: u32,
    /// Buffers in receive and transmit queues, in rings between threads, or in a worker's hands.
    pub in_use: u32,
    /// Free.
    pub available: u32,
}

/// `GET /v1/journal`: whether the file that survives a restart holds every change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JournalStatus {
    /// The file.
    pub path: String,
    /// Whether it lacks changes, because it could not be written. A restart loses them.
    pub stale: bool,
    /// What the system said when it could not be written; empty while it is not stale.
    pub reason: String,
    /// Changes that are in memory only.
    pub changes_in_memory: u64,
}

/// `GET /v1/restart`: what outlives this lvsd, what it took over from the one before, and how long its start took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestartStatus {
    /// The directory in which connections and statistics outlive lvsd; absent when they do not.
    pub kept_in: Option<String>,
    /// What became of the connections of the lvsd before; absent when it left none.
    pub taken_over: Option<TakenOver>,
    /// Stages of the start, in their order. Their sum is the gap in which nothing was forwarded.
    pub stages: Vec<StartStage>,
}

/// What became of the connections of the lvsd before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TakenOver {
    /// They go on.
    pub connections: u64,
    /// Lost because their records were damaged.
    pub damaged: u64,
    /// Lost because nobody knows their server.
    pub without_server: u64,
    /// Lost because this lvsd has smaller tables: those that had been quiet for longest.
    pub without_space: u64,
}

/// A stage of the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StartStage {
    /// What was done.
    pub stage: String,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

/// `GET /v1/workers`: a polling core.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    /// Its index.
    pub worker: u8,
    /// The core it runs on; absent when not pinned.
    pub lcore: Option<u32>,
    /// Frames taken from devices.
    pub rx_packets: u64,
    /// Bytes taken from devices.
    pub rx_bytes: u64,
    /// Frames given to devices.
    pub tx_packets: u64,
    /// Bytes given to devices.
    pub tx_bytes: u64,
    /// Frames on their way to the kernel twin.
    pub punt_packets: u64,
    /// Frames handed to other workers.
    pub handoff_out_packets: u64,
    /// Frames dropped, for any reason.
    pub drop_packets: u64,
    /// Frames whose content is kept, to reassemble a datagram or to send it in fragments.
    pub consumed_packets: u64,
    /// Frames that the director generated: reassembled datagrams and fragments.
    pub generated_packets: u64,
    /// Packets to real servers that carried the client's address.
    #[serde(default)]
    pub client_address_packets: u64,
    /// Packets that should have carried it but had no space for it.
    #[serde(default)]
    pub client_address_no_room_packets: u64,
    /// FULLNAT connections whose local port had not rested: they got an initial sequence number of the director's.
    #[serde(default)]
    pub local_ports_unrested: u64,
    /// Frames that wait now until the kernel has found a neighbour.
    pub held_packets: u64,
    /// IPv4 connections now.
    pub conns4: u64,
    /// IPv6 connections now.
    pub conns6: u64,
    /// Passes of its loop since the start, whatever they brought.
    #[serde(default)]
    pub passes: u64,
    /// Milliseconds for which it has made no pass, once they are more than `workers.standstill_sec`; else 0.
    #[serde(default)]
    pub standstill_ms: u64,
    /// Polls that brought frames.
    pub bursts: u64,
    /// Polls that brought none.
    pub idle_polls: u64,
    /// Time-stamp cycles spent with frames in hand.
    pub busy_cycles: u64,
    /// Time-stamp cycles spent polling in vain.
    pub idle_cycles: u64,
    /// Sleeps while nothing was to do.
    #[serde(default)]
    pub sleeps: u64,
    /// Time-stamp cycles asleep: a part of the idle ones.
    #[serde(default)]
    pub sleep_cycles: u64,
    /// Sleeps that a device ended by its receive interrupt.
    #[serde(default)]
    pub interrupts: u64,
    /// Time-stamp cycles of a second.
    pub cycles_per_sec: u64,
    /// New connections for which a scheduler was asked.
    pub scheduler_picks: u64,
    /// Longest pass of its loop since the start, in microseconds: how late a frame was looked at, at worst. Time for
    /// which the system took the core away counts.
    pub longest_pass_us: u64,
    /// Frames taken from other workers.
    pub handoff_in_packets: u64,
    /// Connections whose time ran out.
    pub conns_expired: u64,
    /// ICMP errors sent.
    pub icmp_errors: u64,
    /// TCP resets sent because a client's segment belongs to no connection.
    #[serde(default)]
    pub resets_unknown: u64,
    /// TCP resets sent because a connection's real server was deleted.
    #[serde(default)]
    pub resets_server_gone: u64,
    /// How long frames stayed, since start.
    pub latency: Latency,
}

/// From the poll that took frames to the end of their transmission, of one in 61 passes that moved frames;
/// each number at most 12.5 % too large.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Latency {
    /// Passes that were timed.
    pub samples: u64,
    /// Nanoseconds that half of them did not exceed; 0 without samples.
    pub p50_ns: u64,
    /// Nanoseconds that 99 % did not exceed.
    pub p99_ns: u64,
    /// Nanoseconds that 99.9 % did not exceed.
    pub p999_ns: u64,
}

/// `GET /v1/drops`: one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DropCount {
    /// Its name, as in the metrics.
    pub reason: String,
    /// Frames since start, all workers and the way to the kernel together.
    pub packets: u64,
    /// What it means.
    #[serde(default)]
    pub meaning: String,
}

/// `GET /v1/connections`: which ones. All that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConnFilter {
    /// Only connections of this virtual service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub service: Option<ServiceId>,
    /// Only connections from this client address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub client: Option<IpAddr>,
    /// Only connections to this real server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub server: Option<SocketAddr>,
    /// Only connections in this state, as ipvsadm names it: `ESTABLISHED`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// At most this many connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// One line of `GET /v1/connections`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConnRecord {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// As ipvsadm names it: `ESTABLISHED`.
    pub state: String,
    /// The client.
    #[schema(value_type = String)]
    pub client: SocketAddr,
    /// The virtual service's end.
    #[schema(value_type = String)]
    pub virt: SocketAddr,
    /// The director's end towards the server (FULLNAT); the client's otherwise.
    #[schema(value_type = String)]
    pub local: SocketAddr,
    /// The real server's end.
    #[schema(value_type = String)]
    pub real: SocketAddr,
    /// `Masq`, `FullNat`, `Tunnel`, `Route` or `Local`.
    pub forward: String,
    /// Milliseconds until it is forgotten if nothing more arrives.
    pub expires_in_ms: u32,
    /// Packets from the client.
    pub in_packets: u32,
    /// The worker that owns it.
    pub worker: u8,
}

/// A real server of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerOfService {
    /// The service that it belongs to.
    #[schema(value_type = String)]
    pub service: ServiceId,
    /// Which server.
    #[schema(value_type = String)]
    pub server: SocketAddr,
}

/// What a replaced state changed, or would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateDiff {
    /// Whether it was only computed.
    pub dry_run: bool,
    /// Services that are new.
    #[schema(value_type = Vec<String>)]
    pub services_added: Vec<ServiceId>,
    /// Services whose own settings differ.
    #[schema(value_type = Vec<String>)]
    pub services_changed: Vec<ServiceId>,
    /// Services that go.
    #[schema(value_type = Vec<String>)]
    pub services_removed: Vec<ServiceId>,
    /// Servers that are new, those of new services included.
    pub servers_added: Vec<ServerOfService>,
    /// Servers whose settings differ.
    pub servers_changed: Vec<ServerOfService>,
    /// Servers that go; those of removed services are not listed.
    pub servers_removed: Vec<ServerOfService>,
    /// Services whose local-address pool differs.
    #[schema(value_type = Vec<String>)]
    pub local_addresses_changed: Vec<ServiceId>,
    /// Whether connection timeouts differ.
    pub timeouts_changed: bool,
    /// Sync daemons that start, stop or start anew.
    #[serde(default)]
    pub sync_daemons_changed: Vec<SyncRole>,
    /// Kernel settings that differ.
    #[serde(default)]
    pub sysctls_changed: Vec<String>,
    /// Whether the classifier's rules differ.
    #[serde(default)]
    pub marks_changed: bool,
}

impl StateDiff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self
            == Self {
                dry_run: self.dry_run,
                ..Self::default()
            }
    }
}

/// `POST /v1/reload`: what the configuration file brought.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReloadReport {
    /// What changed.
    pub applied: StateDiff,
    /// Edits of the file that concern what was removed at run time: left out.
    pub left_out: Vec<String>,
    /// Keys that changed in the file but need a restart.
    pub restart_needed: Vec<String>,
}
