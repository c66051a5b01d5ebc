//! A virtual service: what is balanced and how.

use std::fmt;
use std::net::IpAddr;
use std::ops::{Deref, RangeInclusive};
use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::address::AddressFamily;
use crate::ipvs::client_address::ClientAddress;
use crate::ipvs::local_address::LocalAddressPool;
use crate::ipvs::persistence::{Persistence, Spread};
use crate::ipvs::real_server::RealServer;
use crate::ipvs::scheduler::{Overhead, SchedulerFlags, SchedulerKind, SchedulerTable};
use crate::limits::{MSS_MAX_RANGE, TIMEOUT_CONFIGURED_MAX_SEC};

/// Slot of a service, by which every worker indexes its scheduler state. It is reused only after the service is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct ServiceId(pub u32);

impl ServiceId {
    /// Of a connection that another director synced and whose service is not configured here.
    pub const UNBOUND: Self = Self(u32::MAX);
}

/// Protocols a virtual service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceProtocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl ServiceProtocol {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// What identifies a virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceKey {
    /// Protocol, VIP and port (`-t`, `-u`, `--sctp-service`).
    Address {
        /// TCP, UDP or SCTP.
        protocol: ServiceProtocol,
        /// The VIP.
        addr: IpAddr,
        /// Port; 0 means every port and needs persistence.
        port: u16,
    },
    /// Packets with this mark of the classifier (`-f`), of any protocol, address and port.
    Fwmark {
        /// Not 0.
        mark: u32,
        /// The packets' family.
        family: AddressFamily,
    },
}

impl ServiceKey {
    /// The family of the service's clients.
    pub const fn family(&self) -> AddressFamily {
        match self {
            Self::Address { addr, .. } => AddressFamily::of(addr),
            Self::Fwmark { family, .. } => *family,
        }
    }

    /// The IP protocol number; 0 for fwmark services, which take any.
    pub const fn protocol_number(&self) -> u8 {
        match self {
            Self::Address { protocol, .. } => protocol.number(),
            Self::Fwmark { .. } => 0,
        }
    }

    /// The port; 0 for services of every port.
    pub const fn port(&self) -> u16 {
        match self {
            Self::Address { port, .. } => *port,
            Self::Fwmark { .. } => 0,
        }
    }
}

impl ServiceProtocol {
    /// The word in configuration, API and listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The protocol that [`Self::name`] names.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name() == name)
    }
}

impl fmt::Display for ServiceKey {
    /// `tcp:192.0.2.1:80`, `udp:[2001:db8::1]:53`, `fwm:66`, `fwm6:66`: the form that the API and
    /// `lvsctl` use.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { protocol, addr, port } => {
                let end = std::net::SocketAddr::new(*addr, *port);
                write!(formatter, "{}:{end}", protocol.name())
            }
            Self::Fwmark { mark, family } => match family {
                AddressFamily::Ipv4 => write!(formatter, "fwm:{mark}"),
                AddressFamily::Ipv6 => write!(formatter, "fwm6:{mark}"),
            },
        }
    }
}

/// A virtual service as configured, without its servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// What it balances.
    pub key: ServiceKey,
    /// How it picks.
    pub scheduler: SchedulerKind,
    /// Options of the scheduler.
    pub scheduler_flags: SchedulerFlags,
    /// `-p`, `-M`: clients stick to their real servers for this long.
    pub persistence: Option<Persistence>,
    /// What a client of IPVS said of persistence while it is off: the kernel keeps and lists it. Of no other effect.
    pub unused_persistence: Option<Persistence>,
    /// `-o`: every UDP datagram is scheduled on its own.
    pub one_packet: bool,
    /// How FULLNAT real servers learn the client's address; other than `None` only with a local-address pool.
    pub client_address: ClientAddress,
    /// Limit of the MSS that SYN segments announce, in bytes: 0 for none, or [`MSS_MAX_RANGE`].
    pub mss_max: u16,
    /// Idle timeout of its established TCP and SCTP connections in seconds; 0 for the director's.
    pub established_timeout_sec: u32,
    /// Whether TCP segments of clients that belong to no connection, or to one whose real server was deleted, are
    /// answered with a reset.
    pub reset_unknown: bool,
}

impl ServiceSpec {
    /// A service with everything else at its default.
    pub const fn new(key: ServiceKey, scheduler: SchedulerKind) -> Self {
        Self {
            key,
            scheduler,
            scheduler_flags: SchedulerFlags(0),
            persistence: None,
            unused_persistence: None,
            one_packet: false,
            client_address: ClientAddress::None,
            mss_max: 0,
            established_timeout_sec: 0,
            reset_unknown: false,
        }
    }

    /// Its options that are numbers, and those that are switches: 1 when they are on.
    pub fn numbers(&self) -> [NumberOption; 3] {
        let (first, last) = MSS_MAX_RANGE.into_inner();
        [
            NumberOption {
                name: "mss_max",
                value: u32::from(self.mss_max),
                range: u32::from(first)..=u32::from(last),
                protocols: &[ServiceProtocol::Tcp],
            },
            NumberOption {
                name: "established_timeout_sec",
                value: self.established_timeout_sec,
                range: 1..=TIMEOUT_CONFIGURED_MAX_SEC,
                protocols: &[ServiceProtocol::Tcp, ServiceProtocol::Sctp],
            },
            NumberOption {
                name: "reset_unknown",
                value: u32::from(self.reset_unknown),
                range: 1..=1,
                protocols: &[ServiceProtocol::Tcp],
            },
        ]
    }
}

/// An option that is a number or a switch, and what it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberOption {
    /// Its name in configuration and API.
    pub name: &'static str,
    /// 0 where it is not set.
    pub value: u32,
    /// What it may be when it is set.
    pub range: RangeInclusive<u32>,
    /// Protocols of the services that may have it. Services of packets with a mark may have any.
    pub protocols: &'static [ServiceProtocol],
}

/// A virtual service as workers see it, read-only, through the snapshot. Its configuration reads as its own fields.
#[derive(Clone, Debug)]
pub struct VirtualService {
    /// Its slot.
    pub id: ServiceId,
    /// As configured.
    pub spec: ServiceSpec,
    /// How connection-counting schedulers weigh active against inactive connections.
    pub overhead: Overhead,
    /// Which clients' packets must arrive at the same worker. Set by the table that holds the service.
    pub spread: Spread,
    /// Whether the worker to which NICs bring a flow may own it. It may not if a template, or the reply of a
    /// masqueraded server, must determine the owner from one end alone. Set by the service table.
    pub is_spread_by_flow: bool,
    /// Real servers, newest first. This order decides every tie (`ip_vs_add_dest`).
    pub servers: Arc<[RealServer]>,
    /// Grows with every change to the service or its servers, over all services of the director.
    pub revision: u64,
    /// The [`Self::revision`] of the last change to its servers. When it changes, schedulers move their cursors.
    pub servers_revision: u64,
    /// The [`Self::revision`] at which the service was added. It differs for a service that was deleted and added
    /// again.
    pub born: u64,
    /// What the scheduler computed from the servers at build time (sh buckets, wrr gcd and maximum).
    pub table: SchedulerTable,
    /// Present on a FULLNAT service: the director sends to its masquerading real servers from these addresses.
    pub local_addresses: Option<LocalAddressPool>,
}

impl Deref for VirtualService {
    type Target = ServiceSpec;

    #[inline(always)]
    fn deref(&self) -> &ServiceSpec {
        &self.spec
    }
}

/// A real server by slot, whether its service still lists it or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSlot {
    /// `false` once it or its service was deleted. Then packets of its connections are dropped silently.
    pub available: bool,
    /// Whether it is available and its connections have the director's timeouts, as nearly all have: one word for the
    /// fast path.
    pub is_common: bool,
    /// Timeout of its established TCP and SCTP connections; 0 for the director's.
    pub established_ms: u32,
    /// Its service. No other service gets that id as long as the server has its slot.
    pub service: ServiceId,
    /// The server as last configured.
    pub server: RealServer,
}

impl ServerSlot {
    /// Of a server that `service` lists.
    pub fn listed(service: &VirtualService, server: &RealServer) -> Self {
        Self {
            available: true,
            is_common: service.established_timeout_sec == 0,
            established_ms: service.established_timeout_sec.min(TIMEOUT_CONFIGURED_MAX_SEC) * 1_000,
            service: service.id,
            server: server.clone(),
        }
    }

    /// Of a server that its service does not list.
    pub const fn gone(service: ServiceId, server: RealServer) -> Self {
        Self {
            available: false,
            is_common: false,
            established_ms: 0,
            service,
            server,
        }
    }
}
