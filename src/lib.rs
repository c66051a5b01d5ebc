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

use mgmt::admin::socket::{self, AdminSocket};
use mgmt::ipvs_netlink::socket::IpvsSocket;
use mgmt::link::LinkWatch;
use mgmt::mailbox_port::MailboxPort;
use mgmt::punt;
use mgmt::reload::Reloader;
use mgmt::service::{self, Parts};
use mgmt::spread::SpreadWatch;
use startup::{Opened, StartError};
use worker::crew::{self, CrewSettings};

/// Runs the director until SIGTERM or SIGINT.
///
/// # Errors
/// When a step of the start-up fails; nothing has been promised to anybody then.
pub fn run(config_path: &Path, revision: &str) -> Result<(), StartError> {
    let (config, text) = startup::read_config(config_path)?;
    socket::refuse_second_daemon(&config.api.socket)?;
    let metrics = startup::metrics_listener(&config)?;
    let mut director = startup::restore(&config)?;

    let ground = startup::ground(&config)?;
    let Opened {
        devices,
        queues,
        twins,
        rss,
    } = startup::devices(&config, &ground)?;
    let runtime = startup::runtime()?;
    let (mirror, l3) = runtime.block_on(startup::mirror(&twins))?;
    director.set_l3(Arc::clone(&l3.borrow()), Instant::now());

    let counters = startup::counters(&config, &ground.nodes);
    let settings = CrewSettings {
        counters: &counters,
        twins: &twins.iter().map(|twin| twin.device).collect::<Vec<_>>(),
        idle: startup::idle_policy(&config),
        clock: ground.clock,
        pool: ground.pools.of(ground.nodes.main),
    };
    let crew = crew::assemble(queues, &settings);
    let links = LinkWatch::new(&twins);
    let punt_thread = punt::start(crew.twin_ends, startup::twin_descriptors(twins), settings.pool)
        .map_err(StartError::io("start the twin thread"))?;
    let snapshot = director.first_snapshot(config.workers.count);
    let workers = startup::launch_workers(&config, &ground, crew.workers, &counters, &snapshot, rss.as_ref())?;
    let ports: Vec<Arc<MailboxPort>> = startup::ports(&ground, crew.mailboxes, &counters);
    director.attach(ports.iter().map(|port| Arc::clone(port) as _).collect(), Instant::now());
    director.attach_twins(Arc::clone(punt_thread.counters()));

    let socket = AdminSocket::open(&config.api.socket, startup::group(&config))?;
    let ipvs_socket = IpvsSocket::open(&config.api.socket.with_file_name("ipvs.sock"), socket.gate.group())?;
    let parts = Parts {
        director: Arc::new(Mutex::new(director)),
        reloader: Arc::new(Reloader::new(config_path.to_owned(), &text)),
        links,
        spread: SpreadWatch::new(startup::claims(&devices, rss.is_some()), Arc::clone(&counters)),
        devices,
        pools: ground.pools.clone(),
        twins: Arc::clone(punt_thread.counters()),
        ports: ports.clone(),
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
    runtime.block_on(service::serve(socket, ipvs_socket, parts));

    for port in &ports {
        port.stop();
    }
    for worker in workers {
        worker.join()?;
    }
    drop(punt_thread);
    #[cfg(feature = "steps")]
    for worker in counters.iter() {
        use lvs_core::counters::SingleWriter;
        let packets: u64 = worker.devices.iter().map(|device| device.rx_packets.get()).sum();
        log::info!(
            "cycles of {packets} packets by step: {:?} {:?}",
            lvs_core::steps::StepName::ALL,
            worker.steps.sums()
        );
    }
    log::info!("stopped");
    Ok(())
}
