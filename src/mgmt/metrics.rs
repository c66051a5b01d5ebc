//! `GET /metrics`: everything counted, as Prometheus scrapes it.
//!
//! In:  the director's own reports. Out: the text format, version 0.0.4: node_exporter's `node_ipvs_*` with its names,
//! labels and help, so that dashboards of kernel directors go on working, and `lvsd_*` for what only lvsd has.
//! Never: waits for a worker; the text is written off the management thread, family by family.

use lvs_api::{Buffers, Device, DropCount, JournalStatus, ServiceStatus, Stats, SyncDaemonStatus, Version, Worker};
use lvs_core::latency::LatencyCounts;

use crate::mgmt::admin::Admin;

pub mod listener;
mod node_ipvs;
mod own;
mod page;

#[cfg(test)]
pub use own::DEVICE_METRICS;
use page::Page;

/// The state of the director at one moment, from which the text is made.
pub struct Scrape {
    version: Version,
    stats: Stats,
    services: Vec<ServiceStatus>,
    workers: Vec<Worker>,
    /// By worker.
    latencies: Vec<LatencyCounts>,
    drops: Vec<DropCount>,
    devices: Vec<Device>,
    buffers: Buffers,
    sync_daemons: Vec<SyncDaemonStatus>,
    answered_early: u64,
    journal: JournalStatus,
}

impl Scrape {
    /// Now.
    pub fn take(admin: &Admin) -> Self {
        let (devices, buffers) = ((admin.devices)(), (admin.buffers)());
        let mut director = admin.director();
        let latencies = director.workers().iter().map(|worker| worker.counters().latency.read());
        Self {
            version: admin.version.clone(),
            latencies: latencies.collect(),
            stats: director.stats(),
            services: director.services(),
            workers: director.worker_reports(),
            drops: director.drops(),
            sync_daemons: director.sync_daemons(),
            answered_early: director.answered_early(),
            journal: director.journal_status(),
            devices,
            buffers,
        }
    }

    /// Writes the text. The time for it grows with the number of real servers.
    pub fn text(&self) -> String {
        let mut page = Page::default();
        node_ipvs::write(&mut page, self);
        own::write(&mut page, self);
        page.into_text()
    }
}

/// The text of this moment. Another thread writes it, because it may take long. It is empty when that thread fails.
pub async fn text(admin: &Admin) -> String {
    let scrape = Scrape::take(admin);
    tokio::task::spawn_blocking(move || scrape.text())
        .await
        .unwrap_or_default()
}
