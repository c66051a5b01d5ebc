//! The director as unmodified IPVS tools see it: between the protocol's words and the core's, exhaustively.
//!
//! In:  requests of [`crate::mgmt::ipvs_netlink`]. Out: the same [`Action`]s as the admin socket's.
//! Counters shown are those of the last sample, 2 s old at most, as the kernel's are. What the core cannot
//! do is refused with `EOPNOTSUPP`; a local-address pool is not shown: its service masquerades.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use lvs_api::netlink::{
    DaemonRequest, DaemonRow, Errno, Family, Granularity, Info, ServerOptions, ServerRow, ServiceKey, ServiceOptions,
    ServiceRow, Statistics, TimeoutsRequest, TimeoutsRow, TunnelRow,
};
use lvs_api::{
    Action, ApiError, ErrorCode, Mode, Netmask, Persistence, Server, Service, ServiceId, ServicePatch, ServiceSettings,
    SettingValue, UnusedPersistence,
};
use lvs_core::address::AddressFamily;
use lvs_core::ipvs::desired::{ServerListing, ServerSpec, ServiceListing, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::persistence::ClientMask;
use lvs_core::ipvs::scheduler::{SchedulerFlags, SchedulerKind};
use lvs_core::ipvs::service;
use lvs_core::ipvs::tunnel_kind::{GueChecksum, TunnelKind};

use super::counts::Count;
use super::{Director, convert, counts};
use crate::mgmt::ipvs_netlink::IpvsTable;

/// The kernel's default; clients only print it.
const TABLE_SIZE: u32 = 4096;

/// The bits of `IP_VS_SVC_F_SCHED1` and following, in the order of a scheduler's options.
const SCHEDULER_BITS: [u32; 3] = [
    ServiceRow::SCHEDULER_1,
    ServiceRow::SCHEDULER_2,
    ServiceRow::SCHEDULER_3,
];

impl IpvsTable for Director {
    fn info(&self) -> Info {
        Info {
            version: Info::VERSION_1_2_1,
            table_size: TABLE_SIZE,
        }
    }

    fn timeouts(&self) -> TimeoutsRow {
        let (tcp_sec, tcp_fin_sec, udp_sec) = self.desired.timeouts.shown();
        TimeoutsRow {
            tcp_sec,
            tcp_fin_sec,
            udp_sec,
        }
    }

    fn set_timeouts(&mut self, wanted: &TimeoutsRequest) -> Result<(), Errno> {
        let patch = lvs_api::TimeoutsPatch {
            tcp_sec: wanted.tcp_sec.unwrap_or(0),
            tcp_fin_sec: wanted.tcp_fin_sec.unwrap_or(0),
            udp_sec: wanted.udp_sec.unwrap_or(0),
        };
        self.act(Action::SetTimeouts(patch))
    }

    fn knows_scheduler(&self, name: &str) -> bool {
        SchedulerKind::parse(name).is_some()
    }

    fn knows_engine(&self, _name: &str) -> bool {
        false
    }

    fn flags(&self, key: &ServiceKey) -> Option<u32> {
        let listing = self.desired.services.listing(&core_key(key)?).ok()?;
        Some(flags_of(listing.spec))
    }

    fn service(&mut self, key: &ServiceKey) -> Option<ServiceRow> {
        let listing = self.desired.services.listing(&core_key(key)?).ok()?;
        Some(self.service_row(&listing))
    }

    fn services(&mut self) -> Vec<ServiceRow> {
        let listings = self.desired.services.services();
        listings.map(|listing| self.service_row(&listing)).collect()
    }

    fn add_service(&mut self, key: &ServiceKey, options: &ServiceOptions) -> Result<(), Errno> {
        let id = api_id(key).ok_or(Errno::NotSupported)?;
        let settings = ServiceSettings::default().patched(patch_of(options)?);
        self.act(Action::AddService(Service::new(settings, id, Vec::new(), Vec::new())))
    }

    fn edit_service(&mut self, key: &ServiceKey, options: &ServiceOptions) -> Result<(), Errno> {
        let patch = patch_of(options)?;
        let service = api_id(key).ok_or(Errno::NoService)?;
        self.act(Action::EditService { service, patch })
    }

    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), Errno> {
        self.act(Action::DeleteService(api_id(key).ok_or(Errno::NoService)?))
    }

    fn flush(&mut self) -> Result<(), Errno> {
        self.act(Action::Flush)
    }

    fn servers(&mut self, key: &ServiceKey) -> Vec<ServerRow> {
        let Some(listing) = core_key(key).and_then(|key| self.desired.services.listing(&key).ok()) else {
            return Vec::new();
        };
        let newest_first = listing.servers().rev();
        newest_first.map(|server| self.server_row(&server)).collect()
    }

    fn add_server(&mut self, key: &ServiceKey, addr: IpAddr, port: u16, options: &ServerOptions) -> Result<(), Errno> {
        let service = api_id(key).ok_or(Errno::NoService)?;
        let server = api_server(addr, port, options)?;
        self.act(Action::AddServer { service, server })
    }

    fn edit_server(&mut self, key: &ServiceKey, addr: IpAddr, port: u16, options: &ServerOptions) -> Result<(), Errno> {
        let service = api_id(key).ok_or(Errno::NoService)?;
        let wanted = api_server(addr, port, options)?;
        let (server, patch) = (wanted.server, wanted.settings().into());
        self.act(Action::EditServer { service, server, patch })
    }

    fn delete_server(&mut self, key: &ServiceKey, addr: IpAddr, port: u16) -> Result<(), Errno> {
        let service = api_id(key).ok_or(Errno::NoService)?;
        let server = SocketAddr::new(addr, port);
        self.act(Action::DeleteServer { service, server })
    }

    fn daemons(&self) -> Vec<DaemonRow> {
        self.daemon_rows()
    }

    fn start_daemon(&mut self, wanted: &DaemonRequest) -> Result<(), Errno> {
        Self::start_daemon(self, wanted)
    }

    fn stop_daemon(&mut self, state: u32) -> Result<(), Errno> {
        Self::stop_daemon(self, state)
    }

    fn sysctl(&self, name: &str) -> Option<String> {
        self.desired.sysctls.get(name)
    }

    fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), Errno> {
        if self.desired.sysctls.get(name).is_none() {
            return Err(Errno::NoEntry);
        }
        let named = [(name.to_owned(), SettingValue(value.to_owned()))];
        // For a value out of range the kernel answers EINVAL, whichever error the daemon's own API has for it.
        self.act(Action::SetSysctls(named.into())).map_err(|_| Errno::Invalid)
    }

    fn zero(&mut self, key: Option<&ServiceKey>) -> Result<(), Errno> {
        let Some(key) = key else {
            self.zero_stats();
            return Ok(());
        };
        self.count();
        let key = core_key(key).ok_or(Errno::NoService)?;
        let listing = self.desired.services.listing(&key).map_err(|_| Errno::NoService)?;
        self.counts
            .zero_service(listing.id, listing.servers().map(|server| server.id));
        self.store_counts();
        Ok(())
    }
}

impl Director {
    pub(super) fn act(&mut self, action: Action) -> Result<(), Errno> {
        self.apply(action, Instant::now()).map_err(|error| errno(&error))
    }

    fn service_row(&self, listing: &ServiceListing<'_>) -> ServiceRow {
        let spec = listing.spec;
        let said = spec.persistence.or(spec.unused_persistence);
        let mask = said.map(|persistence| persistence.mask);
        ServiceRow {
            granularity: match mask.unwrap_or_else(|| ClientMask::whole(spec.key.family())) {
                ClientMask::Ipv4(mask) => Granularity::V4(mask),
                ClientMask::Ipv6(len) => Granularity::V6(u32::from(len)),
            },
            key: api_key(&spec.key),
            scheduler: spec.scheduler.name().to_owned(),
            engine: None,
            flags: flags_of(spec),
            timeout_sec: said.map_or(0, |persistence| persistence.timeout_sec),
            statistics: statistics(self.counts.service(listing.id)),
        }
    }

    fn server_row(&self, listing: &ServerListing) -> ServerRow {
        let spec = &listing.spec;
        let load = counts::load(&self.workers, listing.id);
        ServerRow {
            addr: spec.addr,
            port: spec.port,
            method: match spec.mode {
                ForwardingMode::Nat | ForwardingMode::FullNat => ServerRow::MASQUERADING,
                ForwardingMode::Tunnel => ServerRow::TUNNEL,
                ForwardingMode::DirectRouting => ServerRow::DIRECT_ROUTING,
                ForwardingMode::Local => ServerRow::LOCAL,
                ForwardingMode::Bypass => ServerRow::BYPASS,
            },
            weight: spec.weight,
            upper_threshold: spec.upper_threshold,
            lower_threshold: spec.lower_threshold,
            tunnel: tunnel_row(spec),
            active: load.active,
            inactive: load.inactive,
            persistent: load.persistent,
            statistics: statistics(self.counts.server(listing.id)),
        }
    }
}

fn statistics(count: Count) -> Statistics {
    convert::statistics(count.totals, count.rates())
}

/// `None`: the director has no such services.
fn api_id(key: &ServiceKey) -> Option<ServiceId> {
    match *key {
        ServiceKey::Address { protocol, addr, port } => {
            let protocol = convert::protocol_of_number(u8::try_from(protocol).ok()?)?;
            Some(ServiceId::Address { protocol, addr, port })
        }
        ServiceKey::Mark { family, mark } => Some(ServiceId::Fwmark {
            mark,
            is_ipv6: family == Family::V6,
        }),
    }
}

fn core_key(key: &ServiceKey) -> Option<service::ServiceKey> {
    api_id(key).map(|id| convert::key(&id))
}

fn api_key(key: &service::ServiceKey) -> ServiceKey {
    match *key {
        service::ServiceKey::Address { protocol, addr, port } => ServiceKey::Address {
            protocol: u16::from(protocol.number()),
            addr,
            port,
        },
        service::ServiceKey::Fwmark { mark, family } => ServiceKey::Mark {
            family: match family {
                AddressFamily::Ipv4 => Family::V4,
                AddressFamily::Ipv6 => Family::V6,
            },
            mark,
        },
    }
}

fn flags_of(spec: &ServiceSpec) -> u32 {
    let bits = SCHEDULER_BITS.into_iter().enumerate();
    let set = bits.filter(|(index, _)| spec.scheduler_flags.contains(SchedulerFlags(1 << index)));
    let scheduler = set.fold(ServiceRow::HASHED, |sum, (_, bit)| sum | bit);
    let persistent = spec.persistence.map_or(0, |_| ServiceRow::PERSISTENT);
    let one_packet = if spec.one_packet { ServiceRow::ONE_PACKET } else { 0 };
    scheduler | persistent | one_packet
}

/// The options that the protocol knows, when the core can do all of them; the others stay as they are.
fn patch_of(options: &ServiceOptions) -> Result<ServicePatch, Errno> {
    if options.engine.is_some() {
        return Err(Errno::NotSupported);
    }
    let kind = SchedulerKind::parse(&options.scheduler).ok_or(Errno::NoEntry)?;
    let bits = SCHEDULER_BITS.into_iter().enumerate();
    let set = bits.filter(|(_, bit)| options.flags & bit != 0);
    let names = set.filter_map(|(index, _)| kind.flag_name(index));
    let netmask = match options.granularity {
        Granularity::V4(mask) => Netmask::Ipv4(mask),
        Granularity::V6(len) => Netmask::Ipv6(u8::try_from(len).map_err(|_| Errno::Invalid)?),
    };
    let (timeout_sec, netmask) = (options.timeout_sec, netmask.narrowed());
    let is_persistent = options.flags & ServiceRow::PERSISTENT != 0;
    let unused = UnusedPersistence { timeout_sec, netmask };
    let is_told = unused != UnusedPersistence::default();
    Ok(ServicePatch {
        scheduler: Some(options.scheduler.clone()),
        scheduler_flags: Some(names.map(str::to_owned).collect()),
        persistence: Some(is_persistent.then_some(Persistence { timeout_sec, netmask })),
        unused_persistence: Some((!is_persistent && is_told).then_some(unused)),
        one_packet: Some(options.flags & ServiceRow::ONE_PACKET != 0),
        ..ServicePatch::default()
    })
}

/// How a tunnelling server is reached. For other servers nothing is listed, as in the kernel.
fn tunnel_row(spec: &ServerSpec) -> TunnelRow {
    let of = |kind, port, flags| TunnelRow { kind, port, flags };
    match spec.tunnel {
        _ if spec.mode != ForwardingMode::Tunnel => TunnelRow::default(),
        TunnelKind::IpIp => TunnelRow::default(),
        TunnelKind::Gre { checksum: false } => of(TunnelRow::KIND_GRE, 0, 0),
        TunnelKind::Gre { checksum: true } => of(TunnelRow::KIND_GRE, 0, TunnelRow::CHECKSUM),
        TunnelKind::Gue { port, checksum } => match checksum {
            GueChecksum::No => of(TunnelRow::KIND_GUE, port, 0),
            GueChecksum::Full => of(TunnelRow::KIND_GUE, port, TunnelRow::CHECKSUM),
            GueChecksum::RemoteOffload => of(TunnelRow::KIND_GUE, port, TunnelRow::REMOTE_CHECKSUM),
        },
    }
}

/// The tunnel that a request asks for.
const fn api_tunnel(tunnel: TunnelRow) -> Result<lvs_api::Tunnel, Errno> {
    let TunnelRow { kind, port, flags } = tunnel;
    match kind {
        0 => Ok(lvs_api::Tunnel::Ipip),
        TunnelRow::KIND_GRE => Ok(lvs_api::Tunnel::Gre {
            checksum: flags & TunnelRow::CHECKSUM != 0,
        }),
        TunnelRow::KIND_GUE => {
            let checksum = if flags & TunnelRow::REMOTE_CHECKSUM != 0 {
                lvs_api::GueChecksum::Remote
            } else if flags & TunnelRow::CHECKSUM != 0 {
                lvs_api::GueChecksum::Full
            } else {
                lvs_api::GueChecksum::No
            };
            Ok(lvs_api::Tunnel::Gue { port, checksum })
        }
        _ => Err(Errno::Invalid),
    }
}

fn api_server(addr: IpAddr, port: u16, options: &ServerOptions) -> Result<Server, Errno> {
    let mode = match options.method {
        ServerRow::MASQUERADING => Mode::Nat,
        ServerRow::TUNNEL => Mode::Tunnel,
        ServerRow::DIRECT_ROUTING => Mode::Dr,
        ServerRow::LOCAL => Mode::Local,
        ServerRow::BYPASS => Mode::Bypass,
        _ => return Err(Errno::Invalid),
    };
    let tunnel = match mode {
        Mode::Tunnel => api_tunnel(options.tunnel)?,
        Mode::Nat | Mode::Dr | Mode::Local | Mode::Bypass => lvs_api::Tunnel::Ipip,
    };
    Ok(Server {
        server: SocketAddr::new(addr, port),
        mode,
        tunnel,
        weight: u32::try_from(options.weight).map_err(|_| Errno::Range)?,
        upper_threshold_conns: options.upper_threshold,
        lower_threshold_conns: options.lower_threshold,
    })
}

fn errno(error: &ApiError) -> Errno {
    match error.code {
        ErrorCode::ServiceExists | ErrorCode::ServerExists | ErrorCode::SyncDaemonExists => Errno::Exists,
        ErrorCode::NoSuchService | ErrorCode::NoSuchSyncDaemon => Errno::NoService,
        ErrorCode::NoSuchInterface => Errno::NoDevice,
        ErrorCode::NoSuchServer => Errno::NoEntry,
        ErrorCode::Busy => Errno::Busy,
        ErrorCode::Forbidden => Errno::NotPermitted,
        ErrorCode::Refused if matches!(error.place.as_deref(), Some("weight" | "lower_threshold_conns")) => {
            Errno::Range
        }
        ErrorCode::Refused
        | ErrorCode::ConfigRefused
        | ErrorCode::Malformed
        | ErrorCode::BadRequest
        | ErrorCode::NoSuchPath
        | ErrorCode::NoSuchMark
        | ErrorCode::MethodNotAllowed
        | ErrorCode::RequestTimeout
        | ErrorCode::BodyTooLarge => Errno::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lvs_core::ipvs::desired::ServiceError;
    use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};

    /// Linux ip_vs_ctl.c `ip_vs_add_dest`, `ip_vs_add_service`, `ip_vs_genl_parse_dest`.
    #[test]
    fn what_is_refused_has_the_errno_of_the_kernel() {
        let server = "198.51.100.1:80".parse().unwrap();
        let (addr, port) = ("198.51.100.1".parse().unwrap(), 80);
        let service = ServiceKey::Address {
            protocol: ServiceProtocol::Tcp,
            addr: "192.0.2.1".parse().unwrap(),
            port: 80,
        };
        let reversed = ServiceError::ThresholdsReversed {
            server,
            upper: 1,
            lower: 2,
        };
        let too_high = ServiceError::ThresholdOutOfRange {
            server,
            upper: u32::MAX,
        };
        for (error, expected) in [
            (ServiceError::ServiceExists { service }, Errno::Exists),
            (ServiceError::NoSuchService { service }, Errno::NoService),
            (ServiceError::ServerExists { service, addr, port }, Errno::Exists),
            (ServiceError::NoSuchServer { service, addr, port }, Errno::NoEntry),
            (
                ServiceError::WeightOutOfRange {
                    server,
                    weight: u32::MAX,
                },
                Errno::Range,
            ),
            (reversed, Errno::Range),
            (too_high, Errno::Invalid),
            (ServiceError::GuePortZero { server }, Errno::Invalid),
            (ServiceError::MarkZero, Errno::Invalid),
            (ServiceError::PersistenceMask { service }, Errno::Invalid),
            (ServiceError::MixedFamilies { service, server }, Errno::Invalid),
        ] {
            assert_eq!(errno(&convert::refusal(error)), expected, "{error}");
        }
    }
}
