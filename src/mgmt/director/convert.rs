//! Between the API's words and the core's, by hand and exhaustively.

use std::net::{IpAddr, SocketAddr};

use lvs_api::netlink::Statistics;
use lvs_api::{
    ApiError, ClientAddress, ErrorCode, MarkProtocol, MarkRule, Mode, Netmask, Persistence, PortRange, Prefix,
    Protocol, Server, Service, ServiceId, ServiceSettings, SyncDaemon, SyncRole, Timeouts, Tunnel, UnusedPersistence,
};
use lvs_core::address::AddressFamily;
use lvs_core::conn_record::ConnRecord;
use lvs_core::ipvs::desired::{ServerSpec, ServiceError, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::persistence::{self, ClientMask};
use lvs_core::ipvs::protocol::sctp::SctpState;
use lvs_core::ipvs::protocol::tcp::TcpState;
use lvs_core::ipvs::protocol::{self, udp};
use lvs_core::ipvs::scheduler::{SchedulerFlags, SchedulerKind};
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::ipvs::sync::daemon;
use lvs_core::ipvs::tunnel_kind::{GueChecksum, TunnelKind};
use lvs_core::ipvs::{client_address, mark, stats};
use lvs_core::l3::DeviceId;

const fn core_protocol(protocol: Protocol) -> ServiceProtocol {
    match protocol {
        Protocol::Tcp => ServiceProtocol::Tcp,
        Protocol::Udp => ServiceProtocol::Udp,
        Protocol::Sctp => ServiceProtocol::Sctp,
    }
}

const fn api_protocol(protocol: ServiceProtocol) -> Protocol {
    match protocol {
        ServiceProtocol::Tcp => Protocol::Tcp,
        ServiceProtocol::Udp => Protocol::Udp,
        ServiceProtocol::Sctp => Protocol::Sctp,
    }
}

/// The IP protocol number.
pub const fn protocol_number(protocol: Protocol) -> u8 {
    core_protocol(protocol).number()
}

/// The protocol of an IP protocol number; `None` when no service can have it.
pub fn protocol_of_number(number: u8) -> Option<Protocol> {
    let mut all = ServiceProtocol::ALL.into_iter();
    all.find(|protocol| protocol.number() == number).map(api_protocol)
}

/// The core's key of a service.
pub const fn key(id: &ServiceId) -> ServiceKey {
    match *id {
        ServiceId::Address { protocol, addr, port } => ServiceKey::Address {
            protocol: core_protocol(protocol),
            addr,
            port,
        },
        ServiceId::Fwmark { mark, is_ipv6 } => ServiceKey::Fwmark {
            mark,
            family: if is_ipv6 {
                AddressFamily::Ipv6
            } else {
                AddressFamily::Ipv4
            },
        },
    }
}

/// The API's id of a service.
pub const fn id(key: &ServiceKey) -> ServiceId {
    match *key {
        ServiceKey::Address { protocol, addr, port } => ServiceId::Address {
            protocol: api_protocol(protocol),
            addr,
            port,
        },
        ServiceKey::Fwmark { mark, family } => ServiceId::Fwmark {
            mark,
            is_ipv6: matches!(family, AddressFamily::Ipv6),
        },
    }
}

/// How servers learn the client's address, in the core's words.
const fn core_client_address(carrier: ClientAddress) -> client_address::ClientAddress {
    use client_address::ClientAddress as Core;
    match carrier {
        ClientAddress::None => Core::None,
        ClientAddress::Toa => Core::Toa,
        ClientAddress::ProxyV1 => Core::ProxyV1,
        ClientAddress::ProxyV2 => Core::ProxyV2,
        ClientAddress::Uoa => Core::Uoa,
    }
}

/// The API's.
pub const fn client_address(carrier: client_address::ClientAddress) -> ClientAddress {
    use client_address::ClientAddress as Core;
    match carrier {
        Core::None => ClientAddress::None,
        Core::Toa => ClientAddress::Toa,
        Core::ProxyV1 => ClientAddress::ProxyV1,
        Core::ProxyV2 => ClientAddress::ProxyV2,
        Core::Uoa => ClientAddress::Uoa,
    }
}

/// The core's persistence of a service of `family`.
fn core_persistence(persistence: Persistence, family: AddressFamily) -> persistence::Persistence {
    let Persistence { timeout_sec, netmask } = persistence;
    let mask = match netmask {
        None => ClientMask::whole(family),
        Some(Netmask::Ipv4(mask)) => ClientMask::Ipv4(mask),
        Some(Netmask::Ipv6(len)) => ClientMask::Ipv6(len),
    };
    persistence::Persistence { timeout_sec, mask }
}

fn core_unused_persistence(unused: UnusedPersistence, family: AddressFamily) -> persistence::Persistence {
    let UnusedPersistence { timeout_sec, netmask } = unused;
    core_persistence(Persistence { timeout_sec, netmask }, family)
}

fn api_unused_persistence(unused: persistence::Persistence) -> UnusedPersistence {
    let Persistence { timeout_sec, netmask } = persistence(unused);
    UnusedPersistence { timeout_sec, netmask }
}

/// The API's persistence.
pub fn persistence(persistence: persistence::Persistence) -> Persistence {
    let persistence::Persistence { timeout_sec, mask } = persistence;
    let netmask = match mask {
        ClientMask::Ipv4(mask) => Netmask::Ipv4(mask),
        ClientMask::Ipv6(len) => Netmask::Ipv6(len),
    };
    Persistence {
        timeout_sec,
        netmask: netmask.narrowed(),
    }
}

/// The core's role of a sync daemon.
pub const fn core_sync_role(role: SyncRole) -> daemon::SyncRole {
    match role {
        SyncRole::Master => daemon::SyncRole::Master,
        SyncRole::Backup => daemon::SyncRole::Backup,
    }
}

/// The core's sync daemon.
pub fn core_sync_daemon(daemon: &SyncDaemon) -> daemon::SyncDaemon {
    let SyncDaemon {
        role,
        interface,
        sync_id,
        max_len_bytes,
        group,
        port,
        ttl,
    } = daemon;
    daemon::SyncDaemon {
        role: core_sync_role(*role),
        interface: interface.clone(),
        sync_id: *sync_id,
        max_len: *max_len_bytes,
        group: *group,
        port: *port,
        ttl: *ttl,
    }
}

/// The API's sync daemon.
pub fn sync_daemon(daemon: &daemon::SyncDaemon) -> SyncDaemon {
    let daemon::SyncDaemon {
        role,
        interface,
        sync_id,
        max_len,
        group,
        port,
        ttl,
    } = daemon;
    SyncDaemon {
        role: match role {
            daemon::SyncRole::Master => SyncRole::Master,
            daemon::SyncRole::Backup => SyncRole::Backup,
        },
        interface: interface.clone(),
        sync_id: *sync_id,
        max_len_bytes: *max_len,
        group: *group,
        port: *port,
        ttl: *ttl,
    }
}

const fn core_tunnel(tunnel: Tunnel) -> TunnelKind {
    match tunnel {
        Tunnel::Ipip => TunnelKind::IpIp,
        Tunnel::Gre { checksum } => TunnelKind::Gre { checksum },
        Tunnel::Gue { port, checksum } => TunnelKind::Gue {
            port,
            checksum: match checksum {
                lvs_api::GueChecksum::No => GueChecksum::No,
                lvs_api::GueChecksum::Full => GueChecksum::Full,
                lvs_api::GueChecksum::Remote => GueChecksum::RemoteOffload,
            },
        },
    }
}

const fn tunnel(kind: TunnelKind) -> Tunnel {
    match kind {
        TunnelKind::IpIp => Tunnel::Ipip,
        TunnelKind::Gre { checksum } => Tunnel::Gre { checksum },
        TunnelKind::Gue { port, checksum } => Tunnel::Gue {
            port,
            checksum: match checksum {
                GueChecksum::No => lvs_api::GueChecksum::No,
                GueChecksum::Full => lvs_api::GueChecksum::Full,
                GueChecksum::RemoteOffload => lvs_api::GueChecksum::Remote,
            },
        },
    }
}

/// The core's service: scheduler and options by their ipvsadm names.
pub fn service_spec(id: &ServiceId, settings: &ServiceSettings) -> Result<ServiceSpec, ApiError> {
    let ServiceSettings {
        scheduler,
        scheduler_flags,
        persistence,
        unused_persistence,
        one_packet,
        client_address,
        mss_max,
        established_timeout_sec,
        reset_unknown,
    } = settings;
    let key = key(id);
    let kind = scheduler_kind(scheduler)?;
    Ok(ServiceSpec {
        key,
        scheduler: kind,
        scheduler_flags: core_scheduler_flags(kind, scheduler_flags)?,
        persistence: persistence.map(|persistence| core_persistence(persistence, key.family())),
        unused_persistence: unused_persistence.map(|unused| core_unused_persistence(unused, key.family())),
        one_packet: *one_packet,
        client_address: core_client_address(*client_address),
        mss_max: *mss_max,
        established_timeout_sec: *established_timeout_sec,
        reset_unknown: *reset_unknown,
    })
}

fn scheduler_kind(name: &str) -> Result<SchedulerKind, ApiError> {
    SchedulerKind::parse(name).ok_or_else(|| {
        let known: Vec<_> = SchedulerKind::ALL.iter().map(|kind| kind.name()).collect();
        let message = format!("there is no scheduler {name:?}; choose one of {}", known.join(", "));
        ApiError::new(ErrorCode::Refused, message).at("scheduler")
    })
}

fn core_scheduler_flags(kind: SchedulerKind, names: &[String]) -> Result<SchedulerFlags, ApiError> {
    let mut flags = SchedulerFlags(0);
    for name in names {
        let Some(bit) = kind.flag_bit(name) else {
            let known = match kind.flag_names() {
                [] => "none".to_owned(),
                names => names.join(", "),
            };
            let scheduler = kind.name();
            let message = format!("scheduler {scheduler} has no option {name:?}; it has: {known}");
            return Err(ApiError::new(ErrorCode::Refused, message).at("scheduler_flags"));
        };
        flags.0 |= 1 << bit;
    }
    Ok(flags)
}

/// The ipvsadm names of a scheduler's options.
pub fn flag_names(kind: SchedulerKind, flags: SchedulerFlags) -> Vec<String> {
    let set = (0..3).filter(|bit| flags.contains(SchedulerFlags(1 << bit)));
    set.filter_map(|bit| kind.flag_name(bit)).map(str::to_owned).collect()
}

/// The core's server.
pub const fn server_spec(server: &Server) -> ServerSpec {
    let Server {
        server,
        mode,
        tunnel,
        weight,
        upper_threshold_conns,
        lower_threshold_conns,
    } = server;
    let mode = match mode {
        Mode::Nat => ForwardingMode::Nat,
        Mode::Tunnel => ForwardingMode::Tunnel,
        Mode::Dr => ForwardingMode::DirectRouting,
        Mode::Local => ForwardingMode::Local,
        Mode::Bypass => ForwardingMode::Bypass,
    };
    ServerSpec {
        addr: server.ip(),
        port: server.port(),
        weight: *weight,
        mode,
        tunnel: core_tunnel(*tunnel),
        upper_threshold: *upper_threshold_conns,
        lower_threshold: *lower_threshold_conns,
    }
}

/// The API's server.
pub const fn server(spec: &ServerSpec) -> Server {
    let ServerSpec {
        addr,
        port,
        weight,
        mode,
        tunnel: kind,
        upper_threshold,
        lower_threshold,
    } = *spec;
    let mode = match mode {
        ForwardingMode::Nat | ForwardingMode::FullNat => Mode::Nat,
        ForwardingMode::Tunnel => Mode::Tunnel,
        ForwardingMode::DirectRouting => Mode::Dr,
        ForwardingMode::Local => Mode::Local,
        ForwardingMode::Bypass => Mode::Bypass,
    };
    Server {
        server: SocketAddr::new(addr, port),
        mode,
        tunnel: tunnel(kind),
        weight,
        upper_threshold_conns: upper_threshold,
        lower_threshold_conns: lower_threshold,
    }
}

/// The API's settings of a service.
pub fn service_settings(spec: &ServiceSpec) -> ServiceSettings {
    let ServiceSpec {
        key: _,
        scheduler,
        scheduler_flags,
        persistence: of_core,
        unused_persistence,
        one_packet,
        client_address: carrier,
        mss_max,
        established_timeout_sec,
        reset_unknown,
    } = *spec;
    ServiceSettings {
        scheduler: scheduler.name().to_owned(),
        scheduler_flags: flag_names(scheduler, scheduler_flags),
        persistence: of_core.map(persistence),
        unused_persistence: unused_persistence.map(api_unused_persistence),
        one_packet,
        client_address: client_address(carrier),
        mss_max,
        established_timeout_sec,
        reset_unknown,
    }
}

/// The API's service.
pub fn service<'spec>(
    spec: &ServiceSpec,
    local_addresses: &[IpAddr],
    servers: impl Iterator<Item = &'spec ServerSpec>,
) -> Service {
    let servers = servers.map(server).collect();
    Service::new(service_settings(spec), id(&spec.key), local_addresses.to_vec(), servers)
}

/// The three timeouts that the API knows.
pub const fn timeouts(timeouts: &protocol::Timeouts) -> Timeouts {
    let (tcp_sec, tcp_fin_sec, udp_sec) = timeouts.shown();
    Timeouts {
        tcp_sec,
        tcp_fin_sec,
        udp_sec,
    }
}

/// The API's counters.
pub const fn totals(totals: stats::Totals) -> lvs_api::Totals {
    let stats::Totals {
        connections,
        in_packets,
        out_packets,
        in_bytes,
        out_bytes,
    } = totals;
    lvs_api::Totals {
        connections,
        in_packets,
        out_packets,
        in_bytes,
        out_bytes,
    }
}

/// The API's rates.
pub const fn rates(rates: stats::Rates) -> lvs_api::Rates {
    let stats::Rates {
        connections_per_sec,
        in_packets_per_sec,
        out_packets_per_sec,
        in_bytes_per_sec,
        out_bytes_per_sec,
    } = rates;
    lvs_api::Rates {
        connections_cps: connections_per_sec,
        in_pps: in_packets_per_sec,
        out_pps: out_packets_per_sec,
        in_bytes_per_sec,
        out_bytes_per_sec,
    }
}

/// Counters and rates as IPVS tools read them.
pub const fn statistics(totals: stats::Totals, rates: stats::Rates) -> Statistics {
    let stats::Totals {
        connections,
        in_packets,
        out_packets,
        in_bytes,
        out_bytes,
    } = totals;
    let stats::Rates {
        connections_per_sec,
        in_packets_per_sec,
        out_packets_per_sec,
        in_bytes_per_sec,
        out_bytes_per_sec,
    } = rates;
    Statistics {
        connections,
        in_packets,
        out_packets,
        in_bytes,
        out_bytes,
        connections_per_sec,
        in_packets_per_sec,
        out_packets_per_sec,
        in_bytes_per_sec,
        out_bytes_per_sec,
    }
}

/// One line of the connection listing; `None` for a protocol that no service can have.
pub fn conn_record(record: &ConnRecord, worker: usize) -> Option<lvs_api::ConnRecord> {
    let protocol = protocol_of_number(record.protocol)?;
    Some(lvs_api::ConnRecord {
        protocol,
        state: record.state_name().to_owned(),
        client: record.client.into(),
        virt: record.virt.into(),
        local: record.local.into(),
        real: record.real.into(),
        forward: record.mode.name().to_owned(),
        expires_in_ms: record.expires_in_ms,
        in_packets: record.in_packets,
        worker: u8::try_from(worker).unwrap_or(u8::MAX),
    })
}

/// Names of all connection states.
pub fn state_names() -> impl Iterator<Item = &'static str> {
    let tcp = TcpState::ALL.into_iter().map(TcpState::name);
    let sctp = SctpState::ALL.into_iter().map(SctpState::name);
    let template = ["NONE", "ASSURED"];
    let mut seen = Vec::new();
    tcp.chain([udp::NAME]).chain(sctp).chain(template).filter(move |name| {
        let new = !seen.contains(name);
        seen.push(*name);
        new
    })
}

const fn mark_protocol_number(protocol: MarkProtocol) -> u8 {
    match protocol {
        MarkProtocol::Tcp => 6,
        MarkProtocol::Udp => 17,
        MarkProtocol::Sctp => 132,
        MarkProtocol::Icmp => 1,
    }
}

/// The core's rule of the classifier; devices by their places.
pub fn core_mark_rule(rule: &MarkRule, devices: &[String]) -> Result<mark::MarkRule, ApiError> {
    let MarkRule {
        mark,
        protocol,
        source,
        destination,
        source_ports,
        destination_ports,
        device,
        divert,
    } = rule;
    let ranges = |ranges: &[PortRange]| ranges.iter().map(|range| range.first..=range.last).collect();
    let device = match device {
        None => None,
        Some(name) => {
            let index = devices.iter().position(|device| device == name).ok_or_else(|| {
                let message = format!(
                    "there is no device {name:?}; there are: {} (one that is new in the configuration needs a restart)",
                    devices.join(", ")
                );
                ApiError::new(ErrorCode::Refused, message).at("device")
            })?;
            Some(DeviceId(index as u8))
        }
    };
    Ok(mark::MarkRule {
        mark: *mark,
        protocol: protocol.map(mark_protocol_number),
        source: source.map(Prefix::net),
        destination: destination.map(Prefix::net),
        source_ports: ranges(source_ports),
        destination_ports: ranges(destination_ports),
        device,
        divert: *divert,
    })
}

/// The API's rule of the classifier; devices by their names.
pub fn mark_rule(rule: &mark::MarkRule, devices: &[String]) -> MarkRule {
    let mark::MarkRule {
        mark,
        protocol,
        source,
        destination,
        source_ports,
        destination_ports,
        device,
        divert,
    } = rule;
    let named = |number: u8| {
        let mut all = MarkProtocol::ALL.into_iter();
        all.find(|protocol| mark_protocol_number(*protocol) == number)
    };
    let ranges = |ranges: &[std::ops::RangeInclusive<u16>]| {
        let one = |range: &std::ops::RangeInclusive<u16>| PortRange {
            first: *range.start(),
            last: *range.end(),
        };
        ranges.iter().map(one).collect()
    };
    MarkRule {
        mark: *mark,
        protocol: protocol.and_then(named),
        source: source.map(Prefix::new),
        destination: destination.map(Prefix::new),
        source_ports: ranges(source_ports),
        destination_ports: ranges(destination_ports),
        device: device.and_then(|id| devices.get(usize::from(id.0)).cloned()),
        divert: *divert,
    }
}

/// The refusal that an error of the core becomes.
pub fn refusal(error: ServiceError) -> ApiError {
    use ServiceError::*;
    let (code, place) = match error {
        ServiceExists { .. } => (ErrorCode::ServiceExists, "service"),
        NoSuchService { .. } => (ErrorCode::NoSuchService, "service"),
        ServerExists { .. } => (ErrorCode::ServerExists, "server"),
        NoSuchServer { .. } => (ErrorCode::NoSuchServer, "server"),
        WeightOutOfRange { .. } => (ErrorCode::Refused, "weight"),
        ThresholdsReversed { .. } => (ErrorCode::Refused, "lower_threshold_conns"),
        ThresholdOutOfRange { .. } => (ErrorCode::Refused, "upper_threshold_conns"),
        MixedFamilies { .. } | ServerNotUnicast { .. } => (ErrorCode::Refused, "server"),
        ModeNotConfigurable { .. } | MixedModes { .. } => (ErrorCode::Refused, "mode"),
        GuePortZero { .. } => (ErrorCode::Refused, "tunnel.port"),
        TunnelWithoutMode { .. } => (ErrorCode::Refused, "tunnel"),
        MarkZero => (ErrorCode::Refused, "service"),
        OnePacketWithoutUdp { .. } | OnePacketWithPool { .. } => (ErrorCode::Refused, "one_packet"),
        ClientAddressWithoutPool { .. } | ClientAddressProtocol { .. } => (ErrorCode::Refused, "client_address"),
        OptionOutOfRange { option, .. } | OptionWithoutProtocol { option, .. } => (ErrorCode::Refused, option),
        PersistenceOutOfRange { .. } => (ErrorCode::Refused, "persistence.timeout_sec"),
        PersistenceMask { .. } => (ErrorCode::Refused, "persistence.netmask"),
        ZeroPortNotPersistent { .. } => (ErrorCode::Refused, "service"),
        LocalAddressFamily { .. }
        | LocalAddressTwice { .. }
        | LocalAddressNotUnicast { .. }
        | TooManyLocalAddresses { .. }
        | PoolCarriesClientAddress { .. } => (ErrorCode::Refused, "local_addresses"),
        TooManyServices | TooManyServers => (ErrorCode::Refused, ""),
    };
    ApiError::new(code, error.to_string()).at(place)
}
