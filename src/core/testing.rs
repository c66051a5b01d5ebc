//! What tests, benches and fuzz targets share: packets one can read, pcap files, a checksum oracle, one-line
//! descriptions, and a whole director in virtual time. Compiled with the cargo feature `testing` only.
//!
//! Never on a worker's path: all of this allocates.

mod builder;
mod describe;
pub mod director;
mod hex;
pub mod mutate;
pub mod network;
mod oracle;
mod pcap;

pub use builder::{PacketBuilder, icmp4, icmp6, sctp4, sctp6, tcp4, tcp6, udp4, udp6};
pub use describe::describe;
pub use hex::hex;
pub use oracle::{checksum_faults, crc32c};
pub use pcap::{Capture, CapturedFrame, PcapError, read_pcap, write_pcap};

/// The configuration of this crate's property tests. A case that failed is written beside its test, into
/// `<file>.regressions`, and runs first from then on.
#[cfg(test)]
pub(crate) fn properties() -> proptest::prelude::ProptestConfig {
    use proptest::test_runner::FileFailurePersistence;
    proptest::prelude::ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Default::default()
    }
}
