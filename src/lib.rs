//! The rooms of the daemon `lvsd`; `main.rs` starts them in order.
//!
//! A library beside the binary so that tests can start each room alone.

pub mod dpdk;
pub mod mgmt;
pub mod worker;
