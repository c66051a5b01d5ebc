//! Headers as they stand on the wire: one header a file, each a typed view of bytes.
//!
//! A view is made by one checked call (`ref_from_prefix`, or `check` where there is more to verify than the
//! length); after that its fields and accessors cannot fail. Network byte order exists only in here.

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod gre;
pub mod gue;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod sctp;
pub mod tcp;
pub mod udp;
pub mod vlan;
