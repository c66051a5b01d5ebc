//! DPDK on software devices: no hugepages, no NIC.

use lvs_core::l3::DeviceId;
use lvsd::dpdk::device::{Device, DeviceSettings, Queues};
use lvsd::dpdk::{Eal, EalSettings, Hugepages, Mempool, PoolSettings};

/// Settings that need neither hugepages nor a NIC, with a prefix of its own.
pub fn eal_settings(workers: usize) -> EalSettings {
    let cpus = lvsd::dpdk::eal::available_cpus();
    EalSettings {
        hugepages: Hugepages::Never,
        memory_mb: 192,
        worker_cpus: (0..workers).map(|worker| cpus[(worker + 1) % cpus.len()]).collect(),
        file_prefix: format!("test-{}", std::process::id()),
        log_level: 4,
        ..EalSettings::default()
    }
}

/// DPDK in ordinary memory with `workers` workers.
pub fn start_eal(workers: usize) -> Eal {
    Eal::start(&eal_settings(workers)).expect("DPDK starts without hugepages")
}

/// A pool of this many packet buffers.
pub fn pool(eal: &Eal, mbufs: u32) -> Mempool {
    let settings = PoolSettings {
        mbufs,
        ..PoolSettings::default()
    };
    Mempool::create(eal, &settings).expect("memory for the packet buffers")
}

/// Settings of the device `device0`, `device1` and so on.
pub fn device_settings(number: u8, driver: &str) -> DeviceSettings {
    DeviceSettings {
        id: DeviceId(number),
        name: format!("device{number}"),
        driver: driver.to_owned(),
        ..DeviceSettings::default()
    }
}

/// Opens the device `device0`, `device1` and so on.
pub fn open(eal: &Eal, pool: Mempool, number: u8, driver: &str) -> (Device, Queues) {
    Device::open(eal, &device_settings(number, driver), pool).expect("a software device opens")
}
