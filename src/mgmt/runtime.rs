//! The tasks of the management core. They run until a signal ends the director.
//!
//! One task each serves the admin socket, the IPVS socket, the director's periodic work, the workers' replies, the
//! kernel's network, systemd's watchdog and signals. All tasks share one thread; work that blocks runs on other threads.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lvs_api::{Buffers, ReloadReport, Version};
use lvs_core::counters::WorkerCounters;
use lvs_core::l3::L3;
use lvs_core::single_writer::SingleWriter;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::dpdk::Pools;
use crate::dpdk::device::Device;
use crate::mgmt::admin::{Admin, AdminLimits, KeptState, serve as serve_admin};
use crate::mgmt::director::publication::changes_arrive;
use crate::mgmt::director::{Director, tend};
use crate::mgmt::ipvs_netlink::proc_files;
use crate::mgmt::ipvs_netlink::serve::{self as serve_ipvs, IpvsLimits, Served};
use crate::mgmt::kernel::KernelMirror;
use crate::mgmt::link::LinkWatch;
use crate::mgmt::lock::lock;
use crate::mgmt::mac_filters::MacFilters;
use crate::mgmt::mailbox_handle::MailboxHandle;
use crate::mgmt::metrics;
use crate::mgmt::reload::Reloader;
use crate::mgmt::rss_check::RssCheck;
use crate::mgmt::twin::keeper::TwinKeeper;
use crate::mgmt::unix_socket::UnixSocket;
use crate::worker::capture::CAPTURES_MAX;

/// The period in which the management core takes the workers' replies. A frame waits at most this long before the
/// management core asks the kernel for its neighbour.
const REPLIES_PERIOD: Duration = Duration::from_millis(1);

/// The state that the tasks share.
pub struct SharedState {
    /// The desired state.
    pub director: Arc<Mutex<Director>>,
    /// The configuration file.
    pub reloader: Arc<Reloader>,
    /// All devices, in the order of their ids.
    pub devices: Vec<Device>,
    /// Whether their links are up.
    pub links: LinkWatch,
    /// Whether they spread flows as they claim.
    pub rss_check: RssCheck,
    /// All packet buffers.
    pub pools: Pools,
    /// The counters of the twin thread.
    pub twins: Arc<WorkerCounters>,
    /// One handle for each worker.
    pub handles: Vec<Arc<MailboxHandle>>,
    /// Asks the kernel for neighbours.
    pub mirror: KernelMirror,
    /// Makes kernel twins again.
    pub twin_keeper: TwinKeeper,
    /// The kernel's network; each change of it arrives here.
    pub l3: watch::Receiver<Arc<L3>>,
    /// The API's answer about the daemon's version and sizes.
    pub version: Version,
    /// The memory that outlives the daemon.
    pub kept: KeptState,
    /// The TCP socket that serves `/metrics` besides the admin socket.
    pub metrics: Option<TcpListener>,
}

/// Serves until SIGTERM or SIGINT.
pub async fn serve(socket: UnixSocket, ipvs_socket: UnixSocket, state: SharedState) {
    let SharedState {
        director,
        reloader,
        devices,
        links,
        rss_check,
        pools,
        twins,
        handles,
        mirror,
        twin_keeper,
        l3,
        version,
        kept,
        metrics,
    } = state;
    let devices = Arc::new(devices);
    let rss_check = Arc::new(rss_check);
    let (devices_of_admin, rss_check_of_admin) = (Arc::clone(&devices), Arc::clone(&rss_check));
    let l3_of_admin = l3.clone();
    let (reloader_of_admin, director_of_admin) = (Arc::clone(&reloader), Arc::clone(&director));
    let admin = Arc::new(Admin {
        director: Arc::clone(&director),
        version,
        devices: Box::new(move || {
            let l3 = Arc::clone(&l3_of_admin.borrow());
            let described = devices_of_admin
                .iter()
                .map(|device| describe(device, &rss_check_of_admin, &twins, &l3));
            described.collect()
        }),
        buffers: Box::new(move || buffers(&pools)),
        reload: Box::new(move || reloader_of_admin.reload(&mut lock(&director_of_admin), Instant::now())),
        kept,
        limits: AdminLimits::default(),
        captures: Arc::new(Semaphore::new(CAPTURES_MAX)),
    });
    tokio::select! {
        result = serve_ipvs::serve(ipvs_socket, ipvs_table(&director)) => {
            if let Err(error) = result {
                log::error!("IPVS socket: {error}");
            }
        }
        result = metrics::listener::serve(metrics, Arc::clone(&admin)) => {
            if let Err(error) = result {
                log::error!("metrics: {error}");
            }
        }
        result = serve_admin::serve(socket, Arc::clone(&admin)) => {
            if let Err(error) = result {
                log::error!("admin socket: {error}");
            }
        }
        () = tend::tend(Arc::clone(&director)) => {}
        () = take_replies(&handles, &mirror, &director) => {}
        () = links.watch(|device| devices.get(usize::from(device.0)).is_none_or(|device| device.link().up)) => {}
        () = rss_check.watch() => {}
        () = follow_network(&director, l3, &devices) => {}
        () = twin_keeper.keep(&mirror) => {}
        () = reload_on_hangup(&director, &reloader) => {}
        () = keep_alive(&director) => {}
        () = ended() => {}
    }
    notify_systemd(&[NotifyState::Stopping]);
    lock(&director).leave_counts();
    tend::leave_journal(&director).await;
}

/// The table and the files of `/proc` that the IPVS socket serves from the director's state.
fn ipvs_table(director: &Arc<Mutex<Director>>) -> Arc<Served<Director>> {
    let (director_of_files, changed_director) = (Arc::clone(director), Arc::clone(director));
    Arc::new(Served {
        table: Arc::clone(director),
        changes_arrive: Box::new(move || {
            let director = Arc::clone(&changed_director);
            Box::pin(async move { changes_arrive(&director).await })
        }),
        file: Box::new(move |path| Box::pin(proc_files::render(Arc::clone(&director_of_files), path.to_owned()))),
        limits: IpvsLimits::default(),
    })
}

/// Notifies systemd of these states. Does nothing where systemd did not start the daemon.
fn notify_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("systemd cannot be notified: {error}");
    }
}

/// Notifies systemd that the sockets are open and every worker forwards. Where a watchdog is set, also notifies it
/// periodically that this core still runs, as long as no worker stands still.
async fn keep_alive(director: &Mutex<Director>) {
    let mut looks = interval(REPLIES_PERIOD);
    while !lock(director).all_have_begun() {
        looks.tick().await;
    }
    notify_systemd(&[NotifyState::Ready]);
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    let mut ticks = interval((limit / 3).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !lock(director).has_standstill() {
            notify_systemd(&[NotifyState::Watchdog]);
        }
    }
}

/// Also carries synced connections between workers and other directors.
async fn take_replies(handles: &[Arc<MailboxHandle>], mirror: &KernelMirror, director: &Mutex<Director>) {
    let mut ticks = interval(REPLIES_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for port in handles {
            port.take_replies(|neighbour| mirror.resolve(neighbour));
        }
        lock(director).tend_sync(Instant::now());
    }
}

async fn follow_network(director: &Mutex<Director>, mut l3: watch::Receiver<Arc<L3>>, devices: &[Device]) {
    let mut filters = MacFilters::default();
    filters.follow(devices.iter(), &l3.borrow());
    while l3.changed().await.is_ok() {
        let newest = Arc::clone(&l3.borrow_and_update());
        filters.follow(devices.iter(), &newest);
        lock(director).set_l3(newest, Instant::now());
    }
    log::error!("the kernel's network is not mirrored any more");
}

async fn reload_on_hangup(director: &Mutex<Director>, reloader: &Reloader) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else {
        return std::future::pending().await;
    };
    while hangups.recv().await.is_some() {
        let outcome = reloader.reload(&mut lock(director), Instant::now());
        match outcome {
            Ok(report) => log_reload(&report),
            Err(error) => log::error!("reload: {error}"),
        }
    }
}

fn log_reload(report: &ReloadReport) {
    let json = serde_json::to_string(&report.applied);
    log::info!("reloaded: {}", json.unwrap_or_default());
    for left_out in &report.left_out {
        log::warn!("reload: {left_out}");
    }
    for key in &report.restart_needed {
        log::warn!("reload: {key} takes effect after a restart only");
    }
}

async fn ended() {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => log::info!("SIGTERM: stopping"),
                _ = interrupt.recv() => log::info!("SIGINT: stopping"),
            }
        }
        _ => std::future::pending().await,
    }
}

/// A device as the API shows it.
fn describe(device: &Device, rss_check: &RssCheck, twins: &WorkerCounters, l3: &L3) -> lvs_api::Device {
    let stats = device.stats();
    let interface = l3.interface(device.id(), 0);
    let twin = twins.device(device.id());
    lvs_api::Device {
        name: device.name().to_owned(),
        mac: device.mac().map(|byte| format!("{byte:02x}")).join(":"),
        driver: device.driver().to_owned(),
        twin: interface.map(|interface| interface.name.clone()).unwrap_or_default(),
        link_up: device.link().up,
        mtu: device.mtu(),
        rx_queues: device.rx_queues(),
        rss: rss_check.of(device.id()),
        rx_packets: stats.rx_packets,
        rx_bytes: stats.rx_bytes,
        tx_packets: stats.tx_packets,
        tx_bytes: stats.tx_bytes,
        rx_missed: stats.rx_missed,
        rx_errors: stats.rx_errors,
        tx_errors: stats.tx_errors,
        rx_no_mbuf: stats.rx_no_mbuf,
        punt_packets: twin.punted_packets.get(),
        inject_packets: twin.injected_packets.get(),
    }
}

fn buffers(pools: &Pools) -> Buffers {
    let (size, available) = pools.all().fold((0, 0), |(size, available), pool| {
        (size + pool.size(), available + pool.available())
    });
    Buffers {
        buffers: size,
        in_use: size.saturating_sub(available),
        available,
    }
}
