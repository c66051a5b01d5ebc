//! The admin socket: HTTP/1.1 and JSON on a Unix socket, described by `conf/openapi.json`.
//!
//! [`crate::mgmt::unix_socket`] opens it, [`serve`] accepts and bounds clients, [`routes`] maps paths to the director's
//! actions, [`body`] reads requests, [`connections`] streams the connection table.
//! Never: decides anything about services; that is the director's.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lvs_api::{ApiError, Buffers, Device, ErrorCode, ReloadReport, RestartStatus, Version};
use tokio::sync::Semaphore;

use crate::mgmt::director::Director;
use crate::mgmt::lock::lock;

pub mod body;
pub mod capture;
pub mod connections;
pub mod observe;
mod openapi;
pub mod routes;
pub mod serve;
pub mod why;

#[cfg(test)]
mod tests;

/// The memory that outlives the daemon.
pub struct KeptState {
    /// What `GET /v1/restart` answers.
    pub status: Mutex<RestartStatus>,
    /// Takes the names of its files away. The daemon goes on with them.
    pub give_up: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// What clients may cost.
#[derive(Clone, Copy, Debug)]
pub struct AdminLimits {
    /// Clients that may be connected at once. Further ones are refused with 503.
    pub clients_max: usize,
    /// How long a client may take for a request head, and how long it may pause between two requests.
    pub head_timeout: Duration,
    /// For a complete body.
    pub body_timeout: Duration,
    /// For a client to take some of its answer.
    pub write_timeout: Duration,
    /// How long a worker may take to hand out a part of its connections.
    pub worker_timeout: Duration,
    /// Bytes of a body, `PUT /v1/state` excepted.
    pub body_max_bytes: usize,
    /// Bytes of the body of `PUT /v1/state`: 16,384 services and 65,536 servers need about 10 MiB.
    pub state_max_bytes: usize,
}

impl Default for AdminLimits {
    fn default() -> Self {
        Self {
            clients_max: 256,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            worker_timeout: Duration::from_secs(2),
            body_max_bytes: 1 << 20,
            state_max_bytes: 64 << 20,
        }
    }
}

/// What the daemon carries out for `POST /v1/reload` and on SIGHUP.
pub type ReloadFn = dyn Fn() -> Result<ReloadReport, ApiError> + Send + Sync;

/// What every request can reach.
pub struct Admin {
    /// The desired state.
    pub director: Arc<Mutex<Director>>,
    /// What `GET /v1/version` answers.
    pub version: Version,
    /// What `GET /v1/devices` answers.
    pub devices: Box<dyn Fn() -> Vec<Device> + Send + Sync>,
    /// What `GET /v1/buffers` answers.
    pub buffers: Box<dyn Fn() -> Buffers + Send + Sync>,
    /// What `POST /v1/reload` does.
    pub reload: Box<ReloadFn>,
    /// What outlives the daemon.
    pub kept: KeptState,
    /// What clients may cost.
    pub limits: AdminLimits,
    /// A place for each capture that may run.
    pub captures: Arc<Semaphore>,
}

impl Admin {
    /// From now on nothing outlives the daemon but its journal.
    ///
    /// # Errors
    /// The system refuses. Some of the memory may be given up by then.
    pub fn forget_state(&self) -> Result<(), ApiError> {
        self.director().store_counts_no_more();
        (self.kept.give_up)().map_err(|error| ApiError::new(ErrorCode::Refused, error))?;
        lock(&self.kept.status).kept_in = None;
        log::info!("connections and statistics will not outlive lvsd: a client asked for it");
        Ok(())
    }

    /// Locks the director. The caller does one short piece of work and does not wait meanwhile.
    pub fn director(&self) -> MutexGuard<'_, Director> {
        lock(&self.director)
    }
}
