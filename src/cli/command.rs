//! The command line: readable flags, and ipvsadm's letters beside them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use lvs_api::{
    GueChecksum, Mode, Netmask, Persistence, Protocol, SOCKET_DEFAULT, ServerPatch, ServiceId, ServicePatch,
    SyncDaemon, SyncRole, Tunnel,
};

pub mod capture;
#[cfg(test)]
mod docs_tests;
pub mod mark;
pub mod top;
pub mod why;

use capture::Capture;
use mark::MarkCommand;
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
pub struct Arguments {
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
    /// Say what is right and wrong with the director, and where to look further.
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
    /// Record frames and what became of each: verdict, worker, connection, drop reason.
    Capture(Capture),
    /// Explain where a packet of a client would go and why, without sending it.
    Why(WhyArguments),
    /// Show, start or stop sync daemons: directors that tell each other of their connections.
    Sync {
        /// What to do; without it they are listed as `ipvsadm -L --daemon` does.
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

/// Names a virtual service.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct ServiceName {
    /// The virtual service: tcp:192.0.2.10:80.
    service: Option<ServiceId>,
    /// The virtual service, TCP: 192.0.2.10:80.
    #[arg(short = 't', long, value_name = "VIP:PORT")]
    tcp_service: Option<SocketAddr>,
    /// The virtual service, UDP: 192.0.2.10:53.
    #[arg(short = 'u', long, value_name = "VIP:PORT")]
    udp_service: Option<SocketAddr>,
    /// The virtual service of packets with this mark, IPv4: 66; write fwm6:66 for IPv6.
    #[arg(short = 'f', long, value_name = "MARK", value_parser = clap::value_parser!(u32).range(1..))]
    fwmark_service: Option<u32>,
}

impl ServiceName {
    /// The service that was named.
    pub fn id(&self) -> ServiceId {
        let of = |protocol, end: SocketAddr| ServiceId::Address {
            protocol,
            addr: end.ip(),
            port: end.port(),
        };
        let tcp = self.tcp_service.map(|end| of(Protocol::Tcp, end));
        let udp = self.udp_service.map(|end| of(Protocol::Udp, end));
        let fwmark = self
            .fwmark_service
            .map(|mark| ServiceId::Fwmark { mark, is_ipv6: false });
        let letters = tcp.or(udp).or(fwmark);
        self.service.or(letters).expect("clap requires one of the four")
    }
}

/// A real server; without a port it has the service's.
#[derive(Clone, Copy, Debug)]
pub struct ServerEnd {
    addr: IpAddr,
    port: Option<u16>,
}

impl FromStr for ServerEnd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(addr) = bare.parse() {
            return Ok(Self { addr, port: None });
        }
        let end: SocketAddr = text.parse().map_err(
            |_| "write ADDRESS:PORT, as in 198.51.100.1:80 or [2001:db8::1]:80; without :PORT it is the service's",
        )?;
        Ok(Self {
            addr: end.ip(),
            port: Some(end.port()),
        })
    }
}

/// Names a real server of a virtual service.
#[derive(Debug, Args)]
pub struct ServerName {
    /// Of which service.
    #[command(flatten)]
    pub service: ServiceName,
    #[command(flatten)]
    end: ServerEndName,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ServerEndName {
    /// The real server: 198.51.100.1:80.
    server: Option<ServerEnd>,
    /// The real server, ipvsadm's way.
    #[arg(short = 'r', long, value_name = "ADDRESS:PORT")]
    real_server: Option<ServerEnd>,
}

impl ServerName {
    /// The server that was named.
    pub fn end(&self) -> SocketAddr {
        let end = self
            .end
            .server
            .or(self.end.real_server)
            .expect("clap requires one of the two");
        SocketAddr::new(end.addr, end.port.unwrap_or(self.service.id().port()))
    }
}

/// How a service is balanced.
#[derive(Debug, Args)]
pub struct ServiceOptions {
    #[command(flatten)]
    patch: ServicePatch,
    /// Clients stick to their real servers for so many seconds; without a number 360.
    #[arg(short = 'p', long, value_name = "SEC", num_args = 0..=1, default_missing_value = "360")]
    persistent: Option<u32>,
    /// Clients of one network stick together: 255.255.255.0 or, for IPv6, 64; without it each is on its own.
    #[arg(short = 'M', long, value_name = "MASK", requires = "persistent")]
    netmask: Option<Netmask>,
    /// Clients no longer stick to their real servers.
    #[arg(long, conflicts_with = "persistent")]
    not_persistent: bool,
    /// Every UDP datagram is scheduled on its own.
    #[arg(short = 'o', long = "one-packet")]
    one_packet_on: bool,
    /// UDP datagrams of one client belong together again.
    #[arg(long = "not-one-packet", conflicts_with = "one_packet_on")]
    one_packet_off: bool,
}

impl ServiceOptions {
    /// The options that are given.
    pub fn patch(self) -> ServicePatch {
        let netmask = self.netmask.and_then(Netmask::narrowed);
        let begun = self
            .persistent
            .map(|timeout_sec| Some(Persistence { timeout_sec, netmask }));
        ServicePatch {
            persistence: begun.or(self.not_persistent.then_some(None)),
            one_packet: (self.one_packet_on || self.one_packet_off).then_some(self.one_packet_on),
            ..self.patch
        }
    }
}

/// How tunnelling wraps packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TunnelType {
    Ipip,
    Gre,
    Gue,
}

/// What protects a wrapped packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TunnelChecksum {
    No,
    Full,
    Remote,
}

/// How a real server is used.
#[derive(Debug, Args)]
pub struct ServerOptions {
    /// How it is reached; default for a new server: dr.
    #[arg(long, value_parser = parse_mode, value_name = "nat|tunnel|dr", conflicts_with_all = ["masquerading", "ipip", "gatewaying"])]
    mode: Option<Mode>,
    /// Like --mode nat.
    #[arg(short = 'm', long, conflicts_with_all = ["ipip", "gatewaying"])]
    masquerading: bool,
    /// Like --mode tunnel.
    #[arg(short = 'i', long, conflicts_with = "gatewaying")]
    ipip: bool,
    /// Like --mode dr.
    #[arg(short = 'g', long)]
    gatewaying: bool,
    /// How packets are wrapped; it makes the mode tunnel.
    #[arg(long, visible_alias = "tun-type", value_name = "ipip|gre|gue", conflicts_with_all = ["masquerading", "gatewaying"])]
    tunnel_type: Option<TunnelType>,
    /// UDP port of GUE.
    #[arg(long, visible_alias = "tun-port", value_name = "PORT", requires = "tunnel_type",
          required_if_eq("tunnel_type", "gue"), value_parser = clap::value_parser!(u16).range(1..))]
    tunnel_port: Option<u16>,
    /// Checksum of GRE (no, full) or GUE (no, full, remote); without a word full. Default: no.
    #[arg(long, value_name = "no|full|remote", requires = "tunnel_type", num_args = 0..=1,
          default_missing_value = "full")]
    tunnel_checksum: Option<TunnelChecksum>,
    #[command(flatten)]
    patch: ServerPatch,
}

impl ServerOptions {
    /// The options that are given.
    ///
    /// # Errors
    /// What does not go together.
    pub fn patch(self) -> Result<ServerPatch, String> {
        Ok(ServerPatch {
            mode: self.mode(),
            tunnel: self.tunnel()?,
            ..self.patch
        })
    }

    /// The mode, however it was written.
    fn mode(&self) -> Option<Mode> {
        let letters = [
            (self.masquerading, Mode::Nat),
            (self.ipip, Mode::Tunnel),
            (self.gatewaying, Mode::Dr),
        ];
        self.mode
            .or_else(|| letters.iter().find(|(given, _)| *given).map(|(_, mode)| *mode))
            .or(self.tunnel_type.map(|_| Mode::Tunnel))
    }

    /// The tunnel; `None` when nothing is said about it.
    fn tunnel(&self) -> Result<Option<Tunnel>, String> {
        let Some(kind) = self.tunnel_type else {
            return Ok(None);
        };
        let (port, checksum) = (self.tunnel_port, self.tunnel_checksum);
        if self.mode.is_some_and(|mode| mode != Mode::Tunnel) {
            return Err("--tunnel-type is for --mode tunnel".to_owned());
        }
        match (kind, port, checksum.unwrap_or(TunnelChecksum::No)) {
            (TunnelType::Ipip, None, TunnelChecksum::No) => Ok(Some(Tunnel::Ipip)),
            (TunnelType::Ipip, ..) => Err("ipip has neither port nor checksum; use gre or gue".to_owned()),
            (TunnelType::Gre, None, TunnelChecksum::No) => Ok(Some(Tunnel::Gre { checksum: false })),
            (TunnelType::Gre, None, TunnelChecksum::Full) => Ok(Some(Tunnel::Gre { checksum: true })),
            (TunnelType::Gre, ..) => Err("gre has no port, and its checksum is no or full".to_owned()),
            (TunnelType::Gue, None, _) => Err("gue wants --tunnel-port".to_owned()),
            (TunnelType::Gue, Some(port), checksum) => {
                let checksum = match checksum {
                    TunnelChecksum::No => GueChecksum::No,
                    TunnelChecksum::Full => GueChecksum::Full,
                    TunnelChecksum::Remote => GueChecksum::Remote,
                };
                Ok(Some(Tunnel::Gue { port, checksum }))
            }
        }
    }
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    match text {
        "nat" | "fullnat" | "masq" => Ok(Mode::Nat),
        "tunnel" | "tun" => Ok(Mode::Tunnel),
        "dr" | "route" => Ok(Mode::Dr),
        _ => Err("use nat (FULLNAT when the service has local addresses), tunnel or dr".to_owned()),
    }
}

/// `lvsctl service`.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Add a virtual service (`ipvsadm -A`).
    Add {
        /// Which one.
        #[command(flatten)]
        name: ServiceName,
        /// How.
        #[command(flatten)]
        options: ServiceOptions,
    },
    /// Change what is given, keep the rest; connections stay (`ipvsadm -E`).
    Edit {
        /// Which one.
        #[command(flatten)]
        name: ServiceName,
        /// How.
        #[command(flatten)]
        options: ServiceOptions,
    },
    /// Delete a virtual service (`ipvsadm -D`).
    Delete {
        /// Which one.
        #[command(flatten)]
        name: ServiceName,
    },
}

/// `lvsctl server`.
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Add a real server (`ipvsadm -a`).
    Add {
        /// Which one.
        #[command(flatten)]
        name: ServerName,
        /// How.
        #[command(flatten)]
        options: ServerOptions,
    },
    /// Change what is given, keep the rest; connections stay (`ipvsadm -e`).
    Edit {
        /// Which one.
        #[command(flatten)]
        name: ServerName,
        /// How.
        #[command(flatten)]
        options: ServerOptions,
    },
    /// Delete a real server (`ipvsadm -d`).
    Delete {
        /// Which one.
        #[command(flatten)]
        name: ServerName,
    },
}

/// `lvsctl local-address`.
#[derive(Debug, Subcommand)]
pub enum LocalAddressCommand {
    /// Set the whole pool: masquerading servers of the service are reached by FULLNAT.
    Set {
        /// The virtual service: tcp:192.0.2.10:80.
        service: ServiceId,
        /// The pool.
        #[arg(required = true)]
        addresses: Vec<IpAddr>,
    },
    /// Empty the pool: FULLNAT becomes NAT again.
    Clear {
        /// The virtual service: tcp:192.0.2.10:80.
        service: ServiceId,
    },
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
        /// Only messages of this number are taken; a backup with 0 takes all.
        #[arg(long, visible_alias = "syncid", default_value_t = 0)]
        sync_id: u8,
        /// Bytes of a message at most; 0 for what fits the link.
        #[arg(long, visible_alias = "sync-maxlen", default_value_t = 0, value_name = "OCTETS")]
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    fn server_add(words: &str) -> (ServiceId, SocketAddr, ServerOptions) {
        let arguments = Arguments::try_parse_from(["lvsctl", "server", "add"].into_iter().chain(words.split(' ')));
        match arguments.unwrap().command {
            Command::Server(ServerCommand::Add { name, options }) => (name.service.id(), name.end(), options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn readable_flags_and_ipvsadm_letters_mean_the_same() {
        let readable = server_add("tcp:192.0.2.10:80 198.51.100.1:8080 --mode nat --weight 3");
        for letters in [
            "tcp:192.0.2.10:80 198.51.100.1:8080 -m -w 3",
            "-t 192.0.2.10:80 -r 198.51.100.1:8080 -m -w 3",
        ] {
            let letters = server_add(letters);
            assert_eq!((letters.0, letters.1), (readable.0, readable.1));
            let patch = letters.2.patch().unwrap();
            assert_eq!((patch.mode, patch.weight), (Some(Mode::Nat), Some(3)));
        }
    }

    #[test]
    fn a_server_without_a_port_has_the_services() {
        assert_eq!(
            server_add("tcp:192.0.2.10:80 198.51.100.1").1.to_string(),
            "198.51.100.1:80"
        );
        assert_eq!(
            server_add("tcp:[2001:db8::10]:443 2001:db8::1").1.to_string(),
            "[2001:db8::1]:443"
        );
    }

    fn service_add(words: &str) -> (ServiceId, ServicePatch) {
        let arguments = Arguments::try_parse_from(["lvsctl", "service", "add"].into_iter().chain(words.split(' ')));
        match arguments.unwrap().command {
            Command::Service(ServiceCommand::Add { name, options }) => (name.id(), options.patch()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn persistence_is_named_by_words_or_letters_and_has_ipvsadms_default() {
        let (id, options) = service_add("fwm:66 --persistent --netmask 255.255.255.0 --one-packet");
        assert_eq!((id.to_string(), options.one_packet), ("fwm:66".to_owned(), Some(true)));
        let netmask = Some(Netmask::Ipv4("255.255.255.0".parse().unwrap()));
        let timeout_sec = Persistence::TIMEOUT_DEFAULT_SEC;
        assert_eq!(options.persistence, Some(Some(Persistence { timeout_sec, netmask })));
        let (id, options) = service_add("-f 66 -p 10 -M 255.255.255.255");
        assert_eq!((id.to_string(), options.one_packet), ("fwm:66".to_owned(), None));
        let (timeout_sec, netmask) = (10, None);
        assert_eq!(options.persistence, Some(Some(Persistence { timeout_sec, netmask })));
        assert_eq!(service_add("fwm:66").1.persistence, None);
        assert_eq!(service_add("fwm:66 --not-persistent").1.persistence, Some(None));
    }

    #[test]
    fn a_tunnel_type_makes_the_mode_tunnel_and_refuses_what_it_has_not() {
        let tunnel = |words: &str| server_add(&format!("fwm:66 198.51.100.1 {words}")).2;
        let gue = tunnel("--tunnel-type gue --tunnel-port 6080 --tunnel-checksum");
        let (port, checksum) = (6080, GueChecksum::Full);
        assert_eq!(gue.mode(), Some(Mode::Tunnel));
        assert_eq!(gue.tunnel(), Ok(Some(Tunnel::Gue { port, checksum })));
        assert_eq!(
            tunnel("-i --tun-type gre").tunnel(),
            Ok(Some(Tunnel::Gre { checksum: false }))
        );
        assert_eq!(tunnel("-i").tunnel(), Ok(None));
        for wrong in [
            "--tunnel-type ipip --tunnel-port 1",
            "--tunnel-type gre --tunnel-checksum remote",
            "--tunnel-type gre --mode nat",
        ] {
            assert!(tunnel(wrong).tunnel().is_err(), "{wrong}");
        }
    }

    #[test]
    fn two_modes_at_once_are_wrong_usage() {
        let words = "lvsctl server add tcp:192.0.2.10:80 198.51.100.1:80";
        for modes in ["-m -g", "--mode nat -i"] {
            let error = Arguments::try_parse_from(words.split(' ').chain(modes.split(' '))).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{modes}");
        }
    }
}
