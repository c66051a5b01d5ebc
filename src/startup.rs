//! The parts of the start-up. [`crate::run`] calls them in order.
//!
//! In:  the configuration. Out: the director, DPDK's environment, devices, kernel twins, workers.
//! Never: decides about services. What fails names its cause and cure, and nothing has been promised by then.

pub mod connections;
pub mod devices;
pub mod environment;
mod error;
mod nodes;
mod stages;
pub mod state_directory;
pub mod statistics;
pub mod workers;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lvs_core::config::Config;
use lvs_core::l3::L3;
use tokio::sync::watch;

pub use error::StartError;
pub use stages::Stages;

use crate::mgmt::director::Director;
use crate::mgmt::journal::{self, Salvaged};
use crate::mgmt::kernel::{KernelMirror, MirroredTwin};
use crate::mgmt::metrics;
use crate::mgmt::reload;
use crate::mgmt::sync::settings::SyncSettings;
use crate::mgmt::twin::Twin;
use crate::mgmt::twin::ownership::Owner;
use crate::mgmt::unix_socket::{self, SocketKind, UnixSocket};
use crate::offline;
use state_directory::StateDirectory;

/// Reads and checks the configuration file. Returns its text too, for later reloads.
///
/// # Errors
/// The file cannot be read or is wrong.
pub fn read_config(path: &Path) -> Result<(Config, String), StartError> {
    let unreadable = |source| StartError::ConfigUnreadable {
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    Ok((Config::parse(&text, &path.display().to_string())?, text))
}

/// Checks the configuration file and the file of the key that it names.
///
/// # Errors
/// One of them cannot be read or is wrong.
pub fn check(path: &Path) -> Result<(), StartError> {
    let (config, _) = read_config(path)?;
    SyncSettings::read(&config.sync)?;
    Ok(())
}

/// Runs the path over a capture file with the services of the configuration.
///
/// # Errors
/// The configuration or the input cannot be read, or the output cannot be written.
pub fn offline(config: &Path, input: &Path, output: &Path) -> Result<offline::Summary, StartError> {
    let (config, _) = read_config(config)?;
    Ok(offline::run(&config, input, output)?)
}

/// Gives back the memory of connections and the kernel twins that an lvsd with this configuration left. Says what it did.
///
/// # Errors
/// The configuration cannot be read, an lvsd uses the memory or the twins, somebody else may have made the memory, or the
/// kernel refuses.
pub fn forget_state(config: &Path) -> Result<String, StartError> {
    let (config, _) = read_config(config)?;
    let path = config.connections.state_dir;
    let directory = StateDirectory::open_existing(&path)?;
    unix_socket::refuse_second_daemon(&config.api.socket, SocketKind::Stream)?;
    let mut done = match directory {
        Some(directory) => {
            directory.remove()?;
            format!("{}: the memory of connections was given back", path.display())
        }
        None => format!("{}: no connections are kept there", path.display()),
    };
    let gone = Owner::new(&config.api.socket).give_back_but(&[]);
    for twin in gone.map_err(StartError::io("give back the kernel twins"))? {
        done += &format!("\n{twin}: the kernel twin was given back");
    }
    Ok(done)
}

/// Restores the desired state from the journal and applies later edits of the configuration.
///
/// # Errors
/// The key of sync messages or the journal cannot be read, or the journal contradicts the configuration. A journal that
/// cannot be written is none.
pub fn restore(config: &Config) -> Result<Director, StartError> {
    let devices = config.devices.iter().map(|device| device.name.clone()).collect();
    let (mut director, report) = Director::restore_with_devices(&config.journal.path, devices)?;
    director.set_standstill_limit(Duration::from_secs(u64::from(config.workers.standstill_sec)));
    if let Some(damage) = &report.damage {
        let kept = match &damage.copy {
            Ok(copy) => format!("kept in {}", copy.display()),
            Err(error) => format!("not to be kept: {error}"),
        };
        log::warn!(
            "journal: its last {} bytes are no whole record ({kept}); everything before is restored",
            damage.lost_bytes
        );
    }
    for refused in &report.refused {
        log::warn!("journal: left out: {refused}");
    }
    let sync = SyncSettings::read(&config.sync)?;
    let report = reload::load(&mut director, config, sync, Instant::now()).map_err(StartError::Services)?;
    for left_out in &report.left_out {
        log::warn!("configuration: {left_out}");
    }
    Ok(director)
}

/// Leaves out of a damaged journal what cannot be understood, so that the next start goes on without it.
///
/// # Errors
/// The configuration cannot be read, a daemon uses the journal, or the disk refuses.
pub fn salvage_journal(config: &Path) -> Result<Salvaged, StartError> {
    let (config, _) = read_config(config)?;
    Ok(journal::salvage(&config.journal.path)?)
}

/// The management core's runtime. Blocking work (syncing files) runs on other threads.
///
/// # Errors
/// The system refuses its descriptors.
pub fn runtime() -> Result<tokio::runtime::Runtime, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(StartError::io("start the management runtime"))
}

/// Mirrors the kernel's network. The receiver holds the first picture when this returns, and later ones follow.
///
/// # Errors
/// The kernel does not answer.
pub async fn mirror(twins: &[Twin]) -> Result<(KernelMirror, watch::Receiver<Arc<L3>>), StartError> {
    let mirrored: Vec<_> = twins
        .iter()
        .map(|twin| MirroredTwin {
            device: twin.device,
            ifindex: twin.ifindex,
            name: twin.name.clone(),
        })
        .collect();
    let (sender, receiver) = watch::channel(Arc::new(L3::default()));
    let mirror = KernelMirror::start(&mirrored, move |l3| {
        sender.send_replace(l3);
    })
    .await?;
    Ok((mirror, receiver))
}

/// The sockets of the API and of IPVS tools, for the configured group too.
///
/// # Errors
/// One cannot be opened.
pub fn sockets(config: &Config) -> Result<(UnixSocket, UnixSocket), StartError> {
    let group = Some(config.api.group.as_str()).filter(|group| !group.is_empty());
    let api = UnixSocket::open(&config.api.socket, SocketKind::Stream, unix_socket::group(group))?;
    let ipvs_path = config.api.socket.with_file_name("ipvs.sock");
    let ipvs = UnixSocket::open(&ipvs_path, SocketKind::SeqPacket, api.gate.group())?;
    Ok((api, ipvs))
}

/// The TCP listener for `/metrics`, if one is configured.
///
/// # Errors
/// The address cannot be bound.
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

fn random_bytes<const COUNT: usize>() -> std::io::Result<[u8; COUNT]> {
    use std::io::Read;
    let mut bytes = [0; COUNT];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
