//! One report of the daemon: everything that it says at one moment.

use std::time::Instant;

use lvs_api::{Buffers, Device, DropCount, ServiceStatus, Stats, Version, Worker};

use crate::lvsctl::client::Client;
use crate::lvsctl::run::Failure;

/// See the module.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it was taken.
    pub taken: Instant,
    /// Versions and sizes.
    pub version: Version,
    /// Totals and rates of all services.
    pub stats: Stats,
    /// By worker.
    pub workers: Vec<Worker>,
    /// Services and their servers.
    pub services: Vec<ServiceStatus>,
    /// By reason.
    pub drops: Vec<DropCount>,
    /// The NICs.
    pub devices: Vec<Device>,
    /// Packet buffers.
    pub buffers: Buffers,
}

impl Sample {
    /// Asks the daemon now.
    pub async fn take(client: &Client) -> Result<Self, Failure> {
        Ok(Self {
            version: client.get("/version").await?,
            services: client.get("/services").await?,
            drops: client.get("/drops").await?,
            devices: client.get("/devices").await?,
            buffers: client.get("/buffers").await?,
            stats: client.get("/stats").await?,
            workers: client.get("/workers").await?,
            taken: Instant::now(),
        })
    }
}
