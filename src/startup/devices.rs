//! Devices and their kernel twins.
//!
//! In:  the configuration, DPDK's environment. Out: [`Opened`], and what the management core needs to know of it.

use lvs_core::config::{self, Config};
use lvs_core::l3::DeviceId;
use lvs_core::limits::DEVICES_MAX;
use lvs_core::rss::{KEY_LEN, RssHash};

use super::StartError;
use super::environment::Environment;
use crate::dpdk::device::{Device, DeviceSettings, Queues};
use crate::mgmt::punt::TwinDescriptor;
use crate::mgmt::rss_check::Claim;
use crate::mgmt::twin::fd_store::Inherited;
use crate::mgmt::twin::ownership::Owner;
use crate::mgmt::twin::{self, Twin, TwinSpec};

/// Everything that was opened, in the order of the configuration.
#[derive(Debug, Default)]
pub struct Opened {
    /// For the management core.
    pub devices: Vec<Device>,
    /// For the workers.
    pub queues: Vec<Queues>,
    /// For the twin thread and the mirror.
    pub twins: Vec<Twin>,
    /// The RSS hash by which all devices distribute flows over workers. `None` with one worker, or when a device does not
    /// follow it.
    pub rss: Option<RssHash>,
}

/// Opens every device, then its twin. `rss_key` is random: nobody outside can know which flows share a worker.
///
/// # Errors
/// A device is missing, busy or refuses a setting, or a twin cannot be created.
pub fn open(config: &Config, environment: &Environment, rss_key: [u8; KEY_LEN]) -> Result<Opened, StartError> {
    let queues_count = u16::from(config.workers.count);
    let owner = Owner::new(&config.api.socket);
    let mut inherited = Inherited::receive();
    let mut opened = Opened::default();
    for (number, wanted) in config.devices.iter().enumerate().take(DEVICES_MAX) {
        let settings = DeviceSettings {
            id: DeviceId(number as u8),
            name: wanted.name.clone(),
            driver: driver_text(&wanted.dpdk, config.workers.count),
            mac: wanted.mac,
            mtu: wanted.mtu,
            promiscuous: wanted.promiscuous,
            rx_queues: queues_count,
            tx_queues: queues_count,
            rss_key: Some(rss_key),
            rx_interrupts: config.workers.idle == config::Idle::Adaptive,
            rx_descriptors: wanted.rx_queue_size,
            tx_descriptors: wanted.tx_queue_size,
        };
        let node = environment.nodes.devices.get(number).copied().flatten();
        if let Some(node) = environment.nodes.far(number) {
            log::warn!(
                "device \"{}\" is on NUMA node {node} and no worker is: every packet crosses the processors' link; \
                 choose eal.worker_cores of that node (lscpu)",
                settings.name
            );
        }
        let (device, queues) = Device::open(&environment.eal, &settings, environment.pools.of(node))?;
        if settings.rx_interrupts {
            log_how_workers_wake(&device, config.workers.idle_sleep_us);
        }
        let twin = twin::open(&wanted_twin(&device, &owner), &mut inherited)?;
        opened.twins.push(twin);
        opened.devices.push(device);
        opened.queues.push(queues);
    }
    give_back_twins(config, &owner);
    let all_follow = opened.devices.iter().all(Device::follows_rss_key);
    opened.rss = (all_follow && queues_count > 1).then(|| RssHash::new(rss_key));
    Ok(opened)
}

fn log_how_workers_wake(device: &Device, sleep_us: u32) {
    let name = device.name();
    if device.rx_interrupts() {
        log::info!("device \"{name}\": its interrupts wake workers that sleep");
    } else {
        log::info!("device \"{name}\" has no receive interrupts: workers that sleep look every {sleep_us} us");
    }
}

/// The device arguments for DPDK. net_af_packet has one queue by default. It gets one per worker unless the operator has
/// written a number.
fn driver_text(dpdk: &str, workers: u8) -> String {
    if workers > 1 && dpdk.starts_with("net_af_packet") && !dpdk.contains(",qpairs=") {
        format!("{dpdk},qpairs={workers}")
    } else {
        dpdk.to_owned()
    }
}

/// What the devices claim about RSS.
pub fn claims(devices: &[Device], by_rss: bool) -> Vec<Claim> {
    let claim = |device: &Device| Claim {
        device: device.id(),
        name: device.name().to_owned(),
        rx_queues: device.rx_queues(),
        by_rss,
    };
    devices.iter().map(claim).collect()
}

/// Of devices that are not configured any more.
fn give_back_twins(config: &Config, owner: &Owner) {
    let names: Vec<_> = config.devices.iter().map(|device| device.name.as_str()).collect();
    match owner.give_back_but(&names) {
        Ok(gone) => gone
            .iter()
            .for_each(|name| log::info!("kernel twin {name}: no device has this name any more; it is given back")),
        Err(error) => log::warn!("kernel twins that no device has any more stay: {error}"),
    }
}

/// What the devices' twins must be like.
pub fn wanted_twins(devices: &[Device], config: &Config) -> Vec<TwinSpec> {
    let owner = Owner::new(&config.api.socket);
    devices.iter().map(|device| wanted_twin(device, &owner)).collect()
}

fn wanted_twin(device: &Device, owner: &Owner) -> TwinSpec {
    TwinSpec {
        device: device.id(),
        name: device.name().to_owned(),
        mac: device.mac(),
        mtu: device.mtu(),
        owner: owner.clone(),
    }
}

/// The descriptors of the twins, for the twin thread.
pub fn twin_descriptors(twins: Vec<Twin>) -> Vec<TwinDescriptor> {
    twins
        .into_iter()
        .map(|twin| TwinDescriptor {
            device: twin.device,
            fd: twin.fd,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_sockets_get_a_queue_for_each_worker_unless_the_operator_gave_a_number() {
        assert_eq!(
            driver_text("net_af_packet0,iface=eth1", 3),
            "net_af_packet0,iface=eth1,qpairs=3"
        );
        for as_it_is in [
            "net_af_packet0,iface=eth1,qpairs=2",
            "net_pcap0,rx_pcap=/a",
            "0000:01:00.0",
        ] {
            assert_eq!(driver_text(as_it_is, 3), as_it_is);
        }
        assert_eq!(driver_text("net_af_packet0,iface=eth1", 1), "net_af_packet0,iface=eth1");
    }
}
