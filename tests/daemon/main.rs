//! The real `lvsd`, with `lvsctl` as its operator, in a network namespace of its own for each test.
//!
//! Needs root; works without hugepages and without a NIC. Tests run side by side: names carry the process id
//! and a number.

mod bad_input;
mod capture;
mod changes;
mod clients;
mod exhaustion;
mod frames;
mod idle;
mod metrics;
mod refused_start;
mod rss_check;
#[path = "../process/rude_clients.rs"]
mod rude_clients;
mod stand;
mod sync;
mod system_calls;
mod systemd;
#[path = "../goldens/tools.rs"]
mod tools;
#[path = "../process/traced.rs"]
mod traced;
mod why;
