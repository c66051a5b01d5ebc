//! What start-up does, step by step: [`crate::run`] lists the steps in order.
//!
//! In:  the configuration. Out: DPDK's environment, devices, kernel twins, workers.
//! Never: decides about services; a step that fails names its cause and cure and nothing has been promised yet.

mod nodes;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use lvs_core::arena::ArenaError;
use lvs_core::config::{self, Config, ConfigError, DeviceConfig};
use lvs_core::counters::WorkerCounters;
use lvs_core::l3::{DeviceId, L3};
use lvs_core::limits::{DEVICES_MAX, HELD_MAX, REAL_SERVERS_MAX};
use lvs_core::rss::RssHash;
use lvs_core::snapshot::Snapshot;
use lvs_core::verdict::WorkerId;
use lvs_core::worker_state::{WorkerSettings, WorkerState};
use nodes::Nodes;
use thiserror::Error;
use tokio::sync::watch;

use crate::dpdk::device::{Device, DeviceError, DeviceSettings, Queues};
use crate::dpdk::eal::{EalError, EalSettings, Hugepages};
use crate::dpdk::lcore::{self, LcoreError, LcoreHandle};
use crate::dpdk::memory::{self, MemoryError, Preference};
use crate::dpdk::mempool::{PoolError, PoolSettings};
use crate::dpdk::{Clock, Eal, Pools};
use crate::mgmt::director::Director;
use crate::mgmt::journal::JournalError;
use crate::mgmt::kernel::{KernelError, KernelMirror, MirroredTwin};
use crate::mgmt::mailbox_handle::MailboxHandle;
use crate::mgmt::metrics;
use crate::mgmt::punt::TwinDescriptor;
use crate::mgmt::reload;
use crate::mgmt::rss_check::Claim;
use crate::mgmt::twin::{self, Twin, TwinError};
use crate::mgmt::unix_socket::SocketError;
use crate::offline::{self, OfflineError};
use crate::worker::Worker;
use crate::worker::assignment::WorkerResources;
use crate::worker::idle::IdlePolicy;
use crate::worker::mailbox::Mailbox;
use crate::worker::{handoff, punt};

/// Mbufs that each thread keeps for itself.
const MBUF_CACHE: u32 = 256;

/// Empty passes after which a worker that may sleep does.
const POLLS_BEFORE_SLEEP: u32 = 64;

/// Silence after which an adaptive worker rests: longer than the gaps of traffic that is worth polling for, of
/// 5,000 packets a second and more.
const QUIET_BEFORE_REST_US: u32 = 200;

/// Why the daemon does not start: each names the cause and the cure.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration file cannot be read.
    #[error("cannot read {path}: {source}; give the right file with --config")]
    ConfigUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The configuration file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The admin socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The journal of the desired state.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The configuration cannot be reconciled with the journal.
    #[error("{0}")]
    Services(lvs_api::ApiError),
    /// DPDK's environment.
    #[error(transparent)]
    Eal(#[from] EalError),
    /// Packet buffers.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A kernel twin.
    #[error(transparent)]
    Twin(#[from] TwinError),
    /// The kernel's network.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Memory for connections.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The region for connections is too small.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// A worker.
    #[error(transparent)]
    Lcore(#[from] LcoreError),
    /// A capture file that was to be processed.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// The listener of the metrics.
    #[error("metrics.listen {address}: {source}; give an address of this machine and a free port, or leave it out")]
    Metrics {
        /// As configured.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Anything the operating system refused.
    #[error("cannot {step}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl StartError {
    /// For `map_err`: what was being done when the system refused.
    pub fn io(step: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { step, source }
    }
}

/// Reads and checks the configuration file; its text too, for later reloads.
///
/// # Errors
/// When it cannot be read or says something wrong.
pub fn read_config(path: &Path) -> Result<(Config, String), StartError> {
    let unreadable = |source| StartError::ConfigUnreadable {
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    Ok((Config::parse(&text, &path.display().to_string())?, text))
}

/// Runs the path over a capture file with the services of the configuration.
///
/// # Errors
/// A configuration or a file that cannot be read, an output that cannot be written.
pub fn offline(config: &Path, input: &Path, output: &Path) -> Result<offline::Summary, StartError> {
    let (config, _) = read_config(config)?;
    Ok(offline::run(&config, input, output)?)
}

/// Brings the desired state back from the journal, with what was edited in the configuration since.
///
/// # Errors
/// A journal that cannot be read or written, or that does not go together with the configuration.
pub fn restore(config: &Config) -> Result<Director, StartError> {
    let devices = config.devices.iter().map(|device| device.name.clone()).collect();
    let (mut director, report) = Director::restore_with_devices(&config.journal.path, devices)?;
    if let Some(damage) = &report.damage {
        log::warn!(
            "journal: its last {} bytes are no whole record (kept in {}); everything before is restored",
            damage.lost_bytes,
            damage.copy.display()
        );
    }
    for refused in &report.refused {
        log::warn!("journal: left out: {refused}");
    }
    let report = reload::load(&mut director, config, Instant::now()).map_err(StartError::Services)?;
    for left_out in &report.left_out {
        log::warn!("configuration: {left_out}");
    }
    Ok(director)
}

/// The management core's runtime. Blocking work (syncing files) goes to threads of its own.
///
/// # Errors
/// When the system refuses its descriptors.
pub fn runtime() -> Result<tokio::runtime::Runtime, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(StartError::io("start the management runtime"))
}

/// Mirrors the kernel's network. The first picture is there when this returns; later ones follow through
/// the receiver.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn mirror(twins: &[Twin]) -> Result<(KernelMirror, watch::Receiver<Arc<L3>>), StartError> {
    let mirrored: Vec<_> = twins
        .iter()
        .map(|twin| MirroredTwin {
            device: twin.device,
            ifindex: twin.ifindex,
        })
        .collect();
    let (sender, receiver) = watch::channel(Arc::new(L3::default()));
    let mirror = KernelMirror::start(&mirrored, move |l3| {
        sender.send_replace(l3);
    })
    .await?;
    Ok((mirror, receiver))
}

/// What the twin thread needs of the twins.
pub fn twin_descriptors(twins: Vec<Twin>) -> Vec<TwinDescriptor> {
    twins
        .into_iter()
        .map(|twin| TwinDescriptor {
            device: twin.device,
            fd: twin.fd,
        })
        .collect()
}

/// The management core's ends of all mailboxes.
pub fn worker_handles(
    environment: &Environment,
    mailboxes: Vec<Arc<Mailbox>>,
    counters: &Arc<[Arc<WorkerCounters>]>,
) -> Vec<Arc<MailboxHandle>> {
    let ends = mailboxes.into_iter().zip(counters.iter()).zip(&environment.worker_cpus);
    ends.map(|((mailbox, counters), cpu)| {
        Arc::new(MailboxHandle::new(
            mailbox,
            Arc::clone(counters),
            Some(u32::from(*cpu)),
            environment.clock.hz(),
        ))
    })
    .collect()
}

/// The group that may use the sockets, if one is configured.
pub fn group(config: &Config) -> Option<&str> {
    Some(config.api.group.as_str()).filter(|group| !group.is_empty())
}

/// Where `/metrics` is served by TCP, if it is.
///
/// # Errors
/// When the address cannot be bound.
pub fn metrics_listener(config: &Config) -> Result<Option<TcpListener>, StartError> {
    let open = |address| metrics::listener::open(address).map_err(|source| StartError::Metrics { address, source });
    config.metrics.listen.map(open).transpose()
}

/// What `GET /v1/version` answers.
pub fn version(config: &Config, revision: &str) -> lvs_api::Version {
    lvs_api::Version {
        api: lvs_api::API_VERSION.to_owned(),
        lvsd: env!("CARGO_PKG_VERSION").to_owned(),
        revision: revision.to_owned(),
        pid: std::process::id(),
        conns4_max: u64::from(config.connections.ipv4_max),
        conns6_max: u64::from(config.connections.ipv6_max),
    }
}

/// One CPU a worker: as listed, or those that follow the main core.
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
    /// What lies on which NUMA node.
    pub nodes: Nodes,
    /// The path's clock.
    pub clock: Clock,
    /// By worker.
    pub worker_cpus: Vec<u16>,
}

/// Starts DPDK and takes memory.
///
/// # Errors
/// Missing hugepages, cores or memory; another director of the same name.
pub fn environment(config: &Config) -> Result<Environment, StartError> {
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

/// What DPDK writes to stderr by itself: errors, unless lvsd is asked for more than usual (`RUST_LOG`).
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

/// What was opened, in the order of the configuration.
#[derive(Debug, Default)]
pub struct Opened {
    /// For the management core.
    pub devices: Vec<Device>,
    /// For the workers.
    pub queues: Vec<Queues>,
    /// For the twin thread and the mirror.
    pub twins: Vec<Twin>,
    /// How all of them spread flows over the workers; `None` when there is one worker, or a device does not.
    pub rss: Option<RssHash>,
}

/// Opens every device, then its twin.
///
/// # Errors
/// A device that is missing, busy or refuses a setting; a twin that cannot be made.
pub fn devices(config: &Config, environment: &Environment) -> Result<Opened, StartError> {
    let queues_count = u16::from(config.workers.count);
    // Nobody outside can know which flows meet on one worker.
    let rss_key = random_bytes().map_err(StartError::io("read randomness"))?;
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
            tell_how_workers_wake(&device, config.workers.idle_sleep_us);
        }
        opened
            .twins
            .push(twin::open(device.id(), device.name(), device.mac(), device.mtu())?);
        opened.devices.push(device);
        opened.queues.push(queues);
    }
    let all_follow = opened.devices.iter().all(Device::follows_rss_key);
    opened.rss = (all_follow && queues_count > 1).then(|| RssHash::new(rss_key));
    Ok(opened)
}

fn tell_how_workers_wake(device: &Device, sleep_us: u32) {
    let name = device.name();
    if device.rx_interrupts() {
        log::info!("device \"{name}\": its interrupts wake workers that sleep");
    } else {
        log::info!("device \"{name}\" has no receive interrupts: workers that sleep look every {sleep_us} us");
    }
}

/// What DPDK is told of a device. net_af_packet has one queue unless it is told otherwise: one a worker
/// unless the operator has written a number.
fn driver_text(dpdk: &str, workers: u8) -> String {
    if workers > 1 && dpdk.starts_with("net_af_packet") && !dpdk.contains(",qpairs=") {
        format!("{dpdk},qpairs={workers}")
    } else {
        dpdk.to_owned()
    }
}

/// What the devices claim of how they spread flows.
pub fn claims(devices: &[Device], by_rss: bool) -> Vec<Claim> {
    let claim = |device: &Device| Claim {
        device: device.id(),
        name: device.name().to_owned(),
        rx_queues: device.rx_queues(),
        by_rss,
    };
    devices.iter().map(claim).collect()
}

/// One set of counters a worker, on its node.
pub fn counters(config: &Config, nodes: &Nodes) -> Arc<[Arc<WorkerCounters>]> {
    let of_worker = |worker| {
        let node = nodes.workers.get(usize::from(worker)).copied().flatten();
        let _preference = Preference::of(node);
        Arc::new(WorkerCounters::new(REAL_SERVERS_MAX))
    };
    (0..config.workers.count).map(of_worker).collect()
}

/// What workers do when nothing arrives.
pub fn idle_policy(config: &Config) -> IdlePolicy {
    match config.workers.idle {
        config::Idle::Spin => IdlePolicy::Spin,
        config::Idle::Pause => IdlePolicy::Pause,
        config::Idle::Sleep => IdlePolicy::Sleep {
            after_polls: POLLS_BEFORE_SLEEP,
            us: config.workers.idle_sleep_us,
        },
        config::Idle::Adaptive => IdlePolicy::Adaptive {
            quiet_us: QUIET_BEFORE_REST_US,
            sleep_max_us: config.workers.idle_sleep_us,
        },
    }
}

/// Makes every worker's state and launches it on its core.
///
/// # Errors
/// No memory for the connection tables, no randomness, a core that cannot be used.
pub fn launch_workers(
    config: &Config,
    environment: &Environment,
    parts: Vec<WorkerResources>,
    counters: &Arc<[Arc<WorkerCounters>]>,
    snapshot: &Arc<Snapshot>,
    rss: Option<&RssHash>,
) -> Result<Vec<LcoreHandle>, StartError> {
    let secret = secret().map_err(StartError::io("read randomness"))?;
    let count = config.workers.count;
    let mut handles = Vec::with_capacity(parts.len());
    for ((number, mut parts), own) in parts.into_iter().enumerate().zip(counters.iter()) {
        let settings = WorkerSettings {
            id: WorkerId(number as u8),
            workers_count: count,
            conns4_max: share(config.connections.ipv4_max, count),
            conns6_max: share(config.connections.ipv6_max, count),
            secret,
            seed: secret[3] ^ number as u64,
        };
        let node = environment.nodes.workers.get(number).copied().flatten();
        parts.use_pool(environment.pools.of(node));
        let preference = Preference::of(node);
        let mut arena = memory::arena(&environment.eal, WorkerState::arena_bytes(&settings), node)?;
        let (snapshot, all) = (Arc::clone(snapshot), Arc::clone(counters));
        let mut state = WorkerState::new(settings, &mut arena, snapshot, all, Arc::clone(own))?;
        drop(preference);
        if let Some(rss) = rss {
            state.follow_rss(rss.clone());
        }
        let mut worker = Worker::new(parts, state);
        handles.push(lcore::launch(&environment.eal, number, move || worker.run())?);
    }
    Ok(handles)
}

/// Connections of one worker. Ownership spreads clients by a hash, so each gets a little more than its part.
fn share(capacity: u32, workers: u8) -> usize {
    let part = capacity as usize / usize::from(workers);
    if workers == 1 { part } else { part + part / 8 + 64 }
}

/// The key of the connection hash: nobody outside can know it.
fn secret() -> std::io::Result<[u64; 4]> {
    let bytes: [u8; 32] = random_bytes()?;
    let mut secret = [0; 4];
    for (word, chunk) in secret.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    Ok(secret)
}

fn random_bytes<const COUNT: usize>() -> std::io::Result<[u8; COUNT]> {
    use std::io::Read;
    let mut bytes = [0; COUNT];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
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

    #[test]
    fn cores_follow_the_main_core_unless_they_are_listed() {
        let mut config = Config::default();
        config.workers.count = 2;
        assert_eq!(worker_cpus(&config), [1, 2]);
        config.eal.worker_cores = vec![3, 3];
        assert_eq!(worker_cpus(&config), [3, 3]);
    }

    #[test]
    fn the_secret_is_not_constant() {
        assert_ne!(secret().unwrap(), secret().unwrap());
    }
}
