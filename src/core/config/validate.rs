//! Turns the file as written into a valid [`Config`]. It checks ranges and uniqueness here, and services by the same
//! [`DesiredServices`](crate::ipvs::desired::DesiredServices) that the API changes, so that file and API cannot disagree.

use std::collections::HashSet;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::error::{ConfigProblem, Invalid};
use super::raw::{
    Idle, Optional, RawApi, RawConfig, RawConnections, RawDevice, RawEal, RawMetrics, RawOverhead, RawTimeouts,
    RawWorkers,
};
use super::{
    ApiConfig, Config, ConnectionsConfig, DeviceConfig, EalConfig, JournalConfig, MetricsConfig, WorkersConfig,
};
use super::{marks, service, sync_daemons, sysctls};
use crate::ipvs::protocol::Timeouts;
use crate::ipvs::scheduler::Overhead;
use crate::limits::{DEVICES_MAX, LOCAL_PORT_REST_MAX_SEC, TIMEOUT_CONFIGURED_MAX_SEC, WORKERS_MAX};

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
/// A worker sleeps a millisecond at most, so a second is long; an hour is for who debugs a worker that is held.
const STANDSTILL_SEC: RangeInclusive<u64> = 1..=3_600;
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
        connections: connections(raw.connections)?,
        timeouts: timeouts(&raw.timeouts)?,
        api: api(raw.api)?,
        metrics: metrics(&raw.metrics)?,
        journal: JournalConfig {
            path: absolute(raw.journal.path, JournalConfig::default().path)?,
        },
        overhead,
        marks: marks::marks(&raw.mark, &raw.device)?,
        sysctls: sysctls::sysctls(&raw.sysctl)?,
        sync: sync_daemons::sync(raw.sync)?,
        sync_daemons: sync_daemons::sync_daemons(&raw.sync_daemon)?,
        devices: devices(&raw.device)?,
        services: service::services(&raw.service, overhead)?,
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
            return duplicate(core, "core", number.to_string(), cure);
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
        standstill_sec: in_range(&raw.standstill_sec, STANDSTILL_SEC, default.standstill_sec)?,
    })
}

fn connections(raw: RawConnections) -> Result<ConnectionsConfig, Invalid> {
    let default = ConnectionsConfig::default();
    Ok(ConnectionsConfig {
        ipv4_max: in_range(&raw.ipv4_max, CONNECTIONS, default.ipv4_max)?,
        ipv6_max: in_range(&raw.ipv6_max, CONNECTIONS, default.ipv6_max)?,
        local_port_rest_sec: in_range(
            &raw.local_port_rest_sec,
            0..=u64::from(LOCAL_PORT_REST_MAX_SEC),
            default.local_port_rest_sec,
        )?,
        keep: raw.keep.map_or(default.keep, Spanned::into_inner),
        state_dir: state_dir(raw.state_dir, default.state_dir)?,
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

fn duplicate<T, V>(place: &Spanned<V>, what: &'static str, value: String, cure: &'static str) -> Result<T, Invalid> {
    invalid(place, ConfigProblem::Duplicate { what, value, cure })
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
            return duplicate(&device.name, "device", name.clone(), cure);
        }
        if devices.iter().any(|other| other.dpdk == *dpdk) {
            let cure = "name every NIC once";
            return duplicate(&device.dpdk, "NIC", dpdk.clone(), cure);
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

pub(super) fn absolute(path: Optional<String>, default: PathBuf) -> Result<PathBuf, Invalid> {
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

/// A directory of lvsd's own: what it gives back, it removes.
fn state_dir(path: Option<Spanned<String>>, default: PathBuf) -> Result<PathBuf, Invalid> {
    if let Some(path) = &path
        && Path::new(path.get_ref()).is_absolute()
        && (path.get_ref().ends_with('/')
            || path.get_ref().ends_with("/.")
            || Path::new(path.get_ref()).file_name().is_none())
    {
        return invalid(
            path,
            ConfigProblem::NotA {
                value: path.get_ref().clone(),
                wanted: "the path of a directory of lvsd's own",
                cure: "give it a name on a tmpfs, like \"/dev/shm/lvsd\"".into(),
            },
        );
    }
    absolute(path, default)
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

pub(super) fn invalid<T, U>(at: &Spanned<T>, problem: ConfigProblem) -> Result<U, Invalid> {
    Err(Invalid {
        span: at.span(),
        problem,
    })
}
