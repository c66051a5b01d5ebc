//! A NIC or a software device. This module finds, configures and starts it, and creates its queues once.
//!
//! In:  [`DeviceSettings`] and the pool. Out: [`Device`] for the management core (link, statistics) and
//! [`Queues`] for the workers. The device stops when the last of these is dropped.
//! "Port" in DPDK's sense appears here and in `queue.rs` only.

use std::ffi::{CStr, CString};
use std::sync::Arc;

use lvs_core::l3::DeviceId;
use nix::errno::Errno;

use crate::dpdk::rss::Rss;
use crate::dpdk::{Eal, Mempool, RxQueue, TxQueue, error_text, queue};

/// How to configure a device.
#[derive(Clone, Debug)]
pub struct DeviceSettings {
    /// Its number: the order in the configuration.
    pub id: DeviceId,
    /// The operator's name for it.
    pub name: String,
    /// A PCI address (`0000:01:00.0`) or a software device in DPDK's notation
    /// (`net_af_packet0,iface=eth1,qpairs=2`).
    pub driver: String,
    /// Its MAC address; `None` to keep its own.
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet in bytes; the same as the kernel twin's.
    pub mtu: u16,
    /// Whether to receive frames to other MAC addresses too (VRRP's virtual MAC needs it).
    pub promiscuous: bool,
    /// The number of receive queues, one per worker. The device may have fewer.
    pub rx_queues: u16,
    /// The number of transmit queues, one per worker. The device may have fewer.
    pub tx_queues: u16,
    /// The RSS key by which it distributes flows over its receive queues, if it can ([`lvs_core::rss`]).
    pub rss_key: Option<[u8; lvs_core::rss::KEY_LEN]>,
    /// Whether receive interrupts are to wake workers. The device may have none.
    pub rx_interrupts: bool,
    /// Descriptors of each receive queue. The driver adjusts the number to the device's limits.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue. The driver adjusts the number to the device's limits.
    pub tx_descriptors: u16,
}

impl Default for DeviceSettings {
    fn default() -> Self {
        Self {
            id: DeviceId(0),
            name: "device0".to_owned(),
            driver: String::new(),
            mac: None,
            mtu: 1_500,
            promiscuous: true,
            rx_queues: 1,
            tx_queues: 1,
            rss_key: None,
            rx_interrupts: false,
            rx_descriptors: 1_024,
            tx_descriptors: 1_024,
        }
    }
}

/// Why a device cannot be used. Each message names the device, the cause and the cure.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// DPDK found nothing under this address or its driver refused.
    #[error("device \"{name}\": DPDK cannot open {driver:?}: {cause}; {cure}")]
    NotFound {
        /// The operator's name.
        name: String,
        /// As configured.
        driver: String,
        /// DPDK's text.
        cause: String,
        /// What to look at.
        cure: &'static str,
    },
    /// The software device sits on an interface that this network namespace does not have.
    #[error("device \"{name}\": there is no interface \"{interface}\" here; `ip link` shows those there are")]
    NoSuchInterface {
        /// The operator's name.
        name: String,
        /// The interface asked for.
        interface: String,
    },
    /// A setting that the device refused.
    #[error("device \"{name}\": {setting} refused: {cause}; {cure}")]
    Refused {
        /// The operator's name.
        name: String,
        /// What it refused.
        setting: &'static str,
        /// DPDK's text.
        cause: String,
        /// What to look at.
        cure: &'static str,
    },
    /// The MTU is outside what the device can do.
    #[error("device \"{name}\": MTU {mtu} is outside its range {min} to {max}")]
    Mtu {
        /// The operator's name.
        name: String,
        /// The MTU asked for.
        mtu: u16,
        /// Smallest.
        min: u16,
        /// Largest.
        max: u16,
    },
}

/// A DPDK port. Dropping the last owner stops and closes it.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    pub(super) device: DeviceId,
}

impl Drop for Port {
    fn drop(&mut self) {
        // SAFETY: the last owner; no queue of it is polled any more. Failures leave it as it is.
        unsafe {
            dpdk_sys::rte_eth_dev_stop(self.number);
            dpdk_sys::rte_eth_dev_close(self.number);
        }
    }
}

/// All queues of a device, in order of their numbers.
#[derive(Debug, Default)]
pub struct Queues {
    /// Receive queues.
    pub rx: Vec<RxQueue>,
    /// Transmit queues.
    pub tx: Vec<TxQueue>,
}

/// State of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether there is a carrier.
    pub up: bool,
    /// Speed in Mbit/s; 0 when down, `u32::MAX` when the driver does not know.
    pub speed_mbps: u32,
}

/// A device's own counters since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// Frames received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames transmitted.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames that the device dropped because its receive queue was full: the workers are too slow.
    pub rx_missed: u64,
    /// Damaged frames.
    pub rx_errors: u64,
    /// Frames that could not be transmitted.
    pub tx_errors: u64,
    /// How often the pool had no buffer for a frame.
    pub rx_no_mbuf: u64,
}

/// A started device, as the management core sees it.
#[derive(Debug)]
pub struct Device {
    port: Arc<Port>,
    name: String,
    driver: String,
    mac: [u8; 6],
    mtu: u16,
    rss: bool,
    follows_rss_key: bool,
    rx_interrupts: bool,
    rx_queues: u16,
    tx_queues: u16,
}

impl Device {
    /// Finds, configures and starts a device. Each queue exists once and goes to one worker.
    pub fn open(_eal: &Eal, settings: &DeviceSettings, pool: Mempool) -> Result<(Self, Queues), DeviceError> {
        let number = find(settings)?;
        let port = Arc::new(Port {
            number,
            device: settings.id,
        });
        let (plan, mac) = bring_up(settings, number, pool)?;
        let rx_interrupts = plan.rx_interrupts && queue::has_interrupts(number);
        let follows_rss_key = plan.rss.redirect(number) && plan.rx_queues == settings.rx_queues;
        let rx = (0..plan.rx_queues)
            .map(|queue| RxQueue::new(Arc::clone(&port), queue, rx_interrupts))
            .collect();
        let tx = (0..plan.tx_queues)
            .map(|queue| TxQueue::new(Arc::clone(&port), queue))
            .collect();
        let device = Self {
            port,
            name: settings.name.clone(),
            driver: plan.driver,
            mac,
            mtu: settings.mtu,
            rss: plan.rss.is_on(),
            follows_rss_key,
            rx_interrupts,
            rx_queues: plan.rx_queues,
            tx_queues: plan.tx_queues,
        };
        Ok((device, Queues { rx, tx }))
    }

    /// Its number in the configuration.
    pub fn id(&self) -> DeviceId {
        self.port.device
    }

    /// The operator's name for it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// DPDK's name of the driver: `net_ixgbe`, `net_af_packet`, …
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// Its MAC address. Its kernel twin must have the same one.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Largest IP packet in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Lets frames to another MAC address in too, or no longer. Whether the device can: otherwise it must be
    /// [promiscuous](Self::receive_everything).
    pub fn filter_mac(&self, mac: [u8; 6], is_wanted: bool) -> bool {
        let mut address = dpdk_sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: the port is started; the address is copied.
        let code = unsafe {
            if is_wanted {
                dpdk_sys::rte_eth_dev_mac_addr_add(self.number(), &mut address, 0)
            } else {
                dpdk_sys::rte_eth_dev_mac_addr_remove(self.number(), &mut address)
            }
        };
        code == 0
    }

    /// Lets frames to all MAC addresses in; whether the device can.
    pub fn receive_everything(&self) -> bool {
        // SAFETY: the port is started.
        unsafe { dpdk_sys::rte_eth_promiscuous_enable(self.number()) == 0 }
    }

    /// Whether the device itself distributes flows over its receive queues by RSS.
    pub fn rss(&self) -> bool {
        self.rss
    }

    /// Whether it distributes TCP and UDP flows as [`lvs_core::rss`] computes it with the configured key, over the
    /// configured number of queues. A driver may claim this and not do it. Then workers hand more frames off.
    pub fn follows_rss_key(&self) -> bool {
        self.follows_rss_key
    }

    /// Whether its receive queues can wake workers that sleep. A driver may claim this and not do it. Then each sleep lasts
    /// as long as it may.
    pub fn rx_interrupts(&self) -> bool {
        self.rx_interrupts
    }

    /// How many receive queues it has.
    pub fn rx_queues(&self) -> u16 {
        self.rx_queues
    }

    /// How many transmit queues it has.
    pub fn tx_queues(&self) -> u16 {
        self.tx_queues
    }

    /// The current state of its link.
    pub fn link(&self) -> Link {
        let mut link = dpdk_sys::rte_eth_link::default();
        // SAFETY: the port is open; DPDK writes the struct.
        unsafe {
            dpdk_sys::rte_eth_link_get_nowait(self.port.number, &mut link);
            Link {
                up: dpdk_sys::shim_link_up(&link) != 0,
                speed_mbps: dpdk_sys::shim_link_speed_mbps(&link),
            }
        }
    }

    /// Its current counters. They are all zero where the driver has none.
    pub fn stats(&self) -> DeviceStats {
        let mut raw = dpdk_sys::rte_eth_stats::default();
        // SAFETY: the port is open; DPDK writes the struct.
        unsafe { dpdk_sys::rte_eth_stats_get(self.port.number, &mut raw) };
        DeviceStats {
            rx_packets: raw.ipackets,
            rx_bytes: raw.ibytes,
            tx_packets: raw.opackets,
            tx_bytes: raw.obytes,
            rx_missed: raw.imissed,
            rx_errors: raw.ierrors,
            tx_errors: raw.oerrors,
            rx_no_mbuf: raw.rx_nombuf,
        }
    }

    pub(super) fn number(&self) -> u16 {
        self.port.number
    }
}

/// The properties of the driver and device on which the configuration depends.
struct Facts {
    driver: String,
    rx_queues_max: u16,
    tx_queues_max: u16,
    mtu_min: u16,
    mtu_max: u16,
    info: dpdk_sys::rte_eth_dev_info,
    fast_free: bool,
    socket: u32,
    txconf: dpdk_sys::rte_eth_txconf,
}

/// How the device will be configured.
struct Plan {
    driver: String,
    rx_queues: u16,
    tx_queues: u16,
    rss: Rss,
    rx_interrupts: bool,
    tx_offloads: u64,
    socket: u32,
    txconf: dpdk_sys::rte_eth_txconf,
}

impl Plan {
    fn of(settings: &DeviceSettings, facts: &Facts, rx_interrupts: bool) -> Result<Self, DeviceError> {
        if !(facts.mtu_min..=facts.mtu_max).contains(&settings.mtu) {
            return Err(DeviceError::Mtu {
                name: settings.name.clone(),
                mtu: settings.mtu,
                min: facts.mtu_min,
                max: facts.mtu_max,
            });
        }
        let rx_queues = settings.rx_queues.clamp(1, facts.rx_queues_max.max(1));
        let tx_offloads = if facts.fast_free {
            dpdk_sys::SHIM_TX_OFFLOAD_MBUF_FAST_FREE
        } else {
            0
        };
        Ok(Self {
            driver: facts.driver.clone(),
            rx_queues,
            tx_queues: settings.tx_queues.clamp(1, facts.tx_queues_max.max(1)),
            rss: Rss::of(&facts.info, rx_queues, settings.rss_key.as_ref()),
            rx_interrupts,
            tx_offloads,
            socket: facts.socket,
            txconf: facts.txconf,
        })
    }

    fn configure(&mut self, settings: &DeviceSettings, number: u16) -> Result<(), DeviceError> {
        // SAFETY: rte_eth_conf is plain C data for which all zeros is DPDK's own default.
        let mut conf: dpdk_sys::rte_eth_conf = unsafe { std::mem::zeroed() };
        conf.rxmode.mtu = u32::from(settings.mtu);
        conf.txmode.offloads = self.tx_offloads;
        conf.intr_conf.set_rxq(self.rx_interrupts.into());
        self.rss.write(&mut conf);
        // SAFETY: the port is open and stopped; the struct is read during the call only.
        let code = unsafe { dpdk_sys::rte_eth_dev_configure(number, self.rx_queues, self.tx_queues, &conf) };
        accept(settings, "its configuration", code)
    }

    fn set_up_queues(&self, settings: &DeviceSettings, number: u16, pool: Mempool) -> Result<(), DeviceError> {
        let (mut rx_descriptors, mut tx_descriptors) = (settings.rx_descriptors, settings.tx_descriptors);
        // SAFETY: the port is configured; both numbers are adjusted in place.
        let code =
            unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(number, &mut rx_descriptors, &mut tx_descriptors) };
        accept(settings, "its number of descriptors", code)?;
        for queue in 0..self.rx_queues {
            // SAFETY: configured for this many queues; a null configuration means the driver's default; the
            // pool lives for ever.
            let code = unsafe {
                let default = std::ptr::null();
                dpdk_sys::rte_eth_rx_queue_setup(number, queue, rx_descriptors, self.socket, default, pool.as_ptr())
            };
            accept(settings, "a receive queue", code)?;
        }
        let mut txconf = self.txconf;
        txconf.offloads |= self.tx_offloads;
        for queue in 0..self.tx_queues {
            // SAFETY: as above.
            let code = unsafe { dpdk_sys::rte_eth_tx_queue_setup(number, queue, tx_descriptors, self.socket, &txconf) };
            accept(settings, "a transmit queue", code)?;
        }
        Ok(())
    }
}

/// Configures and starts the device. Where it refuses receive interrupts, it goes without them. Also returns its MAC
/// address.
fn bring_up(settings: &DeviceSettings, number: u16, pool: Mempool) -> Result<(Plan, [u8; 6]), DeviceError> {
    let facts = facts(settings, number)?;
    let attempt = |rx_interrupts| {
        let mut plan = Plan::of(settings, &facts, rx_interrupts)?;
        plan.configure(settings, number)?;
        plan.set_up_queues(settings, number, pool)?;
        set_mtu(settings, number)?;
        let mac = set_mac(settings, number)?;
        start(settings, number)?;
        Ok((plan, mac))
    };
    if settings.rx_interrupts {
        match attempt(true) {
            Ok(up) => return Ok(up),
            Err(error) => log::debug!("without receive interrupts, because: {error}"),
        }
    }
    attempt(false)
}

fn accept(settings: &DeviceSettings, setting: &'static str, code: i32) -> Result<(), DeviceError> {
    if code == 0 {
        return Ok(());
    }
    let cure = if setting.ends_with("queue") {
        "another program may have it, or rx_queue_size or tx_queue_size is not what it takes; \
         RUST_LOG=debug shows what its driver says"
    } else {
        "change the setting, or see with RUST_LOG=debug what its driver says"
    };
    Err(DeviceError::Refused {
        name: settings.name.clone(),
        setting,
        cause: error_text(code),
        cure,
    })
}

/// `-EFAULT`, which means here that no bus knows the name.
const NO_SUCH_DRIVER: i32 = -(Errno::EFAULT as i32);

/// The port number of the device. Probes the device if the EAL has not done so.
fn find(settings: &DeviceSettings) -> Result<u16, DeviceError> {
    let not_found = |cause: String, cure| DeviceError::NotFound {
        name: settings.name.clone(),
        driver: settings.driver.clone(),
        cause,
        cure,
    };
    let driver_name = settings.driver.split(',').next().unwrap_or_default();
    let nul = |_| not_found("a NUL character".to_owned(), "correct the driver string");
    let name = CString::new(driver_name).map_err(nul)?;
    let whole = CString::new(settings.driver.as_str()).map_err(nul)?;
    if let Some(number) = port_by_name(&name) {
        return Ok(number);
    }
    check_interface(settings)?;
    // SAFETY: the EAL runs; the string is copied.
    let code = unsafe { dpdk_sys::rte_dev_probe(whole.as_ptr()) };
    let cure = if driver_name.starts_with("net_") {
        "check the driver's name and arguments and that its package is installed (dpkg -l 'librte-net-*')"
    } else {
        "check the address (lspci -D) and that the NIC is bound: dpdk-devbind.py -b vfio-pci ADDRESS"
    };
    if code != 0 {
        let cause = match code {
            // A software driver that refuses its arguments returns only -1, whose text would be about permissions.
            -1 => "refused by its driver".to_owned(),
            // No bus claims the name.
            NO_SUCH_DRIVER => "there is no such driver".to_owned(),
            code => error_text(code),
        };
        return Err(not_found(cause, cure));
    }
    port_by_name(&name).ok_or_else(|| not_found("no network device".to_owned(), cure))
}

fn port_by_name(name: &CStr) -> Option<u16> {
    let mut number = 0;
    // SAFETY: the EAL runs; DPDK writes the number on success.
    (unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut number) } == 0).then_some(number)
}

/// Checks that the interface exists: net_af_packet and net_af_xdp do not say so when it is missing.
fn check_interface(settings: &DeviceSettings) -> Result<(), DeviceError> {
    if !settings.driver.starts_with("net_af_") {
        return Ok(());
    }
    let Some(interface) = settings
        .driver
        .split(',')
        .find_map(|argument| argument.strip_prefix("iface="))
    else {
        return Ok(());
    };
    match nix::net::if_::if_nametoindex(interface) {
        Err(Errno::ENODEV) => Err(DeviceError::NoSuchInterface {
            name: settings.name.clone(),
            interface: interface.to_owned(),
        }),
        _ => Ok(()),
    }
}

fn facts(settings: &DeviceSettings, number: u16) -> Result<Facts, DeviceError> {
    // SAFETY: rte_eth_dev_info is plain C data; DPDK fills it.
    let mut info: dpdk_sys::rte_eth_dev_info = unsafe { std::mem::zeroed() };
    // SAFETY: the port exists; DPDK writes the struct.
    let code = unsafe { dpdk_sys::rte_eth_dev_info_get(number, &mut info) };
    accept(settings, "its description", code)?;
    // SAFETY: the port exists; a negative result means any socket, which is what the cast makes of it.
    let socket = unsafe { dpdk_sys::rte_eth_dev_socket_id(number) } as u32;
    Ok(Facts {
        // SAFETY: the driver's name is a static C string.
        driver: unsafe { CStr::from_ptr(info.driver_name) }
            .to_string_lossy()
            .into_owned(),
        rx_queues_max: info.max_rx_queues,
        tx_queues_max: info.max_tx_queues,
        mtu_min: info.min_mtu,
        mtu_max: info.max_mtu,
        fast_free: info.tx_offload_capa & dpdk_sys::SHIM_TX_OFFLOAD_MBUF_FAST_FREE != 0,
        socket,
        txconf: info.default_txconf,
        info,
    })
}

/// `-ENOTSUP`: the driver has no such function.
const NOT_SUPPORTED: i32 = -(Errno::ENOTSUP as i32);

fn set_mtu(settings: &DeviceSettings, number: u16) -> Result<(), DeviceError> {
    // SAFETY: the port is configured and stopped.
    match unsafe { dpdk_sys::rte_eth_dev_set_mtu(number, settings.mtu) } {
        // Software devices without an MTU of their own take any frame.
        NOT_SUPPORTED => Ok(()),
        code => accept(settings, "its MTU", code),
    }
}

fn set_mac(settings: &DeviceSettings, number: u16) -> Result<[u8; 6], DeviceError> {
    let mut address = dpdk_sys::rte_ether_addr { addr_bytes: [0; 6] };
    if let Some(mac) = settings.mac {
        address.addr_bytes = mac;
        // SAFETY: the port is configured; the address is copied.
        match unsafe { dpdk_sys::rte_eth_dev_default_mac_addr_set(number, &mut address) } {
            // A software device without a filter receives frames to any address anyway.
            NOT_SUPPORTED if settings.promiscuous => return Ok(mac),
            code => accept(settings, "its MAC address", code)?,
        }
    }
    // SAFETY: the port is configured; DPDK writes the address.
    let code = unsafe { dpdk_sys::rte_eth_macaddr_get(number, &mut address) };
    accept(settings, "reading its MAC address", code)?;
    Ok(address.addr_bytes)
}

fn start(settings: &DeviceSettings, number: u16) -> Result<(), DeviceError> {
    // SAFETY: the port is configured and all its queues are set up.
    accept(settings, "its start", unsafe { dpdk_sys::rte_eth_dev_start(number) })?;
    if settings.promiscuous {
        // SAFETY: the port is started.
        let code = unsafe { dpdk_sys::rte_eth_promiscuous_enable(number) };
        if code != 0 && code != NOT_SUPPORTED {
            accept(settings, "promiscuous mode", code)?;
        }
    }
    // SAFETY: the port is started. VRRP, OSPF and neighbour discovery are multicast. A driver without this switch
    // receives them anyway or is promiscuous.
    unsafe { dpdk_sys::rte_eth_allmulticast_enable(number) };
    Ok(())
}
