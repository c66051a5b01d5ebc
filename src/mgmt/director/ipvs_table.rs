//! The director as unmodified IPVS tools see it: between the protocol's words and the core's, exhaustively.
//!
//! In:  requests of [`crate::mgmt::ipvs_netlink`]. Out: the same [`Action`]s as the admin socket's.
//! Counters shown are those of the last sample, 2 s old at most, as the kernel's are. What the core cannot
//! do yet is refused with `EOPNOTSUPP`; a local-address pool is not shown: its service masquerades.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use lvs_api::netlink::{
    DaemonRequest, DaemonRow, Errno, Granularity, Info, ServerOptions, ServerRow, ServiceKey, ServiceOptions,
    ServiceRow, Statistics, Timeouts, TimeoutsRequest, Tunnel,
};
use lvs_api::{Action, ApiError, ErrorCode, Mode, Protocol, Server, ServerPatch, Service, ServiceId, ServicePatch};
use lvs_core::ipvs::desired::{ServerListing, ServiceListing};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::scheduler::{SchedulerFlags, SchedulerKind};
use lvs_core::ipvs::service;

use super::counts::Count;
use super::{Director, convert, counts};
use crate::mgmt::ipvs_netlink::IpvsTable;

/// What the kernel's table has unless told otherwise; clients only print it.
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

    fn timeouts(&self) -> Timeouts {
        let (tcp_sec, tcp_fin_sec, udp_sec) = self.wanted.timeouts.shown();
        Timeouts {
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
        let listing = self.wanted.services.listing(&core_key(key)?).ok()?;
        Some(flags_of(listing.spec.scheduler_flags))
    }

    fn service(&mut self, key: &ServiceKey) -> Option<ServiceRow> {
        let listing = self.wanted.services.listing(&core_key(key)?).ok()?;
        Some(self.service_row(&listing))
    }

    fn services(&mut self) -> Vec<ServiceRow> {
        let listings = self.wanted.services.services();
        listings.map(|listing| self.service_row(&listing)).collect()
    }

    fn add_service(&mut self, key: &ServiceKey, options: &ServiceOptions) -> Result<(), Errno> {
        let (scheduler, scheduler_flags) = supported(options)?;
        self.act(Action::AddService(Service {
            service: api_id(key).ok_or(Errno::NotSupported)?,
            scheduler,
            scheduler_flags,
            local_addresses: Vec::new(),
            servers: Vec::new(),
        }))
    }

    fn edit_service(&mut self, key: &ServiceKey, options: &ServiceOptions) -> Result<(), Errno> {
        let (scheduler, scheduler_flags) = supported(options)?;
        let service = api_id(key).ok_or(Errno::NoService)?;
        let patch = ServicePatch {
            scheduler: Some(scheduler),
            scheduler_flags: Some(scheduler_flags),
        };
        self.act(Action::EditService { service, patch })
    }

    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), Errno> {
        self.act(Action::DeleteService(api_id(key).ok_or(Errno::NoService)?))
    }

    fn flush(&mut self) -> Result<(), Errno> {
        self.act(Action::Flush)
    }

    fn servers(&mut self, key: &ServiceKey) -> Vec<ServerRow> {
        let Some(listing) = core_key(key).and_then(|key| self.wanted.services.listing(&key).ok()) else {
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
        let Server {
            server,
            mode,
            weight,
            upper_threshold_conns,
            lower_threshold_conns,
        } = api_server(addr, port, options)?;
        let patch = ServerPatch {
            mode: Some(mode),
            weight: Some(weight),
            upper_threshold_conns: Some(upper_threshold_conns),
            lower_threshold_conns: Some(lower_threshold_conns),
        };
        self.act(Action::EditServer { service, server, patch })
    }

    fn delete_server(&mut self, key: &ServiceKey, addr: IpAddr, port: u16) -> Result<(), Errno> {
        let service = api_id(key).ok_or(Errno::NoService)?;
        let server = SocketAddr::new(addr, port);
        self.act(Action::DeleteServer { service, server })
    }

    fn daemons(&self) -> Vec<DaemonRow> {
        Vec::new()
    }

    fn start_daemon(&mut self, _wanted: &DaemonRequest) -> Result<(), Errno> {
        Err(Errno::NotSupported)
    }

    fn stop_daemon(&mut self, state: u32) -> Result<(), Errno> {
        // None runs.
        Err(if matches!(state, 1 | 2) {
            Errno::NoService
        } else {
            Errno::Invalid
        })
    }

    fn zero(&mut self, key: Option<&ServiceKey>) -> Result<(), Errno> {
        let Some(key) = key else {
            self.zero_stats();
            return Ok(());
        };
        self.count();
        let key = core_key(key).ok_or(Errno::NoService)?;
        let listing = self.wanted.services.listing(&key).map_err(|_| Errno::NoService)?;
        self.counts
            .zero_service(listing.id, listing.servers().map(|server| server.id));
        Ok(())
    }
}

impl Director {
    fn act(&mut self, action: Action) -> Result<(), Errno> {
        self.apply(action, Instant::now()).map_err(|error| errno(&error))
    }

    fn service_row(&self, listing: &ServiceListing<'_>) -> ServiceRow {
        let key = api_key(&listing.spec.key);
        ServiceRow {
            granularity: match key.family() {
                lvs_api::netlink::Family::V4 => Granularity::V4([255; 4].into()),
                lvs_api::netlink::Family::V6 => Granularity::V6(128),
            },
            key,
            scheduler: listing.spec.scheduler.name().to_owned(),
            engine: None,
            flags: flags_of(listing.spec.scheduler_flags),
            timeout_sec: 0,
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
                ForwardingMode::DirectRouting | ForwardingMode::Local => ServerRow::DIRECT_ROUTING,
            },
            weight: spec.weight,
            upper_threshold: spec.upper_threshold,
            lower_threshold: spec.lower_threshold,
            tunnel: Tunnel::default(),
            active: load.active,
            inactive: load.inactive,
            persistent: load.persistent,
            statistics: statistics(self.counts.server(listing.id)),
        }
    }
}

fn statistics(count: Count) -> Statistics {
    let (totals, rates) = (count.totals, count.rates());
    Statistics {
        connections: totals.connections,
        in_packets: totals.in_packets,
        out_packets: totals.out_packets,
        in_bytes: totals.in_bytes,
        out_bytes: totals.out_bytes,
        connections_per_sec: rates.connections_per_sec,
        in_packets_per_sec: rates.in_packets_per_sec,
        out_packets_per_sec: rates.out_packets_per_sec,
        in_bytes_per_sec: rates.in_bytes_per_sec,
        out_bytes_per_sec: rates.out_bytes_per_sec,
    }
}

/// `None`: the director has no such services.
fn api_id(key: &ServiceKey) -> Option<ServiceId> {
    let ServiceKey::Address { protocol, addr, port } = *key else {
        return None;
    };
    let protocol = match protocol {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        _ => return None,
    };
    Some(ServiceId { protocol, addr, port })
}

fn core_key(key: &ServiceKey) -> Option<service::ServiceKey> {
    api_id(key).map(|id| convert::key(&id))
}

fn api_key(key: &service::ServiceKey) -> ServiceKey {
    let service::ServiceKey::Address { protocol, addr, port } = *key;
    ServiceKey::Address {
        protocol: u16::from(protocol.number()),
        addr,
        port,
    }
}

fn flags_of(flags: SchedulerFlags) -> u32 {
    let bits = SCHEDULER_BITS.into_iter().enumerate();
    let set = bits.filter(|(index, _)| flags.contains(SchedulerFlags(1 << index)));
    set.fold(ServiceRow::HASHED, |sum, (_, bit)| sum | bit)
}

/// The scheduler and its options by name, when the core can do all that is wanted.
fn supported(options: &ServiceOptions) -> Result<(String, Vec<String>), Errno> {
    const UNSUPPORTED: u32 = ServiceRow::PERSISTENT | ServiceRow::ONE_PACKET;
    if options.flags & UNSUPPORTED != 0 || options.engine.is_some() {
        return Err(Errno::NotSupported);
    }
    let kind = SchedulerKind::parse(&options.scheduler).ok_or(Errno::NoEntry)?;
    let names = SCHEDULER_BITS.into_iter().zip(kind.flag_names());
    let set = names.filter(|(bit, _)| options.flags & bit != 0);
    Ok((
        options.scheduler.clone(),
        set.map(|(_, name)| (*name).to_owned()).collect(),
    ))
}

fn api_server(addr: IpAddr, port: u16, options: &ServerOptions) -> Result<Server, Errno> {
    let mode = match options.method {
        ServerRow::MASQUERADING => Mode::Nat,
        ServerRow::TUNNEL => Mode::Tunnel,
        // A director has no local node: keepalived's and ldirectord's fallback is asked for as direct routing.
        ServerRow::DIRECT_ROUTING | ServerRow::LOCAL => Mode::Dr,
        _ => return Err(Errno::Invalid),
    };
    if mode == Mode::Tunnel && options.tunnel.kind != 0 {
        return Err(Errno::NotSupported);
    }
    Ok(Server {
        server: SocketAddr::new(addr, port),
        mode,
        weight: u32::try_from(options.weight).map_err(|_| Errno::Range)?,
        upper_threshold_conns: options.upper_threshold,
        lower_threshold_conns: options.lower_threshold,
    })
}

fn errno(error: &ApiError) -> Errno {
    match error.code {
        ErrorCode::ServiceExists | ErrorCode::ServerExists => Errno::Exists,
        ErrorCode::NoSuchService => Errno::NoService,
        ErrorCode::NoSuchServer => Errno::NoEntry,
        ErrorCode::JournalFailed => Errno::Io,
        ErrorCode::Busy => Errno::Busy,
        ErrorCode::Forbidden => Errno::NotPermitted,
        ErrorCode::Refused if error.place.as_deref() == Some("weight") => Errno::Range,
        ErrorCode::Refused
        | ErrorCode::ConfigRefused
        | ErrorCode::Malformed
        | ErrorCode::BadRequest
        | ErrorCode::NoSuchPath
        | ErrorCode::MethodNotAllowed
        | ErrorCode::RequestTimeout
        | ErrorCode::BodyTooLarge => Errno::Invalid,
    }
}
