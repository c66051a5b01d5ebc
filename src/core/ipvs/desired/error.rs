//! Why a change to services is refused: cause and cure in one sentence, shown as it stands by API and tools.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use crate::ipvs::service::ServiceKey;
use crate::limits::{LOCAL_ADDRESSES_MAX, REAL_SERVERS_MAX, SERVICES_MAX, TIMEOUT_CONFIGURED_MAX_SEC, WEIGHT_MAX};

/// Why a change was refused; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum ServiceError {
    /// Kernel: `EEXIST`.
    #[error("service {service} exists already: edit it instead of adding it")]
    ServiceExists { service: ServiceKey },
    /// Kernel: `ESRCH`.
    #[error("there is no service {service}: add it first, or check protocol, address and port")]
    NoSuchService { service: ServiceKey },
    /// Kernel: `EEXIST`.
    #[error(
        "real server {} of service {service} exists already: edit it instead of adding it",
        SocketAddr::new(*addr, *port)
    )]
    ServerExists {
        service: ServiceKey,
        addr: IpAddr,
        port: u16,
    },
    /// Kernel: `ENOENT`.
    #[error(
        "service {service} has no real server {}: add it first, or check address and port",
        SocketAddr::new(*addr, *port)
    )]
    NoSuchServer {
        service: ServiceKey,
        addr: IpAddr,
        port: u16,
    },
    /// Kernel: `ERANGE`.
    #[error("weight {weight} of real server {server} is out of range: give 0 (no new connections) to {WEIGHT_MAX}")]
    WeightOutOfRange { server: SocketAddr, weight: u32 },
    /// Kernel: `ERANGE`.
    #[error(
        "lower threshold {lower} of real server {server} is above its upper threshold {upper}: \
         give a lower one of at most {upper}, or raise the upper one"
    )]
    ThresholdsReversed { server: SocketAddr, upper: u32, lower: u32 },
    /// Kernel: `EINVAL`.
    #[error(
        "upper threshold {upper} of real server {server} is out of range: give 0 (none) to {}",
        i32::MAX
    )]
    ThresholdOutOfRange { server: SocketAddr, upper: u32 },
    /// Kernel: `EINVAL`.
    #[error(
        "real server {server} is of another address family than service {service}: \
         give an address of the service's family, or use tunnel mode"
    )]
    MixedFamilies { service: ServiceKey, server: SocketAddr },
    /// Kernel: `EINVAL`.
    #[error(
        "mode {mode} cannot be configured for real server {server}: choose nat, dr or tunnel; \
         nat becomes fullnat by a local-address pool"
    )]
    ModeNotConfigurable { server: SocketAddr, mode: &'static str },
    /// ipvsadm: `Zero port specified for non-persistent service`.
    #[error(
        "service {service} has port 0, which means every port and needs persistence: \
         give a port from 1 to 65535, or a persistence timeout"
    )]
    ZeroPortNotPersistent { service: ServiceKey },
    /// ipvsadm: `One-Packet Scheduling is only for UDP virtual services`; a mark's packets may be UDP.
    #[error(
        "service {service} cannot schedule packet by packet, only udp and fwmark services can: \
         leave one-packet scheduling out, or make it a udp service"
    )]
    OnePacketWithoutUdp { service: ServiceKey },
    /// Kernel: `EINVAL`.
    #[error("a fwmark service needs a mark: give 1 or more")]
    MarkZero,
    /// Kernel and ipvsadm bound it likewise.
    #[error("persistence of {sec} s for service {service} is out of range: give 1 to {TIMEOUT_CONFIGURED_MAX_SEC} s")]
    PersistenceOutOfRange { service: ServiceKey, sec: u32 },
    /// Kernel: `EINVAL`.
    #[error(
        "the persistence mask of service {service} is none of its family: give a netmask for IPv4, \
         a prefix length from 1 to 128 for IPv6"
    )]
    PersistenceMask { service: ServiceKey },
    /// Kernel: `EINVAL`; ipvsadm: `GUE requires tun-port`.
    #[error(
        "real server {server} is tunnelled by GUE to port 0: give the UDP port that its GUE listens on, 1 to 65535"
    )]
    GuePortZero { server: SocketAddr },
    /// ipvsadm: `Tunnel options conflict with forward method`.
    #[error("real server {server} has a kind of tunnel and no tunnel: give mode tunnel, or leave the tunnel out")]
    TunnelWithoutMode { server: SocketAddr },
    /// Replies are seen of some and not of others, so their traffic cannot be compared.
    #[error(
        "scheduler {scheduler} of service {service} compares traffic, which wants all its real servers in one mode: \
         give all of them the same mode, or choose another scheduler"
    )]
    MixedModes {
        service: ServiceKey,
        scheduler: &'static str,
    },
    /// Kernel: `EINVAL`.
    #[error("{addr} cannot be the address of a real server: give a unicast address")]
    ServerNotUnicast { addr: IpAddr },
    /// Replies are sent to it.
    #[error("{addr} cannot be the address of a local-address pool: give a unicast address")]
    LocalAddressNotUnicast { addr: IpAddr },
    /// FULLNAT does not change the family.
    #[error(
        "local address {addr} is of another address family than service {service}: \
         give addresses of the service's family"
    )]
    LocalAddressFamily { service: ServiceKey, addr: IpAddr },
    /// A pool is a set.
    #[error("local address {addr} is in the pool of service {service} twice: name it once")]
    LocalAddressTwice { service: ServiceKey, addr: IpAddr },
    /// Only FULLNAT hides the client.
    #[error(
        "client address by {carrier} for service {service} needs FULLNAT: \
         give the service a local-address pool first, or client address none"
    )]
    ClientAddressWithoutPool { service: ServiceKey, carrier: &'static str },
    /// It would be without one.
    #[error(
        "the local-address pool of service {service} carries its client address by {carrier}: \
         set client address none before the pool is emptied"
    )]
    PoolCarriesClientAddress { service: ServiceKey, carrier: &'static str },
    /// The answer would find no connection.
    #[error(
        "service {service} schedules each packet by itself, so answers to a local address would find no connection: \
         give it no local-address pool, or no one-packet scheduling"
    )]
    OnePacketWithPool { service: ServiceKey },
    /// TCP options and streams, or UDP datagrams.
    #[error(
        "client address by {carrier} does not go with service {service}: \
         give toa, proxy-v1 or proxy-v2 for tcp, uoa for udp, none for others"
    )]
    ClientAddressProtocol { service: ServiceKey, carrier: &'static str },
    /// [`crate::ipvs::service::NumberOption::range`].
    #[error("{option} {value} of service {service} is out of range: give 0 (not set), or {min} to {max}")]
    OptionOutOfRange {
        service: ServiceKey,
        option: &'static str,
        value: u32,
        min: u32,
        max: u32,
    },
    /// [`crate::ipvs::service::NumberOption::protocols`].
    #[error("{option} means nothing for the protocol of service {service}: leave it out")]
    OptionWithoutProtocol { service: ServiceKey, option: &'static str },
    /// [`LOCAL_ADDRESSES_MAX`].
    #[error("{count} local addresses for service {service} are too many: give at most {LOCAL_ADDRESSES_MAX}")]
    TooManyLocalAddresses { service: ServiceKey, count: usize },
    /// [`SERVICES_MAX`].
    #[error("there are {SERVICES_MAX} services already, which is the limit: delete one first")]
    TooManyServices,
    /// [`REAL_SERVERS_MAX`].
    #[error(
        "there are {REAL_SERVERS_MAX} real servers already, recently deleted ones included, which is the limit: \
         delete one first and wait until its connections are gone for two minutes"
    )]
    TooManyServers,
}
