//! Headers as they are on the wire. Each file has one header, a typed view of bytes.
//!
//! One checked call makes a view (`ref_from_prefix`, or `check` if more than the length must be verified). After that
//! its fields and accessors cannot fail. Network byte order exists only here.

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod gre;
pub mod gue;
pub mod icmp;
pub mod ipv4;
pub mod ipv4_options;
pub mod ipv6;
pub mod ipv6_options;
pub mod sctp;
pub mod tcp;
pub mod udp;
pub mod vlan;
