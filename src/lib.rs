//! The rooms of the daemon `lvsd`, and [`run`], which starts and stops them in order.
//!
//! A library beside the binary so that tests can start each room alone.

pub mod arguments;
pub mod dpdk;
pub mod mgmt;
pub mod offline;
pub mod startup;
pub mod worker;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use mgmt::link::LinkWatch;
use mgmt::mailbox_handle::MailboxHandle;
use mgmt::punt;
use mgmt::reload::Reloader;
use mgmt::rss_check::RssCheck;
use mgmt::runtime::{self, Parts};
use mgmt::unix_socket::{self, SocketKind, UnixSocket};
use startup::{Opened, StartError};
use worker::assignment::{self, AssignmentSettings};

/// Runs the director until SIGTERM or SIGINT.
///
/// # Errors
/// When a step of the start-up fails; nothing has been promised to anybody then.
pub fn run(config_path: &Path, revision: &str) -> Result<(), StartError> {
    let (config, text) = startup::read_config(config_path)?;
    unix_socket::refuse_second_daemon(&config.api.socket, SocketKind::Stream)?;
    let metrics = startup::metrics_listener(&config)?;
    let mut director = startup::restore(&config)?;

    let environment = startup::environment(&config)?;
    let Opened {
        devices,
        queues,
        twins,
        rss,
    } = startup::devices(&config, &environment)?;
    let runtime = startup::runtime()?;
    let (mirror, l3) = runtime.block_on(startup::mirror(&twins))?;
    director.set_l3(Arc::clone(&l3.borrow()), Instant::now());

    let counters = startup::counters(&config, &environment.nodes);
    let settings = AssignmentSettings {
        counters: &counters,
        twins: &twins.iter().map(|twin| twin.device).collect::<Vec<_>>(),
        idle: startup::idle_policy(&config),
        clock: environment.clock,
        pool: environment.pools.of(environment.nodes.main),
    };
    let assignment = assignment::assemble(queues, &settings);
    let links = LinkWatch::new(&twins);
    let punt_thread = punt::start(assignment.twin_ends, startup::twin_descriptors(twins), settings.pool)
        .map_err(StartError::io("start the twin thread"))?;
    let snapshot = director.first_snapshot(config.workers.count);
    let workers = startup::launch_workers(
        &config,
        &environment,
        assignment.workers,
        &counters,
        &snapshot,
        rss.as_ref(),
    )?;
    let handles: Vec<Arc<MailboxHandle>> = startup::worker_handles(&environment, assignment.mailboxes, &counters);
    director.attach(
        handles.iter().map(|handle| Arc::clone(handle) as _).collect(),
        Instant::now(),
    );
    director.attach_twins(Arc::clone(punt_thread.counters()));

    let socket = UnixSocket::open(
        &config.api.socket,
        SocketKind::Stream,
        unix_socket::group(startup::group(&config)),
    )?;
    let ipvs_socket = UnixSocket::open(
        &config.api.socket.with_file_name("ipvs.sock"),
        SocketKind::SeqPacket,
        socket.gate.group(),
    )?;
    let parts = Parts {
        director: Arc::new(Mutex::new(director)),
        reloader: Arc::new(Reloader::new(config_path.to_owned(), &text)),
        links,
        rss_check: RssCheck::new(startup::claims(&devices, rss.is_some()), Arc::clone(&counters)),
        devices,
        pools: environment.pools.clone(),
        twins: Arc::clone(punt_thread.counters()),
        handles: handles.clone(),
        mirror,
        l3,
        version: startup::version(&config, revision),
        metrics,
    };
    log::info!(
        "lvsd {revision}: {} devices, {} workers, {}, ready",
        config.devices.len(),
        config.workers.count,
        if rss.is_some() {
            "flows spread by RSS"
        } else {
            "flows spread by workers"
        }
    );
    runtime.block_on(runtime::serve(socket, ipvs_socket, parts));

    for handle in &handles {
        handle.stop();
    }
    for worker in workers {
        worker.join()?;
    }
    drop(punt_thread);
    #[cfg(feature = "stages")]
    for worker in counters.iter() {
        use lvs_core::single_writer::SingleWriter;
        let packets: u64 = worker.devices.iter().map(|device| device.rx_packets.get()).sum();
        log::info!(
            "cycles of {packets} packets by stage: {:?} {:?}",
            lvs_core::stages::Stage::ALL,
            worker.stages.sums()
        );
    }
    log::info!("stopped");
    Ok(())
}
