//! Why the daemon does not start.

use std::net::SocketAddr;
use std::path::PathBuf;

use lvs_core::arena::ArenaError;
use lvs_core::config::ConfigError;
use thiserror::Error;

use crate::dpdk::device::DeviceError;
use crate::dpdk::eal::EalError;
use crate::dpdk::lcore::LcoreError;
use crate::dpdk::memory::MemoryError;
use crate::dpdk::mempool::PoolError;
use crate::mgmt::journal::JournalError;
use crate::mgmt::kernel::KernelError;
use crate::mgmt::sync::auth::SyncKeyError;
use crate::mgmt::twin::TwinError;
use crate::mgmt::unix_socket::SocketError;
use crate::offline::OfflineError;
use crate::startup::state_directory::StateError;

/// Why the daemon does not start. Each message names the cause and the cure.
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
    /// The key of sync messages.
    #[error(transparent)]
    SyncKey(#[from] SyncKeyError),
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
    /// The directory in which connections outlive the process.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file system has no space for connections that are to outlive the process. lvsd starts all the same.
    #[error("{path} has no {mb} MiB for connections")]
    NoSpaceToKeep {
        /// The directory.
        path: PathBuf,
        /// MiB of one worker.
        mb: usize,
    },
    /// The region for connections is too small.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// A worker.
    #[error(transparent)]
    Lcore(#[from] LcoreError),
    /// A capture file for the offline run.
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
    #[error("cannot {action}: {source}")]
    Io {
        /// What the daemon tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl StartError {
    /// For `map_err`: names what the daemon tried when the system refused.
    pub fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}
