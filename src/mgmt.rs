//! The management core: may block, allocate and log; owns the desired state.

pub mod admin;
pub mod director;
pub mod ipvs_netlink;
pub mod journal;
pub mod kernel;
pub mod link;
pub mod lock;
pub mod mac_filters;
pub mod mailbox_handle;
pub mod metrics;
pub mod punt;
pub mod reload;
pub mod rss_check;
pub mod runtime;
pub mod sync;
pub mod twin;
pub mod unix_socket;
pub mod worker_handle;

#[cfg(test)]
mod fake_worker;
#[cfg(test)]
mod namespace;
