//! What a table is asked about and what it answers: services, real servers, daemons, as plain data.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Address families with Linux's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Family {
    /// `AF_INET`.
    V4 = 2,
    /// `AF_INET6`.
    V6 = 10,
}

impl Family {
    /// The family of a number.
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            2 => Some(Self::V4),
            10 => Some(Self::V6),
            _ => None,
        }
    }

    /// The family of an address.
    pub const fn of(addr: &IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The address of this family in 16 bytes, of which IPv4 uses the first four.
    pub fn address(self, bytes: [u8; 16]) -> IpAddr {
        match self {
            Self::V4 => {
                let [a, b, c, d, ..] = bytes;
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            Self::V6 => IpAddr::V6(Ipv6Addr::from(bytes)),
        }
    }
}

/// What identifies a virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceKey {
    /// `-t`, `-u`, `--sctp-service`.
    Address {
        /// IP protocol number.
        protocol: u16,
        /// The VIP.
        addr: IpAddr,
        /// Port; 0 means every port.
        port: u16,
    },
    /// `-f`.
    Mark {
        /// `-6` or not.
        family: Family,
        /// The firewall mark, not 0.
        mark: u32,
    },
}

impl ServiceKey {
    /// Of its clients.
    pub const fn family(&self) -> Family {
        match self {
            Self::Address { addr, .. } => Family::of(addr),
            Self::Mark { family, .. } => *family,
        }
    }
}

/// `-M`: which clients share one persistence template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// A mask.
    V4(Ipv4Addr),
    /// A prefix length.
    V6(u32),
}

/// How a tunnelling real server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TunnelRow {
    /// `IP_VS_CONN_F_TUNNEL_TYPE_*`: 0 IPIP, 1 GUE, 2 GRE.
    pub kind: u8,
    /// UDP port of GUE.
    pub port: u16,
    /// `IP_VS_TUNNEL_ENCAP_FLAG_*`: 1 csum, 2 remcsum.
    pub flags: u16,
}

impl TunnelRow {
    /// Generic UDP encapsulation.
    pub const KIND_GUE: u8 = 1;
    /// Generic routing encapsulation.
    pub const KIND_GRE: u8 = 2;
    /// `IP_VS_TUNNEL_ENCAP_FLAG_CSUM`.
    pub const CHECKSUM: u16 = 1;
    /// `IP_VS_TUNNEL_ENCAP_FLAG_REMCSUM`.
    pub const REMOTE_CHECKSUM: u16 = 2;
}

/// Counters and rates, as `--stats` and `--rate` show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names of /proc/net/ip_vs_stats with units")]
pub struct Statistics {
    pub connections: u64,
    pub in_packets: u64,
    pub out_packets: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
    pub connections_per_sec: u64,
    pub in_packets_per_sec: u64,
    pub out_packets_per_sec: u64,
    pub in_bytes_per_sec: u64,
    pub out_bytes_per_sec: u64,
}

impl Statistics {
    /// All values in the order of the kernel's attributes (`IPVS_STATS_ATTR_*`).
    pub const fn in_order(&self) -> [u64; 10] {
        [
            self.connections,
            self.in_packets,
            self.out_packets,
            self.in_bytes,
            self.out_bytes,
            self.connections_per_sec,
            self.in_packets_per_sec,
            self.out_packets_per_sec,
            self.in_bytes_per_sec,
            self.out_bytes_per_sec,
        ]
    }
}

/// A virtual service as listings show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRow {
    /// What it balances.
    pub key: ServiceKey,
    /// Name of its scheduler.
    pub scheduler: String,
    /// Name of its persistence engine.
    pub engine: Option<String>,
    /// `IP_VS_SVC_F_*`.
    pub flags: u32,
    /// Of persistence.
    pub timeout_sec: u32,
    /// Of persistence.
    pub granularity: Granularity,
    /// Over all its real servers.
    pub statistics: Statistics,
}

impl ServiceRow {
    /// `IP_VS_SVC_F_PERSISTENT`.
    pub const PERSISTENT: u32 = 1;
    /// `IP_VS_SVC_F_HASHED`: every service that exists has it.
    pub const HASHED: u32 = 2;
    /// `IP_VS_SVC_F_ONEPACKET`.
    pub const ONE_PACKET: u32 = 4;
    /// `IP_VS_SVC_F_SCHED1`: `sh-fallback`, `mh-fallback`.
    pub const SCHEDULER_1: u32 = 8;
    /// `IP_VS_SVC_F_SCHED2`: `sh-port`, `mh-port`.
    pub const SCHEDULER_2: u32 = 16;
    /// `IP_VS_SVC_F_SCHED3`.
    pub const SCHEDULER_3: u32 = 32;
}

/// A real server as listings show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerRow {
    /// Its address.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
    /// `IP_VS_CONN_F_*`: 0 masquerading, 2 tunnel, 3 direct routing.
    pub method: u32,
    /// 0 is quiesced.
    pub weight: u32,
    /// `-x`.
    pub upper_threshold: u32,
    /// `-y`.
    pub lower_threshold: u32,
    /// Of tunnelling.
    pub tunnel: TunnelRow,
    /// `ActiveConn`.
    pub active: u32,
    /// `InActConn`.
    pub inactive: u32,
    /// `PersistConn`.
    pub persistent: u32,
    /// Its own.
    pub statistics: Statistics,
}

impl ServerRow {
    /// `IP_VS_CONN_F_MASQ`.
    pub const MASQUERADING: u32 = 0;
    /// `IP_VS_CONN_F_LOCALNODE`.
    pub const LOCAL: u32 = 1;
    /// `IP_VS_CONN_F_TUNNEL`.
    pub const TUNNEL: u32 = 2;
    /// `IP_VS_CONN_F_DROUTE`.
    pub const DIRECT_ROUTING: u32 = 3;
    /// `IP_VS_CONN_F_BYPASS`.
    pub const BYPASS: u32 = 4;
    /// `IP_VS_CONN_F_FWD_MASK`.
    pub const METHOD_MASK: u32 = 7;

    /// A server of weight 1 without thresholds and connections.
    #[cfg(test)]
    pub(crate) fn idle(addr: IpAddr, port: u16, method: u32) -> Self {
        Self {
            addr,
            port,
            method,
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
            tunnel: TunnelRow::default(),
            active: 0,
            inactive: 0,
            persistent: 0,
            statistics: Statistics::default(),
        }
    }
}

/// Multicast group of a sync daemon.
pub type McastGroup = IpAddr;

/// A running sync daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonRow {
    /// `IP_VS_STATE_*`: 1 master, 2 backup.
    pub state: u32,
    /// Interface it sends or listens on.
    pub interface: String,
    /// 0 to 255.
    pub sync_id: u32,
    /// Bytes of a message at most.
    pub max_len: u16,
    /// Where messages go.
    pub group: McastGroup,
    /// UDP port.
    pub port: u16,
    /// The TTL of messages: 1 to 255.
    pub ttl: u8,
}

/// What `GET_INFO` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// `0x010201` is 1.2.1.
    pub version: u32,
    /// Buckets of the connection table.
    pub table_size: u32,
}

impl Info {
    /// The version every client knows.
    pub const VERSION_1_2_1: u32 = 0x01_02_01;
}

/// What `GET_CONFIG` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutsRow {
    /// Timeout of an established TCP connection in seconds; 0 leaves it as it is.
    pub tcp_sec: u32,
    /// Timeout of a TCP connection after a FIN in seconds; 0 leaves it as it is.
    pub tcp_fin_sec: u32,
    /// Timeout of a UDP flow in seconds; 0 leaves it as it is.
    pub udp_sec: u32,
}
