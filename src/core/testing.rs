//! What tests, the offline mode and fuzzing share: a frame in plain memory, packets one can read, pcap files,
//! a checksum oracle and one-line descriptions.
//!
//! Never on a worker's path: all of this allocates.

mod builder;
mod describe;
pub mod director;
pub mod mutate;
pub mod network;
mod oracle;
mod pcap;
mod vec_frame;

pub use builder::{PacketBuilder, icmp4, icmp6, sctp4, sctp6, tcp4, tcp6, udp4, udp6};
pub use describe::describe;
pub use oracle::{checksum_faults, crc32c};
pub use pcap::{Capture, CapturedFrame, PcapError, read_pcap, write_pcap};
pub use vec_frame::{VecFrame, hex};
