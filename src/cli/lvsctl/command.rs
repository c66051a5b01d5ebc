//! The command line: readable flags, and ipvsadm's letters beside them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use lvs_api::{SOCKET_DEFAULT, ServiceId, SyncDaemon, SyncRole};

pub mod capture;
#[cfg(test)]
mod docs_tests;
pub mod mark;
pub mod server;
pub mod service;
pub mod top;
pub mod why;

use capture::Capture;
use mark::MarkCommand;
use server::ServerCommand;
use service::{LocalAddressCommand, ServiceCommand};
use top::Top;
use why::WhyArguments;

const AFTER_HELP: &str = "\
Virtual services are written PROTOCOL:ADDRESS:PORT, as in tcp:192.0.2.10:80 or udp:[2001:db8::10]:53;
those of packets with a mark fwm:MARK, as in fwm:66, or fwm6:66 for IPv6.

Exit codes:
  0  done
  1  refused by the daemon; nothing was changed
  2  wrong usage
  3  the daemon cannot be reached

Example:
  lvsctl service add tcp:192.0.2.10:80 --scheduler wrr
  lvsctl server add tcp:192.0.2.10:80 198.51.100.1:80 --mode nat --weight 3
  lvsctl list --stats";

/// Controls lvsd, the Linux Virtual Server director.
#[derive(Debug, Parser)]
#[command(name = "lvsctl", version, after_help = AFTER_HELP)]
pub struct LvsctlArguments {
    /// The daemon's admin socket.
    #[arg(long, global = true, env = "LVSD_SOCKET", default_value = SOCKET_DEFAULT, value_name = "PATH")]
    pub socket: PathBuf,
    /// Print what the daemon answers as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List virtual services and real servers as `ipvsadm -Ln` does.
    List(List),
    /// Add, edit or delete a virtual service.
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Add, edit or delete a real server of a virtual service.
    #[command(subcommand)]
    Server(ServerCommand),
    /// Set or clear the addresses from which FULLNAT reaches real servers.
    #[command(subcommand)]
    LocalAddress(LocalAddressCommand),
    /// List connections.
    Connections(Connections),
    /// Check the director and say what is wrong and where to look further.
    Status,
    /// Show what each polling core does.
    Workers,
    /// Show the NICs.
    Devices,
    /// Show how many packet buffers are in use.
    Buffers,
    /// Show why packets were dropped.
    Drops,
    /// Show everything balanced since start, or zero the counters.
    Stats {
        /// What to do with the counters.
        #[command(subcommand)]
        command: Option<StatsCommand>,
    },
    /// Show or set the timeouts of connections.
    Timeouts {
        /// New timeouts in seconds; 0 leaves one as it is.
        #[arg(long, num_args = 3, value_names = ["TCP", "TCPFIN", "UDP"])]
        set: Option<Vec<u32>>,
    },
    /// Show or set the kernel's IPVS settings (net.ipv4.vs.*).
    Sysctl {
        /// Only these: drop_entry. Or set them, all or none: drop_entry=3 sloppy_tcp=1.
        #[arg(value_name = "NAME[=VALUE]")]
        words: Vec<String>,
    },
    /// Watch workers, services, servers, drops and devices live.
    Top(Top),
    /// Record frames, each with its verdict, worker, connection and drop reason.
    Capture(Capture),
    /// Explain where a packet of a client would go and why, without sending it.
    Why(WhyArguments),
    /// Show, start or stop sync daemons, by which directors replicate connections to each other.
    Sync {
        /// What to do. Without it lvsctl lists them as `ipvsadm -L --daemon` does.
        #[command(subcommand)]
        command: Option<SyncCommand>,
    },
    /// Print a file of `/proc/net/ip_vs*` as the kernel would show it, or write them all below a folder.
    Proc(Proc),
    /// List, add or delete the rules that give packets the marks of fwmark services.
    #[command(subcommand)]
    Mark(MarkCommand),
    /// Save or replace the whole desired state.
    #[command(subcommand)]
    State(StateCommand),
    /// Delete every virtual service (`ipvsadm -C`).
    Flush,
    /// Read the configuration file again and apply what changed in it.
    Reload,
    /// Show the versions of lvsctl and of the daemon.
    Version,
    /// Print a shell's completion script.
    Completion {
        /// For which shell.
        shell: Shell,
    },
}

/// `lvsctl proc`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Proc {
    /// ip_vs, ip_vs_stats, ip_vs_stats_percpu, ip_vs_conn, ip_vs_conn_sync or ip_vs_app.
    pub file: Option<String>,
    /// Write FOLDER/net/ip_vs and the others: node_exporter reads them with --path.procfs=FOLDER.
    #[arg(long, value_name = "FOLDER")]
    pub to: Option<PathBuf>,
}

/// `lvsctl list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only this one.
    pub service: Option<ServiceId>,
    /// Connections, packets and bytes since start or the last zero.
    #[arg(long, conflicts_with_all = ["rate", "thresholds"])]
    pub stats: bool,
    /// The same per second.
    #[arg(long, conflicts_with = "thresholds")]
    pub rate: bool,
    /// Connection thresholds of real servers.
    #[arg(long)]
    pub thresholds: bool,
    /// Persistence templates of real servers.
    #[arg(long, conflicts_with_all = ["stats", "rate", "thresholds"])]
    pub persistent_conns: bool,
    /// How tunnelling servers are reached.
    #[arg(long, conflicts_with_all = ["stats", "rate", "thresholds", "persistent_conns"])]
    pub tunnel_info: bool,
    /// Whole numbers instead of K, M, G.
    #[arg(long)]
    pub exact: bool,
    /// The scheduler's order, newest first, instead of sorted.
    #[arg(long)]
    pub nosort: bool,
}

/// `lvsctl connections`.
#[derive(Debug, Args)]
pub struct Connections {
    /// Of this virtual service.
    #[arg(long)]
    pub service: Option<ServiceId>,
    /// From this address.
    #[arg(long)]
    pub client: Option<IpAddr>,
    /// To this real server.
    #[arg(long)]
    pub server: Option<SocketAddr>,
    /// In this state: ESTABLISHED, SYN_RECV, FIN_WAIT, UDP …
    #[arg(long)]
    pub state: Option<String>,
    /// No more than this many.
    #[arg(long)]
    pub limit: Option<u64>,
}

/// `lvsctl stats`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum StatsCommand {
    /// Set every counter and rate to 0 (`ipvsadm -Z`).
    Zero,
}

/// `lvsctl sync`.
#[derive(Debug, Subcommand)]
pub enum SyncCommand {
    /// Show what the daemons have sent, received and refused.
    Stats,
    /// Start a daemon (`ipvsadm --start-daemon`).
    Start {
        /// master sends, backup receives.
        role: SyncRole,
        /// Kernel interface of its messages: a device's twin or any other.
        #[arg(long, visible_alias = "mcast-interface", value_name = "NAME")]
        interface: String,
        /// Accept only messages with this number; a backup with 0 accepts all.
        #[arg(long, visible_alias = "syncid", default_value_t = 0)]
        sync_id: u8,
        /// Largest message in bytes; 0 for the largest that fits the link.
        #[arg(long, visible_alias = "sync-maxlen", default_value_t = 0, value_name = "BYTES")]
        max_len: u16,
        /// Multicast group.
        #[arg(long, visible_alias = "mcast-group", default_value_t = SyncDaemon::GROUP_DEFAULT)]
        group: IpAddr,
        /// UDP port.
        #[arg(long, visible_alias = "mcast-port", default_value_t = SyncDaemon::PORT_DEFAULT,
              value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
        /// TTL or hop limit of messages.
        #[arg(long, visible_alias = "mcast-ttl", default_value_t = SyncDaemon::TTL_DEFAULT,
              value_parser = clap::value_parser!(u8).range(1..))]
        ttl: u8,
    },
    /// Stop a daemon (`ipvsadm --stop-daemon`).
    Stop {
        /// Which.
        role: SyncRole,
    },
}

/// `lvsctl state`.
#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// Print the whole desired state as JSON.
    Get,
    /// Make the desired state exactly what a file says: all of it or, on any error, nothing.
    Apply {
        /// JSON as printed by `state get`; `-` reads standard input.
        file: PathBuf,
        /// Only show what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Give back the memory in which connections and statistics outlive lvsd: the next lvsd begins without them.
    Forget,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        LvsctlArguments::command().debug_assert();
    }
}
