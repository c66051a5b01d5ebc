//! Turns the file as written into a valid [`Config`]. It checks ranges and uniqueness here, and services by the same
//! [`DesiredServices`] that the API changes, so that file and API cannot disagree.

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::error::{ConfigProblem, Invalid};
use super::raw::{
    Idle, Optional, RawApi, RawConfig, RawConnections, RawDevice, RawEal, RawMetrics, RawMode, RawOverhead,
    RawRealServer, RawService, RawTimeouts, RawWorkers,
};
use super::{
    ApiConfig, Config, ConnectionsConfig, DeviceConfig, EalConfig, JournalConfig, MetricsConfig, ServiceConfig,
    WorkersConfig,
};
use super::{marks, service_key, sync_daemons, sysctls};
use crate::ipvs::client_address::ClientAddress;
use crate::ipvs::desired::{DesiredServices, ServerSpec, ServiceError, ServiceSpec};
use crate::ipvs::forwarding::ForwardingMode;
use crate::ipvs::protocol::Timeouts;
use crate::ipvs::scheduler::{Overhead, SchedulerFlags, SchedulerKind};
use crate::limits::{DEVICES_MAX, TIMEOUT_CONFIGURED_MAX_SEC, WORKERS_MAX};

/// More than any machine has; DPDK itself may know fewer.
const CORE_MAX: u64 = 1_023;
/// 1 TiB.
const MEMORY_MAX_MB: u64 = 1 << 20;
/// About 40 GB of buffers.
const MBUFS_MAX: u64 = 16_777_216;
/// Longer sleeps overflow a receive queue at a million packets a second.
const IDLE_SLEEP_US: RangeInclusive<u64> = 1..=1_000;
/// The longest sleep of a quiet worker with `idle = "adaptive"`, because housekeeping is due every millisecond.
const ADAPTIVE_SLEEP_US: u32 = 1_000;
/// From a small lab to 2²⁸, the limit of indices and memory.
const CONNECTIONS: RangeInclusive<u64> = 1_024..=(1 << 28);
/// What NICs accept.
const QUEUE_SIZE: RangeInclusive<u64> = 64..=32_768;
/// From IPv6's minimum (RFC 8200 5) to the largest jumbo frame of common NICs.
const MTU: RangeInclusive<u64> = 1_280..=9_600;
/// `IFNAMSIZ` less the terminating byte.
const INTERFACE_NAME_MAX: usize = 15;

pub(super) fn validate(raw: RawConfig) -> Result<Config, Invalid> {
    let workers = workers(&raw.workers, &raw.eal)?;
    let overhead = match raw.ipvs.overhead.map(Spanned::into_inner) {
        Some(RawOverhead::Current) => Overhead::Current,
        Some(RawOverhead::Classic) | None => Overhead::Classic,
    };
    Ok(Config {
        eal: eal(raw.eal, workers.idle)?,
        workers,
        connections: connections(&raw.connections)?,
        timeouts: timeouts(&raw.timeouts)?,
        api: api(raw.api)?,
        metrics: metrics(&raw.metrics)?,
        journal: JournalConfig {
            path: absolute(raw.journal.path, JournalConfig::default().path)?,
        },
        overhead,
        marks: marks::marks(&raw.mark, &raw.device)?,
        sysctls: sysctls::sysctls(&raw.sysctl)?,
        sync_daemons: sync_daemons::sync_daemons(&raw.sync_daemon)?,
        devices: devices(&raw.device)?,
        services: services(&raw.service, overhead)?,
    })
}

fn eal(raw: RawEal, idle: Idle) -> Result<EalConfig, Invalid> {
    let default = EalConfig::default();
    let main_core = in_range(&raw.main_core, 0..=CORE_MAX, default.main_core)?;
    let mut taken = HashSet::from([main_core]);
    let mut worker_cores = Vec::new();
    for core in raw.worker_cores.as_ref().map_or(&[][..], |cores| cores.get_ref()) {
        let number = ranged(core, 0..=CORE_MAX)?;
        // Two threads on one core that never sleep would starve each other.
        if !taken.insert(number) && idle != Idle::Sleep {
            let cure = "give every worker a core of its own, other than eal.main_core, or set workers.idle = \"sleep\"";
            return invalid(
                core,
                ConfigProblem::Duplicate {
                    what: "core",
                    value: number.to_string(),
                    cure,
                },
            );
        }
        worker_cores.push(number);
    }
    Ok(EalConfig {
        hugepages: raw.hugepages.map_or(default.hugepages, Spanned::into_inner),
        memory_mb: in_range(&raw.memory_mb, 0..=MEMORY_MAX_MB, default.memory_mb)?,
        mbufs: in_range(&raw.mbufs, 0..=MBUFS_MAX, default.mbufs)?,
        main_core,
        worker_cores,
        extra_args: raw.extra_args.map_or(default.extra_args, Spanned::into_inner),
    })
}

fn workers(raw: &RawWorkers, eal: &RawEal) -> Result<WorkersConfig, Invalid> {
    let default = WorkersConfig::default();
    let count = match &raw.count {
        Some(count) => Some((count, u64::from(ranged(count, 1..=WORKERS_MAX as u64)?))),
        None => None,
    };
    let cores = eal.worker_cores.as_ref().filter(|cores| !cores.get_ref().is_empty());
    let count = match (count, cores) {
        (Some((key, count)), Some(cores)) if count != cores.get_ref().len() as u64 => {
            return invalid(
                key,
                ConfigProblem::WorkersAndCores {
                    count,
                    cores: cores.get_ref().len(),
                },
            );
        }
        (Some((_, count)), _) => count,
        (None, Some(cores)) => {
            let count = cores.get_ref().len() as u64;
            check_range(cores.span(), count, 1..=WORKERS_MAX as u64)?;
            count
        }
        (None, None) => u64::from(default.count),
    };
    let idle = raw.idle.as_ref().map_or(default.idle, |idle| *idle.get_ref());
    let default_sleep_us = match idle {
        Idle::Adaptive => ADAPTIVE_SLEEP_US,
        _ => default.idle_sleep_us,
    };
    Ok(WorkersConfig {
        count: count as u8,
        idle,
        idle_sleep_us: in_range(&raw.idle_sleep_us, IDLE_SLEEP_US, default_sleep_us)?,
    })
}

fn connections(raw: &RawConnections) -> Result<ConnectionsConfig, Invalid> {
    let default = ConnectionsConfig::default();
    Ok(ConnectionsConfig {
        ipv4_max: in_range(&raw.ipv4_max, CONNECTIONS, default.ipv4_max)?,
        ipv6_max: in_range(&raw.ipv6_max, CONNECTIONS, default.ipv6_max)?,
    })
}

fn timeouts(raw: &RawTimeouts) -> Result<Timeouts, Invalid> {
    let mut timeouts = Timeouts::default();
    // 0 would mean "unchanged" to `set`.
    let allowed = 1..=u64::from(TIMEOUT_CONFIGURED_MAX_SEC);
    let tcp_sec = in_range(&raw.tcp_sec, allowed.clone(), 0)?;
    let tcp_fin_sec = in_range(&raw.tcp_fin_sec, allowed.clone(), 0)?;
    let udp_sec = in_range(&raw.udp_sec, allowed.clone(), 0)?;
    timeouts.set(tcp_sec, tcp_fin_sec, udp_sec).map_err(|_| Invalid {
        span: 0..0,
        problem: ConfigProblem::OutOfRange {
            value: 0,
            min: *allowed.start(),
            max: *allowed.end(),
        },
    })?;
    Ok(timeouts)
}

fn api(raw: RawApi) -> Result<ApiConfig, Invalid> {
    let default = ApiConfig::default();
    Ok(ApiConfig {
        socket: absolute(raw.socket, default.socket)?,
        group: raw.group.map_or(default.group, Spanned::into_inner),
    })
}

fn metrics(raw: &RawMetrics) -> Result<MetricsConfig, Invalid> {
    let Some(listen) = raw.listen.as_ref().filter(|listen| !listen.get_ref().is_empty()) else {
        return Ok(MetricsConfig::default());
    };
    match listen.get_ref().parse() {
        Ok(address) => Ok(MetricsConfig { listen: Some(address) }),
        Err(_) => invalid(
            listen,
            ConfigProblem::NotA {
                value: listen.get_ref().clone(),
                wanted: "an address with a port",
                cure: "write \"192.0.2.1:9190\" or \"[2001:db8::1]:9190\"".into(),
            },
        ),
    }
}

fn devices(raw: &[RawDevice]) -> Result<Vec<DeviceConfig>, Invalid> {
    let mut devices: Vec<DeviceConfig> = Vec::new();
    for device in raw {
        if devices.len() == DEVICES_MAX {
            check_range(device.name.span(), raw.len() as u64, 0..=DEVICES_MAX as u64)?;
        }
        let (name, dpdk) = (device.name.get_ref(), device.dpdk.get_ref());
        if devices.iter().any(|other| other.name == *name) {
            let cure = "give every device a name of its own";
            return invalid(
                &device.name,
                ConfigProblem::Duplicate {
                    what: "device",
                    value: name.clone(),
                    cure,
                },
            );
        }
        if devices.iter().any(|other| other.dpdk == *dpdk) {
            let cure = "name every NIC once";
            return invalid(
                &device.dpdk,
                ConfigProblem::Duplicate {
                    what: "NIC",
                    value: dpdk.clone(),
                    cure,
                },
            );
        }
        check_interface_name(&device.name)?;
        check_dpdk_name(&device.dpdk)?;
        let default = DeviceConfig::new(name, dpdk);
        devices.push(DeviceConfig {
            mac: device.mac.as_ref().map(mac).transpose()?.flatten(),
            rx_queue_size: queue_size(&device.rx_queue_size, default.rx_queue_size)?,
            tx_queue_size: queue_size(&device.tx_queue_size, default.tx_queue_size)?,
            mtu: in_range(&device.mtu, MTU, default.mtu)?,
            promiscuous: device
                .promiscuous
                .as_ref()
                .map_or(default.promiscuous, |value| *value.get_ref()),
            ..default
        });
    }
    Ok(devices)
}

fn check_interface_name(name: &Spanned<String>) -> Result<(), Invalid> {
    let text = name.get_ref();
    let is_usable = (1..=INTERFACE_NAME_MAX).contains(&text.len())
        && text != "."
        && text != ".."
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    if is_usable {
        return Ok(());
    }
    let cure = format!("give 1 to {INTERFACE_NAME_MAX} letters and digits, like \"dp0\"");
    invalid(
        name,
        ConfigProblem::NotA {
            value: text.clone(),
            wanted: "an interface name",
            cure,
        },
    )
}

fn check_dpdk_name(dpdk: &Spanned<String>) -> Result<(), Invalid> {
    if !dpdk.get_ref().is_empty() && !dpdk.get_ref().contains(char::is_whitespace) {
        return Ok(());
    }
    let cure = "give a PCI address like \"0000:03:00.0\" or a virtual device like \"net_tap0,iface=tap0\"".into();
    invalid(
        dpdk,
        ConfigProblem::NotA {
            value: dpdk.get_ref().clone(),
            wanted: "a DPDK device",
            cure,
        },
    )
}

/// `None` for the empty text: the NIC's own address.
fn mac(text: &Spanned<String>) -> Result<Option<[u8; 6]>, Invalid> {
    if text.get_ref().is_empty() {
        return Ok(None);
    }
    let byte = |digits: &str| {
        let is_hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)
    };
    let bytes: Option<Vec<u8>> = text.get_ref().split(':').map(byte).collect();
    let mac = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    match mac.filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6]) {
        Some(mac) => Ok(Some(mac)),
        None => {
            let cure = "give six bytes like \"02:00:00:00:00:01\", the first one even".into();
            let value = text.get_ref().clone();
            invalid(
                text,
                ConfigProblem::NotA {
                    value,
                    wanted: "a unicast MAC address",
                    cure,
                },
            )
        }
    }
}

fn queue_size(size: &Optional<u16>, default: u16) -> Result<u16, Invalid> {
    let value = in_range(size, QUEUE_SIZE, default)?;
    match size {
        Some(size) if !value.is_power_of_two() => {
            let cure = format!(
                "give {} or {}",
                value.next_power_of_two() / 2,
                value.next_power_of_two()
            );
            invalid(
                size,
                ConfigProblem::NotA {
                    value: value.to_string(),
                    wanted: "a power of two",
                    cure,
                },
            )
        }
        _ => Ok(value),
    }
}

fn services(raw: &[Spanned<RawService>], overhead: Overhead) -> Result<Vec<ServiceConfig>, Invalid> {
    let mut desired = DesiredServices::new(overhead);
    raw.iter().map(|service| self::service(service, &mut desired)).collect()
}

/// One service, tried out on `desired`.
fn service(spanned: &Spanned<RawService>, desired: &mut DesiredServices) -> Result<ServiceConfig, Invalid> {
    let raw = spanned.get_ref();
    let key = service_key::of(spanned)?;
    let named = raw.address.as_ref().map(Spanned::span);
    let named = named.or_else(|| raw.fwmark.as_ref().map(Spanned::span));
    let named = named.unwrap_or_else(|| spanned.span());
    let scheduler = scheduler(&raw.scheduler)?;
    let spec = ServiceSpec {
        key,
        scheduler,
        scheduler_flags: scheduler_flags(scheduler, raw)?,
        persistence: service_key::persistence(raw, &key)?,
        one_packet: raw.one_packet.as_ref().is_some_and(|yes| *yes.get_ref()),
        client_address: client_address(&raw.client_address)?,
        mss_max: raw.mss_max.as_ref().map_or(0, |mss| *mss.get_ref()),
    };
    let refused = |error: ServiceError| {
        let at = match error {
            ServiceError::ClientAddressWithoutPool { .. } | ServiceError::ClientAddressProtocol { .. } => {
                raw.client_address.as_ref().map(Spanned::span)
            }
            ServiceError::MssOutOfRange { .. } | ServiceError::MssWithoutTcp { .. } => {
                raw.mss_max.as_ref().map(Spanned::span)
            }
            ServiceError::ZeroPortNotPersistent { .. } => raw.port.as_ref().map(Spanned::span),
            ServiceError::OnePacketWithoutUdp { .. } => raw.one_packet.as_ref().map(Spanned::span),
            ServiceError::PersistenceOutOfRange { .. } => raw.persistence_timeout_sec.as_ref().map(Spanned::span),
            ServiceError::PersistenceMask { .. } => raw.persistence_netmask.as_ref().map(Spanned::span),
            _ => None,
        };
        Invalid {
            span: at.unwrap_or_else(|| named.clone()),
            problem: error.into(),
        }
    };
    let without_pool = ServiceSpec {
        client_address: ClientAddress::None,
        ..spec
    };
    desired.add_service(without_pool).map_err(refused)?;
    let pool = raw.local_addresses.as_ref().map_or(&[][..], |pool| pool.get_ref());
    let local_addresses: Vec<IpAddr> = pool.iter().map(|addr| *addr.get_ref()).collect();
    desired
        .set_local_addresses(&key, local_addresses.clone())
        .map_err(|error| Invalid {
            span: local_address_span(pool, &error).unwrap_or_else(|| named.clone()),
            problem: error.into(),
        })?;
    desired.edit_service(spec).map_err(refused)?;
    let mut servers = Vec::new();
    for server in &raw.real_server {
        let spec = server_spec(server, key.port())?;
        desired.add_server(&key, spec).map_err(|error| Invalid {
            span: server_span(server, &error),
            problem: error.into(),
        })?;
        servers.push(spec);
    }
    Ok(ServiceConfig {
        spec,
        local_addresses,
        servers,
    })
}

fn scheduler(name: &Optional<String>) -> Result<SchedulerKind, Invalid> {
    let Some(name) = name else {
        return Ok(SchedulerKind::Wlc);
    };
    match SchedulerKind::parse(name.get_ref()) {
        Some(kind) => Ok(kind),
        None => {
            let names: Vec<&str> = SchedulerKind::ALL.iter().map(|kind| kind.name()).collect();
            let cure = format!("give one of {}", names.join(" "));
            invalid(
                name,
                ConfigProblem::NotA {
                    value: name.get_ref().clone(),
                    wanted: "a scheduler",
                    cure,
                },
            )
        }
    }
}

fn client_address(name: &Optional<String>) -> Result<ClientAddress, Invalid> {
    let Some(name) = name else {
        return Ok(ClientAddress::None);
    };
    ClientAddress::parse(name.get_ref()).map_or_else(
        || {
            let names = ClientAddress::ALL.map(ClientAddress::name);
            let problem = ConfigProblem::NotA {
                value: name.get_ref().clone(),
                wanted: "a way to tell the client's address",
                cure: format!("give one of {}", names.join(" ")),
            };
            invalid(name, problem)
        },
        Ok,
    )
}

fn scheduler_flags(scheduler: SchedulerKind, raw: &RawService) -> Result<SchedulerFlags, Invalid> {
    let known = scheduler.flag_names();
    let mut flags = SchedulerFlags(0);
    for name in raw.scheduler_flags.as_ref().map_or(&[][..], |names| names.get_ref()) {
        let Some(bit) = scheduler.flag_bit(name.get_ref()) else {
            let cure = match known {
                [] => format!("{} has none, remove it", scheduler.name()),
                known => format!("{} has {}", scheduler.name(), known.join(" and ")),
            };
            let value = name.get_ref().clone();
            return invalid(
                name,
                ConfigProblem::NotA {
                    value,
                    wanted: "an option of the scheduler",
                    cure,
                },
            );
        };
        flags.0 |= 1 << bit;
    }
    Ok(flags)
}

fn server_spec(raw: &RawRealServer, service_port: u16) -> Result<ServerSpec, Invalid> {
    let mode = match raw.mode.as_ref().map(Spanned::get_ref) {
        Some(RawMode::Nat) => ForwardingMode::Nat,
        Some(RawMode::Tunnel) => ForwardingMode::Tunnel,
        Some(RawMode::Dr) | None => ForwardingMode::DirectRouting,
    };
    let number = |value: &Optional<u32>, default: u32| value.as_ref().map_or(default, |value| *value.get_ref());
    Ok(ServerSpec {
        addr: *raw.address.get_ref(),
        port: raw.port.as_ref().map_or(service_port, |port| *port.get_ref()),
        weight: number(&raw.weight, 1),
        mode,
        tunnel: service_key::tunnel(raw)?,
        upper_threshold: number(&raw.upper_threshold, 0),
        lower_threshold: number(&raw.lower_threshold, 0),
    })
}

/// The key that an error of a real server is about.
fn server_span(raw: &RawRealServer, error: &ServiceError) -> Range<usize> {
    let at = match error {
        ServiceError::WeightOutOfRange { .. } => raw.weight.as_ref().map(Spanned::span),
        ServiceError::TunnelWithoutMode { .. } => raw.tunnel.as_ref().map(Spanned::span),
        ServiceError::GuePortZero { .. } => {
            let port = raw.tunnel_port.as_ref().map(Spanned::span);
            port.or_else(|| raw.tunnel.as_ref().map(Spanned::span))
        }
        ServiceError::ThresholdsReversed { .. } => raw.lower_threshold.as_ref().map(Spanned::span),
        ServiceError::ThresholdOutOfRange { .. } => raw.upper_threshold.as_ref().map(Spanned::span),
        _ => None,
    };
    at.unwrap_or_else(|| raw.address.span())
}

/// The element that an error of a local-address pool is about.
fn local_address_span(pool: &[Spanned<IpAddr>], error: &ServiceError) -> Option<Range<usize>> {
    let culprit = match error {
        ServiceError::LocalAddressFamily { addr, .. }
        | ServiceError::LocalAddressTwice { addr, .. }
        | ServiceError::LocalAddressNotUnicast { addr } => {
            pool.iter().rev().find(|candidate| candidate.get_ref() == addr)
        }
        _ => pool.first(),
    };
    culprit.map(Spanned::span)
}

fn absolute(path: Optional<String>, default: PathBuf) -> Result<PathBuf, Invalid> {
    let Some(path) = path else { return Ok(default) };
    if Path::new(path.get_ref()).is_absolute() {
        return Ok(path.into_inner().into());
    }
    let cure = "let it begin with /".into();
    invalid(
        &path,
        ConfigProblem::NotA {
            value: path.get_ref().clone(),
            wanted: "an absolute path",
            cure,
        },
    )
}

/// The value if there is one and it is in range, else the default.
pub(super) fn in_range<T: Copy + Into<u64>>(
    value: &Optional<T>,
    range: RangeInclusive<u64>,
    default: T,
) -> Result<T, Invalid> {
    value.as_ref().map_or(Ok(default), |value| ranged(value, range))
}

fn ranged<T: Copy + Into<u64>>(value: &Spanned<T>, range: RangeInclusive<u64>) -> Result<T, Invalid> {
    check_range(value.span(), (*value.get_ref()).into(), range)?;
    Ok(*value.get_ref())
}

fn check_range(span: Range<usize>, value: u64, range: RangeInclusive<u64>) -> Result<(), Invalid> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(Invalid {
        span,
        problem: ConfigProblem::OutOfRange {
            value,
            min: *range.start(),
            max: *range.end(),
        },
    })
}

fn invalid<T, U>(at: &Spanned<T>, problem: ConfigProblem) -> Result<U, Invalid> {
    Err(Invalid {
        span: at.span(),
        problem,
    })
}
