//! The management core: may block, allocate and log; owns the desired state.

pub mod admin;
pub mod director;
pub mod ipvs_netlink;
pub mod journal;
pub mod kernel;
pub mod link;
pub mod mailbox_port;
pub mod metrics;
pub mod punt;
pub mod reload;
pub mod service;
pub mod spread;
pub mod sync;
pub mod twin;
pub mod worker_port;

#[cfg(test)]
mod fake_worker;
#[cfg(test)]
mod namespace;
