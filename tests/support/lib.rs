//! What the tests and benches of lvsd share. A *testbed* starts a director and holds everything around it:
//!
//! * [`daemon`]: the real `lvsd` in a network namespace of its own;
//! * [`ipvs_server`]: the IPVS socket alone, in a process that a test may kill;
//! * [`workers`]: worker loops of this process on ring devices, and [`lone_worker`]: one that never lacks frames.
//!
//! The testbed of recordings (`tests/goldens/testbed.rs`) stands on [`daemon`] and stays with its only user.
//! Everything goes with the value that made it.

pub mod daemon;
pub mod dpdk;
pub mod http;
pub mod ipvs_server;
pub mod lone_worker;
mod memory_table;
pub mod namespace;
pub mod process;
pub mod scripted_path;
pub mod strace;
pub mod tools;
pub mod waits;
pub mod workers;
