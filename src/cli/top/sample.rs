//! Everything that the daemon reports, at one moment.

use std::time::Instant;

use lvs_api::{Buffers, Device, DropCount, ServiceStatus, Stats, Version, Worker};

use crate::client::Client;
use crate::run::Failure;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) taken: Instant,
    pub(super) version: Version,
    pub(super) stats: Stats,
    pub(super) workers: Vec<Worker>,
    pub(super) services: Vec<ServiceStatus>,
    pub(super) drops: Vec<DropCount>,
    pub(super) devices: Vec<Device>,
    pub(super) buffers: Buffers,
}

impl Sample {
    /// Now.
    pub(super) async fn take(client: &Client) -> Result<Self, Failure> {
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
