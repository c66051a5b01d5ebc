//! DPDK's environment: cores, memory, packet buffers, the clock.
//!
//! In:  the configuration. Out: [`Environment`]. DPDK starts once per process.

use std::path::Path;

use lvs_core::config::{self, Config, DeviceConfig};
use lvs_core::limits::HELD_MAX;

use super::StartError;
use super::nodes::Nodes;
use crate::dpdk::eal::{EalSettings, Hugepages};
use crate::dpdk::mempool::PoolSettings;
use crate::dpdk::{Clock, Eal, Pools};
use crate::worker::{handoff, punt};

/// Mbufs that each thread keeps for itself.
const MBUF_CACHE: u32 = 256;

/// The CPU of each worker: as listed, or those that follow the main core.
fn worker_cpus(config: &Config) -> Vec<u16> {
    if config.eal.worker_cores.is_empty() {
        (1..=u16::from(config.workers.count))
            .map(|offset| config.eal.main_core + offset)
            .collect()
    } else {
        config.eal.worker_cores.clone()
    }
}

/// How many packet buffers, and how large.
fn pool_settings(config: &Config) -> PoolSettings {
    let workers = u32::from(config.workers.count);
    let waiting = punt::PUNTED_SLOTS + punt::CONTROL_SLOTS + punt::INJECTED_SLOTS + HELD_MAX;
    let rings = workers * ((workers - 1) * handoff::slots(usize::from(config.workers.count)) as u32 + waiting as u32);
    let needed = PoolSettings::mbufs_needed(descriptors(config), rings, workers + 1, MBUF_CACHE);
    PoolSettings {
        mbufs: needed.max(config.eal.mbufs),
        cache: MBUF_CACHE,
        mtu_max: config.devices.iter().map(|device| device.mtu).max().unwrap_or(1_500),
    }
}

/// Descriptors of all queues together.
fn descriptors(config: &Config) -> u32 {
    let per_queue = |device: &DeviceConfig| u32::from(device.rx_queue_size) + u32::from(device.tx_queue_size);
    u32::from(config.workers.count) * config.devices.iter().map(per_queue).sum::<u32>()
}

/// DPDK, its buffers and its clock.
pub struct Environment {
    /// Proof that DPDK runs.
    pub eal: Eal,
    /// All packet buffers.
    pub pools: Pools,
    /// The NUMA nodes of CPUs and devices.
    pub nodes: Nodes,
    /// The path's clock.
    pub clock: Clock,
    /// The CPU of each worker.
    pub worker_cpus: Vec<u16>,
}

/// Starts DPDK and allocates memory.
///
/// # Errors
/// Hugepages, cores or memory are missing, or another director has the same name.
pub fn start(config: &Config) -> Result<Environment, StartError> {
    let worker_cpus = worker_cpus(config);
    let pool_settings = pool_settings(config);
    let names = config.devices.iter().map(|device| device.dpdk.as_str());
    let nodes = Nodes::look_up(Path::new("/"), config.eal.main_core, &worker_cpus, names);
    let memory_mb = match config.eal.memory_mb {
        0 => nodes.used().len() as u32 * pool_settings.memory_needed_mb(descriptors(config)),
        given => given,
    };
    let eal = Eal::start(&EalSettings {
        hugepages: match config.eal.hugepages {
            config::Hugepages::Auto => Hugepages::Auto,
            config::Hugepages::Require => Hugepages::Require,
            config::Hugepages::Never => Hugepages::Never,
        },
        memory_mb,
        main_cpus: vec![config.eal.main_core],
        worker_cpus: worker_cpus.clone(),
        pci: config
            .devices
            .iter()
            .map(|device| &device.dpdk)
            .filter(|dpdk| is_pci(dpdk))
            .cloned()
            .collect(),
        extra_args: config.eal.extra_args.clone(),
        log_level: dpdk_log_level(log::max_level()),
        ..EalSettings::default()
    })?;
    let pools = Pools::create(&eal, &pool_settings, &nodes.used())?;
    let clock = Clock::start(&eal);
    Ok(Environment {
        eal,
        pools,
        nodes,
        clock,
        worker_cpus,
    })
}

/// The level at which DPDK itself writes to stderr: errors only, unless `RUST_LOG` asks lvsd for more than usual.
fn dpdk_log_level(ours: log::LevelFilter) -> u8 {
    match ours {
        log::LevelFilter::Trace => 8,
        log::LevelFilter::Debug => 7,
        _ => EalSettings::default().log_level,
    }
}

/// `0000:01:00.0`, as opposed to `net_af_packet0,iface=eth1`.
fn is_pci(dpdk: &str) -> bool {
    dpdk.split([':', '.']).count() >= 3 && !dpdk.starts_with("net_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_told_from_software_devices() {
        assert!(is_pci("0000:01:00.0") && is_pci("01:00.1"));
        assert!(!is_pci("net_af_packet0,iface=eth0.100") && !is_pci("net_pcap0,rx_pcap=/a/b:c.d"));
    }

    #[test]
    fn cores_follow_the_main_core_unless_they_are_listed() {
        let mut config = Config::default();
        config.workers.count = 2;
        assert_eq!(worker_cpus(&config), [1, 2]);
        config.eal.worker_cores = vec![3, 3];
        assert_eq!(worker_cpus(&config), [3, 3]);
    }
}
