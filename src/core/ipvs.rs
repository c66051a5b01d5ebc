//! NOUNS: what an LVS operator talks about.

pub mod client_address;
pub mod conn;
pub mod desired;
pub mod forwarding;
pub mod load_board;
pub mod local_address;
pub mod mark;
pub mod persistence;
pub mod protocol;
pub mod real_server;
pub(crate) mod rebinder;
pub mod resting_ports;
pub mod scheduler;
pub mod service;
pub mod service_table;
pub mod stats;
pub mod sync;
pub mod sysctl;
pub mod tunnel_kind;
