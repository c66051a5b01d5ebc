//! The modules of the daemon `lvsd`, and [`run`], which starts and stops them in order.
//!
//! They form a library beside the binary, so that tests can start each module alone.

pub mod arguments;
pub mod dpdk;
pub mod mgmt;
pub mod offline;
pub mod startup;
pub mod worker;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use dpdk::lcore::LcoreHandle;
use lvs_core::config::Config;
use lvs_core::counters::WorkerCounters;
use mgmt::director::Director;
use mgmt::link::LinkWatch;
use mgmt::mailbox_handle::MailboxHandle;
use mgmt::punt;
use mgmt::reload::Reloader;
use mgmt::rss_check::RssCheck;
use mgmt::runtime::{self, SharedState};
use mgmt::twin::keeper::TwinKeeper;
use mgmt::unix_socket::{self, SocketKind};
use startup::connections::KeptConnections;
use startup::devices::Opened;
use startup::workers::Launch;
use startup::{Stages, StartError};

/// Runs the director until SIGTERM or SIGINT.
///
/// # Errors
/// A part of the start-up fails. The daemon has not promised anything to anybody by then.
pub fn run(config_path: &Path, revision: &str) -> Result<(), StartError> {
    let mut stages = Stages::begin();
    let (config, text) = startup::read_config(config_path)?;
    unix_socket::refuse_second_daemon(&config.api.socket, SocketKind::Stream)?;
    let metrics = startup::metrics_listener(&config)?;
    let mut director = startup::restore(&config)?;
    stages.end("configuration and journal");

    let environment = startup::environment::start(&config)?;
    let mut kept = KeptConnections::open(&config, environment.eal.hugepages())?;
    stages.end("DPDK");
    let Opened {
        devices,
        queues,
        twins,
        rss,
    } = startup::devices::open(&config, &environment, kept.rss_key())?;
    stages.end("devices");
    let runtime = startup::runtime()?;
    let (mirror, l3) = runtime.block_on(startup::mirror(&twins))?;
    director.set_l3(Arc::clone(&l3.borrow()), Instant::now());
    stages.end("kernel");

    let counters = startup::statistics::resume(kept.directory(), &config, &environment.nodes, &mut director);
    let assignment = startup::workers::assign(&config, &environment, &counters, queues, &twins);
    let links = LinkWatch::new(&twins);
    let wanted_twins = startup::devices::wanted_twins(&devices, &config);
    let descriptors = startup::devices::twin_descriptors(twins);
    let pool = environment.pools.of(environment.nodes.main);
    let punt_thread =
        punt::start(assignment.twin_ends, descriptors, pool).map_err(StartError::io("start the twin thread"))?;
    let shared = Launch {
        config: &config,
        environment: &environment,
        counters: &counters,
        snapshot: &director.first_snapshot(config.workers.count),
        rss: rss.as_ref(),
    };
    let workers = startup::workers::launch(&shared, &mut kept, assignment.workers)?;
    stages.end("connections");
    let handles = startup::workers::handles(&environment, assignment.mailboxes, &counters);
    attach(&mut director, &handles, punt_thread.counters());

    let (socket, ipvs_socket) = startup::sockets(&config)?;
    stages.end("sockets");
    let state = SharedState {
        director: Arc::new(Mutex::new(director)),
        reloader: Arc::new(Reloader::new(config_path.to_owned(), &text)),
        links,
        rss_check: RssCheck::new(startup::devices::claims(&devices, rss.is_some()), Arc::clone(&counters)),
        devices,
        pools: environment.pools.clone(),
        twins: Arc::clone(punt_thread.counters()),
        handles: handles.clone(),
        mirror,
        twin_keeper: TwinKeeper::new(wanted_twins, l3.clone(), punt_thread.exchange().clone()),
        l3,
        version: startup::version(&config, revision),
        kept: kept.for_api(&stages),
        metrics,
    };
    log_ready(&config, revision, rss.is_some(), &stages);
    runtime.block_on(runtime::serve(socket, ipvs_socket, state));

    stop(&handles, workers)?;
    leave(runtime);
    drop(punt_thread);
    log_end(&counters);
    Ok(())
}

fn attach(director: &mut Director, handles: &[Arc<MailboxHandle>], twins: &Arc<WorkerCounters>) {
    let workers = handles.iter().map(|handle| Arc::clone(handle) as _).collect();
    director.attach(workers, Instant::now());
    director.attach_twins(Arc::clone(twins));
}

fn log_ready(config: &Config, revision: &str, by_rss: bool, stages: &Stages) {
    log::info!("{stages}");
    let (devices, workers) = (config.devices.len(), config.workers.count);
    let distributor = if by_rss { "RSS" } else { "workers" };
    log::info!("lvsd {revision}: {devices} devices, {workers} workers, flows distributed by {distributor}, ready");
}

/// Ends all workers and waits for them.
fn stop(handles: &[Arc<MailboxHandle>], workers: Vec<LcoreHandle>) -> Result<(), StartError> {
    for handle in handles {
        handle.stop();
    }
    for worker in workers {
        worker.join()?;
    }
    Ok(())
}

/// To drop the runtime would wait for its other threads, and a disk that hangs would keep the devices and the memory of
/// connections from the next lvsd. None of those threads uses DPDK.
fn leave(runtime: tokio::runtime::Runtime) {
    runtime.shutdown_background();
}

/// Logs that the director has stopped, and the cycles of each stage, in builds with the feature `stages`.
#[cfg_attr(
    not(feature = "stages"),
    expect(unused_variables, reason = "other builds count no cycles")
)]
fn log_end(counters: &[Arc<WorkerCounters>]) {
    #[cfg(feature = "stages")]
    for worker in counters {
        use lvs_core::single_writer::SingleWriter;
        let packets: u64 = worker.devices.iter().map(|device| device.rx_packets.get()).sum();
        log::info!(
            "cycles of {packets} packets by stage: {:?} {:?}",
            lvs_core::stages::Stage::ALL,
            worker.stages.sums()
        );
    }
    log::info!("stopped");
}
