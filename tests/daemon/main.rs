//! The real `lvsd`, with `lvsctl` as its operator, in a network namespace of its own for each test.
//!
//! Needs root; works without hugepages and without a NIC.

mod bad_input;
mod bulk_sync;
mod capture;
mod changes;
mod clients;
mod exhaustion;
mod frames;
mod full_disk;
mod idle;
mod kept_connections;
mod kept_statistics;
mod kept_twins;
mod metrics;
mod refused_start;
mod rehomed_connections;
mod rss_check;
mod sync;
mod system_calls;
mod systemd;
mod two_lans;
mod why;
